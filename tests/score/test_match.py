"""What a pair is matched by, out of the summaries of its trainings."""

import pytest

from espnet_ext.recipe.systems import MATCHES, load_systems
from espnet_ext.score.match import amount, mismatches

PLAIN = {
    "steps": 100,
    "seconds": 60.0,
    "parameters": 10,
    "batches": {"labelled": 100},
    "frames": {"labelled": 5000},
    "labelled_batches": 100,
}


def test_amounts_of_a_plain_training():
    found = {name: amount(PLAIN, name) for name in MATCHES}
    assert found["steps"] == found["updates"] == found["labelled_batches"] == 100
    assert (found["unlabelled_batches"], found["unlabelled_hours"]) == (0, 0)
    assert (found["encoder_frames"], found["compute"], found["seconds"]) == (5000, 50_000, 60.0)


def test_peers_count_their_parameters_and_own_counts_come_first():
    peers = {"peers": {"peer1": {"parameters": 10}, "peer2": {"parameters": 5}}}
    assert amount(PLAIN | peers, "compute") == 5000 * 15
    assert amount(PLAIN | {"encoder_frames": 7}, "encoder_frames") == 7
    assert amount({"batches": {"labelled": 1, "unlabelled": 3}}, "unlabelled_batches") == 3
    assert amount({}, "compute") is None


@pytest.mark.parametrize(
    ("steps", "said"), [(101, []), (102, ["steps: 2 % more"]), (90, ["steps: 10 % less"])]
)
def test_one_percent_is_equal(steps, said):
    assert mismatches([PLAIN | {"steps": steps}], [PLAIN], ["steps"]) == said


def test_means_over_seeds_are_compared():
    pair = [PLAIN | {"steps": 90}, PLAIN | {"steps": 110}]
    assert mismatches(pair, [PLAIN, PLAIN], ["steps", "encoder_frames"]) == []


def test_what_is_not_recorded_is_said():
    assert mismatches([None], [PLAIN], ["steps"]) == ["steps: not recorded"]
    assert mismatches([PLAIN], [], ["seconds"]) == ["seconds: not recorded"]
    assert mismatches([PLAIN], [PLAIN | {"steps": 0}], ["steps"]) == ["steps: the control has none"]


def test_everything_that_controls_promise_can_be_looked_up():
    rich = PLAIN | {
        "frames": {"labelled": 1, "unlabelled": 1},
        "batches": {"labelled": 1},
        "unlabelled_hours": 1.0,
    }
    for pair in load_systems().pairs:
        for name in pair.matched:
            assert amount(rich, name) is not None, (pair, name)
