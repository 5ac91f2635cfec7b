"""Try out, where trainings will run, what they need: disk, versions, GPUs, processes that find each other.

Half a minute in a job, before hours are queued (`run.sh --submit` and `--preflight only` start it).
"""

import argparse
import os
import socket
import sys
import time
from importlib import metadata
from pathlib import Path

from espnet_ext.errors import UserError, main_guard


@main_guard
def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if everything is there."""
    parser = argparse.ArgumentParser(prog="preflight", description=__doc__)
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs of a training")
    parser.add_argument("--folder", type=Path, required=True, help="folder with a file `seen`")
    parser.add_argument("--seen", required=True, help="what that file holds")
    parser.add_argument("--write", type=Path, nargs="*", default=[], help="folders that stages write to")
    parser.add_argument("--versions", nargs="*", default=[], help="NAME=VERSION that the caller has")
    args = parser.parse_args(arguments)
    begin = time.monotonic()
    _disk(args.folder, args.seen, args.write)
    _versions(dict(word.split("=", 1) for word in args.versions))
    _processes(args.ngpu)
    print(f"preflight: all is well, {time.monotonic() - begin:.1f} s", flush=True)
    return 0


def _disk(folder: Path, seen: str, write: list[Path]) -> None:
    host = socket.gethostname()
    try:
        found = (folder / "seen").read_text()
    except OSError as error:
        raise UserError(
            f"{host} does not see {folder.absolute()} ({error.strerror}): a recipe must be on a disk that "
            "the login node and the compute nodes share"
        ) from None
    if found != seen:
        raise UserError(
            f"{host} sees another {folder.absolute()} than the one that was written at submission"
        )
    for place in write:
        probe = place / f".preflight.{host}.{os.getpid()}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            probe.write_text("x")
            probe.unlink()
        except OSError as error:
            raise UserError(f"{place.absolute()} cannot be written on {host}: {error.strerror}") from None
    print(f"preflight: {host} reads and writes {', '.join(map(str, write)) or folder}", flush=True)


def _versions(wanted: dict[str, str]) -> None:
    here = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in wanted:
        if name != "python":
            try:
                here[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                here[name] = "not installed"
    if wrong := [
        f"{name} {here[name]} (not {wanted[name]})" for name in wanted if here[name] != wanted[name]
    ]:
        raise UserError(
            f"{socket.gethostname()} runs another environment than the one that submitted, {sys.executable}: "
            f"{', '.join(wrong)}. Activate the same one in path.sh"
        )
    print(f"preflight: the same versions, {sys.executable}", flush=True)


def _processes(ngpu: int) -> None:
    """Every process computes on its device and adds up with the others."""
    import torch

    from espnet_ext.train.world import join, leave

    world = join(ngpu, timeout_minutes=2.0)
    value = torch.ones(64, 64, device=world.device) @ torch.ones(64, 64, device=world.device)
    total = float(world.sum(value)[0, 0])
    if total != 64.0 * world.size:
        raise UserError(f"{world.size} processes added up to {total}, not to {64.0 * world.size}")
    name = torch.cuda.get_device_name(world.device) if ngpu else "processor"
    host = socket.gethostname()
    print(f"preflight: process {world.rank} of {world.size} on {host}, {world.device} ({name})", flush=True)
    world.wait()
    leave()


if __name__ == "__main__":
    sys.exit(main())
