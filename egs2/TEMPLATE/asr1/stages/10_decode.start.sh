#!/usr/bin/env bash
# does: the same with the starting model, unless it has heard no transcripts
# when: {models: [all, start], ensembles: ["false"], pretrain_task: [supervised]}
# scope: ${pretrain_name}
# options: [pretrain_exp, decode_configs, lm_exp, dump, valid_set, test_sets]
# uncounted: [ngpu, inference_nj, logdir]
# decoding: [pretrain_config]
# inputs:
# - ${dump}/${valid_set}/content ?
# - ${dump}/${test_sets}/content ?
# - ${pretrain_exp}/export/model.pth
# - ${lm_exp}/export/model.pth ?
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# outputs:
# - ${pretrain_exp}/decode_${decode_configs}/${valid_set}/text
# - ${pretrain_exp}/decode_${decode_configs}/${test_sets}/text ?
# logs: ["${logdir}/10_tune_${pretrain_name}.*.log", "${logdir}/10_decode_${pretrain_name}.*.log"]
. "${template_dir}/utils/models.sh"

decode_models "${decode_cmd}" "${pretrain_name}" "${pretrain_exp}"
