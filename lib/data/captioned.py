"""Pictures with sentences about them."""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from lib.data import captions, flowers, petals
from lib.data.albums import PREFIX, Pictures, split_sizes
from lib.data.paraphrases import PARAPHRASES

WAYS = 8  # sentences of each training picture
TOLD = 0.8  # probability that a sentence tells an attribute


class Captioned(NamedTuple):
    """`texts`: the sentences of each training picture, equally many."""

    pictures: Pictures
    texts: list[list[str]]


class Prompts(NamedTuple):
    """Sentences to draw for; what is wanted of each attribute, and which of them the sentence tells."""

    texts: list[str]
    wanted: dict[str, Int[Tensor, "n"]]
    told: dict[str, Bool[Tensor, "n"]]


def load(size: int = 64, n: int = 10_000) -> Captioned:
    """Drawn flowers none of which shows a pair of captions.UNSEEN. Raises DataError."""
    seeds = {split: shown(split, count) for split, count in split_sizes(n).items()}
    train, val, test = (flowers.draw(split, found, size) for split, found in seeds.items())
    values = [petals.attributes(seed, {}) for seed in seeds["train"]]
    texts = [
        [captions.caption(f"{seed} {way}", one, TOLD)[0] for way in range(WAYS)]
        for seed, one in zip(seeds["train"], values, strict=True)
    ]
    return Captioned(Pictures("flowers", train, val, test, petals.NAMES), texts)


def held_out(size: int, n: int) -> UInt8[Tensor, "m 3 size size"]:
    """The test pictures of `load` alone."""
    return flowers.draw("test", shown("test", split_sizes(n)["test"]), size).pixels


def vocabulary() -> list[str]:
    """All words of the grammar, whichever pictures are trained on."""
    seeds = [f"words-{i}" for i in range(2000)]
    return captions.vocabulary(captions.caption(seed, petals.attributes(seed, {}), 1.0)[0] for seed in seeds)


def shown(split: str, n: int) -> list[str]:
    """The first n seeds of a split whose flowers have no pair of values that is held out."""
    every = (f"{PREFIX[split]}{i}" for i in itertools.count())
    return list(itertools.islice((s for s in every if not captions.unseen(petals.attributes(s, {}))), n))


def prompts(n: int, told: float = 1.0, split: str = "test", pair: tuple[str, str] | None = None) -> Prompts:
    """Sentences about n flowers of a split. With `pair`, two attributes, their values are ones that are held out, taken
    in turn; without it no sentence has such a pair."""
    seeds, held = shown(split, n), sorted(captions.UNSEEN[pair]) if pair else []
    fixed = [dict(zip(pair, held[i % len(held)], strict=True)) if pair else {} for i in range(n)]
    return _told(seeds, [petals.attributes(seed, of) for seed, of in zip(seeds, fixed, strict=True)], told)


def paraphrases() -> Prompts:
    """Sentences in other words than those that are trained on."""
    texts, values = zip(*PARAPHRASES, strict=True)
    wanted = {name: [known.index(of.get(name, known[0])) for of in values] for name, known in petals.NAMES.items()}
    return Prompts(
        list(texts),
        {name: torch.tensor(of) for name, of in wanted.items()},
        {name: torch.tensor([name in of for of in values]) for name in petals.NAMES},
    )


def changed(n: int, split: str = "test") -> tuple[Prompts, Prompts]:
    """Sentences about n flowers that tell everything, and the same with another value of one attribute, each in its
    turn: that alone is told by the second, as `told` has it. No sentence has a pair that is held out."""
    seeds = shown(split, n)
    before = [petals.attributes(seed, {}) for seed in seeds]
    names = list(itertools.islice(itertools.cycle(petals.NAMES), n))
    after = [_another(values, name) for values, name in zip(before, names, strict=True)]
    changed = {name: torch.tensor([name == one for one in names]) for name in petals.NAMES}
    return _told(seeds, before, 1.0), _told(seeds, after, 1.0)._replace(told=changed)


def _another(values: captions.Values, name: str) -> captions.Values:
    """With the next value of an attribute that can be."""
    known = petals.NAMES[name]
    at = known.index(values[name])
    made = [values | {name: value} for value in known[at + 1 :] + known[:at]]
    return next(one for one in made if one["petals"] != one["centre"] and not captions.unseen(one))


def _told(seeds: list[str], values: list[captions.Values], told: float) -> Prompts:
    made = [captions.caption(f"{seed} prompt", one, told) for seed, one in zip(seeds, values, strict=True)]
    return Prompts(
        [text for text, _ in made],
        {name: torch.tensor([known.index(one[name]) for one in values]) for name, known in petals.NAMES.items()},
        {name: torch.tensor([name in names for _, names in made]) for name in petals.NAMES},
    )
