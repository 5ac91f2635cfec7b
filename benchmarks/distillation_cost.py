"""Cost of distillation: a step of stage 1 with stored embeddings, and the dump of the embeddings.

Run from the repository: ``python benchmarks/distillation_cost.py`` (``--device cuda`` on a GPU). A step of
stage 1 runs beside the encoder's own forward and backward pass in the same loop (a mean of squares as its
loss), both on the recipe's student and random speech. Reading the targets, which the loader's processes do
meanwhile, is timed beside it. The dump of a set, from its first checksum to its summary, runs
beside the teacher's forward passes over the same batches in memory. Each pair runs in turn, so that a busy
machine slows both; ratios are of medians. The clock is this process's processor time on a CPU, the wall's
on a GPU.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

import yaml
from record import ROOT, record
from transducer_memory import seconds

RATE = 16000
TOKENS = ["<blank>", "<unk>", *(f"t{number}" for number in range(197)), "<sos/eos>"]


def write_set(folder: Path, utterances: int, longest: float) -> None:
    """A dumped set of noise: half to all of the longest duration in seconds."""
    import numpy as np
    import soundfile

    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows: dict[str, list[str]] = {"wav.scp": [], "utt2num_samples": [], "speech_shape": []}
    for number in range(utterances):
        samples = draw.normal(0, 0.1, int(RATE * longest * draw.uniform(0.5, 1)))
        path = folder / f"{number}.flac"
        soundfile.write(path, samples.clip(-1, 1), RATE)
        rows["wav.scp"].append(f"u{number:04d} {path}\n")
        for name in ("utt2num_samples", "speech_shape"):
            rows[name].append(f"u{number:04d} {len(samples)}\n")
    for name, lines in rows.items():
        (folder / name).write_text("".join(lines))


class RandomTeacher:
    """Embeddings of noise, for stores of which only the size matters."""

    rate = RATE

    def __init__(self, size: int, shift: int):
        import torch

        self.size, self.shift, self.module = size, shift, torch.nn.Linear(1, 1)
        self.identity = {"kind": "random", "size": size}

    def frames(self, samples: int) -> int:
        return samples // self.shift - 1

    def embed(self, audio):
        import torch

        return [torch.randn(self.frames(len(each)), self.size) for each in audio]


def stage1(a: argparse.Namespace, recipe: str, size: int, utterances: int, longest: float) -> None:
    """A step of stage 1 with two stored teachers beside the encoder alone."""
    import torch

    from espnet_ext.distillation.dump import Dump, DumpOptions
    from espnet_ext.distillation.encoder_task import EncoderTask
    from espnet_ext.distillation.losses import valid_frames
    from espnet_ext.distillation.streaming import frame_shift_of
    from espnet_ext.train.method import Loss, Method, Part, Position, Turn
    from espnet_ext.train.runner import StepRunner
    from espnet_ext.train.world import World

    class EncoderAlone(Method):
        def __init__(self, model, updater):
            super().__init__({"model": model}, {"encoder": updater})
            self.model = model
            self.only = (Turn("encoder", (Part("labelled", self.part),), ("encoder",)),)

        def turns(self, position):
            return self.only

        def part(self, micro):
            tensors = micro.batch.tensors
            out, lengths = self.model.encode_keyed(tensors["speech"], tensors["speech_lengths"], micro.keys)
            there = valid_frames(lengths, out.size(1))[..., None]
            return Loss((out.float().square() * there).mean(), {})

        def validate(self, micro):
            return {}

    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        write_set(place / "set", utterances, longest)
        conf = yaml.safe_load((ROOT / "egs2" / recipe / "asr1/conf/student.yaml").read_text())
        conf |= {"normalize": None, "num_workers": 0, "max_epoch": 1, "frames_per_micro_batch": 0}
        conf |= {"noise_apply_prob": 0.0, "frames_per_step": a.frames}
        conf["optim_conf"] |= {"lr": 1e-4, "fused": True}
        conf["distillation_conf"] = {"teachers": {"one": 1.0, "two": 1.0}}
        (place / "conf.yaml").write_text(yaml.safe_dump(conf))
        shift = frame_shift_of(conf)
        for name in ("one", "two"):
            options = DumpOptions(shift, RATE, storage=a.storage)
            teacher = RandomTeacher(size, shift)
            Dump(name, teacher, [place / "set"], [], place / "targets" / name, options).run()
        command = [f"--config={place / 'conf.yaml'}", f"--output_dir={place / 'exp'}", "--token_list=-"]
        command += [f"--{s}_{d}_dir={place / 'set'}" for s in ("train", "valid") for d in ("data", "stats")]
        command += [f"--targets_dir={place / 'targets'}", "--token_type=char"]
        args = EncoderTask.get_parser().parse_args(command)
        args.token_list = TOKENS
        world = World()
        runs = []
        for alone in (False, True):
            torch.manual_seed(0)
            model = EncoderTask.build_model(args).to(a.device)
            streams = EncoderTask.build_streams(args, world)
            method = EncoderTask.build_method(args, model, streams)
            if alone:
                method = EncoderAlone(model, method.updaters["encoder"])
            method.train()
            runs.append((method, streams, StepRunner(method, streams, world, 1)))
        targets = runs[0][1]["labelled"].targets
        times: list[list[float]] = [[], []]
        reading = []
        for number in range(a.steps + 2):
            for each, (method, streams, runner) in zip(times, runs, strict=True):
                step = streams["labelled"].next()
                position = Position(1, number, number)
                begun = seconds(a.device)
                assert runner.run(method.turns(position)[0], {"labelled": step}, {}, position).finite
                if number >= 2:
                    each.append(seconds(a.device) - begun)
            begun = seconds("cpu")
            for utterance in step.utterances:
                targets.read(str(place / "set"), 0, utterance)
            reading.append(seconds("cpu") - begun)
        ours, control = (statistics.median(each) for each in times)
        record(
            "distillation_cost",
            f"stage 1, student of {recipe}, two teachers of {size}, {a.storage}",
            device=a.device,
            encoder_ms=round(1000 * control, 1),
            stage1_ms=round(1000 * ours, 1),
            times_encoder=round(ours / control, 3),
            reading_ms=round(1000 * statistics.median(reading), 1),
        )


#: A HuBERT for two cores; `base` is the real one's size.
HUBERT = {
    "small": {"conv_dim": [128] * 7, "hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 1024}
    | {"num_attention_heads": 4},
    "base": {},
}


def save_hubert(folder: Path, size: str) -> Path:
    """A HuBERT with random weights."""
    import transformers

    transformers.HubertModel(transformers.HubertConfig(**HUBERT[size])).save_pretrained(folder)
    about = {"sampling_rate": RATE, "do_normalize": True, "feature_size": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


def save_recogniser(folder: Path) -> Path:
    """The synth recipe's supervised teacher with random weights."""
    import torch

    from espnet_ext.asr.transducer_task import TransducerTask

    folder.mkdir()
    conf = yaml.safe_load((ROOT / "egs2/synth/asr1/conf/pretrain_transducer.yaml").read_text())
    (folder / "conf.yaml").write_text(yaml.safe_dump(conf | {"normalize": None}))
    command = [f"--config={folder / 'conf.yaml'}", "--output_dir=-", "--token_list=-", "--token_type=char"]
    args = TransducerTask.get_parser().parse_args(command)
    args.token_list = TOKENS
    torch.manual_seed(0)
    torch.save(TransducerTask.build_model(args).state_dict(), folder / "model.pth")
    names = "token_list init input_size frontend frontend_conf normalize normalize_conf encoder_conf decoder"
    names = [*names.split(), "decoder_conf", "joint_network_conf", "model_conf"]
    config = {name: vars(args)[name] for name in names} | {"specaug": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def dump(a: argparse.Namespace, name: str, save, shift: int, longest: float) -> None:
    """The whole dump of a set beside the teacher's forward passes alone."""
    import numpy as np

    from espnet_ext.distillation.dump import Dump, DumpOptions
    from espnet_ext.distillation.teachers import load_teacher

    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        write_set(place / "set", a.utterances, longest)
        teacher = load_teacher(str(save(place / "teacher")), device=a.device)
        options = DumpOptions(shift, RATE, storage=a.storage)
        times: list[list[float]] = [[], []]
        for _ in range(a.dumps):
            store = place / "store"
            shutil.rmtree(store, ignore_errors=True)
            begun = seconds(a.device)
            one = Dump(name, teacher, [place / "set"], [], store, options)
            one.run()
            times[0].append(seconds(a.device) - begun)
            clips = {clip.name: clip for clip in one.sets[str(place / "set")]}
            order = sorted(clips, key=lambda key: (clips[key].samples, key))
            groups = [
                [np.ascontiguousarray(one.reader.read(clips[key])) for key in keys]
                for keys in one.batches(order, clips)
            ]
            begun = seconds(a.device)
            for audio in groups:
                teacher.embed(audio)
            times[1].append(seconds(a.device) - begun)
        ours, plain = (statistics.median(each) for each in times)
        audio = sum(clip.samples for clip in clips.values()) / RATE
        record(
            "distillation_cost",
            f"dump, {name}, {a.storage}",
            device=a.device,
            audio_seconds=round(audio),
            forward_s=round(plain, 2),
            dump_s=round(ours, 2),
            times_forward=round(ours / plain, 3),
        )


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--storage", default="fp16")
    add("--frames", type=int, default=4000, help="of a step")
    add("--steps", type=int, default=15, help="timed ones of each")
    add("--dumps", type=int, default=3, help="timed ones of each teacher")
    add("--utterances", type=int, default=300, help="of the set that is dumped")
    add("--students", nargs="+", choices=["synth", "TEMPLATE"], default=["synth", "TEMPLATE"])
    add("--hubert", choices=list(HUBERT), default="small")
    add("--only", choices=["stage1", "dump"])
    a = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if a.only != "dump":
        if "synth" in a.students:
            stage1(a, "synth", 128, 64, 5.0)
        if "TEMPLATE" in a.students:
            stage1(a, "TEMPLATE", 768, 12, 15.0)
    if a.only != "stage1":
        dump(a, "the synth recipe's transducer", save_recogniser, 768, 4.0)
        dump(a, f"HuBERT {a.hubert}", lambda folder: save_hubert(folder, a.hubert), 640, 4.0)


if __name__ == "__main__":
    main()
