"""Copy dumped data to a node's own disk, then become a command that reads the copy: ``... -- COMMAND``.

Jobs that share a node share the copy. Where there is no room the command reads the original, and says so.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, main_guard
from espnet_ext.files import atomic_dir

#: Room that is left free on the node's disk.
SPARE = 2**30
#: Files that say where the audio or the features of an utterance (or recording) are.
LISTS = ("wav.scp", "feats.scp")


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Copy, then replace this process; returns only with an error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--" not in arguments or arguments[-1] == "--":
        raise UserError("expected --place FOLDER --data_dir FOLDER ... -- COMMAND")
    cut = arguments.index("--")
    parser = argparse.ArgumentParser(prog="stage_data", description=__doc__)
    parser.add_argument("--place", required=True, help="folder on the node's disk; $NAME is its environment")
    parser.add_argument("--data_dir", type=Path, action="append", required=True, help="dumped set to copy")
    args = parser.parse_args(arguments[:cut])
    place = Path(os.path.expandvars(args.place))
    command = arguments[cut + 1 :]
    if "$" in str(place):
        print(f"warning: {args.place} is not set on this node: the data are read where they are", flush=True)
    else:
        for folder in args.data_dir:
            copy = copy_of(folder, place)
            if copy:
                # Only as an option's value: the name may occur elsewhere with another meaning.
                command = [
                    str(copy) if word == str(folder) and command[i - 1].endswith("data_dir") else word
                    for i, word in enumerate(command)
                ]
    os.execvp(command[0], command)


def copy_of(folder: Path, place: Path) -> Path | None:
    """The copy of a set on the node's disk, made if it is not there; None where there is no room for it."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    state = hashlib.sha256(str(folder.resolve()).encode())
    for path in files:
        state.update(f"\n{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    target = place / f"{folder.name}.{state.hexdigest()[:16]}"
    if target.is_dir():
        return target
    try:
        place.mkdir(parents=True, exist_ok=True)
        with open(place / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one copies, the others of this node wait for it
            if target.is_dir():
                return target
            return _copy(folder, files, target)
    except OSError as error:
        print(f"warning: {place}: {error}; {folder} is read where it is", flush=True)
        return None


def _copy(folder: Path, files: list[Path], target: Path) -> Path | None:
    begin = time.monotonic()
    lists = {path.name: _entries(path) for path in files if path.name in LISTS}
    sources = {source for entries in lists.values() for _, source, _ in entries}
    size = sum(os.path.getsize(each) for each in sources) + sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(target.parent).free
    if size + SPARE > free:
        print(
            f"warning: {folder} takes {size / 1e9:.1f} GB and {target.parent} has {free / 1e9:.1f} GB: "
            "it is read where it is",
            flush=True,
        )
        return None
    with atomic_dir(target) as temporary:
        names = {}
        (temporary / "files").mkdir()
        for number, source in enumerate(sorted(sources)):
            names[source] = f"files/{number:07}{Path(source).suffix}"
            shutil.copyfile(source, temporary / names[source])
        for path in files:
            if path.name in lists:
                lines = (f"{key} {target / names[source]}{rest}\n" for key, source, rest in lists[path.name])
                (temporary / path.name).write_text("".join(lines), encoding="utf-8")
            else:
                shutil.copy2(path, temporary / path.name)
    print(f"{folder}: {size / 1e9:.2f} GB copied to {target} in {time.monotonic() - begin:.0f} s", flush=True)
    return target


def _entries(path: Path) -> list[tuple[str, str, str]]:
    """(id, file, `:offset` of an archive) of each line."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, source = line.partition(" ")
        source, rest = source.strip(), ""
        if path.name == "feats.scp":
            before, colon, offset = source.rpartition(":")
            if colon and offset.isdigit():
                source, rest = before, f":{offset}"
        found.append((key, source, rest))
    return found


if __name__ == "__main__":
    sys.exit(main())
