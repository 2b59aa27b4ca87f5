"""What is compared of performances: stretches, histograms, copies, and how likely counts of three events find them.

Axes: n events or notes, k bins.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.data import performances
from lib.data.voices import Notes
from lib.tasks import writing

TOGETHER = 0.04  # seconds between strikes of one chord


def length(notes: Notes) -> float:
    """Seconds from the first strike to the last end."""
    return float((notes.start + notes.duration).max() - notes.start.min()) if len(notes.start) else 0.0


def cut(notes: Notes, begin: float, end: float) -> Notes:
    """What is struck from `begin` on and before `end`, in seconds, where it ends at the latest. Time starts at
    `begin`."""
    some = (notes.start > begin - performances.STEP / 2) & (notes.start < end - performances.STEP / 2)
    start, duration, *rest = (column[some] for column in notes)
    return Notes(start - begin, torch.minimum(duration, end - start), *rest)


def histograms(notes: Notes) -> dict[str, Float[Tensor, "k"]]:
    """Shares of pitch classes, of times between strikes and of durations (by factors of the square root of two from
    10 ms on), and of velocities."""
    steps = lambda x: (2 * (x / performances.STEP).clamp(min=1).log2()).round().long()  # noqa: E731
    gaps = torch.diff(notes.start.sort().values)
    counts = {
        "pitch_classes": torch.bincount(notes.pitch % 12, minlength=12),
        "onsets": torch.bincount(steps(gaps), minlength=32)[:32],
        "durations": torch.bincount(steps(notes.duration), minlength=32)[:32],
        "velocities": torch.bincount(notes.velocity // 4, minlength=32),
    }
    return {name: count / count.sum().clamp(min=1) for name, count in counts.items()}


def variation(some: Notes, others: Notes) -> dict[str, float]:
    """Total variation between the histograms of two, from 0 to 1."""
    a, b = histograms(some), histograms(others)
    return {name: float((a[name] - b[name]).abs().sum() / 2) for name in a}


def joined(pieces: Sequence[Notes]) -> Notes:
    """One behind the other, those that have notes."""
    pieces = [notes for notes in pieces if len(notes.start)] or list(pieces[:1])
    ends = [0.0, *itertools.accumulate(length(notes) for notes in pieces)]
    moved = [n._replace(start=n.start - n.start[:1] + at) for n, at in zip(pieces, ends, strict=False)]
    return Notes(*(torch.cat(columns) for columns in zip(*moved, strict=True)))


def intervals(notes: Notes) -> str:
    """From pitch to pitch in the order of strikes, of a chord from its lowest, as a text: what two pieces share in
    whatever key and at whatever speed."""
    start, order = notes.start.sort(stable=True)
    chord = (torch.diff(start, prepend=start[:1]) > TOGETHER).cumsum(0)
    pitch = notes.pitch[order]
    ordered = pitch[(chord * performances.PITCHES + pitch).argsort()]
    return "".join(chr(0x100 + step) for step in torch.diff(ordered).tolist())


def copied(notes: Notes, training: str) -> int:
    """Notes of the longest run that training pieces (as `intervals`) have in some key."""
    found = writing.longest_overlap(intervals(notes), training)
    return len(found) + 1 if found else 0


def trigrams(train: Sequence[Int[Tensor, "n"]], test: Sequence[Int[Tensor, "n"]]) -> float:
    """Nats per event by counts of three events, each order leaning on the one below where its context is rare (Witten
    and Bell 1991), of all test events but a piece's first two. Training events are counted as they are, in one key."""

    def pairs(ids: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """(context, context and event) as numbers, for all events that have so many before them; none: the first two
        are left out of the sum, as they hardly count."""
        context = torch.zeros(len(ids) - 2, dtype=torch.int64)
        for back in range(order, 0, -1):
            context = context * performances.KINDS + ids[2 - back : len(ids) - back]
        return context, context * performances.KINDS + ids[2:]

    p: Tensor | float = 1 / performances.KINDS
    for order in (0, 1, 2):
        known = [torch.cat(part) for part in zip(*(pairs(ids, order) for ids in train), strict=True)]
        asked = [torch.cat(part) for part in zip(*(pairs(ids, order) for ids in test), strict=True)]
        contexts, seen = known[0].unique(return_counts=True)
        both, times = known[1].unique(return_counts=True)
        kinds = _count(contexts, torch.searchsorted(contexts, both // performances.KINDS).bincount(), asked[0])
        total, hits = _count(contexts, seen, asked[0]), _count(both, times, asked[1])
        p = (hits + kinds * p) / (total + kinds).clamp(min=1) + (total == 0) * p
    return float(-torch.as_tensor(p).log().mean())


def _count(keys: Int[Tensor, "k"], counts: Int[Tensor, "k"], asked: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Of each that is asked for; 0 where it is not among the sorted keys."""
    at = torch.searchsorted(keys, asked).clamp(max=len(keys) - 1)
    return torch.where(keys[at] == asked, counts[at], 0).double()
