"""K recognisers in one training: each learns from the transcript and from what its peers believe.

Legend: B batch, U labels with <eos>, T encoder frames, V tokens.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from espnet_ext.asr.model import ASRModel, ASROutput
from espnet_ext.asr.sampled import sampled_outputs
from espnet_ext.asr.scheduled_sampling import reading
from espnet_ext.errors import UserError
from espnet_ext.mutual_learning.losses import mixed, mutual_sum, posteriors
from espnet_ext.mutual_learning.options import MutualOptions
from espnet_ext.train.keys import key
from espnet_ext.train.method import Figures, Loss, Method, MicroBatch, NBest, Part, Position, Turn, Updater


@dataclass
class Peer:
    """One of the recognisers. Without an updater it is frozen: a teacher in the classical sense."""

    name: str
    model: ASRModel
    seed: int
    updater: Updater | None


@dataclass
class _Belief:
    """What a peer says about a micro-batch."""

    output: ASROutput
    labels: torch.Tensor | None  # (B, U, V) posteriors of the attention branch, detached
    ctc_scores: torch.Tensor | None  # (B, T, V), where CTC takes part
    frames: torch.Tensor | None  # (B, T, V) posteriors of CTC, detached


class MutualMethod(Method):
    """Mutual learning of K peers (Masumura et al. 2021; the loss is `losses.mixed` for each branch).

    All peers compute on the same micro-batches, with dropout and masks as a training of their own with their
    seed would draw them. In one turn every peer is updated from the posteriors that all had before it
    (`sequential`: one turn a peer, which sees the peers before it updated, as in Zhang et al. 2018).

    Args:
        peers: two or more, at least one of them trained. Modules, updaters and folders have their names.
        options: see there.
        criteria: the training's (split, figure, min or max), applied to each peer's own figures.
        seed: the training's.
        loss_norm: `utterance` or `token`, for the hard and the mutual term alike.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        options: MutualOptions,
        criteria: Sequence[tuple[str, str, str]] = (("valid", "acc", "max"),),
        seed: int = 0,
        loss_norm: str = "utterance",
    ):
        self.peers, self.options, self.criteria = list(peers), options, tuple(criteria)
        self.seed, self.loss_norm = seed, loss_norm
        self.trained = [peer for peer in self.peers if peer.updater is not None]
        # By seed, so that it does not matter in which order the options list them.
        self.sources = sorted(self.trained, key=lambda peer: (peer.seed, peer.name))
        # Teachers come from their files whenever a training starts, so that checkpoints need not hold them.
        super().__init__(
            {peer.name: peer.model for peer in self.trained},
            {peer.name: peer.updater for peer in self.trained},
        )
        self.teachers = {}
        for peer in self.peers:
            if peer.updater is None:
                peer.model.eval().requires_grad_(False)
                self.teachers[peer.name] = _fingerprint(peer.model)

    # What the loop asks for.

    def turns(self, position: Position) -> Sequence[Turn]:
        if not self.options.sequential:
            return (self._turn("peers", self.trained, position),)
        return tuple(self._turn(peer.name, [peer], position) for peer in self.trained)

    def _turn(self, name: str, learners: list[Peer], position: Position) -> Turn:
        part = Part("labelled", partial(self.mutual_part, position, learners))
        return Turn(name, (part,), tuple(peer.name for peer in learners))

    def nbest(self) -> dict[str, NBest]:
        return {
            peer.name: NBest(peer.name, tuple((s, f"{f}_{peer.name}", m) for s, f, m in self.criteria))
            for peer in self.trained
        }

    def after_step(self, position: Position) -> Figures:
        figures: Figures = {"mutual_weight": (self.options.weight(position.step), 1.0)}
        if self.options.sampling is not None:
            figures["sampling"] = (self.options.sampling.probability(position.step), 1.0)
        return figures

    def state(self) -> dict:
        return {"teachers": dict(self.teachers)}

    def load_state(self, state: dict) -> None:
        for name, fingerprint in state.get("teachers", {}).items():
            if self.teachers.get(name, fingerprint) != fingerprint:
                raise UserError(
                    f"{name}: the teacher's parameters are not those that this training began with; put its "
                    "checkpoint back, or train anew (--resume false)"
                )

    def summary(self) -> dict:
        about = {
            peer.name: {
                "parameters": sum(p.numel() for p in peer.model.parameters()),
                "seed": peer.seed,
                "frozen": peer.updater is None,
            }
            for peer in self.peers
        }
        return {"peers": about}

    # Training.

    def mutual_part(self, position: Position, learners: Sequence[Peer], micro: MicroBatch) -> Loss:
        """Sum of the learners' losses; the gradient of each comes from its own loss alone."""
        beliefs = self._beliefs(position, learners, micro)
        weight = self.options.weight(position.step)
        total: torch.Tensor | float = 0.0
        figures: Figures = {}
        for peer in learners:
            others = [belief for name, belief in beliefs.items() if name != peer.name]
            loss, mutual = self._loss(peer, beliefs[peer.name], others, weight, micro)
            total = total + loss
            figures |= mutual | self._figures(peer, beliefs[peer.name].output, loss, micro)
        return Loss(total, figures)

    def _beliefs(self, position: Position, learners: Sequence[Peer], micro: MicroBatch) -> dict[str, _Belief]:
        """Forward passes of all peers, by name, in the peers' order."""
        sampling = self.options.sampling
        shared = sampling is not None and sampling.history == "shared"
        source = self.sources[position.step % len(self.sources)] if shared else None
        history: list[torch.Tensor] = []
        found = {}
        # The source goes first, for the others read what it wrote. Random numbers belong to a peer's seed, so
        # that the order changes nothing else.
        for peer in sorted(self.peers, key=lambda each: each is not source):
            own = self._own(peer, position, micro)
            own.seed("model")
            with torch.set_grad_enabled(any(peer is each for each in learners)):
                if history:
                    with reading(peer.model.decoder, lambda *_: history[0]):
                        output = peer.model.outputs(**own.batch.tensors, keys=own.keys)
                elif sampling is None or peer.updater is None:
                    # Without a history of its own a teacher reads the transcript.
                    output = peer.model.outputs(**own.batch.tensors, keys=own.keys)
                else:
                    keys = self._own_keys(peer, position, micro)
                    keep = history.append if shared else None
                    output = sampled_outputs(peer.model, own, keys, sampling, position.step, keep)
                found[peer.name] = self._belief(peer, output)
        return {peer.name: found[peer.name] for peer in self.peers}

    def _own(self, peer: Peer, position: Position, micro: MicroBatch) -> MicroBatch:
        """The micro-batch with the random numbers that a training with the peer's seed would draw."""
        keys = micro.keys
        if not self.options.shared_masks:
            # A teacher hears all there is to hear.
            keys = self._own_keys(peer, position, micro) if peer.updater is not None else None
        return dataclasses.replace(micro, keys=keys, seeds=(peer.seed, *micro.seeds[1:]))

    def _own_keys(self, peer: Peer, position: Position, micro: MicroBatch) -> list[int]:
        if peer.seed == self.seed:
            return micro.keys
        # As the stream makes them; an epoch is a pass over the labelled speech.
        return [key(peer.seed, "augment", position.epoch, name) for name in micro.batch.utterances]

    def _belief(self, peer: Peer, output: ASROutput) -> _Belief:
        temperature = self.options.temperature
        labels = ctc_scores = frames = None
        if output.decoder_out is not None:
            labels = posteriors(output.decoder_out, temperature)
        if self.options.ctc and output.ctc_sum is not None:
            ctc_scores = peer.model.ctc.ctc_lo(output.encoder_out).float()
            frames = posteriors(ctc_scores, temperature)
        return _Belief(output, labels, ctc_scores, frames)

    def _loss(
        self, peer: Peer, own: _Belief, others: Sequence[_Belief], weight: float, micro: MicroBatch
    ) -> tuple[torch.Tensor, Figures]:
        """The peer's loss, and the raw sums of its mutual terms."""
        options, output = self.options, own.output
        mutual: dict[str, torch.Tensor] = {}
        changes = {}
        if output.decoder_out is not None:
            targets = [other.labels for other in others if other.labels is not None]
            if targets:
                keep = output.targets != peer.model.ignore_id
                mutual["att"] = mutual_sum(
                    output.decoder_out, targets, keep, options.temperature, options.form
                )
            changes["att_sum"] = mixed(output.att_sum, mutual.get("att"), weight, options.full_hard)
        if own.ctc_scores is not None:
            targets = [other.frames for other in others if other.frames is not None]
            if targets:
                frame = torch.arange(own.ctc_scores.size(1), device=own.ctc_scores.device)
                keep = frame < output.encoder_out_lens[:, None]
                mutual["ctc"] = mutual_sum(own.ctc_scores, targets, keep, options.temperature, options.form)
            changes["ctc_sum"] = mixed(output.ctc_sum, mutual.get("ctc"), weight, options.full_hard)
        both = dataclasses.replace(output, **changes)
        count = len(micro.batch.utterances)
        figures: Figures = {
            f"loss_{branch}_mutual_{peer.name}": (total.detach(), count) for branch, total in mutual.items()
        }
        return self._joint(peer, both, micro), figures

    def _joint(self, peer: Peer, output: ASROutput, micro: MicroBatch) -> torch.Tensor:
        labels = micro.totals.labels if self.loss_norm == "token" else None
        return peer.model.joint_loss(output, micro.totals.utterances, labels)

    def _figures(self, peer: Peer, output: ASROutput, loss: torch.Tensor, micro: MicroBatch) -> Figures:
        """The peer's losses per utterance (`loss` per label with `loss_norm: token`) and its accuracy."""
        count, name = len(micro.batch.utterances), peer.name
        by_label = self.loss_norm == "token"
        scale = micro.totals.labels if by_label else micro.totals.utterances
        weight = int(micro.batch.tensors["text_lengths"].sum()) + count if by_label else count
        figures: Figures = {f"loss_{name}": (loss.detach() * scale, weight)}
        if output.ctc_sum is not None:
            figures[f"loss_ctc_{name}"] = (output.ctc_sum.detach(), count)
        if output.att_sum is not None:
            figures[f"loss_att_{name}"] = (output.att_sum.detach(), count)
            figures[f"acc_{name}"] = (output.correct, output.labels)
        return figures

    # Validation.

    def train(self, mode: bool = True) -> None:
        for peer in self.trained:
            peer.model.train(mode)

    def validate(self, micro: MicroBatch) -> Figures:
        """Each peer's hard loss, accuracy and mean largest posterior; the peers' mean and their ensemble.

        `acc` is the mean of the trained peers' accuracies, `acc_ensemble` that of their mean posterior, `kl`
        the mean divergence of two peers per label, `agreement` the part of the labels at which all say the
        same.
        """
        figures: Figures = {}
        labels = []
        for peer in self.trained:
            output = peer.model.outputs(**micro.batch.tensors)
            figures |= self._figures(peer, output, self._joint(peer, output, micro), micro)
            if output.decoder_out is not None:
                keep = output.targets != peer.model.ignore_id  # (B, U)
                labels.append(posteriors(output.decoder_out)[keep])  # (labels, V)
                right = output.targets[keep]
                figures[f"max_posterior_{peer.name}"] = (labels[-1].amax(-1).sum(), len(right))
        for name in ("loss", "acc"):
            each = [
                figures[f"{name}_{peer.name}"] for peer in self.trained if f"{name}_{peer.name}" in figures
            ]
            if each:
                figures[name] = (sum(total for total, _ in each), sum(weight for _, weight in each))
        if len(labels) > 1:
            best = torch.stack(labels).mean(0).argmax(-1)
            figures["acc_ensemble"] = ((best == right).sum(), len(right))
            figures["kl"] = _mean_divergence(labels)
            said = torch.stack([each.argmax(-1) for each in labels])  # (K, labels)
            figures["agreement"] = ((said == said[0]).all(0).sum(), len(right))
        return figures


def _mean_divergence(posterior: Sequence[torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Sum over labels of the mean divergence of two of several posteriors (labels, V), and their number."""
    total, pairs = 0.0, 0
    tiny = torch.finfo(
        posterior[0].dtype
    ).tiny  # a posterior may be rounded to 0, of which there is no logarithm
    for one in posterior:
        for other in posterior:
            if other is not one:
                total = (
                    total
                    + (torch.special.xlogy(one, one) - torch.special.xlogy(one, other.clamp_min(tiny))).sum()
                )
                pairs += 1
    return total / pairs, float(len(posterior[0]))


def _fingerprint(model: torch.nn.Module) -> str:
    """Checksum of a model's parameters and buffers."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
