"""Archives of a server into a folder: continued where a transfer broke off, checked by MD5, then unpacked."""

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.progress import progress
from librispeech.archive import unpack
from librispeech.corpus import FOLDER
from librispeech.subsets import MD5

_BLOCK = 1 << 20  # bytes read at a time
_TIMEOUT = 60  # seconds without an answer
#: Attempts in a row that bring not one byte.
_ATTEMPTS = 3
_PAUSE = 2.0  # seconds between them


def fetch(subsets: list[str], folder: Path, url: str) -> Path:
    """Download and unpack the subsets that ``folder`` does not hold yet.

    Args:
        subsets: names, as ``train-clean-100``.
        folder: where archives and the corpus go.
        url: folder of ``<subset>.tar.gz`` on a server.

    Returns:
        The folder with the subsets.

    Raises:
        UserError: no network, a wrong checksum, a bad archive, or a full disk.
    """
    corpus = folder / FOLDER
    for subset in subsets:
        if (corpus / subset).is_dir():
            print(f"{corpus / subset} is there: not downloaded again", flush=True)
            continue
        archive = folder / f"{subset}.tar.gz"
        try:
            download(f"{url.rstrip('/')}/{subset}.tar.gz", archive, MD5[subset])
            unpack(archive, corpus, subset)
        except OSError as error:
            # An error while writing has no file name (a full disk, a quota); others name the file themselves.
            if error.filename is not None or error.strerror is None:
                raise
            raise UserError(
                f"{folder}: cannot be written: {error.strerror}; make room, or name another folder "
                "(--download_dir), and run it again, to go on from here"
            ) from None
        archive.unlink()
    return corpus


def download(url: str, target: Path, md5: str) -> None:
    """Download one file; what came so far is kept in ``<target>.part`` and continued by the next call.

    Raises:
        UserError: the server cannot be reached or breaks off, or the file has another checksum.
    """
    if target.exists():
        return  # it got its name after its checksum was found right
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    idle = 0
    complete = False
    while not complete:
        before = part.stat().st_size if part.exists() else 0
        try:
            complete = _continue(url, part)
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code < 500:  # the server knows the request and refuses it: no use in asking again
                raise UserError(_unreachable(url, part, f"{error.code} {error.reason}")) from None
            reason = f"{error.code} {error.reason}"
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        idle = 0 if complete or after > before else idle + 1
        if idle >= _ATTEMPTS:
            raise UserError(_unreachable(url, part, reason))
        if idle:
            time.sleep(_PAUSE)
    _check(part, md5, url)
    os.replace(part, target)


def _unreachable(url: str, part: Path, reason: str) -> str:
    kept = f"\n{part} holds what came so far; the same command goes on from there." if part.exists() else ""
    return (
        f"{url} cannot be downloaded: {reason}.{kept}\n"
        "Is there a network, and a proxy to be named in https_proxy? A mirror: "
        "--download_url https://us.openslr.org/resources/12\n"
        "Without a network: download the archives from https://www.openslr.org/12 elsewhere, unpack them "
        "into one folder (tar xzf), and run it again with --data_dir FOLDER"
    )


def _continue(url: str, part: Path) -> bool:
    """Append what is missing; whether the file is complete now."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return True  # nothing is missing; the checksum says whether it is right
        raise
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # this server does not continue: from the beginning
        length = answer.headers.get("Content-Length")
        missing = int(length) if length is not None else None
        if missing is not None:
            _check_space(part.parent, missing)
        if have:
            print(f"{part}: goes on after {have / 1e6:.0f} MB", flush=True)
        received = 0
        with open(part, "ab" if have else "wb") as handle:
            for block in _blocks(answer, missing, url):
                handle.write(block)
                received += len(block)
    return missing is None or received == missing


def _blocks(answer: http.client.HTTPResponse, missing: int | None, url: str) -> Iterator[bytes]:
    """Blocks of an answer with their progress, up to its end or a break."""

    def blocks() -> Iterator[bytes]:
        while block := _read(answer):
            yield block

    total = None if missing is None else -(-missing // _BLOCK)
    return progress(blocks(), total, f"download {url.rsplit('/', 1)[-1]}", "MiB")


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(_BLOCK)
    except OSError as error:  # so that a broken connection is not taken for a broken disk
        raise ConnectionError(str(error)) from None


def _check_space(folder: Path, missing: int) -> None:
    # The archive, and about as much again for what is in it: FLAC hardly shrinks.
    free = shutil.disk_usage(folder).free
    if 2 * missing > free:
        raise UserError(
            f"{folder}: the download takes {missing / 1e9:.1f} GB and as much again unpacked, "
            f"{free / 1e9:.1f} GB are free; make room or name another folder (--download_dir)"
        )


def _check(part: Path, md5: str, url: str) -> None:
    with open(part, "rb") as handle:
        found = hashlib.file_digest(handle, "md5").hexdigest()
    if found == md5:
        return
    part.unlink()
    raise UserError(
        f"{url}: the file that came has the MD5 sum {found}, LibriSpeech's has {md5}; it was removed, "
        "since it is damaged or something else. Run it again, or try a mirror (--download_url)"
    )
