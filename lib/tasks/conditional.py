"""Faces with requested attributes: what a conditional generator is asked for, how it is shown and measured.

Axes: n pictures, z latent, k values of all labels side by side, r rows, c columns, h height, w width.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tyro.conf import Positional

from lib import metrics, plot, run
from lib.answers import Answer, Picture
from lib.tasks import directions, pictures
from lib.tasks.judge import Judge
from lib.tasks.pictures import Names

STEPS = 6  # of a way, ends included


Draws = Callable[[Tensor, Tensor], Float[Tensor, "n 3 h w"]]


class Generator(NamedTuple):
    """`draw`: pictures in [0, 1] of latents of this size under labels. `names`: of each label's values, the two of
    which, where it has two, are `emphasis` apart (`pictures.one_hot`)."""

    draw: Draws
    latent: int
    names: Names
    emphasis: float

    def label(self, values: dict[str, Int[Tensor, "n"]]) -> Float[Tensor, "n k"]:
        return pictures.one_hot(values, self.names, self.emphasis)

    def crossed(self, z: Float[Tensor, "r z"], label: Float[Tensor, "c k"]) -> UInt8[Tensor, "3 h w"]:
        """A sheet with a row for each latent and a column for each label."""
        rows, columns = repeat(z, "r z -> (r c) z", c=len(label)), repeat(label, "c k -> (r c) k", r=len(z))
        return plot.tile(self.draw(rows, columns), len(label))

    def grid(self, z: Float[Tensor, "r z"]) -> UInt8[Tensor, "3 h w"]:
        """The same latents, one a row, under eight labels from the first combination of values to the last."""
        n = math.prod(map(len, self.names.values()))
        every = self.label(pictures.in_turn(n, self.names, {}))
        return self.crossed(z, every[torch.linspace(0, n - 1, min(8, n)).long()])

    def both(self, z: Float[Tensor, "r z"]) -> UInt8[Tensor, "3 h w"]:
        """Six by six: from the first latent to the second downwards, from the first label's first value to its last
        rightwards."""
        changed, *others = self.names
        ends = (dict.fromkeys(others, 0) | {changed: i} for i in (0, len(self.names[changed]) - 1))
        first, last = (self.label(pictures.in_turn(1, self.names, end))[0] for end in ends)
        way = pictures.between(z[0], z[1], STEPS, circle=True)
        return self.crossed(way, pictures.between(first, last, STEPS))

    def show(self, here: run.Place, n: int, z: Float[Tensor, "r z"]) -> None:
        here.writer.add_image("samples/grid", self.grid(z), n)
        here.writer.add_image("samples/arithmetic", self.both(z), n)

    def scores(self, z: Float[Tensor, "n z"], real: Float[Tensor, "m d"], judge: Judge) -> dict[str, float]:
        """KID against real features, and of each label how often the judge sees the value that was asked for."""
        turns = pictures.in_turn(len(z), self.names, {})
        wanted = {name: value.to(z.device) for name, value in turns.items()}
        x = 2 * self.draw(z, self.label(wanted)) - 1
        agreement = judge.agreement(x, wanted)
        values = {"kid": metrics.kid(real, judge.features(x))[0]}
        return values | {f"agreement/{name}": value for name, value in agreement.items()}


# ---- using it ----


@dataclass(frozen=True, kw_only=True)
class Requested(run.Use):
    """Faces have numbers from 0: number 3 is the same person under every label."""

    label: run.Named[tuple[str, ...]] = ()
    """What to ask for, such as: glasses blond. What is left open takes turns."""
    to: run.Named[tuple[str, ...]] = ()
    """Where a way from --label ends, which each face goes in six steps (label arithmetic)."""
    out: run.NewFile = Path("samples.png")
    """Where to save the picture."""
    seed: run.Seed = 0
    """Decides, with its number, what a face looks like."""


@dataclass(frozen=True)
class Draw(Requested):
    """Generate faces with requested attributes with the latest finished run. Number 3 is the same person under every
    label."""

    n: run.Count = 32
    """How many faces, numbered from 0."""


@dataclass(frozen=True)
class Way(Requested):
    """Show the way from one face to another, in six steps; with --to six by six."""

    pictures: Positional[tuple[int, int]]
    """Numbers of the two faces."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.pictures)


@dataclass(frozen=True)
class Combine(Requested):
    """Add and subtract latents: the faces are shown, and then the result."""

    plus: tuple[int, ...] = ()
    """Numbers of faces whose latents are added."""
    minus: tuple[int, ...] = ()
    """Numbers of faces whose latents are subtracted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.plus and not self.minus:
            raise ValueError("--plus or --minus needs the number of a face")
        _check((*self.plus, *self.minus))


def _check(numbers: Sequence[int]) -> None:
    if min(numbers) < 0:
        raise ValueError("faces are numbered from 0")


@dataclass(frozen=True)
class Move(directions.Move):
    """Move a face along the eight directions in which faces without a label change most."""

    label: run.Named[tuple[str, ...]] = ()
    """What to ask for, such as: glasses blond. What is left open is the first there is."""


Use = Draw | Way | Combine | Move


@functools.lru_cache(1)  # of the model that is used
def _directions(draw: Draws, latent: int, k: int) -> Float[Tensor, "d z"]:
    return directions.directions(lambda z: draw(z, torch.zeros(len(z), k)), latent)


def answers(use: Use, model: Generator) -> Iterator[Answer]:
    """One picture. Raises DataError for what no label is, and RunError for two values of one."""
    names, way = model.names, isinstance(use, Way)
    if isinstance(use, Move):
        one = model.label(pictures.in_turn(1, names, pictures.chosen(names, use.label)))
        found = _directions(model.draw, model.latent, one.shape[1])
        yield from directions.moved(use, lambda z: model.draw(z, one), found)
        return
    z = _latents(use, model)
    values = pictures.in_turn(1 if use.to or way else len(z), names, pictures.chosen(names, use.label))
    label = model.label(values)
    if use.to:
        ends = {name: int(x) for name, x in values.items()} | pictures.chosen(names, use.to)
        end = model.label(pictures.in_turn(1, names, ends))
        sheet = model.crossed(z, pictures.between(label[0], end[0], STEPS))
    else:
        sheet = plot.tile(model.draw(z, label.expand(len(z), -1)), min(8, len(z)))
    yield Picture(sheet, use.out, frames=STEPS * bool(use.to or way))


def _latents(use: Draw | Way | Combine, model: Generator) -> Float[Tensor, "n z"]:
    if isinstance(use, Draw):
        return pictures.latents(range(use.n), model.latent, use.seed)
    if isinstance(use, Way):
        first, last = pictures.latents(use.pictures, model.latent, use.seed)
        return pictures.between(first, last, STEPS, circle=True)
    z = pictures.latents([*use.plus, *use.minus], model.latent, use.seed)
    total = z[: len(use.plus)].sum(0) - z[len(use.plus) :].sum(0)
    return torch.cat([z, (total * z.norm(dim=1).mean() / total.norm().clamp(min=1e-6))[None]])  # as long as they are
