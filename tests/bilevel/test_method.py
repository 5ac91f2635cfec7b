"""The method against its special cases, to the bit, and its phases (B2 to B4, B6, B9, B10)."""

import pytest
import torch

from espnet_ext.asr.method import JointMethod
from espnet_ext.asr.task import ASRTask
from espnet_ext.bilevel.task import BilevelTask
from espnet_ext.ssl.method import UNLABELLED_KEY, trained_parameters
from espnet_ext.ssl.task import SSLTask
from espnet_ext.train.method import Loss, Part, Turn

JOINT_ALONE = {"warm_epochs": 0, "final_epochs": 0, "explore_steps": 0, "gamma_increment": 0.0}


def optimizer_state(training, name: str) -> dict:
    return training.method.updaters[name].optimizer.state_dict()["state"]


@pytest.fixture
def control(training):
    """Supervised training after 20 steps."""
    run = training(ASRTask, "asr", "--max_epoch", "9")
    run.advance(20)
    return run


def test_gamma_zero_is_supervised_training(training, control, bilevel_conf, equal):
    """B2: parameters, buffers and both moments, while the unsupervised branch runs forward and backward."""
    options = ["--max_epoch", "9", *bilevel_conf(**JOINT_ALONE, gamma_maximum=0.0)]
    run = training(BilevelTask, "bilevel", *options)
    before = {n: p.clone() for n, p in run.method.modules["unsupervised"].named_parameters()}
    run.advance(20)
    assert equal(dict(run.model.state_dict()), dict(control.model.state_dict()))
    assert equal(optimizer_state(run, "upper"), optimizer_state(control, "model"))
    assert all("loss_unsupervised" in figures and figures["gamma"] == 0 for figures in run.figures)
    assert [f["loss"] for f in run.figures] == [f["loss"] for f in control.figures]
    # η has been trained all the while: the branch's backward pass ran.
    after = dict(run.method.modules["unsupervised"].named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("ssl", ["bestrq", "infonce"])
def test_without_supervised_steps_it_is_self_supervised_training(training, bilevel_conf, equal, ssl):
    """B3: a warm start equals the pre-training task to the bit; the decoder stays as it was initialised."""
    suffix = "_infonce" if ssl == "infonce" else ""
    alone = training(SSLTask, f"ssl{suffix}", "--scheduler", "none")
    options = ["--optim2_conf", "lr=0.002", *bilevel_conf(warm_epochs=4, final_epochs=0)]
    both = training(BilevelTask, f"bilevel{suffix}", *options)
    initial = {n: v.clone() for n, v in alone.model.state_dict().items()}
    for run in (alone, both):
        run.advance(12)
    assert equal(dict(alone.model.state_dict()), dict(both.model.state_dict()))
    assert equal(
        dict(alone.method.objective.state_dict()), dict(both.method.modules["unsupervised"].state_dict())
    )
    assert equal(optimizer_state(alone, "lower"), optimizer_state(both, "lower"))
    assert [f["loss_unsupervised"] for f in alone.figures] == [f["loss_unsupervised"] for f in both.figures]
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, initial[name]) == (not name.startswith("encoder.")), name


class MultiTask(JointMethod):
    """JUST with a constant weight, written without any gradient scaling: one sum of two losses."""

    def __init__(self, model, updater, objective, head_updater, weight):
        super().__init__(
            model, updater, "token", modules={"unsupervised": objective}, updaters={"eta": head_updater}
        )
        self.objective, self.weight = objective, weight
        parts = (Part("labelled", self.joint_part), Part("unlabelled", self.branch, UNLABELLED_KEY))
        self._turns = (Turn("model", parts, ("model", "eta")),)

    def branch(self, micro):
        loss = self.objective.loss(self.model, micro)
        return Loss(self.weight * loss.loss, loss.figures)


