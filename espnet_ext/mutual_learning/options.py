"""Options of mutual learning, checked before anything is built."""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.asr.load import read_config
from espnet_ext.asr.ramp import Ramp
from espnet_ext.asr.sampled import Sampling, make_sampling
from espnet_ext.asr.scheduled_sampling import DRAWS
from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from espnet_ext.mutual_learning.losses import FORMS, check_weight
from espnet_ext.train.export import INFERENCE_KEYS

#: `mutual_learning_conf` and its defaults; conf/finetune_mutual_learning.yaml says what each is.
DEFAULTS = {
    "weight": 0.5,
    "weight_start": 0,
    "weight_warmup": 0,
    "hard_weight": "complement",
    "form": "cross_entropy",
    "temperature": 1.0,
    "ctc": False,
    "masks": "independent",
    "order": "simultaneous",
    "sampling": 0.0,
    "sampling_start": 0,
    "sampling_warmup": 0,
    "sampling_draw": "sample",
    "sampling_history": "shared",
}

#: Options that have a few values.
CHOICES = {
    "hard_weight": ("complement", "full"),
    "form": FORMS,
    "masks": ("independent", "shared"),
    "order": ("simultaneous", "sequential"),
    "sampling_draw": DRAWS,
    "sampling_history": ("shared", "own"),
}

#: What a peer may have otherwise than the others: its model, where it starts, how it is updated.
MODEL_OPTIONS = (
    "encoder encoder_conf decoder decoder_conf ctc_conf model_conf init specaug specaug_conf".split()
)
START_OPTIONS = "init_param ignore_init_mismatch freeze_param model_dir".split()
UPDATE_OPTIONS = "optim optim_conf scheduler scheduler_conf grad_clip".split()
TOKEN_OPTIONS = ("token_list", "token_type", "bpemodel")
PEER_OPTIONS = ("seed", "frozen", *START_OPTIONS, *MODEL_OPTIONS, *UPDATE_OPTIONS)


@dataclass(frozen=True)
class MutualOptions:
    """`mutual_learning_conf` after its checks."""

    weight: Ramp
    full_hard: bool = False
    form: str = "cross_entropy"
    temperature: float = 1.0
    ctc: bool = False
    shared_masks: bool = False
    sequential: bool = False
    sampling: Sampling | None = None


@dataclass(frozen=True)
class PeerOptions:
    """What the options say about one peer."""

    name: str
    seed: int
    frozen: bool
    args: argparse.Namespace  # complete: those of the training with the peer's own in their place


def parse_conf(conf: dict) -> MutualOptions:
    """Check `mutual_learning_conf`.

    Raises:
        UserError: naming the option that is unknown, of another type or out of range.
    """
    unknown = sorted(set(conf) - set(DEFAULTS))
    if unknown:
        raise UserError(
            f"mutual_learning_conf: unknown {', '.join(unknown)}; there are {', '.join(sorted(DEFAULTS))}"
        )
    values = {**DEFAULTS, **conf}
    for name, value in values.items():
        _check_type(name, value)
    check_weight(values["weight"], values["hard_weight"] == "full")
    if not values["temperature"] > 0:
        raise UserError(f"mutual_learning_conf: temperature {values['temperature']}: expected more than 0")
    sampling = [values[f"sampling{of}"] for of in ("", "_start", "_warmup", "_draw", "_history")]
    return MutualOptions(
        weight=Ramp(values["weight"], values["weight_start"], values["weight_warmup"]),
        full_hard=values["hard_weight"] == "full",
        form=values["form"],
        temperature=values["temperature"],
        ctc=values["ctc"],
        shared_masks=values["masks"] == "shared",
        sequential=values["order"] == "sequential",
        sampling=make_sampling(*sampling, where="mutual_learning_conf: sampling"),
    )


def _check_type(name: str, value) -> None:
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise UserError(f"mutual_learning_conf: {name} {value}: expected {' or '.join(CHOICES[name])}")
        return
    kind = type(DEFAULTS[name])
    # A bool is an int in Python, and YAML reads `1e-3` as a string.
    right = isinstance(value, (int, float) if kind is float else kind)
    if not right or isinstance(value, bool) != (kind is bool):
        what = {bool: "true or false", int: "a whole number", float: "a number, as 0.001"}[kind]
        raise UserError(f"mutual_learning_conf: {name} {value!r}: expected {what}")


def parse_peers(args: argparse.Namespace) -> list[PeerOptions]:
    """Complete options of each peer, from `--peers` and what holds for all.

    `peers` is a number, or a list with a mapping for each peer. Peer 1 has the training's seed, the others
    are 1000 apart unless they say otherwise.

    Raises:
        UserError: no peer, an option that a peer cannot have for itself, other tokens, a teacher without a
            checkpoint, nobody to train, or peers that would remain copies of each other.
    """
    listed = [{}] * args.peers if _is_int(args.peers) else args.peers
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise UserError(f"--peers {args.peers}: expected a number, or a list with a mapping for each peer")
    if not listed:
        raise UserError(f"--peers {args.peers}: expected at least one peer")
    peers = [_parse_peer(f"peer{number}", given, args) for number, given in enumerate(listed, 1)]
    if all(peer.frozen for peer in peers):
        raise UserError("--peers: all of them are frozen; there is nobody to train")
    _refuse_copies(peers)
    return peers


