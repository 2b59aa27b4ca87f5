"""Pairs as people type them: hasty, and with names and numbers that stand in no corpus.

An epoch of training sees each pair changed by a key, so that a model learns to copy what it does not know, and to do
without punctuation.
"""

import itertools
import re
from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

from lib import random
from lib.data.pairs import Pair
from lib.random import Key

HASTY = 0.3  # share of sources without their final punctuation
NO_COMMAS, NO_APOSTROPHES = 0.5, 0.3  # of these
RENAMED = 0.5  # share of pairs with names or numbers that get others
STAND_IN = 0.3  # share of pairs with He, She or a numeral that get a name or number instead
_KEPT = 3  # numbers with this remainder by 7 are kept for the evaluation

_TABLE = resources.files("lib.data").joinpath("names.txt").read_text(encoding="utf-8")
NAMES = {group: words.split() for group, words in re.findall(r"^(\w+):\n((?:  .*\n)+)", _TABLE, re.MULTILINE)}
_VOWELS = set("AEIOUÀÂÉÈÊÎÔ")
_OF = {name: NAMES[group] for group in ("his", "hers") for name in NAMES[group]}
_PARTS = (  # of names that nobody has
    ["b", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "j", "k", "kr", "l", "m", "n", "p", "pr", "qu", "r",
     "s", "sh", "st", "t", "th", "tr", "v", "w", "z"],
    ["a", "a", "e", "e", "i", "i", "o", "o", "u", "ai", "ea", "ee", "ie", "ou"],
    ["b", "d", "l", "ll", "m", "n", "nn", "r", "rt", "s", "ss", "t", "v", "x", "z", "nd", "rk", "lm", "st"],
    ["a", "e", "i", "o", "u", "an", "el", "en", "er", "ia", "in", "is", "o", "on", "or", "us", "y"],
)  # fmt: skip
_STAND_FOR = {  # in English, French, German
    "his": [("He", "Il", "Er")],
    "hers": [("She", "Elle", "Sie")],
    "number": [
        ("three", "trois", "drei"), ("four", "quatre", "vier"), ("five", "cinq", "fünf"), ("six", "six", "sechs"),
        ("seven", "sept", "sieben"), ("eight", "huit", "acht"), ("nine", "neuf", "neun"), ("ten", "dix", "zehn"),
        ("twenty", "vingt", "zwanzig"), ("thirty", "trente", "dreißig"), ("forty", "quarante", "vierzig"),
    ],
}  # fmt: skip
_KIND = {pair: kind for kind, rows in _STAND_FOR.items() for row in rows for pair in itertools.permutations(row, 2)}
_PARTNERS = {a: [other for one, other in _KIND if one == a] for a, _ in _KIND}
_IMPERSONAL = re.compile(
    r"Il (lui |leur |me |te |nous |vous |se )?(y |faut|fallait|faudra|manque|reste|semble|peut que)"
)
_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"[1-9]\d{1,3}")
_END = re.compile(r"[\s.?!…。？！]*[.?!…。？！](?=[\"')\]»”]*$)")


class Corpus(NamedTuple):
    """Pairs, and in some, by their place among the pairs, the words of source and target in whose place other names and
    numbers may stand."""

    pairs: list[Pair]
    shared: dict[int, list[tuple[str, str]]]


def words(text: str) -> list[str]:
    return _WORD.findall(text)


def names(pairs: Iterable[Pair]) -> set[str]:
    """Words that are the same on both sides of a pair and have a capital there in the midst of a sentence."""
    inside = lambda text: set(re.findall(r"(?<=[\w,] )[^\W\d_]{2,}", text))  # noqa: E731
    return {word for p in set(pairs) for word in inside(p.source) & inside(p.target) if word.istitle()}


def corpus(pairs: list[Pair], names: set[str]) -> Corpus:
    shared = {pair: _shared(pair, names) for pair in dict.fromkeys(pairs)}  # once for each, however often it is there
    return Corpus(pairs, {i: shared[pair] for i, pair in enumerate(pairs) if shared[pair]})


def _shared(pair: Pair, names: set[str]) -> list[tuple[str, str]]:
    """Names and numbers that are the same on both sides (numbers from two digits on, as nouns agree with a 1),
    numerals, and who both sides begin with."""
    source, target = words(pair.source), words(pair.target)
    known = set(target)
    same = [word for word in dict.fromkeys(source) if word in known]
    found = [(word, word) for word in same if word in names or _NUMBER.fullmatch(word)]
    for word in _PARTNERS.keys() & set(source):
        for partner in _PARTNERS[word]:
            first = _KIND[word, partner] == "number" or ((word, partner) == (source[0], target[0]) and _person(pair))
            if partner in known and first and (word, word) not in found:
                found.append((word, partner))
    return found


