"""A save interval that is longer than a run may last is told at submission."""

import pytest
import yaml

from espnet_ext.launch.interval import interval_warning, minutes_of

TRAIN = ("python", "-m", "espnet_ext.bin.asr_train", "--config", "train.yaml", "--output_dir", "x")


@pytest.mark.parametrize(
    ("limit", "options", "config", "told"),
    [
        ("--time=5", (), {}, True),  # ten minutes, unless it is said
        ("--time=30", (), {}, False),
        ("--time=1:00:00", (), {"checkpoint_minutes": 90}, True),
        ("--time=1:00:00", ("--checkpoint_minutes", "20"), {"checkpoint_minutes": 90}, False),
        ("--time=5", ("--checkpoint_steps=50",), {}, False),
        ("--partition=x", (), {}, False),
    ],
)
def test_interval(tmp_path, monkeypatch, limit, options, config, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    warning = interval_warning((*TRAIN, *options), ("--mem=1G", limit), 120)
    assert bool(warning) == told
    if told:
        assert "--checkpoint_minutes" in warning and "120 s ahead" in warning


def test_what_is_no_training_and_no_limit():
    assert not interval_warning(("sleep", "5"), ("--time=1",), 120)
    assert minutes_of("UNLIMITED") is None and minutes_of("1:2:3:4") is None


def test_a_signal_ahead_of_the_whole_run():
    warning = interval_warning(TRAIN, ("--time=2",), 120)
    assert "each run is told to end as soon as it starts" in warning
