#!/usr/bin/env bash
# does: looks at --teachers, their weights and settings before stage 6 takes hours, with method distillation
# when: {method: [distillation], stage1: ["true"]}
# scope: teachers_${tag}
# options: [teachers, teacher_weights, teacher_config, student_config]
# uncounted: [logdir, tag, datadir, dumpdir, expdir, own_teachers, pretrain_exp, bestrq_exp]
# logs: ["${logdir}/05_stats_teachers_${tag}.log"]
. "${template_dir}/utils/stage.sh"

if [ "${own_teachers}" = true ]; then
    places=("supervised=${pretrain_exp}/export" "bestrq=${bestrq_exp}/export")
else
    # shellcheck disable=SC2206 # a list of NAME=PLACE
    places=(${teachers})
fi
# shellcheck disable=SC2086 # a list of NAME=W
run "${cpu_cmd}" "${logdir}/05_stats_teachers_${tag}.log" \
    python -m espnet_ext.bin.fetch_teachers --check --own "${datadir}" "${dumpdir}" "${expdir}" \
    --config "$(config "${teacher_config}")" --student "$(config "${student_config}")" --weights ${teacher_weights} -- "${places[@]}"
