"""`--peers`: complete options of each peer, checked before anything is built."""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet2.tasks.abs_task import optim_classes, scheduler_classes

from espnet_ext.asr.load import is_transducer, read_config
from espnet_ext.data.lengths import sample_rate
from espnet_ext.errors import UserError
from espnet_ext.files import read_lines
from espnet_ext.train.export import INFERENCE_KEYS
from espnet_ext.train.options import check_grad_clip

#: What a peer may have otherwise than the others: its model, where it starts, how it is updated.
MODEL_OPTIONS = (
    "encoder encoder_conf decoder decoder_conf ctc_conf model_conf init specaug specaug_conf".split()
)
START_OPTIONS = "init_param ignore_init_mismatch freeze_param model_dir".split()
UPDATE_OPTIONS = "optim optim_conf scheduler scheduler_conf grad_clip".split()
TOKEN_OPTIONS = ("token_list", "token_type", "bpemodel")
PEER_OPTIONS = ("seed", "frozen", *START_OPTIONS, *MODEL_OPTIONS, *UPDATE_OPTIONS)

#: Options that name one of several things. Where no table stands ESPnet finds it while it builds the model.
NAMES = {
    **dict.fromkeys(("encoder", "decoder", "init", "specaug")),
    "optim": optim_classes,
    "scheduler": scheduler_classes,
}
MAY_BE_NONE = ("decoder", "init", "specaug", "scheduler")


@dataclass(frozen=True)
class PeerOptions:
    """What the options say about one peer."""

    name: str
    seed: int
    frozen: bool
    whole: bool  # every parameter comes from a file: a teacher, or an exported model that learns on
    args: argparse.Namespace  # complete: those of the training with the peer's own in their place


def parse_peers(args: argparse.Namespace, early: bool = False) -> list[PeerOptions]:
    """Complete options of each peer, from `--peers` and what holds for all.

    `peers` is a number, or a list with a mapping for each peer. Peer 1 has the training's seed, the others
    are 1000 apart unless they say otherwise.

    Args:
        args: of the training.
        early: the files that they name may still have to be written; then none of them is opened.

    Raises:
        UserError: no peer, an option that a peer cannot have for itself, a value of another type, other
            tokens or speech, a teacher without a checkpoint, nobody to train, or peers that would remain
            copies of each other.
    """
    listed = [{}] * args.peers if _is_int(args.peers) else args.peers
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise UserError(f"--peers {args.peers}: expected a number, or a list with a mapping for each peer")
    if not listed:
        raise UserError(f"--peers {args.peers}: expected at least one peer")
    peers = [_parse_peer(f"peer{number}", given, args, early) for number, given in enumerate(listed, 1)]
    if all(peer.frozen for peer in peers):
        raise UserError("--peers: all of them are frozen; there is nobody to train")
    if len(peers) > 1:
        _refuse_copies(peers)
        _refuse_own_normalisation(peers)
    return peers


def alone(args: argparse.Namespace, peer: PeerOptions) -> argparse.Namespace:
    """Options of a training whose only peer this is: its own are then those of the training."""
    return argparse.Namespace(**{**vars(peer.args), "peers": 1})


def refuse_different_masks(peers: Sequence[PeerOptions]) -> None:
    """Where all peers hear the same masks, all need the same kind of masks.

    Raises:
        UserError: naming two that differ.
    """
    first = peers[0]
    for peer in peers[1:]:
        if any(vars(peer.args)[o] != vars(first.args)[o] for o in ("specaug", "specaug_conf")):
            raise UserError(
                f"mutual_learning_conf: masks: shared, and {first.name} and {peer.name} have different "
                "specaug or specaug_conf; give them the same, or set masks: independent"
            )


def refuse_missing_files(peers: Sequence[PeerOptions], start: Sequence[str]) -> None:
    """Refuse files to begin with that are not there, but for those that earlier stages will have written.

    Args:
        peers: as `parse_peers` gives them early.
        start: the starting model, `<experiment>/export/model.pth`; what is in that experiment may be missing.

    Raises:
        UserError: naming the file or folder.
    """
    later = [Path(spec.split(":")[0]).resolve().parents[1] for spec in start]
    for peer in peers:
        for spec in peer.args.init_param:
            path = Path(spec.split(":")[0])
            if not path.exists() and not any(path.resolve().is_relative_to(each) for each in later):
                raise UserError(
                    f"--peers: {peer.name}: {path}: no such file or folder, and no stage writes it now; "
                    "name an exported model (stage 9) or a file of parameters"
                )


