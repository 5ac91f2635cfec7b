# shellcheck shell=bash
# Sourced first by every stage script: strict mode, the back ends of cmd.sh, and the few verbs stages are made of.
# Every command of a stage goes through `run` or `queue`, so that --dry_run can print it instead.
set -euo pipefail
set -f # options that are lists are split into words, never expanded to file names

utils_dir=utils
[ -d "${utils_dir}" ] || utils_dir=${template_dir}/utils
for file in db.sh cmd.sh; do
    [ -e "${file}" ] || file=${template_dir}/${file}
    # shellcheck source=/dev/null
    . "${file}"
done

child=
told=
signals=0
stop_status=
# A signal goes on to the command that runs, once; the stage ends with that command's status (75: run me again).
on_signal() {
    stop_status=$1
    signals=$((signals + 1))
    tell_child
}
tell_child() {
    if [ -n "${stop_status}" ] && [ -n "${child}" ] && [ -z "${told}" ]; then
        told=yes
        kill -TERM "${child}" 2>/dev/null || true
    fi
}
trap 'on_signal 143' TERM
trap 'on_signal 130' INT

# The driver ends what a stage leaves behind. If it was killed, nobody else does.
on_exit() {
    local parent=${PPID}
    if [ -r "/proc/$$/stat" ]; then read -r _ _ _ parent _ <"/proc/$$/stat"; fi
    if [ "${parent}" != "${PPID}" ]; then
        trap '' TERM
        kill -TERM 0
    fi
}
trap on_exit EXIT

# run COMMAND ARGUMENT...: run it, or print it in a dry run.
run() {
    local status seen
    if [ "${dry_run}" = true ]; then
        print_command "$@"
        return 0
    fi
    if [ -n "${stop_status}" ]; then exit "${stop_status}"; fi
    if [[ $1 == *.pl ]]; then
        write_words "$@"
        set -- "${handed[@]}"
    fi
    # In the background, because bash would answer a signal only after a command in the foreground.
    "$@" &
    child=$!
    tell_child # the signal may have come before the line above
    while true; do
        seen=${signals}
        status=0
        wait "${child}" || status=$?
        if [ "${signals}" -eq "${seen}" ]; then break; fi # else it was the signal that ended the wait
    done
    child=
    if [ "${status}" -eq 0 ] && [ -n "${stop_status}" ]; then exit "${stop_status}"; fi
    return "${status}"
}

# write_words PROGRAM [OPTION VALUE]... [JOB=1:N] LOG COMMAND...: Kaldi's run.pl, queue.pl and slurm.pl give a command
# to a shell, and its job gets PATH alone (`--export=PATH`, `-v PATH`). So they get a file that has its words, and
# before them the recipe's options, which local/data.sh reads. An array has such files: its commands are Python's.
write_words() {
    local each words=()
    handed=("$1")
    shift
    while [[ $1 == --* ]]; do
        handed+=("$1" "$2")
        shift 2
    done
    if [[ $1 == JOB=* ]]; then
        handed+=("$@")
        return
    fi
    while IFS= read -r -d '' each; do
        if [[ " ${recipe_variables:-} " == *" ${each%%=*} "* ]]; then words+=("${each}"); fi
    done <"/proc/$$/environ"
    mkdir -p "$(dirname "$1")"
    printf '%s\0' "${words[@]}" "${@:2}" >"${1%.log}.words"
    handed+=("$1" python -m espnet_ext.bin.run_row "${1%.log}.words")
}

