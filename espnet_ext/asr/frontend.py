"""Log-mel features of an utterance that do not depend on the batch it stands in.

Legend: B batch, N samples, T frames, F frequency bins.
"""

import torch
from espnet2.asr.frontend.default import DefaultFrontend
from torch_complex.tensor import ComplexTensor

from espnet_ext.errors import UserError


class ExactFrontend(DefaultFrontend):
    """ESPnet's log-mel front end with the centred STFT's reflection at every utterance's own end.

    ESPnet reflects at the end of the padded batch, so the last two frames of a shorter utterance hear zeros
    instead of its own reflection. For an utterance alone both are the same.
    """

    def _compute_stft(self, input: torch.Tensor, input_lengths: torch.Tensor):
        """Short-time spectrum of each utterance, reflected at its own borders.

        Args:
            input: (B, N) samples, padded at the end with anything.
            input_lengths: (B,) true numbers of samples.

        Returns:
            ComplexTensor (B, T, F) and the true numbers of frames (B,).

        Raises:
            UserError: several channels, or an utterance too short to be reflected.
        """
        if input.dim() != 2:
            raise UserError(
                f"audio of shape {tuple(input.shape)}: expected one channel; stage 3 (features) downmixes"
            )
        stft = self.stft
        if not stft.center:
            return super()._compute_stft(input, input_lengths)
        margin = stft.n_fft // 2
        if int(input_lengths.min()) <= margin:
            raise UserError(
                f"an utterance of {int(input_lengths.min())} samples is too short for a window of "
                f"{stft.n_fft}; raise --min_wav_duration (stage 3)"
            )
        # Reflection at sample 0 and, for each utterance, at its own last sample; what lies beyond is unused.
        padded = torch.nn.functional.pad(input, (margin, margin))  # (B, N + 2 margin)
        padded[:, :margin] = input[:, 1 : margin + 1].flip(1)
        ends = input_lengths.to(input.device)[:, None]  # (B, 1)
        beyond = torch.arange(margin, device=input.device)  # (margin,)
        padded.scatter_(1, ends + margin + beyond, input.gather(1, ends - 2 - beyond))
        window = getattr(torch, f"{stft.window}_window")(
            stft.win_length, dtype=input.dtype, device=input.device
        )
        spectrum = torch.stft(
            padded.float(),
            n_fft=stft.n_fft,
            hop_length=stft.hop_length,
            win_length=stft.win_length,
            window=window,
            center=False,
            normalized=stft.normalized,
            onesided=stft.onesided,
            return_complex=True,
        ).transpose(1, 2)  # (B, T, F)
        frames = (
            torch.div(input_lengths + 2 * margin - stft.n_fft, stft.hop_length, rounding_mode="trunc") + 1
        )
        spectrum = spectrum[:, : int(frames.max())]
        return ComplexTensor(spectrum.real.to(input.dtype), spectrum.imag.to(input.dtype)), frames