class MultiTaskTask(BilevelTask):
    weight = 1.0

    @classmethod
    def build_method(cls, args, model, streams):
        method = super().build_method(args, model, streams)
        upper, eta = method.updaters["upper"], method.updaters["eta"]
        return MultiTask(model, upper, method.objective, eta, cls.weight)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_constant_gamma_is_multi_task_training(training, bilevel_conf, equal, monkeypatch, gamma):
    """B4: θ and φ are those of the weighted sum, to the bit, since γ is a power of two.

    η runs at 1 instead of γ: with one rate it is the same at γ = 1 alone, and with its rate divided by γ in
    the weighted sum it is the same always, so that θ and φ stay together for as long as one likes.
    """
    monkeypatch.setattr(MultiTaskTask, "weight", gamma)
    options = ["--optim", "sgd", "--optim_conf", "lr=0.02", "--max_epoch", "9"]
    options += bilevel_conf(**JOINT_ALONE, gamma_initial=gamma)

    def after(steps: int, task: type, *extra: str) -> tuple[dict, dict]:
        run = training(task, "bilevel", *options, *extra)
        run.advance(steps)
        return dict(run.model.state_dict()), dict(run.method.objective.named_parameters())

    mine, eta = after(1, BilevelTask)
    reference, reference_eta = after(1, MultiTaskTask)
    assert equal(mine, reference) and equal(eta, reference_eta) == (gamma == 1.0)
    rate = ["--bilevel_conf", f"eta_lr={0.02 / gamma}"]
    assert equal(after(12, BilevelTask), after(12, MultiTaskTask, *rate))


def test_gamma_follows_the_joint_steps(training):
    """B6: as the formula says, and logged at joint steps alone."""
    run = training(BilevelTask, "bilevel")
    steps = [run.method.epoch_steps(epoch, run.streams) for epoch in range(1, 5)]
    run.advance(sum(steps))
    logged = [figures["gamma"] for figures in run.figures if "gamma" in figures]
    rounds = (steps[1] + steps[2]) // 3
    assert logged == [min(1.5, 0.25 * k) for k in range(rounds)] and rounds > 7
    assert run.method.counts == {
        "warm": steps[0],
        "explore": 2 * rounds,
        "joint": rounds,
        "final": steps[3],
    }
    per_epoch = training(BilevelTask, "bilevel", "--bilevel_conf", "gamma_per=epoch")
    per_epoch.advance(sum(steps))
    logged = [figures["gamma"] for figures in per_epoch.figures if "gamma" in figures]
    first = steps[1] // 3
    assert logged == [0.0] * first + [0.25] * (rounds - first)


def test_each_level_has_its_own_moments_and_moves_only_its_own(training):
    """Exploration moves θ and η by the lower optimiser; a joint step all three by the upper one and η's."""
    run = training(BilevelTask, "bilevel", "--bilevel_conf", "warm_epochs=0")
    phi = {n: p for n, p in run.model.named_parameters() if not n.startswith("encoder.")}
    start = {n: p.detach().clone() for n, p in phi.items()}
    run.advance(2)
    assert all(torch.equal(phi[name], value) for name, value in start.items())
    count = len(list(trained_parameters(run.model, run.method.objective)))
    assert len(optimizer_state(run, "lower")) == count
    assert not optimizer_state(run, "upper") and not optimizer_state(run, "eta")
    lower = [value["exp_avg"].clone() for value in optimizer_state(run, "lower").values()]
    run.advance(1)
    assert all(not torch.equal(phi[name], value) for name, value in start.items())
    assert len(optimizer_state(run, "upper")) == len(list(run.model.parameters()))
    assert len(optimizer_state(run, "eta")) == 2
    again = [value["exp_avg"] for value in optimizer_state(run, "lower").values()]
    assert all(torch.equal(a, b) for a, b in zip(lower, again, strict=True))


def test_rates_of_their_own(training, bilevel_conf):
    run = training(BilevelTask, "bilevel", *bilevel_conf(phi_lr=0.03, eta_lr=0.04), "--scheduler", "none")
    rates = {name: updater.lr for name, updater in run.method.updaters.items()}
    assert rates == {"upper": 0.002, "phi": 0.03, "eta": 0.04, "lower": 0.004, "final": 0.001}
    sizes = {n: sum(p.numel() for p in u.parameters) for n, u in run.method.updaters.items()}
    whole = sum(p.numel() for p in run.model.parameters())
    assert sizes["upper"] + sizes["phi"] == whole == sizes["final"]
    assert sizes["lower"] == sizes["upper"] + sizes["eta"]
    same = training(BilevelTask, "bilevel", "--scheduler", "none")
    assert "phi" not in same.method.updaters and same.method.updaters["eta"].lr == 0.002


