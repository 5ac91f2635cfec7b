"""Another program in the back ends' place: with Kaldi's options, and a shell that reads its words."""

import shlex

import pytest

SLURM_PL = r"""#!/usr/bin/env bash
# What queue.pl and slurm.pl make of their arguments: options that their configuration knows, each with a
# value, and JOB=1:N; then a log, and words for a shell, in quotes if they have spaces. The job's environment
# is PATH. Any failure is status 1.
printf '%s\n' "$*" >>calls
first= last=
while [ $# -gt 2 ]; do
    if [[ $1 == --* ]]; then
        name=${1#--} name=${name//-/_}
        [[ " gpu mem time num_threads max_jobs_run " == *" ${name} "* ]] || exit 255
        shift 2
    elif [[ $1 =~ ^JOB=([0-9]+):([0-9]+)$ ]]; then
        first=${BASH_REMATCH[1]} last=${BASH_REMATCH[2]}
        shift
    else
        break
    fi
done
log=$1
shift
command=
for word; do
    if [[ ${word} =~ ^[^[:space:]]+$ ]]; then command+="${word} "
    elif [[ ${word} == *'"'* ]]; then command+="'${word}' "
    else command+="\"${word}\" "; fi
done
mkdir -p "$(dirname "${log}")"
status=0
for ((job = ${first:-1}; job <= ${last:-1}; job++)); do
    script=". ./path.sh; ( ${command//JOB/${job}} )"
    env -i PATH="${PATH}" bash -c "${script}" >"${log//JOB/${job}}" 2>&1 || status=1
done
exit "${status}"
"""

#: Prints what it is told by options and by arguments.
ONE = '#!/usr/bin/env bash\nset -u\nout=$1; shift\nprintf "%s\\n" "${text}" "${status}" "$@" >"${out}"\n'


@pytest.fixture
def kaldi(recipe):
    """The toy recipe with a copy of cmd.sh and a case of its own, as its first comment says."""
    program = recipe.folder / "slurm.pl"
    program.write_text(SLURM_PL)
    program.chmod(0o755)
    copy = (recipe.template / "cmd.sh").read_text()
    case = "    kaldi) train_cmd=./slurm.pl cpu_cmd=${train_cmd} decode_cmd=${train_cmd} ;;\n"
    (recipe.folder / "cmd.sh").write_text(copy.replace("    local)\n", f"{case}    local)\n"))
    (recipe.folder / "path.sh").write_text(f"export PYTHONPATH={shlex.quote(str(recipe.root))}\n")
    (recipe.folder / "local/one.sh").write_text(ONE)
    stage = recipe.template / "stages/01_one.sh"
    stage.write_text(stage.read_text().replace('run "${cpu_cmd}"', 'run "${cpu_cmd}" --num_threads 1'))
    return recipe


def test_kaldis_programs_fit(kaldi):
    """The options reach the commands, though the jobs' environment has PATH alone; no shell reads a word."""
    words = ["$(touch evil)", "a b", ";", '"', "<", ""]
    kaldi("--cmd_backend", "kaldi", "--text", "it's `touch evil`", "--words", shlex.join(words))
    said = (kaldi.folder / "data/one.txt").read_text()
    assert said == "\n".join(["it's `touch evil`", "false", "it's `touch evil`", *words]) + "\n"
    assert (kaldi.folder / "exp/3.txt").read_text() == said
    assert not [name for name in kaldi.files() if name.endswith("evil")]
    calls = (kaldi.folder / "calls").read_text()
    run_row = "python -m espnet_ext.bin.run_row"
    assert calls.startswith(f"--num_threads 1 exp/logs/one.log {run_row} exp/logs/one.words\n")
    assert f"JOB=1:2 exp/logs/three.JOB.log {run_row} exp/logs/three.jobs/JOB" in calls


def test_a_failure_is_told(kaldi):
    (kaldi.folder / "local/one.sh").write_text("#!/bin/sh\necho why; exit 3\n")
    printed = kaldi("--cmd_backend", "kaldi", code=1)
    assert "stage 1 one failed with status 1" in printed and "log: exp/logs/one.log" in printed
