#!/usr/bin/env bash
# does: n-best average, written as a plain ESPnet model
# scope: ${method}_${tag}
# options: [nbest, pretrain_exp, finetune_exp, train_exp]
# uncounted: [method, tag]
# inputs:
# - ${pretrain_exp}/train_summary.json
# - ${finetune_exp}/train_summary.json ?
# - ${finetune_exp}/peer*/train_summary.json ?
# outputs:
# - ${pretrain_exp}/export/model.pth
# - ${finetune_exp}/export/model.pth ?
# logs: ["${pretrain_exp}/export.log", "${finetune_exp}/export.log", "${finetune_exp}/peer*/export.log"]
. "${template_dir}/utils/stage.sh"

for exp in "${trained[@]}"; do
    if ! has "${exp}/train_summary.json"; then
        say "${exp} is not trained: left out"
        continue
    fi
    run "${cpu_cmd}" "${exp}/export.log" \
        python -m espnet_ext.bin.export_model --exp_dir "${exp}" --nbest "${nbest}" --out_dir "${exp}/export"
done
