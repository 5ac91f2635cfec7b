#!/usr/bin/env bash
# does: the token list, SentencePiece (unigram, bpe) or characters
# scope: ${token_unit}
# options: [token_type, nbpe, token_dir, dump, pretrain_data, train_data, valid_set, lm_text]
# uncounted: [logdir, token_unit]
# inputs:
# - ${dump}/${pretrain_data}/text
# - ${dump}/${train_data}/text
# - ${dump}/${valid_set}/text
# - ${lm_text} ?
# outputs:
# - ${token_list}
# logs: ["${logdir}/04_tokens_${token_unit}.log"]
. "${template_dir}/utils/stage.sh"

texts=("${dump}/${pretrain_data}/text")
if [ "${train_data}" != "${pretrain_data}" ]; then texts+=("${dump}/${train_data}/text"); fi
if [ -n "${lm_text}" ]; then
    if has "${lm_text}"; then texts+=("${lm_text}"); else say "--lm_text ${lm_text} does not exist: left out"; fi
fi

run "${cpu_cmd}" "${logdir}/04_tokens_${token_unit}.log" \
    python -m espnet_ext.bin.make_tokens --text "${texts[@]}" --check_text "${dump}/${valid_set}/text" \
    --out_dir "${token_dir}" --token_type "${token_type}" --nbpe "${nbpe}"
