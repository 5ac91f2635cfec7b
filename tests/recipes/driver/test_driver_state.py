"""What the driver knows about stages, and what it does with that."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from espnet_ext.processes import ONE_WISH, start_of
from espnet_ext.recipe.fingerprint import fingerprint

ALL = ("one", "two", "three")


def states(one, two, three):
    return dict(zip(ALL, (one, two, three), strict=True))


def test_from_to_do_to_done_and_skipped(recipe):
    assert recipe.states() == states("to do", "to do", "to do")
    output = recipe()
    assert output.count(": done in") == 3
    assert recipe.states() == states("done", "done", "done")
    before = {
        name: (recipe.folder / name).stat().st_mtime_ns for name in recipe.files() if "lock" not in name
    }
    output = recipe()
    assert output.count("nothing has changed: skipped (--force runs it again)") == 3
    assert before == {n: (recipe.folder / n).stat().st_mtime_ns for n in recipe.files() if "lock" not in n}
    assert recipe("--force").count(": done in") == 3


def test_record_says_what_was_run(recipe):
    recipe("--text", "it's $HOME", recipe_program="./run.sh")
    record = json.loads((recipe.folder / "exp/.stages/01_one.json").read_text())
    assert record["command"] == """./run.sh --text 'it'"'"'s $HOME'"""
    assert record["state"] == "done" and record["exit_code"] == 0
    assert record["options"] == {"text": "it's $HOME", "words": ""}
    assert record["outputs"] == ["data/one.txt"] and record["logs"] == ["exp/logs/one.log"]
    assert record["host"] == os.uname().nodename and record["versions"]["python"]
    assert record["start"] <= record["end"] and {"commit", "inputs", "script"} <= set(record)
    assert (recipe.folder / "exp/.stages/03_three@none.json").is_file()


def test_what_jobs_found_in_the_data_is_on_the_screen(recipe):
    """It stands in logs, which nobody opens after a stage that ended well."""
    found = (
        "data/a -> dump/a: 3 of 4 utterances\\n  dropped 1: empty transcript (first: data/a/text:2 'b')\\n"
    )
    (recipe.folder / "local/one.sh").write_text(f'#!/usr/bin/env bash\nprintf "{found}"\necho all >$1\n')
    output = recipe("--stop_stage", "1")
    said = "\n".join(["data/a -> dump/a: 3 of 4 utterances", "  dropped 1: empty transcript (first: "])
    assert f"{said}data/a/text:2 'b')\n" in output and "# Started" not in output
    assert output.index("dropped 1") < output.index("one: done in")


def test_stale_after_changes(recipe):
    recipe()
    assert "text was 'hello', is 'bye'" in recipe.why("one", "--text", "bye")
    assert recipe.states("--text", "bye") == states("stale", "done", "stale")
    assert recipe.states("--nj", "7") == states("done", "done", "done")  # it does not count

    (recipe.folder / "local/one.sh").write_text("#!/usr/bin/env bash\necho other >$1\n")
    assert "local/one.sh changed" in recipe.why("one")
    recipe("--stop_stage", "1")
    assert recipe.states() == states("done", "stale", "done")
    assert "data/one.txt changed" in recipe.why("two")
    recipe()
    assert recipe.states() == states("done", "done", "done")

    (recipe.folder / "source.txt").write_text("a new optional input\n")
    assert recipe.states()["one"] == "stale"
    recipe()
    os.utime(recipe.folder / "source.txt", (1, 1))  # content counts, not the time
    assert recipe.states() == states("done", "done", "done")


def test_stale_after_a_change_of_the_script_but_not_of_its_comments(recipe):
    recipe()
    file = recipe.template / "stages/02_two.sh"
    file.write_text(file.read_text() + "# a comment\n\n")
    assert recipe.states()["two"] == "done"
    file.write_text(file.read_text() + "true\n")
    assert "02_two.sh changed" in recipe.why("two")


def test_who_begins_behind_a_stale_stage_is_told(recipe):
    """A transcript is corrected after the statistics, and training begins at stage 8: not a word was said."""
    recipe()
    assert "note: " not in recipe("--stage", "three", "--force")
    (recipe.folder / "data/one.txt").write_text("corrected\n")
    output = recipe("--stage", "three", "--force", "--text", "other")
    assert "note: stage 2 two is not among the stages to run, and has read data/one.txt before that" in output
    assert "note: stage 1" not in output  # another option of a stage that is not run is nobody's mistake
    assert "note: " not in recipe("--stage", "two")


def test_stale_after_a_change_of_the_configuration(recipe):
    recipe()
    (recipe.template / "conf/a.yaml").write_text("a: 2\n")
    assert "TEMPLATE/asr1/conf/a.yaml changed" in recipe.why("two")
    recipe()
    (recipe.folder / "conf/a.yaml").write_text("a: 2\n")  # the recipe's own comes first
    assert "conf/a.yaml changed" in recipe.why("two")
    assert recipe.states()["two"] == "stale"


def test_configurations_count_by_what_they_say(recipe):
    """Not by comments; also where a version before has noted the file, and where it is no plain YAML."""
    recipe()
    file, record = recipe.template / "conf/a.yaml", recipe.folder / "exp/.stages/02_two.json"
    noted = json.loads(record.read_text())
    path = next(each for each in noted["inputs"] if each.endswith("a.yaml"))
    noted["inputs"][path] = fingerprint(file)
    record.write_text(json.dumps(noted))
    assert recipe.states()["two"] == "done" and "note: " not in recipe("--stage", "three", "--force")
    for text in ("2026-01-01: 3\n", "foo: &x [*x]\n", "foo: 2026-13-45\n"):
        file.write_text(text)
        assert recipe.states()["two"] == "stale"


def test_missing_outputs_are_to_do_and_missing_inputs_an_error(recipe):
    recipe()
    (recipe.folder / "dump/two.txt").unlink()
    assert "dump/two.txt is missing" in recipe.why("two")
    output = recipe("--stage", "3", code=1)
    assert "stage 3 three needs dump/two.txt, which does not exist; it is written by stage 2 two" in output
    assert "--stage two --stop_stage two" in output
    (recipe.folder / "data/one.txt").unlink()
    recipe()
    assert recipe.states() == states("done", "done", "done")


def test_large_inputs_are_compared_by_size_and_time(recipe):
    with open(recipe.folder / "source.txt", "wb") as handle:
        handle.truncate(9 * 2**20)
    recipe()
    assert recipe.states()["one"] == "done"
    os.utime(recipe.folder / "source.txt", (1, 1))
    assert recipe.states()["one"] == "stale"


def test_failed_stage_says_where_and_how_to_go_on(recipe):
    (recipe.folder / "local/one.sh").write_text("#!/usr/bin/env bash\necho the reason\nexit 4\n")
    output = recipe("--text", "a b", code=4)
    assert "| the reason" in output
    assert "error: stage 1 one failed with status 4\n  log: exp/logs/one.log\n" in output
    assert "run it again (what is done is skipped): ./asr.sh --text 'a b'" in output
    assert "stage 2" not in output
    assert "status 4" in recipe.why("one") and recipe.states()["one"] == "failed"
    recipe.hook("")
    (recipe.folder / "local/one.sh").write_text('#!/usr/bin/env bash\necho >"$1"\n')
    recipe()
    assert recipe.states() == states("done", "done", "done")


def test_a_stage_that_writes_nothing_fails(recipe):
    (recipe.folder / "local/one.sh").write_text("#!/usr/bin/env bash\n")
    assert "stage 1 one ended well but did not write data/one.txt" in recipe(code=1)
    assert recipe.states()["one"] == "failed"


def test_preempted_stage_passes_75_on_and_goes_on(recipe):
    recipe.hook("exit 75")
    output = recipe(code=75)
    assert "stage 2 two was preempted or told to stop (status 75)" in output and "error" not in output
    assert recipe.states() == states("done", "preempted", "to do")
    assert "resume=false" in output
    recipe.hook("")
    output = recipe()
    assert "resume=true" in output and "stage 1 one: done" in output


def test_resume_only_if_nothing_changed_unless_told(recipe):
    recipe.hook("exit 75")
    recipe(code=75)
    (recipe.folder / "conf/a.yaml").write_text("a: 3\n")
    assert "resume=false" in recipe(code=75)
    assert "resume=true" in recipe(code=75)
    assert "resume=false" in recipe("--resume", "false", code=75)
    (recipe.folder / "conf/a.yaml").write_text("a: 4\n")
    assert "resume=true" in recipe("--resume", "true", code=75)
    recipe.hook("")
    recipe()
    assert "resume=false" in recipe("--force")


def test_dry_run_prints_and_does_nothing(recipe):
    before = recipe.files()
    output = recipe("--dry_run", "--text", "it's $(touch evil)")
    assert recipe.files() == before
    assert "stage 1 one: write a text" in output
    assert """local/one.sh data/one.txt 'it'\\''s $(touch evil)'""" in output
    assert "\nlocal/two.sh data/one.txt dump/two.txt\n" in output
    assert "# job 1: cp dump/two.txt exp/3.txt\n" in output
    recipe()
    output = recipe("--dry_run")
    assert output.count("done, would be skipped") == 3
    assert "\nlocal/two.sh data/one.txt dump/two.txt\n" in recipe("--dry_run", "--force")
    output = recipe("--dry_run", "--text", "new")
    assert "stage 2 two: done; would run if a stage before it changes its inputs" in output


