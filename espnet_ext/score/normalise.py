"""What is done to references and hypotheses before they are compared, each way under a name with a version.

A number is comparable with another only if both went through the same step, so the name stands beside every
number, as ``space-1``. A way that changes gets a new version; the old one stays, for old numbers.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

from espnet_ext.errors import UserError

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'", "\uff07": "'"})
_PUNCTUATION = re.compile(r"(?<=\w)'(?=\w)|([^\w\s]|_)")
#: Scripts that are written without spaces between words; names begin so in Unicode's table.
_SPACELESS = ("CJK ", "HIRAGANA", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ", "BOPOMOFO")


def space(sentence: str) -> str:
    """Words parted by single spaces; nothing else is touched: case and punctuation count.

    >>> space(" a\\u3000B,  c")
    'a B, c'
    """
    return " ".join(sentence.split())


def nfc(sentence: str) -> str:
    """`space`, and letters with marks as Unicode composes them (NFC).

    >>> nfc("e\\u0301t\\u00e9") == "\\u00e9t\\u00e9"
    True
    """
    return space(unicodedata.normalize("NFC", sentence))


def lower(sentence: str) -> str:
    """`nfc`, and lower case.

    >>> lower("The CAT, he said")
    'the cat, he said'
    """
    return space(unicodedata.normalize("NFC", sentence.lower()))


def plain(sentence: str) -> str:
    """Lower case without punctuation, compatibility forms (NFKC); an apostrophe within a word stays.

    A hyphen parts words. Marks and accents stay, and so do digits: ``20`` is not ``twenty``.

    >>> plain("\\u201cDon\\u2019t,\\u201d said 20 well-known men\\u2026")
    "don't said 20 well known men"
    """
    text = unicodedata.normalize("NFKC", sentence).translate(_APOSTROPHES).lower()
    # Combining marks are no word characters for `re`; they belong to the letter before them.
    kept = _PUNCTUATION.sub(lambda m: m[0] if m[1] is None or unicodedata.combining(m[0]) else " ", text)
    return space(kept)


#: Name with version -> what it does. A name without version means the newest.
NORMALISATIONS: dict[str, Callable[[str], str]] = {
    "space-1": space,
    "nfc-1": nfc,
    "lower-1": lower,
    "plain-1": plain,
}
DEFAULT = "space-1"


def find(name: str) -> tuple[str, Callable[[str], str]]:
    """The full name and the function of a normalisation.

    Raises:
        UserError: there is none of this name.

    >>> find("plain")[0], find("space-1")[0]
    ('plain-1', 'space-1')
    """
    full = max((each for each in NORMALISATIONS if each.rpartition("-")[0] == name), default=name)
    if full not in NORMALISATIONS:
        raise UserError(f"there is no normalisation {name!r}; there are: {', '.join(sorted(NORMALISATIONS))}")
    return full, NORMALISATIONS[full]


def describe(name: str) -> str:
    """One line about a normalisation, for people.

    >>> describe("space-1")
    'space-1: Words parted by single spaces; nothing else is touched: case and punctuation count.'
    """
    full, function = find(name)
    return f"{full}: {' '.join((function.__doc__ or '').strip().split(chr(10) * 2)[0].split())}"


def spaceless(sentences: Iterable[str]) -> bool:
    """Whether most letters are of scripts that do not part words by spaces.

    >>> spaceless(["\\u6771\\u4eac tower"]), spaceless(["\\u6771\\u4eac\\u30bf\\u30ef\\u30fc"])
    (False, True)
    """
    of_one: dict[str, bool] = {}
    inside = letters = 0
    for sentence in sentences:
        for letter in sentence:
            if letter.isascii():
                letters += letter.isalpha()
            elif letter.isalpha():
                if letter not in of_one:
                    of_one[letter] = unicodedata.name(letter, "").startswith(_SPACELESS)
                inside += of_one[letter]
                letters += 1
        if letters > 100_000:
            break
    return 2 * inside > letters
