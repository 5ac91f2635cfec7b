"""Pseudo-labelling, a control: the same rounds, with hypotheses as transcripts of the unlabelled speech."""

import argparse
from collections.abc import Callable
from pathlib import Path

from espnet_ext.bilevel.phases import EXPLORE, FINAL, JOINT
from espnet_ext.bilevel.rounds import Rounds
from espnet_ext.data.lengths import ctc_frames_needed, encoder_frames, stft_frames
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write_text, read_lines
from espnet_ext.ssl.method import UNLABELLED_KEY
from espnet_ext.train.data import read_shapes
from espnet_ext.train.method import Loss, MicroBatch, Part, Turn


class PseudoLabelMethod(Rounds):
    """Supervised training on transcripts and on hypotheses, batch for batch as in `BilevelMethod`.

    An exploration step trains the whole recogniser on hypotheses, a joint step on both with γ as the weight
    of the hypotheses (constant γ = 1 is plain pseudo-labelling); one optimiser for both, as for one data set.
    """

    def turns_by_kind(self) -> dict[str, tuple[Turn, ...]]:
        supervised = self.supervised()
        explore = Part("unlabelled", self.hypotheses_part, UNLABELLED_KEY)
        joint = Part("unlabelled", self.weighted_part, UNLABELLED_KEY)
        return {
            EXPLORE: (Turn(EXPLORE, (explore,), ("upper",)),),
            JOINT: (Turn(JOINT, (supervised, joint), ("upper",)),),
            FINAL: (Turn(FINAL, (supervised,), ("final",)),),
        }

    def hypotheses_part(self, micro: MicroBatch) -> Loss:
        """The control's loss, its figures under names of their own."""
        loss = self.control_part().loss(micro)
        return Loss(loss.loss, {f"pseudo_{name}": pair for name, pair in loss.figures.items()})

    def weighted_part(self, micro: MicroBatch) -> Loss:
        """The same times γ."""
        loss = self.hypotheses_part(micro)
        loss.loss = self.gamma * loss.loss
        return loss


def write_pseudo_set(
    data_dir: Path,
    stats_dir: Path,
    hypotheses: Path,
    out_dir: Path,
    tokenise: Callable[[str], list[int]],
    frames: Callable[[int], int],
) -> dict[str, int]:
    """Give unlabelled speech its hypotheses as transcripts.

    Args:
        data_dir: dumped unlabelled set; its audio is used where it is.
        stats_dir: its lengths.
        hypotheses: `<utterance> <words>` lines, as decoding writes them.
        out_dir: `dump/` and `stats/` are written there.
        tokenise: words → labels.
        frames: an utterance's length → its encoder frames.

    Returns:
        counts: `kept`; `empty`, utterances left out because nothing was recognised; `long`, those whose
            hypothesis has more labels than CTC can align (a decoder that repeated itself).

    Raises:
        UserError: no hypothesis for an utterance, or none that can be used.
    """
    texts = {}
    for _, line in read_lines(hypotheses):
        utterance, _, words = line.strip().partition(" ")
        texts[utterance] = words.strip()
    lengths = read_shapes(stats_dir / "speech_shape")
    missing = [utterance for utterance in lengths if utterance not in texts]
    if missing:
        raise UserError(
            f"{hypotheses}: no hypothesis for {len(missing)} of {len(lengths)} utterances of {data_dir}, the "
            f"first is {missing[0]!r}; decode the whole set"
        )
    words = {utterance: texts[utterance] for utterance in lengths if texts[utterance]}
    labels = {utterance: tokenise(text) for utterance, text in words.items()}
    kept = {
        utterance: text
        for utterance, text in words.items()
        if ctc_frames_needed(labels[utterance]) <= frames(lengths[utterance])
    }
    if not kept:
        raise UserError(
            f"{hypotheses}: every hypothesis is empty or too long for its audio; the model that made them is "
            "no use yet"
        )
    audio = "wav.scp" if (data_dir / "wav.scp").exists() else "feats.scp"
    rows = [line for _, line in read_lines(data_dir / audio) if line.split(maxsplit=1)[0] in kept]
    atomic_write_text(out_dir / "dump" / audio, "".join(f"{row}\n" for row in rows))
    for name, values in (
        ("dump/text", kept),
        ("stats/text_shape", {utterance: len(labels[utterance]) for utterance in kept}),
        ("stats/speech_shape", {utterance: lengths[utterance] for utterance in kept}),
    ):
        atomic_write_text(out_dir / name, "".join(f"{key} {value}\n" for key, value in values.items()))
    return {"kept": len(kept), "empty": len(lengths) - len(words), "long": len(words) - len(kept)}


def tokeniser(task: type, args: argparse.Namespace) -> Callable[[str], list[int]]:
    """Words → labels, as the task's own preprocessor makes them."""
    preprocess = task.build_preprocess_fn(args, False)
    return lambda words: preprocess("hypothesis", {"text": words})["text"].tolist()


def frame_counter(args: argparse.Namespace) -> Callable[[int], int]:
    """Length of speech → encoder frames, as stage 5 counts them for transcripts.

    A transducer aligns whatever the encoder makes: of its hypotheses those are too long that have more labels
    than feature frames.
    """
    layer = "linear" if "body_conf" in args.encoder_conf else args.encoder_conf.get("input_layer", "conv2d")
    if args.input_size is not None:
        return lambda length: encoder_frames(length, layer)
    n_fft, hop = (int(args.frontend_conf.get(*pair)) for pair in (("n_fft", 512), ("hop_length", 128)))
    return lambda length: encoder_frames(stft_frames(length, n_fft, hop), layer)
