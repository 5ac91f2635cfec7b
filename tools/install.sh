#!/usr/bin/env bash
# `make setup`: system packages, then the Python environment tools/venv with the versions of tools/requirements.txt.
#
# All checks come before the first change. tools/venv/.finished is written last and says what was installed: without
# it nothing takes the environment for complete. The next run then goes on with the packages that are not there yet.
#
#   PYTHON=/path/to/python3.11    the Python to build tools/venv with (default: the first on PATH that fits)
#   ESPNET_EXT_OWN_PYTHON=1       no tools/venv: the `python` on PATH has the packages (see tools/activate_python.sh)
#   ESPNET_EXT_SKIP_SYSTEM=1      go on without system packages; tools/check_install.py says what that disables
#   TMPDIR                        for pip's temporary files (default: inside tools/venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=tools/venv
readonly started=${venv}/.started finished=${venv}/.finished
readonly requirements=tools/requirements.txt
readonly log=tools/setup.log
readonly needed_gb=7 # a new environment, and its largest download
# Installed one at a time, so that an interrupted setup keeps them.
readonly large='^(torch|triton|nvidia-(cublas|cudnn|cu(fft|solver|sparse)|nccl|nvshmem).*)=='
readonly system_packages=(sox espeak-ng sctk shellcheck) # each is also the name of a program

