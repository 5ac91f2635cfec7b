#!/usr/bin/env bash
# A Slurm cluster on this machine: cluster.sh up [NODES]|down|env (`make slurm-up`, `make slurm-down`).
#
# munged, slurmctld and slurmd run as the user who starts them, on loopback, with a configuration and a munge key of
# their own: a Slurm that is installed on this machine, and its /etc/slurm, are neither used nor changed. It needs
# Debian's slurm-wlm and munge, and neither systemd nor cgroups. It has one node, or so many as it is told (a slurmd
# each, which must be built with --enable-multiple-slurmd, as Debian's is), named node1, node2...
#
#   eval "$(tools/local_slurm/cluster.sh env)"    in a shell that is to use it
#   SLURM_LOCAL_STATE                             where it keeps its state (default: a folder in /tmp)
#   SLURM_LOCAL_PORT                              first of its ports, of the controller; the nodes' follow (default: 16817)
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)

state=${SLURM_LOCAL_STATE:-/tmp/espnet_ext_slurm_$(id -un)}
port=${SLURM_LOCAL_PORT:-16817}
cpus=${SLURM_LOCAL_CPUS:-32}
readonly state port cpus
export SLURM_CONF=${state}/slurm.conf
export PATH=${PATH}:/usr/sbin:/sbin

die() {
    printf 'slurm: error: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then printf '  %s\n' "${@:2}" >&2; fi
    exit 1
}

pid_of() { # PIDFILE PROGRAM: its process, if it lives
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 1
    [ -n "${pid}" ] && [ "$(cat "/proc/${pid}/comm" 2>/dev/null)" = "$2" ] && printf '%s\n' "${pid}"
}

answers() { # so many nodes as are wanted, or more
    [ "$(sinfo --noheader --Node --partition main --format %T 2>/dev/null | grep -cE '^(idle|mixed|allocated|completing)$')" -ge "${nodes}" ]
}

wait_until() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "${SECONDS}" -ge "${end}" ]; then return 1; fi
        sleep 0.1
    done
}

start() { # DAEMON OPTION...: without our output, which it would keep open for ever
    if ! "$@" </dev/null >"${state}/$1.start.log" 2>&1; then
        cat "${state}/$1.start.log" >&2
        die "$1 did not start; its log: ${state}/$1.log"
    fi
}

up() {
    local program host names ports number
    for program in munged slurmctld slurmd sbatch; do
        command -v "${program}" >/dev/null ||
            die "${program} is not installed" "Debian, Ubuntu: apt-get install --yes --no-install-recommends slurm-wlm munge"
    done
    if pid_of "${state}/slurmctld.pid" slurmctld >/dev/null && answers; then
        echo "slurm: it runs already (${state})"
        return
    fi
    down
    mkdir -p "${state}/ctld"
    chmod 755 "${state}"
    if [ ! -e "${state}/munge.key" ]; then
        (umask 077 && head -c 128 /dev/urandom >"${state}/munge.key")
    fi
    host=$(hostname -s)
    names=${host} ports=$((port + 1))
    if [ "${nodes}" -gt 1 ]; then names="node[1-${nodes}]" ports="[$((port + 1))-$((port + nodes))]"; fi
    sed -e "s|@state@|${state}|g" -e "s|@host@|${host}|g" -e "s|@user@|$(id -un)|g" -e "s|@cpus@|${cpus}|g" \
        -e "s|@ctld_port@|${port}|g" -e "s|@names@|${names}|g" -e "s|@ports@|${ports}|g" "${here}/slurm.conf.in" >"${SLURM_CONF}"
    printf 'NodeName=%s Name=gpu File=/dev/null\nNodeName=%s Name=gpu File=/dev/zero\n' "${names}" "${names}" >"${state}/gres.conf"

    # --force: it may run as root, and its folder may be in /tmp.
    start munged --force --key-file="${state}/munge.key" --socket="${state}/munge.socket" --pid-file="${state}/munged.pid" \
        --log-file="${state}/munged.log" --seed-file="${state}/munge.seed" --num-threads=2
    start slurmctld
    for ((number = 1; number <= nodes; number++)); do
        if [ "${nodes}" -gt 1 ]; then host=node${number}; fi
        mkdir -p "${state}/slurmd.${host}"
        if [ "${nodes}" -gt 1 ]; then start slurmd -N "${host}"; else start slurmd; fi
    done
    wait_until 180 answers ||
        die "no answer for 180 seconds; the logs:" "${state}/slurmctld.log" "${state}"/slurmd.*.log
    echo "slurm: up. In a shell that is to use it: eval \"\$($(basename "${here%/*}")/local_slurm/cluster.sh env)\""
}

down() {
    local program pid file
    if pid_of "${state}/slurmctld.pid" slurmctld >/dev/null; then
        # Jobs do not outlive their cluster.
        scancel --quiet --user="$(id -un)" 2>/dev/null || true
        wait_until 60 no_jobs || true
    fi
    for file in "${state}"/{slurmd*,slurmctld,munged}.pid; do
        program=$(basename "${file}" .pid)
        if pid=$(pid_of "${file}" "${program%%.*}"); then
            kill "${pid}" 2>/dev/null || true # it may end at this moment
            if ! wait_until 20 gone "${pid}"; then
                kill -KILL "${pid}" 2>/dev/null || true
                wait_until 20 gone "${pid}" || true
            fi
        fi
    done
    rm -rf "${state}/ctld" "${state}"/slurmd.*/
}

no_jobs() { [ -z "$(squeue --noheader 2>/dev/null)" ]; }
gone() { # a zombie, whom nobody may ever wait for, is gone
    case $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) in
        '' | [ZX]*) return 0 ;;
        *) return 1 ;;
    esac
}

nodes=${2:-1}
[[ ${nodes} =~ ^[1-9][0-9]?$ ]] || die "up ${nodes}: expected a number of nodes, 1 to 99"
case ${1:-} in
    up) up ;;
    down) down && echo "slurm: down" ;;
    env) printf 'export SLURM_CONF=%q\n' "${SLURM_CONF}" ;;
    *) die "usage: $0 up [NODES]|down|env" ;;
esac
