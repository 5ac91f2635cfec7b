#!/usr/bin/env bash
# does: local/data.sh, the corpus's own preparation
# scope: recipe
# options: [datadir, local_data_opts, pretrain_set, train_set, valid_set]
# uncounted: [nj, seed, test_sets, unlabelled_set, logdir]
# arguments: local_data_opts
# inputs:
# - local/**
# outputs:
# - ${datadir}/${pretrain_set}/wav.scp
# - ${datadir}/${train_set}/wav.scp
# - ${datadir}/${valid_set}/wav.scp
# - ${datadir}/${test_sets}/wav.scp ?
# - ${datadir}/${unlabelled_set}/wav.scp ?
# logs: ["${logdir}/01_data.log"]
. "${template_dir}/utils/stage.sh"

run "${cpu_cmd}" --num_threads "${nj}" "${logdir}/01_data.log" local/data.sh "$@"

for set in $(unique "${pretrain_set}" "${train_set}" "${valid_set}"); do
    run python -m espnet_ext.bin.validate_data --stamp --need_text "${datadir}/${set}"
done
for set in ${test_sets} ${unlabelled_set}; do
    if has "${datadir}/${set}/wav.scp"; then
        run python -m espnet_ext.bin.validate_data --stamp "${datadir}/${set}"
    else
        say "${datadir}/${set} is not part of this corpus: left out"
    fi
done