def _parse_peer(name: str, given: dict, args: argparse.Namespace, early: bool) -> PeerOptions:
    where = f"--peers: {name}"
    if not early:
        _refuse_other_tokens(given, args, where)
    given = {option: value for option, value in given.items() if option not in TOKEN_OPTIONS}
    unknown = sorted(map(str, set(given) - set(PEER_OPTIONS)))
    if unknown:
        raise UserError(
            f"{where}: {', '.join(unknown)}: not an option of a peer; there are {', '.join(PEER_OPTIONS)}"
        )
    given = {option: _checked(option, value, where) for option, value in given.items()}
    seed = given.get("seed", args.seed + 1000 * (int(name.removeprefix("peer")) - 1))
    frozen, exported = given.get("frozen", False), given.get("model_dir")
    own = {option: value for option, value in given.items() if option not in ("seed", "frozen", "model_dir")}
    result = argparse.Namespace(**copy.deepcopy(vars(args)))
    result.seed = seed
    if exported and early:
        result.init_param = [exported]
    elif exported:
        _take_exported(result, Path(exported), where)
    _override(result, own, where)
    if frozen:
        updates = sorted(set(given) & {*UPDATE_OPTIONS, "freeze_param"})
        if updates:
            raise UserError(f"{where}: is frozen, {', '.join(updates)} would have no effect")
        # Its own: the start of those that learn, which the recipe gives to all, is nobody's teacher unasked.
        if not given.get("init_param", exported):
            raise UserError(
                f"{where}: is frozen and has no checkpoint of its own; give it model_dir (an export) "
                "or init_param"
            )
    return PeerOptions(name, seed, frozen, frozen or bool(exported and "init_param" not in own), result)


def _checked(option: str, value, where: str):
    """A peer's value for an option, in the form in which the command line would give it.

    Raises:
        UserError: it is of another type.
    """
    if option in NAMES:
        name = value.lower() if isinstance(value, str) else value
        if name in (None, "none", "null", "nil") and option in MAY_BE_NONE:
            return None
        table = NAMES[option]
        if not isinstance(name, str) or (table is not None and name not in table):
            known = f"one of {', '.join(sorted(table))}" if table else "a name"
            raise UserError(f"{where}: {option} {value}: expected {known}")
        return name
    if option in ("init_param", "freeze_param"):
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            raise UserError(f"{where}: {option} {value}: expected a text or a list of texts")
        return names
    if option == "grad_clip":
        check_grad_clip(value, f"{where}: ")
        return value
    right, what = {
        "seed": (_is_int(value), "a whole number"),
        "frozen": (isinstance(value, bool), "true or false"),
        "ignore_init_mismatch": (isinstance(value, bool), "true or false"),
        "model_dir": (isinstance(value, str) and value, "the folder of an exported model"),
    }.get(option, (isinstance(value, dict), "a mapping"))
    if not right:
        raise UserError(f"{where}: {option} {value}: expected {what}")
    return value


def _refuse_other_tokens(given: dict, args: argparse.Namespace, where: str) -> None:
    for option in TOKEN_OPTIONS:
        wanted, all_have = given.get(option, getattr(args, option)), getattr(args, option)
        if wanted == all_have:
            continue
        if (
            option == "token_list"
            and isinstance(wanted, (str, list))
            and _tokens(wanted) == _tokens(all_have)
        ):
            continue
        raise UserError(
            f"{where}: {option} {wanted}: peers compare posteriors token by token, and so have the same "
            f"{option}; leave it out"
        )


def _take_exported(result: argparse.Namespace, folder: Path, where: str) -> None:
    """Architecture and parameters of an exported model.

    Raises:
        UserError: files are missing; its tokens or its input are not those of this training.
    """
    for name in ("config.yaml", "model.pth"):
        if not (folder / name).is_file():
            raise UserError(
                f"{where}: {folder}/{name}: no such file; model_dir is a folder that stage 9 (export) wrote"
            )
    config = read_config(folder / "config.yaml")
    tokens, theirs = _tokens(result.token_list), config.get("token_list")
    if theirs != tokens:
        raise UserError(
            f"{where}: {folder}/config.yaml has another token list ({len(theirs or [])} tokens) than this "
            f"training ({len(tokens)}); peers compare posteriors token by token"
        )
    if is_transducer(config):
        raise UserError(
            f"{where}: {folder} is a transducer; peers meet on the attention branch, which it lacks"
        )
    heard, hears = _input(config), _input(vars(result))
    if heard != hears:
        raise UserError(
            f"{where}: {folder} was trained on {heard}, and this training reads {hears}; peers hear the same"
        )
    for option in INFERENCE_KEYS:
        if option in config and option not in TOKEN_OPTIONS:
            setattr(result, option, copy.deepcopy(config[option]))
    if (result.normalize_conf or {}).get("stats_file"):
        stats = folder / result.normalize_conf["stats_file"]
        if not stats.is_file():
            raise UserError(f"{where}: {stats}: named in {folder}/config.yaml and not there")
        result.normalize_conf["stats_file"] = str(stats)
    result.init_param = [str(folder / "model.pth")]


def _input(config: dict) -> str:
    """What a model reads, in words."""
    if config.get("input_size") is not None:
        return f"stored features of {config['input_size']} numbers a frame"
    return f"audio of {sample_rate((config.get('frontend_conf') or {}).get('fs', 16000))} Hz"


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


def _refuse_own_normalisation(peers: Sequence[PeerOptions]) -> None:
    """ESPnet's `length_normalized_loss` would divide the transcript's term by labels and no other one."""
    for peer in peers:
        if not peer.frozen and (peer.args.model_conf or {}).get("length_normalized_loss"):
            raise UserError(
                f"--peers: {peer.name}: model_conf: length_normalized_loss: true: the transcript's term and "
                "the peers' would be divided by different numbers; use --loss_norm token"
            )


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
