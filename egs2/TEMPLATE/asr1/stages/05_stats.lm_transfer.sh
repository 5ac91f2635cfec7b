#!/usr/bin/env bash
# does: looks at --lm_teacher and --lm_layers before stage 6 takes hours, with method lm_transfer
# scope: lm_teacher_${lm_teacher_tag}_${token_unit}
# options: [lm_teacher_place, lm_layers, lm_case, trains_masked_lm, masked_lm_config, token_type]
# uncounted: [lm_text, logdir, lm_teacher_tag, token_unit]
# inputs:
# - ${token_list}
# - ${masked_lm_text}
# logs: ["${logdir}/05_stats_lm_${lm_teacher_tag}_${token_unit}.log"]
. "${template_dir}/utils/stage.sh"

if [ "${trains_masked_lm}" = true ] && [ -z "${lm_text}" ]; then
    say "error: method lm_transfer trains its language model on sentences without audio: --lm_text FILE; or --lm_teacher" \
        "names another one (a HuggingFace folder, minilm, a table of vectors)" >&2
    exit 1
fi
arguments=(--teacher "${lm_teacher_place}" --layers "${lm_layers}" --case "${lm_case}" "${token_args[@]}")
# What stage 6 trains is not there yet, or is that of an earlier run.
if [ "${trains_masked_lm}" = true ]; then arguments+=(--lm_config "$(config "${masked_lm_config}")"); fi
run "${cpu_cmd}" "${logdir}/05_stats_lm_${lm_teacher_tag}_${token_unit}.log" \
    python -m espnet_ext.bin.lm_targets --check "${arguments[@]}"
