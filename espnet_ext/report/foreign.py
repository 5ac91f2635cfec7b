"""Experiments that this project did not make: ESPnet's folders, and plain pairs of references and hypotheses.

ESPnet leaves ``<exp>/<inference tag>/<set>/`` (or ``.../org/<set>/``) with ``score_wer/{ref,hyp}.trn`` where
it was scored, and ``text`` where it was decoded. They are scored here, in memory, as stage 11 would.
"""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.report.collect import Collection, Experiment, Result, collect_experiment, is_experiment
from espnet_ext.score.foreign import read_sides, read_text, read_trn, trn_speaker
from espnet_ext.score.result import result, score
from espnet_ext.score.sets import TextSet, text_set, utt2spk_beside

_SKIPPED = {"export", "logdir", "score", "tensorboard", "images"}


class Scoring:
    """How texts are compared that were not scored before."""

    def __init__(self, normalisation: str = "space", unit: str = "auto", data_dirs: Iterable[Path] = ()):
        """``data_dirs``: where ``<set>/text`` is looked for, the references of sets that have none beside."""
        self.normalisation, self.unit, self.data_dirs = normalisation, unit, list(data_dirs)

    def texts(self, references, hypotheses, files, speakers) -> TextSet:
        return text_set(references, hypotheses, files, speakers, self.normalisation, self.unit)


def collect_all(paths: Sequence[Path], scoring: Scoring, strict: bool = True) -> Collection:
    """Everything that a command line names: experiments, folders of experiments, pairs of files.

    What cannot be used becomes a problem of the collection.

    Raises:
        UserError: files do not come in pairs; or, if ``strict``, nothing of it all can be used.
    """
    found, named = Collection(), _distinct(paths)
    files = [path for path in paths if path.is_file()]
    if len(files) % 2:
        if absent := [path for path in paths if not path.exists()]:
            raise UserError(f"{absent[0]}: no such file or folder")
        raise UserError(
            f"{files[-1]}: expected pairs of files, references and then hypotheses, found {len(files)} files"
        )
    for path in paths:
        if path.is_file():
            continue
        try:
            found.add(_folder(path, scoring, named))
        except UserError as error:
            found.problems.append(str(error))
    for ref, hyp in zip(files[::2], files[1::2], strict=True):
        try:
            found.add(collect_pair(ref, hyp, scoring, named[hyp]))
        except UserError as error:
            found.problems.append(str(error))
    if strict and not any(each.score for each in found.results):
        raise UserError("\n".join(["nothing to report on:", *found.problems]))
    return found


