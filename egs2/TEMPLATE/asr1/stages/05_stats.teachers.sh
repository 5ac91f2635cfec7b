#!/usr/bin/env bash
# does: looks at --teachers before stage 6 takes hours, with method distillation
# when: {method: [distillation], own_teachers: ["false"]}
# scope: teachers_${tag}
# options: [teachers]
# uncounted: [logdir, tag, datadir, dumpdir, expdir]
# logs: ["${logdir}/05_stats_teachers_${tag}.log"]
. "${template_dir}/utils/stage.sh"

# shellcheck disable=SC2086 # a list of NAME=PLACE
run "${cpu_cmd}" "${logdir}/05_stats_teachers_${tag}.log" \
    python -m espnet_ext.bin.fetch_teachers --check --own "${datadir}" "${dumpdir}" "${expdir}" -- ${teachers}
