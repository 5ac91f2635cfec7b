"""The arithmetic of lengths against the modules it describes."""

import pytest

from espnet_ext.data import lengths
from espnet_ext.errors import UserError


@pytest.mark.parametrize("n_fft, hop, center", [(512, 128, True), (512, 160, True), (400, 160, False)])
def test_stft_frames(n_fft, hop, center):
    torch = pytest.importorskip("torch")
    for samples in (n_fft, n_fft + 1, 1000, 1279, 1280, 1281, 16000):
        out = torch.stft(
            torch.zeros(samples), n_fft, hop, center=center, return_complex=True, window=torch.ones(n_fft)
        )
        assert lengths.stft_frames(samples, n_fft, hop, center) == out.shape[1]


@pytest.mark.parametrize("name", [name for name in lengths.SUBSAMPLING if name != "linear"])
def test_encoder_frames(name):
    torch = pytest.importorskip("torch")
    from espnet.nets.pytorch_backend.transformer import subsampling

    module = getattr(subsampling, f"Conv{name[4:6]}Subsampling{name[6:]}")(80, 4, 0.0)
    for frames in (*range(17, 60), 127):
        with torch.no_grad():
            out, _ = module(torch.zeros(1, frames, 80), None)
        assert lengths.encoder_frames(frames, name) == out.shape[1], frames


def test_conv2d_formula_and_short_input():
    for frames in range(100):
        assert lengths.encoder_frames(frames) == max(0, ((frames - 1) // 2 - 1) // 2)
        assert lengths.encoder_frames(frames, "linear") == frames
    with pytest.raises(UserError, match="input_layer 'vgg' is none of conv1d1"):
        lengths.encoder_frames(10, "vgg")


def test_ctc_frames_needed_is_what_ctc_needs():
    torch = pytest.importorskip("torch")
    for tokens in ([1], [1, 2], [1, 1], [1, 1, 1, 2, 2], [3, 1, 3]):
        least = next(
            frames
            for frames in range(1, 20)
            if torch.nn.functional.ctc_loss(
                torch.zeros(frames, 1, 4).log_softmax(-1), torch.tensor([tokens]), (frames,), (len(tokens),)
            ).isfinite()
        )
        assert lengths.ctc_frames_needed(tokens) == least
    assert lengths.ctc_frames_needed([]) == 0
