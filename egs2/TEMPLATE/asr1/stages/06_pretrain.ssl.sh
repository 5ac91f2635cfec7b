#!/usr/bin/env bash
# does: the starting model's encoder, self-supervised
# when: {pretrain_task: [self_supervised]}
# scope: ${pretrain_name}
# options: [pretrain_config, model_config, pretrain_args, seed, init_param, token_type, feats_type, noise_scp, rir_scp, dump, stats_dir, pretrain_data, unlabelled_set, valid_set, pretrain_exp]
# uncounted: [ngpu, resume]
# arguments: pretrain_args
# inputs:
# - ${dump}/${pretrain_data}/content ?
# - ${dump}/${unlabelled_set}/content ?
# - ${dump}/${valid_set}/content ?
# - ${token_list}
# - ${noise_scp} ?
# - ${rir_scp} ?
# - ${dump}/${valid_set}/text
# - ${stats_dir}/${pretrain_data}/feats_stats.npz
# - ${stats_dir}/${pretrain_data}/speech_shape
# - ${stats_dir}/${unlabelled_set}/speech_shape
# - ${stats_dir}/${valid_set}/speech_shape
# outputs:
# - ${pretrain_exp}/config.yaml
# - ${pretrain_exp}/train_summary.json
# logs: ["${pretrain_exp}/train.log"]
. "${template_dir}/utils/stage.sh"

# Without --unlabelled_set it hears the labelled one.
heard=${unlabelled_set:-${pretrain_data}}
fresh "${pretrain_exp}"
run python -m espnet_ext.bin.merge_config --out "${pretrain_exp}/train.yaml" \
    "$(config "${model_config}")" "$(config "${pretrain_config}")"
run "${train_cmd}" --gpu "${ngpu}" "${pretrain_exp}/train.log" \
    python -m espnet_ext.bin.asr_train --task ssl --config "${pretrain_exp}/train.yaml" --output_dir "${pretrain_exp}" \
    --ngpu "${ngpu}" --seed "${seed}" --resume "${resume}" "${token_args[@]}" "${input_args[@]}" \
    --train_data_dir "${dump}/${pretrain_data}" --valid_data_dir "${dump}/${valid_set}" \
    --train_stats_dir "${stats_dir}/${pretrain_data}" --valid_stats_dir "${stats_dir}/${valid_set}" \
    --unlabelled_data_dir "${dump}/${heard}" --unlabelled_stats_dir "${stats_dir}/${heard}" \
    --normalize_conf "stats_file=${stats_dir}/${pretrain_data}/feats_stats.npz" \
    ${init_param:+--init_param "${init_param}"} "$@"
