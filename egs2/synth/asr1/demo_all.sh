#!/usr/bin/env bash
# All five methods beside their main controls, on one seed, then the report (`make demo-all`). What is done is skipped,
# so that after an interruption the same command goes on. Arguments are asr.sh's: --scale 0.02 for a small corpus.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

# A control stands before its method; those of a method that has several: the one of equal compute.
systems=(
    none gan
    lm_transfer
    mutual_learning_longer mutual_learning
    bilevel_pretrain_finetune bilevel
    distillation_scratch_longer distillation
)

failed=()
for system in "${systems[@]}"; do
    printf 'demo-all: %s\n' "${system}"
    # One starting model for all: distillation's supervised teacher is that of the others here. Its own, a transducer,
    # would take an hour to train, and is needed for one-best-path distillation alone.
    own=()
    case ${system} in
        distillation*) own=(--pretrain_config conf/pretrain.yaml --models own --decode_configs "transducer ctc") ;;
    esac
    status=0
    ./run.sh --system "${system}" --seed 1 "${own[@]}" --stop_stage score "$@" || status=$?
    case ${status} in
        0) ;;
        75 | 130 | 143) exit "${status}" ;; # interrupted: the same command goes on
        *) failed+=("${system}") ;;         # the others still tell something
    esac
done
./run.sh --stage report --stop_stage report --force "$@"
if [ ${#failed[@]} != 0 ]; then
    printf 'demo-all: failed: %s; their messages stand above, run it again to go on with them\n' "${failed[*]}" >&2
    exit 1
fi
