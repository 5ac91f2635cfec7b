"""One turn: gradients that add up, retries for want of memory, skips, and parameters that must not move."""

import pytest
import torch

from espnet_ext.errors import UserError
from espnet_ext.train.buffers import RunningStatistics
from espnet_ext.train.data import Batch
from espnet_ext.train.memory import find_micro_batch
from espnet_ext.train.method import Loss, Method, Part, Position, Totals, Turn, Updater
from espnet_ext.train.precision import check_precision, full_precision
from espnet_ext.train.runner import StepRunner
from espnet_ext.train.streams import StreamStep
from espnet_ext.train.world import World

HERE = Position(1, 0, 0)


class FakeStream:
    """Vectors instead of speech; as much of a stream as a runner reads."""

    frames_per_step, frames_per_micro_batch, seed = 8, 0, 3

    def __init__(self, vectors: torch.Tensor):
        self.vectors = vectors
        self.data = self

    def augment_keys(self, batch, passes):
        return [int(name) for name in batch.utterances]

    def batch(self, rows) -> Batch:
        return Batch([str(row) for row in rows], {"x": self.vectors[list(rows)]})

    def step(self, *micro_batches) -> StreamStep:
        rows = [row for each in micro_batches for row in each]
        numbered = [(number, self.batch(each)) for number, each in enumerate(micro_batches)]
        return StreamStep(Totals(len(rows), 0, len(rows)), numbered, [str(row) for row in rows], 1, 0)

    def largest(self, budget):
        return [tuple(range(budget))]

    def batches(self, order, *_):
        return iter([self.batch(utterances) for utterances in order])

    def totals(self, utterances):
        return Totals(len(utterances), 0, len(utterances))


class Regression(Method):
    """Mean of squares of a linear map with dropout and BatchNorm; `limit` utterances fit the memory."""

    def __init__(self, limit: int = 100):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)
        ).double()
        self.critic = torch.nn.Linear(1, 1).double()
        super().__init__(
            {"net": self.net, "critic": self.critic},
            {
                n: Updater(torch.optim.SGD(m.parameters(), 0.1), None, 0.0)
                for n, m in (("net", self.net), ("critic", self.critic))
            },
        )
        self.limit, self.calls, self.numbers, self.totals = limit, [], [], []
        self.first = Turn("net", (Part("data", self.loss),), ("net",))
        self.second = Turn("critic", (Part("kept:net", self.critic_loss, "critic"),), ("critic",))

    def turns(self, position):
        return (self.first, self.second)

    def loss(self, micro) -> Loss:
        self.calls.append(list(micro.batch.utterances))
        self.numbers.append(micro.number)
        self.totals.append(micro.totals)
        if self.limit == 0:
            raise torch.OutOfMemoryError("too large")
        scores = self.net(micro.batch.tensors["x"])
        if len(micro.batch.utterances) > self.limit:
            scores.sum().backward()  # part of the gradient is there when the memory ends
            raise torch.OutOfMemoryError("too large")
        loss = (scores**2).sum() / micro.totals.utterances + self.critic(scores).sum() * 0
        return Loss(loss, {"keys": (float(sum(micro.keys)), 1.0)}, scores.detach())

    def critic_loss(self, micro) -> Loss:
        return Loss((self.critic(micro.kept) ** 2).sum() / micro.totals.utterances)


