"""Options of the commands that train on unlabelled speech."""

import argparse

from espnet2.utils.nested_dict_action import NestedDictAction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for a self-supervised objective and its data."""
    group = parser.add_argument_group("unlabelled speech")
    add = group.add_argument
    add("--unlabelled_data_dir", help="dumped directory of the unlabelled set (stage 3)")
    add("--unlabelled_stats_dir", help="lengths of the unlabelled set (stage 5)")
    add(
        "--unlabelled_frames_per_step",
        type=int,
        default=0,
        help="feature frames of an unlabelled batch, padding counted (0: as --frames_per_step)",
    )
    add("--ssl", default="bestrq", help="self-supervised objective: bestrq or infonce")
    add(
        "--ssl_conf",
        action=NestedDictAction,
        default={},
        help="its options; alarm_steps (look for collapse every so many steps) and alarm (warn or stop)",
    )


def sample_rate(args: argparse.Namespace) -> int | None:
    """Sample rate in Hz of what the recogniser reads, None for stored features."""
    return None if args.input_size is not None else int(args.frontend_conf.get("fs", 16000))
