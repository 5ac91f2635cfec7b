"""The method as a task: what stage 8 runs for `--method bilevel`, and its controls."""

import argparse
from pathlib import Path

import torch
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_ext.asr.task import ASRTask
from espnet_ext.asr.transducer_task import TransducerTask, describes_transducer
from espnet_ext.bilevel.method import BilevelMethod
from espnet_ext.bilevel.options import BilevelOptions
from espnet_ext.bilevel.phases import Phases
from espnet_ext.bilevel.pseudo import PseudoLabelMethod, frame_counter, tokeniser, write_pseudo_set
from espnet_ext.bilevel.rounds import Rounds
from espnet_ext.errors import UserError
from espnet_ext.ssl.method import trained_parameters
from espnet_ext.ssl.options import sample_rate
from espnet_ext.ssl.task import UnlabelledSpeech
from espnet_ext.ssl.typed import check_mapping
from espnet_ext.train.data import SpeechData
from espnet_ext.train.method import Updater
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.streams import Stream
from espnet_ext.train.world import World

#: Optimiser of each level: what follows `--optim`.
UPPER, LOWER, LAST = "", "2", "3"


class Bilevel(UnlabelledSpeech):
    """Bilevel training of whatever recogniser the next base class trains supervised.

    The base's `build_method` makes the control; the one loss of its one turn is ℓ_sup. So every recogniser
    with a task of its own and an encoder that can be masked is served.
    """

    num_optimizers = 3

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        group = parser.add_argument_group("bilevel training")
        group.add_argument(
            "--bilevel_conf", action=NestedDictAction, default={}, help="see espnet_ext/bilevel/options.py"
        )
        group.add_argument(
            "--pseudo_text",
            help="control: train on these hypotheses (lines `<utterance> <words>`) of the unlabelled set",
        )
        # γ weighs a mean against a mean; the levels' optimisers are of one kind unless said otherwise.
        parser.set_defaults(loss_norm="token", optim="adamw", optim2="adamw", optim3="adamw")

    @classmethod
    def train(cls, args: argparse.Namespace, stop: StopRequest | None = None) -> int:
        options = BilevelOptions.from_conf(args.bilevel_conf)
        _check_rates(args, options, options.phases(args.max_epoch))
        if args.loss_norm != "token":
            raise UserError(
                f"--loss_norm {args.loss_norm}: the unsupervised loss is a mean over frames, so that γ would "
                "depend on the length of the transcripts; use loss_norm: token, also for the control"
            )
        if args.pseudo_text and options.warm_epochs:
            raise UserError("--pseudo_text: hypotheses need no warm start; set bilevel_conf warm_epochs: 0")
        return super().train(args, stop)

    @classmethod
    def build_streams(cls, args: argparse.Namespace, everybody: World) -> dict[str, Stream]:
        streams = super().build_streams(args, everybody)
        make = cls._pseudo_stream if args.pseudo_text else cls.unlabelled_stream
        return streams | {"unlabelled": make(args, everybody)}

    @classmethod
    def build_method(
        cls, args: argparse.Namespace, model: torch.nn.Module, streams: dict[str, Stream]
    ) -> Rounds:
        options = BilevelOptions.from_conf(args.bilevel_conf)
        phases = options.phases(args.max_epoch)
        rate = sample_rate(args)
        hours = streams["labelled"].frame_shift / rate / 3600 if rate else None
        steps = streams["labelled"].steps(1)
        # A control that is never asked for its turns: its loss and its figures are used, its updater is
        # `upper`. Of hypotheses that one makes the exploration steps too.
        passes = phases.joint * (phases.explore + 1 if args.pseudo_text else 1)
        joint = argparse.Namespace(**{**vars(args), "max_epoch": max(1, passes)})
        control = super().build_method(joint, model, streams)
        updaters = {}
        if phases.joint:
            updaters["upper"] = control.updaters["model"]
        if phases.final:
            total = phases.final * steps
            updaters["final"] = cls.make_updater(args, model.parameters(), total, suffix=LAST)
        if args.pseudo_text:
            return PseudoLabelMethod(control, options, phases, streams, control.modules, updaters, hours)
        objective = cls.build_objective(args, model, streams["unlabelled"])
        if not any(p.requires_grad for p in model.encoder.parameters()):
            raise UserError("--freeze_param: the whole encoder is frozen: the two levels share nothing")
        updaters |= cls._unsupervised_updaters(args, model, objective, options, phases, steps)
        return BilevelMethod(control, objective, options, phases, streams, updaters, hours)

    @classmethod
    def _unsupervised_updaters(
        cls, args, model, objective, options: BilevelOptions, phases: Phases, steps: int
    ) -> dict[str, Updater]:
        """Optimisers of η, of φ if it has a rate of its own (`upper` is θ's then), and of the lower level."""
        updaters = {}
        if phases.joint:
            total = phases.joint * steps
            if options.phi_lr is not None:
                encoder = {id(p) for p in model.encoder.parameters()}
                head = [p for p in model.parameters() if id(p) not in encoder]
                if not any(p.requires_grad for p in head):
                    raise UserError(
                        "bilevel_conf phi_lr: all but the encoder is frozen (--freeze_param): set it to null"
                    )
                updaters["upper"] = cls.make_updater(args, model.encoder.parameters(), total)
                updaters["phi"] = cls.make_updater(_with_rate(args, options.phi_lr), head, total)
            eta = _with_rate(args, options.eta_lr)
            updaters["eta"] = cls.make_updater(eta, objective.parameters(), total)
        explored = (phases.explore + 1) * phases.warm + phases.explore * phases.joint
        if explored:
            both = trained_parameters(model, objective)
            updaters["lower"] = cls.make_updater(args, both, explored * steps, suffix=LOWER)
        return updaters

    @classmethod
    def _pseudo_stream(cls, args: argparse.Namespace, everybody: World) -> Stream:
        """The unlabelled stream with its hypotheses as transcripts."""
        folder = Path(args.output_dir) / "pseudo"
        if everybody.first:
            data_dir, stats_dir = map(Path, cls.unlabelled_dirs(args))
            ways = tokeniser(cls, args), frame_counter(args)
            counts = write_pseudo_set(data_dir, stats_dir, Path(args.pseudo_text), folder, *ways)
            print(
                f"{args.pseudo_text}: {counts['kept']} hypotheses, {counts['empty']} empty ones and "
                f"{counts['long']} too long for CTC left out",
                flush=True,
            )
        everybody.wait()
        data = SpeechData(
            str(folder / "dump"), str(folder / "stats"), cls.build_preprocess_fn(args, True), args.seed
        )
        budget = args.unlabelled_frames_per_step or args.frames_per_step
        return cls.make_stream(args, "unlabelled", data, everybody, budget)


