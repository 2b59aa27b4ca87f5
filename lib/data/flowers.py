"""Flowers: drawn by lib/data/petals.py, with exact attributes, or photographs (lib/data/oxford.py).

For one flower in two versions, draw the same seeds twice with one attribute fixed:

    blue, red = (draw("test", 500, petals=colour) for colour in ("blue", "red"))
"""

from collections.abc import Sequence
from pathlib import Path

from lib.data import albums, drawing, oxford, petals
from lib.data.albums import Part, Pictures, labelled, seeds_of, split_sizes

KIND = drawing.Kind("flowers", petals.flower, ("resvg-py",))
PHOTOGRAPHS = {"flowers102": oxford.flowers102, "flowers17": oxford.flowers17}


def load(data: str = "default", data_dir: Path | None = None, size: int = 64, n: int = 10_000) -> Pictures:
    """RGB flowers of `size` x `size` pixels. `data`: "default" (drawn: `n` for training, a tenth as many each for
    validation and test), "flowers102" (Oxford's; from their host, or under `data_dir`) or "flowers17" (under
    `data_dir`). Raises DataError."""
    if data in PHOTOGRAPHS:
        return albums.split(data, PHOTOGRAPHS[data](data_dir, size))
    train, val, test = (draw(split, count, size) for split, count in split_sizes(n).items())
    return Pictures("flowers", train, val, test, petals.NAMES)


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
