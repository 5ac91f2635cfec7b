"""Training beside ``espnet2.bin.asr_train``: the same model, data, batches, seed and number of updates.

Run from the repository after stages 1 to 5 of a recipe (``cd egs2/synth/asr1 && ./run.sh --stop_stage
stats``): ``python benchmarks/train.py``. Rows:

- ``losses``: with ``--padding espnet``, dropout and masks off, how far 50 steps' losses are from ESPnet's;
- ``espnet`` and ``ours``: seconds from the start of the process to the end of the first update, and seconds
  of a later update, with the recipe's own configuration on both sides, noise augmentation aside. Each starts
  alone; then they take turns of ten updates, the other one stopped with its loader, so that both meet the
  machine in the same state, whoever else uses it;
- ``parts``: what the loop itself takes of a step, and what a checkpoint a minute costs.

Plots, tensorboard and validation are off on both sides. On a GPU (``--ngpu 1``) ESPnet runs with ``--use_amp
true`` and this project with ``--precision bf16``.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from record import ROOT, record

#: Updates of a turn. Those of the first one are no part of the steady state.
TURN = 10


class Side:
    """One side in a process of its own, which stops itself after each ``plan["turn"]`` updates."""

    def __init__(self, side: str, plan: dict, folder: Path, threads: int):
        self.name, self.out, self.log = side, folder / f"{side}.json", folder / f"{side}.log"
        path = folder / f"{side}.plan.json"
        path.write_text(json.dumps(plan | {"out": str(self.out)}))
        environment = {"OMP_NUM_THREADS": str(threads), "BENCH_STARTED": repr(time.time())}
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "benchmarks" / "train_side.py", side, path],
            cwd=plan["recipe"],
            env=os.environ | environment,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group that its loader processes belong to
        )

    def wait(self) -> bool:
        """Wait for the end of a turn; False once the side has ended."""
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return True
        if status:
            sys.exit(f"{self.name} ended with {status}:\n{self.log.read_text()[-4000:]}")
        return False

    def turn(self) -> bool:
        """Let it make another turn."""
        os.killpg(self.process.pid, signal.SIGCONT)
        return self.wait()

    def end(self) -> None:
        """End it and its loaders, whatever state they are in."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def figures(self) -> dict:
        return json.loads(self.out.read_text())


def run(side: str, plan: dict, folder: Path, threads: int) -> dict:
    """Run one side from start to end."""
    process = Side(side, plan, folder, threads)
    try:
        process.wait()
        return process.figures()
    finally:
        process.end()


def take_turns(plan: dict, folder: Path, threads: int) -> dict[str, dict]:
    """Run both sides, each in turn."""
    sides = []
    try:
        for name in ("espnet", "ours"):
            sides.append(Side(name, plan | {"turn": TURN}, folder, threads))
            sides[-1].wait()
        left = list(sides)
        while left:
            left = [side for side in left if side.turn()]
        return {side.name: side.figures() for side in sides}
    finally:
        for side in sides:
            side.end()


