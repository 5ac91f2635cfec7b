#!/usr/bin/env bash
# does: looks for --lm_text before stage 6 takes hours, with --use_lm true
# when: {use_lm: ["true"]}
# scope: lm_${token_unit}
# uncounted: [lm_text, token_unit]
# inputs:
# - ${lm_text}
. "${template_dir}/utils/stage.sh"

if [ -z "${lm_text}" ]; then
    say "error: --use_lm true needs sentences to learn from: --lm_text FILE" >&2
    exit 1
fi
say "${lm_text}: sentences of the language model that stage 6 trains"
