"""Teachers that hear each batch, without a store."""

import pytest
import torch

from espnet_ext.distillation.combine import Combiner
from espnet_ext.distillation.encoder_task import EncoderTask
from espnet_ext.distillation.frames import reduce_rate
from espnet_ext.distillation.options import RULES
from espnet_ext.distillation.targets import LiveTargets
from espnet_ext.errors import UserError
from espnet_ext.train.world import World
from tests.distillation.conftest import NoiseTeacher
from tests.distillation.stage1_toy import Uneven, build, micro_of, summaries


@pytest.mark.parametrize("rule", RULES)
def test_only_common_frames_of_live_teachers(toy, rule):
    """Y7: the same where teachers hear the batch, whether or not one was drawn."""
    method, streams, _ = build(toy, toy.dump(one=NoiseTeacher(6, 1)), {"teachers": {"one": 1}})
    teachers = {"one": Uneven(6, 1), "two": Uneven(6, 2)}
    teachers["two"].extra = -3
    combiner = Combiner(rule, {"one": 0.5, "two": 0.5}, summaries({"one": 6, "two": 6}))
    each = dict.fromkeys(teachers, 2), dict.fromkeys(teachers, "mean")
    live, data = LiveTargets(teachers, *each, combiner, 16000), streams["labelled"].data
    live.attach(data, str(toy.data))
    names = sorted(data.lengths)[:6]
    assert {each for name in names for each in combiner.chosen(0, name)} == set(teachers)
    expected = [(len(toy.audio[name]) - 400) // 320 + 1 - 6 >> 1 for name in names]
    for found in live.batch(next(data.batches([tuple(names)], 0))).values():
        assert found.lengths.tolist() == expected


def test_live_teachers_are_the_stored_ones(toy, recogniser):
    """Without a store: the same targets, up to what fp16 and the sample for the statistics leave."""
    from espnet_ext.distillation.teachers import load_teacher

    place = recogniser()
    targets = toy.dump(one=load_teacher(str(place)))
    conf = {"teachers": {"one": 1.0}, "statistics_utterances": 12}
    stored, streams, _ = build(toy, targets, conf)
    expected = stored.targets.batch(micro_of(stored, streams).batch)["one"]
    world = World()
    args = toy.args(EncoderTask, "--live_teacher", f"one={place}", distillation_conf=conf)
    model = EncoderTask.build_model(args)
    live_streams = EncoderTask.build_streams(args, world)
    live = EncoderTask.build_method(args, model, live_streams)
    found = live.targets.batch(micro_of(live, live_streams).batch)["one"]
    assert torch.equal(found.lengths, expected.lengths)
    for row, length in enumerate(found.lengths.tolist()):
        difference = (found.values[row, :length] - expected.values[row, :length]).abs().max()
        assert difference < 0.02 * expected.values[row, :length].abs().max()
    assert live_streams["labelled"].target_frames == streams["labelled"].target_frames


def test_a_live_teacher_whose_weights_are_damaged(toy, recogniser):
    """Its embeddings would make every step one that is skipped."""
    place = recogniser()
    state = torch.load(place / "model.pth", weights_only=True)
    state["encoder.after_norm.weight"][0] = float("nan")
    torch.save(state, place / "model.pth")
    args = toy.args(EncoderTask, "--live_teacher", f"x={place}", distillation_conf={"teachers": {"x": 1}})
    with pytest.raises(UserError, match="teacher x: an embedding holds nan or infinity"):
        EncoderTask.build_streams(args, World())
    assert not (toy.folder / "args" / "teacher_summaries.npz").exists()


def test_draws_of_live_teachers_go_by_the_pass(toy):
    """`random`: each time an utterance is read, the draw is that of the pass, as for stored targets."""
    _, streams, _ = build(toy, toy.dump(one=NoiseTeacher(6, 1)), {"teachers": {"one": 1}})
    teachers = {"one": NoiseTeacher(6, 1), "two": NoiseTeacher(6, 2)}
    combiner = Combiner("random", {"one": 0.5, "two": 0.5}, summaries({"one": 6, "two": 6}))
    each = dict.fromkeys(teachers, 2), dict.fromkeys(teachers, "mean")
    live, data = LiveTargets(teachers, *each, combiner, 16000), streams["labelled"].data
    live.attach(data, str(toy.data))
    drawn = set()
    for passes in range(8):
        batch = next(data.batches([("u03",)], 0, passes=passes))
        (found,) = live.batch(batch).values()
        (name,) = combiner.chosen(passes, "u03")
        frames = reduce_rate(teachers[name].embed([toy.audio["u03"]])[0], 2, "mean")
        expected = combiner({name: frames})["all"]
        torch.testing.assert_close(found.values[0], expected, rtol=1e-2, atol=1e-2)  # audio of 16 bits
        drawn.add(name)
    assert drawn == {"one", "two"}
