"""The task behind `--method mutual_learning`: several recognisers from one command line."""

import argparse
import json
import sys
from pathlib import Path

import torch
import yaml
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_ext.asr.model import ASRModel
from espnet_ext.asr.sampled import SampledMethod
from espnet_ext.asr.task import ASRTask, dump_config
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write_text
from espnet_ext.mutual_learning.best import present_best
from espnet_ext.mutual_learning.checks import check_models, refuse_lasting_copies
from espnet_ext.mutual_learning.method import MutualMethod, Peer
from espnet_ext.mutual_learning.options import parse_conf
from espnet_ext.mutual_learning.peers import (
    PeerOptions,
    alone,
    parse_peers,
    refuse_different_masks,
    refuse_missing_files,
)
from espnet_ext.train.init_param import init_param
from espnet_ext.train.keys import seed_torch
from espnet_ext.train.method import Method
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.streams import Stream
from espnet_ext.train.world import World
from espnet_ext.yamls import parse_yaml


class MutualLearningTask(ASRTask):
    """ASRTask with several recognisers. With one peer it is the supervised control, with scheduled sampling.

    The experiment's folder has a folder for each trained peer with all that an experiment of its own would
    have: `config.yaml`, its best epochs, `nbest.json`, `train_summary.json`. At the end the best peer on the
    validation data also stands in the experiment's folder itself.
    """

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        group = parser.add_argument_group("mutual learning")
        group.add_argument(
            "--peers",
            type=_yaml,
            default=2,
            help="number of peers, or a YAML list with what each has otherwise than the others",
        )
        group.add_argument(
            "--mutual_learning_conf",
            action=NestedDictAction,
            default={},
            help="weight, temperature, masks, scheduled sampling; see conf/finetune_mutual_learning.yaml",
        )

    @classmethod
    def train(cls, args: argparse.Namespace, stop: StopRequest | None = None) -> int:
        """Check everything that can be checked from the options, then train."""
        cls.check_options(args)
        peers = parse_peers(args)
        if len(peers) == 1:
            args = alone(args, peers[0])
        return super().train(args, stop)

    @classmethod
    def check_options(cls, args: argparse.Namespace, early: bool = False, files: bool = False) -> None:
        """Refuse what `--peers` and `--mutual_learning_conf` must not say."""
        options, peers = parse_conf(args.mutual_learning_conf), parse_peers(args, early)
        if files:
            refuse_missing_files(peers, args.init_param)
        if options.shared_masks:
            refuse_different_masks(peers)

    @classmethod
    def _try_updater(cls, args: argparse.Namespace, suffix: str) -> None:
        """Each peer has an optimiser of its own, made of the common options and of the peer's."""

    @classmethod
    def build_method(cls, args: argparse.Namespace, model: ASRModel, streams: dict[str, Stream]) -> Method:
        options, peers = parse_conf(args.mutual_learning_conf), parse_peers(args)
        updates = args.max_epoch * streams["labelled"].steps(1)
        device = next(model.parameters()).device
        built = [Peer(each.name, cls._model(each, args, model, device), each.seed, None) for each in peers]
        check_models([peer.model for peer in built], options, args.input_size)
        refuse_lasting_copies(built, peers, options)
        for peer, each in zip(built, peers, strict=True):
            if not each.frozen:
                peer.updater = cls.make_updater(each.args, peer.model.parameters(), updates)
        if len(built) == 1:
            print("mutual_learning with one peer is plain training: nobody to learn from", flush=True)
            return SampledMethod(built[0].model, built[0].updater, args.loss_norm, options.sampling)
        if streams["labelled"].world.first:
            for each in peers:
                if not each.frozen:
                    _write_config(each, Path(args.output_dir) / each.name)
        criteria = tuple(tuple(each) for each in args.best_model_criterion)
        return MutualMethod(built, options, criteria, args.seed, args.loss_norm)

    @classmethod
    def _model(
        cls, each: PeerOptions, args: argparse.Namespace, model: ASRModel, device: torch.device
    ) -> ASRModel:
        """Build a peer as a training of its own would; ``model`` is that of the options without `--peers`.

        Raises:
            UserError: its options make no model, or its checkpoint does not fill it.
        """
        if each.name == "peer1" and not each.whole and vars(each.args) == vars(args):
            return model
        print(f"{each.name}{' (frozen)' if each.frozen else ''}, seed {each.seed}:", flush=True)
        seed_torch(each.seed, "initial parameters")
        try:
            own = cls.build_model(each.args).to(device)
            start = each.args
            if each.whole:
                _fill(start, own)
                start = argparse.Namespace(init_param=[], freeze_param=start.freeze_param)
            cls._initialise(start, own)
        except UserError as error:
            common = each.args.init_param and each.args.init_param == args.init_param
            hint = "\nThat is where all peers start; init_param: [] starts this one anew" if common else ""
            raise UserError(f"--peers: {each.name}: {error}{hint}") from None
        except (AssertionError, TypeError, ValueError) as error:  # ESPnet's way to refuse an option
            raise UserError(f"--peers: {each.name}: no model has such options: {error}") from None
        return own

    @classmethod
    def _train(cls, args: argparse.Namespace, everybody: World, stop: StopRequest | None) -> int:
        status = super()._train(args, everybody, stop)
        if args.dry_run:
            return status
        peers = parse_peers(args)
        if status == 0 and everybody.first:
            count_compute(Path(args.output_dir) / "train_summary.json")
        if status == 0 and everybody.first and len(peers) > 1:
            trained = [peer.name for peer in peers if not peer.frozen]
            best = present_best(Path(args.output_dir), trained, tuple(args.best_model_criterion[0]))
            print(f"best peer on the validation data: {best}", flush=True)
        return status


