"""What is asked of a generator of two bars in four voices: draw, go from one piece to another, change one noise,
accompany a melody.

Axes: n pieces, t sixteenths, v voices, k kinds of tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import random, run, tree
from lib.answers import Answer
from lib.data import pieces, voices
from lib.data.pieces import Piece
from lib.faults import RunError
from lib.models import musegan
from lib.models.musegan import Config, Noise
from lib.random import Key
from lib.tasks import compose, music, pictures
from lib.tree import Tree

AT_ONCE = 250  # windows whose logits are made together


class Quartet(NamedTuple):
    """`temperature`: of the tokens that are drawn; None: the likeliest ones. `soft`: voices hear probabilities.
    `one_key`: it learnt in the key without sharps and flats. `training`: its windows, which are not always at hand;
    `test`: pieces."""

    generator: Tree
    cfg: Config
    temperature: float | None
    soft: bool
    one_key: bool
    training: Callable[[], Int[Tensor, "m t v"]]
    test: Callable[[], list[Piece]]

    @torch.no_grad()
    def logits(self, z: Noise) -> Float[Tensor, "n t v k"]:
        parts = zip(*(x.split(AT_ONCE) for x in z), strict=True)
        return torch.cat([musegan.generate(self.generator, Noise(*part), cfg=self.cfg) for part in parts])

    @torch.no_grad()
    def written(
        self, logits: Float[Tensor, "n t v k"], key: Key, given: Int[Tensor, "n t g"] | None = None, alike: bool = False
    ) -> Int[Tensor, "n t v"]:
        """Cells; `given`: of the upper voices. `alike`: all are drawn by the same chance."""
        if self.temperature is not None:
            shape = tuple(logits[:1].shape if alike else logits.shape)
            logits = logits + self.temperature * musegan.gumbel(key, shape)
        given = None if given is None else given.to(logits.device)
        return musegan.cells(musegan.write(self.generator, logits, self.soft, given)).cpu()

    def draw(self, z: Noise, key: Key, alike: bool = False) -> Int[Tensor, "n t v"]:
        """Two bars of each noise."""
        return self.written(self.logits(z), key, alike=alike)

    def accompany(self, piece: Piece, n: int, key: Key) -> Int[Tensor, "n t v"]:
        """Alto, tenor and bass to a piece's soprano, n times. It hears the piece in the key in which it learnt, as far
        as its notes tell theirs, two bars of noise after two bars; no voice leaves its range in the piece's own key.
        Raises RunError."""
        if "listen" not in self.generator:
            raise RunError("the voices of this run do not hear each other: train one without --no-listen")
        if piece.bar != voices.BAR:
            raise RunError(f"{piece.name} has bars of {piece.bar} sixteenths, all that it learnt has {voices.BAR}")
        soprano = piece.cells[:, :1].long()
        by = pieces.to_one_key(piece.cells.long()) if self.one_key else 0
        bars = (piece.place == 0).cumsum(0) + 1  # a pickup is the end of a second bar
        at = bars % 2 * voices.BAR + piece.place.clamp(max=voices.BAR - 1)
        k_z, k_token = random.split(key)
        z = musegan.noise(k_z, n * (int(bars[-1]) // 2 + 1), self.cfg)
        found = rearrange(self.logits(z), "(n w) t v k -> n w t v k", n=n)[:, bars // 2, at]
        found = found.masked_fill(~_sung(by).to(found.device), -torch.inf)
        given = voices.transposed(soprano, by).expand(n, -1, -1)
        return voices.transposed(self.written(found, k_token, given), -by)


def _sung(by: int) -> Bool[Tensor, "v k"]:
    """The tokens whose pitches, so many semitones lower, are in a voice's range; and holds and rests."""
    pitch = torch.arange(voices.KINDS) - 2 + voices.LOWEST - by
    low, high = torch.tensor(voices.RANGES)[..., None].unbind(1)
    return (pitch >= low) & (pitch <= high) | (torch.arange(voices.KINDS) < 2)


@dataclass(frozen=True)
class Draw(compose.Filed):
    """Generate pieces of two bars with the latest finished run."""

    n: run.Count = 4
    """How many."""


@dataclass(frozen=True)
class Accompany(compose.Filed):
    """Write alto, tenor and bass to a melody, which the voices hear as they are written."""

    melody: compose.Source = "0"
    """A file (MIDI or MusicXML) with the melody alone, or the number of a test chorale, whose soprano is taken."""
    n: run.Count = 1
    """In how many ways."""


@dataclass(frozen=True)
class Way(compose.Filed):
    """Go from one piece to another in eight steps, all in one file."""


@dataclass(frozen=True)
class Vary(compose.Filed):
    """Keep three of a piece's noises and draw one anew, eight times, all in one file."""

    change: Literal["chords", "style", "melody", "groove"] = "groove"
    """Which noise."""


Use = Draw | Accompany | Way | Vary


def answers(use: Use, model: Quartet) -> Iterator[Answer]:
    """For each piece its files. Raises DataError, RunError."""
    key, k_token = random.split(random.key(use.seed, tree.leaves(model.generator)[0].device))
    match use:
        case Draw():
            found = [_piece(cells) for cells in model.draw(musegan.noise(key, use.n, model.cfg), k_token)]
        case Accompany():
            piece = compose.melody(use.melody, model.test)
            yield from compose.moved(use.melody)
            found = [piece._replace(cells=cells) for cells in model.accompany(piece, use.n, key)]
        case Way():
            ends = musegan.noise(key, 2, model.cfg)
            z = Noise(*(pictures.between(x[0], x[1], 8, circle=True) for x in (end.flatten(1) for end in ends)))
            z = Noise(*(a.view(8, *b.shape[1:]) for a, b in zip(z, ends, strict=True)))
            found = [_piece(model.draw(z, k_token, alike=True).flatten(0, 1))]
        case Vary():
            first, fresh = (musegan.noise(k, n, model.cfg) for k, n in zip(random.split(key), (1, 8), strict=True))
            z = Noise(*(x.expand(8, *x.shape[1:]) for x in first))._replace(**{use.change: getattr(fresh, use.change)})
            found = [_piece(model.draw(z, k_token, alike=True).flatten(0, 1))]
    training = model.training() if use.copy_check else None
    for i, piece in enumerate(found):
        yield from compose.files(use, i, piece._replace(name=f"Piece {i}"))
        if training is not None:
            whole = isinstance(use, Accompany)
            windows = music.windows([piece]) if whole else piece.cells.view(-1, music.WINDOW, len(voices.NAMES))
            yield compose.copied(windows, training)


def _piece(cells: Int[Tensor, "t v"]) -> Piece:
    place = torch.arange(len(cells)) % voices.BAR
    return Piece("", cells, place, voices.BAR, voices.signature(voices.sounding(cells)))
