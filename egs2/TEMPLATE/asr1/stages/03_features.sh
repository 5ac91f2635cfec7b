#!/usr/bin/env bash
# does: checked and resampled audio (raw) or filterbanks (fbank); drops what is too long or too short
# scope: ${feats_type}
# options: [datadir, dump, fs, min_wav_duration, max_wav_duration, max_drop_fraction, multichannel, pretrain_set, train_set, pretrain_data, train_data, valid_set, test_sets, unlabelled_set]
# uncounted: [nj, logdir, feats_type]
# inputs:
# - ${datadir}/${pretrain_data}/wav.scp
# - ${datadir}/${pretrain_data}/text
# - ${datadir}/${pretrain_data}/segments ?
# - ${datadir}/${pretrain_data}/utt2spk
# - ${datadir}/${train_data}/wav.scp
# - ${datadir}/${train_data}/text
# - ${datadir}/${train_data}/segments ?
# - ${datadir}/${train_data}/utt2spk
# - ${datadir}/${valid_set}/wav.scp
# - ${datadir}/${valid_set}/text
# - ${datadir}/${valid_set}/segments ?
# - ${datadir}/${valid_set}/utt2spk
# - ${datadir}/${test_sets}/wav.scp ?
# - ${datadir}/${test_sets}/text ?
# - ${datadir}/${test_sets}/segments ?
# - ${datadir}/${test_sets}/utt2spk ?
# - ${datadir}/${unlabelled_set}/wav.scp ?
# - ${datadir}/${unlabelled_set}/segments ?
# - ${datadir}/${unlabelled_set}/utt2spk ?
# - ${datadir}/${pretrain_set}/audio_stamp ?
# - ${datadir}/${train_set}/audio_stamp ?
# - ${datadir}/${valid_set}/audio_stamp ?
# - ${datadir}/${test_sets}/audio_stamp ?
# - ${datadir}/${unlabelled_set}/audio_stamp ?
# outputs:
# - ${dump}/${pretrain_data}/text
# - ${dump}/${train_data}/text
# - ${dump}/${valid_set}/text
# - ${dump}/${test_sets}/text ?
# - ${dump}/${unlabelled_set}/utt2spk ?
# logs: ["${logdir}/03_features_${feats_type}.*.log"]
. "${template_dir}/utils/stage.sh"

open_queue "${logdir}" "03_features_${feats_type}"
# shellcheck disable=SC2086 # lists of names
for set in $(unique "${pretrain_data}" "${train_data}" "${valid_set}" ${test_sets} ${unlabelled_set}); do
    if ! has "${datadir}/${set}/wav.scp"; then
        say "${datadir}/${set} is not part of this corpus: left out"
        if [ -e "${dump}/${set}" ]; then run rm -r -- "${dump:?}/${set}"; fi # of an earlier copy that had it
        continue
    fi
    # Long utterances are bad company in training; a test set is comparable only if it is whole.
    longest=${max_wav_duration}
    case " ${test_sets} " in *" ${set} "*) longest=inf ;; esac
    queue python -m espnet_ext.bin.make_features --in_dir "${datadir}/${set}" --out_dir "${dump}/${set}" \
        --feats_type "${feats_type}" --fs "${fs}" --min_duration "${min_wav_duration}" \
        --max_duration "${longest}" --max_drop_fraction "${max_drop_fraction}" \
        --multichannel "${multichannel}" --nj "${nj}"
done
run_queue "${cpu_cmd}" --num_threads "${nj}" --max_jobs_run 1
