"""Pieces of music on the grid of sixteenths (lib/data/voices.py), from files that people give: MIDI or MusicXML."""

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int, Int8
from torch import Tensor

from lib.data import files, midi, musicxml, voices
from lib.data.musicxml import Part
from lib.faults import DataError

SCORES = (".xml", ".musicxml", ".mxl")
ENDINGS = (*midi.ENDINGS, *SCORES)
LONGEST = 24  # sixteenths of a bar: three halves


class Piece(NamedTuple):
    """`place`: of each sixteenth in its bar, whose length is `bar`; a pickup begins late in its bar. `fifths`: sharps
    of the key signature, below 0 flats."""

    name: str
    cells: Int8[Tensor, "t 4"]
    place: Int[Tensor, "t"]
    bar: int
    fifths: int


def parts(path: Path) -> list[Part]:
    """The parts that have notes. Raises DataError."""
    if path.suffix.lower() in SCORES:
        found = musicxml.read(files.content(path), str(path))
    elif path.suffix.lower() in ENDINGS:
        found = midi.parts(path)
    else:
        raise DataError(f"{path}: neither MIDI (.mid) nor MusicXML ({', '.join(SCORES)})")
    if not (sounding := [part for part in found if part.notes]):
        raise DataError(f"{path} has no notes: choose another file")
    return sounding


def moved(path: str) -> int:
    """How many notes of a file lie between two sixteenths; of what is no file, none."""
    if path.isdecimal():
        return 0
    return sum((4 * note.start).denominator > 1 for part in parts(Path(path)) for note in part.notes)


def melody(path: Path) -> Piece:
    """A piece whose soprano is the only part, the other voices resting. Raises DataError for several parts or notes at
    once, for what no soprano sings, and for less than a bar."""
    found = parts(path)
    if len(found) > 1:
        raise DataError(f"{path} has {len(found)} parts: give the melody alone, or use the verb fill")
    pitches = [note.pitch for note in found[0].notes]
    low, high = voices.RANGES[0]
    if min(pitches) < low or max(pitches) > high:
        raise DataError(
            f"{path} goes from {min(pitches)} to {max(pitches)}, a soprano from {low} to {high}: transpose it"
        )
    return _sung(path, found)


def four(path: Path) -> Piece:
    """A piece in four parts, the highest first. Raises DataError."""
    found = parts(path)
    if len(found) != 4:
        raise DataError(f"{path} has {len(found)} parts with notes: soprano, alto, tenor and bass are needed")
    heights = [sum(note.pitch for note in part.notes) / len(part.notes) for part in found]
    if heights != sorted(heights, reverse=True):
        raise DataError(f"{path} has its parts in another order: soprano, alto, tenor and bass are needed")
    return _sung(path, found)


def _sung(path: Path, found: list[Part]) -> Piece:
    for part in found:
        ordered = sorted((round(4 * note.start), round(4 * (note.start + note.duration))) for note in part.notes)
        for (before, end), (start, _) in itertools.pairwise(ordered):
            where = f"{start / 4:g} quarters from its beginning"
            if start < end:
                raise DataError(f"{path} has several notes at once {where}: a voice sings one")
            if start == before:
                raise DataError(f"{path} has notes shorter than a sixteenth {where}: there is no cell for them")
    piece = placed(path.stem, found)
    if len(piece.cells) < piece.bar:
        raise DataError(f"{path} is shorter than a bar: give more of it")
    return piece


def placed(name: str, parts: Sequence[Part]) -> Piece:
    """Parts of a score on the grid, four or fewer, the highest first; the voices below rest. What begins between two
    sixteenths goes to the nearest. Raises DataError for a pitch that no voice has and for a bar that is too long."""
    t, first = max(1, round(4 * max(part.length for part in parts))), parts[0]
    pitch, struck = torch.zeros(t, 4, dtype=torch.int64), torch.zeros(t, 4, dtype=torch.bool)
    for voice, part in enumerate(parts):
        for note in part.notes:
            at = min(round(4 * note.start), t - 1)
            pitch[at : max(at + 1, round(4 * (note.start + note.duration))), voice] = note.pitch
            struck[at, voice] = not note.tied
    try:
        cells = voices.tokens(pitch, struck).to(torch.int8)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    bar = round(16 * Fraction(*first.times[0][1])) if first.times else voices.BAR
    if not 0 < bar <= LONGEST:
        raise DataError(f"{name} has bars of {bar} sixteenths, more than the {LONGEST} of any chorale")
    places = torch.tensor(list(_places(first.bars, bar, t)))
    return Piece(name, cells, places, bar, first.keys[0][1] if first.keys else voices.signature(pitch))


def _places(bars: list[Fraction], bar: int, t: int) -> Iterator[int]:
    """A short first bar is a pickup; of two short ones that make a whole one the second goes on (at a repeat)."""
    starts = [round(4 * start) for start in bars if round(4 * start) < t]
    before = bar
    for i, (start, end) in enumerate(zip(starts, [*starts[1:], t], strict=True)):
        length = end - start
        first = bar - length if length < bar and (i == 0 or before + length == bar) else 0
        before = length
        yield from (x % LONGEST for x in range(first, first + length))


def in_one_key(piece: Piece) -> Piece:
    """The piece brought to the scale without sharps and flats."""
    cells = piece.cells.long()
    moved = voices.transposed(cells, to_one_key(cells))
    return piece._replace(cells=moved.to(piece.cells.dtype), fifths=0)


def to_one_key(cells: Int[Tensor, "t v"]) -> int:
    """How many semitones bring cells to the scale without sharps and flats, as their notes tell: as few as leave each
    voice in its range, or else as few as there are tokens for; 0 where there are none, or no notes."""
    pitch = voices.sounding(cells)
    if not bool((pitch > 0).any()):
        return 0
    by = -7 * voices.signature(pitch) % 12
    ways = sorted((by, by - 12), key=abs)
    low, high = voices.shifts(pitch)
    room = voices.LOWEST - pitch[pitch > 0].min(), voices.HIGHEST - pitch.max()
    fitting = [way for way in ways if low <= way <= high] or [way for way in ways if room[0] <= way <= room[1]]
    return fitting[0] if fitting else 0
