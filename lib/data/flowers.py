"""Flowers with attributes, drawn by lib/data/petals.py.

For one flower in two versions, draw the same seeds twice with one attribute fixed:

    blue, red = (draw("test", 500, petals=colour) for colour in ("blue", "red"))
"""

from collections.abc import Sequence

import torch

from lib.data import drawing, petals
from lib.data.faces import Faces, Part, seeds_of

KIND = drawing.Kind("flowers", petals.flower, ("resvg-py",))


def load(size: int = 64, n: int = 10_000) -> Faces:
    """`n` flowers for training, a tenth as many each for validation and test, of `size` x `size` pixels."""
    counts = {"train": max(1, n), "val": max(2, n // 10), "test": max(2, n // 10)}
    train, val, test = (draw(split, count, size) for split, count in counts.items())
    return Faces("flowers", train, val, test, petals.NAMES)


def draw(split: str, seeds: int | Sequence[str], size: int = 64, **fixed: str) -> Part:
    """One flower a seed; `seeds`: these, or the first so many of the split ("train-0", "val-0" or "held-0" and so on).
    `fixed`: values of attributes that all are to have (lib/data/petals.NAMES); the same seed is the same flower in all
    else, but for a centre that would have the petals' colour. Raises ValueError for a seed of another split, and for
    values that there are not."""
    for name, value in fixed.items():
        if value not in petals.NAMES.get(name, []):
            raise ValueError(
                f"no flower has {name}={value}: {name} is {' or '.join(petals.NAMES.get(name, ['nothing']))}"
            )
    pixels, labels = drawing.draw(KIND, seeds_of(split, seeds), {"size": size, **fixed})
    found = {name: torch.from_numpy(labels[name]) for name in petals.NAMES}
    return Part(torch.from_numpy(pixels), {k: x.bool() if len(petals.NAMES[k]) == 2 else x for k, x in found.items()})
