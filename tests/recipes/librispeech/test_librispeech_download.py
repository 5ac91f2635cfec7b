"""Downloads from a server on this machine: continued, checked, unpacked without trust."""

import hashlib
import http.server
import io
import re
import tarfile
import threading

import pytest

SUBSET = "dev-clean"


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` (path to bytes); ``break_after`` bytes of an answer the connection ends."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = {}, []
        self.break_after, self.ranges, self.status = None, True, 200
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        content = server.files.get(self.path)
        if content is None or server.status != 200:
            return self.send_error(404 if content is None else server.status)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: server.break_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(local, server, monkeypatch, tmp_path):
    """Function: put an archive on the server (checksum ``md5``) and fetch it into tmp_path/downloads."""
    import librispeech.download as module

    monkeypatch.setattr(module, "_PAUSE", 0)

    def fetch(archive: bytes | None, md5: str = ""):
        if archive is not None:
            server.files[f"/12/{SUBSET}.tar.gz"] = archive
            monkeypatch.setitem(module.MD5, SUBSET, md5 or hashlib.md5(archive).hexdigest())
        return module.fetch([SUBSET], tmp_path / "downloads", server.url + "/12/")

    return fetch


def pack(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A .tar.gz of files (name, content) or of given members."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return memory.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


TRANSCRIPT = "LibriSpeech/dev-clean/1/2/1-2.trans.txt"
GOOD = (("LibriSpeech/SPEAKERS.TXT", b"; nobody\n"), (TRANSCRIPT, bytes(range(256)) * 99))


def names(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_fetch_once(fetch, server, tmp_path):
    corpus = fetch(pack(*GOOD))
    assert names(tmp_path / "downloads") == ["LibriSpeech/SPEAKERS.TXT", TRANSCRIPT]
    assert (corpus / "dev-clean/1/2/1-2.trans.txt").read_bytes() == GOOD[1][1]
    fetch(None)
    assert len(server.requests) == 1


def test_goes_on_where_the_connection_broke(fetch, server):
    archive = pack(*GOOD)
    server.break_after = len(archive) // 3
    assert (fetch(archive) / "dev-clean").is_dir()
    third = len(archive) // 3
    assert server.requests[:3] == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_goes_on_with_the_next_call(fetch, server, tmp_path):
    from espnet_ext.errors import UserError

    archive = pack(*GOOD)
    server.break_after = 0
    part = tmp_path / "downloads/dev-clean.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(archive[:100])
    with pytest.raises(UserError, match="broke off.\n.*dev-clean.tar.gz.part holds what came so far"):
        fetch(archive)
    assert part.read_bytes() == archive[:100]
    server.break_after, server.requests = None, []
    assert (fetch(archive) / "dev-clean").is_dir()
    assert server.requests == ["bytes=100-"]


def test_part_that_is_complete(fetch, server, tmp_path):
    archive = pack(*GOOD)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/dev-clean.tar.gz.part").write_bytes(archive)
    assert (fetch(archive) / "dev-clean").is_dir()


def test_server_that_does_not_continue(fetch, server, tmp_path):
    archive = pack(*GOOD)
    server.ranges = False
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/dev-clean.tar.gz.part").write_bytes(b"something")
    assert (fetch(archive) / "dev-clean").is_dir()


def test_wrong_checksum(fetch, tmp_path):
    from espnet_ext.errors import UserError

    with pytest.raises(UserError, match=r"MD5 sum \w{32}, LibriSpeech's has 0000.*removed"):
        fetch(pack(*GOOD), md5="0" * 32)
    assert names(tmp_path / "downloads") == []


@pytest.mark.parametrize("status, requests", [(404, 1), (503, 3)])
def test_server_refuses(fetch, server, status, requests):
    from espnet_ext.errors import UserError

    server.status = status
    with pytest.raises(UserError, match=rf"{status} .*\n.*proxy.*\n.*--data_dir FOLDER"):
        fetch(pack(*GOOD))
    assert len(server.requests) == requests


def test_no_network(fetch, server):
    from espnet_ext.errors import UserError

    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"(?s)cannot be downloaded: .*refused.*--data_dir FOLDER"):
        fetch(pack(*GOOD))


@pytest.mark.parametrize(
    "member",
    [
        ("LibriSpeech/../../evil", b"x"),
        ("/tmp/evil", b"x"),
        ("evil", b"x"),
        special("LibriSpeech/dev-clean/link", tarfile.SYMTYPE, "/etc"),
        special("LibriSpeech/dev-clean/hard", tarfile.LNKTYPE, "LibriSpeech/SPEAKERS.TXT"),
        special("LibriSpeech/dev-clean/fifo", tarfile.FIFOTYPE),
    ],
    ids=lambda member: member[0] if isinstance(member, tuple) else member.name,
)
def test_archives_that_write_elsewhere(fetch, tmp_path, member):
    from espnet_ext.errors import UserError

    with pytest.raises(UserError, match="is no file or folder below LibriSpeech/; nothing of"):
        fetch(pack(*GOOD, member))
    assert names(tmp_path) == ["downloads/dev-clean.tar.gz"]


@pytest.mark.parametrize("content", [b"not an archive", pack(*GOOD)[:-40]])
def test_damaged_archives(fetch, tmp_path, content):
    from espnet_ext.errors import UserError

    with pytest.raises(UserError, match="not a complete .tar.gz file"):
        fetch(content)
    assert names(tmp_path) == ["downloads/dev-clean.tar.gz"]


def test_archive_of_something_else(fetch):
    from espnet_ext.errors import UserError

    with pytest.raises(UserError, match="holds no folder LibriSpeech/dev-clean"):
        fetch(pack(("LibriSpeech/dev-other/1/2/x", b"")))


def test_disk_is_too_small(fetch, monkeypatch):
    import shutil

    from espnet_ext.errors import UserError

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(UserError, match="GB are free; make room"):
        fetch(pack(*GOOD))
