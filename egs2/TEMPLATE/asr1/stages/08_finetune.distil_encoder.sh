#!/usr/bin/env bash
# does: the student's encoder, trained to predict the teachers' embeddings (distillation, stage 1)
# when: {method: [distillation], stage1: ["true"]}
# scope: distil_encoder_${stage1_tag}
# options: [student_config, streaming_config, stage1_config, stage1_args, teachers, teacher_weights, teacher_config, on_the_fly, nbest, own_teachers, pretrain_exp, bestrq_exp, seed, token_type, feats_type, noise_scp, rir_scp, dump, stats_dir, pretrain_data, student_data, stage1_more, valid_set, stored_targets, stage1_exp]
# uncounted: [ngpu, resume, stage1_tag]
# arguments: stage1_args
# training: [student_config, streaming_config, stage1_config]
# task: distillation_encoder
# inputs:
# - ${dump}/${student_data}/content ?
# - ${dump}/${stage1_more}/content ?
# - ${dump}/${valid_set}/content ?
# - ${token_list}
# - ${noise_scp} ?
# - ${rir_scp} ?
# - ${stats_dir}/${pretrain_data}/feats_stats.npz
# - ${stats_dir}/${student_data}/speech_shape
# - ${stats_dir}/${stage1_more}/speech_shape
# - ${stats_dir}/${valid_set}/speech_shape
# - ${stored_targets}/complete.json
# - ${pretrain_exp}/train_summary.json ?
# - ${bestrq_exp}/train_summary.json ?
# outputs:
# - ${stage1_exp}/config.yaml
# - ${stage1_exp}/train_summary.json
# logs: ["${stage1_exp}/train.log", "${pretrain_exp}/export.log", "${bestrq_exp}/export.log"]
. "${template_dir}/utils/stage.sh"

# Parts run in the order of their names: this one before 08_finetune.distillation.sh.
# Teachers without a weight given count alike.
weights=${teacher_weights}
if [ -z "${weights}" ]; then
    for teacher in ${teachers:-supervised bestrq}; do weights+=" ${teacher%%=*}=1"; done
fi
for weight in ${weights}; do set -- --distillation_conf "teachers.${weight}" "$@"; done
if [ -n "${stage1_more}" ]; then
    set -- --unlabelled_data_dir "${dump}/${stage1_more}" --unlabelled_stats_dir "${stats_dir}/${stage1_more}" "$@"
fi

if [ -n "${stored_targets}" ]; then
    set -- --targets_dir "${stored_targets}" "$@"
else
    export_teachers
    set -- --live_teacher "${teacher_places[@]}" --live_config "$(config "${teacher_config}")" "$@"
fi

fresh "${stage1_exp}"
run python -m espnet_ext.bin.merge_config --out "${stage1_exp}/train.yaml" "$(config "${student_config}")" \
    ${streaming_config:+"$(config "${streaming_config}")"} "$(config "${stage1_config}")"
run "${train_cmd}" --gpu "${ngpu}" "${stage1_exp}/train.log" \
    python -m espnet_ext.bin.asr_train --task distillation_encoder --config "${stage1_exp}/train.yaml" \
    --output_dir "${stage1_exp}" --ngpu "${ngpu}" --seed "${seed}" --resume "${resume}" "${token_args[@]}" "${input_args[@]}" \
    --train_data_dir "${dump}/${student_data}" --valid_data_dir "${dump}/${valid_set}" \
    --train_stats_dir "${stats_dir}/${student_data}" --valid_stats_dir "${stats_dir}/${valid_set}" \
    --normalize_conf "stats_file=${stats_dir}/${pretrain_data}/feats_stats.npz" "$@"
