"""What K peers cost beside one model: seconds of an optimiser step, and peak memory.

Run from the repository: ``python benchmarks/mutual_learning_cost.py`` (``--ngpu 1`` on a GPU). The model is a
recipe's (pretrain.yaml) with random weights, the batch is noise of its ``frames_per_step``. Each system is
a process of its own, started ``--rounds`` times in turn; a step's median over all rounds counts (on a CPU the
process's time, of all its threads).
Bounds for two equal peers: 2.05 times the step of the single model with the same scheduled sampling (target
1.7 on a GPU), 2 x 1.05 times its memory. Memory is what a step adds to a process that has torch and ESPnet
loaded (on a GPU: what torch allocated).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from record import ROOT, record

SEED = 1


def main() -> None:
    """Measure every system and record the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "egs2/synth/asr1/conf/pretrain.yaml")
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=200)
    parser.add_argument("--sampling", type=float, default=0.2, help="probability, where it is on")
    parser.add_argument("--frames_per_step", type=int, help="default: the configuration's")
    parser.add_argument(
        "--steps", type=int, default=8, help="measured steps of a round, after two to warm up"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--system", help="measure this one in this process: <peers>,<sampling>")
    args = parser.parse_args()
    if args.system:
        print(json.dumps(measure(args)))
        return
    systems = {
        f"{count} peers, sampling {p}": f"{count},{p}"
        for p in (0.0, args.sampling)
        for count in (1, args.peers)
    }
    rounds: dict[str, list[dict]] = {name: [] for name in systems}
    for _ in range(args.rounds):
        for name, system in systems.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--system", system]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rounds[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, rounds[name][-1], flush=True)
    singles = {}
    for name, found in rounds.items():
        seconds = median(second for each in found for second in each["seconds"])
        megabytes = max(each["megabytes"] for each in found)
        sampling = name.split(",")[1]
        one = singles.setdefault(sampling, (seconds, megabytes))
        record(
            "mutual_learning_cost",
            name,
            device=found[0]["device"],
            parameters=found[0]["parameters"],
            frames=found[0]["frames"],
            precision=args.precision,
            step_ms=round(1000 * seconds, 1),
            megabytes=round(megabytes, 1),
            times_step=round(seconds / one[0], 3),
            times_memory=round(megabytes / one[1], 3),
        )


def measure(args: argparse.Namespace) -> dict:
    """Steps of one system: their seconds, and the memory they needed."""
    import torch
    import yaml

    from espnet_ext.asr.ramp import Ramp
    from espnet_ext.asr.sampled import SampledMethod, Sampling
    from espnet_ext.asr.task import ASRTask
    from espnet_ext.mutual_learning.method import MutualMethod, Peer
    from espnet_ext.mutual_learning.options import MutualOptions
    from espnet_ext.train.method import Position
    from espnet_ext.train.runner import StepRunner
    from espnet_ext.train.world import World

    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(SEED)
    device = torch.device("cuda" if args.ngpu else "cpu")
    tokens = ["<blank>", "<unk>", *(f"t{number}" for number in range(args.vocabulary - 3)), "<sos/eos>"]
    config = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    options = {**ASRTask.get_default_config(), **config, "token_list": tokens, "normalize": "utterance_mvn"}
    options = argparse.Namespace(**options)
    before = peak(device)
    count, probability = args.system.split(",")
    sampling = Sampling(Ramp(float(probability))) if float(probability) else None
    peers = []
    for number in range(int(count)):
        model = ASRTask.build_model(options).to(device)
        peers.append(
            Peer(f"peer{number + 1}", model, number, ASRTask.make_updater(options, model.parameters(), 1000))
        )
    if len(peers) == 1:
        method = SampledMethod(peers[0].model, peers[0].updater, sampling=sampling)
    else:
        method = MutualMethod(peers, MutualOptions(Ramp(0.5), sampling=sampling), seed=0)
    shift = int(options.frontend_conf.get("hop_length", 128))
    stream, data = noise(args.frames_per_step or options.frames_per_step, shift, len(tokens), device)
    runner = StepRunner(method, {"labelled": stream}, World(device=device), SEED, args.precision)
    method.train()
    # On a CPU the process's own time: it does not count what else the machine does.
    clock = time.perf_counter if args.ngpu else time.process_time
    seconds = []
    for step in range(args.steps + 2):
        start = clock()
        position = Position(1, step, step)
        for turn in method.turns(position):
            runner.run(turn, {"labelled": data}, {}, position)
        if args.ngpu:
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return {
        "seconds": seconds[2:],
        "megabytes": peak(device) - before,
        "device": torch.cuda.get_device_name() if args.ngpu else "cpu",
        "parameters": sum(p.numel() for p in peers[0].model.parameters()),
        "frames": data.totals.frames,
    }


def noise(frames: int, shift: int, tokens: int, device, seconds: float = 4.0):
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
    batch = Batch(names, {name: tensor.to(device) for name, tensor in tensors.items()})
    totals = Totals(count, count * (labels + 1), count * samples // shift)

    class Noise:
        seed = SEED
        augment_keys = Stream.augment_keys

    return Noise(), StreamStep(totals, [(0, batch)], names, 1, count * samples)


def peak(device) -> float:
    """Most memory used so far, in megabytes."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
