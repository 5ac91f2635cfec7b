"""What is wrong with a data directory is said with file and line."""

import subprocess

import pytest

from espnet_ext.bin import validate_data
from espnet_ext.data.kaldi import DataDir, read_table
from espnet_ext.errors import UserError

HOSTILE = [
    "$(touch${IFS}x)",
    "'quoted'",
    '"double"',
    "../../up",
    "/abs",
    ";ls",
    "`id`",
    "-n",
    "a|b",
    "Ünï-日本",
    "A",
    "a",
]


def test_good_directory(corpus):
    data = DataDir(corpus.write())
    assert list(data) == corpus.names
    assert data.text.rows["utt-000"] == "one two three"
    assert data.where_audio("utt-002") == f"{corpus.path}/wav.scp:3"


def test_unlabelled_and_hostile_ids(corpus):
    for number, name in enumerate(HOSTILE):
        corpus.wav[name] = corpus.wav["utt-000"]
        corpus.utt2spk[name] = HOSTILE[-number]
    corpus.text = {}
    data = DataDir(corpus.write())
    assert data.text is None and set(HOSTILE) < set(data)
    with pytest.raises(UserError, match="text: no such file"):
        DataDir(corpus.path, need_text=True)


# What is done to which file, and what the message must hold: file and line, and what was expected.
BAD = {
    "empty file": ("text", lambda s: "", r"text: the file is empty"),
    "missing file": ("utt2spk", None, r"utt2spk: no such file"),
    "cut in a line": ("text", lambda s: s[:-7], r"text:6: the last line does not end with a newline"),
    "id only": ("wav", lambda s: s + "utt-zzz\n", r"wav\.scp:7: id 'utt-zzz' has no path"),
    "duplicate": (
        "wav",
        lambda s: s + s.splitlines()[1] + "\n",
        r"wav\.scp:7: id 'utt-001' .* already in .*:2",
    ),
    "unsorted": ("text", lambda s: "\n".join(s.splitlines()[::-1]) + "\n", r"text:2: 'utt-004' stands after"),
    "blank line": ("text", lambda s: s.replace("\n", "\n\n", 1), r"text:2: the line is blank"),
    "leading space": ("text", lambda s: " " + s, r"text:1: the line begins with a space"),
    "byte order mark": (
        "text",
        lambda s: "\ufeff" + s,
        r"text:1: .* byte order mark.* `sed",
    ),
    "no-break space": ("text", lambda s: s.replace("utt-001", "utt\u00a0001"), r"text:2: id .* white space"),
    "control character": (
        "text",
        lambda s: s.replace("five", "fi\x07ve", 1),
        r"text:2: .* control character",
    ),
    "text without audio": (
        "text",
        lambda s: s + "utt-9 nine\nutt-91 x\n",
        r"text:7: 2 of 8 ids .* 'utt-9' \(line 7\)",
    ),
    "audio without text": (
        "text",
        lambda s: s.split("\n", 1)[1],
        r"wav\.scp:1: 1 of 6 ids .*text: 'utt-000'",
    ),
    "two speakers": (
        "utt2spk",
        lambda s: s.replace("speaker0", "speaker 0", 1),
        r"utt2spk:1: .* cannot contain sp",
    ),
    "command": ("wav", lambda s: s.replace("2 tone.wav", "2 tone.wav |"), r"wav\.scp:3: .* command"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_directory(corpus, fails, case):
    name, change, message = BAD[case]
    path = corpus.write() and corpus.file(name)
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        DataDir(corpus.path)
    assert str(path.name if case != "audio without text" else "wav.scp") in fails(
        validate_data.main, corpus.path
    )


def test_not_utf8(corpus):
    corpus.write()
    path = corpus.file("text")
    path.write_bytes(path.read_bytes().replace(b"green", b"gr\xfcn"))
    with pytest.raises(UserError, match=r"text:4: not UTF-8 .*0xfc"):
        DataDir(corpus.path)


def test_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"a one two\r\nb three\r\n")
    assert read_table(path).rows == {"a": "one two", "b": "three"}


def test_the_advice_about_a_byte_order_mark_works(tmp_path):
    path = tmp_path / "it's text"
    path.write_bytes(b"\xef\xbb\xbfa one\nb two\n")
    with pytest.raises(UserError, match="byte order mark") as caught:
        read_table(path)
    subprocess.run(str(caught.value).split("`")[1], shell=True, check=True)
    assert read_table(path).rows == {"a": "one", "b": "two"}


def test_missing_audio(corpus, fails):
    corpus.write()
    corpus.wav["utt-004"].unlink()
    message = fails(validate_data.main, corpus.path)
    assert (
        "wav.scp:5: audio file " in message and "does not exist" in message and "1 of 6 recordings" in message
    )
    assert validate_data.main([str(corpus.path), "--no_audio"]) == 0


def test_id_with_a_space(corpus, fails):
    corpus.add("utt 9", corpus.tone(0.3))
    corpus.write()
    corpus.file("utt2spk").write_text(
        corpus.file("utt2spk").read_text().replace("utt 9 speaker0", "utt speaker0")
    )
    corpus.file("text").unlink()
    message = fails(validate_data.main, corpus.path)
    assert "wav.scp:1: audio file '9 /" in message and "ids cannot contain spaces" in message


@pytest.mark.parametrize(
    "segment, message",
    [
        ("rec 0.5", "expected '<utterance> <recording> <start> <end>'"),
        ("rec 0.5 0.4", "start < end"),
        ("rec nan 0.4", "start < end"),
        ("rec 0.1 inf", "start < end"),
        ("rec 0 0.4 extra", "found 'rec 0 0.4 extra'"),
        ("other 0 0.4", "recording 'other' of 'a' is not in"),
    ],
)
def test_bad_segments(corpus, segment, message):
    corpus.wav = {"rec": corpus.wav["utt-000"]}
    corpus.text, corpus.utt2spk, corpus.segments = {}, {"a": "s"}, {"a": segment}
    with pytest.raises(UserError, match=f"segments:1: .*{message}"):
        DataDir(corpus.write())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.replace("utt-004", "utt-005"), "spk2utt:1: the utterances of speaker 'speaker0' differ"),
        (lambda s: s.splitlines()[0] + "\n", "speaker 'speaker1' of .*utt2spk:2 is missing"),
        (lambda s: s + "stranger utt-9\n", "spk2utt:3: .* 'stranger' differ"),
    ],
)
def test_speakers_disagree(corpus, change, message):
    path = corpus.write() / "spk2utt"
    good = "speaker0 utt-000 utt-002 utt-004\nspeaker1 utt-005 utt-001 utt-003\n"
    path.write_text(good)
    DataDir(corpus.path)
    path.write_text(change(good))
    with pytest.raises(UserError, match=message):
        DataDir(corpus.path)


def test_large_table_is_fast(tmp_path):
    import time

    path = tmp_path / "text"
    path.write_text("".join(f"utt-{number:07d} some words here\n" for number in range(200_000)))
    start = time.process_time()
    assert len(read_table(path).rows) == 200_000
    assert time.process_time() - start < 5


def test_stamp_changes_with_an_audio_file_of_the_same_name(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "a.wav").write_bytes(b"one")
    for name, line in (
        ("wav.scp", f"a {tmp_path / 'a.wav'}"),
        ("utt2spk", "a a"),
        ("spk2utt", "a a"),
        ("text", "a b"),
    ):
        (tmp_path / "set" / name).write_text(line + "\n")
    before = DataDir(tmp_path / "set").audio_stamp()
    assert DataDir(tmp_path / "set").audio_stamp() == before
    (tmp_path / "a.wav").write_bytes(b"other")
    assert DataDir(tmp_path / "set").audio_stamp() != before
