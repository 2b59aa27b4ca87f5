"""What is asked of a model of chorales: compose, harmonise a melody, go on with a piece, fill what is missing, say how
likely a piece is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tyro.conf import Positional, arg

from lib import random, run
from lib.answers import Answer, Document, Note, Picture, Table
from lib.data import midi, musicxml, pieces, sheet, voices
from lib.data.pieces import Piece
from lib.faults import RunError
from lib.models.chorale import Music
from lib.tasks import composer, heard, music
from lib.tasks.composer import Composer
from lib.tasks.heard import Heard

LETTERS = "SATB"
Source = Positional[Annotated[run.Example, arg(metavar="NUMBER|FILE")]]


@dataclass(frozen=True)
class Filed(Heard):
    tempo: Annotated[float, run.Range(20, 300)] = composer.TEMPO
    """Quarters a minute."""


@dataclass(frozen=True)
class Written(Filed):
    temperature: run.Amount = composer.TEMPERATURE
    """Above 1 the music is bolder, below 1 safer; 0: the likeliest cell each time."""
    top_p: run.Share = composer.TOP_P
    """Sample among the likeliest tokens that together have this probability."""


@dataclass(frozen=True)
class Compose(Written):
    """Write chorales from nothing with the latest finished run."""

    n: run.Count = 4
    """How many."""
    bars: run.Count = composer.BARS
    """Bars of four quarters."""


@dataclass(frozen=True)
class Harmonise(Written):
    """Write alto, tenor and bass to a melody."""

    melody: Source = "0"
    """A file (MIDI or MusicXML) with the melody alone, or the number of a test chorale, whose soprano is taken."""
    n: run.Count = 1
    """In how many ways."""


@dataclass(frozen=True)
class Continue(Written):
    """Go on with the beginning of a piece."""

    piece: Source = "0"
    """A file (MIDI or MusicXML) in four parts, or the number of a test chorale."""
    given: run.Count = 2
    """Bars of it that are given, with its pickup."""
    bars: run.Count = composer.BARS
    """Bars in all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.given >= self.bars:
            raise ValueError(f"--given {self.given} of --bars {self.bars} in all leaves nothing to write")


