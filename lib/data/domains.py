"""Faces of two domains, a and b, for translation without pairs: black and blond hair, or a folder with two subfolders.

`load` gives all faces and says what tells the domains apart, `held_out` the faces to measure on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Bool
from torch import Tensor

from lib import random, tree
from lib.data import albums, batches, faces
from lib.data.albums import Part, Pictures
from lib.faults import DataError
from lib.random import Key

COLOURS = ("black", "blond")


class Domains(NamedTuple):
    """Something of both domains."""

    a: Any
    b: Any


class Held(NamedTuple):
    """Held-out faces of both domains. Drawn ones are the same faces twice, which differ in `hair` only."""

    pixels: Domains
    attributes: Domains
    hair: Bool[Tensor, "n 1 h w"] | None


def load(data: str, data_dir: Path | None, size: int, n: int) -> tuple[Pictures, str, list[str]]:
    """All faces (of drawn ones `n`), the attribute that tells domains apart, and their names. Raises DataError."""
    known = data in ("default", *albums.KNOWN)
    what = "hair" if known else "class"
    found = faces.load(data, data_dir, size, hair=COLOURS if known else None, n=n)
    names = found.names.get(what, [])
    if len(names) != 2:
        has = f"it has {len(names)} ({', '.join(names)})" if names else "it has none"
        raise DataError(f"--data {data}: a folder of two subfolders of pictures, one a domain, is needed; {has}")
    for split, part in (("training", found.train), ("validation", found.val), ("test", found.test)):
        for i, name in enumerate(names):
            if not (part.attributes[what] == i).any():
                raise DataError(f"--data {data}: no face of {name} for {split}")
    return found, what, names


def held_out(split: str, n: int, size: int, found: Pictures | None, what: str) -> Held:
    """Up to n faces of each domain, of the split "val" or "test"; without `found` n drawn ones with hair of either
    colour."""
    hair = None
    if found is None:
        parts = [faces.draw(split, n, size, hair=colour) for colour in COLOURS]
        hair = faces.mask("hair", split, n, size)
    else:
        part = found.val if split == "val" else found.test
        rows = [(part.attributes[what] == i).nonzero()[:n, 0] for i in range(2)]
        parts = [Part(*tree.index(tuple(part), i)) for i in rows]
    attributes = Domains(*({k: v for k, v in x.attributes.items() if k != what} for x in parts))
    return Held(Domains(*(x.pixels for x in parts)), attributes, hair)


def numbers(key: Key, first: int, *, sizes: tuple[int, int], batch: int) -> Iterator[Domains]:
    """Numbers of faces of each domain from batch number `first` on, in orders that have nothing to do with each
    other."""
    orders = (batches.numbers(k, n, batch, first) for k, n in zip(random.split(key), sizes, strict=True))
    return map(Domains, *orders)
