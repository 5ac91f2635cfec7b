"""What a round of bilevel training costs beside its supervised and unsupervised steps run alone.

Run from the repository: ``python benchmarks/bilevel_cost.py`` (``--ngpu 1`` on a GPU). The model is a
recipe's (pretrain.yaml under finetune_bilevel.yaml) with random weights, batches are noise of its sizes. Each
system is a process of its own, started ``--rounds`` times in turn; the median over all rounds counts. Bounds:
a round of N_low exploration steps and a joint step takes at most 1.05 times one supervised step and N_low + 1
unsupervised ones; its memory, optimiser state aside, is at most 1.1 times that of the larger of the two. On a
CPU time is the process's own, so that others do not count. Memory is the most that torch has allocated at a
time above what it holds between two steps (parameters, moments, batches).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from record import ROOT, record

SEED = 1
CONF = ROOT / "egs2/synth/asr1/conf"
SYSTEMS = ("supervised", "unsupervised", "bilevel")


def main() -> None:
    """Measure the three systems and record the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONF / "pretrain.yaml")
    parser.add_argument("--finetune_config", type=Path, default=CONF / "finetune_bilevel.yaml")
    parser.add_argument("--ssl", choices=("bestrq", "infonce"), default="bestrq")
    parser.add_argument("--vocabulary", type=int, default=200)
    parser.add_argument("--explore_steps", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=8, help="measured units of a round, after two to warm up"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--system", choices=SYSTEMS, help="measure this one in this process")
    args = parser.parse_args()
    if args.system:
        print(json.dumps(measure(args)))
        return
    found: dict[str, list[dict]] = {name: [] for name in SYSTEMS}
    for _ in range(args.rounds):
        for name in SYSTEMS:
            command = [sys.executable, __file__, *sys.argv[1:], "--system", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, found[name][-1], flush=True)
    seconds = {name: median(s for each in found[name] for s in each["seconds"]) for name in SYSTEMS}
    megabytes = {name: median(each["megabytes"] for each in found[name]) for name in SYSTEMS}
    alone = seconds["supervised"] + (args.explore_steps + 1) * seconds["unsupervised"]
    larger = max(megabytes["supervised"], megabytes["unsupervised"])
    about = {key: found["bilevel"][0][key] for key in ("device", "parameters", "frames")}
    for name in SYSTEMS:
        ratios = {}
        if name == "bilevel":
            ratios = {
                "times_alone": round(seconds[name] / alone, 3),
                "times_larger_memory": round(megabytes[name] / larger, 3),
            }
        record(
            "bilevel_cost",
            f"{name}, {args.ssl}",
            **about,
            precision=args.precision,
            explore_steps=args.explore_steps,
            unit="round" if name == "bilevel" else "step",
            unit_ms=round(1000 * seconds[name], 1),
            megabytes=round(megabytes[name], 1),
            **ratios,
        )


def measure(args: argparse.Namespace) -> dict:
    """Units of one system: their seconds, and the memory they needed beside their optimisers' moments."""
    import torch

    from espnet_ext.asr.task import ASRTask
    from espnet_ext.bilevel.task import BilevelTask
    from espnet_ext.recipe.merge import merge
    from espnet_ext.ssl.task import SSLTask
    from espnet_ext.train.method import Position
    from espnet_ext.train.runner import StepRunner
    from espnet_ext.train.world import World

    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(SEED)
    device = torch.device("cuda" if args.ngpu else "cpu")
    task = {"supervised": ASRTask, "unsupervised": SSLTask, "bilevel": BilevelTask}[args.system]
    config = merge(args.config, args.finetune_config)
    tokens = ["<blank>", "<unk>", *(f"t{number}" for number in range(args.vocabulary - 3)), "<sos/eos>"]
    changes = {"token_list": tokens, "normalize": "utterance_mvn", "max_epoch": 1, "seed": SEED}
    changes |= {
        "bilevel_conf": {**config["bilevel_conf"], "final_epochs": 0, "explore_steps": args.explore_steps}
    }
    if args.ssl != config["ssl"]:
        changes |= {"ssl": args.ssl, "ssl_conf": {}}
    options = argparse.Namespace(**{**task.get_default_config(), **config, **changes})
    model = task.build_model(options).to(device)
    world = World(device=device)
    shift = int(options.frontend_conf.get("hop_length", 128))
    budgets = {
        "labelled": options.frames_per_step,
        "unlabelled": options.unlabelled_frames_per_step or options.frames_per_step,
    }
    made = {name: noise(frames, shift, len(tokens), world) for name, frames in budgets.items()}
    streams, data = ({name: pair[part] for name, pair in made.items()} for part in (0, 1))
    method = task.build_method(options, model, streams)
    runner = StepRunner(method, streams, world, SEED, args.precision)
    method.train()
    steps = args.explore_steps + 1 if args.system == "bilevel" else 1

    def unit(number: int) -> None:
        for step in range(number * steps, (number + 1) * steps):
            position = Position(1, step, step)
            for turn in method.turns(position):
                runner.run(turn, data, {}, position)
            method.after_step(position)
        if args.ngpu:
            torch.cuda.synchronize()

    clock = time.perf_counter if args.ngpu else time.process_time
    seconds = []
    for number in range(args.steps + 2):
        start = clock()
        unit(number)
        seconds.append(clock() - start)
    return {
        "seconds": seconds[2:],
        "megabytes": most_allocated(lambda: unit(args.steps + 2), device) / 1e6,
        "device": torch.cuda.get_device_name() if args.ngpu else "cpu",
        "parameters": sum(p.numel() for p in model.parameters()),
        "frames": data["labelled"].totals.frames,
    }


def noise(frames: int, shift: int, tokens: int, world, seconds: float = 4.0):
    """A stream and one step of noise: utterances of ``seconds``, about three labels a second."""
    import torch

    from espnet_ext.train.data import Batch
    from espnet_ext.train.method import Totals
    from espnet_ext.train.streams import Stream, StreamStep

    samples, labels = int(16000 * seconds), int(3 * seconds)
    count = max(1, frames * shift // samples)
    draw = torch.Generator().manual_seed(SEED)
    tensors = {
        "speech": torch.randn(count, samples, generator=draw) * 0.1,
        "speech_lengths": torch.full((count,), samples),
        "text": torch.randint(2, tokens - 1, (count, labels), generator=draw),
        "text_lengths": torch.full((count,), labels),
    }
    names = [f"utterance{number}" for number in range(count)]
    batch = Batch(names, {name: tensor.to(world.device) for name, tensor in tensors.items()})
    totals = Totals(count, count * (labels + 1), count * samples // shift)
    step = StreamStep(totals, [(0, batch)], names, 1, count * samples)

    class Noise:
        seed = SEED
        frame_shift = shift
        lengths = dict.fromkeys(names, samples // shift)
        augment_keys = Stream.augment_keys

        def steps(self, passes: int) -> int:
            return 10**6

    Noise.world = world
    return Noise(), step


def most_allocated(work, device) -> int:
    """Most bytes that torch has allocated at a time during ``work()``, above what it holds before."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


if __name__ == "__main__":
    main()
