#!/usr/bin/env bash
# does: models of --ensemble decode together, by the mean of their posteriors
# scope: ${method}_${tag}
# when: {train_exp: [""]}
# options: [ensemble, finetune_exp, decode_configs, lm_exp, dump, valid_set, test_sets]
# uncounted: [ngpu, inference_nj, logdir, method, tag]
# inputs:
# - ${dump}/${valid_set}/content ?
# - ${dump}/${test_sets}/content ?
# - ${expdir}/${ensemble}/export/model.pth
# - ${expdir}/${ensemble}/peer*/export/model.pth ?
# - ${lm_exp}/export/model.pth ?
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# outputs:
# - ${finetune_exp}/decode_${decode_configs}/${valid_set}/text
# - ${finetune_exp}/decode_${decode_configs}/${test_sets}/text ?
# logs: ["${logdir}/10_tune_ensemble_${method}_${tag}.*.log", "${logdir}/10_decode_ensemble_${method}_${tag}.*.log"]
. "${template_dir}/utils/stage.sh"

models=()
# shellcheck disable=SC2086 # a list of names
mapfile -t models < <(models_of ${ensemble})
open_queue "${logdir}" "10_tune_ensemble_${method}_${tag}"
# shellcheck disable=SC2086
for name in $(unique ${decode_configs}); do
    if ! tuned "${name}"; then continue; fi
    queue python -m espnet_ext.bin.tune_decoding --model_dir "${models[@]}" --data_dir "${dump}/${valid_set}" \
        --config "$(config "conf/decode_${name}.yaml")" --out "${finetune_exp}/tuning/${name}.yaml" "${lm_args[@]}" --ngpu "${ngpu}"
done
run_queue "${decode_cmd}" --gpu "${ngpu}" --max_jobs_run "${inference_nj}"

open_queue "${logdir}" "10_decode_ensemble_${method}_${tag}"
# shellcheck disable=SC2086 # valid_set may be one of the test sets
for set in $(unique "${valid_set}" ${test_sets}); do
    if ! has "${dump}/${set}/text"; then
        say "${dump}/${set} is not there, or has no text: left out"
        continue
    fi
    configs=()
    folders=()
    # shellcheck disable=SC2086
    for name in $(unique ${decode_configs}); do
        configs+=("$(decode_config "${name}" "${finetune_exp}")")
        folders+=("${finetune_exp}/decode_${name}/${set}")
    done
    queue python -m espnet_ext.bin.decode --model_dir "${models[@]}" --data_dir "${dump}/${set}" \
        --config "${configs[@]}" --out_dir "${folders[@]}" "${lm_args[@]}" --ngpu "${ngpu}"
done
run_queue "${decode_cmd}" --gpu "${ngpu}" --max_jobs_run "${inference_nj}"
