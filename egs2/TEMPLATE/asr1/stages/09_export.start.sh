#!/usr/bin/env bash
# does: the same of the starting model
# when: {models: [all, start], ensembles: ["false"]}
# scope: ${pretrain_name}
# options: [nbest, pretrain_exp]
# uncounted: [force]
# inputs:
# - ${pretrain_exp}/train_summary.json
# outputs:
# - ${pretrain_exp}/export/model.pth
# logs: ["${pretrain_exp}/export.log"]
. "${template_dir}/utils/models.sh"

export_models "${cpu_cmd}" "${pretrain_exp}"