def _parse_peer(name: str, given: dict, args: argparse.Namespace) -> PeerOptions:
    where = f"--peers: {name}"
    for option in TOKEN_OPTIONS:
        wanted, all_have = given.get(option, getattr(args, option)), getattr(args, option)
        if wanted != all_have and (option != "token_list" or _tokens(wanted) != _tokens(all_have)):
            raise UserError(
                f"{where}: {option} {wanted}: peers compare posteriors token by token, and so have the same "
                f"{option}; leave it out"
            )
    given = {option: value for option, value in given.items() if option not in TOKEN_OPTIONS}
    unknown = sorted(set(given) - set(PEER_OPTIONS))
    if unknown:
        raise UserError(
            f"{where}: {', '.join(unknown)}: not an option of a peer; there are {', '.join(PEER_OPTIONS)}"
        )
    seed, frozen = (
        given.get("seed", args.seed + 1000 * (int(name.removeprefix("peer")) - 1)),
        given.get("frozen"),
    )
    if not _is_int(seed) or frozen not in (None, True, False):
        raise UserError(f"{where}: seed {seed}, frozen {frozen}: expected a whole number, and true or false")
    own = {option: value for option, value in given.items() if option not in ("seed", "frozen", "model_dir")}
    result = argparse.Namespace(**copy.deepcopy(vars(args)))
    result.seed = seed
    if given.get("model_dir"):
        _take_exported(result, Path(given["model_dir"]), where)
    if isinstance(own.get("init_param"), str):
        own["init_param"] = [own["init_param"]]
    _override(result, own, where)
    if frozen:
        updates = sorted(set(given) & {*UPDATE_OPTIONS, "freeze_param"})
        if updates:
            raise UserError(f"{where}: is frozen, {', '.join(updates)} would have no effect")
        if not result.init_param:
            raise UserError(
                f"{where}: is frozen and has no checkpoint; give it model_dir (an export) or init_param"
            )
    return PeerOptions(name, seed, bool(frozen), result)


def _take_exported(result: argparse.Namespace, folder: Path, where: str) -> None:
    """Architecture and parameters of an exported model."""
    config = read_config(folder / "config.yaml")
    tokens, theirs = _tokens(result.token_list), config.get("token_list")
    if theirs != tokens:
        raise UserError(
            f"{where}: {folder}/config.yaml has another token list ({len(theirs or [])} tokens) than this "
            f"training ({len(tokens)}); peers compare posteriors token by token"
        )
    for option in INFERENCE_KEYS:
        if option in config and option not in TOKEN_OPTIONS:
            setattr(result, option, copy.deepcopy(config[option]))
    if (result.normalize_conf or {}).get("stats_file"):
        result.normalize_conf["stats_file"] = str(folder / result.normalize_conf["stats_file"])
    result.init_param = [str(folder / "model.pth")]


def _tokens(token_list: str | list[str]) -> list[str]:
    """The tokens themselves, also where the option names a file."""
    if isinstance(token_list, str):
        return [line for _, line in read_lines(token_list)]
    return list(token_list)


def _override(result: argparse.Namespace, own: dict, where: str) -> None:
    """Put a peer's options in their place; mappings are merged, unless they belong to another choice."""
    before = vars(result).copy()
    for option, value in own.items():
        choice = option.removesuffix("_conf")
        if option.endswith("_conf"):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {option} {value}: expected a mapping")
            same = own.get(choice, before.get(choice)) == before.get(choice)
            value = {**(before[option] or {}), **value} if same else value
        elif f"{option}_conf" in before and value != before[option] and f"{option}_conf" not in own:
            setattr(result, f"{option}_conf", {})  # another choice does not inherit this one's options
        setattr(result, option, copy.deepcopy(value))


def _refuse_copies(peers: Sequence[PeerOptions]) -> None:
    """Trained peers that start equal and draw the same random numbers would remain equal for ever."""
    seen: dict[str, str] = {}
    for peer in peers:
        if peer.frozen:
            continue
        about = {option: getattr(peer.args, option, None) for option in (*MODEL_OPTIONS, *UPDATE_OPTIONS)}
        about |= {"seed": peer.seed, "init_param": peer.args.init_param, "freeze": peer.args.freeze_param}
        text = repr(about)
        if text in seen:
            raise UserError(
                f"--peers: {seen[text]} and {peer.name} have the same model, start and seed ({peer.seed}): "
                "they would remain copies and learn nothing from each other; give each its own seed"
            )
        seen[text] = peer.name


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
