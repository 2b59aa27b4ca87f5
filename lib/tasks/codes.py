"""What is asked of a model that turns faces into codes and codes into faces: new faces, ways from face to face,
reconstructions, and attributes given and taken away.

Axes: n faces, z numbers of a code, k directions, h height, w width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from tyro.conf import Positional

from lib import plot, random, run
from lib.answers import Answer, Picture
from lib.data.albums import Pictures
from lib.random import Key
from lib.tasks import arithmetic, pictures
from lib.tasks.arithmetic import Decode, Encode
from lib.tasks.directions import Move, moved


class Coder(NamedTuple):
    """`width`: numbers in a code, which are those of a standard normal distribution. `faces`: gives the data;
    `directions`: in which faces change most."""

    encode: Encode
    decode: Decode
    width: int
    size: int
    faces: Callable[[], Pictures]
    directions: Callable[[], Float[Tensor, "k z"]]

    def generated(self, n: int, key: Key) -> Float[Tensor, "n 3 h w"]:
        return self.decode(random.normal(key, (n, self.width)))

    def animation(self, a: Float[Tensor, "z"], b: Float[Tensor, "z"]) -> bytes:
        """A GIF of the way from one to the other and back, at least 192 pixels wide."""
        frames = self.decode(pictures.between(a, b, 24))
        return plot.gif(F.interpolate(frames, scale_factor=max(1, 192 // self.size)))

    def picked(self, asked: Sequence[str]) -> tuple[UInt8[Tensor, "n 3 h w"], list[int | None]]:
        """Test faces by number, and pictures in files. Raises DataError, RunError."""
        return pictures.picked(asked, lambda: self.faces().test.pixels, self.size)


@dataclass(frozen=True)
class Draw(run.Use):
    """Generate faces from random codes with the latest finished run."""

    n: run.Count = 64
    """How many faces."""
    out: run.NewFile = Path("samples.png")
    """Where to save the picture."""
    seed: run.Seed = 0
    """Decides what is generated."""


@dataclass(frozen=True)
class Way(run.Use):
    """Show the way from one face to another, as a strip; a .gif moves."""

    pictures: Positional[tuple[run.Example, run.Example]] = ("0", "1")
    """Two faces: numbers of test faces or picture files."""
    out: run.NewFile = Path("interpolation.png")
    """Where to save the picture."""


@dataclass(frozen=True)
class Reconstruct(run.Use):
    """Show faces above their reconstructions."""

    pictures: Positional[tuple[run.Example, ...]] = tuple(map(str, range(10)))
    """Numbers of test faces or picture files, of which the middle square is taken."""
    out: run.NewFile = Path("reconstruction.png")
    """Where to save the picture."""


@dataclass(frozen=True)
class Change(run.Use):
    """Give an attribute to faces, or take one away: faces, reconstructions and changed ones are shown."""

    pictures: Positional[tuple[run.Example, ...]] = ("0", "1", "2")
    """Numbers of test faces or picture files, of which the middle square is taken."""
    add: run.Named[str | None] = None
    """An attribute's value to give to the faces, such as glasses, blond or skin=brown."""
    remove: run.Named[str | None] = None
    """An attribute's value to take away from the faces."""
    strength: float = 2.0
    """How often the difference of mean codes is added."""
    out: run.NewFile = Path("arithmetic.png")
    """Where to save the picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.add or self.remove):
            raise ValueError("a change needs --add or --remove and an attribute's value")


@dataclass(frozen=True)
class Combine(run.Use):
    """Show the face of one group's mean code, less another's, plus a third's. All three groups are needed."""

    plus: tuple[run.Example, ...] = ()
    """Faces whose mean code is added: numbers of test faces or picture files."""
    minus: tuple[run.Example, ...] = ()
    """Faces whose mean code is subtracted."""
    base: tuple[run.Example, ...] = ()
    """Faces to whose mean code the difference is added."""
    out: run.NewFile = Path("arithmetic.png")
    """Where to save the faces of the three means and of the result, side by side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.plus and self.minus and self.base):
            raise ValueError("--plus, --minus and --base go together")


Use = Draw | Move | Way | Reconstruct | Change | Combine


def answers(use: Use, coder: Coder) -> Iterator[Answer]:
    """One picture. Raises DataError, RunError."""
    content: UInt8[Tensor, "3 h w"] | bytes
    frames = versions = 0
    match use:
        case Move():
            yield from moved(use, coder.decode, coder.directions())
            return
        case Draw():
            content = plot.tile(coder.generated(use.n, random.key(use.seed)), 8)
        case Way():
            a, b = coder.encode(coder.picked(use.pictures)[0])
            moving = use.out.suffix.lower() == ".gif"
            frames = 0 if moving else 10
            content = coder.animation(a, b) if moving else plot.tile(coder.decode(pictures.between(a, b, 10)), 10)
        case Reconstruct():
            x, _ = coder.picked(use.pictures)
            content, versions = plot.tile(torch.cat([x / 255, coder.decode(coder.encode(x))]), len(x)), 2
        case Change():
            x, numbers = coder.picked(use.pictures)
            code = coder.encode(x)
            versions, changed = 3, code + use.strength * _shift(use, coder, numbers)
            content = plot.tile(torch.cat([x / 255, coder.decode(code), coder.decode(changed)]), len(x))
        case Combine():
            x, _ = coder.picked((*use.plus, *use.minus, *use.base))
            parts = coder.encode(x).split([len(use.plus), len(use.minus), len(use.base)])
            plus, minus, base = (part.mean(0, keepdim=True) for part in parts)
            content = plot.tile(coder.decode(torch.cat([plus, minus, base, plus - minus + base])), 4)
    yield Picture(content, use.out, frames=frames, versions=versions)


def _shift(use: Change, coder: Coder, numbers: list[int | None]) -> Float[Tensor, "n z"]:
    """What is added to the codes of the faces with these numbers; of one without a number nothing is known."""
    found = coder.faces()
    mean = arithmetic.means(coder.encode(found.train.pixels), found.train, found.names)

    def own(name: str) -> list[int | None]:
        return [None if i is None else int(found.test.attributes[name][i]) for i in numbers]

    by = torch.zeros(())
    if use.add:
        by = by + arithmetic.shift(mean, found.names, use.add, own)
    if use.remove:
        by = by + arithmetic.shift_away(mean, found.names, use.remove, own)
    return by
