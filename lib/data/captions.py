"""What people would write under drawn flowers: sentences by a grammar of ours, and the words they are made of.

The attributes that a sentence tells are known, so that what is drawn for it can be scored. Whole pairs of values are
never trained on (`UNSEEN`), so that combinations can be asked for that no picture showed.
"""

import difflib
import hashlib
import itertools
import random
import re
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lib.data.petals import NAMES
from lib.faults import DataError

Values = dict[str, str]  # of attributes, as lib/data/petals.NAMES has them

PAD, START = 0, 1
_SPECIAL = ["<pad>", "<s>"]
COUNTS = {"3": "three", "4": "four", "5": "five", "6": "six", "8": "eight", "12": "twelve"}
SHAPES = {
    "round": ["round", "rounded"],
    "pointed": ["pointed"],
    "narrow": ["narrow", "thin"],
    "heart": ["heart shaped"],
}
MIDDLES = ["centre", "center", "middle"]
GROUNDS = {
    "leaves": ["among leaves", "in front of leaves", "before green leaves"],
    "sky": ["before the sky", "against the sky", "under a cloudy sky"],
    "soil": ["on soil", "on bare soil", "above brown earth"],
    "dark": ["in the dark", "before a dark ground", "at night"],
}


# ---- sentences ----


def caption(seed: str, values: Values, told: float = 0.8) -> tuple[str, set[str]]:
    """A sentence about a flower, and the attributes that it tells: each with probability `told`, and one at least."""
    draw = random.Random(f"caption {seed}")
    names = [name for name in NAMES if name in values and draw.random() < told] or [draw.choice(list(values))]
    return _sentence(draw, {name: values[name] for name in names}), set(names)


def short(name: str, value: str) -> list[str]:
    """The plainest sentence that tells one attribute."""
    said = {"shape": SHAPES, "ground": GROUNDS}.get(name, {}).get(value, [COUNTS.get(value, value)])[0]
    ways = {"centre": f"with a {said} centre", "double": f"that is {said}", "ground": said}
    return [f"a flower {ways.get(name, f'with {said} petals')}"]


def _sentence(draw: random.Random, told: Values) -> str:
    """One of five ways to say it; what is not told is left out. What is drawn depends on which attributes are told, not
    on their values, so that with another value the rest stays as it is."""
    colour, shape = told.get("petals", ""), pick(draw, SHAPES.get(told.get("shape", ""), [""]))
    count = COUNTS.get(told.get("count", ""), "")
    if count and draw.random() < 0.15:
        count = told["count"]
    adjectives = draw.sample([shape, colour], 2)
    petals = joined([count, *adjectives, "petals"]) if count or shape or colour else ""
    middle = pick(draw, MIDDLES)
    centre = f"a {told['centre']} {middle}" if "centre" in told else ""
    ground = pick(draw, GROUNDS[told["ground"]]) if "ground" in told else ""
    double = told.get("double", "")
    rows = {"": "", "single": "in one row", "double": "in two rows"}[double]
    way = draw.randrange(5)
    if way == 0:  # a double flower with five round red petals and a yellow centre, on soil
        of = joined(
            draw.sample(list(filter(None, [petals, centre])), len(list(filter(None, [petals, centre])))), " and "
        )
        said = joined([article(joined([double, "flower"])), f"with {of}" if of else ""])
    elif way == 1:  # five round red petals in two rows around a yellow centre, on soil
        said = joined([petals or "petals", rows, f"around {centre}" if centre else ""])
    elif way == 2:  # this flower has petals that are red and round, five of them, in two rows and a yellow centre
        are = joined(list(filter(None, adjectives)), " and ")
        what = "petals" + (f" that are {are}" if are else "") + (f", {count} of them" if count else "")
        said = "this flower has " + joined([what + (f", {rows}" if rows else ""), centre], " and ")
    elif way == 3:  # a red double flower, five round petals, its centre is yellow
        head = article(joined([*draw.sample([colour, double], 2), "flower"]))
        its = f"its {middle} is {told['centre']}" if centre else ""
        said = joined([head, joined([count, shape, "petals"]) if count or shape else "", its], ", ")
    else:  # the petals are red, the petals are round, there are five petals, the centre is yellow
        parts = [f"the petals are {x}" for x in adjectives if x] + ([f"there are {count} petals"] if count else [])
        parts += [f"the {middle} is {told['centre']}"] if centre else []
        parts += [f"the flower is {double}"] if double else []
        said = joined(draw.sample(parts, len(parts)), ", ") or "a flower"
    return joined([said, ground], draw.choice([" ", ", "]))


