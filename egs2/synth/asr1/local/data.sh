#!/usr/bin/env bash
# Stage 1: speaks and writes the corpus; the arguments (--local_data_opts) go to make_corpus.py, which has a --help.
# The driver's options --datadir --nj --scale --corpus_seed --force arrive as environment variables.
set -euo pipefail

. ./path.sh
again=()
if [ "${force:-false}" = true ]; then again=(--overwrite); fi
exec python local/make_corpus.py --out_dir "${datadir:-data}" --nj "${nj:-$(nproc)}" \
    --scale "${scale:-1}" --seed "${corpus_seed:-0}" "${again[@]}" "$@"
