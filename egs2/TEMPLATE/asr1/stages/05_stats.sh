#!/usr/bin/env bash
# does: lengths and normalisation statistics, one pass
# scope: ${stats_name}
# options: [dump, stats_dir, token_type, model_config, max_drop_fraction, max_outside_fraction, pretrain_data, train_data, valid_set, unlabelled_set]
# uncounted: [nj, logdir, feats_type, token_unit]
# inputs:
# - ${dump}/${pretrain_data}/content ?
# - ${dump}/${train_data}/content ?
# - ${dump}/${valid_set}/content ?
# - ${token_list}
# - ${dump}/${pretrain_data}/wav.scp ?
# - ${dump}/${pretrain_data}/feats.scp ?
# - ${dump}/${pretrain_data}/text
# - ${dump}/${train_data}/wav.scp ?
# - ${dump}/${train_data}/feats.scp ?
# - ${dump}/${train_data}/text
# - ${dump}/${valid_set}/wav.scp ?
# - ${dump}/${valid_set}/feats.scp ?
# - ${dump}/${valid_set}/text
# - ${dump}/${unlabelled_set}/content ?
# - ${dump}/${unlabelled_set}/wav.scp ?
# - ${dump}/${unlabelled_set}/feats.scp ?
# outputs:
# - ${stats_dir}/${pretrain_data}/feats_stats.npz
# - ${stats_dir}/${pretrain_data}/speech_shape
# - ${stats_dir}/${train_data}/speech_shape
# - ${stats_dir}/${valid_set}/speech_shape
# - ${stats_dir}/${unlabelled_set}/speech_shape ?
# logs: ["${logdir}/05_stats_${feats_type}_${token_unit}.*.log"]
. "${template_dir}/utils/stage.sh"

open_queue "${logdir}" "05_stats_${feats_type}_${token_unit}"
# Audio without transcripts has lengths as well; a corpus may lack it.
for set in $(unique "${pretrain_data}" "${train_data}" "${valid_set}" ${unlabelled_set:+"${unlabelled_set}"}); do
    if [ "${set}" = "${unlabelled_set}" ] && ! has "${dump}/${set}"; then continue; fi
    # All models normalise by the statistics of the set that the starting model is trained on.
    feats_stats=false
    if [ "${set}" = "${pretrain_data}" ]; then feats_stats=true; fi
    queue python -m espnet_ext.bin.collect_stats --data_dir "${dump}/${set}" --out_dir "${stats_dir}/${set}" \
        --config "$(config "${model_config}")" --token_type "${token_type}" "${token_args[@]:2}" \
        --feats_stats "${feats_stats}" --max_drop_fraction "${max_drop_fraction}" \
        --max_outside_fraction "${max_outside_fraction}" --nj "${nj}"
done
run_queue "${cpu_cmd}" --num_threads "${nj}" --max_jobs_run 1