say() { printf 'setup: %s\n' "$*"; }
die() { # first line, further lines
  printf 'setup: error: %s\n' "$1" >&2
  if [ $# -gt 1 ]; then printf '  %s\n' "${@:2}" >&2; fi
  exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

pick_python() { # sets python and python_version; a Python that was asked for is never replaced by another
  local found="" candidates=(python3.11 python3 python python3.12)
  if [ -n "${PYTHON:-}" ]; then candidates=("${PYTHON}"); fi
  for python in "${candidates[@]}"; do
    python_version=$(version_of "${python}") || continue
    case ${python_version} in 3.11 | 3.12) return ;; esac
    found+="${python} is ${python_version}; "
  done
  die "this needs Python 3.11 (3.12 is allowed but untested). ${found:-None of these runs: ${candidates[*]}. }Get it:" \
    "Debian 12     apt-get install python3.11 python3.11-venv" \
    "Ubuntu        add-apt-repository ppa:deadsnakes/ppa && apt-get install python3.11 python3.11-venv" \
    "anywhere      uv python install 3.11, or pyenv install 3.11, or conda create -n py311 python=3.11" \
    "and then      make setup PYTHON=/path/to/python3.11"
}

check_system_packages() { # sets missing; stops here where they cannot be installed
  local package command
  missing=()
  for package in "${system_packages[@]}"; do
    command -v "${package}" >/dev/null || missing+=("${package}")
  done
  if [ ${#missing[@]} != 0 ] && [ "${ESPNET_EXT_SKIP_SYSTEM:-0}" = 1 ]; then
    say "going on without ${missing[*]} (ESPNET_EXT_SKIP_SYSTEM=1)"
    missing=()
  fi
  if [ "${own_python}" = 0 ] && ! "${python}" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=("python${python_version}-venv") # Debian keeps these two modules in a package of their own
  fi
  if [ ${#missing[@]} = 0 ]; then return; fi
  command="apt-get install --yes --no-install-recommends ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    die "missing: ${missing[*]}, and there is no apt-get here to install them with; nothing was changed." \
      "Install them with this machine's package manager and run make setup again," \
      "or go on without the programs: ESPNET_EXT_SKIP_SYSTEM=1 make setup"
  elif [ "$(id -u)" != 0 ]; then
    die "missing: ${missing[*]}; nothing was changed. Run this, then make setup again:" \
      "sudo apt-get update && sudo ${command}" \
      "or go on without the programs: ESPNET_EXT_SKIP_SYSTEM=1 make setup"
  fi
}

free_gb() { # of the file system that a path is on, or will be on
  local path=$1
  while [ ! -e "${path}" ]; do path=$(dirname "${path}"); done
  df --output=avail --block-size=1G "${path}" | tail -n 1 | tr -d ' '
}

check_disk() {
  local have
  have=$(free_gb "${venv}")
  if [ "${have}" -lt "${needed_gb}" ] && [ ! -e "${started}" ]; then
    die "not enough space: ${have} GB are free in $(pwd)/tools, ${needed_gb} GB are needed; nothing was changed."
  fi
}

show_log_and_die() {
  printf 'setup: the last lines of %s:\n' "${log}" >&2
  tail -n 12 "${log}" | sed 's/^/  | /' >&2
  die "$@"
}

install_system_packages() {
  say "installing the system packages ${missing[*]}"
  { DEBIAN_FRONTEND=noninteractive apt-get update &&
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"; } >"${log}" 2>&1 ||
    show_log_and_die "apt-get failed. No network? On Ubuntu, sctk needs: add-apt-repository universe"
}

run_pip() {
  "${venv}/bin/python" -m pip install --no-deps --no-build-isolation --disable-pip-version-check --no-input \
    --progress-bar off "$@" >>"${log}" 2>&1 ||
    show_log_and_die "pip failed; run make setup again to go on: packages that are complete are kept." \
      "No network, or a proxy?  export HTTPS_PROXY=...; a mirror of PyPI: export PIP_INDEX_URL=..." \
      "No space?                free some here: $(pwd)/tools, or for temporary files: export TMPDIR=/another/disk"
}

environment() { printf 'python %s\ndirectory %s\n' "${python_version}" "$(pwd -P)"; }
wanted() { environment && sha256sum "${requirements}" setup.py; } # what .finished says when nothing is left to do

create_or_keep_venv() {
  if diff -q <(environment) "${started}" >/dev/null 2>&1 && "${venv}/bin/python" -m pip --version >/dev/null 2>&1; then
    say "going on with ${venv}"
    # A package whose unpacking was interrupted has no RECORD yet; pip must not take it for complete.
    find "${venv}"/lib/python*/site-packages -maxdepth 1 -name '*.dist-info' ! -exec test -e '{}/RECORD' ';' \
      -exec rm -rf '{}' +
  else
    say "creating ${venv} with Python ${python_version}: about 3 GB of downloads, 6 GB on disk"
    rm -rf "${venv}"
    "${python}" -m venv "${venv}"
    environment >"${started}"
  fi
}

install_packages() {
  local build_tools large_packages package number=0
  create_or_keep_venv
  rm -rf "${finished}" "${venv}/tmp"
  if [ -z "${TMPDIR:-}" ]; then # /tmp is small, or memory, on many machines
    mkdir "${venv}/tmp"
    export TMPDIR=${PWD}/${venv}/tmp
  fi
  : >"${log}"
  mapfile -t build_tools < <(grep -E '^(pip|setuptools)==' "${requirements}")
  run_pip "${build_tools[@]}" # first, since they build those packages that have no wheel
  mapfile -t large_packages < <(grep -E "${large}" "${requirements}")
  for package in "${large_packages[@]}"; do
    number=$((number + 1))
    say "  ${number}/$((${#large_packages[@]} + 1)) ${package}"
    run_pip "${package}"
  done
  say "  $((number + 1))/$((number + 1)) all other packages"
  run_pip -r "${requirements}"
  run_pip --editable .
  rm -rf "${venv}/tmp"
  wanted >"${finished}.new"
  mv "${finished}.new" "${finished}"
}

own_python=${ESPNET_EXT_OWN_PYTHON:-0}
if [ "${own_python}" = 1 ]; then PYTHON=${PYTHON:-python}; fi
if [ -z "${PYTHON:-}" ] && [ -e "${finished}" ] && python_version=$(version_of "${venv}/bin/python"); then
  python=$("${venv}/bin/python" -c 'import sys; print(sys._base_executable)') # what it was built with stays
else
  pick_python
fi
check_system_packages
up_to_date=0
if [ "${own_python}" = 1 ] || { [ -e "${finished}" ] && diff -q <(wanted) "${finished}" >/dev/null; }; then
  up_to_date=1
else
  check_disk
fi

exec 9>tools/.setup.lock
if ! flock --nonblock 9; then
  say "waiting for another make setup in this directory"
  flock 9
fi
trap 'printf "setup: interrupted; run make setup again to go on\n" >&2; exit 130' INT TERM
if [ ${#missing[@]} != 0 ]; then install_system_packages; fi
if [ "${up_to_date}" = 0 ]; then
  install_packages
  say "done; tools/check_install.py prints what is there"
elif [ "${own_python}" = 1 ]; then
  say "using $(command -v "${PYTHON}") (ESPNET_EXT_OWN_PYTHON=1)"
  "${PYTHON}" tools/check_install.py
fi
if [ "${python_version}" = 3.12 ]; then say "Python 3.12 is allowed but untested; 3.11 is what the tests run with"; fi
