#!/usr/bin/env bash
# does: the small masked language model that lm_transfer learns from, trained on --lm_text with the recogniser's tokens
# when: {method: [lm_transfer], trains_masked_lm: ["true"]}
# scope: masked_lm_${token_unit}
# options: [masked_lm_config, lm_text, token_type, dump, valid_set, masked_lm_exp]
# uncounted: [ngpu, resume, token_unit]
# inputs:
# - ${lm_text}
# - ${token_list}
# - ${dump}/${valid_set}/text
# outputs:
# - ${masked_lm_exp}/lm.yaml
# - ${masked_lm_exp}/lm.pth
# logs: ["${masked_lm_exp}/train.log"]
. "${template_dir}/utils/stage.sh"

if [ -z "${lm_text}" ]; then
    say "error: method lm_transfer trains its language model on sentences without audio: --lm_text FILE; or --lm_teacher" \
        "names another one (a HuggingFace folder, minilm, a table of vectors)" >&2
    exit 1
fi
fresh "${masked_lm_exp}"
run "${train_cmd}" --gpu "$((ngpu > 0))" "${masked_lm_exp}/train.log" \
    python -m espnet_ext.bin.lm_train --config "$(config "${masked_lm_config}")" --output_dir "${masked_lm_exp}" \
    --ngpu "$((ngpu > 0))" --resume "${resume}" "${token_args[@]}" --text "${lm_text}" --valid_text "${dump}/${valid_set}/text"
