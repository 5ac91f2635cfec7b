"""What both stages' tasks share: the student's chunks, and what they are checked for."""

import argparse

from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_ext.asr.transducer import TransducerModel
from espnet_ext.asr.transducer_task import TransducerTask
from espnet_ext.distillation.streaming import frame_shift_of, look_ahead
from espnet_ext.errors import UserError
from espnet_ext.train.signals import StopRequest


class StudentTask(TransducerTask):
    """TransducerTask of a student that may stream."""

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        group = parser.add_argument_group("distillation")
        group.add_argument(
            "--distillation_conf", action=NestedDictAction, default={}, help="see docs/distillation.md"
        )
        group.add_argument(
            "--streaming_chunk",
            type=int,
            default=0,
            help="encoder frames heard at once, in validation as in decoding; 0: no streaming student",
        )

    @classmethod
    def check_options(cls, args: argparse.Namespace, early: bool = False, files: bool = False) -> None:
        """Refuse a front end, or chunks, that a student cannot have."""
        frame_shift_of(vars(args))
        if args.streaming_chunk < 0:
            raise UserError(f"--streaming_chunk {args.streaming_chunk}: expected 0 (no streaming) or more")
        if args.streaming_chunk:
            look_ahead(vars(args), args.streaming_chunk)

    @classmethod
    def train(cls, args: argparse.Namespace, stop: StopRequest | None = None) -> int:
        cls.check_options(args)
        if args.streaming_chunk:
            found = look_ahead(vars(args), args.streaming_chunk)
            rate = int(args.frontend_conf.get("fs", 16000))
            print(
                f"streaming student: chunks of {args.streaming_chunk} encoder frames, no output depends on "
                f"more than {found.samples} samples ({1000 * found.samples / rate:.0f} ms) after its time",
                flush=True,
            )
        return super().train(args, stop)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> TransducerModel:
        model = super().build_model(args)
        if args.streaming_chunk:
            model.encoder.evaluation_chunk = args.streaming_chunk
        return model
