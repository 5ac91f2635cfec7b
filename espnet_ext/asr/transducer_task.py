"""The transducer's task: ESPnet's ASRTransducerTask on this project's training loop."""

import argparse

from espnet2.tasks.asr_transducer import ASRTransducerTask as ESPnetTransducerTask

from espnet_ext.asr.command_line import config_of, options_of_modules
from espnet_ext.asr.load import read_config
from espnet_ext.asr.statistics import check_statistics
from espnet_ext.asr.task import ASRTask
from espnet_ext.asr.transducer import TransducerModel, adopt
from espnet_ext.asr.transducer_encoder import enlarge_input
from espnet_ext.asr.transducer_method import TransducerMethod
from espnet_ext.asr.transducer_options import check_names
from espnet_ext.train import options as train_options
from espnet_ext.train.method import Method
from espnet_ext.train.streams import Stream


def describes_transducer(cmd: list[str] | None) -> bool:
    """Whether the YAML of a command line's `--config` is a transducer's: it alone has a joint network."""
    path = config_of(cmd)
    return path is not None and "joint_network_conf" in read_config(path)


class TransducerTask(ASRTask):
    """Command line and construction of ESPnet's stand-alone transducer; the rest is ASRTask's.

    It builds and configures what ESPnet's ASRTransducerTask does, so that this one decodes what it trained.
    """

    class_choices_list = ESPnetTransducerTask.class_choices_list

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        ESPnetTransducerTask.add_task_arguments.__func__(cls, parser)
        train_options.add_arguments(parser)
        parser.set_defaults(best_model_criterion=[("valid", "loss", "min")])

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool):
        return ESPnetTransducerTask.build_preprocess_fn(args, train)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> TransducerModel:
        """Build ESPnet's model from its own options and adopt it; parameters and names are ESPnet's.

        So are the initial values, but for the encoder's input layer (`enlarge_input`).
        """
        check_names(args)
        specaug_conf = args.specaug_conf if args.specaug is not None else None
        if args.normalize != "global_mvn":
            args.normalize_conf = {k: v for k, v in args.normalize_conf.items() if k != "stats_file"}
        with options_of_modules(args):
            model = ESPnetTransducerTask.build_model(argparse.Namespace(**{**vars(args), "specaug": None}))
        check_statistics(model, args.normalize_conf.get("stats_file"))
        if isinstance(args.token_list, str):
            args.token_list = list(model.token_list)
        enlarge_input(model.encoder)
        return adopt(model, args.padding, specaug_conf)

    @classmethod
    def build_method(
        cls, args: argparse.Namespace, model: TransducerModel, streams: dict[str, Stream]
    ) -> Method:
        """What is trained, and how: here plain supervised training."""
        updates = args.max_epoch * streams["labelled"].steps(1)
        return TransducerMethod(model, cls.make_updater(args, model.parameters(), updates), args.loss_norm)
