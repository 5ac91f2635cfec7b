#!/usr/bin/env bash
# does: the language model's embeddings of all transcripts
# scope: lm_targets_${lm_teacher_tag}_${token_unit}
# options: [lm_teacher_place, lm_layers, lm_case, token_type, dump, train_data, valid_set, lm_targets]
# uncounted: [ngpu, logdir, lm_teacher_tag, token_unit, trains_masked_lm]
# inputs:
# - ${dump}/${train_data}/text
# - ${dump}/${valid_set}/text
# - ${token_list}
# - ${lm_teacher_place} ?
# - ${lm_teacher_place}/lm.yaml ?
# - ${lm_teacher_place}/lm.pth ?
# - ${lm_teacher_place}/*.json ?
# - ${lm_teacher_place}/*.txt ?
# - ${lm_teacher_place}/*.model ?
# - ${lm_teacher_place}/*.safetensors ?
# - ${lm_teacher_place}/*.bin ?
# outputs:
# - ${lm_targets}/summary.npz
# grows: ["${lm_targets}/index.txt"]
# logs: ["${logdir}/07_targets_lm_${lm_teacher_tag}_${token_unit}.log"]
. "${template_dir}/utils/stage.sh"

# Its folder would be taken for a name on the hub.
if [ "${trains_masked_lm}" = true ] && ! has "${lm_teacher_place}/lm.pth"; then
    say "error: ${lm_teacher_place}/lm.pth does not exist: stage 6 trains this language model with --method lm_transfer;" \
        "run it first (--stage pretrain)" >&2
    exit 1
fi
arguments=(--teacher "${lm_teacher_place}" --layers "${lm_layers}" --case "${lm_case}" --out_dir "${lm_targets}" "${token_args[@]}")
arguments+=(--text "${dump}/${train_data}/text" --other_text "${dump}/${valid_set}/text" --ngpu "$((ngpu > 0))")
# Disk and time, on the screen, before they are spent.
run python -m espnet_ext.bin.lm_targets "${arguments[@]}" --dry_run
# Keyed by text and settings: a second run computes what is missing, and nothing else.
run "${decode_cmd}" --gpu "$((ngpu > 0))" "${logdir}/07_targets_lm_${lm_teacher_tag}_${token_unit}.log" \
    python -m espnet_ext.bin.lm_targets "${arguments[@]}"
