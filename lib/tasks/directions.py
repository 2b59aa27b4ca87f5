"""Sliders for a model whose codes are standard normal: the directions in which its pictures change most.

Axes: n pictures, z numbers of a code, k directions, h height, w width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from lib import plot, random, run
from lib.answers import Answer, Picture
from lib.tasks import pictures

Decode = Callable[[Tensor], Float[Tensor, "n 3 h w"]]
Slide = Annotated[float, run.Range(-6, 6)]
LATENTS = 4  # at which slopes are taken


@dataclass(frozen=True)
class Move(run.Use):
    """Move a face along the eight directions in which faces change most."""

    by: tuple[Slide, Slide, Slide, Slide, Slide, Slide, Slide, Slide] = (0.0,) * 8
    """How far along each, in standard deviations of a code; the first direction changes most."""
    number: run.Natural = 0
    """Which face, of those that the seed decides."""
    seed: run.Seed = 0
    """Decides, with its number, what a face looks like."""
    out: run.NewFile = Path("moved.png")
    """Where to save the picture."""


def directions(decode: Decode, width: int, k: int = 8) -> Float[Tensor, "k z"]:
    """Unit vectors, orthogonal, the first of which changes pictures most: eigenvectors of the mean of J'J, J the
    slopes of all pixels by the code (Wang & Ponce 2021, "The geometry of deep generative image models"), at LATENTS
    codes. Of the two signs the one whose largest number is above 0."""
    z = random.normal(random.key(1), (LATENTS, width))
    slopes = [torch.func.jacfwd(lambda code: decode(code[None])[0])(code).flatten(0, -2) for code in z]
    _, vectors = torch.linalg.eigh(sum(slope.T @ slope for slope in slopes).double())  # the largest last
    found = vectors.flip(1).T[:k].float()
    return found * found.gather(1, found.abs().argmax(1, keepdim=True)).sign()


def moved(use: Move, decode: Decode, found: Float[Tensor, "k z"]) -> Iterator[Answer]:
    """One picture. `decode`: pictures in [0, 1] of codes; `found`: `directions`."""
    z = pictures.latents([use.number], found.shape[1], use.seed)
    yield Picture(
        plot.tile(decode(z + torch.tensor([use.by[: len(found)]]) @ found), 1), use.out, caption=None, scale=4
    )
