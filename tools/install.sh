#!/usr/bin/env bash
# `make setup`: system packages, then the Python environment tools/venv with the versions of tools/requirements.txt.
#
# All checks come before the first change. tools/venv/.finished is written last and says what was installed: without
# it nothing takes the environment for complete, and the next run builds it anew. Downloads stay in pip's cache.
#
#   PYTHON=/path/to/python3.11    the Python to build tools/venv with (default: the first on PATH that fits)
#   ESPNET_EXT_OWN_PYTHON=1       no tools/venv: the `python` on PATH has the packages (see tools/activate_python.sh)
#   ESPNET_EXT_SKIP_SYSTEM=1      go on without system packages; tools/check_install.py says what that disables
#   TMPDIR                        for pip's temporary files (default: inside tools/venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=tools/venv
readonly finished=${venv}/.finished
readonly requirements=tools/requirements.txt
readonly log=tools/setup.log
readonly venv_gb=6 cache_gb=3                            # a new environment; pip's cache of its downloads
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
  die "this needs Python 3.11 (3.12 is allowed but untested). ${found:-None of ${candidates[*]} runs. }Ways to get it:" \
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
  if [ "${own_python}" = 0 ] && ! "${python}" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=("python${python_version}-venv") # Debian keeps these two modules in a package of their own
  fi
  if [ ${#missing[@]} = 0 ]; then return; fi
  if [ "${ESPNET_EXT_SKIP_SYSTEM:-0}" = 1 ]; then
    say "going on without ${missing[*]} (ESPNET_EXT_SKIP_SYSTEM=1)"
    missing=()
    return
  fi
  command="apt-get install --yes --no-install-recommends ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    die "missing: ${missing[*]}, and there is no apt-get here to install them with; nothing was changed." \
      "Install them with this machine's package manager and run make setup again," \
      "or go on without them: ESPNET_EXT_SKIP_SYSTEM=1 make setup"
  elif [ "$(id -u)" != 0 ]; then
    die "missing: ${missing[*]}; nothing was changed. Run this, then make setup again:" \
      "sudo apt-get update && sudo ${command}" \
      "or go on without them: ESPNET_EXT_SKIP_SYSTEM=1 make setup"
  fi
}

free_gb() { # of the file system that a path is on, or will be on
  local path=$1
  while [ ! -e "${path}" ]; do path=$(dirname "${path}"); done
  df --output=avail --block-size=1G "${path}" | tail -n 1 | tr -d ' '
}

check_disk() { # sets pip_options
  local have cache=${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/pip} need=$((venv_gb + cache_gb))
  pip_options=(--no-deps --no-build-isolation --disable-pip-version-check --no-input --progress-bar off)
  have=$(free_gb "${venv}")
  if [ "${have}" -lt "${need}" ]; then
    die "not enough space: ${have} GB are free in $(pwd)/tools, and ${need} GB are needed" \
      "(${venv_gb} GB for the environment, ${cache_gb} GB for files that are removed afterwards). Nothing was changed."
  fi
  if [ "$(free_gb "${cache}")" -lt "${cache_gb}" ]; then
    say "less than ${cache_gb} GB are free for pip's cache ${cache}: an interrupted setup will download again"
    pip_options+=(--no-cache-dir)
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
    show_log_and_die "apt-get failed. No network? On Ubuntu sctk is in the component universe: add-apt-repository universe"
}

run_pip() { # installs; of pip's many lines those are shown that a person waits for
  "${venv}/bin/python" -m pip install "${pip_options[@]}" "$@" 2>&1 | tee -a "${log}" |
    awk '/^ERROR|No space left/ { print "setup:   " $0 }
         /(Downloading|Using cached) .*[.]whl [(][0-9.]+ MB[)]/ && substr($(NF - 1), 2) + 0 > 50 {
           print "setup:   " ($1 == "Using" ? "from the cache:" : "downloading"), $(NF - 2), $(NF - 1), $NF }
         /^Installing collected packages/ { print "setup:   unpacking" } { fflush() }' ||
    show_log_and_die "pip failed; run make setup again to go on: what was downloaded is not downloaded twice." \
      "No network, or a proxy?  export HTTPS_PROXY=...; a mirror of PyPI: export PIP_INDEX_URL=..." \
      "No space?                free some here: $(pwd)/tools, or for temporary files: export TMPDIR=/another/disk"
}

wanted() { # what .finished says when nothing is left to do
  printf 'python %s\ndirectory %s\n' "${python_version}" "$(pwd -P)"
  sha256sum "${requirements}" setup.py
}

install_packages() {
  if [ ! -e "${finished}" ] || ! diff -q <(wanted | head -n 2) <(head -n 2 "${finished}") >/dev/null; then
    say "creating ${venv} with Python ${python_version}: about 3 GB of downloads, 6 GB on disk"
    rm -rf "${venv}"
    "${python}" -m venv "${venv}"
  else
    say "bringing ${venv} up to date"
  fi
  rm -f "${finished}"
  if [ -z "${TMPDIR:-}" ]; then # /tmp is small, or memory, on many machines
    mkdir -p "${venv}/tmp"
    export TMPDIR=${PWD}/${venv}/tmp
  fi
  : >"${log}"
  grep -E '^(pip|setuptools)==' "${requirements}" >"${venv}/build_tools.txt"
  run_pip -r "${venv}/build_tools.txt" # first, since they build those packages that have no wheel
  run_pip -r "${requirements}"
  run_pip --editable .
  rm -rf "${venv}/tmp" "${venv}/build_tools.txt"
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
