"""Four voices on a grid of sixteenths: cells of tokens, the pitches that sound in them, and notes with times.

A cell is one sixteenth of one voice. Its token says whether the voice holds what it has, rests, or strikes a pitch.
Axes: t sixteenths, v voices (soprano, alto, tenor, bass), n notes. Pitches are MIDI numbers: 60 is middle C.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

HOLD, REST = 0, 1
LOWEST, HIGHEST = 36, 81
KINDS = 2 + HIGHEST - LOWEST + 1  # of tokens
NAMES = ("soprano", "alto", "tenor", "bass")
RANGES = ((60, 81), (53, 76), (46, 71), (36, 66))  # of each voice, in the chorales of J. S. Bach
BAR = 16  # sixteenths of a bar of four quarters


class Notes(NamedTuple):
    """n notes in the order of their starts, times in seconds. `velocity`: how loud, 1 to 127."""

    start: Float[Tensor, "n"]
    duration: Float[Tensor, "n"]
    pitch: Int[Tensor, "n"]
    velocity: Int[Tensor, "n"]
    voice: Int[Tensor, "n"]


def sounding(cells: Int[Tensor, "*b t v"]) -> Int[Tensor, "*b t v"]:
    """The pitch of each cell, 0 where the voice rests. A hold before anything was struck is a rest."""
    t = torch.arange(cells.shape[-2], device=cells.device)[:, None]
    last = torch.where(cells == HOLD, -1, t).cummax(dim=-2).values
    token = torch.where(last < 0, REST, cells.gather(-2, last.clamp(min=0)))
    return torch.where(token == REST, 0, token - 2 + LOWEST)


def tokens(pitch: Int[Tensor, "*b t v"], struck: Bool[Tensor, "*b t v"]) -> Int[Tensor, "*b t v"]:
    """Cells of pitches (0: rest), where each is struck or begins to rest; the first sixteenth is never held. Raises
    ValueError for a pitch that has no token."""
    if outside := [p for p in pitch.unique().tolist() if p and not LOWEST <= p <= HIGHEST]:
        raise ValueError(f"pitch {outside[0]} is not within {LOWEST} to {HIGHEST}")
    token = torch.where(pitch == 0, REST, pitch - LOWEST + 2)
    held = (~struck | (pitch == 0)) & (pitch == pitch.roll(1, -2))
    held[..., 0, :] = False
    return torch.where(held, HOLD, token)


def notes(cells: Int[Tensor, "t v"], tempo: float) -> Notes:
    """`tempo`: quarters a minute. All are equally loud."""
    second, t = 15 / tempo, len(cells)
    pitch, rows = sounding(cells), list[tuple[int, int, int, int]]()
    for voice in range(cells.shape[1]):
        begins = [i for i in range(t) if i == 0 or cells[i, voice] != HOLD]
        for begin, end in zip(begins, [*begins[1:], t], strict=True):
            if pitch[begin, voice]:
                rows.append((begin, voice, end - begin, int(pitch[begin, voice])))
    start, voice_, length, high = torch.tensor(sorted(rows), dtype=torch.int64).view(-1, 4).unbind(1)
    return Notes(start * second, length * second, high, torch.full_like(high, 80), voice_)


def transposed(cells: Int[Tensor, "*b t v"], by: Int[Tensor, "*b"] | int) -> Int[Tensor, "*b t v"]:
    """All pitches so many semitones higher."""
    by = torch.as_tensor(by, device=cells.device)[..., None, None]
    return torch.where(cells >= 2, cells + by.to(cells.dtype), cells)


def shifts(pitch: Int[Tensor, "*b t v"]) -> tuple[Int[Tensor, "*b"], Int[Tensor, "*b"]]:
    """By how many semitones pitches (0: rest) can be transposed at least and at most so that every voice stays in its
    range; what lies outside of it already is not moved further out."""
    # Written there: a CUDA graph cannot hold a copy to its device.
    low, high = (torch.cat([torch.full_like(pitch[..., 0, :1], r[i]) for r in RANGES], -1) for i in (0, 1))
    least = torch.where(pitch > 0, pitch, 999).amin(-2)
    most = torch.where(pitch > 0, pitch, -999).amax(-2)
    return (low - least).amax(-1).clamp(max=0), (high - most).amin(-1).clamp(min=0)


def signature(pitch: Int[Tensor, "*b"]) -> int:
    """The key signature (sharps, below 0 flats) whose scale has most of the pitches (0: rest); of equals the
    simplest."""
    counts = torch.bincount(pitch[pitch > 0].flatten() % 12, minlength=12)
    scale = lambda fifths: [(7 * (fifths + i)) % 12 for i in range(-1, 6)]  # noqa: E731
    return max(sorted(range(-6, 7), key=abs), key=lambda fifths: int(counts[scale(fifths)].sum()))
