#!/usr/bin/env bash
# does: the starting model's transcripts of the unlabelled set
# when: {method: [bilevel], with_pseudo_labels: ["true"]}
# scope: pretrain_${pretrain_tag}_${pseudo_labels}
# options: [pseudo_labels, nbest, dump, unlabelled_set, pretrain_exp, pseudo_text]
# uncounted: [ngpu, logdir, method, pretrain_tag]
# inputs:
# - ${dump}/${unlabelled_set}/content ?
# - ${dump}/${unlabelled_set}/wav.scp ?
# - ${dump}/${unlabelled_set}/feats.scp ?
# - ${pretrain_exp}/train_summary.json
# outputs:
# - ${pseudo_text}
# logs: ["${logdir}/07_targets_pseudo_${pretrain_tag}_${pseudo_labels}.*.log", "${pretrain_exp}/export.log"]
. "${template_dir}/utils/stage.sh"

run "${cpu_cmd}" "${pretrain_exp}/export.log" \
    python -m espnet_ext.bin.export_model --exp_dir "${pretrain_exp}" --nbest "${nbest}" --out_dir "${pretrain_exp}/export"
open_queue "${logdir}" "07_targets_pseudo_${pretrain_tag}_${pseudo_labels}"
queue python -m espnet_ext.bin.decode --model_dir "${pretrain_exp}/export" --data_dir "${dump}/${unlabelled_set}" \
    --config "$(config "conf/decode_${pseudo_labels}.yaml")" --out_dir "$(dirname "${pseudo_text}")" --ngpu "${ngpu}"
run_queue "${decode_cmd}" --gpu "${ngpu}"
