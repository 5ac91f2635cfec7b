"""Statistics of another number of features than the front end makes."""

import argparse

import numpy as np
import pytest

from espnet_ext.asr.task import ASRTask
from espnet_ext.asr.transducer_task import TransducerTask
from espnet_ext.errors import UserError
from tests.asr.conftest import small_config
from tests.asr.test_transducer import config as transducer_config


@pytest.mark.parametrize(("task", "config"), [(ASRTask, small_config), (TransducerTask, transducer_config)])
def test_another_number_of_features(task, config, tmp_path):
    """Said by name and number before anything is computed; the right number passes."""
    for features in (40, 80):
        np.savez(
            tmp_path / f"{features}.npz", count=9, sum=np.ones(features), sum_square=np.ones(features) * 9
        )
    parser = task.get_parser()
    defaults = vars(parser.parse_args(["--output_dir", "-", "--token_list", "-"]))

    def build(features):
        own = {"normalize": "global_mvn", "normalize_conf": {"stats_file": str(tmp_path / f"{features}.npz")}}
        return task.build_model(argparse.Namespace(**{**defaults, **config(), **own}))

    assert build(40).normalize is not None
    with pytest.raises(UserError, match=r"80\.npz: is of 80 features a frame, .* makes 40"):
        build(80)
