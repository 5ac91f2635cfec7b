#!/usr/bin/env bash
# does: tries out stage 8 before stage 6 takes hours, with the options, the encoder and the unlabelled speech of bilevel
# scope: bilevel_${tag}
# options: [unlabelled_set, model_config, finetune_config, finetune_args, seed, token_type, feats_type, noise_scp, rir_scp, dump, stats_dir, pretrain_data, train_data, valid_set, task]
# uncounted: [logdir, tag]
# arguments: finetune_args
# inputs:
# - ${dump}/${train_data}/content ?
# - ${dump}/${valid_set}/content ?
# - ${dump}/${unlabelled_set}/content ?
# - ${token_list}
# - ${noise_scp} ?
# - ${rir_scp} ?
# - ${stats_dir}/${pretrain_data}/feats_stats.npz
# - ${stats_dir}/${train_data}/speech_shape
# - ${stats_dir}/${valid_set}/speech_shape
# - ${stats_dir}/${unlabelled_set}/speech_shape ?
# outputs:
# - ${logdir}/05_stats_bilevel_${tag}.yaml
# logs: ["${logdir}/05_stats_bilevel_${tag}.log"]
. "${template_dir}/utils/stage.sh"

if [ -z "${unlabelled_set}" ] || ! has "${dump}/${unlabelled_set}"; then
    say "error: ${unlabelled_set:+${dump}/${unlabelled_set} does not exist, and }method bilevel needs speech without transcripts:" \
        "--unlabelled_set NAME, a set data/NAME of local/data.sh with wav.scp and utt2spk" >&2
    exit 1
fi
run python -m espnet_ext.bin.merge_config --out "${logdir}/05_stats_bilevel_${tag}.yaml" \
    "$(config "${model_config}")" "$(config "${finetune_config}")"
run "${cpu_cmd}" "${logdir}/05_stats_bilevel_${tag}.log" \
    python -m espnet_ext.bin.asr_train --task "${task}" --config "${logdir}/05_stats_bilevel_${tag}.yaml" --output_dir "${logdir}" \
    --dry_run true --seed "${seed}" "${token_args[@]}" "${input_args[@]}" \
    --train_data_dir "${dump}/${train_data}" --valid_data_dir "${dump}/${valid_set}" \
    --train_stats_dir "${stats_dir}/${train_data}" --valid_stats_dir "${stats_dir}/${valid_set}" \
    --unlabelled_data_dir "${dump}/${unlabelled_set}" --unlabelled_stats_dir "${stats_dir}/${unlabelled_set}" \
    --normalize_conf "stats_file=${stats_dir}/${pretrain_data}/feats_stats.npz" "$@"
