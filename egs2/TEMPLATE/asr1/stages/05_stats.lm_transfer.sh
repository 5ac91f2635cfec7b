#!/usr/bin/env bash
# does: looks at --lm_teacher and --lm_layers before stage 6 takes hours, with method lm_transfer
# scope: lm_teacher_${lm_teacher_tag}_${token_unit}
# options: [lm_teacher_place, lm_layers, lm_case, trains_masked_lm, masked_lm_config, token_type]
# uncounted: [logdir, lm_teacher_tag, token_unit]
# inputs:
# - ${token_list}
# logs: ["${logdir}/05_stats_lm_${lm_teacher_tag}_${token_unit}.log"]
. "${template_dir}/utils/stage.sh"

arguments=(--teacher "${lm_teacher_place}" --layers "${lm_layers}" --case "${lm_case}" "${token_args[@]}")
# What stage 6 trains is not there yet, or is that of an earlier run.
if [ "${trains_masked_lm}" = true ]; then arguments+=(--lm_config "$(config "${masked_lm_config}")"); fi
run "${cpu_cmd}" "${logdir}/05_stats_lm_${lm_teacher_tag}_${token_unit}.log" \
    python -m espnet_ext.bin.lm_targets --check "${arguments[@]}"