@pytest.fixture
def stream():
    return FakeStream(torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


def take(method, stream, data, turns=None, **options):
    runner = StepRunner(method, {"data": stream}, World(), 3, **options)
    kept: dict = {}
    return [runner.run(turn, {"data": data}, kept, HERE) for turn in turns or method.turns(HERE)]


def test_micro_batches_add_up_to_the_step(stream):
    """Without dropout and with BatchNorm in evaluation mode, pieces are the whole."""
    ends = []
    for pieces in ([range(8)], [range(3), range(3, 8)]):
        method = Regression()
        method.train(False)
        take(method, stream, stream.step(*pieces))
        ends.append(
            torch.cat([p.detach().reshape(-1) for m in method.modules.values() for p in m.parameters()])
        )
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "rows, raised, told",
    [
        (range(1), "too loud", "too loud (utterance 0)"),
        (range(2), "too loud", "too loud (utterances 0, 1)"),
        (range(7), "too loud", "too loud (utterances 0, 1, 2, 3, 4 and 2 more)"),
        (range(2), "utterance '1': too loud", "utterance '1': too loud"),
    ],
)
def test_a_loss_that_refuses_an_utterance_is_told_with_names(stream, monkeypatch, rows, raised, told):
    """Vectors have no lengths: some are named. A message that names one already stays as it is."""
    method = Regression()

    def refuse(_):
        raise UserError(raised)

    monkeypatch.setattr(method, "net", refuse)
    with pytest.raises(UserError) as caught:
        take(method, stream, stream.step(rows))
    assert str(caught.value) == told


def test_a_turn_moves_its_own_parameters_alone(stream):
    method = Regression()
    before = [p.clone() for p in method.critic.parameters()]
    take(method, stream, stream.step(range(8)), [method.first])
    # Its loss goes through the critic, which must not see a gradient of it, nor keep one for its own turn.
    for parameter, was in zip(method.critic.parameters(), before, strict=True):
        assert torch.equal(parameter, was) and parameter.grad is None and parameter.requires_grad


def test_too_large_a_micro_batch_is_cut_and_the_step_begun_again(stream):
    """The same result as a plan that had cut it there: denominators, masks, what was kept, BatchNorm."""
    notes = []
    small = Regression(limit=4)
    updates = take(small, stream, stream.step(range(2), range(2, 8)), on_split=lambda *a: notes.append(a))
    assert [len(call) for call in small.calls] == [2, 6, 2, 3, 3]
    assert small.numbers[-3:] == [(0, 0), (0, 1, 0), (0, 1, 1)], "halves draw a dropout of their own"
    assert set(small.totals) == {Totals(8, 0, 8)}, "the denominators stay those of the step"
    assert notes == [(0, 1, [str(row) for row in range(2, 8)])]
    assert float(updates[0].figures["keys"][0]) == sum(range(8))

    class Planned(Regression):
        """Computes the same three pieces under the same keys without a failure."""

        def loss(self, micro):
            return super().loss(micro)

    planned = Planned()
    runner = StepRunner(planned, {"data": stream}, World(), 3)
    work = runner._work(planned.first, {"data": stream.step(range(2), range(2, 8))}, {}, HERE)
    work = [work[0], *runner._halves(work[1])]
    runner._work = lambda turn, *rest: (
        work if turn is planned.first else StepRunner._work(runner, turn, *rest)
    )
    kept: dict = {}
    for turn in planned.turns(HERE):
        runner.run(turn, {}, kept, HERE)
    for name in small.modules:
        for key, value in planned.modules[name].state_dict().items():
            assert torch.equal(small.modules[name].state_dict()[key], value), (name, key)


def test_what_a_method_counts_is_counted_once(stream):
    """Neither an attempt that ran out of memory nor the search for a micro-batch that fits counts."""
    counted = []

    class Counting(Regression):
        def loss(self, micro):
            result = super().loss(micro)
            result.count = lambda: counted.append(list(micro.batch.utterances))
            return result

    method = Counting(limit=2)
    data = stream.step(range(2), range(2, 6))
    take(method, stream, data, [method.first])
    assert [["0", "1"]] == method.calls[:1] == method.calls[2:3], "the first micro-batch was computed twice"
    assert counted == [["0", "1"], ["2", "3"], ["4", "5"]]
    counted.clear()
    method = Counting(limit=8)
    StepRunner(method, {"data": stream}, World(), 3).losses(method.first, {"data": data}, {}, HERE)
    assert counted == []


