"""How a request's options become those of `sbatch`: ``conf/slurm.yaml``, or Kaldi's ``conf/slurm.conf``."""

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from espnet_ext.errors import UserError
from espnet_ext.launch.cluster import Cluster, Partition
from espnet_ext.launch.kaldi_conf import KaldiConf
from espnet_ext.launch.request import Request
from espnet_ext.yamls import parse_yaml

KINDS = ("cpu", "train", "decode")
#: Fields of conf/slurm.yaml with their defaults; `cpu`, `train` and `decode` may give other values.
FIELDS: dict[str, object] = {
    "partition": "",
    "account": "",
    "qos": "",
    "constraint": "",
    "gpu": "--gres=gpu:{}",
    "cpus": "auto",
    "mem": "",
    "time": "",
    "tasks": "auto",
    "nodes": "auto",
    "extra": [],
    "step": [],
    "signal_seconds": 120,
    "requeue": True,
    "offline": True,
    "stage_data": "",
    "max_fruitless": 3,
}


@dataclass(frozen=True)
class Plan:
    """What a request asks of the cluster."""

    arguments: tuple[str, ...]  # of sbatch
    threads: int
    tasks: int
    step: tuple[str, ...]
    requeue: bool
    offline: bool
    stage_data: str
    max_fruitless: int


