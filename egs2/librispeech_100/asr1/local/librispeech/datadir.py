"""Data directories of LibriSpeech's subsets."""

from pathlib import Path

from espnet_ext.data.kaldi import write_speakers, write_table
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_dir
from librispeech.corpus import Utterance


def data_name(subset: str) -> str:
    """``train-clean-100`` to ``train_clean_100``, as Kaldi's and ESPnet's recipes call it."""
    return subset.replace("-", "_")


def union(sets: list[dict[str, Utterance]]) -> dict[str, Utterance]:
    """Several sets as one.

    Raises:
        UserError: an utterance is in two of them.
    """
    result: dict[str, Utterance] = {}
    for part in sets:
        if twice := sorted(result.keys() & part.keys()):
            raise UserError(f"{result[twice[0]].audio} and {part[twice[0]].audio} are the same utterance")
        result.update(part)
    return result


def write_set(target: Path, utterances: dict[str, Utterance], genders: dict[str, str]) -> None:
    """Write ``wav.scp text utt2spk spk2utt``, and ``spk2gender`` where SPEAKERS.TXT was read.

    A chapter counts as a speaker of its own, ``<reader>-<chapter>``, as in Kaldi's recipe: recordings
    differ from chapter to chapter.
    """
    speakers = {name: f"{each.reader}-{each.chapter}" for name, each in utterances.items()}
    with atomic_dir(target) as folder:
        write_table(folder / "wav.scp", {name: each.audio for name, each in utterances.items()})
        write_table(folder / "text", {name: each.transcript for name, each in utterances.items()})
        write_speakers(folder, speakers)
        if genders:
            known = {speakers[name]: genders.get(each.reader) for name, each in utterances.items()}
            write_table(folder / "spk2gender", {name: gender for name, gender in known.items() if gender})