def test_one_utterance_that_does_not_fit_is_named(stream):
    with pytest.raises(UserError, match="utterance '0' alone does not fit the memory"):
        take(Regression(limit=0), stream, stream.step(range(4)))


def test_what_was_kept_cannot_be_split(stream):
    method = Regression()

    def full(micro):
        raise torch.OutOfMemoryError("full")

    method.second = Turn("critic", (Part("kept:net", full, "critic"),), ("critic",))
    with pytest.raises(UserError, match="kept:.* cannot be split .*--frames_per_micro_batch"):
        take(method, stream, stream.step(range(2)))


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_nothing_moves_when_something_is_not_finite(stream, poison):
    class Poisoned(Regression):
        def loss(self, micro):
            result = super().loss(micro)
            if "5" in micro.batch.utterances:
                zero = self.net[2].weight.sum() * 0
                # The gradient of a square root at zero is infinite, its value is not.
                result.loss = result.loss + (zero.sqrt() if poison == "gradient" else zero + float("inf"))
            return result

    method = Poisoned()
    before = [p.clone() for p in method.net.parameters()]
    update = take(method, stream, stream.step(range(4), range(4, 8)), [method.first])[0]
    assert not update.finite and update.figures == {}
    # A loss says which micro-batch it was; a gradient is that of the whole step.
    assert update.bad == [str(row) for row in (range(4, 8) if poison == "loss" else range(8))]
    assert all(torch.equal(*pair) for pair in zip(method.net.parameters(), before, strict=True))


def test_a_schedule_goes_by_steps_also_by_skipped_ones(stream):
    method = Regression()
    updater = method.updaters["net"]
    updater.scheduler = torch.optim.lr_scheduler.LambdaLR(updater.optimizer, lambda step: 1.0 / (1 + step))
    poison = iter([float("inf"), 1.0])
    turn = Turn("net", (Part("data", lambda micro: Loss(method.loss(micro).loss * next(poison))),), ("net",))
    for rate in (0.1 / 2, 0.1 / 3):
        (update,) = take(method, stream, stream.step(range(8)), [turn])
        assert updater.lr == pytest.approx(rate)
    assert update.finite


def test_clip_groups_are_clipped_each_on_its_own():
    one, two = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    updater = Updater(torch.optim.SGD([one, two], 1.0), None, 1.0, {"one": [one], "two": [two]})
    method = Method({}, {"all": updater})

    def loss(micro):
        return Loss(100 * one.sum() + 0.1 * two.sum())

    turn = Turn("all", (Part("data", loss),), ("all",))
    stream = FakeStream(torch.zeros(2, 4))
    take(method, stream, stream.step(range(2)), [turn])
    torch.testing.assert_close(-one.detach().norm(), torch.tensor(-1.0))
    torch.testing.assert_close(two.detach(), torch.full((2,), -0.1))
    with pytest.raises(ValueError, match="clip groups"):
        Updater(torch.optim.SGD([one, two], 1.0), None, 1.0, {"one": [one]})


def test_running_statistics_take_one_move_a_step():
    """Two halves of the same size move BatchNorm's mean as the whole does at once."""
    torch.manual_seed(0)
    whole, halves = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    x = torch.randn(10, 3)
    whole(x)
    statistics = RunningStatistics([halves])
    statistics.begin()
    for part in (x[:5], x[5:]):
        halves(part)
        statistics.collect(5)
        assert torch.equal(halves.running_mean, torch.zeros(3))  # nothing moves before the end
    statistics.commit(World())
    torch.testing.assert_close(halves.running_mean, whole.running_mean)
    assert halves.num_batches_tracked == 1


