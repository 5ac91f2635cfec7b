"""What trainings of language models have in common: options from a YAML, and the loop on sentences."""

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
import yaml

from espnet_ext.asr.command_line import be_strict, config_of
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write_text, read_lines
from espnet_ext.lm.text_data import TextData
from espnet_ext.train import world
from espnet_ext.train.alone import alone
from espnet_ext.train.keys import seed_torch
from espnet_ext.train.method import Method, Updater
from espnet_ext.train.nbest import read_nbest
from espnet_ext.train.options import check_grad_clip, check_number
from espnet_ext.train.schedule import WarmupDecay
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.streams import Stream
from espnet_ext.train.trainer import Trainer, TrainerOptions
from espnet_ext.yamls import parse_yaml

#: The least that a number may be, if not 0.
_LEAST = dict.fromkeys("max_epoch tokens_per_step nbest log_interval size heads blocks".split(), 1)


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Command line over the YAML of `--config` over the defaults.

    Raises:
        UserError: an unreadable YAML, an option that there is not, or a value that makes no sense.
    """
    be_strict(parser)
    path = config_of(argv)
    if path:
        options = parse_yaml("\n".join(line for _, line in read_lines(path)), path) or {}
        known = {action.dest for action in parser._actions}
        unknown = sorted(map(str, set(options) - known)) if isinstance(options, dict) else ["no mapping"]
        if unknown:
            raise UserError(f"{path}: unknown options {', '.join(unknown)}; see {parser.prog} --help")
        parser.set_defaults(**options)
    args = parser.parse_args(argv)
    for action in parser._actions:
        if action.dest not in vars(args):  # --help
            continue
        value = getattr(args, action.dest)
        try:
            _check(action, args)
        except UserError as error:
            where = f"{path}: " if path and options.get(action.dest) is value else ""
            raise UserError(f"{where}{error}") from None
    return args


def _check(action: argparse.Action, args: argparse.Namespace) -> None:
    """Refuse values that make no sense; argparse lets through what stands in a YAML."""
    name, value = action.dest, getattr(args, action.dest)
    if name == "grad_clip":
        check_grad_clip(value)
    elif action.choices is not None:
        if isinstance(value, bool):  # in a YAML, `true` is no text
            value = str(value).lower()
            setattr(args, name, value)
        if value not in action.choices:
            raise UserError(f"--{name} {value}: expected {' or '.join(map(str, action.choices))}")
    elif action.type in (int, float):
        check_number(name, value, action.type, _LEAST.get(name, 0))


class Fitted(NamedTuple):
    """How a training ended."""

    status: int  # 0 done, 75 stopped by a signal
    epochs: list[int]  # the best ones, the best first; empty where this process is not to write a model


def fit(
    args: argparse.Namespace,
    stop: StopRequest,
    data: TextData,
    valid: TextData,
    build: Callable[[], torch.nn.Module],
    method_of: Callable[[torch.nn.Module, Updater], Method],
) -> Fitted:
    """Train a language model: AdamW, warm-up and decay, the best epochs by the validation loss.

    Args:
        args: `output_dir`, `tokens_per_step`, `lr`, `warmup_steps`, `weight_decay`, `grad_clip`, `max_epoch`,
            `nbest`, `seed`, `ngpu`, `resume`, `checkpoint_minutes`, `log_interval`; all go to config.yaml.
        stop: set by a signal.
        data, valid: sentences.
        build: makes the model, under the seed's key.
        method_of: from the model on its device and its updater to the method.
    """
    everybody = world.join(args.ngpu)
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        with alone(args.output_dir, everybody):
            return _fit(args, stop, data, valid, build, method_of, everybody)
    finally:
        world.leave()


def _fit(args, stop, data, valid, build, method_of, everybody: world.World) -> Fitted:
    seed_torch(args.seed, "initial parameters")
    model = build().to(everybody.device)
    stream = Stream("labelled", data, 1, args.tokens_per_step, 0, args.seed, everybody)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=args.weight_decay
    )
    schedule = WarmupDecay(optimizer, args.warmup_steps, args.max_epoch * stream.steps(1))
    method = method_of(model, Updater(optimizer, schedule, args.grad_clip))
    plain = (int, float, bool, dict)
    config = {n: v if isinstance(v, plain) else str(v) for n, v in vars(args).items()}
    atomic_write_text(
        args.output_dir / "config.yaml", yaml.safe_dump(config | {"command": sys.argv}, sort_keys=False)
    )
    print(
        f"{len(data.lengths)} sentences, {sum(data.labels.values())} tokens, {stream.steps(1)} steps an "
        f"epoch; {sum(p.numel() for p in model.parameters())} parameters",
        flush=True,
    )
    options = TrainerOptions(
        max_epoch=args.max_epoch,
        frames_per_validation_batch=args.tokens_per_step,
        seed=args.seed,
        keep_nbest_models=args.nbest,
        best_model_criterion=(("valid", "loss", "min"),),
        checkpoint_minutes=args.checkpoint_minutes,
        log_interval=args.log_interval,
        num_workers=0,
        resume=args.resume == "true",
    )
    status = Trainer(
        options, method, {"labelled": stream}, valid, args.output_dir, everybody, None, stop
    ).run()
    if status != 0 or not everybody.first:
        return Fitted(status, [])
    return Fitted(status, read_nbest(args.output_dir)["epochs"][: args.nbest])
