#!/usr/bin/env bash
# What a Slurm job of ours runs: job.sh FOLDER NUMBER [array]. `jobfolder` writes FOLDER.
#
# Job NUMBER (plus the array's index) of a request: its command, its log in Kaldi's form, its status in
# FOLDER/done/NUMBER. Bash alone, with few other programs: an array of many small jobs pays for each of them. The
# command's words are read from a file and never seen by a shell.
#
# A signal (the time limit is near; preemption) goes on to the command. Status 75 means "run me again": the job puts
# itself back into the queue. Three runs in a row that got nowhere (`progress`) end it.
received=
child=
# shellcheck disable=SC2317 # called by the traps
on_signal() {
    received=$1
    if [ -n "${child}" ]; then kill -s "${forward}" "${child}" 2>/dev/null; fi
}
forward=TERM
trap 'on_signal USR1' USR1
trap 'on_signal TERM' TERM

folder=$1
number=$2
if [ "${3:-}" = array ]; then number=$((number + SLURM_ARRAY_TASK_ID)); fi
step=()
# shellcheck source=/dev/null
. "${folder}/settings.sh" || exit 1
: "${token:?}" "${log:?}" "${kind:?}" "${threads:?}" "${tasks:?}" "${requeue:?}" "${offline:?}" "${runs:?}"
begin=${EPOCHSECONDS}

