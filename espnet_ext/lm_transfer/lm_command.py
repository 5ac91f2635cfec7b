"""What `lm_train` does with its options."""

import argparse
import json
import sys

import torch
import yaml

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write_text, read_lines
from espnet_ext.lm_transfer.alignment import SpanTokenizer
from espnet_ext.lm_transfer.lm_training import MaskedLMMethod, TextData, write_lm
from espnet_ext.lm_transfer.masked_lm import MaskedLM
from espnet_ext.train import world
from espnet_ext.train.keys import seed_torch
from espnet_ext.train.method import Updater
from espnet_ext.train.schedule import WarmupDecay
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.streams import Stream
from espnet_ext.train.trainer import Trainer, TrainerOptions


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Command line over the YAML of `--config` over the defaults.

    Raises:
        UserError: an unreadable YAML, or an option in it that there is not.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    if path:
        try:
            options = yaml.safe_load("\n".join(line for _, line in read_lines(path))) or {}
        except yaml.YAMLError as error:
            raise UserError(f"{path}: not YAML: {error}") from None
        known = {action.dest for action in parser._actions}
        unknown = sorted(set(options) - known) if isinstance(options, dict) else ["no mapping"]
        if unknown:
            raise UserError(f"{path}: unknown options {', '.join(unknown)}; see lm_train --help")
        parser.set_defaults(**options)
    return parser.parse_args(argv)


def train_lm(args: argparse.Namespace, stop: StopRequest) -> int:
    """Train, average, write `lm.pth` and `lm.yaml`.

    Returns:
        exit status: 0 done, 75 stopped by a signal.

    Raises:
        UserError: options or texts that do not fit.
    """
    if args.size % args.heads or args.size % 2:
        raise UserError(f"--size {args.size}: expected an even multiple of --heads {args.heads}")
    if not 0 < args.mask_rate < 1:
        raise UserError(f"--mask_rate {args.mask_rate}: expected a part between 0 and 1")
    tokenizer = SpanTokenizer(args.token_list, args.token_type, args.bpemodel)
    data = TextData(args.text, tokenizer, args.max_sentences)
    valid = TextData(args.valid_text, tokenizer)
    everybody = world.join(args.ngpu)
    try:
        return _train(args, stop, tokenizer, data, valid, everybody)
    finally:
        world.leave()


def _train(args, stop, tokenizer, data: TextData, valid: TextData, everybody: world.World) -> int:
    seed_torch(args.seed, "initial parameters")
    shape = {name: getattr(args, name) for name in ("size", "heads", "blocks", "dropout_rate")}
    model = MaskedLM(len(tokenizer), **shape).to(everybody.device)
    stream = Stream("labelled", data, 1, args.tokens_per_step, 0, args.seed, everybody)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=args.weight_decay
    )
    schedule = WarmupDecay(optimizer, args.warmup_steps, args.max_epoch * stream.steps(1))
    method = MaskedLMMethod(model, Updater(optimizer, schedule, args.grad_clip), args.mask_rate)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    config = {n: v if isinstance(v, (int, float, bool)) else str(v) for n, v in vars(args).items()}
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
    if status == 0 and everybody.first:
        ranked = json.loads((args.output_dir / "nbest.json").read_text(encoding="utf-8"))
        write_lm(args.output_dir, ranked["epochs"][: args.nbest], tokenizer, shape)
    return status
