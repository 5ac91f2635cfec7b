#!/usr/bin/env bash
# LibriSpeech, 100 hours: ./run.sh --data_dir FOLDER uses a copy that you have, ./run.sh alone downloads one (7.7 GB).
#
# As it stands, for a GPU (--ngpu 1): the E-Branchformer of the template's conf/pretrain.yaml. No result of it yet.
# With --small, for two CPU cores and a few hours of speech: conf/small/, in half an hour. It starts faster from
# the encoder of synth's model: --init_param ../../synth/asr1/exp/pretrain_seed1/export/model.pth:encoder:encoder
# After these anything asr.sh knows: --list, --help, --status, --stage 3, ...
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

small=()
case " $* " in
    *" --small false "* | *" --small=false "*) ;;
    *" --small "* | *" --small=true "*)
        small=(--pretrain_config conf/small/pretrain.yaml --finetune_config conf/small/finetune.yaml)
        small+=(--nbpe 200 --speed_perturb_factors "")
        ;;
esac

# No utterance of LibriSpeech is longer than 36 s: none is dropped.
recipe_program=./run.sh exec ./asr.sh \
    --pretrain_set train_clean_100 \
    --train_set train_clean_100 \
    --valid_set dev \
    --test_sets "test_clean test_other" \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --max_wav_duration 36 \
    --nbpe 2000 \
    "${small[@]}" \
    "$@"
