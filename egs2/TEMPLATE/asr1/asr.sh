#!/usr/bin/env bash
# Runs the stages of an ESPnet recipe: `./run.sh --list` shows them, `--help` the options, `--status` how far it is.
#
# It works in the current directory, a recipe's folder egs2/<corpus>/asr1, where asr.sh, path.sh, cmd.sh, stages and
# utils are links to this template (setup.sh makes them). A recipe that replaces the link path.sh or cmd.sh by a file
# of its own gets that file. Everything else happens in stages/NN_name.sh, which the Python driver behind this script
# runs; the options are defined in conf/options.yaml, and a recipe may add its own in its conf/options.yaml.
set -euo pipefail

template_dir=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
path_sh=path.sh
[ -e "${path_sh}" ] || path_sh=${template_dir}/path.sh
# shellcheck source=./path.sh
. "${path_sh}"
exec python -m espnet_ext.bin.recipe --template "${template_dir}" "$@"