def test_printed_commands_can_be_pasted(recipe):
    recipe("--text", "old")
    output = recipe("--dry_run", "--text", 'it\'s; $(touch evil) \\ "new"', "--stop_stage", "1")
    script = "set -e; . ./path.sh\n" + output
    (recipe.folder / "path.sh").symlink_to(recipe.root / "egs2/TEMPLATE/asr1/path.sh")
    subprocess.run(["bash", "-c", script], cwd=recipe.folder, env=recipe.environment, check=True)
    assert (recipe.folder / "data/one.txt").read_text() == 'it\'s; $(touch evil) \\ "new"\n'


HANG = "echo $$ >pid; sleep 1000 & echo $! >pid2; wait"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_stage_is_not_done_and_its_processes_are_gone(recipe, started, number, code):
    recipe.hook(HANG)
    driver = started()
    recipe.wait_for("pid2")
    assert recipe.states() == states("done", "running", "to do")
    driver.send_signal(number)
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == code, out + err
    assert "stage 2 two was interrupted" in err
    assert recipe.states() == states("done", "interrupted", "to do")
    assert start_of(int(recipe.wait_for("pid"))) is None and start_of(int(recipe.wait_for("pid2"))) is None
    recipe.hook("")
    recipe()


def test_saving_stage_ends_with_75_after_a_signal(recipe, started):
    recipe.hook(
        "trap 'sleep 0.3; echo saved >>saved; exit 75' TERM; echo $$ >pid; while true; do sleep 0.05; done"
    )
    driver = started()
    recipe.wait_for("pid")
    driver.send_signal(signal.SIGTERM)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 75 and "was preempted" in err
    assert recipe.wait_for("saved") == "saved"  # told once
    assert recipe.states()["two"] == "preempted"


