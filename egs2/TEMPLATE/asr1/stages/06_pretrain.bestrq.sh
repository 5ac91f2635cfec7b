#!/usr/bin/env bash
# does: the self-supervised teacher of --method distillation, BEST-RQ on speech without transcripts
# when: {method: [distillation], trains_bestrq: ["true"]}
# scope: teacher_bestrq_${pretrain_tag}
# options: [bestrq_config, bestrq_model, bestrq_args, seed, token_type, noise_scp, rir_scp, dump, stats_dir, pretrain_data, unlabelled_set, valid_set, bestrq_exp]
# uncounted: [ngpu, resume]
# arguments: bestrq_args
# training: [bestrq_model, bestrq_config]
# task: ssl
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
# - ${bestrq_exp}/config.yaml
# - ${bestrq_exp}/train_summary.json
# logs: ["${bestrq_exp}/train.log"]
. "${template_dir}/utils/stage.sh"

# Without --unlabelled_set it hears the labelled one.
heard=${unlabelled_set:-${pretrain_data}}
fresh "${bestrq_exp}"
run python -m espnet_ext.bin.merge_config --out "${bestrq_exp}/train.yaml" \
    "$(config "${bestrq_model}")" "$(config "${bestrq_config}")"
run "${train_cmd}" --gpu "${ngpu}" "${bestrq_exp}/train.log" \
    python -m espnet_ext.bin.asr_train --task ssl --config "${bestrq_exp}/train.yaml" --output_dir "${bestrq_exp}" \
    --ngpu "${ngpu}" --seed "${seed}" --resume "${resume}" "${token_args[@]}" "${input_args[@]}" \
    --train_data_dir "${dump}/${pretrain_data}" --valid_data_dir "${dump}/${valid_set}" \
    --train_stats_dir "${stats_dir}/${pretrain_data}" --valid_stats_dir "${stats_dir}/${valid_set}" \
    --unlabelled_data_dir "${dump}/${heard}" --unlabelled_stats_dir "${stats_dir}/${heard}" \
    --normalize_conf "stats_file=${stats_dir}/${pretrain_data}/feats_stats.npz" "$@"
