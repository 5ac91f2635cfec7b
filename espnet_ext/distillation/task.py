"""Stage 2 as a task: what stage 8 runs for `--method distillation`."""

import argparse
from pathlib import Path

from espnet_ext.asr.load import load_exported
from espnet_ext.asr.transducer import TransducerModel
from espnet_ext.distillation.method import DistillationMethod
from espnet_ext.distillation.options import student_options
from espnet_ext.distillation.stage1 import take_over
from espnet_ext.distillation.streaming import frame_shift_of
from espnet_ext.distillation.student import StudentTask
from espnet_ext.distillation.targets import attach_clean_audio
from espnet_ext.errors import UserError
from espnet_ext.files import read_json
from espnet_ext.train.method import Method
from espnet_ext.train.streams import Stream
from espnet_ext.train.world import World


class DistillationTask(StudentTask):
    """A transducer that starts from the encoder of stage 1, or from scratch where none is named."""

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        group = parser.add_argument_group("stage 2 of distillation")
        group.add_argument("--stage1", help="experiment of stage 1 whose encoder is taken over")
        group.add_argument("--stage1_nbest", type=int, default=5, help="best epochs of it that are averaged")
        group.add_argument("--path_teacher", help="exported transducer whose one best path is followed")

    @classmethod
    def check_options(cls, args: argparse.Namespace, early: bool = False, files: bool = False) -> None:
        """Refuse what `--distillation_conf` must not say; early, nobody has named a path teacher yet."""
        options = student_options(args.distillation_conf)
        if options.path_weight and not args.path_teacher and not early:
            raise UserError(
                "distillation_conf path_weight: needs --path_teacher, an exported transducer (of a recipe, "
                "its own option --path_weight names one); or set it to 0"
            )
        if args.stage1_nbest < 1:
            raise UserError(f"--stage1_nbest {args.stage1_nbest}: expected at least 1")
        super().check_options(args, early, files)

    @classmethod
    def _initialise(cls, args: argparse.Namespace, model: TransducerModel) -> None:
        super()._initialise(args, model)
        if args.stage1:
            found = take_over(model, args.stage1, vars(args), args.stage1_nbest)
            parts = sorted({name.split(".")[0] for name in found.fresh})
            print(
                f"{args.stage1}: {len(found.loaded)} tensors of the encoder taken over; as initialised: "
                f"{', '.join(parts)}",
                flush=True,
            )

    @classmethod
    def build_streams(cls, args: argparse.Namespace, everybody: World) -> dict[str, Stream]:
        streams = super().build_streams(args, everybody)
        if args.path_teacher:
            rate = int(args.frontend_conf.get("fs", 16000))
            attach_clean_audio(streams["labelled"].data, args.train_data_dir, rate)
        return streams

    @classmethod
    def build_method(
        cls, args: argparse.Namespace, model: TransducerModel, streams: dict[str, Stream]
    ) -> Method:
        options = student_options(args.distillation_conf)
        updates = args.max_epoch * streams["labelled"].steps(1)
        updater = cls.make_updater(args, model.parameters(), updates)
        teacher = cls._path_teacher(args, streams["labelled"].world) if args.path_teacher else None
        before = read_json(Path(args.stage1) / "train_summary.json") if args.stage1 else None
        return DistillationMethod(model, updater, options, args.loss_norm, teacher, before)

    @classmethod
    def _path_teacher(cls, args: argparse.Namespace, everybody: World) -> TransducerModel:
        """Load the transducer teacher.

        Raises:
            UserError: it is none, or of other tokens, sample rate or frame rate.
        """
        folder = Path(args.path_teacher)
        teacher = load_exported(folder, everybody.device)
        config = teacher.export_config
        if not isinstance(teacher, TransducerModel):
            raise UserError(f"--path_teacher {folder}: is no transducer, so that it has no such path")
        if list(config["token_list"]) != list(args.token_list):
            raise UserError(f"{folder / 'config.yaml'}: the teacher's tokens are not this training's")
        rates = [(c.get("frontend_conf") or {}).get("fs", 16000) for c in (config, vars(args))]
        shifts = [frame_shift_of(c) for c in (config, vars(args))]
        if rates[0] != rates[1] or shifts[0] != shifts[1]:
            raise UserError(
                f"{folder / 'config.yaml'}: the teacher has a frame every {shifts[0]} samples at {rates[0]} "
                f"Hz, the student every {shifts[1]} at {rates[1]} Hz: their nodes are not the same"
            )
        return teacher
