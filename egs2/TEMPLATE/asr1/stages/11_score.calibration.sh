#!/usr/bin/env bash
# does: calibration of the attention decoders, in calibration/<set>.json of each experiment
# when: {models: [all, own], calibration: ["true"]}
# scope: ${method}_${tag}
# options: [finetune_exp, train_exp, ensemble, dump, valid_set, test_sets]
# uncounted: [ngpu, inference_nj, logdir, method, tag]
# inputs:
# - ${dump}/${valid_set}/content ?
# - ${dump}/${test_sets}/content ?
# - ${train_exp}/export/model.pth
# - ${train_exp}/peer*/export/model.pth ?
# - ${expdir}/${ensemble}/export/model.pth
# - ${expdir}/${ensemble}/peer*/export/model.pth ?
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# outputs:
# - ${finetune_exp}/calibration/${valid_set}.json
# logs: ["${logdir}/11_calibration_${method}_${tag}.*.log"]
. "${template_dir}/utils/models.sh"

calibrate_models "${decode_cmd}" "${method}_${tag}" "${own[@]}"
