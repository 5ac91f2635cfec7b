"""The supervised task: ESPnet's ASRTask on this project's training loop."""

import argparse
import sys
from pathlib import Path

import torch
import yaml
from espnet2.tasks.abs_task import optim_classes, scheduler_classes
from espnet2.tasks.asr import ASRTask as ESPnetASRTask

from espnet_ext.asr.model import ASRModel, adopt
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write_text
from espnet_ext.train import options as train_options
from espnet_ext.train import schedule  # noqa: F401  (its import adds our schedules to ESPnet's table)
from espnet_ext.train.data import Batch, SpeechData
from espnet_ext.train.init_param import init_param
from espnet_ext.train.keys import seed_torch
from espnet_ext.train.trainer import Totals, Trainer, TrainerOptions


class JointObjective:
    """Joint CTC/attention loss (Watanabe et al. 2017, equation 4), normalised over the optimiser step."""

    def __init__(self, model: ASRModel, loss_norm: str):
        self.model, self.loss_norm = model, loss_norm

    def __call__(self, batch: Batch, totals: Totals, augment_keys: list[int] | None):
        """See `espnet_ext.train.trainer.Objective`."""
        output = self.model.outputs(**batch.tensors, keys=augment_keys)
        labels = totals.labels if self.loss_norm == "token" else None
        loss = self.model.joint_loss(output, totals.utterances, labels)
        count = len(batch.utterances)
        figures = {"loss": (loss.detach() * totals.utterances, count)}
        if output.ctc_sum is not None:
            figures["loss_ctc"] = (output.ctc_sum.detach(), count)
        if output.att_sum is not None:
            figures["loss_att"] = (output.att_sum.detach(), count)
            figures["acc"] = (output.correct, output.labels)
        return loss, figures


class ASRTask(ESPnetASRTask):
    """ESPnet's command line and model construction; exact padding, keyed randomness and our loop."""

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        train_options.add_arguments(parser)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ASRModel:
        """Build ESPnet's model from its own options and adopt it; parameters and names are ESPnet's."""
        specaug_conf = args.specaug_conf if args.specaug is not None else None
        if args.normalize != "global_mvn":
            # The recipe names its statistics to every training; other normalisations have no such option.
            args.normalize_conf = {k: v for k, v in args.normalize_conf.items() if k != "stats_file"}
        model = super().build_model(argparse.Namespace(**{**vars(args), "specaug": None}))
        if isinstance(args.token_list, str):
            args.token_list = list(model.token_list)  # as ESPnet: the written configuration needs no file
        return adopt(model, args.padding, specaug_conf)

    @classmethod
    def main(cls, args: argparse.Namespace | None = None, cmd: list[str] | None = None) -> int:
        """Parse the command line and train.

        Returns:
            exit status: 0 done, 75 stopped by a signal.

        Raises:
            UserError: options, data or files that do not fit.
        """
        parser = cls.get_parser()
        args = args or parser.parse_args(cmd)
        if args.print_config:
            cls.print_config()
            return 0
        cls.check_required_command_args(args)
        train_options.check(args, parser.parse_args(["--output_dir", "-", "--token_list", "-"]))
        return cls.train(args)

    @classmethod
    def train(cls, args: argparse.Namespace) -> int:
        """Build everything that the options name and run the loop."""
        if args.ngpu > 1:
            raise UserError("--ngpu: this training runs on one GPU or on the CPU")
        if args.ngpu == 1 and not torch.cuda.is_available():
            raise UserError("--ngpu 1: no GPU is visible here; use --ngpu 0 or check `nvidia-smi`")
        device = "cuda" if args.ngpu else "cpu"
        # Gradients of a fresh E-Branchformer are full of denormal numbers, which slow a CPU tenfold.
        torch.set_flush_denormal(True)
        seed_torch(args.seed, "initial parameters")
        model = cls.build_model(args).to(device)
        cls._initialise(args, model)
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        train_data, valid_data = (
            SpeechData(data_dir, stats_dir, cls.build_preprocess_fn(args, train), args.seed)
            for data_dir, stats_dir, train in (
                (args.train_data_dir, args.train_stats_dir, True),
                (args.valid_data_dir, args.valid_stats_dir, False),
            )
        )
        atomic_write_text(folder / "config.yaml", _dump({**vars(args), "command": sys.argv}))
        split, name, mode = args.best_model_criterion[0]
        trainer = Trainer(
            TrainerOptions(
                max_epoch=args.max_epoch,
                frames_per_step=args.frames_per_step,
                frames_per_micro_batch=args.frames_per_micro_batch or args.frames_per_step,
                seed=args.seed,
                grad_clip=args.grad_clip,
                keep_nbest_models=_single(args.keep_nbest_models),
                best_model_criterion=(split, name, mode),
                checkpoint_minutes=args.checkpoint_minutes,
                max_skipped_steps=args.max_skipped_steps,
                log_interval=args.log_interval or 50,
                num_workers=args.num_workers,
                device=device,
                use_tensorboard=args.use_tensorboard,
                resume=args.resume,
            ),
            model,
            JointObjective(model, args.loss_norm),
            optim_classes[args.optim]([p for p in model.parameters() if p.requires_grad], **args.optim_conf),
            lambda optimizer, steps: _scheduler(args, optimizer, steps),
            train_data,
            valid_data,
            frame_shift=_frame_shift(args),
            folder=folder,
        )
        return trainer.run()

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


def _scheduler(args: argparse.Namespace, optimizer: torch.optim.Optimizer, steps: int):
    if args.scheduler is None:
        return None
    conf = dict(args.scheduler_conf)
    if args.scheduler == "warmupdecay":
        conf.setdefault("total_steps", steps)
    return scheduler_classes[args.scheduler](optimizer, **conf)


def _frame_shift(args: argparse.Namespace) -> int:
    """Samples between two feature frames; stored features are frames already."""
    return 1 if args.input_size is not None else int(args.frontend_conf.get("hop_length", 128))


def _single(value: int | list[int]) -> int:
    values = value if isinstance(value, (list, tuple)) else [value]
    if len(values) != 1:
        raise UserError(f"--keep_nbest_models: expected one number, got {value}")
    return int(values[0])


def _dump(config: dict) -> str:
    """YAML of plain values (tuples as lists), which is loaded safely everywhere."""

    def plain(value):
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
