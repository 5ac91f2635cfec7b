"""How a request becomes options of sbatch, on clusters of several shapes."""

import pytest

from espnet_ext.errors import UserError
from espnet_ext.launch.cluster import Partition
from espnet_ext.launch.request import parse_request
from espnet_ext.launch.settings import load_settings

#: name, default, up, nodes, processors and GPUs of a node, longest time
TWO = [
    Partition("debug", True, True, 2, 16, 0, "1:00:00"),
    Partition("gpu", False, True, 4, 64, 4, "2-00"),
]
ONE = [Partition("all", True, True, 10, 32, 8, "infinite")]


class Cluster:
    """What `sinfo` shows."""

    def __init__(self, partitions):
        self.there = partitions

    def partitions(self):
        return self.there


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Function: (words of a request, settings, kind, partitions) → plan."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()

    def plan(words="", settings="", kind="cpu", there=TWO, file="slurm.yaml"):
        (tmp_path / "conf" / file).write_text(settings)
        request = parse_request([*words.split(), "x.log", "true"])
        return load_settings(None).plan(request, kind, Cluster(there))

    return plan


def test_the_cluster_is_asked(plan):
    assert plan().arguments == ("--cpus-per-task=1", "--requeue")  # its default partition needs no word
    assert plan("--num_threads 99").threads == 16  # not more than a node has
    found = plan("--gpu 1", kind="decode")
    assert found.arguments[:3] == ("--partition=gpu", "--gres=gpu:1", "--cpus-per-task=8")
    assert not plan("--gpu 1", there=ONE).arguments[0].startswith("--partition")
    with pytest.raises(UserError, match="no partition of this cluster shows GPUs.*--ngpu 0"):
        plan("--gpu 1", there=TWO[:1])
    assert plan(there=[]).arguments == ("--cpus-per-task=1", "--requeue")  # sinfo does not answer


def test_a_training_on_several_nodes(plan):
    found = plan("--gpu 8", kind="train")
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--gres=gpu:4"} <= set(found.arguments)
    assert found.tasks == 8 and "--signal=B:USR1@120" in found.arguments
    whole = plan("--gpu 8", "gpu: '--gpus={}'", kind="train")
    assert "--gpus=8" in whole.arguments
    asked = plan("--gpu 2", "train: {nodes: 2, tasks: 4}", kind="train").arguments
    assert {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--gres=gpu:1"} <= set(asked)
    assert "--gpus-per-node=4" in plan("--gpu 8", "gpu: '--gpus-per-node={}'", kind="train").arguments


def test_fields_and_kinds(plan):
    text = (
        "account: a\nqos: low\nmem: 1G\ntrain: {mem: 9G, time: 1-0, constraint: 'a100|h100', "
        "partition: gpu, extra: [--exclusive], requeue: false, signal_seconds: 0}\n"
    )
    assert plan(settings=text).arguments[:2] == ("--account=a", "--qos=low")
    assert "--mem=1G" in plan(settings=text).arguments
    found = plan("--gpu 1", text, "train").arguments
    wanted = {"--mem=9G", "--time=1-0", "--constraint=a100|h100", "--partition=gpu", "--exclusive"}
    assert wanted <= set(found) and "--requeue" not in found and "--signal" not in " ".join(found)
    # A time is no number to the base of sixty, as it is in other YAML.
    assert "--time=12:00:00" in plan(settings="time: 12:00:00").arguments
    assert "--time=90" in plan(settings="cpu: {time: 90, cpus: 2}").arguments
    # What the request says counts more.
    assert "--mem=3G" in plan("--mem 3G --time 5", text).arguments


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin: x", "partitoin: no such field; there are: partition"),
        ("train: {gpus: 2}", "train: gpus: no such field"),
        ("train: 3", "train: expected `field: value` lines"),
        ("requeue: 3", "requeue: expected true or false"),
        ("signal_seconds: soon", "signal_seconds: expected a whole number"),
        ("train: {nodes: few}", "nodes: expected a number or auto, found 'few'"),
        ("- a", "expected `field: value` lines"),
        ("a: [", "not YAML"),
        ("mem: 1G\nmem: 2G", r"slurm\.yaml:2: mem stands twice in one mapping, first in line 1"),
        ("partition: gpus", "partition gpus: this cluster has debug, gpu"),
    ],
)
def test_mistakes(plan, text, message):
    with pytest.raises(UserError, match=message):
        plan(settings=text, kind="train")


def test_kaldis_conf(plan, tmp_path):
    text = (
        "# ours\ncommand sbatch --export=PATH  --mail-type=FAIL\noption time=* --time $0\noption mem=0\n"
        "option mem=* --mem-per-cpu $0\ndefault gpu=0\noption gpu=0 -p cpu\n"
        "option gpu=* -p gpu --gres=gpu:$0 -c $0\n"
    )
    found = plan("--gpu 2 --mem 4G", text, file="slurm.conf").arguments
    assert found[:8] == ("--mail-type=FAIL", "-p", "gpu", "--gres=gpu:2", "-c", "2", "--mem-per-cpu", "4G")
    assert plan("", text, file="slurm.conf").arguments[:3] == ("--mail-type=FAIL", "-p", "cpu")
    with pytest.raises(UserError, match="has no line `option num_threads="):
        plan("--num_threads 4", text, file="slurm.conf")
    with pytest.raises(UserError, match="slurm.conf:2: expected `command"):
        plan("", "command sbatch\noptoin x=* -p x\n", file="slurm.conf")
