"""What can be told of the peers once they are built: whether they can learn from each other."""

import itertools
from collections.abc import Sequence

import torch

from espnet_ext.asr.model import ASRModel
from espnet_ext.asr.sampled import check_decoder
from espnet_ext.errors import UserError
from espnet_ext.mutual_learning.method import Peer
from espnet_ext.mutual_learning.options import MutualOptions
from espnet_ext.mutual_learning.peers import UPDATE_OPTIONS, PeerOptions


def check_models(models: list[ASRModel], options: MutualOptions, input_size: int | None = None) -> None:
    """Refuse models that cannot learn from each other.

    Args:
        models: of the peers, in their order.
        options: what they are to do.
        input_size: stored features a frame; None where they read audio.

    Raises:
        UserError: other numbers of tokens; a branch that not all have; a decoder without two passes; CTC
            frames that stand for other times.
    """
    for number, model in enumerate(models, 1):
        if model.vocab_size != models[0].vocab_size:
            raise UserError(
                f"peer{number} has {model.vocab_size} tokens, peer1 {models[0].vocab_size}; they share them"
            )
        if len(models) > 1 and (model.decoder is None or model.ctc_weight == 1.0) and not options.ctc:
            raise UserError(
                f"peer{number} has no attention branch, on which peers meet; lower ctc_weight, or let CTC "
                "take part (mutual_learning_conf: ctc: true)"
            )
        if options.ctc and model.ctc is None:
            raise UserError(
                f"mutual_learning_conf: ctc: true, and peer{number} has none (its ctc_weight is 0)"
            )
        if options.sampling is not None:
            check_decoder(model, f"peer{number}")
    if options.ctc:
        frames = [_frames(model, input_size) for model in models]
        if any(each != frames[0] for each in frames):
            raise UserError(
                "mutual_learning_conf: ctc: true compares CTC frame by frame, and the peers make "
                f"{' and '.join(map(str, frames))} frames of the same speech; give them the same hop_length "
                "and input_layer, or set ctc: false"
            )


@torch.no_grad()
def _frames(model: ASRModel, input_size: int | None) -> list[int]:
    """Encoder frames of two lengths of speech, samples or stored features."""
    model.eval()
    lengths = torch.tensor([16000, 40001] if input_size is None else [100, 251])
    speech = torch.randn(2, int(lengths.max()), *([] if input_size is None else [input_size]))
    device = next(model.parameters()).device
    return model.encode_keyed(speech.to(device), lengths.to(device), None)[1].tolist()


def refuse_lasting_copies(
    peers: Sequence[Peer], given: Sequence[PeerOptions], options: MutualOptions
) -> None:
    """Refuse peers that start equal, from one checkpoint, and that nothing random would part.

    Seeds of their own do not help where no random number is drawn: without dropout and masks all would
    remain copies, and the mutual term would teach nothing.

    Raises:
        UserError: naming two such peers.
    """
    own_history = options.sampling is not None and options.sampling.history == "own"
    for (one, mine), (other, theirs) in itertools.combinations(zip(peers, given, strict=True), 2):
        if mine.frozen or theirs.frozen or own_history:
            continue
        if any(vars(mine.args)[option] != vars(theirs.args)[option] for option in UPDATE_OPTIONS):
            continue
        masked = one.model.keyed_specaug is not None and not options.shared_masks
        if not masked and not _draws(one.model) and _equal(one.model, other.model):
            raise UserError(
                f"--peers: {one.name} and {other.name} start equal, and neither dropout nor masks of "
                "their own part them: they would remain copies and learn nothing from each other; use "
                "dropout or masks: independent, or start one of them anew (init_param: [])"
            )


def _draws(model: ASRModel) -> bool:
    """Whether a forward pass in training mode draws random numbers."""
    rates = ("dropout_rate", "stochastic_depth_rate")
    return any(
        (isinstance(module, torch.nn.Dropout) and module.p > 0)
        or any(isinstance(rate := getattr(module, name, None), float) and rate > 0 for name in rates)
        for module in model.modules()
    )


def _equal(one: ASRModel, other: ASRModel) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
