#!/usr/bin/env bash
# The embedded recipe: speech of espeak-ng, nothing to download. ./run.sh does everything; after it anything asr.sh
# knows: --list, --help, --status, --stage 3, --scale 0.02 (a small corpus), ...
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

recipe_program=./run.sh exec ./asr.sh \
    --pretrain_set train_clean \
    --train_set train_noisy \
    --valid_set dev \
    --test_sets "test_clean test_noisy" \
    --unlabelled_set unlabelled \
    --token_type bpe \
    --nbpe 200 \
    "$@"
