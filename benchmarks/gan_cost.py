"""What the critic costs: seconds of an optimiser step and peak memory, beside the control.

Run from the repository: ``python benchmarks/gan_cost.py`` (``--ngpu 1`` on a GPU). The model is a recipe's
(pretrain.yaml) with random weights, the batch is noise of its ``frames_per_step``. Each system is a process
of its own, started ``--rounds`` times in turn; a step's median time over all rounds counts, on the clock and
of the processor (which means more on a machine that does other things as well). Bounds at V =
500 on a CPU: 1.15 times the control's step (``order: fused``), 1.6 times (``paper``), 1.15 times its memory.
Memory is what a step adds to a process that has torch and ESPnet loaded (on a GPU: what torch allocated).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from mutual_learning_cost import noise, peak
from record import ROOT, record

SEED = 1
SYSTEMS = ("control", "fused", "paper")
#: The critics of conf/finetune_gan.yaml and conf/finetune_gan_paper.yaml.
CRITICS = {
    "fused": {"norm": "layer", "activation": "leaky_relu"},
    "paper": {"norm": "batch", "activation": "none"},
}


def main() -> None:
    """Measure every system and record the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "egs2/synth/asr1/conf/pretrain.yaml")
    parser.add_argument("--vocabulary", type=int, default=500)
    parser.add_argument("--frames_per_step", type=int, help="default: the configuration's")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of a round, after two")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--system", choices=SYSTEMS, help="measure this one in this process")
    args = parser.parse_args()
    if args.system:
        print(json.dumps(measure(args)))
        return
    rounds: dict[str, list[dict]] = {name: [] for name in SYSTEMS}
    for _ in range(args.rounds):
        for name in SYSTEMS:
            command = [sys.executable, __file__, *sys.argv[1:], "--system", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rounds[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, rounds[name][-1], flush=True)
    found = {
        name: [
            *(median(second for each in results for second in each[what]) for what in ("seconds", "cpu")),
            max(each["megabytes"] for each in results),
        ]
        for name, results in rounds.items()
    }
    control = found["control"]
    for name, (seconds, cpu, megabytes) in found.items():
        record(
            "gan_cost",
            name,
            device=rounds[name][0]["device"],
            vocabulary=args.vocabulary,
            frames=rounds[name][0]["frames"],
            precision=args.precision,
            threads=args.threads,
            step_ms=round(1000 * seconds, 1),
            cpu_ms=round(1000 * cpu, 1),
            megabytes=round(megabytes, 1),
            times_step=round(seconds / control[0], 3),
            times_cpu=round(cpu / control[1], 3),
            times_memory=round(megabytes / control[2], 3),
        )


def measure(args: argparse.Namespace) -> dict:
    """Steps of one system: their seconds, and the memory they needed."""
    import torch
    import yaml

    from espnet_ext.asr.method import JointMethod
    from espnet_ext.gan.critic import Critic
    from espnet_ext.gan.method import GANMethod
    from espnet_ext.gan.options import AlarmOptions, GANOptions
    from espnet_ext.gan.task import GANTask
    from espnet_ext.train.method import Position, Updater
    from espnet_ext.train.runner import StepRunner
    from espnet_ext.train.world import World

    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(SEED)
    device = torch.device("cuda" if args.ngpu else "cpu")
    tokens = ["<blank>", "<unk>", *(f"t{number}" for number in range(args.vocabulary - 3)), "<sos/eos>"]
    config = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    defaults = vars(GANTask.get_parser().parse_args(["--output_dir", "-", "--token_list", "-"]))
    options = argparse.Namespace(
        **{**defaults, **config, "token_list": tokens, "normalize": "utterance_mvn", "normalize_conf": {}}
    )
    before = peak(device)
    model = GANTask.build_model(options).to(device)
    updater = GANTask.make_updater(options, model.parameters(), 1000)
    if args.system == "control":
        method = JointMethod(model, updater)
    else:
        critic = Critic(len(tokens), **CRITICS[args.system]).to(device)
        opponent = Updater(torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.5, 0.98), fused=True))
        method = GANMethod(
            model,
            updater,
            critic,
            opponent,
            GANOptions(order=args.system),
            AlarmOptions(),
            world=World(device=device),
        )
    shift = int(options.frontend_conf.get("hop_length", 128))
    stream, data = noise(args.frames_per_step or options.frames_per_step, shift, len(tokens), device)
    runner = StepRunner(method, {"labelled": stream}, World(device=device), SEED, args.precision)
    method.train()
    seconds, cpu = [], []
    for step in range(args.steps + 2):
        start, used = time.perf_counter(), time.process_time()
        position, kept = Position(1, step, step), {}
        for turn in method.turns(position):
            runner.run(turn, {"labelled": data}, kept, position)
        method.after_step(position)
        if args.ngpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    return {
        "seconds": seconds[2:],
        "cpu": cpu[2:],
        "megabytes": peak(device) - before,
        "device": torch.cuda.get_device_name() if args.ngpu else "cpu",
        "frames": data.totals.frames,
    }


if __name__ == "__main__":
    main()
