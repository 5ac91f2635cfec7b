# shellcheck shell=bash
# The environment of a recipe; sourced by asr.sh, and by you to run a command by hand: `. ./path.sh`.
#
# Your own Python (conda, module, container) instead of tools/venv: replace the link path.sh in your recipe's folder
# by a copy of this file, activate your environment here, and say so before tools/activate_python.sh is sourced:
#     conda activate my_env
#     export ESPNET_EXT_OWN_PYTHON=1

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../.." && pwd)
# shellcheck source=../../../tools/activate_python.sh
. "${root}/tools/activate_python.sh" || return 1
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}

# UTF-8 everywhere, and byte order where anything sorts: C.UTF-8 is both.
export LC_ALL=C.UTF-8 PYTHONUTF8=1
# OMP_NUM_THREADS is left to the back end: one job gets all cores, N jobs side by side an Nth of them each.
unset root
