"""Which sentences a set gets: of its split, each once where possible, and with every word covered."""

import random
import zlib
from collections import Counter
from collections.abc import Iterator

from synth.grammar import Grammar

#: Draws without a new sentence after which one is repeated.
PATIENCE = 50


def split_of(sentence: str, shares: dict[str, int]) -> str:
    """The split of a sentence, whatever the seed: its checksum picks one in proportion to ``shares``."""
    rest = zlib.crc32(sentence.encode()) % sum(shares.values())
    for split, share in shares.items():
        if rest < share:
            return split
        rest -= share
    raise AssertionError("unreachable: the remainder is below the sum of the shares")


def candidates(
    grammar: Grammar, split: str, shares: dict[str, int], words: tuple[int, int], rng: random.Random
) -> Iterator[str]:
    """Endless sentences of one split with ``words`` (least, most) words."""
    while True:
        sentence = grammar.draw(rng)
        if words[0] <= sentence.count(" ") + 1 <= words[1] and split_of(sentence, shares) == split:
            yield sentence


def pick(source: Iterator[str], count: int, coverage: int = 1, taken: set[str] | None = None) -> list[str]:
    """Take ``count`` sentences.

    Args:
        source: endless candidates.
        count: how many to take.
        coverage: of that many candidates the one whose rarest word was taken least often so far.
        taken: sentences to avoid; those taken are added. One is repeated after PATIENCE vain draws.
    """
    taken = set() if taken is None else taken
    heard: Counter = Counter()
    result = []
    for _ in range(count):
        best, best_rank = "", None
        for _ in range(coverage):
            for _ in range(PATIENCE):
                sentence = next(source)
                if sentence not in taken:
                    break
            rank = min(heard[word] for word in sentence.split())
            if best_rank is None or rank < best_rank:
                best, best_rank = sentence, rank
        taken.add(best)
        heard.update(best.split())
        result.append(best)
    return result
