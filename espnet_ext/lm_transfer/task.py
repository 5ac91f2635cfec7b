"""The tasks behind `--method lm_transfer`: an attention model's, and a transducer's."""

import argparse
from pathlib import Path

import torch
from espnet2.asr.decoder.transformer_decoder import BaseTransformerDecoder
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_ext.asr.model import ASRModel
from espnet_ext.asr.task import ASRTask
from espnet_ext.asr.transducer import TransducerModel
from espnet_ext.asr.transducer_task import TransducerTask
from espnet_ext.errors import UserError
from espnet_ext.lm_transfer.attention import AttentionTransfer
from espnet_ext.lm_transfer.dump import tokenizer_identity
from espnet_ext.lm_transfer.heads import EmbeddingHead
from espnet_ext.lm_transfer.options import TransferOptions, parse_conf
from espnet_ext.lm_transfer.store import TargetStore
from espnet_ext.lm_transfer.targets import Targets
from espnet_ext.lm_transfer.transducer import TransducerTransfer
from espnet_ext.train.data import read_shapes
from espnet_ext.train.keys import key
from espnet_ext.train.method import Method
from espnet_ext.train.streams import Stream


def add_transfer_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that both tasks have besides those of their control."""
    group = parser.add_argument_group("transfer of LM embeddings")
    group.add_argument("--lm_targets", help="folder of the LM's embeddings (stage 7)")
    group.add_argument(
        "--lm_transfer_conf",
        action=NestedDictAction,
        default={},
        help="weight, distance, head, form; see conf/finetune_lm_transfer.yaml",
    )


def build_targets(args: argparse.Namespace, options: TransferOptions, streams: dict[str, Stream]) -> Targets:
    """Open the store and hold it against the transcripts and tokens of this training.

    Raises:
        UserError: no store, one of other tokens, or one that lacks transcripts.
    """
    if not args.lm_targets:
        raise UserError(
            "--lm_targets: name the folder of the LM's embeddings, which stage 7 (targets) writes"
        )
    store = TargetStore(args.lm_targets)
    if "recogniser" not in store.settings:  # stores of speech are built alike
        raise UserError(
            f"--lm_targets {store.folder}: holds no embeddings of a language model; name what stage 7 "
            "(targets) of --method lm_transfer wrote (of a recipe exp/lm_targets_...)"
        )
    identity = tokenizer_identity(args.token_list, args.token_type, args.bpemodel)
    if store.settings["recogniser"] != identity:
        raise UserError(
            f"{store.folder}: these targets are of another token list or SentencePiece model than this "
            "training; run stage 7 (targets) again"
        )
    texts = [Path(folder) / "text" for folder in (args.train_data_dir, args.valid_data_dir)]
    targets = Targets(store, texts, len(args.token_list), options.targets, options.standardise, options.shift)
    targets.check(streams["labelled"].data.labels)
    targets.check(read_shapes(Path(args.valid_stats_dir) / "text_shape"))
    return targets


def build_head(args: argparse.Namespace, size: int, targets: Targets, kind: str, device) -> EmbeddingHead:
    """A head whose random start moves no other random number of the training."""
    state = torch.get_rng_state()
    torch.manual_seed(key(args.seed, "initial parameters", "head"))
    head = EmbeddingHead(size, targets.size, kind)
    torch.set_rng_state(state)
    return head.to(device)


class _Transfer:
    """What both tasks do beside the control's, whose class stands behind this one among their bases."""

    transducer = False

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        add_transfer_arguments(parser)

    @classmethod
    def train(cls, args: argparse.Namespace, *rest, **options) -> int:
        """Check what can be checked from the options, then train."""
        cls.check_options(args)
        return super().train(args, *rest, **options)

    @classmethod
    def check_options(cls, args: argparse.Namespace, early: bool = False, files: bool = False) -> None:
        """Refuse what `--lm_transfer_conf` must not say."""
        parse_conf(args.lm_transfer_conf, cls.transducer)

    @classmethod
    def _method(
        cls,
        kind: type,
        size: int,
        options: TransferOptions,
        args: argparse.Namespace,
        model: torch.nn.Module,
        streams: dict[str, Stream],
    ) -> Method:
        """A method of a kind, with a head over states of a size."""
        targets = build_targets(args, options, streams)
        head = build_head(args, size, targets, options.head, next(model.parameters()).device)
        steps = args.max_epoch * streams["labelled"].steps(1)
        return kind(
            model,
            cls.make_updater(args, model.parameters(), steps),
            head,
            cls.make_updater(args, head.parameters(), steps),
            targets,
            options,
            steps,
            args.loss_norm,
        )


class LMTransferTask(_Transfer, ASRTask):
    """ASRTask whose decoder also predicts the LM's embeddings."""

    @classmethod
    def build_method(cls, args: argparse.Namespace, model: ASRModel, streams: dict[str, Stream]) -> Method:
        if model.ctc_weight == 1.0 or not isinstance(model.decoder, BaseTransformerDecoder):
            what = "no attention branch" if model.ctc_weight == 1.0 else type(model.decoder).__name__
            raise UserError(
                f"lm_transfer reads the states of a Transformer decoder, and the model has {what}; "
                "take decoder: transformer with ctc_weight below 1, or a transducer"
            )
        size = model.decoder.embed[0].embedding_dim
        return cls._method(AttentionTransfer, size, parse_conf(args.lm_transfer_conf), args, model, streams)


class LMTransferTransducerTask(_Transfer, TransducerTask):
    """TransducerTask whose joint network (or predictor) also predicts the LM's embeddings."""

    transducer = True

    @classmethod
    def build_method(
        cls, args: argparse.Namespace, model: TransducerModel, streams: dict[str, Stream]
    ) -> Method:
        options = parse_conf(args.lm_transfer_conf)
        joint = model.joint_network.lin_out.in_features
        size = model.decoder.output_size if options.form == "predictor" else joint
        return cls._method(TransducerTransfer, size, options, args, model, streams)
