"""Unpacking an archive that nobody has to trust: it writes inside its own folder, or it is refused."""

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_dir
from espnet_ext.progress import progress
from librispeech.corpus import FOLDER


def unpack(archive: Path, corpus: Path, subset: str) -> None:
    """Unpack ``LibriSpeech/<subset>/`` and what lies beside it (SPEAKERS.TXT, ...) into ``corpus``.

    The subset's folder appears when all of it is there; files that ``corpus`` has already are kept.

    Raises:
        UserError: the archive is damaged, lacks the subset, or holds a member that is neither a file nor a
            folder below ``LibriSpeech/``.
    """
    try:
        with atomic_dir(corpus / f".{subset}.unpacked") as folder:
            with tarfile.open(archive, "r:gz") as members:
                for member in progress(members, desc=f"unpack {archive.name}", unit="file"):
                    _extract(members, member, folder, archive)
            if not (folder / subset).is_dir():
                raise UserError(f"{archive}: holds no folder {FOLDER}/{subset}")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"{archive}: not a complete .tar.gz file ({error}); remove it and run again"
        ) from None
    unpacked = corpus / f".{subset}.unpacked"
    for path in sorted(unpacked.iterdir(), key=lambda path: path.name == subset):  # the subset last
        if not (corpus / path.name).exists():
            path.rename(corpus / path.name)
    shutil.rmtree(unpacked)


def _extract(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, archive: Path) -> None:
    parts = [part for part in PurePosixPath(member.name).parts if part != "."]
    if not parts or parts[0] != FOLDER or ".." in parts or not (member.isfile() or member.isdir()):
        raise UserError(
            f"{archive}: its member {member.name!r} is no file or folder below {FOLDER}/; nothing of the "
            "archive was kept"
        )
    target = folder.joinpath(*parts[1:])
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with members.extractfile(member) as source, open(target, "xb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