def prepare(options: argparse.Namespace, folder: Path, exact: bool) -> dict:
    """Configurations and batches of both sides; ``exact`` switches off all that draws."""
    from espnet_ext.train.batches import plan_epoch
    from espnet_ext.train.data import read_shapes

    recipe = options.recipe.resolve()
    config = yaml.safe_load((recipe / options.config).read_text(encoding="utf-8"))
    stats = next((recipe / "exp" / "stats").glob("*"), None)
    if stats is None:
        sys.exit(f"{recipe}/exp/stats: nothing there; run the recipe's stages 1 to 5 first")
    tokens = next((recipe / "data" / "token_list").glob("*"))
    dump, shapes = recipe / "dump" / "raw" / options.set, stats / options.set
    hop = config["frontend_conf"]["hop_length"]
    lengths = {u: -(-n // hop) for u, n in read_shapes(shapes / "speech_shape").items()}
    budget = config.pop("frames_per_step")
    steps = plan_epoch(lengths, budget, 0, 0, 1)
    for name in ("noise_apply_prob", "noise_db_range", "frames_per_micro_batch", "checkpoint_minutes"):
        config.pop(name, None)
    config.update(max_epoch=1, scheduler=None, num_workers=1, best_model_criterion=[["valid", "acc", "max"]])
    config.pop("scheduler_conf", None)
    if exact:
        config["specaug"] = None
        for part in ("encoder_conf", "decoder_conf"):
            config[part].update({name: 0.0 for name in config[part] if name.endswith("dropout_rate")})
            config[part].update(dropout_rate=0.0, positional_dropout_rate=0.0)
            # Constant and far below the recipe's: this compares the mathematics, not how rounding grows.
        config["optim_conf"]["lr"] = 1e-5
    path = folder / f"config{int(exact)}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    common = ["--config", path, "--token_type", "bpe", "--token_list", tokens / "tokens.txt"]
    common += ["--bpemodel", tokens / "bpe.model", "--ngpu", options.ngpu, "--seed", 0]
    common += ["--normalize_conf", f"stats_file={shapes / 'feats_stats.npz'}"]
    common += ["--use_tensorboard", "false", "--use_matplotlib", "false"]
    init = folder / "init.pth"
    if not init.exists():
        save_initial([*map(str, common), "--output_dir", str(folder / "init")], init)
    common += ["--init_param", init]
    data = [str(each) for each in (f"{dump}/wav.scp,speech,sound", f"{dump}/text,text,text")]
    theirs = ["--output_dir", folder / "espnet", "--log_interval", 100, "--resume", "false"]
    for split in ("train", "valid"):
        for item in data:
            theirs += [f"--{split}_data_path_and_name_and_type", item]
        for name in ("speech_shape", "text_shape"):
            theirs += [f"--{split}_shape_file", shapes / name]
    mine = ["--output_dir", folder / "ours", "--frames_per_step", budget, "--resume", "false"]
    mine += ["--padding", "espnet" if exact else "exact", "--log_interval", 100]
    for split in ("train", "valid"):
        mine += [f"--{split}_data_dir", dump, f"--{split}_stats_dir", shapes]
    if options.ngpu and not exact:
        theirs += ["--use_amp", "true"]
        mine += ["--precision", "bf16"]
    return {
        "recipe": str(recipe),
        "batches": [list(step.utterances) for step in steps],
        "espnet": [str(each) for each in [*common, *theirs]],
        "ours": [str(each) for each in [*common, *mine]],
    }


def save_initial(cmd: list[str], path: Path) -> None:
    """Write the parameters that both sides start from."""
    import torch

    from espnet_ext.asr.task import ASRTask

    torch.manual_seed(0)
    torch.save(ASRTask.build_model(ASRTask.get_parser().parse_args(cmd)).state_dict(), path)


def main() -> None:
    """Measure everything once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=ROOT / "egs2" / "synth" / "asr1")
    parser.add_argument("--config", type=Path, default=Path("conf/pretrain.yaml"), help="inside the recipe")
    parser.add_argument("--set", default="train_clean", help="dumped set that is trained on")
    parser.add_argument(
        "--steps", type=int, default=110, help=f"updates of each timed side, the first {TURN} not timed"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ngpu", type=int, default=0)
    options = parser.parse_args()
    if options.steps <= TURN:
        parser.error(f"--steps {options.steps}: the first {TURN} are not timed; more are needed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = prepare(options, folder, exact=True) | {"steps": 50}
        losses = [run(side, plan, folder, options.threads)["losses"] for side in ("espnet", "ours")]
        differences = [abs(a - b) / abs(a) for a, b in zip(*losses, strict=True)]
        record(
            "train",
            "losses",
            steps=50,
            largest_relative_difference=float(f"{max(differences):.1e}"),
            first=losses[0][0],
            last=losses[0][-1],
        )
        plan = prepare(options, folder, exact=False) | {"steps": options.steps}
        reference = None
        for side, figures in take_turns(plan, folder, options.threads).items():
            steps = figures["seconds"][TURN:]
            reference = reference or (figures["first"], sum(steps))
            record(
                "train",
                side,
                seconds_to_first_update=round(figures["first"], 2),
                seconds_a_step=round(sum(steps) / len(steps), 4),
                median_seconds_a_step=round(statistics.median(steps), 4),
                start_times_faster_than_espnet=round(reference[0] / figures["first"], 2),
                throughput_of_espnets=round(reference[1] / sum(steps), 2),
                threads=options.threads,
                ngpu=options.ngpu,
            )
        plan["ours"] += ["--checkpoint_steps", "20"]
        parts = run("parts", plan, folder, options.threads)
        training = parts["wall"] - parts["save"]
        a_save = parts["save"] / max(parts["saves"], 1)
        record(
            "train",
            "parts",
            loop_part_of_a_step=round((training - parts["compute"]) / training, 4),
            seconds_a_checkpoint=round(a_save, 3),
            part_of_the_time_at_one_a_minute=round(a_save / 60, 4),
            threads=options.threads,
            ngpu=options.ngpu,
        )


if __name__ == "__main__":
    main()