def _distinct(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each path: its own, with as many of its folders as tell it from the others."""
    names = {}
    for path in paths:
        parts = path.resolve().parts[:-1] + (path.stem if path.is_file() else path.resolve().name,)
        names[path] = parts
    depth = dict.fromkeys(names, 1)
    for _ in range(8):
        short = {path: "/".join(parts[-depth[path] :]) for path, parts in names.items()}
        twice = [path for path in short if list(short.values()).count(short[path]) > 1]
        for path in twice:
            depth[path] += 1
    return short


def _folder(path: Path, scoring: Scoring, named: dict[Path, str]) -> Collection:
    """An experiment, or a folder of experiments."""
    if not path.is_dir():
        raise UserError(f"{path}: no such experiment folder, and no such file")
    inside = [each for each in sorted(path.iterdir()) if is_experiment(each)]
    if inside and not is_experiment(path):
        found = Collection()
        for each in inside:
            found.add(collect_folder(each, scoring))
        return found
    return collect_folder(path, scoring, named[path])


def collect_folder(folder: Path, scoring: Scoring, name: str = "") -> Collection:
    """One experiment folder, of this project or of ESPnet; ``name`` is what it is called, if not as it is."""
    found = collect_experiment(folder)
    if name and "/" in name:
        found.rename(folder.name, name)
    if any(each.score for each in found.results):
        return found
    problems: list[str] = []
    results = [*_espnet(folder, scoring, problems)]
    if not results and not problems:
        problems = found.problems or [
            f"{folder}: nothing decoded in it: expected <decoding>/<set>/score_wer/hyp.trn or "
            "<decoding>/<set>/text"
        ]
    found.results, found.problems = results, problems
    if name and "/" in name:
        found.rename(folder.name, name)
    return found


def _espnet(folder: Path, scoring: Scoring, problems: list[str]) -> Iterable[Result]:
    for path in _decoded(folder):
        parts = path.relative_to(folder).parts
        decoding, dataset = parts[0].removeprefix("decode_"), "/".join(parts[1:])
        try:
            data_dir = _data_dir(folder, dataset, scoring)
            texts = _from_trn(path / "score_wer", data_dir, scoring)
            if texts is None:
                texts = _from_text(path, folder, data_dir, dataset, scoring)
        except UserError as error:
            problems.append(str(error))
            continue
        found = _result(folder.name, decoding, dataset, texts, path / "text")
        found.data_dir = data_dir
        yield found


def _decoded(folder: Path) -> list[Path]:
    found = []
    for depth in ("*/*", "*/*/*"):
        for path in sorted(folder.glob(depth)):
            if path.is_dir() and not _SKIPPED & set(path.relative_to(folder).parts):
                if (path / "text").is_file() or (path / "score_wer" / "hyp.trn").is_file():
                    found.append(path)
    return found


def _places(folder: Path, scoring: Scoring) -> list[Path]:
    """Where an experiment's sets may be: an ESPnet recipe has exp/ beside dump/raw/ and data/."""
    recipe = folder.resolve().parents[1] if len(folder.resolve().parents) > 1 else folder
    return [*scoring.data_dirs, *(recipe / each for each in ("dump/raw", "dump/raw/org", "data"))]


def _data_dir(folder: Path, dataset: str, scoring: Scoring) -> Path | None:
    """The set that was decoded; of ``org/dev`` not ``dev``, from which long utterances are gone."""
    for name in dict.fromkeys((dataset, dataset.rsplit("/", 1)[-1])):
        for place in _places(folder, scoring):
            if (place / name / "text").is_file():
                return place / name
    return None


def _speakers(data_dir: Path | None) -> dict[str, str]:
    beside = utt2spk_beside(data_dir / "text") if data_dir else None
    return read_text(beside) if beside else {}


def _from_trn(scored: Path, data_dir: Path | None, scoring: Scoring) -> TextSet | None:
    """What ESPnet's scoring stage left, None where it did not run.

    Its ids are ``<speaker>-<utterance>``. Where the set is known, utterances get their own ids back: they can
    then be compared with another experiment's that was not scored, and heard.
    """
    if not all((scored / name).exists() for name in ("hyp.trn", "ref.trn")):
        return None
    files = str(scored / "ref.trn"), str(scored / "hyp.trn")
    references, hypotheses = (read_trn(file) for file in files)
    speakers = _speakers(data_dir)
    own = {f"{speaker}-{name}": name for name, speaker in speakers.items()}
    if references.keys() <= own.keys() and hypotheses.keys() <= own.keys():
        references, hypotheses = (
            {own[name]: text for name, text in side.items()} for side in (references, hypotheses)
        )
        speakers = {name: speakers[name] for name in references}
    else:
        speakers = {name: trn_speaker(name) for name in references}
    return scoring.texts(references, hypotheses, files, speakers)


def _from_text(path: Path, folder: Path, data_dir: Path | None, dataset: str, scoring: Scoring) -> TextSet:
    """What ESPnet's decoding stage left."""
    if data_dir is None:
        name = dataset.rsplit("/", 1)[-1]
        places = map(str, _places(folder, scoring))
        raise UserError(
            f"{path}: not scored, and no references for the set {name}: looked for {name}/text in "
            f"{', '.join(places)}; name the folder of the sets with --data_dir"
        )
    files = str(data_dir / "text"), str(path / "text")
    return scoring.texts(
        read_text(data_dir / "text"), read_text(path / "text"), files, _speakers(data_dir) or None
    )


def collect_pair(ref: Path, hyp: Path, scoring: Scoring, name: str = "") -> Collection:
    """A plain pair of files; the system has the hypotheses' name, the set that of the references.

    Raises:
        UserError: they are malformed or do not belong together.
    """
    references, hypotheses, speakers, ids = read_sides(ref, hyp)
    texts = scoring.texts(references, hypotheses, (str(ref), str(hyp)), speakers)
    name = name or hyp.stem
    found = _result(name, "", ref.stem, texts, hyp, [f"{hyp}: {ids}"])
    return Collection([Experiment(name)], [found])


def _result(
    experiment: str, decoding: str, dataset: str, texts: TextSet, hyp: Path, notes: list[str] | None = None
) -> Result:
    scored = score(texts)
    about = result(scored, texts)
    about["notes"] += notes or []
    about |= {"ref": None, "hyp": str(hyp), "versions": {"kaldialign": version("kaldialign")}}
    return Result(experiment, decoding, dataset, about, None, utterances=scored)
