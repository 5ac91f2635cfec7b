#!/usr/bin/env bash
# does: teachers of a hub, downloaded to its cache where the internet is
# when: {fetches: ["true"]}
# login: true
# scope: cache_${method}_${tag}
# options: [fetched]
# uncounted: [method, tag, datadir, dumpdir, expdir]
. "${template_dir}/utils/stage.sh"

# Not through a back end: nodes have no internet. Jobs read the hub's cache (HF_HOME: on a disk that they share).
# shellcheck disable=SC2086 # a list of NAME=PLACE
run python -m espnet_ext.bin.fetch_teachers --own "${datadir}" "${dumpdir}" "${expdir}" -- ${fetched}
