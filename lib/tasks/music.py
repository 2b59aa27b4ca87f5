"""How music in four voices is measured, beside music that people wrote. No figure alone tells one from noise: all do.

Everything is of windows of two bars of four quarters, as cells (lib/data/voices.py). Axes: n windows, t sixteenths, v
voices.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.data import voices
from lib.data.pieces import Piece

WINDOW = 2 * voices.BAR
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 11), (0, 2, 3, 5, 7, 8, 10))  # major, harmonic and natural minor
TRIADS = ((0, 4, 7), (0, 3, 7), (0, 3, 6), (0, 4, 8))
SEVENTHS = ((0, 4, 7, 10), (0, 3, 7, 10), (0, 4, 7, 11), (0, 3, 6, 10), (0, 3, 6, 9), (0, 3, 7, 11))
LONG = 16  # sixteenths: durations from this one on are counted together
NAMES = {
    "chord": "chords on the beat", "parallels": "parallel fifths and octaves per 100 changes",
    "crossed": "frames with crossed voices", "outside": "out of the voice's range", "scale": "in the best key's scale",
    "onsets": "cells that begin a note", "durations": "durations, variation to training",
    "pitches": "pitch classes, variation to training", "nearest": "nearest training window, mean",
    "copied": "nearest training window, most",
}  # fmt: skip


def windows(pieces: Sequence[Piece]) -> Int[Tensor, "n t v"]:
    """All windows of two bars of four quarters that begin with a bar, each beginning with struck notes."""
    found, bars = [], torch.arange(WINDOW) % voices.BAR
    for piece in (piece for piece in pieces if piece.bar == voices.BAR):
        pitch = voices.sounding(piece.cells.long())
        for at in (piece.place == 0).nonzero().flatten().tolist():
            if torch.equal(piece.place[at : at + WINDOW].long(), bars):
                found.append(begun(piece.cells[at : at + WINDOW].long(), pitch[at]))
    return torch.stack(found) if found else torch.zeros(0, WINDOW, 4, dtype=torch.int64)


def begun(cells: Int[Tensor, "t v"], pitch: Int[Tensor, "v"]) -> Int[Tensor, "t v"]:
    """A stretch out of a piece, whose first cells strike the pitches that sound there."""
    return torch.cat([voices.tokens(pitch[None], torch.ones(1, 4, dtype=torch.bool)), cells[1:]])


def scores(cells: Int[Tensor, "n t v"], training: Int[Tensor, "m t v"], near: int = 200) -> dict[str, float]:
    """All figures of NAMES; the nearest windows are looked up for the first `near`."""
    found = harmony(cells)
    for name, count in (("durations", durations), ("pitches", pitch_classes)):
        found[name] = float((count(cells) - count(training)).abs().sum() / 2)
    agreement = nearest(cells[:near], training)
    most = float(agreement.max()) if len(agreement) else math.nan
    return found | {"nearest": float(agreement.mean()), "copied": most}


def unlike(own: dict[str, float], bach: dict[str, float]) -> float:
    """One number to choose between runs: the mean distance of the shares among `scores`."""
    shares = ("chord", "crossed", "outside", "scale", "onsets", "durations", "pitches")
    return sum(abs(own[name] - bach[name]) for name in shares) / len(shares)


def table(own: dict[str, float], bach: dict[str, float], what: str) -> list[str]:
    lines = [f"{what:<46}{'written':>10}{'Bach, test':>13}"]
    return lines + [f"{name:<46}{own[tag]:10.3f}{bach[tag]:13.3f}" for tag, name in NAMES.items() if tag in own]


def harmony(cells: Int[Tensor, "n t v"]) -> dict[str, float]:
    """What can be told without other music. A chord is a triad or a seventh chord, whole or without its fifth, a triad
    also without its third, or a unison; where a voice rests there is none. Parallels are counted where any pitch
    changes, for every two voices that move the same way from a fifth to a fifth or from an octave to an octave."""
    pitch = voices.sounding(cells)
    full = (pitch > 0).all(-1)
    beat = pitch[:, :: voices.BAR // 4]
    bits = (torch.ones_like(beat) << (beat % 12)).unbind(-1)
    chords = _chords(cells.device)[bits[0] | bits[1] | bits[2] | bits[3]][full[:, :: voices.BAR // 4]]
    both = full[:, 1:] & full[:, :-1] & (pitch[:, 1:] != pitch[:, :-1]).any(-1)
    parallel = torch.zeros_like(both, dtype=torch.int64)
    for a, b in itertools.combinations(range(4), 2):
        moves = pitch[:, 1:, [a, b]] - pitch[:, :-1, [a, b]]
        before, after = ((x[..., a] - x[..., b]).abs() % 12 for x in (pitch[:, :-1], pitch[:, 1:]))
        perfect = (before == after) & ((after == 0) | (after == 7))
        parallel += both & perfect & (moves[..., 0] * moves[..., 1] > 0)
    order = (pitch[..., :-1] < pitch[..., 1:]) & (pitch[..., :-1] > 0) & (pitch[..., 1:] > 0)
    low, high = torch.tensor(voices.RANGES, device=cells.device).unbind(1)
    outside = ((pitch < low) | (pitch > high))[pitch > 0]
    share = lambda x: float(x.float().mean()) if x.numel() else math.nan  # noqa: E731
    return {
        "chord": share(chords), "parallels": 100 * int(parallel.sum()) / max(1, int(both.sum())),
        "crossed": share(order.any(-1)), "outside": share(outside), "scale": share(_in_scale(pitch)),
        "onsets": share(cells >= 2),
    }  # fmt: skip


def _chords(device: torch.device) -> Bool[Tensor, "4096"]:
    """Whether the pitch classes whose bits are set are a chord."""
    kinds = [set(chord) for chord in TRIADS + SEVENTHS]
    kinds += [{*chord[:2], *chord[3:]} for chord in TRIADS + SEVENTHS] + [{0, chord[2]} for chord in TRIADS] + [{0}]
    table = torch.zeros(4096, dtype=torch.bool, device=device)
    for root in range(12):
        table[[sum(1 << (x + root) % 12 for x in kind) for kind in kinds]] = True
    return table


def _in_scale(pitch: Int[Tensor, "n t v"]) -> Float[Tensor, "n"]:
    """The share of each window's sounding cells in the scale that holds most of them."""
    classes = torch.stack([((pitch % 12 == c) & (pitch > 0)).flatten(1).sum(1) for c in range(12)], 1).float()
    scale = torch.zeros(36, 12, device=pitch.device)
    for i, (root, steps) in enumerate(itertools.product(range(12), SCALES)):
        scale[i, [(root + step) % 12 for step in steps]] = 1
    return (classes @ scale.T).amax(1) / classes.sum(1).clamp(min=1)


