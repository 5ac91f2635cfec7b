"""Systems: the named runs of a method and of its controls, as each room's ``controls.yaml`` lists them.

A file has two mappings, ``systems`` (the method's own runs) and ``controls`` (what they are compared with),
from a name to::

    what: one line for people
    options: run.sh's options, without seed and tag; method is the room's, unless given
    matched: of a control, what is equal to within 1 % in the runs it is compared with (`MATCHES`)
    of: of a control, the systems it is compared with (all of the file's, unless given)
    needs: systems that must be trained before, with the same seed
    assumes: values of the training's YAML that the numbers in finetune_args were chosen for; with another
        YAML the run is refused, unless --finetune_args says them anew
    decoding: of a control, its own way to decode, where that is what differs

The experiment of system ``gan_no_critic`` with seed 2 is ``exp/gan_no_critic_seed2``: a name begins with the
method that trains it (``none`` for plain training), and the same control of two methods is one experiment.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.recipe.options import did_you_mean, read_yaml

#: What a control can have in common with a method's run.
MATCHES = (
    "steps",
    "updates",
    "labelled_batches",
    "unlabelled_batches",
    "unlabelled_hours",
    "encoder_frames",
    "seconds",
    "compute",
)
ROOMS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class System:
    """One named way to train.

    Attributes:
        name: also the experiment's, up to the seed.
        method: what stage 8 runs.
        what: one line about it.
        options: further options of run.sh.
        needs: names of systems that come first.
        decoding: the way to decode that it is about; empty: any.
        assumes: values of the training's YAML that its options were written for.
    """

    name: str
    method: str
    what: str
    options: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    decoding: str = ""
    assumes: Mapping[str, object] = field(default_factory=dict)

    def other_than_assumed(self, config: Mapping) -> list[str]:
        """What a training's YAML says differently, in words."""
        return list(_differences(self.assumes, config, ""))

    @property
    def tag(self) -> str:
        """``--tag`` of its experiment, with ``${seed}`` in it."""
        return self.tag_of("")

    def tag_of(self, point: str) -> str:
        """The tag at a point of a sweep."""
        rest = self.name.removeprefix(self.method).removeprefix("_")
        return "_".join(part for part in (rest, point, "seed${seed}") if part)

    def experiment(self, seed: int) -> str:
        """Name of its experiment's folder."""
        return f"{self.name}_seed{seed}"


@dataclass(frozen=True)
class Pair:
    """A comparison: a method's system, its control, and what both have in equal amounts."""

    system: str
    control: str
    matched: tuple[str, ...]


@dataclass(frozen=True)
class Systems:
    """All systems of some rooms, and which are compared."""

    table: Mapping[str, System]
    pairs: tuple[Pair, ...]

    def find(self, name: str) -> System:
        """The system of a name.

        Raises:
            UserError: there is none; the message names one that looks like it.
        """
        if name not in self.table:
            raise UserError(
                f"there is no system {name!r}{did_you_mean(name, self.table)} "
                f"(espnet_ext/*/controls.yaml has {', '.join(sorted(self.table))})"
            )
        return self.table[name]


def load_systems(files: Iterable[Path] | None = None) -> Systems:
    """Read ``controls.yaml`` of every room, or these files.

    Raises:
        UserError: a file that is not as this module's page says, or a name that two files define differently.
    """
    table: dict[str, System] = {"none": System("none", "none", "plain fine-tuning")}
    pairs: list[Pair] = []
    for file in sorted(ROOMS.glob("*/controls.yaml")) if files is None else files:
        content = read_yaml(file)
        if unknown := set(content) - {"systems", "controls"}:
            raise UserError(f"{file}: {sorted(unknown)[0]}: expected the mappings systems and controls")
        own = [_add(table, name, body, file, False) for name, body in (content.get("systems") or {}).items()]
        for name, body in (content.get("controls") or {}).items():
            control = _add(table, name, body, file, True)
            matched = _words(body.get("matched"), MATCHES, f"{file}: {name}: matched")
            of = _words(body.get("of"), own, f"{file}: {name}: of") or tuple(own)
            pairs += [Pair(system, control, matched) for system in of]
    for system in table.values():
        for other in system.needs:
            if other not in table:
                raise UserError(f"{system.name} needs {other}, which no controls.yaml has")
    return Systems(table, tuple(pairs))


def _differences(assumed: Mapping, found: Mapping, where: str) -> Iterator[str]:
    for name, value in assumed.items():
        if isinstance(value, Mapping):
            yield from _differences(value, found.get(name) or {}, f"{where}{name} ")
        elif found.get(name) != value:
            yield f"{where}{name} {found.get(name)} instead of {value}"


def _words(value, known: Iterable[str], where: str) -> tuple[str, ...]:
    words = tuple(value or ())
    if wrong := set(words) - set(known):
        raise UserError(f"{where}: {sorted(wrong)[0]!r}: expected some of {', '.join(known)}")
    return words


def _add(table: dict[str, System], name: str, body: Mapping, file: Path, control: bool) -> str:
    fields = {"what", "options", "needs", "assumes"} | ({"matched", "of", "decoding"} if control else set())
    if not isinstance(body, Mapping) or not body.get("what") or set(body) - fields:
        raise UserError(
            f"{file}: {name}: expected `what` and no other fields than {', '.join(sorted(fields))}"
        )
    name = str(name)  # YAML reads `off` as a truth value
    options = {key: str(value) for key, value in (body.get("options") or {}).items()}
    method = options.pop("method", file.parent.name)
    if name != method and not name.startswith(f"{method}_"):
        raise UserError(f"{file}: {name}: a system's name begins with its method, {method}_...")
    for option in ("seed", "tag"):
        if option in options:
            raise UserError(
                f"{file}: {name}: options may not hold {option}: it is what runs of a system differ in"
            )
    system = System(
        name,
        method,
        body["what"],
        options,
        tuple(body.get("needs") or ()),
        body.get("decoding", ""),
        body.get("assumes") or {},
    )
    known = table.get(name)
    if known and known.method != "none" and known != system:
        raise UserError(f"{file}: {name} is also in another controls.yaml, and is something else there")
    table[name] = known or system
    return name
