"""Pairs as people type them: hasty, and with names and numbers that stand in no corpus.

An epoch of training sees each pair changed by a key, so that a model learns to copy what it does not know, and to do
without punctuation.
"""

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
_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"[1-9]\d{1,3}")
_END = re.compile(r"[\s.?!…。？！]*[.?!…。？！](?=[\"')\]»”]*$)")


class Corpus(NamedTuple):
    """Pairs, and for those whose sides share names or numbers which ones, by their place among the pairs."""

    pairs: list[Pair]
    shared: dict[int, list[str]]


def words(text: str) -> list[str]:
    return _WORD.findall(text)


def names(pairs: Iterable[Pair]) -> set[str]:
    """Words that are the same on both sides of a pair and have a capital there in the midst of a sentence."""
    inside = lambda text: set(re.findall(r"(?<=[\w,] )[^\W\d_]{2,}", text))  # noqa: E731
    return {word for p in pairs for word in inside(p.source) & inside(p.target) if word.istitle()}


def corpus(pairs: list[Pair], names: set[str]) -> Corpus:
    """Numbers count from two digits on: with 1 a noun is singular."""
    shared = {}
    for i, pair in enumerate(pairs):
        if re.search("[A-Z0-9]", pair.target):
            target = set(words(pair.target))
            both = [word for word in dict.fromkeys(words(pair.source)) if word in target]
            if found := [word for word in both if word in names or _NUMBER.fullmatch(word)]:
                shared[i] = found
    return Corpus(pairs, shared)


def sides(pairs: list[Pair]) -> tuple[list[str], list[str]]:
    return [p.source for p in pairs], [p.target for p in pairs]


def varied(corpus: Corpus, key: Key) -> tuple[list[str], list[str]]:
    """Sources and targets of an epoch."""
    k_hasty, k_renamed, k_names = random.split(key, 3)
    sources, targets = sides(corpus.pairs)
    draws = random.uniform(k_names, (len(corpus.shared), 3, 5)).tolist()
    chosen = random.bernoulli(k_renamed, RENAMED, (len(corpus.shared),)).tolist()
    for (i, words), draw, change in zip(corpus.shared.items(), draws, chosen, strict=True):
        if change:
            new = {word: _drawn(word, *u) for word, u in zip(words, draw, strict=False)}
            sources[i], targets[i] = renamed(sources[i], new), renamed(targets[i], new)
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
    """The pairs that share names or numbers, with ones in their place that training neither drew nor has `seen` (in
    lower case), and which these are."""
    found = []
    kept = [name for name in NAMES["kept"] if name.lower() not in seen]
    for (i, words), u in zip(corpus.shared.items(), random.uniform(key, (len(corpus.shared), 3)).tolist(), strict=True):
        new = {
            word: _reserved(word, x) if word.isdigit() else _pick(kept, x) for word, x in zip(words, u, strict=False)
        }
        pair = corpus.pairs[i]
        pair = pair._replace(source=renamed(pair.source, new), target=renamed(pair.target, new))
        if not seen & set(new.values()):
            found.append((pair, list(new.values())))
    return found


def _drawn(old: str, kind: float, *u: float) -> str:
    """Another name or number by uniform draws: a number of as many digits, none of the evaluation's; a name of the same
    sex where that is known, half of the time made up, with a vowel first if the old one has one (d'Alice)."""
    if old.isdigit():
        low = 10 ** (len(old) - 1)
        number = low + int(u[0] * (9 * low - 1))
        return str(number + (number % 7 == _KEPT))
    if old[0] == "H":
        return old  # it may elide or not
    vowel = old[0] in _VOWELS
    if kind < 0.5:
        return _pick([name for name in _OF.get(old, NAMES["others"]) if (name[0] in _VOWELS) == vowel], u[0])
    onset, *rest = (_pick(part, x) for part, x in zip(_PARTS, u, strict=True))
    return "".join(rest if vowel else [onset, *rest]).capitalize()


def _reserved(old: str, u: float) -> str:
    """A number of as many digits that training never draws."""
    low = 10 ** (len(old) - 1)
    return str(low - low % 7 + _KEPT + 7 * int(u * (9 * low // 7 - 1)) + (7 if low % 7 > _KEPT else 0))


def _pick(options: list[str], u: float) -> str:
    return options[int(u * len(options))]