def test_joint_steps_go_at_the_rate_divided_by_gamma(training, bilevel_conf):
    """With γ = 4 a joint step equals one at a quarter of the rate, for θ and φ and not for η."""
    options = bilevel_conf(**JOINT_ALONE, gamma_initial=4.0) + ["--bilevel_conf", "gamma_maximum=4.0"]
    options += ["--scheduler", "none"]
    divided = training(BilevelTask, "bilevel", *options)
    quarter = training(
        BilevelTask,
        "bilevel",
        *options,
        *bilevel_conf(divide_rate=False, eta_lr=0.002),
        "--optim_conf",
        "lr=0.0005",
    )
    for run in (divided, quarter):
        run.advance(1)
    for (name, mine), theirs in zip(
        divided.model.named_parameters(), quarter.model.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8, msg=name)
    heads = [dict(each.method.objective.named_parameters()) for each in (divided, quarter)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_exploration_lowers_the_loss_on_held_out_speech(training, bilevel_conf):
    """B9: fixed batch, fixed masks; the last tenth of the curve lies below the first tenth."""
    run = training(
        BilevelTask,
        "bilevel",
        *bilevel_conf(warm_epochs=0, explore_steps=100, final_epochs=0),
        "--scheduler",
        "none",
    )
    micro = run.micro("labelled")
    micro.keys = None
    curve = []
    for _ in range(100):
        run.advance(1)
        run.method.train(False)
        with torch.no_grad():
            total, count = run.method.objective.validate(run.model, micro)["loss_unsupervised"]
        run.method.train()
        curve.append(float(total) / count)
    assert set(map(tuple, run.figures)) == {("loss_unsupervised", "acc_unsupervised")}
    assert sum(curve[-10:]) < sum(curve[:10])


def test_final_fine_tuning_does_not_touch_the_unsupervised_loss(training, monkeypatch):
    """B10: evaluated in every phase but the last, in training and in validation."""
    run = training(BilevelTask, "bilevel", "--max_epoch", "3")
    calls = []
    predict = run.method.objective.predict
    monkeypatch.setattr(run.method.objective, "predict", lambda *args: (calls.append(1), predict(*args))[1])
    micro = run.micro("labelled")
    micro.keys = None
    evaluated = {}
    for epoch in range(1, 4):
        run.advance(run.method.epoch_steps(epoch, run.streams))
        trained, calls[:] = len(calls), []
        with torch.no_grad():
            figures = run.method.validate(micro)
        evaluated[epoch] = (trained > 0, len(calls), "loss_unsupervised" in figures, "loss" in figures)
        calls.clear()
    assert evaluated == {1: (True, 1, True, True), 2: (True, 1, True, True), 3: (False, 0, False, True)}
    assert all("loss_unsupervised" not in f for f in run.figures[-run.method.epoch_steps(3, run.streams) :])


def test_what_was_read_is_counted(training):
    run = training(BilevelTask, "bilevel")
    steps = [run.method.epoch_steps(epoch, run.streams) for epoch in range(1, 5)]
    run.advance(sum(steps))
    summary = run.method.summary()
    rounds = (steps[1] + steps[2]) // 3
    assert summary["labelled_batches"] == rounds + steps[3]
    assert summary["unlabelled_batches"] == steps[0] + steps[1] + steps[2]
    assert summary["labelled_passes"] == 3
    seconds = sum(run.streams["labelled"].lengths.values()) * 160 / 16000
    assert summary["labelled_hours"] == pytest.approx(3 * seconds / 3600, abs=1e-4)
    # The same by adding up what each step read.
    stream = training(BilevelTask, "bilevel").streams["unlabelled"]
    frames = sum(stream.next().totals.frames for _ in range(summary["unlabelled_batches"]))
    assert summary["unlabelled_passes"] == pytest.approx(frames / sum(stream.lengths.values()), abs=1e-4)
    last = run.figures[-1]
    assert last["labelled_passes"] == 3 and last["unlabelled_hours"] == pytest.approx(
        frames / 360000, abs=1e-6
    )
