#!/usr/bin/env bash
# does: the same of the starting model
# when: {models: [all, start], ensembles: ["false"], pretrain_task: [supervised]}
# scope: ${pretrain_name}
# options: [pretrain_exp, decode_configs, dump, valid_set, test_sets, token_type, bpemodel]
# uncounted: [logdir]
# inputs:
# - ${pretrain_exp}/decode_${decode_configs}/${valid_set}/text
# - ${pretrain_exp}/decode_${decode_configs}/${test_sets}/text ?
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# - ${dump}/${valid_set}/utt2spk ?
# - ${dump}/${test_sets}/utt2spk ?
# outputs:
# - ${pretrain_exp}/decode_${decode_configs}/${valid_set}/score/result.json
# - ${pretrain_exp}/decode_${decode_configs}/${test_sets}/score/result.json ?
# logs: ["${logdir}/11_score_${pretrain_name}.*.log"]
. "${template_dir}/utils/models.sh"

score_models "${cpu_cmd}" "${pretrain_name}" "${pretrain_exp}"
