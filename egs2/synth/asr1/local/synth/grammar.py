"""A sentence grammar read from YAML files: rules that expand to words, drawn at random.

A rule is one string of expansions separated by commas, drawn evenly (``x *3`` counts three times). Inside an
expansion ``{rule}`` is another rule, ``{rule}s`` its plural, ``(a|b)`` one of several, ``[a|b]`` one of
several or nothing (evenly), ``(a & b)`` all of them in a random order.
"""

import random
import re
from pathlib import Path

import yaml

from espnet_ext.errors import UserError

_TOKEN = re.compile(r"\{(\w+)\}(s\b)?|([()\[\]|&])|([a-z']+)")
_WEIGHT = re.compile(r"(.*\S)\s*\*\s*(\d+)$", re.S)
#: "a" before a vowel sound; "u" and "eu" are mostly spoken "you" here, "one" begins with a consonant.
_ARTICLE = re.compile(r"\ba(?= (?:[aio](?!ne\b)|e(?!u)|u(?:gly|mb|n[a-hj-z])))")
_IRREGULAR = {
    "bookshelf": "bookshelves",
    "deer": "deer",
    "foot": "feet",
    "knife": "knives",
    "mouse": "mice",
    "sheep": "sheep",
    "tooth": "teeth",
    "wolf": "wolves",
}


def plural(word: str) -> str:
    """The plural of an English noun (of its last word where it has several)."""
    head, _, last = word.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif re.search(r"(s|x|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}" if head else last


class Grammar:
    """Rules of ``folder/*.yaml``, compiled once; ``draw`` expands one of them.

    Args:
        folder: where the YAML files are; together they must define the rule ``sentence``.

    Raises:
        UserError: a rule defined twice or nowhere, an expansion that cannot be parsed; names file and rule.
    """

    def __init__(self, folder: Path):
        self._rules: dict[str, list] = {}
        used: dict[str, str] = {}
        for path in sorted(Path(folder).glob("*.yaml")):
            for name, text in yaml.safe_load(path.read_text(encoding="utf-8")).items():
                if name in self._rules:
                    raise UserError(f"{path}: rule {name!r} is defined a second time; rename one of the two")
                self._rules[name] = [
                    node
                    for piece in str(text).split(",")
                    for node in _weighted(piece, f"{path}: rule {name!r}", used)
                ]
        for name, where in {"sentence": str(folder), **used}.items():
            if name not in self._rules:
                raise UserError(f"{where}: no rule is called {name!r}; define it or correct the name")

    def draw(self, rng: random.Random, rule: str = "sentence") -> str:
        """Expand ``rule`` to words separated by single spaces."""
        text = self._expand(("rule", rule, False), rng)
        return _ARTICLE.sub("an", text)

    def words(self) -> set[str]:
        """Every word some rule can produce (plurals made by ``{rule}s`` aside)."""
        found: set[str] = set()

        def visit(node) -> None:
            if isinstance(node, str):
                found.update(node.split())
            elif node[0] != "rule":
                for child in node[1]:
                    visit(child)

        for options in self._rules.values():
            for node in options:
                visit(node)
        return found - {"'s"}

    def _expand(self, node, rng: random.Random) -> str:
        if isinstance(node, str):
            return node
        kind, content = node[0], node[1]
        if kind == "rule":
            options = self._rules[content]
            text = self._expand(options[int(rng.random() * len(options))], rng)
            return plural(text) if node[2] else text
        if kind == "one":
            return self._expand(content[int(rng.random() * len(content))], rng)
        if kind == "all":
            # sorted by a drawn key: the order depends on nothing but the stream
            content = [child for _, child in sorted((rng.random(), child) for child in content)]
        return " ".join(filter(None, [self._expand(child, rng) for child in content])).replace(" 's", "'s")


def _weighted(piece: str, where: str, used: dict[str, str]) -> list:
    """Parse one expansion; as many references to it as its weight says."""
    piece = piece.strip()
    match = _WEIGHT.match(piece)
    body, weight = (match[1], int(match[2])) if match else (piece, 1)
    if not body:
        raise UserError(f"{where}: an empty expansion (two commas, or a comma at the end)")
    rest = _TOKEN.sub("", body).strip()
    if rest:
        raise UserError(f"{where}: cannot read {rest!r} in {body!r}; words are a-z and apostrophe")
    tokens = [match.groups() for match in _TOKEN.finditer(body)]
    node, end = _alternatives(tokens, 0, where, used)
    if end != len(tokens):
        raise UserError(f"{where}: a bracket too many in {body!r}")
    return [node] * weight


def _alternatives(tokens: list, start: int, where: str, used: dict[str, str]):
    """Parse up to a closing bracket; returns the node and the position of that bracket."""
    parts: list[list] = [[]]
    signs = set()
    while start < len(tokens):
        rule, many, sign, word = tokens[start]
        if rule:
            used.setdefault(rule, where)
            parts[-1].append(("rule", rule, bool(many)))
        elif word:
            parts[-1].append(word)
        elif sign in "|&":
            signs.add(sign)
            parts.append([])
        elif sign in "([":
            inner, start = _alternatives(tokens, start + 1, where, used)
            if start >= len(tokens) or tokens[start][2] != {"(": ")", "[": "]"}[sign]:
                raise UserError(f"{where}: a {sign!r} is not closed")
            parts[-1].append(inner if sign == "(" else ("one", [inner, ""]))
        else:
            break
        start += 1
    if len(signs) > 1:
        raise UserError(f"{where}: '|' and '&' in one pair of brackets; put brackets around one of them")
    nodes = [part[0] if len(part) == 1 else ("seq", part) for part in parts]
    if len(nodes) == 1:
        return nodes[0], start
    return ("all" if "&" in signs else "one", nodes), start
