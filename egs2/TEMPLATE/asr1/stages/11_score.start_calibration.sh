#!/usr/bin/env bash
# does: calibration of the starting model
# when: {models: [all, start], ensembles: ["false"], pretrain_task: [supervised], calibration: ["true"]}
# scope: ${pretrain_name}
# options: [pretrain_exp, dump, valid_set, test_sets]
# uncounted: [ngpu, inference_nj, logdir]
# inputs:
# - ${dump}/${valid_set}/content ?
# - ${dump}/${test_sets}/content ?
# - ${pretrain_exp}/export/model.pth
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# outputs:
# - ${pretrain_exp}/calibration/${valid_set}.json
# logs: ["${logdir}/11_calibration_${pretrain_name}.*.log"]
. "${template_dir}/utils/models.sh"

calibrate_models "${decode_cmd}" "${pretrain_name}" "${pretrain_exp}"
