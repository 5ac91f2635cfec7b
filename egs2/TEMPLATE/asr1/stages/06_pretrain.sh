#!/usr/bin/env bash
# does: the starting model, supervised
# when: {pretrain_task: [supervised]}
# scope: ${pretrain_name}
# options: [pretrain_config, pretrain_args, seed, init_param, token_type, feats_type, noise_scp, rir_scp, dump, stats_dir, pretrain_data, valid_set, pretrain_exp]
# uncounted: [ngpu, resume]
# arguments: pretrain_args
# training: [pretrain_config]
# task: asr
# inputs:
# - ${dump}/${pretrain_data}/content ?
# - ${dump}/${valid_set}/content ?
# - ${token_list}
# - ${noise_scp} ?
# - ${rir_scp} ?
# - ${dump}/${pretrain_data}/text
# - ${dump}/${valid_set}/text
# - ${stats_dir}/${pretrain_data}/feats_stats.npz
# - ${stats_dir}/${pretrain_data}/speech_shape
# - ${stats_dir}/${valid_set}/speech_shape
# outputs:
# - ${pretrain_exp}/config.yaml
# - ${pretrain_exp}/train_summary.json
# logs: ["${pretrain_exp}/train.log"]
. "${template_dir}/utils/stage.sh"

fresh "${pretrain_exp}"
run "${train_cmd}" --gpu "${ngpu}" "${pretrain_exp}/train.log" \
    python -m espnet_ext.bin.asr_train --config "$(config "${pretrain_config}")" --output_dir "${pretrain_exp}" \
    --ngpu "${ngpu}" --seed "${seed}" --resume "${resume}" "${token_args[@]}" "${input_args[@]}" \
    --train_data_dir "${dump}/${pretrain_data}" --valid_data_dir "${dump}/${valid_set}" \
    --train_stats_dir "${stats_dir}/${pretrain_data}" --valid_stats_dir "${stats_dir}/${valid_set}" \
    --normalize_conf "stats_file=${stats_dir}/${pretrain_data}/feats_stats.npz" \
    ${init_param:+--init_param "${init_param}"} "$@"
