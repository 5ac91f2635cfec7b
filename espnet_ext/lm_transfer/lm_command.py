"""What `lm_train` does with its options."""

import argparse

from espnet_ext.errors import UserError
from espnet_ext.lm.text_data import TextData
from espnet_ext.lm.training import fit
from espnet_ext.lm_transfer.alignment import SpanTokenizer
from espnet_ext.lm_transfer.lm_training import MaskedLMMethod, write_lm
from espnet_ext.lm_transfer.masked_lm import MaskedLM
from espnet_ext.train.signals import StopRequest


def train_lm(args: argparse.Namespace, stop: StopRequest) -> int:
    """Train, average, write `lm.pth` and `lm.yaml`.

    Returns:
        exit status: 0 done, 75 stopped by a signal.

    Raises:
        UserError: options or texts that do not fit.
    """
    if args.size % args.heads or args.size % 2:
        raise UserError(f"--size {args.size}: expected an even multiple of --heads {args.heads}")
    if not args.dropout_rate < 1:
        raise UserError(f"--dropout_rate {args.dropout_rate}: expected a part from 0 to below 1")
    if not 0 < args.mask_rate < 1:
        raise UserError(f"--mask_rate {args.mask_rate}: expected a part between 0 and 1")
    tokenizer = SpanTokenizer(args.token_list, args.token_type, args.bpemodel)
    data = TextData(args.text, tokenizer, args.max_sentences)
    valid = TextData(args.valid_text, tokenizer)
    shape = {name: getattr(args, name) for name in ("size", "heads", "blocks", "dropout_rate")}
    status, epochs = fit(
        args,
        stop,
        data,
        valid,
        lambda: MaskedLM(len(tokenizer), **shape),
        lambda model, updater: MaskedLMMethod(model, updater, args.mask_rate),
    )
    if epochs:
        write_lm(args.output_dir, epochs, tokenizer, shape)
    return status
