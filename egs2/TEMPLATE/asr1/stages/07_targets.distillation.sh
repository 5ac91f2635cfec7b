#!/usr/bin/env bash
# does: the teachers' embeddings of labelled, unlabelled and development speech
# when: {method: [distillation], stores_targets: ["true"]}
# scope: distil_targets_${pretrain_tag}
# options: [teachers, teacher_config, student_config, nbest, dump, student_data, unlabelled_set, valid_set, pretrain_exp, bestrq_exp, targets_dir, own_teachers]
# uncounted: [ngpu, inference_nj, logdir, pretrain_tag]
# inputs:
# - ${dump}/${student_data}/content ?
# - ${dump}/${unlabelled_set}/content ?
# - ${dump}/${valid_set}/content ?
# - ${dump}/${student_data}/wav.scp
# - ${dump}/${unlabelled_set}/wav.scp ?
# - ${dump}/${valid_set}/wav.scp
# - ${pretrain_exp}/train_summary.json ?
# - ${bestrq_exp}/train_summary.json ?
# outputs:
# - ${targets_dir}/complete.json
# grows: ["${targets_dir}/*/shards/*/index"]
# logs: ["${logdir}/07_targets_distillation_${pretrain_tag}.*.log", "${pretrain_exp}/export.log", "${bestrq_exp}/export.log"]
. "${template_dir}/utils/stage.sh"

export_teachers
sets=(--data_dir "${dump}/${student_data}" --other_data_dir "${dump}/${valid_set}")
if [ -n "${unlabelled_set}" ] && has "${dump}/${unlabelled_set}/wav.scp"; then sets+=("${dump}/${unlabelled_set}"); fi

# Each job has shards of its own; what is there is not computed again.
open_queue "${logdir}" "07_targets_distillation_${pretrain_tag}"
for ((job = 1; job <= inference_nj; job++)); do
    queue python -m espnet_ext.bin.distill_targets --teacher "${teacher_places[@]}" "${sets[@]}" --out_dir "${targets_dir}" \
        --student "$(config "${student_config}")" --config "$(config "${teacher_config}")" \
        --job "${job}" --num_jobs "${inference_nj}" --ngpu "$((ngpu > 0))" --replace
done
run_queue "${decode_cmd}" --gpu "$((ngpu > 0))"