# The command so that it can be pasted into a shell.
print_command() {
    local word line=
    for word; do
        if [[ ${word} =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then line+=" ${word}"; else line+=" ${word@Q}"; fi
    done
    printf '%s\n' "${line# }"
}

say() { printf '%s\n' "$*"; }

# queue COMMAND ARGUMENT...: one more job for the next run_queue.
queue() {
    queued=$((queued + 1))
    if [ "${dry_run}" = true ]; then
        printf '# job %d: ' "${queued}"
        print_command "$@"
        return 0
    fi
    mkdir -p "${queue_dir}"
    printf '%s\0' "$@" >"${queue_dir}/${queued}"
}

# open_queue LOGDIR NAME: start a list of jobs; logs are LOGDIR/NAME.N.log, the command of job N is in
# LOGDIR/NAME.jobs/N.
open_queue() {
    queued=0
    queue_log=$1/$2
    queue_dir=$1/$2.jobs
    if [ "${dry_run}" != true ]; then rm -rf -- "${queue_dir}"; fi
}

# run_queue BACKEND [OPTION...]: run the queued jobs as one array.
run_queue() {
    if [ "${queued}" -eq 0 ]; then return 0; fi
    run "$@" "JOB=1:${queued}" "${queue_log}.JOB.log" python -m espnet_ext.bin.run_row "${queue_dir}/JOB"
}

# has FILE: is it there? In a dry run, where earlier stages did not write it, the answer is yes.
has() { [ "${dry_run}" = true ] || [ -e "$1" ]; }

# config FILE: the recipe's own conf/x.yaml, else the template's.
config() {
    if [ -e "$1" ] || [ ! -e "${template_dir}/$1" ]; then
        printf '%s\n' "$1"
    else
        printf '%s\n' "${template_dir}/$1"
    fi
}

# tuned NAME: does conf/decode_NAME.yaml list weights to choose from?
tuned() { grep -q "^tune:" "$(config "conf/decode_$1.yaml")"; }

# decode_config NAME FOLDER: conf/decode_NAME.yaml, or what was chosen from it for the experiment in the folder.
decode_config() {
    if tuned "$1"; then printf '%s\n' "$2/tuning/$1.yaml"; else config "conf/decode_$1.yaml"; fi
}

# unique WORD...: each word once, in order.
unique() {
    local word
    local -A seen=()
    for word; do
        if [ -z "${seen[${word}]:-}" ]; then printf '%s\n' "${word}"; fi
        seen[${word}]=1
    done
}

# fresh DIR: a training that starts from the beginning must not find an older one's files; they are kept beside it.
# From then on what lies there is its own, so that its job goes on from its checkpoint when the cluster runs it again.
fresh() {
    local n=1 old anew=true
    if [ "${resume}" = true ]; then anew=false; fi
    resume=true
    if [ "${dry_run}" = true ]; then
        if [ "${anew}" = true ] && [ -d "$1" ]; then
            say "# $1 holds a run that would be moved to $(dirname "$1")/.old first (--resume true: it would go on)"
        fi
        return 0
    fi
    if [ "${anew}" = true ] && [ -d "$1" ]; then
        old=$(dirname "$1")/.old/$(basename "$1")
        while [ -e "${old}.${n}" ]; do n=$((n + 1)); done
        say "$1 holds a run with other options or inputs (or --force was given): moved to ${old}.${n}; to go on with that one, move it back here and say --resume true"
        mkdir -p "$(dirname "${old}")"
        run mv -- "$1" "${old}.${n}"
    fi
    if [ -n "${anew_mark:-}" ]; then rm -f -- "${anew_mark}"; fi
}

# The language model that decoding may use.
# shellcheck disable=SC2034  # used by the stages
{
    lm_args=()
    if [ -n "${lm_exp:-}" ]; then lm_args=(--lm_dir "${lm_exp}/export"); fi
}

# Options that say what the tokens are, for collect_stats and for ESPnet tasks (which call every SentencePiece bpe).
# shellcheck disable=SC2034  # used by the stages
if [ "${token_type:-}" = char ]; then
    token_args=(--token_type char --token_list "${token_list}")
else
    token_args=(--token_type bpe --token_list "${token_list:-}" --bpemodel "${bpemodel:-}")
fi

# Options that say what a training hears: noises and rooms, or stored filterbanks of a size (then the model has no
# front end, and nothing can be mixed in).
# shellcheck disable=SC2034  # used by the stages
input_args=()
if [ "${feats_type:-}" = fbank ]; then
    input_args=(--input_size 80)
else
    if [ -n "${noise_scp:-}" ]; then input_args+=(--noise_scp "${noise_scp}"); fi
    if [ -n "${rir_scp:-}" ]; then input_args+=(--rir_scp "${rir_scp}"); fi
fi

# export_teachers: write the teachers that the recipe has trained as plain models; then teacher_places has NAME=PLACE of
# each of the method distillation's teachers.
export_teachers() {
    local exp
    read -r -a teacher_places <<<"${teachers}"
    if [ "${own_teachers}" != true ]; then return 0; fi
    # shellcheck disable=SC2034  # used by the stages
    teacher_places=("supervised=${pretrain_exp}/export" "bestrq=${bestrq_exp}/export")
    for exp in "${pretrain_exp}" "${bestrq_exp}"; do
        run "${cpu_cmd}" "${exp}/export.log" \
            python -m espnet_ext.bin.export_model --exp_dir "${exp}" --nbest "${nbest}" --out_dir "${exp}/export"
    done
}
