"""The whole corpus on disk: noises, rooms, data directories, and the file that says what it was made from."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from espnet_ext.data.audio import to_int16
from espnet_ext.data.kaldi import write_table
from espnet_ext.data.pool import ordered_map
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write_text
from synth.datadir import WAV_SECOND, audio_hours, partial_dir, write_set, write_wav
from synth.noises import Noise, make_noise
from synth.plan import Plan
from synth.rooms import Room, impulse_response

MARKER = "corpus.json"
REGISTERS = ("voices", "noises", "rooms")
#: Seconds of an utterance, for the guess how much room on the disk is needed.
TYPICAL_SECONDS = 3.0


def write_corpus(
    plan: Plan, out_dir: Path, nj: int, versions: dict[str, str], overwrite: bool = False
) -> dict:
    """Write everything of ``plan`` under ``out_dir`` with ``nj`` processes; what is there already is kept.

    Layout: a data directory a set, ``noise/`` and ``room/`` with the audio that was mixed in, ``noise.scp``
    with the noises that training may mix in, all parameters in ``voices.json``, ``noises.json`` and
    ``rooms.json``; seed, scale, versions and sizes in ``corpus.json``.

    Args:
        plan: what to make.
        out_dir: where; a corpus made from something else is replaced.
        nj: number of processes; the result does not depend on it.
        versions: of the tools the audio depends on.
        overwrite: make it again even if it is there.

    Returns:
        The content of ``corpus.json``.

    Raises:
        UserError: ``out_dir`` holds files of somebody else, or the disk is full.
    """
    about = {"seed": plan.seed, "scale": plan.scale, **versions, "digest": digest(plan, versions)}
    try:
        return _write(plan, out_dir, nj, about, overwrite)
    except OSError as error:
        # An error while writing has no file name (a full disk, a quota); others name the file themselves.
        if error.filename is not None or error.strerror is None:
            raise
        raise UserError(
            f"{out_dir}: cannot be written: {error.strerror}; make room and run it again, to go on from here"
        ) from None


def _write(plan: Plan, out_dir: Path, nj: int, about: dict, overwrite: bool) -> dict:
    marker = out_dir / MARKER
    _clear(plan, out_dir, "" if overwrite else about["digest"])
    if marker.exists() and (found := json.loads(marker.read_text(encoding="utf-8"))).get("sets"):
        return found
    out_dir.mkdir(parents=True, exist_ok=True)
    _check_space(plan, out_dir)
    atomic_write_text(marker, _json(about))
    for kind in REGISTERS:
        rows = {thing.name: asdict(thing) for thing in _flat(getattr(plan, kind))}
        (out_dir / f"{kind}.json").write_text(_json(rows), encoding="utf-8")
    _write_sounds(out_dir, "noise", partial(_noise, plan), _flat(plan.noises), nj)
    _write_sounds(out_dir, "room", partial(_room, plan.seed), _flat(plan.rooms), nj)
    # For augmentation during training (ESPnet's --noise_scp): the noises of the training split alone.
    train = {noise.name: str(out_dir / "noise" / f"{noise.name}.wav") for noise in plan.noises["train"]}
    write_table(out_dir / "noise.scp", train)
    sets = {}
    for name, utterances in plan.sets.items():
        write_set(out_dir, name, utterances, plan.config["sets"][name].get("labelled", True), plan.seed, nj)
        voices = len({utterance.voice.name for utterance in utterances})
        sets[name] = {
            "utterances": len(utterances),
            "voices": voices,
            "hours": round(audio_hours(out_dir / name), 4),
        }
    for name, sentences in plan.text_only.items():
        rows = {f"{name}-{i:07d}": sentence for i, sentence in enumerate(sentences)}
        with _whole(out_dir, name) as folder:
            write_table(folder / "text", rows)
        sets[name] = {"sentences": len(sentences)}
    atomic_write_text(marker, _json({**about, "sets": sets}))
    return {**about, "sets": sets}


def digest(plan: Plan, versions: dict[str, str]) -> str:
    """A checksum of everything that decides on the corpus: plan, versions, and this program."""
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    everything = repr((plan, sorted(versions.items()), code))
    return hashlib.sha256(everything.encode()).hexdigest()[:16]


def _flat(groups: dict[str, list]) -> list:
    return [thing for group in groups.values() for thing in group]


def _json(content: dict) -> str:
    return json.dumps(content, indent=1) + "\n"


def _clear(plan: Plan, out_dir: Path, wanted: str) -> None:
    """Remove a corpus that is not the wanted one, finished or not; refuse to touch what is not a corpus."""
    names = ["noise", "room", *plan.sets, *plan.text_only]
    present = [out_dir / name for name in names if (out_dir / name).exists()]
    marker = out_dir / MARKER
    if not marker.exists():
        if present:
            raise UserError(
                f"{present[0]} exists and was not written by this command ({marker} is not there); "
                "remove it or choose another folder"
            )
        return
    if json.loads(marker.read_text(encoding="utf-8")).get("digest") == wanted:
        return
    print(
        f"{out_dir}: what is here was made with other settings or is to be made again: replaced", flush=True
    )
    marker.unlink()
    for folder in [*present, *out_dir.glob(".*.partial")]:
        shutil.rmtree(folder)


def _check_space(plan: Plan, out_dir: Path) -> None:
    needed = sum(map(len, plan.sets.values())) * TYPICAL_SECONDS * WAV_SECOND
    written = sum(path.stat().st_size for path in out_dir.glob("**/*.wav"))
    free = shutil.disk_usage(out_dir).free
    if needed - written > free:
        raise UserError(
            f"{out_dir}: a corpus of scale {plan.scale:g} takes about {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; make room, choose a smaller scale or another folder"
        )


@contextlib.contextmanager
def _whole(out_dir: Path, name: str) -> Iterator[Path]:
    """Yield a folder that becomes ``out_dir/name`` when the block ends well."""
    folder = partial_dir(out_dir, name)
    folder.mkdir(exist_ok=True)
    yield folder
    if (out_dir / name).exists():
        shutil.rmtree(out_dir / name)
    os.replace(folder, out_dir / name)


def _write_sounds(out_dir: Path, name: str, make: Callable, things: list, nj: int) -> None:
    """One WAV file a noise or room, named after it; its level is of no importance."""
    if (out_dir / name).exists():
        return
    with _whole(out_dir, name) as folder:
        made = ordered_map(make, things, nj, name, "file")
        for thing, samples in zip(things, made, strict=True):
            write_wav(folder / f"{thing.name}.wav", to_int16(0.9 * samples / np.abs(samples).max()))


def _noise(plan: Plan, noise: Noise):
    return make_noise(
        noise,
        plan.seed,
        plan.config["noise_seconds"],
        plan.voices[f"{noise.split}_babble"],
        plan.babble[noise.split],
    )


def _room(seed: int, room: Room):
    return impulse_response(room, seed)
