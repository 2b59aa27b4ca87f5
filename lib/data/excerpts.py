"""Stretches of chorales for a model of fixed length: random ones for training, and overlapping ones that score each
sixteenth once. Axes: b rows, t sixteenths, v voices."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lib import random, tree
from lib.data import voices
from lib.data.pieces import Piece
from lib.faults import DataError
from lib.random import Key


class Excerpt(NamedTuple):
    """`left`: sixteenths to the piece's end, this one included. `counts`: whether a sixteenth is to be predicted: not
    behind the end, nor what only shows what a cut piece sounds like."""

    cells: Int[Tensor, "b t v"]
    place: Int[Tensor, "b t"]
    left: Int[Tensor, "b t"]
    counts: Bool[Tensor, "b t"]


def cut(piece: Piece, start: int, length: int, shown: int = 0) -> Excerpt:
    """One excerpt, without the axis b, whose first `shown` sixteenths do not count. Where it begins within the piece it
    strikes what sounds there, which does not count."""
    cells, t = piece.cells[start : start + length].long(), len(piece.cells)
    if start:
        at = voices.sounding(piece.cells[: start + 1].long())[-1:]
        cells = torch.cat([voices.tokens(at, torch.ones_like(at, dtype=torch.bool)), cells[1:]])
    n = torch.arange(length)
    rest = torch.arange(length - len(cells))  # where bars go on, so that nothing tells that the piece does not
    cells = torch.cat([cells, torch.zeros(len(rest), cells.shape[1], dtype=cells.dtype)])
    place = torch.cat([piece.place[start : start + length], (piece.place[-1] + 1 + rest) % piece.bar])
    counts = (n >= max(shown, int(start > 0))) & (start + n < t)
    return Excerpt(cells, place, (t - start - n).clamp(min=0), counts)


def batches(pieces: Sequence[Piece], key: Key, rows: int, length: int, first: int = 0) -> Iterator[Excerpt]:
    """Endless batches of random excerpts, from batch number `first`: a function of key and number alone. In an epoch a
    piece comes once for each `length` that it has or begins. Raises DataError where these do not fill a batch."""
    chosen = [i for i, piece in enumerate(pieces) for _ in range(-(-len(piece.cells) // length))]
    per_epoch = len(chosen) // rows
    if not per_epoch:
        raise DataError(f"{len(chosen)} excerpts of {length} sixteenths do not fill a batch of {rows}")
    epoch, at = divmod(first, per_epoch)
    while True:
        k_order, k_start = random.split(random.fold_in(key, epoch))
        order = random.permutation(k_order, len(chosen)).tolist()
        shares = random.uniform(k_start, (len(chosen),)).tolist()
        for n in range(at, per_epoch):
            drawn = []
            for i in range(n * rows, (n + 1) * rows):
                piece = pieces[chosen[order[i]]]
                room = max(0, len(piece.cells) - length)
                # A quarter of a length beyond each end, so that beginnings and ends are not rare.
                start = round((room + length / 2) * shares[i] - length / 4)
                drawn.append(cut(piece, min(max(start, 0), room), length))
            yield tree.stack(drawn)
        epoch, at = epoch + 1, 0


def scored_once(pieces: Sequence[Piece], length: int) -> list[Excerpt]:
    """Excerpts that together count each sixteenth once, each with half a length or more before it but for the first."""
    found = []
    for piece in pieces:
        t, done = len(piece.cells), 0
        while done < t:
            start = max(0, min(done - length // 2, t - length)) if done else 0
            found.append(cut(piece, start, length, done - start))
            done = start + length
    return found