@dataclass(frozen=True)
class Fill(Written):
    """Write voices or bars of a piece anew, so that they fit all else."""

    piece: Source = "0"
    """A file (MIDI or MusicXML) in four parts, or the number of a test chorale."""
    voices: str = "ATB"
    """Which voices: letters of SATB."""
    bars: tuple[run.Count, run.Count] | None = None
    """The first and the last bar to write, the pickup not counted; all if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.voices or set(self.voices.upper()) - set(LETTERS):
            raise ValueError(f"--voices {self.voices}: letters of {LETTERS}, for soprano, alto, tenor and bass")
        if self.bars and self.bars[0] > self.bars[1]:
            raise ValueError(f"--bars {self.bars[0]} {self.bars[1]}: the first comes first")


@dataclass(frozen=True)
class Likelihood(run.Use):
    """Say how likely pieces are, in nats for each cell, sixteenth and note."""

    pieces: Positional[tuple[run.Example, ...]] = ("0", "1", "2", "3")
    """Files (MIDI or MusicXML) in four parts, or numbers of test chorales."""


Use = Compose | Harmonise | Continue | Fill | Likelihood


def answers(use: Use, model: Composer) -> Iterator[Answer]:
    """For each piece its files. Raises DataError, RunError."""
    if isinstance(use, Likelihood):
        found = [model.nats([_piece(name, model)]) for name in use.pieces]
        rows = [(name, *x.values()) for name, x in zip(use.pieces, found, strict=True)]
        yield Table(
            ("piece", "nats a cell", "a sixteenth", "a note"), rows, "{:<24}{:>12.3f}{:>14.3f}{:>10.3f}",
            f"{'piece':<24}{'nats a cell':>12}{'a sixteenth':>14}{'a note':>10}",
        )  # fmt: skip
        return
    given, known, like = _asked(use, model)
    t = given.cells.shape[1]
    if t > model.length:
        most = f"the {model.length} that this run has learnt to write"
        raise RunError(f"{t} sixteenths are more than {most}: take a shorter piece, or train with a larger --length")
    name = use.melody if isinstance(use, Harmonise) else getattr(use, "piece", "0")
    yield from moved(name)
    key = random.key(use.seed, model.device) if use.temperature > 0 else None
    training = music.windows(model.data().train) if use.copy_check else None
    for i, cells in enumerate(model.write(given, known, key, use.temperature or 1.0, use.top_p)):
        bar, fifths = (like.bar, like.fifths) if like else (voices.BAR, voices.signature(voices.sounding(cells)))
        piece = Piece(f"Chorale {i}", cells, given.place[i], bar, fifths)
        yield from files(use, i, piece)
        if training is not None:
            yield copied(music.windows([piece]), training)


def _asked(use: Use, model: Composer) -> tuple[Music, Bool[Tensor, "n t 4"], Piece | None]:
    """What is to be written: with cells and places, which of the cells are known, and of which piece they are. Raises
    DataError, RunError."""
    match use:
        case Harmonise():
            piece = melody(use.melody, lambda: model.data().test)
            given, known = _given(piece, len(piece.cells), use.n)
            known[..., 1:] = False
        case Continue():
            piece = _piece(use.piece, model)
            given, known = _given(piece, _bar(piece, use.bars + 1), 1)
            known[:, _bar(piece, use.given + 1) :] = False
        case Fill():
            piece = _piece(use.piece, model)
            given, known = _given(piece, len(piece.cells), 1)
            first, last = use.bars or (1, len(piece.cells))
            begin = 0 if use.bars is None else _bar(piece, first)
            if begin >= len(piece.cells):
                raise RunError(f"--bars {first} {last}: the piece ends before")
            for letter in use.voices.upper():
                known[:, begin : _bar(piece, last + 1), LETTERS.index(letter)] = False
        case Compose():
            given = composer.blank(use.n, voices.BAR * use.bars)
            return given, torch.zeros_like(given.cells, dtype=torch.bool), None
        case _:
            raise TypeError(use)
    return given, known, piece


def files(use: Filed, i: int, piece: Piece) -> Iterator[Answer]:
    """The piece as MIDI, MusicXML, sound and pictures, under its number."""
    yield from heard.files(use, i, voices.notes(piece.cells, use.tempo), voices.NAMES, use.tempo, midi.CHOIR)
    score = musicxml.written(piece.cells, piece.place, piece.fifths, piece.name, use.tempo, piece.bar)
    yield Document(score, use.out / f"{i}.musicxml")
    if (drawn := sheet.score(score)) is not None:
        yield Picture(drawn, use.out / f"{i}-score.png", scale=1)
    elif i == 0:
        yield Note("verovio draws the score where it is installed: uv pip install verovio")


def moved(name: str) -> Iterator[Note]:
    """How many notes of a file were moved to a sixteenth, if any."""
    if n := pieces.moved(name):
        yield Note(f"{n} notes of {name} lay between two sixteenths: each was moved to the nearest")


def copied(windows: Int[Tensor, "n t 4"], training: Int[Tensor, "m t 4"]) -> Note:
    """How near the nearest two bars of the training pieces are."""
    if not len(windows) or not len(training):
        return Note("no two whole bars of four quarters to compare")
    found = music.nearest(windows, training)
    return Note(
        f"cells as in the nearest two bars of the training pieces, in the best key: {found.mean():.0%} on average, "
        f"{found.max():.0%} at most"
    )


def _piece(name: str, model: Composer) -> Piece:
    return heard.chosen(name, lambda: model.data().test, pieces.four, "chorales")


def melody(name: str, held_out: Callable[[], Sequence[Piece]]) -> Piece:
    """The held-out chorale of that number, or a file's melody above voices that rest. Raises DataError, RunError."""
    return heard.chosen(name, held_out, pieces.melody, "chorales")


def _given(piece: Piece, t: int, n: int) -> tuple[Music, Bool[Tensor, "n t 4"]]:
    """The piece, n times, with t sixteenths: cut, or with room behind it."""
    spare = max(0, t - len(piece.cells))
    cells = torch.cat([piece.cells.long(), torch.zeros(spare, 4, dtype=torch.int64)])[:t]
    place = torch.cat([piece.place.long(), (int(piece.place[-1]) + 1 + torch.arange(spare)) % piece.bar])[:t]
    known = (torch.arange(t) < len(piece.cells))[:, None].expand(t, 4)
    many = lambda x: x.expand(n, *x.shape).clone()  # noqa: E731
    return Music(many(cells), many(place), many(t - torch.arange(t))), many(known)


def _bar(piece: Piece, number: int) -> int:
    """Where a bar begins, of those behind the pickup from 1 on; behind the end bars are as long as before."""
    starts = (piece.place == 0).nonzero().flatten().tolist() or [len(piece.cells)]
    return starts[number - 1] if number <= len(starts) else starts[-1] + (number - len(starts)) * piece.bar
