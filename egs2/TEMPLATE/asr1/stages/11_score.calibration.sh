#!/usr/bin/env bash
# does: calibration of the attention decoders, in calibration/<set>.json of each experiment
# scope: ${method}_${tag}
# when: {calibration: ["true"]}
# options: [start_exp, finetune_exp, train_exp, dump, valid_set, test_sets]
# uncounted: [ngpu, inference_nj, logdir, method, tag, ensemble]
# inputs:
# - ${dump}/${valid_set}/content ?
# - ${dump}/${test_sets}/content ?
# - ${start_exp}/export/model.pth
# - ${finetune_exp}/export/model.pth ?
# - ${finetune_exp}/peer*/export/model.pth ?
# - ${expdir}/${ensemble}/peer*/export/model.pth ?
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# outputs:
# - ${start_exp}/calibration/${valid_set}.json
# - ${finetune_exp}/calibration/${valid_set}.json ?
# logs: ["${logdir}/11_calibration_${method}_${tag}.*.log"]
. "${template_dir}/utils/stage.sh"

sets=()
# shellcheck disable=SC2086 # lists of names; valid_set may be one of the test sets
for set in $(unique "${valid_set}" ${test_sets}); do
    if has "${dump}/${set}/text"; then sets+=("${dump}/${set}"); fi
done
open_queue "${logdir}" "11_calibration_${method}_${tag}"
for exp in "${decoded[@]}"; do
    if ! has "${exp}/export/model.pth"; then continue; fi
    queue python -m espnet_ext.bin.calibration --model_dir "${exp}/export" --data_dir "${sets[@]}" \
        --out_dir "${exp}/calibration" --ngpu "${ngpu}"
done
if [ -n "${ensemble}" ]; then
    models=()
    # shellcheck disable=SC2086
    mapfile -t models < <(models_of ${ensemble})
    queue python -m espnet_ext.bin.calibration --model_dir "${models[@]}" --data_dir "${sets[@]}" \
        --out_dir "${finetune_exp}/calibration" --ngpu "${ngpu}"
fi
run_queue "${decode_cmd}" --gpu "${ngpu}" --max_jobs_run "${inference_nj}"
