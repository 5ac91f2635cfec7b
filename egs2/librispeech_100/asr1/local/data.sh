#!/usr/bin/env bash
# Stage 1: LibriSpeech to data directories; the arguments (--local_data_opts) go to prepare.py, which has a --help.
# The driver's options, --data_dir --subsets --datadir and so on, arrive as environment variables.
set -euo pipefail

. ./path.sh
. ./db.sh
# shellcheck disable=SC2086 # several names
exec python local/prepare.py --data_dir "${data_dir:-${LIBRISPEECH}}" --out_dir "${datadir}" --subsets ${subsets} \
    --need "${pretrain_set}" "${train_set}" "${valid_set}" \
    --download_dir "${download_dir}" --url "${download_url}" "$@"
