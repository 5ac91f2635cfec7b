# shellcheck shell=bash
# shellcheck disable=SC2034  # used by the stages
# Picks the back end of --cmd_backend: which program runs `[options] [JOB=1:N] LOG COMMAND ARGUMENT...`.
#
# Sourced by every stage (through utils/stage.sh) with all options set. Each variable holds the path of one program.
# Kaldi's run.pl, queue.pl or slurm.pl fit as they are: copy this file into your recipe's folder in place of the link
# and add a case, as
#     kaldi) train_cmd=/opt/kaldi/egs/wsj/s5/utils/parallel/slurm.pl cpu_cmd=${train_cmd} decode_cmd=${train_cmd} ;;
# (docs/slurm.md says what they do not do. A program that ends in .pl gets a command's words in a file, because it
# hands its arguments to a shell.)

case ${cmd_backend} in
    local)
        train_cmd=${utils_dir}/run_local  # training: stages 6 and 8
        cpu_cmd=${utils_dir}/run_local    # data preparation, features, tokens, statistics
        decode_cmd=${utils_dir}/run_local # decoding
        ;;
    slurm) # docs/slurm.md; conf/slurm.yaml or conf/slurm.conf says what is asked of the cluster
        train_cmd=${utils_dir}/run_slurm_train
        cpu_cmd=${utils_dir}/run_slurm
        decode_cmd=${utils_dir}/run_slurm_decode
        ;;
    *)
        echo "error: --cmd_backend ${cmd_backend}: cmd.sh knows local and slurm; add a case for it there" >&2
        exit 1
        ;;
esac
