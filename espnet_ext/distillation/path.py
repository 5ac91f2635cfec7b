"""Distillation along one alignment of a transducer teacher (Yang, Li, Woodland 2022, arXiv 2110.03334).

    L = -(1/N) Σ over utterances, nodes (t, u) of the path, tokens k: P_teacher(k|t,u) log P_student(k|t,u)

The path only ever takes a blank or the transcript's next label, so that student and teacher have the same
history at every node. It begins at (0, 0), no blank leaves the last frame before the last label is out, and
its last arc is the blank at (T - 1, U): T + U nodes.

Legend: B batch, T frames, U labels, V tokens, D features.
"""

from dataclasses import dataclass

import torch
from espnet2.asr_transducer.joint_network import JointNetwork

from espnet_ext.asr.lattice import best_path
from espnet_ext.asr.transducer import TransducerModel, TransducerOutput
from espnet_ext.asr.transducer_loss import JointNodes


@dataclass(frozen=True)
class PathNodes:
    """The nodes of one path an utterance, in order."""

    frame: torch.Tensor  # (B, T + U)
    label: torch.Tensor  # (B, T + U) labels that are out
    there: torch.Tensor  # (B, T + U) whether the utterance has that many nodes


@torch.no_grad()
def greedy_emissions(joint: JointNetwork, output: TransducerOutput) -> torch.Tensor:
    """Frames at which the greedy walk emits each label.

    At every node the likelier of blank and next label is taken; where only one is possible, that one.

    Returns:
        (B, U), not decreasing; 0 beyond an utterance's labels.
    """
    from_encoder, from_predictor = joint.lin_enc(output.encoder_out), joint.lin_dec(output.predictor_out)
    rows = torch.arange(len(from_encoder), device=from_encoder.device)
    frames, labels = output.encoder_out_lens.long(), output.target_lens.long()
    size = from_predictor.size(1) - 1
    targets = torch.nn.functional.pad(output.targets[:, :size].long(), (0, 1))  # (B, U + 1)
    emissions = torch.zeros(len(rows), size + 1, dtype=torch.long, device=rows.device)
    t, u = torch.zeros_like(rows), torch.zeros_like(rows)
    for _ in range(int((frames + labels).max()) - 1):
        hidden = joint.joint_activation(from_encoder[rows, t] + from_predictor[rows, u])
        scores = joint.lin_out(hidden)  # (B, V)
        next_label = scores.gather(1, targets[rows, u][:, None])[:, 0]
        emit = (u < labels) & ((t == frames - 1) | (next_label > scores[:, 0]))
        # What does not emit writes to the last column, which nobody reads.
        emissions[rows, torch.where(emit, u, size)] = t
        u = u + emit.long()
        t = torch.where(emit, t, torch.minimum(t + 1, frames - 1))
    return emissions[:, :-1]


@torch.no_grad()
def best_emissions(model: TransducerModel, output: TransducerOutput) -> torch.Tensor:
    """As `greedy_emissions`, of the alignment with the largest probability."""
    found = torch.zeros_like(output.targets, dtype=torch.long)

    def collect(nodes: JointNodes) -> torch.Tensor:
        path = best_path(*nodes.arcs(), nodes.frames, nodes.labels)
        found[nodes.rows, : path.size(1)] = path
        return 0.0 * nodes.hidden.sum()

    model.lattice_loss(output, collect)
    return found


def path_nodes(emissions: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor) -> PathNodes:
    """Nodes that a path visits.

    Args:
        emissions: (B, U) frame at which each label is emitted.
        frames, labels: (B,) true numbers of frames and labels.
    """
    device = emissions.device
    size = int((frames + labels).max())
    u = torch.arange(emissions.size(1), device=device)
    known = u < labels[:, None]  # (B, U)
    # Label u + 1 is emitted at node (e, u), after e blanks and u labels: it is node number e + u.
    number = torch.where(known, emissions + u, size)
    emits = torch.zeros(len(emissions), size + 1, dtype=torch.bool, device=device)
    emits.scatter_(1, number, True)
    emits = emits[:, :-1]
    before = emits.long().cumsum(1) - emits.long()  # (B, T + U) labels that are out at each node
    node = torch.arange(size, device=device)
    there = node < (frames + labels)[:, None]
    return PathNodes((node - before).masked_fill(~there, 0), before.masked_fill(~there, 0), there)


def node_scores(
    joint: JointNetwork, encoder_out: torch.Tensor, predictor_out: torch.Tensor, nodes: PathNodes
) -> torch.Tensor:
    """(B, T + U, V) the joint network's scores at the nodes of a path, at least fp32."""
    rows = torch.arange(len(encoder_out), device=encoder_out.device)[:, None]
    hidden = joint.joint_activation(
        joint.lin_enc(encoder_out)[rows, nodes.frame] + joint.lin_dec(predictor_out)[rows, nodes.label]
    )
    scores = joint.lin_out(hidden)
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def shifted(nodes: PathNodes, shift: int, frames: torch.Tensor) -> PathNodes:
    """The student's nodes: ``shift`` frames later, since it hears less of the future; beyond its end none.

    Args:
        frames: (B,) of the student.
    """
    frame = nodes.frame + shift
    there = nodes.there & (frame < frames[:, None])
    return PathNodes(frame.masked_fill(~there, 0), nodes.label, there)


def path_divergence(
    student: torch.Tensor, teacher: torch.Tensor, there: torch.Tensor, temperature: float, per_node: bool
) -> torch.Tensor:
    """(B,) cross-entropy of the teacher's and the student's posteriors, summed over an utterance's nodes.

    Args:
        student, teacher: (B, T + U, V) scores at paired nodes; none of the teacher's has gradient.
        there: (B, T + U) nodes that both have.
        temperature: of both.
        per_node: divide by the number of the utterance's nodes.
    """
    wanted = (teacher.detach() / temperature).softmax(-1)
    cross = -(wanted * (student / temperature).log_softmax(-1)).sum(-1) * there  # (B, T + U)
    total = cross.sum(1)
    return total / there.sum(1).clamp_min(1) if per_node else total
