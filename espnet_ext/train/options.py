"""Options of the training command: ESPnet's own where the loop honours them, ours for the rest."""

import argparse

from espnet_ext.errors import UserError
from espnet_ext.train.precision import PRECISIONS

#: ESPnet options that this project's training does not read. One that is set all the same is an error: an
#: option without effect costs its user a training.
NOT_READ = """
accum_grad adapter adapter_conf allow_multi_rates allow_variable_data_keys batch_bins batch_size
batch_type category_sample_size chunk_default_fs chunk_discard_short_samples
chunk_excluded_key_prefixes chunk_length chunk_max_abs_length chunk_shift_ratio collect_stats
create_graph_in_tensorboard cudnn_benchmark cudnn_deterministic cudnn_enabled deepspeed_config
detect_anomaly dist_backend dist_init_method dist_launcher dist_master_addr dist_master_port
dist_rank dist_world_size drop_last_iter early_stopping_criterion exclude_weight_decay
exclude_weight_decay_conf fold_length grad_clip_type grad_noise gradient_as_bucket_view
iterator_type local_rank max_cache_fd max_cache_size min_batch_size multi_task_dataset
multiple_iterator multiprocessing_distributed nbest_averaging_interval no_forward_run num_att_plot
num_cache_chunks num_iters_per_epoch patience pretrain_path save_strategy sharded_ddp
shuffle_within_batch sort_batch sort_in_batch train_data_path_and_name_and_type train_dtype
train_shape_file unused_parameters upsampling_factor use_adapter use_amp use_deepspeed
use_matplotlib use_tf32 use_wandb val_scheduler_criterion valid_batch_bins valid_batch_size
valid_batch_type valid_data_path_and_name_and_type valid_iterator_type valid_max_cache_size
valid_shape_file write_collected_feats
""".split()


#: Denominators of the losses.
LOSS_NORMS = ("utterance", "token")
#: Whether an utterance is computed as if it stood alone.
PADDINGS = ("exact", "espnet")
#: Numbers: whole or not, and the least that they may be.
_NUMBERS = {
    "frames_per_step": (int, 1),
    "max_epoch": (int, 1),
    "max_skipped_steps": (int, 1),
    "keep_nbest_models": (int, 1),
    "log_interval": (int, 1),
    "num_workers": (int, 0),
    "ngpu": (int, 0),
    "seed": (int, 0),
    "checkpoint_steps": (int, 0),
    "checkpoint_minutes": (float, 0),
}
#: Of options whose value argparse checks only where it stands on the command line.
_CHOICES = {"precision": PRECISIONS, "loss_norm": LOSS_NORMS, "padding": PADDINGS}


def check_number(name: str, value, kind: type, least: float) -> None:
    """Refuse a value that is no number, or below its least.

    Args:
        name: of the option.
        value: from the command line or a YAML.
        kind: int for a whole number, or float.
        least: that it may be.

    Raises:
        UserError: naming the option.
    """
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise UserError(f"--{name} {value}: expected {'a whole' if kind is int else 'a'} number")
    if not value >= least:  # nor is nan
        raise UserError(f"--{name} {value}: expected at least {least}")


def check_grad_clip(value, where: str = "--") -> None:
    """Refuse a largest gradient norm that is none.

    Args:
        value: 0 clips nothing, and so does -1, as in ESPnet's configurations.
        where: before the option's name.

    Raises:
        UserError: naming the option.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (value >= 0 or value == -1):
        raise UserError(
            f"{where}grad_clip {value}: expected a number of at least 0, or -1 (0 and -1 clip nothing)"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this project's options to the parser of an ESPnet task."""
    group = parser.add_argument_group("espnet_ext")
    add = group.add_argument
    add("--train_data_dir", help="dumped directory of the training set (stage 3)")
    add("--valid_data_dir", help="dumped directory of the validation set")
    add("--train_stats_dir", help="lengths of the training set (stage 5)")
    add("--valid_stats_dir", help="lengths of the validation set")
    add(
        "--frames_per_step",
        type=int,
        default=20000,
        help="feature frames of an optimiser step, padding counted",
    )
    add(
        "--frames_per_micro_batch",
        default="0",
        help="feature frames computed at once, padding counted; 0: a step is cut into one piece a process; "
        "auto: what fits the GPU, found before training and kept",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of matrix products; bf16 needs a GPU that has it, parameters and optimisers stay in fp32",
    )
    add(
        "--padding",
        choices=PADDINGS,
        default="exact",
        help="exact: batches do not change an utterance",
    )
    add("--loss_norm", choices=LOSS_NORMS, default="utterance", help="denominator of the losses")
    add("--checkpoint_minutes", type=float, default=10.0, help="save within an epoch every so many minutes")
    add("--checkpoint_steps", type=int, default=0, help="and every so many steps (0: by the clock alone)")
    add(
        "--max_skipped_steps", type=int, default=20, help="stop after so many steps without a finite gradient"
    )
    # ESPnet's defaults write with packages that need not be there, and keep ten models.
    parser.set_defaults(
        use_tensorboard=False, use_matplotlib=False, best_model_criterion=[("valid", "acc", "max")]
    )


def _listed(value):
    """A YAML has lists where the parser's defaults have tuples."""
    return list(value) if isinstance(value, tuple) else value


def check(args: argparse.Namespace, defaults: argparse.Namespace) -> None:
    """Refuse options that would have no effect, and values out of range.

    A YAML's values are as they stand there: argparse checks those of the command line alone.

    Raises:
        UserError: naming each of them.
    """
    idle = [
        n
        for n in NOT_READ
        if hasattr(defaults, n) and _listed(getattr(args, n)) != _listed(getattr(defaults, n))
    ]
    if idle:
        raise UserError(
            f"options of ESPnet that this training does not read: {', '.join('--' + n for n in idle)}"
        )
    missing = [
        n
        for n in ("train_data_dir", "valid_data_dir", "train_stats_dir", "valid_stats_dir")
        if not getattr(args, n)
    ]
    if missing:
        raise UserError(f"missing options: {', '.join('--' + name for name in missing)}")
    micro = str(args.frames_per_micro_batch)
    if micro != "auto" and not (micro.isascii() and micro.isdigit()):
        raise UserError(f"--frames_per_micro_batch {micro}: expected a number of frames, 0 or auto")
    for name, (kind, least) in _NUMBERS.items():
        value = getattr(args, name)
        if name == "keep_nbest_models" and isinstance(value, (list, tuple)):
            if len(value) != 1:
                raise UserError(f"--{name}: expected one number, got {value}")
            value = value[0]
        if name != "log_interval" or value is not None:
            check_number(name, value, kind, least)
    check_grad_clip(args.grad_clip)
    for name, choices in _CHOICES.items():
        if getattr(args, name) not in choices:
            raise UserError(f"--{name} {getattr(args, name)}: expected {' or '.join(choices)}")
    for name in ("init_param", "freeze_param"):
        value = getattr(args, name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise UserError(f"--{name} {value}: expected a list of texts (in YAML: `{name}: [a, b]`)")
    if not isinstance(args.best_model_criterion, (list, tuple)) or not args.best_model_criterion:
        raise UserError("--best_model_criterion: expected at least one, for instance `valid acc max`")
    for each in args.best_model_criterion:
        words = each if isinstance(each, (list, tuple)) else [each]
        if len(words) != 3 or words[0] not in ("train", "valid") or words[2] not in ("min", "max"):
            raise UserError(
                f"--best_model_criterion {' '.join(map(str, words))}: expected train or valid, a figure, "
                "min or max"
            )
