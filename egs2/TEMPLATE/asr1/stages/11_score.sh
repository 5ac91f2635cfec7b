#!/usr/bin/env bash
# does: word, character, token and sentence error rates with intervals, alignments
# scope: ${method}_${tag}
# options: [start_exp, finetune_exp, ensemble, decode_configs, dump, valid_set, test_sets, token_type, bpemodel]
# uncounted: [logdir, method, tag]
# inputs:
# - ${start_exp}/decode_${decode_configs}/${valid_set}/text
# - ${start_exp}/decode_${decode_configs}/${test_sets}/text ?
# - ${finetune_exp}/decode_${decode_configs}/${valid_set}/text ?
# - ${finetune_exp}/decode_${decode_configs}/${test_sets}/text ?
# - ${finetune_exp}/peer*/decode_*/*/text ?
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# outputs:
# - ${start_exp}/decode_${decode_configs}/${valid_set}/score/result.json
# - ${start_exp}/decode_${decode_configs}/${test_sets}/score/result.json ?
# - ${finetune_exp}/decode_${decode_configs}/${valid_set}/score/result.json ?
# - ${finetune_exp}/decode_${decode_configs}/${test_sets}/score/result.json ?
# logs: ["${logdir}/11_score_${method}_${tag}.*.log"]
. "${template_dir}/utils/stage.sh"

tokens=()
if [ "${token_type}" != char ]; then tokens=(--bpemodel "${bpemodel}"); fi
open_queue "${logdir}" "11_score_${method}_${tag}"
for exp in "${decoded[@]}" ${ensemble:+"${finetune_exp}"}; do
    # shellcheck disable=SC2086 # lists of names; valid_set may be one of the test sets
    for name in $(unique ${decode_configs}); do
        # shellcheck disable=SC2086
        for set in $(unique "${valid_set}" ${test_sets}); do
            folder=${exp}/decode_${name}/${set}
            if ! has "${folder}/text"; then continue; fi
            queue python -m espnet_ext.bin.score --ref "${dump}/${set}/text" --hyp "${folder}/text" \
                "${tokens[@]}" --out_dir "${folder}/score"
        done
    done
done
run_queue "${cpu_cmd}"
