"""Faces translated between two domains without pairs: how well, how they are shown, and what a person asks for.

Faces and translations have values in [-1, 1].
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tyro.conf import Positional

from lib import plot, run
from lib.answers import Answer, Picture
from lib.data.domains import Domains, Held
from lib.data.pixels import read
from lib.faults import RunError
from lib.tasks.judge import Judge

SHOWN = 8  # faces of a row


class Translators(NamedTuple):
    ab: Callable[[Tensor], Tensor]  # from domain a to b
    ba: Callable[[Tensor], Tensor]


@torch.no_grad()
def applied(translate: Callable[[Tensor], Tensor], x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """The translations of any number of faces."""
    return torch.cat([translate(part) for part in x.split(50)])


def evaluate(g: Translators, held: Held, judge: Judge, what: str) -> tuple[dict[str, float], dict[str, float]]:
    """Of translations from a to b and from b to a: mean absolute errors of pixel values in [0, 1], of the round trip
    and, where there are pairs, of hair and of all else beside doing nothing; shares of the faces in which the judge
    sees the wanted domain (`agreement`), and each other attribute as it was (`kept`). `what`: the attribute that tells
    domains apart."""
    x, found = Domains(*(pixels / 127.5 - 1 for pixels in held.pixels)), []
    for source, target, there, return_ in ((0, 1, g.ab, g.ba), (1, 0, g.ba, g.ab)):
        new = applied(there, x[source])
        values = {"cycle_l1": float((applied(return_, new) - x[source]).abs().mean()) / 2}
        if held.hair is not None:
            off = lambda y, where: float(((y - x[target]).abs() * where).sum() / where.sum() / 6)  # noqa: B023, E731
            values |= {"hair_l1": off(new, held.hair), "hair_l1_nothing": off(x[source], held.hair)}
            values["other_l1"] = off(new, ~held.hair)
        was = held.attributes[source]
        seen = judge.agreement(new, {what: torch.full((len(new),), target, device=new.device), **was})
        values["agreement"] = seen.pop(what)
        values["disagreement"] = 1 - values["agreement"]
        found.append(values | ({"kept": sum(seen.values()) / len(seen)} if seen else {}))
    return found[0], found[1]


def report(ways: tuple[dict[str, float], dict[str, float]], names: list[str]) -> tuple[dict[str, float], list[str]]:
    """Final values by tag, and the table to print."""
    columns = {
        "hair_l1": "hair L1", "hair_l1_nothing": "(nothing done)", "other_l1": "other L1", "cycle_l1": "round trip L1",
        "agreement": "right hair" if "hair_l1" in ways[0] else "right domain", "kept": "rest kept",
    }  # fmt: skip
    columns = {name: title for name, title in columns.items() if name in ways[0]}
    result, lines = dict[str, float](), [" " * 16 + "".join(f"{title:>16}" for title in columns.values())]
    for target, values in zip(names[::-1], ways, strict=True):
        result |= {f"test/{name}/to_{target}": values[name] for name in columns}
        lines.append(f"to {target:<13}" + "".join(f"{values[name]:16.4f}" for name in columns))
    return result | {f"test/{name}": (ways[0][name] + ways[1][name]) / 2 for name in columns}, lines


def sheet(g: Translators, x: Domains, to: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Faces, their translations and these translated back, row by row: from a to b (`to` 1), from b to a (0), or both
    one below the other."""
    ways = {1: (g.ab, g.ba, x.a), 0: (g.ba, g.ab, x.b)}
    rows = []
    for there, return_, real in ways.values() if to is None else [ways[to]]:
        new = applied(there, real)
        for i in range(0, len(real), SHOWN):
            rows += [part[i : i + SHOWN] for part in (real, new, applied(return_, new))]
    filled = [torch.cat([row, row.new_ones(min(SHOWN, len(rows[0])) - len(row), *row.shape[1:])]) for row in rows]
    return plot.tile(torch.cat(filled) / 2 + 0.5, len(filled[0]))


# ---- using it ----


class Model(NamedTuple):
    """`names`: of the domains; `size`: pixels of a side; `held(n)`: up to n held-out faces of each domain, uint8."""

    g: Translators
    names: list[str]
    size: int
    held: Callable[[int], Domains]


@dataclass(frozen=True)
class Use(run.Use):
    """Translate faces with the latest finished run: each, its translation, and that translated back."""

    pictures: Positional[tuple[Path, ...]] = ()
    """Photographs or drawings of one's own, each with a face in the middle that is not of the domain --to."""
    n: run.Count = SHOWN
    """Held-out faces of each domain, where no pictures are given."""
    to: run.Named[str | None] = None
    """Domain to translate into, such as blond; without it held-out faces are translated into both."""
    out: run.NewFile = Path("translated.png")
    """Where to save the picture."""


def answers(use: Use, model: Model) -> Iterator[Answer]:
    """One picture. Raises DataError, and RunError where --to is missing or is no domain of the run."""
    names = model.names
    if use.to is not None and use.to not in names:
        raise RunError(f"--to {use.to}: this run translates into {names[0]} or {names[1]}")
    if use.pictures and use.to is None:
        raise RunError(f"a picture needs --to {names[0]} or --to {names[1]}")
    if use.pictures:
        x = torch.stack([read(file, model.size, channels=3) for file in use.pictures])
        pixels = Domains(x, x)
    else:
        pixels = model.held(use.n)
    to = None if use.to is None else names.index(use.to)
    content = sheet(model.g, Domains(*(x / 127.5 - 1 for x in pixels)), to)
    one = to is not None and len(pixels[1 - to]) <= SHOWN
    caption = "each row of faces above its translations and these translated back"
    yield Picture(content, use.out, caption, versions=3 * one)
