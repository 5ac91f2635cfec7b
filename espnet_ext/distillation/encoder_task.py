"""Stage 1 as a task: an encoder learns embeddings of speech models, with nobody's transcripts."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from espnet_ext.asr.load import read_config
from espnet_ext.asr.transducer import TransducerModel
from espnet_ext.data.embeddings import EmbeddingStore
from espnet_ext.distillation.clips import SetReader
from espnet_ext.distillation.combine import Combiner
from espnet_ext.distillation.encoder_method import EncoderMethod, TargetStream
from espnet_ext.distillation.frames import finite, reduce_rate, reduction_factor
from espnet_ext.distillation.losses import Heads
from espnet_ext.distillation.options import EncoderOptions, encoder_options, parse_places, target_conf
from espnet_ext.distillation.stage1 import take_over
from espnet_ext.distillation.streaming import frame_shift_of
from espnet_ext.distillation.student import StudentTask
from espnet_ext.distillation.targets import (
    LiveTargets,
    StoredTargets,
    Targets,
    common_frames,
    draw_utterances,
    read_summaries,
    sample_summary,
    write_summaries,
)
from espnet_ext.distillation.teachers import check_rate, load_teacher
from espnet_ext.errors import UserError
from espnet_ext.ssl.encode import encoder_size
from espnet_ext.ssl.grid import Grid, grid_of
from espnet_ext.train.data import SpeechData
from espnet_ext.train.method import Method
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.streams import Stream
from espnet_ext.train.world import World


class EncoderTask(StudentTask):
    """Distillation of embeddings; what comes out is a transducer of which only the encoder is trained."""

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        group = parser.add_argument_group("stage 1 of distillation")
        add = group.add_argument
        add("--targets_dir", help="folder of the embedding stores, one a teacher (stage 7)")
        add(
            "--live_teacher",
            nargs="+",
            default=[],
            metavar="NAME=PLACE",
            help="instead of stores: teachers that hear each batch",
        )
        add("--live_config", help="YAML of stage 7: layer and frame rate of live teachers")
        add("--unlabelled_data_dir", help="dumped directory of further audio, an extra stream")
        add("--unlabelled_stats_dir", help="its lengths (stage 5)")
        add("--unlabelled_frames_per_step", type=int, default=0, help="0: as --frames_per_step")
        add("--init_stage1", help="finished stage 1 with the same teachers: its encoder and projections")
        add("--init_stage1_nbest", type=int, default=5, help="best epochs of it that are averaged")

    @classmethod
    def check_options(cls, args: argparse.Namespace, early: bool = False, files: bool = False) -> None:
        """Refuse what `--distillation_conf` must not say; early, nobody has named the teachers yet."""
        conf = args.distillation_conf
        encoder_options({"teachers": {"-": 1}, **conf} if early and isinstance(conf, dict) else conf)
        super().check_options(args, early, files)

    @classmethod
    def train(cls, args: argparse.Namespace, stop: StopRequest | None = None) -> int:
        options = encoder_options(args.distillation_conf)
        if bool(args.targets_dir) == bool(args.live_teacher):
            raise UserError(
                "give either --targets_dir, which stage 7 (targets) writes, or --live_teacher NAME=PLACE"
            )
        if bool(args.unlabelled_data_dir) != bool(args.unlabelled_stats_dir):
            raise UserError("--unlabelled_data_dir and --unlabelled_stats_dir belong together")
        if args.live_teacher and options.loss == "codes":
            raise UserError("distillation_conf loss: codes: live teachers have no codes; use --targets_dir")
        return super().train(args, stop)

    @classmethod
    def build_streams(cls, args: argparse.Namespace, everybody: World) -> dict[str, Stream]:
        options = encoder_options(args.distillation_conf)
        targets = cls.build_targets(args, options, everybody)
        sets = {"labelled": (args.train_data_dir, args.train_stats_dir, args.frames_per_step)}
        if args.unlabelled_data_dir:
            budget = args.unlabelled_frames_per_step or args.frames_per_step
            sets["unlabelled"] = (args.unlabelled_data_dir, args.unlabelled_stats_dir, budget)
        streams: dict[str, Stream] = {}
        for name, (data_dir, stats_dir, budget) in sets.items():
            preprocess = cls.build_preprocess_fn(args, True)
            data = SpeechData(data_dir, stats_dir, preprocess, args.seed, text=False)
            frames = cls._attach(args, options, targets, data, data_dir)
            stream = cls.make_stream(args, name, data, everybody, budget)
            streams[name] = TargetStream(stream, targets, frames)
        return streams

    @classmethod
    def build_valid(cls, args: argparse.Namespace, streams: Mapping[str, Stream]) -> SpeechData:
        data = super().build_valid(args, streams)
        options = encoder_options(args.distillation_conf)
        cls._attach(args, options, streams["labelled"].targets, data, args.valid_data_dir)
        return data

    @classmethod
    def _attach(cls, args, options: EncoderOptions, targets: Targets, data: SpeechData, data_dir: str):
        """Have a set's loader bring targets; returns the frames of each utterance."""
        targets.attach(data, data_dir)
        hop = int(args.frontend_conf.get("hop_length", 128))
        grid = Grid(*_grid(args))
        return common_frames(
            targets, data_dir, data.lengths, lambda n: grid.frames(n // hop + 1), options.tolerance
        )

    @classmethod
    def build_method(
        cls, args: argparse.Namespace, model: TransducerModel, streams: dict[str, Stream]
    ) -> Method:
        options = encoder_options(args.distillation_conf)
        targets = streams["labelled"].targets
        if (grid_of(model.encoder).factor, grid_of(model.encoder).window) != _grid(args):
            raise UserError("encoder_conf input_conf: this subsampling is not known to distillation")
        device = next(model.parameters()).device
        heads = Heads(encoder_size(model), targets.sizes, args.seed).to(device)
        if args.init_stage1:
            take_over(model, args.init_stage1, vars(args), args.init_stage1_nbest, heads)
        updates = args.max_epoch * streams["labelled"].steps(1)
        updater = cls.make_updater(args, [*model.encoder.parameters(), *heads.parameters()], updates)
        return EncoderMethod(model, heads, updater, targets, options, streams)

    @classmethod
    def build_targets(cls, args: argparse.Namespace, options: EncoderOptions, everybody: World) -> Targets:
        """Open the stores, or load the teachers, of all teachers with a weight.

        Raises:
            UserError: a store is absent, not complete, or of another frame rate.
        """
        if args.live_teacher:
            return cls._live(args, options, everybody)
        stores = {}
        for name in options.weights:
            store = EmbeddingStore(Path(args.targets_dir) / name)
            shift = frame_shift_of(vars(args))
            if store.settings["frame_shift"] != shift:
                raise UserError(
                    f"{store.folder / 'settings.json'}: a frame every {store.settings['frame_shift']} "
                    f"samples, the student's are {shift} apart; run stage 7 (targets) for this student"
                )
            stores[name] = store
        summaries = {name: store.summary() for name, store in stores.items()}
        combiner = Combiner(
            options.rule, options.weights, summaries, options.standardise, options.size, args.seed
        )
        return StoredTargets(stores, combiner, options.loss == "codes")

    @classmethod
    def _live(cls, args: argparse.Namespace, options: EncoderOptions, everybody: World) -> LiveTargets:
        places = parse_places(args.live_teacher)
        absent = sorted(set(options.weights) - set(places))
        if absent:
            raise UserError(f"--live_teacher: no place for {', '.join(absent)} (distillation_conf teachers)")
        conf = target_conf(read_config(args.live_config) if args.live_config else {}, args.live_config)
        rate, shift = int(args.frontend_conf.get("fs", 16000)), frame_shift_of(vars(args))
        teachers, factors, reductions = {}, {}, {}
        for name in options.weights:
            own = conf.of(name)
            teachers[name] = load_teacher(places[name], own.layer, own.long, everybody.device)
            check_rate(teachers[name], name, rate)
            factors[name] = reduction_factor(teachers[name].shift, shift, name)
            reductions[name] = own.reduce
        path = Path(args.output_dir) / "teacher_summaries.npz"
        if everybody.first and not path.exists():
            reader = SetReader(rate)
            clips = {clip.name: clip for clip in reader.clips(args.train_data_dir)}
            audio = [
                reader.read(clips[name])
                for name in draw_utterances(list(clips), options.statistics_utterances)
            ]
            found = {}
            for name, teacher in teachers.items():
                frames = (teacher.embed([samples])[0] for samples in audio)
                found[name] = sample_summary(
                    [
                        finite(reduce_rate(each, factors[name], reductions[name]).cpu().numpy(), name)
                        for each in frames
                    ]
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            write_summaries(path, found)
        everybody.wait()
        sizes = {n: t.size * (factors[n] if reductions[n] == "concat" else 1) for n, t in teachers.items()}
        summaries = read_summaries(path, sizes)
        combiner = Combiner(
            options.rule, options.weights, summaries, options.standardise, options.size, args.seed
        )
        return LiveTargets(teachers, factors, reductions, combiner, rate)


def _grid(args: argparse.Namespace) -> tuple[int, int]:
    """Subsampling factor of the student, and the feature frames that an encoder frame reads."""
    factor = int(args.encoder_conf["input_conf"].get("subsampling_factor", 4))
    return factor, 11 if factor == 6 else 7
