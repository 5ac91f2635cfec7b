#!/usr/bin/env bash
# does: one archive a model that stock ESPnet loads
# when: {models: [all, own]}
# scope: ${method}_${tag}
# options: [train_exp]
# uncounted: [finetune_exp, method, tag]
# inputs:
# - ${train_exp}/export/model.pth
# outputs:
# - ${train_exp}/export/${method}_${tag}.zip
# logs: ["${finetune_exp}/pack.log"]
. "${template_dir}/utils/models.sh"

pack_models "${cpu_cmd}" ${train_exp:+"${train_exp}"}