def test_a_step_moves_running_statistics_once(stream):
    method = Regression()
    norm = method.net[0]
    take(method, stream, stream.step(range(3), range(3, 8)), [method.first])
    assert norm.num_batches_tracked == 1
    # Three and five utterances of their own means, from 0 by a tenth: weighted, as of one batch of eight.
    torch.testing.assert_close(norm.running_mean, 0.1 * stream.vectors.mean(0))


@pytest.mark.parametrize("limit, found", [(8, 8), (5, 4), (3, 2)])
def test_automatic_micro_batch_is_found_once_and_kept(stream, tmp_path, limit, found, capsys):
    method = Regression(limit)
    before = {n: v.clone() for n, v in method.net.state_dict().items()}
    runner = StepRunner(method, {"data": stream}, World(), 3)
    assert find_micro_batch(method, {"data": stream}, runner, World(), tmp_path, probe=True) == {
        "data": found
    }
    assert stream.frames_per_micro_batch == found
    after = method.net.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)  # the trial leaves no trace
    method.limit = 1
    stream.frames_per_micro_batch = 0
    assert find_micro_batch(method, {"data": stream}, runner, World(), tmp_path, probe=True) == {
        "data": found
    }


def test_the_longest_and_the_most_have_to_fit_in_every_process(stream, tmp_path):
    longest, most, elsewhere = (0, 1), tuple(range(8)), [0.0, 1.0, 1.0]
    stream.largest = lambda budget: [longest, most[:budget]]

    class Other(World):
        """Where 1/2 of a step fits here and 1/4 in every process."""

        def minimum(self, value):
            return min(value, elsewhere.pop(0)) if value else value

    for world, name, found in ((World(), "a", 4), (Other(), "b", 2)):
        method = Regression(limit=5)
        runner = StepRunner(method, {"data": stream}, world, 3)
        (tmp_path / name).mkdir()
        kept = find_micro_batch(method, {"data": stream}, runner, world, tmp_path / name, probe=True)
        assert kept == {"data": found}


@pytest.mark.parametrize("found", ["}", "8", '{"data": "8"}', '{"data": 0}', None])
def test_a_damaged_micro_batch_is_named(stream, tmp_path, found):
    text = "[]" if found is None else f'{{"frames_per_micro_batch": {found}}}'
    (tmp_path / "micro_batch.json").write_text(text)
    method = Regression()
    runner = StepRunner(method, {"data": stream}, World(), 3)
    with pytest.raises(UserError, match="micro_batch.json: expected .*; remove it to try"):
        find_micro_batch(method, {"data": stream}, runner, World(), tmp_path)


def test_automatic_micro_batch_says_when_nothing_fits(stream, tmp_path):
    method = Regression(0)
    runner = StepRunner(method, {"data": stream}, World(), 3)
    with pytest.raises(UserError, match="not even one utterance fits"):
        find_micro_batch(method, {"data": stream}, runner, World(), tmp_path, probe=True)


def test_bf16_where_it_is_safe_and_fp32_where_it_is_asked_for(stream):
    """Autocast reaches the loss function's products, not its declared parts, nor the parameters."""
    seen = {}
    method = Regression()
    method.net.float()
    stream.vectors = stream.vectors.float()

    def loss(micro) -> Loss:
        scores = method.net(micro.batch.tensors["x"])
        with full_precision(scores.device):
            exact = torch.nn.functional.linear(scores.float(), torch.ones(1, 1))
        seen.update(scores=scores.dtype, exact=exact.dtype)
        return Loss((exact**2).sum() / micro.totals.utterances)

    turn = Turn("net", (Part("data", loss),), ("net",))
    take(method, stream, stream.step(range(8)), [turn], precision="bf16")
    assert seen == {"scores": torch.bfloat16, "exact": torch.float32}
    assert all(p.dtype == torch.float32 for p in method.net.parameters())


def test_bf16_is_refused_without_a_gpu():
    check_precision("fp32", "cpu")
    with pytest.raises(UserError, match="--precision bf16: only on a GPU"):
        check_precision("bf16", "cpu")
