#!/usr/bin/env bash
# does: the method, or its control (--method none, plain fine-tuning)
# when: {stage8: [starting_model]}
# scope: ${method}_${tag}
# options: [method, model_config, finetune_config, finetune_args, seed, token_type, feats_type, noise_scp, rir_scp, nbest, dump, stats_dir, pretrain_data, train_data, valid_set, pretrain_exp, finetune_exp, train_exp, ensemble, task, method_unlabelled, pseudo_text, lm_targets, init_part]
# uncounted: [ngpu, resume, tag]
# arguments: finetune_args
# training: [model_config, finetune_config]
# inputs:
# - ${dump}/${train_data}/content ?
# - ${dump}/${valid_set}/content ?
# - ${pretrain_exp}/train_summary.json
# - ${token_list}
# - ${noise_scp} ?
# - ${rir_scp} ?
# - ${dump}/${train_data}/text
# - ${dump}/${valid_set}/text
# - ${stats_dir}/${train_data}/speech_shape
# - ${stats_dir}/${valid_set}/speech_shape
# - ${dump}/${method_unlabelled}/content ?
# - ${stats_dir}/${method_unlabelled}/speech_shape
# - ${pseudo_text}
# - ${lm_targets}/settings.json
# - ${lm_targets}/summary.npz
# outputs:
# - ${train_exp}/config.yaml
# - ${train_exp}/train_summary.json
# logs: ["${finetune_exp}/train.log"]
. "${template_dir}/utils/stage.sh"

if [ -z "${train_exp}" ]; then
    say "models of ${ensemble} will decode together: nothing to train"
    exit 0
fi

run "${cpu_cmd}" "${pretrain_exp}/export.log" \
    python -m espnet_ext.bin.export_model --exp_dir "${pretrain_exp}" --nbest "${nbest}" --out_dir "${pretrain_exp}/export"

if [ -n "${method_unlabelled}" ]; then
    set -- --unlabelled_data_dir "${dump}/${method_unlabelled}" --unlabelled_stats_dir "${stats_dir}/${method_unlabelled}" "$@"
fi
if [ -n "${pseudo_text}" ]; then set -- --pseudo_text "${pseudo_text}" "$@"; fi
if [ -n "${lm_targets}" ]; then set -- --lm_targets "${lm_targets}" "$@"; fi

fresh "${finetune_exp}"
run python -m espnet_ext.bin.merge_config --out "${finetune_exp}/train.yaml" \
    "$(config "${model_config}")" "$(config "${finetune_config}")"
run "${train_cmd}" --gpu "${ngpu}" "${finetune_exp}/train.log" \
    python -m espnet_ext.bin.asr_train --task "${task}" --config "${finetune_exp}/train.yaml" --output_dir "${finetune_exp}" \
    --ngpu "${ngpu}" --seed "${seed}" --resume "${resume}" "${token_args[@]}" "${input_args[@]}" \
    --train_data_dir "${dump}/${train_data}" --valid_data_dir "${dump}/${valid_set}" \
    --train_stats_dir "${stats_dir}/${train_data}" --valid_stats_dir "${stats_dir}/${valid_set}" \
    --normalize_conf "stats_file=${stats_dir}/${pretrain_data}/feats_stats.npz" \
    --init_param "${pretrain_exp}/export/model.pth${init_part}" "$@"
