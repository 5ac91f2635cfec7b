"""The task `gan`: options in YAML, and what does not fit is refused before training starts."""

import argparse
from pathlib import Path

import torch
import yaml
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_ext.asr.model import ASRModel
from espnet_ext.asr.task import ASRTask
from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from espnet_ext.gan.critic import Critic
from espnet_ext.gan.method import GANMethod
from espnet_ext.gan.options import AlarmOptions, GANOptions, check_names, from_conf
from espnet_ext.train.keys import seed_torch
from espnet_ext.train.streams import Stream

#: Options of `critic_conf` besides the vocabulary, which is the recogniser's.
CRITIC_OPTIONS = ("width", "kernel_sizes", "norm", "activation")


class GANTask(ASRTask):
    """Adversarial fine-tuning of a joint CTC/attention recogniser; the critic's optimiser is `--optim2`."""

    num_optimizers: int = 2

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        add = parser.add_argument_group("gan").add_argument
        for name, what in (
            ("critic_conf", "the critic: width, kernel_sizes, norm, activation (espnet_ext.gan.critic)"),
            ("gan_conf", "losses and turns (espnet_ext.gan.options.GANOptions)"),
            ("alarm_conf", "when to warn or stop (espnet_ext.gan.options.AlarmOptions)"),
        ):
            add(f"--{name}", action=NestedDictAction, default={}, help=what)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ASRModel:
        """The recogniser; options of the method are checked before it is built."""
        from_conf(GANOptions, "gan_conf", args.gan_conf)
        from_conf(AlarmOptions, "alarm_conf", args.alarm_conf)
        _check_critic_options(args.critic_conf)
        weight = args.model_conf.get("ctc_weight", 0.5)
        if args.decoder in (None, "transducer") or weight == 1.0:
            raise UserError(
                "gan: the model has no attention decoder whose output a critic could judge "
                f"(decoder: {args.decoder}, model_conf: ctc_weight: {weight}); "
                "fine-tune a joint CTC/attention model"
            )
        return super().build_model(args)

    @classmethod
    def _initialise(cls, args: argparse.Namespace, model: ASRModel) -> None:
        for spec in args.init_param:
            path, _, destination = [*spec.split(":"), "", ""][:3]
            # An encoder of other tokens is welcome.
            if destination.split(".")[0] in ("", "decoder", "ctc"):
                check_vocabulary(path, list(args.token_list))
        before = {name: value.clone() for name, value in model.decoder.state_dict().items()}
        super()._initialise(args, model)
        if all(p.requires_grad is False for n, p in model.named_parameters() if not n.startswith("ctc.")):
            raise UserError(
                f"--freeze_param {' '.join(args.freeze_param)}: freezes encoder and decoder; nothing is left "
                "that a critic could teach"
            )
        if not args.init_param:
            print("gan: no --init_param: adversarial training from random parameters", flush=True)
            return
        same = {n for n, value in model.decoder.state_dict().items() if torch.equal(value, before[n])}
        given = f"--init_param {' '.join(args.init_param)}"
        if same == set(before):
            raise UserError(
                f"{given}: brings no parameter of the attention decoder; "
                "gan fine-tunes a model that has one (leave --init_param out to train from nothing)"
            )
        # --ignore_init_mismatch would leave them random in silence.
        random = sorted(n for n in same if before[n].dim() > 1 and model.vocab_size in before[n].shape)
        if random:
            raise UserError(
                f"{given}: brings no decoder.{random[0]} for this training's {model.vocab_size} tokens; use "
                "the token list that the model was trained with (--token_list)"
            )

    @classmethod
    def build_method(cls, args: argparse.Namespace, model: ASRModel, streams: dict[str, Stream]) -> GANMethod:
        """Recogniser and critic with an optimiser each."""
        options = from_conf(GANOptions, "gan_conf", args.gan_conf)
        seed_torch(args.seed, "initial parameters", "critic")
        stream = streams["labelled"]
        critic = Critic(model.vocab_size, **args.critic_conf).to(stream.world.device)
        check_lengths(stream, critic.reach, options.min_length)
        updates = args.max_epoch * stream.steps(1)
        return GANMethod(
            model,
            cls.make_updater(args, model.parameters(), updates),
            critic,
            cls.make_updater(args, critic.parameters(), updates * options.critic_updates, suffix="2"),
            options,
            from_conf(AlarmOptions, "alarm_conf", args.alarm_conf),
            args.loss_norm,
            stream.world,
        )


def _check_critic_options(conf: dict) -> None:
    check_names("critic_conf", conf, CRITIC_OPTIONS)
    Critic(2, **conf)  # its own checks


def check_vocabulary(model_file: str, tokens: list[str]) -> None:
    """Compare the tokens with those of the model to start from, where its `config.yaml` lies beside it.

    Raises:
        UserError: they are others, or in another order.
    """
    config = Path(model_file).parent / "config.yaml"
    if not config.is_file():
        return
    try:
        theirs = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("token_list")
    except (yaml.YAMLError, AttributeError):
        raise UserError(f"{config}: not the configuration of a model (expected a YAML mapping)") from None
    if isinstance(theirs, str):
        path = Path(theirs) if Path(theirs).exists() else config.parent / theirs
        if not path.exists():
            return
        theirs = [line for _, line in read_lines(path)]
    if theirs is None or list(theirs) == tokens:
        return
    advice = "use the token list that the model was trained with (--token_list)"
    if len(theirs) != len(tokens):
        raise UserError(f"{config}: {len(theirs)} tokens, this training has {len(tokens)}; {advice}")
    first = next(i for i, (one, other) in enumerate(zip(theirs, tokens, strict=True)) if one != other)
    raise UserError(
        f"{config}: token {first} is {theirs[first]!r}, this training's {tokens[first]!r}; {advice}"
    )


def check_lengths(stream: Stream, reach: int, min_length: int) -> None:
    """Refuse transcripts that the critic's kernels do not fit on, or say how many the options leave out.

    Args:
        stream: labelled training data.
        reach: fewest labels, `<eos>` counted, that the critic can score.
        min_length: of `gan_conf`; shorter ones are left out by intention; 0: none.

    Raises:
        UserError: shorter ones and no `min_length`, or one below `reach`; or nothing would be left.
    """
    if 0 < min_length < reach:
        raise UserError(
            f"gan_conf: min_length {min_length}: the critic's kernels need {reach} labels with <eos>"
        )
    lengths = {utterance: stream.data.labels[utterance] + 1 for utterance in stream.lengths}
    short = sorted(
        (u for u, n in lengths.items() if n < max(min_length, reach)), key=lambda u: (lengths[u], u)
    )
    if short and not min_length:
        advice = "choose smaller kernels (critic_conf: kernel_sizes)"
        if len(short) < len(lengths):
            advice += f", or leave them to the joint loss alone (gan_conf: min_length: {reach})"
        raise UserError(
            f"{len(short)} of {len(lengths)} transcripts are too short for the critic's kernels, which need "
            f"{reach} labels with <eos>; the shortest is {short[0]!r} with {lengths[short[0]]}: {advice}"
        )
    if len(short) == len(lengths):
        raise UserError(
            f"gan_conf: min_length {min_length}: all transcripts are shorter; the longest has "
            f"{max(lengths.values())} labels with <eos>"
        )
    if short:
        print(f"gan: {len(short)} of {len(lengths)} transcripts are too short for the critic", flush=True)
