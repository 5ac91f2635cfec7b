#!/usr/bin/env bash
# does: the student as a transducer (distillation, stage 2), or its control from scratch
# when: {method: [distillation]}
# scope: ${method}_${tag}
# options: [method, student_config, streaming_config, finetune_config, finetune_args, path_weight, path_teacher, seed, token_type, feats_type, noise_scp, rir_scp, nbest, dump, stats_dir, pretrain_data, student_data, valid_set, stage1_exp, finetune_exp]
# uncounted: [ngpu, resume, tag]
# arguments: finetune_args
# training: [student_config, streaming_config, finetune_config]
# inputs:
# - ${dump}/${student_data}/content ?
# - ${dump}/${valid_set}/content ?
# - ${stage1_exp}/train_summary.json
# - ${path_teacher}/train_summary.json
# - ${token_list}
# - ${noise_scp} ?
# - ${rir_scp} ?
# - ${dump}/${student_data}/text
# - ${dump}/${valid_set}/text
# - ${stats_dir}/${pretrain_data}/feats_stats.npz
# - ${stats_dir}/${student_data}/speech_shape
# - ${stats_dir}/${valid_set}/speech_shape
# outputs:
# - ${finetune_exp}/config.yaml
# - ${finetune_exp}/train_summary.json
# logs: ["${finetune_exp}/train.log", "${path_teacher}/export.log"]
. "${template_dir}/utils/stage.sh"

if [ -n "${path_teacher}" ]; then
    run "${cpu_cmd}" "${path_teacher}/export.log" \
        python -m espnet_ext.bin.export_model --exp_dir "${path_teacher}" --nbest "${nbest}" --out_dir "${path_teacher}/export"
    set -- --path_teacher "${path_teacher}/export" --distillation_conf "path_weight=${path_weight}" "$@"
fi
if [ -n "${stage1_exp}" ]; then
    set -- --stage1 "${stage1_exp}" --stage1_nbest "${nbest}" "$@"
else # nothing is gained by keeping an encoder that knows nothing
    set -- --distillation_conf freeze_updates=0 "$@"
fi

fresh "${finetune_exp}"
run python -m espnet_ext.bin.merge_config --out "${finetune_exp}/train.yaml" "$(config "${student_config}")" \
    ${streaming_config:+"$(config "${streaming_config}")"} "$(config "${finetune_config}")"
run "${train_cmd}" --gpu "${ngpu}" "${finetune_exp}/train.log" \
    python -m espnet_ext.bin.asr_train --task distillation --config "${finetune_exp}/train.yaml" --output_dir "${finetune_exp}" \
    --ngpu "${ngpu}" --seed "${seed}" --resume "${resume}" "${token_args[@]}" "${input_args[@]}" \
    --train_data_dir "${dump}/${student_data}" --valid_data_dir "${dump}/${valid_set}" \
    --train_stats_dir "${stats_dir}/${student_data}" --valid_stats_dir "${stats_dir}/${valid_set}" \
    --normalize_conf "stats_file=${stats_dir}/${pretrain_data}/feats_stats.npz" "$@"
