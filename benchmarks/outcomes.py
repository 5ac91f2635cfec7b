"""Outcomes: a method's systems and their controls on a recipe, and the sweep on dev that chose its options.

Run from the repository after a recipe's stages 1 to 6: ``python benchmarks/outcomes.py gan --seeds 1 2 3``.
Each run is ``run.sh --system NAME --seed S`` from targets to scoring; all start from the same starting
model (``--pretrain_tag``). Rows that are there (same system, seed, configuration and options) are not run
again, so that a benchmark that was stopped goes on.

``--sweep`` runs the points of ``benchmarks/sweeps/METHOD.yaml`` instead (a name and arguments of the
training each, or a mapping of options of run.sh), decodes the development set alone, and never sees a test
set.

``--lm`` decodes with the recipe's language model as well (``--decode_configs "... tuned_lm"``), which
``run.sh --use_lm true --stage pretrain --stop_stage pretrain`` has trained. A run whose row lacks one of
``--decode_configs`` is decoded again, not trained again, and gets a row with all of them.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import yaml
from record import RESULTS, ROOT, record

from espnet_ext.recipe.systems import System, load_systems

#: Further configurations of that method: its teachers, and both stages of its student.
DISTILLATION = (
    "pretrain_transducer",
    "distil_bestrq",
    "distil_targets",
    "student",
    "student_streaming",
    "distil_encoder",
)


def fingerprint(recipe: Path, options: dict[str, str]) -> str:
    """Hash of what decides about a run: its options, configurations of starting model and training."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    default = (
        "conf/finetune.yaml" if options["method"] == "none" else f"conf/finetune_{options['method']}.yaml"
    )
    files = [options.get("pretrain_config", "conf/pretrain.yaml"), options.get("finetune_config", default)]
    if options["method"] == "distillation":
        files += [f"conf/{name}.yaml" for name in DISTILLATION]
    for name in files:
        file = recipe / name if (recipe / name).exists() else ROOT / "egs2/TEMPLATE/asr1" / name
        digest.update(json.dumps(yaml.safe_load(file.read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()[:12]


def is_done(benchmark: str, system: str, seed: int, config: str, decodings: str) -> bool:
    """Whether a row has this run, decoded in all these ways."""
    file = RESULTS / f"{benchmark}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return any(
        (row["system"], row["seed"], row["config"]) == (system, seed, config)
        and set(decodings.split()) <= set(row["errors"])
        for row in rows
    )


def figures(folder: Path) -> dict[str, dict]:
    """Errors of all decoded sets of an experiment: ``{decoding: {set: {wer, cer, ser}}}``."""
    found: dict[str, dict] = {}
    for path in sorted(folder.glob("decode_*/*/score/result.json")):
        score = json.loads(path.read_text(encoding="utf-8"))
        decoding = path.parents[2].name.removeprefix("decode_")
        found.setdefault(decoding, {})[path.parents[1].name] = {
            "wer": round(score["wer"], 2),
            "cer": round(score["cer"], 2),
        }
    return found


def models(folder: Path) -> dict[str, dict]:
    """Errors of an experiment's model under ``""``, of mutual learning's under ``peer1``, ``peer2`` …"""
    peers = {peer.name: figures(peer) for peer in sorted(folder.glob("peer*")) if figures(peer)}
    return peers or {"": figures(folder)}


def run(
    recipe: Path, benchmark: str, name: str, options: dict[str, str], words: list[str], seed: int, stage: str
) -> None:
    """One run of the recipe, and its row."""
    start = time.time()
    command = ["./run.sh", *words, "--seed", str(seed), "--stage", stage, "--stop_stage", "score"]
    if subprocess.run(command, cwd=recipe).returncode:
        sys.exit(f"{name}, seed {seed}: the recipe failed; what is recorded stays, the same command goes on")
    folder = recipe / "exp" / f"{name}_seed{seed}"
    file = folder / "train_summary.json"  # absent where trained models decode together
    summary = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found = models(folder)
    # Of peers the one that is best on dev, in the first way of decoding.
    chosen = min(found, key=lambda name: next(iter(found[name].values()))["dev"]["wer"])
    peers = {"peer": chosen, "peers": found} if chosen else {}
    record(
        benchmark,
        name,
        seed=seed,
        config=fingerprint(recipe, options),
        errors=found[chosen],
        **peers,
        steps=summary.get("steps"),
        train_seconds=round(summary["seconds"]) if "seconds" in summary else None,
        wall_seconds=round(time.time() - start),
        recipe_command=" ".join(command),
    )


def systems_of(method: str, names: list[str]) -> list[System]:
    """The method's systems and their controls, or those named."""
    systems = load_systems()
    if not names:
        pairs = [pair for pair in systems.pairs if systems.find(pair.system).method == method]
        names = list(dict.fromkeys(name for pair in pairs for name in (pair.control, pair.system)))
    return [systems.find(name) for name in names]


def common(options: dict[str, str], a: argparse.Namespace) -> dict[str, str]:
    """Options of run.sh that all runs have, under those that a system or a point decides itself."""
    transducer = options["method"] == "distillation" or "transducer" in options.get("pretrain_config", "")
    found = {
        "pretrain_tag": a.pretrain_tag,
        "decode_configs": a.transducer_decode_configs if transducer else a.decode_configs,
    }
    return found | ({"use_lm": "true"} if a.lm and not transducer else {}) | options


def words_of(options: dict[str, str]) -> list[str]:
    """Options as words of a command."""
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def point_options(method: str, point: str | dict[str, str]) -> dict[str, str]:
    """Options of a point of a sweep: arguments of the training, or a mapping of options of run.sh."""
    return {"method": method, **({"finetune_args": point} if isinstance(point, str) else point)}


def main() -> None:
    """Run what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("method")
    add("--recipe", type=Path, default=ROOT / "egs2" / "synth" / "asr1")
    add("--seeds", type=int, nargs="+", default=[1])
    add("--systems", nargs="*", default=[], help="these instead of all of controls.yaml")
    add("--pretrain_tag", default="seed1", help="the starting model of all runs")
    add("--decode_configs", default="joint att")
    add(
        "--transducer_decode_configs",
        default="transducer transducer_greedy",
        help="of systems with a transducer",
    )
    add("--lm", action="store_true", help="with the recipe's language model, for decode_*_lm.yaml")
    add(
        "--stage",
        default="targets",
        help="first stage; decode: models that are trained are decoded again; stats: of distillation, whose\n"
        "teachers are trained by stage 6",
    )
    add("--models", default="all", help="own: the starting model is neither needed nor decoded")
    add("--sweep", action="store_true", help="the points of benchmarks/sweeps/METHOD.yaml, on dev alone")
    a = parser.parse_args()
    recipe = a.recipe.resolve()
    if a.sweep:
        benchmark = f"{a.method}_sweep"
        points = yaml.safe_load((ROOT / "benchmarks/sweeps" / f"{a.method}.yaml").read_text(encoding="utf-8"))
        for point, what in points.items():
            name, options = f"{a.method}_sweep_{point}", point_options(a.method, what)
            every = common(options, a)
            for seed in a.seeds:
                if is_done(benchmark, name, seed, fingerprint(recipe, options), every["decode_configs"]):
                    continue
                words = [f"--{option}={value}" for option, value in every.items()]
                words += ["--tag", f"sweep_{point}_seed{seed}", "--test_sets=", "--models", "own"]
                run(recipe, benchmark, name, options, words, seed, a.stage)
        return
    benchmark = f"{a.method}_outcomes"
    for seed in a.seeds:
        for system in systems_of(a.method, a.systems):
            options = {"method": system.method, **system.options}
            every = common(options, a)
            if is_done(benchmark, system.name, seed, fingerprint(recipe, options), every["decode_configs"]):
                continue
            more = {name: value for name, value in every.items() if name not in options}
            words = ["--system", system.name, *words_of(more), "--models", a.models]
            run(recipe, benchmark, system.name, options, words, seed, a.stage)


if __name__ == "__main__":
    main()
