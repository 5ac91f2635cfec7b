#!/usr/bin/env bash
# does: the same of the starting model
# when: {models: [all, start], ensembles: ["false"]}
# scope: ${pretrain_name}
# options: [pretrain_exp]
# inputs:
# - ${pretrain_exp}/export/model.pth
# outputs:
# - ${pretrain_exp}/export/${pretrain_name}.zip
# logs: ["${pretrain_exp}/pack.log"]
. "${template_dir}/utils/models.sh"

pack_models "${cpu_cmd}" "${pretrain_exp}"
