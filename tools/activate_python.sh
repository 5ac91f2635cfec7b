# shellcheck shell=bash
# Sourced by every recipe's path.sh and by the Makefile: puts the right Python first on PATH.
#
# The default is tools/venv, which `make setup` builds. To use an environment of your own instead (conda, module,
# container), activate it in path.sh before this file is sourced, and say so there:
#     conda activate my_env          # or: module load ..., or nothing inside a container
#     export ESPNET_EXT_OWN_PYTHON=1
# Its packages are then yours to keep right: `python tools/check_install.py` compares them with the tested versions.

if [ "${ESPNET_EXT_OWN_PYTHON:-0}" != 1 ]; then
  _tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
  if [ ! -e "${_tools}/venv/.finished" ]; then
    printf 'error: %s is not there or not finished; run: make -C %s setup\n' "${_tools}/venv" "${_tools%/tools}" >&2
    printf '  (or use an environment of your own: see %s)\n' "${_tools}/activate_python.sh" >&2
    return 1
  fi
  export VIRTUAL_ENV=${_tools}/venv
  case ":${PATH}:" in
    ":${VIRTUAL_ENV}/bin:"*) ;;
    *) export PATH=${VIRTUAL_ENV}/bin:${PATH} ;;
  esac
  unset PYTHONHOME _tools
elif ! python -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'; then
  printf 'error: ESPNET_EXT_OWN_PYTHON=1, but %s is not Python 3.11 or 3.12\n' "$(command -v python || echo python)" >&2
  return 1
fi
