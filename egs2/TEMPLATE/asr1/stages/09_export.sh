#!/usr/bin/env bash
# does: n-best average, written as a plain ESPnet model
# when: {models: [all, own]}
# scope: ${method}_${tag}
# options: [nbest, finetune_exp, train_exp]
# uncounted: [force, method, tag]
# inputs:
# - ${train_exp}/train_summary.json
# - ${train_exp}/peer*/train_summary.json ?
# outputs:
# - ${train_exp}/export/model.pth
# logs: ["${finetune_exp}/export.log", "${finetune_exp}/peer*/export.log"]
. "${template_dir}/utils/models.sh"

export_models "${cpu_cmd}" "${own_trained[@]}"
