"""What is in every set, decided before anything is synthesised: who says what, in which room and noise."""

from dataclasses import dataclass

from synth.grammar import Grammar
from synth.noises import Noise, deal_noises
from synth.rooms import Room, draw_room
from synth.sentences import candidates, pick
from synth.streams import stream
from synth.voices import Voice, deal_voices, scaled


@dataclass(frozen=True)
class Utterance:
    """One utterance: ``silence`` is before and after it (s), ``peak`` in dB below full scale.

    ``noise`` (from second ``noise_start`` on), ``snr`` (dB) and ``room`` are None in a clean one.
    """

    key: str
    text: str
    voice: Voice
    silence: tuple[float, float]
    peak: float
    noise: Noise | None = None
    noise_start: float = 0.0
    snr: float | None = None
    room: Room | None = None


@dataclass(frozen=True)
class Plan:
    """Everything of a corpus but the audio. ``voices``, ``noises`` and ``rooms`` are by split."""

    config: dict
    seed: int
    scale: float
    voices: dict[str, list[Voice]]
    noises: dict[str, list[Noise]]
    rooms: dict[str, list[Room]]
    sets: dict[str, list[Utterance]]
    text_only: dict[str, list[str]]
    babble: dict[str, list[str]]


def make_plan(config: dict, grammar: Grammar, seed: int, scale: float) -> Plan:
    """Decide on everything; the same arguments always give the same plan."""
    voices = deal_voices(config, seed, scale)
    noises, rooms = {}, {}
    for split, sizes in config["splits"].items():
        count = {thing: scaled(sizes[thing], min(scale, 1.0), least=2) for thing in ("noises", "rooms")}
        noises[split] = deal_noises(split, count["noises"])
        rooms[split] = [
            draw_room(f"{split}-room{i:02d}", split, seed, config["rt60"]) for i in range(count["rooms"])
        ]
    sets, text_only = {}, {}
    held_out: dict[str, set[str]] = {split: set() for split in config["splits"]}
    for name, spec in config["sets"].items():
        count = scaled(spec.get("utterances", spec.get("sentences")), scale, least=4)
        said = sentences_of(config, grammar, seed, name, count, held_out[spec["split"]])
        if "sentences" in spec:
            text_only[name] = said
        else:
            split = spec["split"]
            sets[name] = [
                _utterance(config, seed, name, i, text, voices[split], noises[split], rooms[split])
                for i, text in enumerate(said)
            ]
    babble = {
        split: sentences_of(config, grammar, seed, f"babble_{split}", 100, set(), split="train")
        for split in config["splits"]
    }
    return Plan(config, seed, scale, voices, noises, rooms, sets, text_only, babble)


def sentences_of(
    config: dict,
    grammar: Grammar,
    seed: int,
    name: str,
    count: int,
    taken: set[str],
    split: str | None = None,
) -> list[str]:
    """``count`` sentences of the set ``name``; of dev and test none of ``taken``, to which they are added."""
    spec = config["sets"].get(name, {})
    split = split or spec["split"]
    shares = {key: value["sentences"] for key, value in config["splits"].items()}
    source = candidates(grammar, split, shares, tuple(config["words"]), stream(seed, name, "sentences"))
    # training text may repeat itself, as people do; test sentences are all different
    return pick(source, count, spec.get("coverage", 1), taken if split != "train" else set())


def _utterance(config, seed, name, index, text, voices, noises, rooms) -> Utterance:
    rng = stream(seed, name, index)
    # voices by turns, so that the smallest set holds as many as it can
    voice = voices[index % len(voices)]
    key = f"{voice.name}-{name}-{index:06d}"
    silence = tuple(rng.uniform(*config["silence"]) for _ in range(2))
    peak = rng.uniform(*config["peak"])
    condition = config["sets"][name]["condition"]
    # of a mixed set every fourth utterance is noisy, and every voice speaks in both conditions
    if condition == "clean" or (condition == "mixed" and (index // len(voices) + index) % 4 != 3):
        return Utterance(key, text, voice, silence, peak)
    noise, room = rng.choice(noises), rng.choice(rooms)
    start = rng.uniform(0, config["noise_seconds"])
    return Utterance(key, text, voice, silence, peak, noise, start, rng.uniform(*config["snr"]), room)
