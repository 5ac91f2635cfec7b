#!/usr/bin/env bash
# does: all experiments side by side, in exp/report/RESULTS.md
# scope: recipe
# options: [expdir]
# inputs:
# - ${expdir}/*/decode_*/*/score/result.json
# - ${expdir}/*/peer*/decode_*/*/score/result.json
# - ${expdir}/*/calibration/*.json
# - ${expdir}/*/peer*/calibration/*.json
# outputs:
# - ${expdir}/report/RESULTS.md
. "${template_dir}/utils/stage.sh"

run python -m espnet_ext.bin.report --expdir "${expdir}" --out_dir "${expdir}/report"
