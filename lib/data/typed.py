"""Pairs as people type them: hasty, and with names and numbers that stand in no corpus.

An epoch of training sees each pair changed by a key, so that a model learns to do without punctuation, also between
two sentences, and to carry over what stands in a slot (lib/data/slots.py).
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from lib import random
from lib.data import slots
from lib.data.pairs import Pair
from lib.random import Key

HASTY = 0.3  # share of sources without their final punctuation
NO_COMMAS, NO_APOSTROPHES = 0.5, 0.3  # of these
EMPTIED = 0.5  # share of shared names that are slots; shared numbers always are
RUN_ON, SHORT = 0.1, 60  # share of sources of at most so many letters that run on into another one
RARE = 5  # sources that a name has to stand in to be known
# Names of the evaluation, of which those count that training never sees.
UNSEEN = [
    "Aisha", "Anton", "Astrid", "Bashir", "Beatrix", "Celine", "Dalia", "Dimitri", "Edwin", "Elodie", "Farid", "Freya",
    "Gareth", "Greta", "Ingrid", "Ismael", "Joyce", "Kaito", "Keira", "Lorenzo", "Malik", "Mireille", "Nadia", "Nigel",
    "Odette", "Otis", "Priya", "Quincy", "Rafael", "Rosalind", "Sven", "Tariq", "Thelma", "Ulrich", "Ursula", "Vanessa",
    "Viktor", "Wanda", "Wesley", "Yusuf", "Zelda", "Brisbane", "Cardiff", "Dakar", "Dayton", "Izmir", "Kingston",
    "Lagos",
    "Nairobi", "Odense", "Quito", "Tucson", "Zagreb", "Blanchard", "Connors", "Okafor", "Petrov", "Ramirez",
]  # fmt: skip
_END = re.compile(r"[\s.?!…。？！]*[.?!…。？！](?=[\"')\]»”]*$)")


class Corpus(NamedTuple):
    """Pairs, and of some, by their place among the pairs, the names and numbers that both sides share."""

    pairs: list[Pair]
    shared: dict[int, list[str]]


def sides(pairs: list[Pair]) -> tuple[list[str], list[str]]:
    return [p.source for p in pairs], [p.target for p in pairs]


def names(pairs: Iterable[Pair]) -> set[str]:
    """Words that are the same on both sides of a pair and have a capital there in the midst of a sentence."""
    inside = lambda text: set(re.findall(r"(?<=[\w,] )[^\W\d_]{2,}", text))  # noqa: E731
    return {word for p in set(pairs) for word in inside(p.source) & inside(p.target) if word.istitle()}


def lexicon(pairs: list[Pair], names: set[str]) -> list[str]:
    """The words of the sources as they are mostly written, sorted: with those of haste (dont), without rare names."""
    texts = {p.source for p in pairs}
    ways = ((text, hasty(text, apostrophes=False)) for text in texts)
    counts = Counter(word for way in ways for word in {w for text in way for w in slots.words(text)})
    rare = {word for word in names if counts[word] < RARE}
    known = {word: n for word, n in counts.items() if word not in rare and not word[0].isdigit()}
    return sorted({word.lower(): word for word in sorted(known, key=lambda word: (known[word], word))}.values())


def corpus(pairs: list[Pair], names: set[str]) -> Corpus:
    shared = {pair: _shared(pair, names) for pair in dict.fromkeys(pairs)}  # once for each, however often it is there
    return Corpus(pairs, {i: shared[pair] for i, pair in enumerate(pairs) if shared[pair]})


def _shared(pair: Pair, names: set[str]) -> list[str]:
    """Names with an apostrophe before them do not count: others might not elide (d'Alice)."""
    target = set(slots.words(pair.target))
    both = [word for word in dict.fromkeys(slots.words(pair.source)) if word in target]
    return [word for word in both if word[0].isdigit() or (word in names and f"'{word}" not in pair.target)]


def emptied(pairs: list[Pair], lexicon: slots.Lexicon) -> tuple[list[str], list[str]]:
    """Sources and targets with slots, as a translator sees them."""
    found = [(p.target, *slots.emptied(p.source, lexicon.carried(p.source))) for p in pairs]
    return [source for _, source, _ in found], [slots.refilled(target, content) for target, _, content in found]


def varied(corpus: Corpus, key: Key) -> tuple[list[str], list[str]]:
    """Sources and targets of an epoch."""
    k_hasty, k_names, k_run_on = random.split(key, 3)
    sources, targets = sides(corpus.pairs)
    draws = random.uniform(k_names, (len(corpus.shared), len(slots.SLOTS))).tolist()
    for (i, words), u in zip(corpus.shared.items(), draws, strict=True):
        chosen = {word for word, x in zip(words, u, strict=False) if word[0].isdigit() or x < EMPTIED}
        sources[i], content = slots.emptied(sources[i], chosen)
        targets[i] = slots.refilled(targets[i], content)
    for i, (end, commas, apostrophes) in enumerate(random.uniform(k_hasty, (len(sources), 3)).tolist()):
        if end < HASTY:
            sources[i] = hasty(sources[i], commas >= NO_COMMAS, apostrophes >= NO_APOSTROPHES)
    brief = [i for i, source in enumerate(sources) if len(source) <= SHORT]
    plain = [(sources[i], targets[i]) for i in brief if i not in corpus.shared]  # no slot stands in two sentences
    for i, (share, at) in zip(brief, random.uniform(k_run_on, (len(brief), 2)).tolist(), strict=True):
        if plain and share < RUN_ON:
            source, target = plain[int(at * len(plain))]
            sources[i], targets[i] = f"{hasty(sources[i])} {source}", f"{targets[i]} {target}"
    return sources, targets


def hasty(text: str, commas: bool = True, apostrophes: bool = True) -> str:
    """The text without its final punctuation, and without commas and apostrophes if asked; not without anything."""
    found = _END.sub("", text) or text
    found = found if commas else re.sub(r",(?!\d)", "", found)
    return found if apostrophes else re.sub(r"(?<=\w)'(?=\w)", "", found)


def unseen(corpus: Corpus, seen: set[str], key: Key) -> list[tuple[str, list[str]]]:
    """Sources of the pairs that share names or numbers, with others in their place that are not `seen` (in lower case),
    and which these are."""
    fresh = [name for name in UNSEEN if name.lower() not in seen] or UNSEEN
    found: list[tuple[str, list[str]]] = []
    draws = random.uniform(key, (len(corpus.shared), len(slots.SLOTS))).tolist()
    for (i, words), u in zip(corpus.shared.items(), draws, strict=True):
        new = {
            word: _number(word, x) if word[0].isdigit() else fresh[int(x * len(fresh))]
            for word, x in zip(words, u, strict=False)
        }
        if not seen & set(new.values()):
            found.append((slots.replaced(corpus.pairs[i].source, new), list(new.values())))
    return found


def _number(old: str, u: float) -> str:
    """Another number of as many digits, but for 1."""
    low = max(2, 10 ** (len(old) - 1))
    return str(low + int(u * (10 ** len(old) - low)))
