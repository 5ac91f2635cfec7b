"""What `mutual_learning_conf` says is what the method does."""

from espnet_ext.asr.ramp import Ramp
from espnet_ext.asr.sampled import Sampling
from espnet_ext.mutual_learning.options import DEFAULTS, MutualOptions, parse_conf


def test_every_option_arrives():
    conf = {
        "weight": 0.3,
        "weight_start": 2,
        "weight_warmup": 5,
        "hard_weight": "full",
        "form": "kl",
        "temperature": 2.5,
        "ctc": True,
        "masks": "shared",
        "order": "sequential",
        "sampling": 0.2,
        "sampling_start": 3,
        "sampling_warmup": 7,
        "sampling_draw": "argmax",
        "sampling_history": "own",
    }
    assert conf.keys() == DEFAULTS.keys()
    assert parse_conf(conf) == MutualOptions(
        weight=Ramp(0.3, start=2, steps=5),
        full_hard=True,
        form="kl",
        temperature=2.5,
        ctc=True,
        shared_masks=True,
        sequential=True,
        sampling=Sampling(Ramp(0.2, start=3, steps=7), "argmax", "own"),
    )
    assert parse_conf({}) == MutualOptions(Ramp(0.5))
