"""Flowers with attributes, drawn by lib/data/petals.py.

For one flower in two versions, draw the same seeds twice with one attribute fixed:

    blue, red = (draw("test", 500, petals=colour) for colour in ("blue", "red"))
"""

from collections.abc import Sequence

from lib.data import drawing, petals
from lib.data.faces import Faces, Part, labelled, seeds_of, split_sizes

KIND = drawing.Kind("flowers", petals.flower, ("resvg-py",))


def load(size: int = 64, n: int = 10_000) -> Faces:
    """`n` flowers for training, a tenth as many each for validation and test, of `size` x `size` pixels."""
    train, val, test = (draw(split, count, size) for split, count in split_sizes(n).items())
    return Faces("flowers", train, val, test, petals.NAMES)


def draw(split: str, seeds: int | Sequence[str], size: int = 64, **fixed: str) -> Part:
    """One flower a seed; `seeds`: these, or the first so many of the split ("train-0", "val-0" or "held-0" and so on).
    `fixed`: values of attributes that all are to have (lib/data/petals.NAMES); the same seed is the same flower in all
    else, but for petals and centre that would have one colour. Raises ValueError for a seed of another split, and for
    values that there are not."""
    for name, value in fixed.items():
        known = petals.NAMES.get(name, [])
        if value not in known:
            raise ValueError(f"no flower has {name}={value}: {name} is {' or '.join(known) or 'nothing'}")
    return labelled(drawing.draw(KIND, seeds_of(split, seeds), {"size": size, **fixed}), petals.NAMES)