def test_second_signal_ends_a_stage_that_does_not_listen(recipe, started):
    recipe.hook("trap 'echo yes >told' TERM; trap '' INT; echo $$ >pid; while true; do sleep 0.05; done")
    driver = started()
    pid = int(recipe.wait_for("pid"))
    driver.send_signal(signal.SIGINT)
    recipe.wait_for("told")
    time.sleep(ONE_WISH + 0.01)  # from the moment at which the driver has had the first one
    assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    assert driver.wait(300) == 130
    assert start_of(pid) is None


def test_killed_driver_leaves_nothing_that_runs_or_looks_finished(recipe, started):
    recipe.hook(HANG)
    driver = started()
    recipe.wait_for("pid2")
    driver.kill()
    driver.wait()
    recipe.wait_for_the_end_of("pid", "pid2")
    assert recipe.states() == states("done", "interrupted", "to do")
    assert "its process is gone" in recipe.why("two")
    (recipe.folder / "pid").unlink()
    recipe.hook("")
    recipe()
    assert recipe.states() == states("done", "done", "done")


def test_second_driver_is_refused(recipe, started):
    recipe.hook(HANG)
    driver = started()
    recipe.wait_for("pid")
    output = recipe(code=1)
    assert f"is in use by process {driver.pid} on {os.uname().nodename}" in output
    assert "--expdir" in output
    assert recipe("--list") and recipe("--dry_run")
    recipe("--stop_stage", "1", "--datadir", "d", "--dumpdir", "u", "--expdir", "e")  # folders of its own
    driver.send_signal(signal.SIGTERM)
    driver.wait(300)
    recipe.hook("")
    recipe()


def test_lock_outlives_the_driver_as_long_as_its_stage_does(recipe, started):
    recipe.hook("trap '' TERM; echo $$ >pid; while [ ! -e end ]; do sleep 0.05; done; exit 1")
    driver = started()
    recipe.wait_for("pid")
    driver.kill()
    driver.wait()
    output = recipe(code=1)  # there is nobody to be ended
    assert f"is in use by jobs that process {driver.pid}" in output and "Wait some seconds" in output
    (recipe.folder / "end").touch()
    recipe.wait_for_the_end_of("pid")
    recipe.hook("")
    recipe()


def test_driver_starts_without_torch(recipe):
    heavy = "{'torch', 'espnet2', 'numpy'} & set(sys.modules)"
    code = f"import sys, espnet_ext.bin.recipe, espnet_ext.bin.run_local; assert not {heavy}"
    subprocess.run([sys.executable, "-c", code], env=recipe.environment, check=True)
