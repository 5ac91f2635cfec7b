"""A stage replaces its output directory as a whole; this makes sure that it is one of its own."""

from pathlib import Path

from espnet_ext.errors import UserError


def check_out_dir(out_dir: Path, marker: str, *inputs: Path) -> None:
    """Refuse to replace a directory that this stage did not write, or that it reads from.

    Args:
        out_dir: the directory to be replaced.
        marker: a file that every directory written by the stage holds.
        inputs: directories that the stage reads.

    Raises:
        UserError: ``out_dir`` holds something else.
    """
    for source in inputs:
        if out_dir.resolve() in (source.resolve(), *source.resolve().parents):
            raise UserError(f"--out_dir {out_dir} would replace the input {source}; name another directory")
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise UserError(f"--out_dir {out_dir} is a file; name a directory")
    if any(out_dir.iterdir()) and not (out_dir / marker).exists():
        raise UserError(
            f"--out_dir {out_dir} exists and was not written by this command (it holds no {marker!r}); "
            "remove it or name another directory"
        )
