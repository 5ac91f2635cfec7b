#!/usr/bin/env bash
# does: speed perturbation of the training sets with sox, if --speed_perturb_factors says so
# scope: recipe
# options: [datadir, pretrain_set, train_set, speed_perturb_factors]
# uncounted: [nj, logdir, pretrain_data, train_data]
# inputs:
# - ${datadir}/${pretrain_set}/wav.scp
# - ${datadir}/${train_set}/wav.scp
# - ${datadir}/${pretrain_set}/audio_stamp ?
# - ${datadir}/${train_set}/audio_stamp ?
# - ${datadir}/${pretrain_set}/text
# - ${datadir}/${train_set}/text
# outputs:
# - ${datadir}/${pretrain_data}/wav.scp
# - ${datadir}/${train_data}/wav.scp
# logs: ["${logdir}/02_perturb.*.log"]
. "${template_dir}/utils/stage.sh"

if [ -z "${speed_perturb_factors}" ]; then
    say "no --speed_perturb_factors: the training sets stay as they are"
    exit 0
fi
open_queue "${logdir}" 02_perturb
for set in $(unique "${pretrain_set}" "${train_set}"); do
    # shellcheck disable=SC2086 # several numbers
    queue python -m espnet_ext.bin.perturb_data --in_dir "${datadir}/${set}" --out_dir "${datadir}/${set}_sp" \
        --speeds ${speed_perturb_factors} --nj "${nj}"
done
run_queue "${cpu_cmd}" --num_threads "${nj}" --max_jobs_run 1
