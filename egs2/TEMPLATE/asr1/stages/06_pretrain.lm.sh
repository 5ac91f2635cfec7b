#!/usr/bin/env bash
# does: the language model of decoding, trained on --lm_text
# when: {use_lm: ["true"]}
# scope: lm_${token_unit}
# options: [lm_config, lm_text, token_type, dump, valid_set, lm_exp]
# uncounted: [ngpu, resume, token_unit]
# inputs:
# - ${lm_text}
# - ${token_list}
# - ${dump}/${valid_set}/text
# outputs:
# - ${lm_exp}/export/config.yaml
# - ${lm_exp}/export/model.pth
# logs: ["${lm_exp}/train.log"]
. "${template_dir}/utils/stage.sh"

if [ -z "${lm_text}" ]; then
    say "error: --use_lm true needs sentences to learn from: --lm_text FILE" >&2
    exit 1
fi
fresh "${lm_exp}"
run "${train_cmd}" --gpu "$((ngpu > 0))" "${lm_exp}/train.log" \
    python -m espnet_ext.bin.causal_lm_train --config "$(config "${lm_config}")" --output_dir "${lm_exp}" \
    --ngpu "$((ngpu > 0))" --resume "${resume}" "${token_args[@]}" --text "${lm_text}" --valid_text "${dump}/${valid_set}/text"
