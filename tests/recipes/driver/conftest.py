"""A toy recipe: the template's asr.sh and helpers with three stages that copy a file."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_ext.bin.recipe import main
from espnet_ext.processes import start_of

OPTIONS = """
what:
    title: What
    options:
        stage: {type: stage, help: first}
        stop_stage: {type: stage, help: last}
        skip_stages: {type: stages, help: not these}
        list: {type: bool, default: false, help: table}
        status: {type: bool, default: false, help: state}
        dry_run: {type: bool, default: false, help: print}
        force: {type: bool, default: false, help: again}
        resume: {choices: [auto, "true", "false"], default: auto, help: go on}
        cmd_backend: {type: name, default: local, help: back end}
        datadir: {type: path, default: data, help: data}
        dumpdir: {type: path, default: dump, help: dump}
        expdir: {type: path, default: exp, help: exp}
        words: {type: words, help: arguments of stage one}
        sets: {type: names, help: sets}
        text: {type: str, default: hello, help: what is written}
        nj: {type: int, default: 1, minimum: 1, help: does not count}
        size: {type: float, default: 1.5, minimum: 0, help: a number}
        speeds: {type: floats, minimum: 0.5, maximum: 2, unique: true, help: numbers}
        rate: {type: rate, default: 16k, help: of audio}
        method: {choices: [none, telepathy], default: none, plugins: espnet_ext.tasks, help: method}
        config: {type: config, default: conf/a.yaml, help: a file}
derived:
    logdir: ${expdir}/logs
    result: ${datadir}/one.txt
"""

STAGES = {
    "01_one.sh": """\
# does: write a text
# options: [text, words]
# uncounted: [nj, logdir]
# arguments: words
# inputs: ["source.txt ?", "local/**"]
# outputs: ["${result}"]
# logs: ["${logdir}/one.log"]
. "${template_dir}/utils/stage.sh"
run "${cpu_cmd}" "${logdir}/one.log" local/one.sh "${result}" "${text}" "$@"
""",
    "02_two.sh": """\
# does: copy it
# options: [config]
# uncounted: [sets]
# inputs: ["${result}"]
# outputs: ["${dumpdir}/two.txt"]
. "${template_dir}/utils/stage.sh"
echo "resume=${resume}"
run local/two.sh "${result}" "${dumpdir}/two.txt"
""",
    "03_three.sh": """\
# does: copy it twice
# scope: ${method}
# options: [text]
# inputs: ["${dumpdir}/two.txt"]
# outputs: ["${expdir}/3.txt"]
. "${template_dir}/utils/stage.sh"
open_queue "${expdir}/logs" three
queue cp "${dumpdir}/two.txt" "${expdir}/3.txt"
queue cp "${dumpdir}/two.txt" "${expdir}/it's; 3 \\$(touch evil)"
run_queue "${cpu_cmd}"
""",
}

LOCAL = {
    # Prints its arguments, one a line, into its output.
    "one.sh": '#!/usr/bin/env bash\nset -e\nout=$1; shift\nprintf "%s\\n" "$@" >"${out}"\n',
    "two.sh": '#!/usr/bin/env bash\nset -e\n. ./hook\ncp "$1" "$2"\n',
}


class Recipe:
    """A recipe's folder and its driver."""

    def __init__(self, folder: Path, template: Path, root: Path):
        self.folder, self.template, self.root = folder, template, root
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "ESPNET_EXT_OWN_PYTHON": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start(self, *options: str, start_new_session: bool = False, **extra: str) -> subprocess.Popen:
        """Start the driver; in a session of its own it can be sent Ctrl-C as a terminal would."""
        command = [str(self.template / "asr.sh"), *options]
        pipe = subprocess.PIPE
        environment = {**self.environment, **extra}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=start_new_session,
        )

    def __call__(self, *options: str, code: int = 0, **extra: str) -> str:
        """Run the driver, check its exit status, return what it printed."""
        process = self.start(*options, **extra)
        out, err = process.communicate(timeout=600)
        assert process.returncode == code, out + err
        return out + err

    def status(self, *options: str) -> list[str]:
        """Lines of --status, without another process."""
        out = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out):
            assert main(["--template", str(self.template), "--status", *options]) == 0
        return out.getvalue().splitlines()

    def states(self, *options: str) -> dict[str, str]:
        """State of each stage, as --status prints it."""
        known = ("done", "stale", "failed", "to do", "running", "interrupted", "preempted")
        lines = [line.split(maxsplit=2) for line in self.status(*options)[1:]]
        return {name: next(s for s in known if rest.startswith(s)) for _, name, rest in lines}

    def why(self, name: str, *options: str) -> str:
        """The line of a stage in --status."""
        return next(x for x in self.status(*options) if x.split()[1:2] == [name])

    def files(self) -> set[str]:
        """All files, relative."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    def hook(self, text: str) -> None:
        """What stage two does before it copies."""
        (self.folder / "hook").write_text(text)

    def wait_for_the_end_of(self, *names: str) -> None:
        """Wait until the processes are gone whose numbers are in these files."""
        end = time.monotonic() + 300
        for name in names:
            while start_of(int(self.wait_for(name))) is not None:
                assert time.monotonic() < end, f"waited in vain for the end of {name}"
                time.sleep(0.02)

    def wait_for(self, name: str) -> str:
        """Wait until a file is there and not empty; its content."""
        end = time.monotonic() + 300
        path = self.folder / name
        while not (path.exists() and path.read_text().strip()):
            assert time.monotonic() < end, f"waited in vain for {name}"
            time.sleep(0.02)
        return path.read_text().strip()


@pytest.fixture(scope="session")
def real_template(repo_root) -> Path:
    """The repository's template."""
    return repo_root / "egs2/TEMPLATE/asr1"


@pytest.fixture
def recipe(tmp_path, repo_root, real_template):
    """A fresh toy recipe in a path with a space and a quote."""
    template, folder = tmp_path / "root/egs2/TEMPLATE/asr1", tmp_path / "root/egs2/it's a toy/asr1"
    for path in (template / "stages", template / "conf", folder / "local", folder / "conf"):
        path.mkdir(parents=True)
    (tmp_path / "root/tools").symlink_to(repo_root / "tools")
    for name in ("asr.sh", "path.sh", "cmd.sh", "db.sh"):
        shutil.copy(real_template / name, template / name)
    shutil.copytree(real_template / "utils", template / "utils")
    (template / "conf/options.yaml").write_text(OPTIONS)
    (template / "conf/a.yaml").write_text("a: 1\n")
    for name, text in STAGES.items():
        (template / "stages" / name).write_text("#!/usr/bin/env bash\n" + text)
    for name, text in LOCAL.items():
        (folder / "local" / name).write_text(text)
        (folder / "local" / name).chmod(0o755)
    recipe = Recipe(folder, template, repo_root)
    recipe.hook("")
    return recipe


@pytest.fixture
def started(recipe):
    """Start drivers that are killed at the end of the test."""
    processes = []

    def start(*options, **extra):
        processes.append(recipe.start(*options, **extra))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
