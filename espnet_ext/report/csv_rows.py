"""``results.csv``: a row for every experiment, way of decoding and set, for spreadsheets and scripts."""

import csv
import io

_PLAIN = ("experiment", "system", "seed", "peer", "decoding", "set", "wer", "cer", "ter", "ser")
_COUNTS = ("substitutions", "deletions", "insertions", "reference")
_TRAINED = ("parameters", "averaged_epochs", "epochs", "steps", "training_seconds")
_LAST = ("normalisation", "sentences", "rtf", "device", "threads", "jobs", "outdated", "commit")
_COMMANDS = ("decode_command", "score_command")


def render(results: dict) -> str:
    """The file's text. Rates are in percent; ``low`` and ``high`` are the ends of the 95 % interval."""
    trained = {each["name"]: each for each in results["experiments"]}
    buffer = io.StringIO()
    names = [*_PLAIN, "counted", "low", "high", "drawn", *_COUNTS, *_LAST, *_TRAINED, *_COMMANDS]
    writer = csv.DictWriter(buffer, names, lineterminator="\n", restval="")
    writer.writeheader()
    for each in results["results"]:
        main = "cer" if each["counted"] == "char" else "wer"
        low, high = (each["intervals"] or {}).get(main) or (None, None)
        counts = each["characters" if main == "cer" else "words"] or {}
        training = trained.get(each["experiment"], {})
        row = {name: each[name] for name in (*_PLAIN, "counted", "drawn", *_LAST, *_COMMANDS)}
        row |= {"low": low, "high": high} | {name: counts.get(name) for name in _COUNTS}
        row |= {name: training.get(name) for name in _TRAINED}
        row["averaged_epochs"] = " ".join(map(str, training.get("averaged_epochs") or []))
        writer.writerow({name: "" if value is None else _safe(value) for name, value in row.items()})
    return buffer.getvalue()


def _safe(value: object) -> object:
    """Text that a spreadsheet does not take for a formula: names of experiments are anybody's."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
