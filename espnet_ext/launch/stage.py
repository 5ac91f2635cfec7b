"""Data on a node's own disk: a training that reads it from there instead of from the network."""

from dataclasses import replace

from espnet_ext.launch.request import Request

#: Options of a training whose value is a dumped data directory.
DATA = ("--train_data_dir", "--valid_data_dir", "--unlabelled_data_dir")


def staged(request: Request, place: str) -> Request:
    """The request with a command that copies its data to ``place`` on the node first.

    Args:
        request: a training.
        place: a folder of the node; ``$NAME`` and ``${NAME}`` are the node's environment (``${TMPDIR}``).
    """
    words = request.command
    folders = [words[i + 1] for i, word in enumerate(words[:-1]) if word in DATA]
    if not folders:
        return request
    before = ["python", "-m", "espnet_ext.bin.stage_data", "--place", place]
    for folder in dict.fromkeys(folders):
        before += ["--data_dir", folder]
    return replace(request, command=(*before, "--", *words))
