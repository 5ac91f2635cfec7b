#!/usr/bin/env bash
# Starts a recipe for a new corpus: egs2/TEMPLATE/asr1/setup.sh <corpus> makes egs2/<corpus>/asr1 with links to this
# template and files to fill in. Run it again to restore missing links; nothing that exists is changed.
set -euo pipefail

corpus=${1:-}
if [ $# -ne 1 ] || [[ ! ${corpus} =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]]; then
    echo "usage: $0 <corpus>     (letters, digits and _.-: the recipe goes to egs2/<corpus>/asr1)" >&2
    exit 1
fi
template=$(dirname "$(readlink -f "$0")")
recipe=$(dirname "$(dirname "${template}")")/${corpus}/asr1
mkdir -p "${recipe}"/{conf,local}
cd "${recipe}"

for name in asr.sh path.sh cmd.sh db.sh stages utils; do
    if [ ! -e "${name}" ]; then ln -s "../../TEMPLATE/asr1/${name}" "${name}"; fi
done

if [ ! -e run.sh ]; then
    cat >run.sh <<'END'
#!/usr/bin/env bash
# The recipe of this corpus. Everything after `./run.sh` goes to asr.sh: --list, --help, --status, --stage 3, ...
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

recipe_program=./run.sh exec ./asr.sh \
    --pretrain_set train \
    --train_set train \
    --valid_set dev \
    --test_sets "test" \
    "$@"
END
    chmod +x run.sh
fi

if [ ! -e local/data.sh ]; then
    cat >local/data.sh <<'END'
#!/usr/bin/env bash
# Writes data/<set>/{wav.scp,text,utt2spk} for every set that run.sh names; an unlabelled set has no text.
#   wav.scp   <utterance> <audio file>    absolute, or relative to this recipe's folder; spaces are allowed
#   text      <utterance> <transcript>
#   utt2spk   <utterance> <speaker>
# UTF-8, sorted by byte (`LC_ALL=C sort`), each utterance once. The arguments are those of --local_data_opts.
set -euo pipefail

echo "local/data.sh: write the data preparation of this corpus here" >&2
exit 1
END
    chmod +x local/data.sh
fi
echo "${recipe}: edit run.sh (the sets) and local/data.sh, then ./run.sh --list. Configurations that are not in conf/ are taken from ${template}/conf"
