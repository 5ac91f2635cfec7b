#!/usr/bin/env bash
# does: all test sets and the development set, in every way of --decode_configs; weights are tuned on the latter
# when: {models: [all, own]}
# scope: ${method}_${tag}
# options: [finetune_exp, train_exp, ensemble, decode_configs, lm_exp, dump, valid_set, test_sets]
# uncounted: [ngpu, inference_nj, logdir, method, tag]
# decoding: [decoded_config]
# inputs:
# - ${dump}/${valid_set}/content ?
# - ${dump}/${test_sets}/content ?
# - ${train_exp}/export/model.pth
# - ${train_exp}/peer*/export/model.pth ?
# - ${expdir}/${ensemble}/export/model.pth
# - ${expdir}/${ensemble}/peer*/export/model.pth ?
# - ${lm_exp}/export/model.pth ?
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# outputs:
# - ${finetune_exp}/decode_${decode_configs}/${valid_set}/text
# - ${finetune_exp}/decode_${decode_configs}/${test_sets}/text ?
# logs: ["${logdir}/10_tune_${method}_${tag}.*.log", "${logdir}/10_decode_${method}_${tag}.*.log"]
. "${template_dir}/utils/models.sh"

decode_models "${decode_cmd}" "${method}_${tag}" "${own[@]}"
