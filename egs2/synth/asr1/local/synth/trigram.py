"""How predictable the sentences are: an interpolated Kneser-Ney trigram model of words.

S. F. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", 1998:
interpolated, with one discount an order, D = n1 / (n1 + 2 n2).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

START, END, UNKNOWN = "<s>", "</s>", "<unk>"


class Trigram:
    """Train on sentences; unseen words share one continuation count.

    Args:
        sentences: strings of words separated by spaces.
    """

    def __init__(self, sentences: Iterable[str]):
        counts: Counter = Counter()
        for sentence in sentences:
            words = [START, START, *sentence.split(), END]
            counts.update(zip(words, words[1:], words[2:], strict=False))
        # below the highest order a word counts once for every different word before it
        bigrams = Counter((b, c) for _, b, c in counts)
        unigrams = Counter(c for _, c in bigrams)
        unigrams[UNKNOWN] = 1
        self._orders = [
            _Order(counts, 2),
            _Order(bigrams, 1),
            _Order({(c,): n for c, n in unigrams.items()}, 0),
        ]
        self.words = set(unigrams)

    def probability(self, context: tuple[str, str], word: str) -> float:
        """P(word | the two words before it)."""
        word = word if word in self.words else UNKNOWN
        result = 1.0 / len(self.words)
        for order in reversed(self._orders):
            result = order.interpolate(context, word, result)
        return result

    def perplexity(self, sentences: Iterable[str]) -> float:
        """Per word, the end of the sentence counted as a word."""
        total, events = 0.0, 0
        for sentence in sentences:
            words = [START, START, *sentence.split(), END]
            for a, b, c in zip(words, words[1:], words[2:], strict=False):
                total -= math.log(self.probability((a, b), c))
                events += 1
        return math.exp(total / events)


class _Order:
    """Counts of one order: n-grams with a context of ``length`` words."""

    def __init__(self, counts: dict[tuple[str, ...], int], length: int):
        self._counts, self._length = counts, length
        of_counts = Counter(counts.values())
        once, twice = of_counts[1], of_counts[2]
        self._discount = once / (once + 2 * twice) if once else 0.0
        self._total: dict[tuple[str, ...], int] = defaultdict(int)
        self._kinds: dict[tuple[str, ...], int] = defaultdict(int)
        for ngram, count in counts.items():
            self._total[ngram[:-1]] += count
            self._kinds[ngram[:-1]] += 1

    def interpolate(self, context: tuple[str, ...], word: str, lower: float) -> float:
        context = context[len(context) - self._length :]
        total = self._total.get(context)
        if not total:
            return lower
        kept = max(self._counts.get((*context, word), 0) - self._discount, 0.0)
        return (kept + self._discount * self._kinds[context] * lower) / total