class BilevelTask(Bilevel, ASRTask):
    """Bilevel training of the CTC/attention recogniser, or of CTC alone (`model_conf.ctc_weight: 1.0`).

    With a transducer's configuration it is `BilevelTransducerTask`, so that `--method bilevel` is enough.
    """

    @classmethod
    def main(cls, args: argparse.Namespace | None = None, cmd: list[str] | None = None, **options) -> int:
        """As ASRTask's."""
        task = BilevelTransducerTask if args is None and describes_transducer(cmd) else super()
        return task.main(args, cmd, **options)


class BilevelTransducerTask(Bilevel, TransducerTask):
    """Bilevel training of the transducer; its encoder needs `vgg_like: false`."""


def _with_rate(args: argparse.Namespace, lr: float | None) -> argparse.Namespace:
    """The options with another rate of the first optimiser, or as they are."""
    conf = args.optim_conf if lr is None else {**args.optim_conf, "lr": lr}
    return argparse.Namespace(**{**vars(args), "optim_conf": conf})


def _check_rates(args: argparse.Namespace, options: BilevelOptions, phases: Phases) -> None:
    """Every level that is trained has a rate, in range, and the last one the smallest.

    Raises:
        UserError: otherwise.
    """
    rates = {}
    for name, suffix, used in (
        ("upper", UPPER, phases.joint),
        ("lower", LOWER, phases.warm or (phases.explore and phases.joint and not args.pseudo_text)),
        ("final", LAST, phases.final),
    ):
        if not used:
            continue
        check_mapping(f"optim{suffix}_conf", getattr(args, f"optim{suffix}_conf"), ["lr"])
        rate = getattr(args, f"optim{suffix}_conf").get("lr")
        if type(rate) not in (int, float) or not 0 < rate < float("inf"):
            hint = " (YAML reads 1e-3 as a word: write 1.0e-3)" if isinstance(rate, str) else ""
            raise UserError(
                f"optim{suffix}_conf lr: {rate}: the {name} level needs a learning rate above 0 in the "
                f"YAML{hint}"
            )
        rates[name] = rate
    if "final" in rates and "upper" in rates and rates["final"] >= rates["upper"]:
        raise UserError(
            f"optim{LAST}_conf lr: {rates['final']}: the final fine-tuning needs a smaller rate than that of "
            f"the joint steps (optim_conf lr: {rates['upper']})"
        )
