#!/usr/bin/env bash
# does: all experiments side by side, in exp/report (index.html, RESULTS.md, results.json, results.csv)
# scope: recipe
# options: [expdir, valid_set]
# inputs:
# - ${expdir}/*/decode_*/*/score/result.json
# - ${expdir}/*/peer*/decode_*/*/score/result.json
# - ${expdir}/*/calibration/*.json
# - ${expdir}/*/peer*/calibration/*.json
# outputs:
# - ${expdir}/report/RESULTS.md
# - ${expdir}/report/index.html
. "${template_dir}/utils/stage.sh"

run python -m espnet_ext.bin.report --expdir "${expdir}" --out_dir "${expdir}/report" --dev_sets "${valid_set}"
