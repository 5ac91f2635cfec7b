# shellcheck shell=bash
# Where corpora are on this machine, for local/data.sh: one variable a corpus. Sourced by every stage; set your own
# here, in a copy of this file in your recipe's folder, or in the environment (which wins).

export LIBRISPEECH=${LIBRISPEECH:-} # a folder that holds LibriSpeech/; empty: --data_dir says it, or it is downloaded