def durations(cells: Int[Tensor, "n t v"]) -> Float[Tensor, "l"]:
    """The shares of 0, 1, ... `LONG` or more sixteenths among durations of notes and rests that end in their window."""
    lanes = (cells != voices.HOLD).transpose(1, 2).flatten(0, 1)
    at = lanes.nonzero()
    follows = at[1:, 0] == at[:-1, 0]  # of the same voice and window
    length = (at[1:, 1] - at[:-1, 1])[follows].clamp(max=LONG)
    return torch.bincount(length, minlength=LONG + 1).float() / max(1, len(length))


def pitch_classes(cells: Int[Tensor, "n t v"]) -> Float[Tensor, "12"]:
    """The shares of C, C sharp, ... B among sounding cells."""
    pitch = voices.sounding(cells)
    counts = torch.bincount(pitch[pitch > 0] % 12, minlength=12).float()
    return counts / counts.sum().clamp(min=1)


def nearest(cells: Int[Tensor, "n t v"], training: Int[Tensor, "m t v"]) -> Float[Tensor, "n"]:
    """The share of cells in which a window sounds as its nearest training window, in the best of twelve keys; nan where
    there are none."""
    if not len(training):
        return torch.full((len(cells),), math.nan)
    pitch, other = (voices.sounding(x).flatten(1).to(torch.int8) for x in (cells, training))
    best = torch.zeros(len(pitch), device=cells.device)
    for by in range(-5, 7):
        moved = torch.where(pitch > 0, pitch + by, pitch)
        for i, window in enumerate(moved):
            best[i] = torch.maximum(best[i], (other == window).float().mean(1).max())
    return best
