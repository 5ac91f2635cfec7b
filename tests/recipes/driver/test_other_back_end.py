"""Another program in the back ends' place: with Kaldi's options, and a shell that reads its words."""

QUEUE_PL = """\
#!/usr/bin/env bash
# As queue.pl and slurm.pl: options, JOB=1:N, a log, a command for a shell; everything in it was asked for.
set -e
printf '%s\\n' "$*" >>calls
while [[ $1 == --* ]]; do shift 2; done
first=1 last=1
if [[ $1 =~ ^JOB=([0-9]+):([0-9]+)$ ]]; then first=${BASH_REMATCH[1]} last=${BASH_REMATCH[2]}; shift; fi
log=$1; shift
for ((job = first; job <= last; job++)); do
    mkdir -p "$(dirname "${log}")"
    bash -c "${*//JOB/${job}}" >"${log//JOB/${job}}" 2>&1
done
"""


def test_kaldis_programs_fit(recipe):
    """A copy of cmd.sh with a case of its own, as its first comment says."""
    program = recipe.folder / "queue.pl"
    program.write_text(QUEUE_PL)
    program.chmod(0o755)
    copy = (recipe.template / "cmd.sh").read_text()
    case = "    kaldi) train_cmd=./queue.pl cpu_cmd=${train_cmd} decode_cmd=${train_cmd} ;;\n"
    (recipe.folder / "cmd.sh").write_text(copy.replace("    local)\n", f"{case}    local)\n"))
    recipe("--cmd_backend", "kaldi")
    assert (recipe.folder / "data/one.txt").read_text() == "hello\n"
    assert (recipe.folder / "exp/3.txt").read_text() == "hello\n"
    calls = (recipe.folder / "calls").read_text()
    assert calls.startswith("exp/logs/one.log local/one.sh data/one.txt hello\n")
    assert "JOB=1:2 exp/logs/three.JOB.log python -m espnet_ext.bin.run_row exp/logs/three.jobs/JOB" in calls
