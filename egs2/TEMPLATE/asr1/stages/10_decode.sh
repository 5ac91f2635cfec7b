#!/usr/bin/env bash
# does: all test sets and the development set, in every way of --decode_configs; weights are tuned on the latter
# scope: ${method}_${tag}
# options: [start_exp, finetune_exp, decode_configs, lm_exp, dump, valid_set, test_sets]
# uncounted: [ngpu, inference_nj, logdir, method, tag]
# inputs:
# - ${dump}/${valid_set}/content ?
# - ${dump}/${test_sets}/content ?
# - ${start_exp}/export/model.pth
# - ${finetune_exp}/export/model.pth ?
# - ${finetune_exp}/peer*/export/model.pth ?
# - ${lm_exp}/export/model.pth ?
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# outputs:
# - ${start_exp}/decode_${decode_configs}/${valid_set}/text
# - ${start_exp}/decode_${decode_configs}/${test_sets}/text ?
# - ${finetune_exp}/decode_${decode_configs}/${valid_set}/text ?
# - ${finetune_exp}/decode_${decode_configs}/${test_sets}/text ?
# logs: ["${logdir}/10_tune_${method}_${tag}.*.log", "${logdir}/10_decode_${method}_${tag}.*.log"]
. "${template_dir}/utils/stage.sh"

# Weights that a configuration lists under `tune:`: those with the fewest errors on the development set.
open_queue "${logdir}" "10_tune_${method}_${tag}"
for exp in "${decoded[@]}"; do
    # shellcheck disable=SC2086
    for name in $(unique ${decode_configs}); do
        if ! tuned "${name}" || ! has "${exp}/export/model.pth"; then continue; fi
        queue python -m espnet_ext.bin.tune_decoding --model_dir "${exp}/export" --data_dir "${dump}/${valid_set}" \
            --config "$(config "conf/decode_${name}.yaml")" --out "${exp}/tuning/${name}.yaml" "${lm_args[@]}" --ngpu "${ngpu}"
    done
done
run_queue "${decode_cmd}" --gpu "${ngpu}" --max_jobs_run "${inference_nj}"

open_queue "${logdir}" "10_decode_${method}_${tag}"
for exp in "${decoded[@]}"; do
    if ! has "${exp}/export/model.pth"; then
        say "${exp} is not exported: left out"
        continue
    fi
    # shellcheck disable=SC2086 # lists of names; valid_set may be one of the test sets
    for set in $(unique "${valid_set}" ${test_sets}); do
        if ! has "${dump}/${set}/text"; then
            say "${dump}/${set} is not there, or has no text: left out"
            continue
        fi
        # A job a set: it starts once and loads the model once for all ways to decode.
        configs=()
        folders=()
        # shellcheck disable=SC2086
        for name in $(unique ${decode_configs}); do
            configs+=("$(decode_config "${name}" "${exp}")")
            folders+=("${exp}/decode_${name}/${set}")
        done
        queue python -m espnet_ext.bin.decode --model_dir "${exp}/export" --data_dir "${dump}/${set}" \
            --config "${configs[@]}" --out_dir "${folders[@]}" "${lm_args[@]}" --ngpu "${ngpu}"
    done
done
run_queue "${decode_cmd}" --gpu "${ngpu}" --max_jobs_run "${inference_nj}"