def pick(draw: random.Random, ways: Sequence[str]) -> str:
    """By one number of the generator, however many ways there are."""
    return ways[int(draw.random() * len(ways))]


def joined(parts: Iterable[str], between: str = " ") -> str:
    """Those that are not empty."""
    return between.join(filter(None, parts))


def article(noun: str) -> str:
    """With a or an before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# ---- combinations that are not trained on ----


Held = dict[tuple[str, str], frozenset[tuple[str, str]]]  # of two attributes, pairs of values


def held_out(names: dict[str, list[str]], *pairs: tuple[str, str]) -> Held:
    """A tenth of the pairs of values of each two attributes, or fewer where one has few values, chosen by their hash,
    no value twice."""
    chosen: Held = {}
    for one, other in pairs:
        every = [(a, b) for a, b in itertools.product(names[one], names[other]) if a != b]
        order = sorted(every, key=lambda pair: hashlib.blake2b(" ".join(pair).encode()).digest())
        found: list[tuple[str, str]] = []
        for a, b in order:
            if len(found) < len(every) / 10 and not any(a == c or b == d for c, d in found):
                found.append((a, b))
        chosen[one, other] = frozenset(found)
    return chosen


UNSEEN = held_out(NAMES, ("petals", "centre"), ("shape", "count"))


def unseen(values: Values, held: Held = UNSEEN) -> set[tuple[str, str]]:
    """The pairs of attributes, of those held out, whose values together are not trained on."""
    return {pair for pair, of in held.items() if (values[pair[0]], values[pair[1]]) in of}


# ---- words ----


def words(text: str) -> list[str]:
    """Lower-cased, without marks; a hyphen parts."""
    return re.findall(r"\w+(?:'\w+)*", text.lower().replace("’", "'").replace("_", " "))


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Padding, start, and every word that there is, in alphabetical order."""
    return _SPECIAL + sorted({word for text in texts for word in words(text)})


def encode(texts: Sequence[str], known: Sequence[str], length: int) -> Int[Tensor, "n length"]:
    """START and the numbers of the words, padded to `length`. A text without words is START alone: nothing is asked
    for. Raises DataError for a word that is not known, naming those that are most like it, and for a text too long."""
    number = {word: i for i, word in enumerate(known)}
    found = torch.full((len(texts), length), PAD, dtype=torch.int64)
    for i, text in enumerate(texts):
        said = words(text)
        if strange := [word for word in said if word not in number]:
            near = difflib.get_close_matches(strange[0], known[len(_SPECIAL) :], 3, 0.5)
            like = f"like it: {', '.join(near)}" if near else f"known: {', '.join(known[len(_SPECIAL) :])}"
            raise DataError(f"the word {strange[0]!r} was in no caption; {like}")
        if len(said) >= length:
            raise DataError(f"{len(said)} words are too many: at most {length - 1}, in {text!r}")
        found[i, : len(said) + 1] = torch.tensor([START, *(number[word] for word in said)])
    return found


def contradictions(text: str) -> list[tuple[str, str]]:
    """Pairs of words that cannot both be true of one flower: single and double, two shapes, two numbers, and colours
    that follow each other, as in "red blue petals"; but the last before a centre or a ground is of that."""
    said = words(text)
    exclusive = [
        [[shape.split()[0] for shape in ways] for ways in SHAPES.values()],
        [[digits, name] for digits, name in COUNTS.items()],
        [["single"], ["double"]],
    ]
    found = []
    for groups in exclusive:
        there = [next(w for w in group if w in said) for group in groups if any(w in said for w in group)]
        found += [(there[0], other) for other in there[1:]]
    colours, own = {*NAMES["petals"], *NAMES["centre"]} - {"dark"}, {"leaves", "earth", "sky", *MIDDLES}
    for clause in re.split(r"[,.;:]", text):
        run: list[str] = []
        for word in [*words(clause), ""]:
            if word in colours:
                run.append(word)
            elif word != "and":
                run = run[:-1] if word in own else run
                found += [(run[0], other) for other in run[1:] if other != run[0]]
                run = []
    return found