# The job's number stands for the token, byte by byte.
locale=${LC_ALL-unset}
LC_ALL=C
mapfile -t -d '' words <"${folder}/words"
words=("${words[@]//"${token}"/"${number}"}")
log=${log//"${token}"/"${number}"}
if [ "${locale}" = unset ]; then unset LC_ALL; else LC_ALL=${locale}; fi

say() { printf '%s\n' "$*" >>"${log}"; }
# finish STATUS: write the footer and the status, which whoever waits reads, and end.
finish() {
    local seconds=$((EPOCHSECONDS - begin))
    printf '# Accounting: time=%d threads=%d\n# Ended (code %d) at %(%a %b %e %T %Y)T, elapsed time %d seconds\n' \
        "${seconds}" "${threads}" "$1" -1 "${seconds}" >>"${log}"
    record "end $1"
    printf '%d %s %s %d %d\n' "$1" "${HOSTNAME}" "${SLURM_JOB_ID:-0}" "${begin}" "${EPOCHSECONDS}" >"${folder}/done/${number}"
    exit "$1"
}
# record TEXT: a line of the job's history, kept for jobs that may run more than once.
record() {
    if [ "${runs}" = many ]; then
        printf '%s %d %s %s %s\n' "$1" "${EPOCHSECONDS}" "${HOSTNAME}" "${SLURM_JOB_ID:-0}" "${SLURM_RESTART_COUNT:-0}" \
            >>"${folder}/history/${number}"
    fi
}
# Slurm's word on this job. When it is put back into the queue all its processes are told to end, the one that asked for
# it as well, which must not look as if it had been refused.
ask() { (trap '' TERM USR1 && exec scontrol "$@") 2>&1; }
# How far the work is: anything that changes when it has moved on.
position() {
    local progress=() found each
    if [ -e "${folder}/progress/${number}" ]; then mapfile -t -d '' progress <"${folder}/progress/${number}"; fi
    for each in "${progress[@]}"; do
        if ! stat --format '%n %Y %s %i' -- "${each}" 2>/dev/null; then # or a pattern
            mapfile -t found < <(compgen -G "${each}")
            if [ "${#found[@]}" -gt 0 ]; then printf '%s %d\n' "${each}" "${#found[@]}"; fi
        fi
    done
}

mkdir -p -- "${log%/*}"
if [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
    if [ -s "${log}" ]; then mv -- "${log}" "${log}.prev"; fi
    : >"${log}"
fi
if ! : >>"${log}"; then # it says why into Slurm's own output
    printf 'error: %s cannot be written on %s\n' "${log}" "${HOSTNAME}" >&2
    finish 1
fi
line=
for word in "${words[@]}"; do
    if [[ ${word} =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then line+=" ${word}"; else line+=" ${word@Q}"; fi
done
printf '# %s\n# Running on %s\n# Started at %(%a %b %e %T %Y)T\n#\n' "${line# }" "${HOSTNAME}" -1 >>"${log}"

# Whether the runs before this one got anywhere.
if [ "${runs}" = many ]; then
    place=$(position)
    places=${folder}/history/${number}.places
    fruitless=0
    if [ -e "${places}" ] && [ "$(tail -n 1 -- "${places}")" = "${place//$'\n'/ }" ]; then
        fruitless=$(tac -- "${places}" | awk 'NR == 1 { last = $0 } $0 != last { exit } { n++ } END { print n }')
    fi
    printf '%s\n' "${place//$'\n'/ }" >>"${places}"
    if [ "${fruitless}" -ge "${max_fruitless:?}" ]; then
        say "error: this job ended ${fruitless} times without progress: no checkpoint was written in between. If it was" \
            "preempted or ran into its time limit, save more often (--checkpoint_minutes, --checkpoint_steps of the" \
            "training) or ask for a longer time limit (train: time in conf/slurm.yaml); else see above why it ended."
        finish 1
    elif [ "${fruitless}" -gt 0 ]; then
        say "warning: ${fruitless} run(s) of this job ended without a new checkpoint; after ${max_fruitless} it is given up." \
            "Is the time between two saves (--checkpoint_minutes, --checkpoint_steps) longer than a run may last?"
    fi
    record "start"
fi

# The user's environment: conda, modules, container.
if [ -e path.sh ]; then
    # shellcheck source=/dev/null
    . ./path.sh >>"${log}" 2>&1 || {
        say "error: path.sh failed on ${HOSTNAME}"
        finish 1
    }
fi
if [ "${offline}" = true ]; then export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${threads}}

if [ "${kind}" = stage ]; then
    # What the stage asks for runs in here, and it may have to wait until the run before this one is gone.
    export ESPNET_EXT_STAGE_JOB=${SLURM_JOB_ID:-here} ESPNET_EXT_LOCK_WAIT=600
elif [ "${kind}" = train ]; then
    # One step with a task a GPU. srun itself ends at SIGTERM, but hands SIGUSR1 on to its tasks. A task that is done
    # must not end another one that is still saving: hence the long wait.
    words=(srun "--ntasks=${tasks}" "--cpus-per-task=${threads}" --mpi=none --wait=300 --kill-on-bad-exit=0 "${step[@]}" "${words[@]}")
    forward=USR1
fi
# A shell between takes the status: `wait` loses it (-1, bash 5.2) if a signal comes just as the command ends. No signal
# ends that shell, and it waits in the foreground; the command gets the default actions.
exec {ends}< <(
    trap : TERM USR1
    sh -c 'echo $$ >&3; exec 3>&-; exec "$@"' sh "${words[@]}" 3>&1 >>"${log}" 2>&1 </dev/null
    echo $?
)
read -r child <&"${ends}"
if [ -n "${received}" ]; then kill -s "${forward}" "${child}" 2>/dev/null; fi # it may have come before the line above
read -r code <&"${ends}"
code=${code:-137} # all were killed
child=

# Told to stop before it could say that it wants to go on, or asked for it. Also a job that was preempted while it
# started (srun fails in its own way then) has not ended.
if [ "${code}" != 0 ]; then
    case ${code} in 75 | 130 | 137 | 138 | 143) stopped=yes ;; esac
    if [ "${code}" = 75 ] || [ "${kind}" = train ] || [ "${kind}" = stage ] || [ -n "${received}" ]; then again=yes; fi
    case $(ask show job --oneliner "${SLURM_JOB_ID}") in
        *JobState=PENDING* | *JobState=REQUEUE* | *" Restarts=$((${SLURM_RESTART_COUNT:-0} + 1)) "*)
            # Slurm has put it back itself: preempted, or by `scontrol requeue`. It has not ended.
            say "# Stopped (code ${code}), run $((${SLURM_RESTART_COUNT:-0} + 1)); Slurm runs it again"
            record "again ${code}"
            exit 75
            ;;
        *JobState=RUNNING*) # and not cancelled
            if [ "${stopped:-}${again:-}${requeue}" = yesyestrue ] && [ "${code}" != 137 ]; then
                say "# Stopped (code ${code}), run $((${SLURM_RESTART_COUNT:-0} + 1)); back in the queue, goes on from its last checkpoint"
                record "again ${code}"
                if ask requeue "${SLURM_JOB_ID}" >>"${log}"; then exit 75; fi
            fi
            ;;
    esac
fi
finish "${code}"
