"""Self-supervised pre-training as a task: a starting model whose encoder has heard unlabelled speech."""

import argparse

from espnet_ext.asr.task import ASRTask
from espnet_ext.errors import UserError
from espnet_ext.ssl.build import build_objective
from espnet_ext.ssl.data import check_unlabelled
from espnet_ext.ssl.method import SSLMethod, trained_parameters
from espnet_ext.ssl.objective import SSLObjective
from espnet_ext.ssl.options import add_arguments, sample_rate
from espnet_ext.train.data import SpeechData
from espnet_ext.train.signals import StopRequest
from espnet_ext.train.streams import Stream
from espnet_ext.train.world import World


class UnlabelledSpeech:
    """For a task with an unlabelled stream and a self-supervised objective; stands before its base class."""

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        add_arguments(parser)

    @classmethod
    def unlabelled_dirs(cls, args: argparse.Namespace) -> tuple[str, str]:
        """Data and stats directory of the unlabelled set.

        Raises:
            UserError: they are not given.
        """
        if not args.unlabelled_data_dir or not args.unlabelled_stats_dir:
            raise UserError(
                "no unlabelled speech: --unlabelled_data_dir and --unlabelled_stats_dir are missing; in a "
                "recipe, name a set with --unlabelled_set"
            )
        return args.unlabelled_data_dir, args.unlabelled_stats_dir

    @classmethod
    def unlabelled_stream(cls, args: argparse.Namespace, everybody: World) -> Stream:
        """The stream `unlabelled`; transcripts are not read even where there are some."""
        data_dir, stats_dir = cls.unlabelled_dirs(args)
        preprocess = cls.build_preprocess_fn(args, True)
        data = SpeechData(data_dir, stats_dir, preprocess, args.seed, text=False)
        budget = args.unlabelled_frames_per_step or args.frames_per_step
        return cls.make_stream(args, "unlabelled", data, everybody, budget)

    @classmethod
    def build_objective(cls, args: argparse.Namespace, model, stream: Stream) -> SSLObjective:
        """The objective of `--ssl` on the model's encoder.

        Raises:
            UserError: options that do not fit it, the model or the cut into micro-batches.
        """
        objective = build_objective(args.ssl, args.ssl_conf, model, args.input_size, args.seed)
        longest = max(stream.lengths.values()) + 1  # a front end gives up to one frame more
        if longest < objective.shortest:
            raise UserError(
                f"{cls.unlabelled_dirs(args)[0]}: no utterance is longer than {longest} feature frames, and "
                f"{args.ssl} predicts nothing of fewer than {objective.shortest}: use longer ones"
            )
        pieces = str(args.frames_per_micro_batch) != "0" or stream.world.size > 1
        if args.ssl_conf.get("negatives") == "batch" and pieces:
            raise UserError(
                "ssl_conf negatives: batch: the loss would depend on how a step is cut; use negatives: "
                "utterance, or one process and --frames_per_micro_batch 0"
            )
        return objective

    @classmethod
    def train(cls, args: argparse.Namespace, stop: StopRequest | None = None) -> int:
        cls.check_data(args)
        return super().train(args, stop)

    @classmethod
    def check_data(cls, args: argparse.Namespace) -> None:
        """Refuse unlabelled speech that does not fit, before anything is built."""
        if args.unlabelled_frames_per_step < 0:
            raise UserError(
                f"--unlabelled_frames_per_step {args.unlabelled_frames_per_step}: expected at least 0"
            )
        check_unlabelled(*cls.unlabelled_dirs(args), sample_rate(args))


class SSLTask(UnlabelledSpeech, ASRTask):
    """Pre-training of the recogniser's encoder on unlabelled speech; the rest of it stays as initialised.

    Without `--unlabelled_data_dir` it hears the training set's speech.
    """

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        super().add_task_arguments(parser)
        parser.set_defaults(best_model_criterion=[("valid", "loss", "min")])

    @classmethod
    def unlabelled_dirs(cls, args: argparse.Namespace) -> tuple[str, str]:
        if not args.unlabelled_data_dir and not args.unlabelled_stats_dir:
            return args.train_data_dir, args.train_stats_dir
        return super().unlabelled_dirs(args)

    @classmethod
    def build_streams(cls, args: argparse.Namespace, everybody: World) -> dict[str, Stream]:
        return {"unlabelled": cls.unlabelled_stream(args, everybody)}

    @classmethod
    def build_method(cls, args: argparse.Namespace, model, streams: dict[str, Stream]) -> SSLMethod:
        stream = streams["unlabelled"]
        objective = cls.build_objective(args, model, stream)
        updates = args.max_epoch * stream.steps(1)
        updater = cls.make_updater(args, trained_parameters(model, objective), updates)
        return SSLMethod(model, objective, updater, stream.world)
