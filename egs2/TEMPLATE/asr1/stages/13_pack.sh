#!/usr/bin/env bash
# does: one archive a model that stock ESPnet loads
# scope: ${method}_${tag}
# options: [pretrain_exp, finetune_exp, train_exp]
# uncounted: [method, tag]
# inputs:
# - ${pretrain_exp}/export/model.pth
# - ${finetune_exp}/export/model.pth ?
# outputs:
# - ${pretrain_exp}/export/${pretrain_name}.zip
# - ${finetune_exp}/export/${method}_${tag}.zip ?
# logs: ["${pretrain_exp}/pack.log", "${finetune_exp}/pack.log"]
. "${template_dir}/utils/stage.sh"

for exp in "${pretrain_exp}" ${train_exp:+"${train_exp}"}; do
    if ! has "${exp}/export/model.pth"; then
        say "${exp} is not exported: left out"
        continue
    fi
    run "${cpu_cmd}" "${exp}/pack.log" \
        python -m espnet_ext.bin.pack --model_dir "${exp}/export" --out "${exp}/export/$(basename "${exp}").zip"
done
