#!/usr/bin/env bash
# does: word, character, token and sentence error rates with intervals, alignments
# when: {models: [all, own]}
# scope: ${method}_${tag}
# options: [finetune_exp, decode_configs, dump, valid_set, test_sets, token_type, bpemodel]
# uncounted: [logdir, method, tag]
# inputs:
# - ${finetune_exp}/decode_${decode_configs}/${valid_set}/text
# - ${finetune_exp}/decode_${decode_configs}/${test_sets}/text ?
# - ${finetune_exp}/peer*/decode_*/*/text ?
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# - ${dump}/${valid_set}/utt2spk ?
# - ${dump}/${test_sets}/utt2spk ?
# outputs:
# - ${finetune_exp}/decode_${decode_configs}/${valid_set}/score/result.json
# - ${finetune_exp}/decode_${decode_configs}/${test_sets}/score/result.json ?
# logs: ["${logdir}/11_score_${method}_${tag}.*.log"]
. "${template_dir}/utils/models.sh"

score_models "${cpu_cmd}" "${method}_${tag}" "${own[@]}"