class Settings:
    """The settings of a recipe."""

    def __init__(self, fields: Mapping, source: str, kaldi: KaldiConf | None = None):
        """Check the fields.

        Raises:
            UserError: a field that does not exist, or is of a wrong type.
        """
        self.source, self.kaldi = source, kaldi
        self.common = dict(FIELDS)
        self.kinds: dict[str, dict] = {kind: {} for kind in KINDS}
        for name, value in fields.items():
            if name in KINDS:
                if not isinstance(value, Mapping):
                    raise UserError(f"{source}: {name}: expected `field: value` lines")
                for inner, each in value.items():
                    self.kinds[name][inner] = self._checked(inner, each, f"{name}: ")
            else:
                self.common[name] = self._checked(name, value)

    def _checked(self, name: str, value, where: str = ""):
        if name not in FIELDS:
            known = ", ".join([*FIELDS, *KINDS])
            raise UserError(f"{self.source}: {where}{name}: no such field; there are: {known}")
        default = FIELDS[name]
        if isinstance(default, list):
            value = shlex.split(value) if isinstance(value, str) else value or []
            if not isinstance(value, list):
                raise UserError(f"{self.source}: {where}{name}: expected a list of options")
            return [str(each) for each in value]
        if isinstance(default, bool) != isinstance(value, bool):
            raise UserError(
                f"{self.source}: {where}{name}: expected {'true or false' if default else 'a text'}"
            )
        if isinstance(default, int) and not isinstance(default, bool):
            if not isinstance(value, int) or value < 0:
                raise UserError(f"{self.source}: {where}{name}: expected a whole number, found {value!r}")
            return value
        return value if isinstance(value, bool) else "" if value is None else str(value)

    def of(self, kind: str) -> dict:
        """Fields of a kind of job."""
        return {**self.common, **self.kinds[kind]}

    def plan(self, request: Request, kind: str, cluster: Cluster) -> Plan:
        """Options of `sbatch` for a request.

        Raises:
            UserError: GPUs are asked for and no partition has them.
        """
        own = self.of(kind)
        partition = self._partition(own, request.gpu, cluster)
        per_node = partition.gpus if partition and partition.gpus else 0
        nodes = max(1, math.ceil(request.gpu / per_node)) if kind == "train" and per_node else 1
        tasks = 1
        if kind == "train":
            tasks = self._number_of(own, "tasks") or max(1, request.gpu)
            nodes = self._number_of(own, "nodes") or nodes
        threads = self._threads(own, request, partition, tasks)
        if self.kaldi:
            arguments = self.kaldi.arguments(request)
        else:
            arguments = []
            if own["partition"] or (partition and not partition.default):
                arguments.append(f"--partition={own['partition'] or partition.name}")
            arguments += [f"--{name}={own[name]}" for name in ("account", "qos", "constraint") if own[name]]
            if request.gpu:
                share = math.ceil(request.gpu / nodes)
                whole = "--gpus=" in own["gpu"] or own["gpu"].startswith("-G")
                arguments += shlex.split(own["gpu"].replace("{}", str(request.gpu if whole else share)))
            arguments += [f"--cpus-per-task={threads}"]
            if memory := request.ignored.get("mem") or own["mem"]:
                arguments.append(f"--mem={memory}")
            if limit := request.ignored.get("time") or own["time"]:
                arguments.append(f"--time={limit}")
            arguments += own["extra"]
        if tasks > 1:
            arguments += [f"--ntasks={tasks}", f"--nodes={nodes}"]
            arguments += [f"--ntasks-per-node={math.ceil(tasks / nodes)}"]
        if own["requeue"]:
            arguments.append("--requeue")
        if kind == "train" and own["signal_seconds"]:
            arguments.append(f"--signal=B:USR1@{own['signal_seconds']}")
        return Plan(
            tuple(arguments),
            threads,
            tasks,
            tuple(own["step"]),
            own["requeue"],
            own["offline"],
            own["stage_data"],
            own["max_fruitless"],
        )

    def _number_of(self, own: Mapping, name: str) -> int:
        """A field that may be a number; 0 for auto."""
        if own[name] != "auto" and not (str(own[name]).isdigit() and int(own[name])):
            raise UserError(f"{self.source}: {name}: expected a number or auto, found {own[name]!r}")
        return 0 if own[name] == "auto" else int(own[name])

    def _partition(self, own: Mapping, gpu: int, cluster: Cluster) -> Partition | None:
        """The partition that is meant: the one that is named, else what the cluster offers."""
        there = cluster.partitions()
        if named := own["partition"]:
            first = named.split(",")[0]
            found = next((each for each in there if each.name == first), None)
            if there and found is None:
                raise UserError(
                    f"{self.source}: partition {first}: this cluster has "
                    f"{', '.join(p.name for p in there)} (sinfo)"
                )
            return found
        if self.kaldi or not there:
            return None
        fit = [each for each in there if each.up and (not gpu or each.gpus)]
        if gpu and not fit:
            raise UserError(
                f"--gpu {gpu}: no partition of this cluster shows GPUs "
                f"(sinfo: {', '.join(p.name for p in there)}); "
                f"name the one that has them in {self.source} (train: partition), or use --ngpu 0"
            )
        if not fit:
            raise UserError("no partition of this cluster is up (sinfo)")
        # The cluster's default; without GPUs one that has none; else the one with most nodes.
        return max(fit, key=lambda each: (each.default, not each.gpus if not gpu else True, each.nodes))

    @staticmethod
    def _threads(own: Mapping, request: Request, partition: Partition | None, tasks: int) -> int:
        cpus = partition.cpus if partition else 0
        if str(own["cpus"]).isdigit():
            return int(own["cpus"])
        if request.num_threads:
            return min(request.num_threads, cpus) if cpus else request.num_threads
        if request.gpu and partition and partition.gpus:
            share = max(1, min(8, cpus // partition.gpus))
            return share if tasks > 1 or request.gpu == 1 else share * request.gpu
        return 1


class _Loader(yaml.SafeLoader):
    """YAML in which 12:00:00 is a text, and no number to the base of sixty."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":int", ":float"))]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[0-9]+\Z"), list("0123456789"))


def load_settings(template: Path | None) -> Settings:
    """The recipe's conf/slurm.yaml, else its conf/slurm.conf, else the template's conf/slurm.yaml.

    Raises:
        UserError: a file that cannot be read or understood.
    """
    own, kaldi = Path("conf/slurm.yaml"), Path("conf/slurm.conf")
    if not own.exists() and kaldi.exists():
        return Settings({}, str(kaldi), KaldiConf.read(kaldi))
    file = own if own.exists() or template is None else template / own
    if not file.exists():
        return Settings({}, "conf/slurm.yaml")
    fields = parse_yaml(file.read_text(encoding="utf-8"), file, _Loader) or {}
    if not isinstance(fields, Mapping):
        raise UserError(f"{file}: expected `field: value` lines")
    return Settings(fields, str(file))