def _person(pair: Pair) -> bool:
    return not any(map(_IMPERSONAL.match, (pair.source, pair.target)))


def sides(pairs: list[Pair]) -> tuple[list[str], list[str]]:
    return [p.source for p in pairs], [p.target for p in pairs]


def varied(corpus: Corpus, key: Key) -> tuple[list[str], list[str]]:
    """Sources and targets of an epoch."""
    k_hasty, k_renamed, k_names = random.split(key, 3)
    sources, targets = sides(corpus.pairs)
    chosen = random.uniform(k_renamed, (len(corpus.shared), 3)).tolist()
    draws = random.uniform(k_names, (len(corpus.shared), 3, 5)).tolist()
    for (i, shared), change, draw in zip(corpus.shared.items(), chosen, draws, strict=True):
        new = [
            (one, other, _drawn(one, other, *u))
            for (one, other), x, u in zip(shared, change, draw, strict=False)
            if x < (RENAMED if one == other else STAND_IN)
        ]
        sources[i] = renamed(sources[i], {one: word for one, _, word in new})
        targets[i] = renamed(targets[i], {other: word for _, other, word in new})
    for i, (end, commas, apostrophes) in enumerate(random.uniform(k_hasty, (len(sources), 3)).tolist()):
        if end < HASTY:
            sources[i] = hasty(sources[i], commas >= NO_COMMAS, apostrophes >= NO_APOSTROPHES)
    return sources, targets


def hasty(text: str, commas: bool = True, apostrophes: bool = True) -> str:
    """The text without its final punctuation, and without commas and apostrophes if asked; not without anything."""
    found = _END.sub("", text) or text
    found = found if commas else re.sub(r",(?!\d)", "", found)
    return found if apostrophes else re.sub(r"(?<=\w)'(?=\w)", "", found)


def renamed(text: str, new: dict[str, str]) -> str:
    """The text with other names and numbers, where they stand as whole words."""
    return _WORD.sub(lambda match: new.get(match[0], match[0]), text)


def unseen(corpus: Corpus, seen: set[str], key: Key) -> list[tuple[Pair, list[str]]]:
    """The pairs that have room for names or numbers, with ones that training neither drew nor has `seen` (in lower
    case), and which these are."""
    found = []
    kept = [name for name in NAMES["kept"] if name.lower() not in seen]
    draws = random.uniform(key, (len(corpus.shared), 3)).tolist()
    for (i, shared), u in zip(corpus.shared.items(), draws, strict=True):
        pair, all_pairs = corpus.pairs[i], list(zip(shared, u, strict=False))
        new = [_reserved(one, x) if _counts(one, other) else _pick(kept, x) for (one, other), x in all_pairs]
        source = renamed(pair.source, {one: word for ((one, _), _), word in zip(all_pairs, new, strict=True)})
        target = renamed(pair.target, {other: word for ((_, other), _), word in zip(all_pairs, new, strict=True)})
        if not seen & set(new):
            found.append((pair._replace(source=source, target=target), new))
    return found


def _counts(one: str, other: str) -> bool:
    return one.isdigit() or _KIND.get((one, other)) == "number"


def _drawn(one: str, other: str, how: float, *u: float) -> str:
    """A name or number for a word of the source and its partner in the target, by uniform draws: a number of as many
    digits, none of the evaluation's; a name of the same sex where that is known, half of the time made up, with a
    vowel first if the old one has one (d'Alice)."""
    if _counts(one, other):
        low = 10 ** (_digits(one) - 1)
        number = low + int(u[0] * (9 * low - 1))
        return str(number + (number % 7 == _KEPT))
    kind = _KIND.get((one, other))
    if one[0] == "H" and not kind:
        return one  # it may elide or not
    vowel = one[0] in _VOWELS and not kind
    if how < 0.5:
        known = NAMES[kind] if kind else _OF.get(one, NAMES["others"])
        return _pick([name for name in known if kind or (name[0] in _VOWELS) == vowel], u[0])
    onset, *rest = (_pick(part, x) for part, x in zip(_PARTS, u, strict=True))
    return "".join(rest if vowel else [onset, *rest]).capitalize()


def _digits(word: str) -> int:
    return len(word) if word.isdigit() else 2


def _reserved(old: str, u: float) -> str:
    """A number of as many digits that training never draws."""
    low = 10 ** (_digits(old) - 1)
    return str(low - low % 7 + _KEPT + 7 * int(u * (9 * low // 7 - 1)) + (7 if low % 7 > _KEPT else 0))


def _pick(options: list[str], u: float) -> str:
    return options[int(u * len(options))]
