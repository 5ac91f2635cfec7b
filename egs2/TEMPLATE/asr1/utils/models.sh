# shellcheck shell=bash
# Sourced first by stages 9 to 13: what is done with a trained model. The general part of each stage does it with what
# stage 8 trained, the part `start` with the starting model: once, whichever system comes first (--models).
. "${template_dir}/utils/stage.sh"

# models_of NAME...: the exported models of experiments, one a line; of mutual learning those of all peers.
models_of() {
    local name folder found
    for name; do
        found=
        while IFS= read -r folder; do
            found=yes
            printf '%s\n' "${folder}/export"
        done < <(peers_of "${expdir}/${name}")
        if [ -z "${found}" ] && [ "${dry_run}" = true ]; then found="${expdir}/${name}/peer*/export"; fi
        if [ "${found}" != yes ]; then printf '%s\n' "${found:-${expdir}/${name}/export}"; fi
    done
}

# peers_of FOLDER: the folders of the peers that a mutual training has trained, one a line.
peers_of() {
    if [ -d "$1" ]; then find "$1" -mindepth 1 -maxdepth 1 -type d -name 'peer[0-9]*' | sort -V; fi
}

# models_for FOLDER: the models whose results the folder gets, one a line: its own, or those of --ensemble together.
models_for() {
    if [ -n "${ensemble:-}" ] && [ "$1" = "${finetune_exp:-}" ]; then
        # shellcheck disable=SC2086 # a list of names
        models_of ${ensemble}
    else
        printf '%s\n' "$1/export"
    fi
}

# shellcheck disable=SC2034 # used by the stages
{
    # This experiment's folders: that of stage 8, and the peers of a mutual training.
    mapfile -t own < <(printf '%s\n' "${finetune_exp:-}" && peers_of "${finetune_exp:-}")
    # Where trained models decode together (--ensemble) there is none of its own.
    own_trained=()
    if [ -n "${train_exp:-}" ]; then own_trained=("${own[@]}"); fi
}

# sets_with_text: the development set and the test sets that are there; sets hold them, each once.
sets_with_text() {
    local set
    sets=()
    # shellcheck disable=SC2086 # a list of names; valid_set may be one of the test sets
    for set in $(unique "${valid_set}" ${test_sets}); do
        if has "${dump}/${set}/text"; then
            sets+=("${set}")
        else
            say "${dump}/${set} is not there, or has no text: left out"
        fi
    done
}

# export_models BACKEND FOLDER...
export_models() {
    local exp
    for exp in "${@:2}"; do
        run "$1" "${exp}/export.log" python -m espnet_ext.bin.export_model --exp_dir "${exp}" --nbest "${nbest}" \
            --out_dir "${exp}/export" --force "${force}"
    done
}

# decode_models BACKEND NAME FOLDER...: tune what has weights to choose, then decode all sets; logs are named after NAME.
decode_models() {
    local exp set name
    local -a models sets configs folders options=(--gpu "${ngpu}" --max_jobs_run "${inference_nj}")
    # Weights that a configuration lists under `tune:`: those with the fewest errors on the development set.
    open_queue "${logdir}" "10_tune_$2"
    for exp in "${@:3}"; do
        mapfile -t models < <(models_for "${exp}")
        # shellcheck disable=SC2086
        for name in $(unique ${decode_configs}); do
            if ! tuned "${name}"; then continue; fi
            queue python -m espnet_ext.bin.tune_decoding --model_dir "${models[@]}" --data_dir "${dump}/${valid_set}" \
                --config "$(config "conf/decode_${name}.yaml")" --out "${exp}/tuning/${name}.yaml" "${lm_args[@]}" --ngpu "${ngpu}"
        done
    done
    run_queue "$1" "${options[@]}"

    open_queue "${logdir}" "10_decode_$2"
    sets_with_text
    for exp in "${@:3}"; do
        mapfile -t models < <(models_for "${exp}")
        for set in "${sets[@]}"; do
            # A job a set: it starts once and loads the model once for all ways to decode.
            configs=()
            folders=()
            # shellcheck disable=SC2086
            for name in $(unique ${decode_configs}); do
                configs+=("$(decode_config "${name}" "${exp}")")
                folders+=("${exp}/decode_${name}/${set}")
            done
            queue python -m espnet_ext.bin.decode --model_dir "${models[@]}" --data_dir "${dump}/${set}" \
                --config "${configs[@]}" --out_dir "${folders[@]}" "${lm_args[@]}" --ngpu "${ngpu}"
        done
    done
    run_queue "$1" "${options[@]}"
}

# score_models BACKEND NAME FOLDER...: all that was decoded.
score_models() {
    local exp set name folder
    local -a sets tokens=()
    if [ "${token_type}" != char ]; then tokens=(--bpemodel "${bpemodel}"); fi
    open_queue "${logdir}" "11_score_$2"
    sets_with_text
    for exp in "${@:3}"; do
        # shellcheck disable=SC2086
        for name in $(unique ${decode_configs}); do
            for set in "${sets[@]}"; do
                folder=${exp}/decode_${name}/${set}
                queue python -m espnet_ext.bin.score --ref "${dump}/${set}/text" --hyp "${folder}/text" \
                    "${tokens[@]}" --out_dir "${folder}/score"
            done
        done
    done
    run_queue "$1"
}

# calibrate_models BACKEND NAME FOLDER...
calibrate_models() {
    local exp set
    local -a models sets folders=()
    open_queue "${logdir}" "11_calibration_$2"
    sets_with_text
    for set in "${sets[@]}"; do folders+=("${dump}/${set}"); done
    for exp in "${@:3}"; do
        mapfile -t models < <(models_for "${exp}")
        queue python -m espnet_ext.bin.calibration --model_dir "${models[@]}" --data_dir "${folders[@]}" \
            --out_dir "${exp}/calibration" --ngpu "${ngpu}"
    done
    run_queue "$1" --gpu "${ngpu}" --max_jobs_run "${inference_nj}"
}

# pack_models BACKEND FOLDER...
pack_models() {
    local exp
    for exp in "${@:2}"; do
        run "$1" "${exp}/pack.log" \
            python -m espnet_ext.bin.pack --model_dir "${exp}/export" --out "${exp}/export/$(basename "${exp}").zip"
    done
}