def count_compute(path: Path) -> None:
    """Add to a training's summary what its controls are matched by.

    `updates` and `encoder_frames` are those of one model. `compute` is proportional to the arithmetic of all
    models' passes: feature frames times parameters, three times for a peer that learns (forward and
    backward), once for a frozen one; the first pass of scheduled sampling (its decoder, without gradient) is
    not in it.
    """
    summary = json.loads(path.read_text(encoding="utf-8"))
    frames = summary["frames"].get("labelled", 0)
    models = list(summary.get("peers", {"model": {"parameters": summary["parameters"]}}).values())
    summary |= {
        "updates": summary["steps"] - summary["skipped_steps"],
        "encoder_frames": frames,
        "compute": sum(frames * each["parameters"] * (1 if each.get("frozen") else 3) for each in models),
    }
    atomic_write_text(path, json.dumps(summary, indent=1) + "\n")


def _yaml(text: str):
    """`--peers` as a value; what is not YAML is the user's error, with the place in the text."""
    try:
        yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at character {mark.index + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(
            f"--peers {text!r}: not YAML: {what}{place}; expected a number, or a list with a mapping for "
            "each peer, as '[{}, {seed: 5}]'"
        ) from None
    return parse_yaml(text, f"--peers {text!r}")


def _fill(args: argparse.Namespace, model: ASRModel) -> None:
    """Fill a whole model from its checkpoints: a teacher with fresh parameters would teach noise.

    Raises:
        UserError: naming parameters that no checkpoint holds.
    """
    loaded: set[str] = set()
    for spec in args.init_param:
        found = init_param(model, spec, args.ignore_init_mismatch)
        loaded |= set(found.loaded)
        print(f"{spec}: {found.summary()}", flush=True)
    if fresh := sorted(set(model.state_dict()) - loaded):
        raise UserError(
            f"{', '.join(args.init_param)}: {len(fresh)} of the model's tensors are not in it "
            f"({', '.join(fresh[:5])}{', ...' if len(fresh) > 5 else ''})"
        )


def _write_config(peer: PeerOptions, folder: Path) -> None:
    """The peer's options as a training of its own would write them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**vars(peer.args), "output_dir": str(folder), "command": sys.argv}
    plain = {name: value for name, value in config.items() if name not in ("peers", "mutual_learning_conf")}
    plain["sampling_conf"] = _sampling_conf(peer.args.mutual_learning_conf)
    atomic_write_text(folder / "config.yaml", dump_config(plain))


def _sampling_conf(conf: dict) -> dict:
    """Scheduled sampling in the words of plain training."""
    names = {"sampling": "probability"} | {f"sampling_{each}": each for each in ("start", "warmup", "draw")}
    return {names[name]: value for name, value in conf.items() if name in names}
