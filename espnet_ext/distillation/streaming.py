"""What a streaming student may hear of the future, and whether stock ESPnet can stream it.

An encoder frame t is made of feature frames [4 t, 4 t + 7) (for subsampling by 4 without padding). Its time
is their middle one's. With causal convolutions and attention in chunks it depends on nothing behind the last
feature frame of its chunk's last frame, and that one on half a window of samples.

Legend: t encoder frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from espnet_ext.errors import UserError

#: Blocks of ESPnet's stand-alone encoder whose convolutions are causal with dynamic_chunk_training.
_CAUSAL = ("ebranchformer", "branchformer", "conformer", "conv1d")
#: Feature frames an encoder frame reads, by subsampling factor (`ConvInput` without VGG).
_WINDOW = {2: 7, 4: 7, 6: 11}


def _front(config: Mapping) -> tuple[int, int, int]:
    """Samples: hop, FFT, window."""
    conf = config.get("frontend_conf") or {}
    n_fft = int(conf.get("n_fft") or 512)
    return int(conf.get("hop_length") or 128), n_fft, int(conf.get("win_length") or n_fft)


def _input(config: Mapping) -> tuple[Mapping, int]:
    conf = (config.get("encoder_conf") or {}).get("input_conf")
    if conf is None or "body_conf" not in config["encoder_conf"]:
        raise UserError(
            "the student is no transducer: expected encoder_conf with input_conf and body_conf, as in "
            "conf/student.yaml"
        )
    return conf, int(conf.get("subsampling_factor", 4))


def frame_shift_of(config: Mapping) -> int:
    """Samples from one of the student's encoder frames to the next.

    Raises:
        UserError: the configuration is not a transducer's, or one that reads stored features.
    """
    if config.get("input_size") is not None:
        raise UserError("the student reads stored filterbanks; distillation needs audio (--feats_type raw)")
    return _front(config)[0] * _input(config)[1]


@dataclass(frozen=True)
class LookAhead:
    """Samples that decide about an encoder frame."""

    hop: int
    factor: int
    window: int  # feature frames an encoder frame reads
    half: int  # samples on either side of a feature frame's middle
    chunk: int  # encoder frames

    def time(self, frame: int) -> int:
        """Sample in the middle of what an encoder frame reads."""
        return (frame * self.factor + self.window // 2) * self.hop

    def last_sample(self, frame: int) -> int:
        """No sample from here on reaches the frame: the end of its chunk's last frame's last window."""
        last = frame // self.chunk * self.chunk + self.chunk - 1
        return (last * self.factor + self.window - 1) * self.hop + self.half

    @property
    def samples(self) -> int:
        """The look-ahead that holds for every frame: that of a chunk's first one."""
        return self.last_sample(0) - self.time(0)


def look_ahead(config: Mapping, chunk: int) -> LookAhead:
    """What a student hears of the future with chunks of so many encoder frames (1: causal).

    Raises:
        UserError: it would hear all of it (see `check_streaming`).
    """
    check_streaming(config)
    if chunk < 1:
        raise UserError(f"streaming chunk {chunk}: expected at least 1 encoder frame")
    hop, _, window = _front(config)
    factor = _input(config)[1]
    return LookAhead(hop, factor, _WINDOW[factor], -(-window // 2), chunk)


def check_streaming(config: Mapping) -> None:
    """Refuse a student that hears beyond its chunk, or that stock ESPnet's streaming inference would garble.

    Raises:
        UserError: naming the option.
    """
    main = (config.get("encoder_conf") or {}).get("main_conf") or {}
    conf, factor = _input(config)
    hop, n_fft, window = _front(config)
    blocks = [each.get("block_type") for each in config["encoder_conf"]["body_conf"]]
    # ESPnet cuts some features off both ends of what it hears (online_audio_processor.py). It neither loses
    # nor repeats one only where the FFT is twice as many hops long; and those that stay hear nothing of the
    # reflection at the ends only where their windows do not reach there (a fortieth, Hann's foot, may).
    trim = -(-n_fft // hop) // 2
    for good, what in (
        (
            main.get("dynamic_chunk_training") is True,
            "encoder_conf main_conf dynamic_chunk_training: true makes convolutions causal and attention "
            "chunked",
        ),
        (
            main.get("short_chunk_size", 25) >= 1,
            "encoder_conf main_conf short_chunk_size: expected at least 1",
        ),
        (not conf.get("vgg_like", False), "encoder_conf input_conf vgg_like: false has no padding in time"),
        (factor in _WINDOW, f"encoder_conf input_conf subsampling_factor {factor}: expected 2, 4 or 6"),
        (
            all(block in _CAUSAL for block in blocks),
            f"encoder_conf body_conf: blocks {', '.join(map(str, blocks))}: expected {', '.join(_CAUSAL)}",
        ),
        (
            config.get("normalize") in (None, "global_mvn"),
            f"normalize {config.get('normalize')}: hears a whole utterance before its first frame; use "
            "global_mvn",
        ),
        (config.get("frontend") in (None, "default"), f"frontend {config.get('frontend')}: expected default"),
        (
            n_fft // hop == 2 * trim and window / 2 - trim * hop <= window / 40,
            f"frontend_conf n_fft {n_fft} with hop_length {hop} and win_length {window}: ESPnet's streaming "
            "inference would lose, repeat or spoil features at every chunk; with a win_length of 400 take "
            "n_fft 512 with a hop_length of 128, 192 or 256, or 640 with 160",
        ),
    ):
        if not good:
            raise UserError(f"this student cannot stream: {what}")
