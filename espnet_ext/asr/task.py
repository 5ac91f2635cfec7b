"""The supervised task: ESPnet's ASRTask on this project's training loop."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml
from espnet2.tasks.abs_task import optim_classes, scheduler_classes
from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_ext.asr.command_line import RefusedValues, options_of_modules, parse_command
from espnet_ext.asr.model import ASRModel, adopt
from espnet_ext.asr.sampled import SampledMethod, check_decoder, parse_sampling
from espnet_ext.asr.statistics import check_statistics
from espnet_ext.data.lengths import sample_rate
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write_text
from espnet_ext.train import options as train_options
from espnet_ext.train import (
    schedule,  # noqa: F401  (its import adds our schedules to ESPnet's table)
    spawn,
    world,
)
from espnet_ext.train.alone import alone
from espnet_ext.train.construct import construct
from espnet_ext.train.data import SpeechData
from espnet_ext.train.init_param import init_param
from espnet_ext.train.keys import seed_torch
from espnet_ext.train.method import Method, Updater
from espnet_ext.train.precision import check_precision
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.streams import Stream
from espnet_ext.train.trainer import Trainer, TrainerOptions

#: In the names of ESPnet's modules that load a model of somebody else's when they are built.
FETCHING = ("hugging_face", "whisper", "wav2vec", "hubert", "s3prl", "fused", "s2t")


class ASRTask(ESPnetASRTask):
    """ESPnet's command line and model construction; exact padding, keyed randomness and our loop."""

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        train_options.add_arguments(parser)
        if cls.build_method.__func__ is ASRTask.build_method.__func__:  # a method has losses of its own
            parser.add_argument(
                "--sampling_conf",
                action=NestedDictAction,
                default={},
                help="scheduled sampling: probability; start, warmup (steps); draw (sample, argmax)",
            )

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ASRModel:
        """Build ESPnet's model from its own options and adopt it; parameters and names are ESPnet's."""
        specaug_conf = args.specaug_conf if args.specaug is not None else None
        if args.normalize != "global_mvn":
            # The recipe names its statistics to every training; other normalisations have no such option.
            args.normalize_conf = {k: v for k, v in args.normalize_conf.items() if k != "stats_file"}
        with options_of_modules(args):
            model = super().build_model(argparse.Namespace(**{**vars(args), "specaug": None}))
        check_statistics(model, args.normalize_conf.get("stats_file"))
        if isinstance(args.token_list, str):
            args.token_list = list(model.token_list)  # as ESPnet: the written configuration needs no file
        return adopt(model, args.padding, specaug_conf)

    @classmethod
    def main(
        cls,
        args: argparse.Namespace | None = None,
        cmd: list[str] | None = None,
        stop: StopRequest | None = None,
    ) -> int:
        """Parse the command line and train.

        Args:
            args, cmd: as ESPnet's.
            stop: watches for signals already; None watches from here on.

        Returns:
            exit status: 0 done, 75 stopped by a signal.

        Raises:
            UserError: options, data or files that do not fit.
        """
        with StopRequest() if stop is None else stop as stop:
            return cls._main(args, cmd, stop)

    @classmethod
    def _main(cls, args: argparse.Namespace | None, cmd: list[str] | None, stop: StopRequest) -> int:
        args = args or parse_command(cls.get_parser(), cmd)
        if args.print_config:
            cls.print_config()
            return 0
        cls.check_required_command_args(args)
        cls._check(args)
        for name in ("token_list", "bpemodel", "noise_scp", "rir_scp"):
            value = getattr(args, name, None)
            if isinstance(value, str) and value and not Path(value).exists():
                raise UserError(f"--{name} {value}: no such file")
        return cls.train(args, stop)

    @classmethod
    def check_early(cls, cmd: list[str], files: bool = False) -> None:
        """Refuse options that are wrong whatever the files hold that the command line names.

        None of them is read but `--config`: stages that are still to run write them.

        Args:
            cmd: the command line.
            files: what a method names beside the starting model (`--init_param`) must be there already.

        Raises:
            UserError: as `main` would raise it.
        """
        args = parse_command(cls.get_parser(), cmd)
        cls._check(args)
        cls.check_options(args, True, files)
        cls._try_model(args)
        for number in range(1, cls.num_optimizers + 1):
            cls._try_updater(args, "" if number == 1 else str(number))

    @classmethod
    def _try_updater(cls, args: argparse.Namespace, suffix: str) -> None:
        """Two updates of one number, that its optimiser or its schedule may refuse them now.

        Raises:
            UserError: what the training would end with at its first step.
        """
        parameter = torch.nn.Parameter(torch.zeros(1))
        updater = cls.make_updater(args, [parameter], 1000, suffix=suffix)
        if args.ngpu:  # some options are for parameters on a GPU
            return
        parameter.grad = torch.ones(1)
        try:
            for _ in range(2):
                updater.optimizer.step()
                if updater.scheduler is not None:
                    updater.scheduler.step()
        except Exception as error:
            which = f"--optim{suffix} {getattr(args, f'optim{suffix}')}"
            which += f", --scheduler{suffix} {getattr(args, f'scheduler{suffix}')}"
            raise UserError(f"{which}: {type(error).__name__}: {error}; look at their options") from None

    @classmethod
    def _try_model(cls, args: argparse.Namespace) -> None:
        """Build the model without its numbers: an option that a module does not have shows here.

        Tokens and statistics, which stages that are still to run write, are others. What fails for another
        reason fails when its time comes; a module that may fetch a model is not built.
        """
        modules = [
            getattr(args, name, None) or "" for name in ("frontend", "preencoder", "encoder", "decoder")
        ]
        if any(word in module for module in modules for word in FETCHING):
            return
        own = {"token_list": ["<blank>", "<unk>", "a", "<sos/eos>"], "normalize": None, "init": None}
        try:
            with torch.device("meta"):
                cls.build_model(argparse.Namespace(**{**vars(args), **own}))
        except UserError as error:
            if not isinstance(error, RefusedValues):  # which may come of the other tokens
                raise
        except Exception:
            return

    @classmethod
    def check_options(cls, args: argparse.Namespace, early: bool = False, files: bool = False) -> None:
        """For a method's task: what it refuses in its own options; ``early`` it opens no other file."""

    @classmethod
    def _check(cls, args: argparse.Namespace) -> None:
        # Of a parser of its own: that of the command line has taken the YAML's values for its defaults.
        defaults = cls.get_parser().parse_args(["--output_dir", "-", "--token_list", "-"])
        train_options.check(args, defaults)

    @classmethod
    def train(cls, args: argparse.Namespace, stop: StopRequest | None = None) -> int:
        """Build everything that the options name and run the loop."""
        if args.ngpu > 1 and not world.launched():
            return spawn.run(args.ngpu)
        everybody = world.join(args.ngpu)
        try:
            check_precision(args.precision, everybody.device)
            return cls._train(args, everybody, stop)
        finally:
            world.leave()

    @classmethod
    def _train(cls, args: argparse.Namespace, everybody: world.World, stop: StopRequest | None) -> int:
        # Gradients of a fresh E-Branchformer are full of denormal numbers, which slow a CPU tenfold.
        torch.set_flush_denormal(True)
        # On a GPU convolutions would round to TF32 where matrix products do not: fp32 is fp32 for both.
        torch.backends.cudnn.allow_tf32 = False
        seed_torch(args.seed, "initial parameters")
        model = cls.build_model(args).to(everybody.device)
        cls._initialise(args, model)
        folder = Path(args.output_dir)
        if not args.dry_run:
            folder.mkdir(parents=True, exist_ok=True)
        streams = cls.build_streams(args, everybody)
        valid = cls.build_valid(args, streams)
        method = cls.build_method(args, model, streams)
        if args.dry_run:  # ESPnet's option: everything is there and fits, nothing is trained or written
            print("dry run: options, data and model fit", flush=True)
            return 0
        with alone(folder, everybody):
            return cls._run(args, everybody, stop, method, streams, valid)

    @classmethod
    def _run(
        cls,
        args: argparse.Namespace,
        everybody: world.World,
        stop: StopRequest | None,
        method: Method,
        streams: dict[str, Stream],
        valid: SpeechData,
    ) -> int:
        folder = Path(args.output_dir)
        if everybody.first:
            atomic_write_text(folder / "config.yaml", dump_config({**vars(args), "command": sys.argv}))
        options = TrainerOptions(
            max_epoch=args.max_epoch,
            seed=args.seed,
            auto_micro_batch=args.frames_per_micro_batch == "auto",
            precision=args.precision,
            keep_nbest_models=_single(args.keep_nbest_models),
            best_model_criterion=tuple(tuple(each) for each in args.best_model_criterion),
            checkpoint_minutes=args.checkpoint_minutes,
            checkpoint_steps=args.checkpoint_steps,
            max_skipped_steps=args.max_skipped_steps,
            log_interval=50 if args.log_interval is None else args.log_interval,
            num_workers=args.num_workers,
            use_tensorboard=args.use_tensorboard,
            resume=args.resume,
        )
        unit = _seconds_per_unit(args)
        return Trainer(options, method, streams, valid, folder, everybody, unit, stop).run()

    @classmethod
    def build_streams(cls, args: argparse.Namespace, everybody: world.World) -> dict[str, Stream]:
        """The training data by name: `labelled`; a method's task may add others."""
        data = SpeechData(
            args.train_data_dir, args.train_stats_dir, cls.build_preprocess_fn(args, True), args.seed
        )
        return {"labelled": cls.make_stream(args, "labelled", data, everybody)}

    @classmethod
    def build_valid(cls, args: argparse.Namespace, streams: dict[str, Stream]) -> SpeechData:
        """The validation data; a method's task may have more read of it."""
        return SpeechData(
            args.valid_data_dir, args.valid_stats_dir, cls.build_preprocess_fn(args, False), args.seed
        )

    @classmethod
    def make_stream(
        cls,
        args: argparse.Namespace,
        name: str,
        data: SpeechData,
        everybody: world.World,
        frames_per_step: int | None = None,
    ) -> Stream:
        """A stream over ``data`` with the options' budgets."""
        micro = 0 if args.frames_per_micro_batch == "auto" else int(args.frames_per_micro_batch)
        return Stream(
            name,
            data,
            _frame_shift(args),
            frames_per_step or args.frames_per_step,
            micro,
            args.seed,
            everybody,
        )

    @classmethod
    def build_method(cls, args: argparse.Namespace, model: ASRModel, streams: dict[str, Stream]) -> Method:
        """What is trained, and how: here plain supervised training."""
        updates = args.max_epoch * streams["labelled"].steps(1)
        # A method that has this loss as one of its own has no such option.
        sampling = parse_sampling(getattr(args, "sampling_conf", {}))
        if sampling is not None:
            check_decoder(model)
        updater = cls.make_updater(args, model.parameters(), updates)
        return SampledMethod(model, updater, args.loss_norm, sampling)

    @classmethod
    def make_updater(
        cls,
        args: argparse.Namespace,
        parameters: Iterable[torch.nn.Parameter],
        total_updates: int,
        groups: dict[str, list[torch.nn.Parameter]] | None = None,
        suffix: str = "",
    ) -> Updater:
        """Optimiser, schedule and clipping as `--optim<suffix>` and its relatives say.

        Args:
            args: the options.
            parameters: what it updates; frozen ones are left out.
            total_updates: of the whole training, where the schedule ends.
            groups: clip groups, see `Updater`.
            suffix: "", "2", ... for a task with several optimisers (`num_optimizers`).
        """
        trained = [p for p in parameters if p.requires_grad]
        option = {
            what + conf: getattr(args, f"{what}{suffix}{conf}")  # ESPnet's --optim2, --optim2_conf, ...
            for what in ("optim", "scheduler")
            for conf in ("", "_conf")
        }
        for what in ("optim", "scheduler"):
            conf = option[f"{what}_conf"]
            if option[what] is not None and not isinstance(conf, dict):  # in YAML, an empty block is null
                raise UserError(f"--{what}{suffix}_conf: expected options as `name: value`, got {conf!r}")
        optimizer = construct(optim_classes, f"optim{suffix}", option["optim"], option["optim_conf"], trained)
        scheduler = None
        if option["scheduler"] is not None:
            if option["scheduler"] == "warmupdecay":
                option["scheduler_conf"] = {"total_steps": total_updates} | option["scheduler_conf"]
            scheduler = construct(
                scheduler_classes,
                f"scheduler{suffix}",
                option["scheduler"],
                option["scheduler_conf"],
                optimizer,
            )
        if groups is not None:
            groups = {name: [p for p in group if p.requires_grad] for name, group in groups.items()}
        return Updater(optimizer, scheduler, args.grad_clip, groups)

    @classmethod
    def _initialise(cls, args: argparse.Namespace, model: ASRModel) -> None:
        for spec in args.init_param:
            print(f"{spec}: {init_param(model, spec, args.ignore_init_mismatch).summary()}", flush=True)
        for prefix in args.freeze_param:
            frozen = [p for n, p in model.named_parameters() if n == prefix or n.startswith(prefix + ".")]
            if not frozen:
                raise UserError(f"--freeze_param {prefix}: no parameter has that name")
            for parameter in frozen:
                parameter.requires_grad_(False)


def _frame_shift(args: argparse.Namespace) -> int:
    """Samples between two feature frames; stored features are frames already."""
    if args.input_size is not None:
        return 1
    hop = args.frontend_conf.get("hop_length", 128)
    train_options.check_number("frontend_conf hop_length", hop, int, 1)
    return hop


def _seconds_per_unit(args: argparse.Namespace) -> float | None:
    """Duration of a sample; that of a stored frame is not among the options."""
    return None if args.input_size is not None else 1 / sample_rate(args.frontend_conf.get("fs", 16000))


def _single(value: int | list[int]) -> int:
    return value[0] if isinstance(value, (list, tuple)) else value


def dump_config(config: dict) -> str:
    """YAML of plain values (tuples as lists), which is loaded safely everywhere."""

    def plain(value):
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
