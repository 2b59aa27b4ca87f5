"""What is asked of a diffusion model of pictures: draw, show the way, turn one into another, edit, inpaint, say how
likely, compare samplers.

Pictures have values in [-1, 1]. Axes: n pictures, h height, w width, k noise levels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor
from tyro.conf import Positional

from lib import plot, random, run
from lib.answers import Answer, Picture, Table
from lib.data.pixels import read
from lib.faults import RunError
from lib.tasks import diffuser, pictures
from lib.tasks.diffuser import Diffuser, Sampler

ROW = "{:<10}{:>4}  KID {:.4f}  detail {:.5f}"


@dataclass(frozen=True)
class Shown(run.Use):
    out: run.NewFile = Path("samples.png")
    """Where to save the picture."""


@dataclass(frozen=True)
class Seeded(Shown):
    seed: run.Seed = 0
    """Decides what is drawn."""


@dataclass(frozen=True)
class Sampled(Seeded):
    steps: run.Count = 20
    """Steps from noise to picture."""


@dataclass(frozen=True)
class Draw(Seeded):
    """Draw pictures from noise with the latest finished run."""

    steps: run.Count | None = None
    """Steps from noise to picture; if not given, as many as the run's own samples have."""

    n: run.Count = 64
    """How many pictures; they are numbered from 0, row by row."""
    sampler: Sampler = "dpm"
    """DPM-Solver++(2M), Heun's method (two denoisings a step), DDIM, or the mean flow of --objective meanflow."""
    eta: run.Amount = 0.0
    """Share of new noise in each step of ddim: 1 is the ancestral sampler."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta > 1:
            raise ValueError(f"--eta {self.eta}: at most 1")
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"--eta {self.eta}: only --sampler ddim has new noise in its steps")


@dataclass(frozen=True)
class Strip(Sampled):
    """Show how pictures turn into noise, and what comes out of noise, row by row; a .gif moves."""

    pictures: Positional[tuple[run.Example, ...]] = ("0", "1", "2", "3")
    """Numbers of test pictures or files."""


@dataclass(frozen=True)
class Way(Shown):
    """Turn two pictures into noise, and show what lies between, as a strip; a .gif moves."""

    pictures: Positional[tuple[run.Example, run.Example]] = ("0", "1")
    """Two pictures: numbers of test pictures or files."""


@dataclass(frozen=True)
class Edit(Sampled):
    """Draw pictures anew from some way back: little strength changes details, much changes all."""

    pictures: Positional[tuple[run.Example, ...]] = ("0", "1", "2", "3")
    """Numbers of test pictures or files."""
    strength: run.Share = 0.5
    """Share of the steps that are taken back."""


@dataclass(frozen=True)
class Inpaint(Sampled):
    """Fill what a mask leaves open, in eight ways."""

    picture: Positional[run.Example] = "0"
    """Number of a test picture or a file."""
    mask: Path | None = None
    """Picture whose white pixels are to be filled; the right half if not given."""


@dataclass(frozen=True)
class Likelihood(run.Use):
    """Say how likely pictures are, in bits per dimension."""

    pictures: Positional[tuple[run.Example, ...]] = ("0", "1", "2", "3")
    """Numbers of test pictures or files."""


@dataclass(frozen=True)
class Compare(run.Use):
    """Compare samplers: the KID of what each draws in so many steps, against test pictures."""

    steps: Positional[tuple[run.Count, ...]] = (5, 10, 20, 50)
    """Numbers of steps."""
    n: run.Count = 1000
    """How many pictures each draws."""


Use = Draw | Strip | Way | Edit | Inpaint | Likelihood | Compare


def answers(use: Use, model: Diffuser) -> Iterator[Answer]:
    """One picture or table. Raises DataError, RunError."""
    picked = lambda asked: pictures.picked(asked, lambda: model.data().test.pixels, model.size)[0]  # noqa: E731
    scaled = lambda asked: picked(asked).to(model.levels(1, model.least).device) / 127.5 - 1  # noqa: E731
    columns = 8
    match use:
        case Compare():
            yield Table(("sampler", "steps", "KID", "detail"), list(diffuser.compared(model, use.steps, use.n)), ROW)
            return
        case Likelihood():
            device = model.levels(1, model.least).device
            bits = model.bits(picked(use.pictures).to(device), random.key(0, device)).tolist()
            yield Table(("picture", "bits per dimension"), list(zip(use.pictures, bits, strict=True)), "{:<12}{:8.3f}")
            return
        case Draw():
            x = model.drawn(model.noise(range(use.n), use.seed), use.sampler, use.steps or model.steps, use.eta)
        case Strip():
            x = scaled(use.pictures)
            noise = model.noise(range(len(x)), use.seed)
            there, back = diffuser.forward(model, x, noise), diffuser.strip(model, noise, use.steps)
            x, columns = torch.cat([there, back], 1).flatten(0, 1), there.shape[1] + back.shape[1]
        case Way():
            a, b = model.inverted(scaled(use.pictures)).flatten(1)
            between = pictures.between(a, b, 10, circle=True).unflatten(1, (3, model.size, model.size))
            x, columns = model.back(between), 10
        case Edit():
            x = scaled(use.pictures)
            x = torch.cat([x, model.edited(x, use.strength, model.noise(range(len(x)), use.seed), use.steps)])
            columns = len(use.pictures)
        case Inpaint():
            x = scaled([use.picture])
            known = _known(use.mask, model.size).to(x.device)
            found = model.filled(x.expand(8, -1, -1, -1), known, model.noise(range(8), use.seed), use.steps)
            x, columns = torch.cat([x, x * known, found]), 10
    caption = f"{len(x)} pictures"
    if use.out.suffix.lower() == ".gif":
        yield Picture(plot.gif(x / 2 + 0.5), use.out, caption)
        return
    frames, versions = columns * isinstance(use, Strip | Way), 2 * isinstance(use, Edit)
    yield Picture(plot.tile(x / 2 + 0.5, columns), use.out, caption, frames=frames, versions=versions)


def _known(mask: Path | None, size: int) -> Bool[Tensor, "1 h w"]:
    """Where a mask is not white. Raises RunError where nothing is."""
    if mask is None:
        return (torch.arange(size) < size // 2).expand(1, size, size)
    open_ = read(mask, size, 1) > 127
    if not open_.any():
        raise RunError(f"--mask {mask}: no pixel is white, so that nothing is to be filled")
    return ~open_
