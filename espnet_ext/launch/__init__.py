"""Back ends that run ``[options] [JOB=1:N] LOG COMMAND ARGUMENT...``, Kaldi's contract for parallel work.

`request` parses such a command line, `local` runs it on this machine, `joblog` writes and reads the logs.
Nothing here imports torch or ESPnet.
"""
