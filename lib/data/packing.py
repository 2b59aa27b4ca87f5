"""Token sequences packed into rows of one fixed length: one static shape, so one compiled graph, and little padding."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lib import random
from lib.data.sources import DataError
from lib.random import Key

OPEN_ROWS = 32  # rows that wait for a sentence that still fits: more of them waste less


class Batch(NamedTuple):
    """Rows with several pairs each: b rows, t positions. Segment 0 is padding; positions count from each pair's start.

    `target_in` is the target shifted right behind the start token, `target_out` what is to be predicted.
    """

    source: Int[Tensor, "b t"]
    source_position: Int[Tensor, "b t"]
    source_segment: Int[Tensor, "b t"]
    target_in: Int[Tensor, "b t"]
    target_out: Int[Tensor, "b t"]
    target_position: Int[Tensor, "b t"]
    target_segment: Int[Tensor, "b t"]


class Tokens(NamedTuple):
    """A corpus as token ids; the sources end with the end token, the targets have neither start nor end."""

    source: list[list[int]]
    target: list[list[int]]


def fits(tokens: Tokens, length: int) -> Tokens:
    """Only the pairs that fit a row."""
    kept = [(s, t) for s, t in zip(*tokens, strict=True) if len(s) <= length and len(t) < length]
    return Tokens([s for s, _ in kept], [t for _, t in kept])


def pack(tokens: Tokens, order: list[int], length: int) -> list[list[int]]:
    """Rows as lists of pair numbers, filled first-fit in the given order."""
    rows: list[list[int]] = []
    waiting: list[list] = []  # [room in the source, room in the target, pairs]
    for i in order:
        s, t = len(tokens.source[i]), len(tokens.target[i]) + 1
        for row in waiting:
            if row[0] >= s and row[1] >= t:
                break
        else:
            if len(waiting) == OPEN_ROWS:
                rows.append(waiting.pop(min(range(OPEN_ROWS), key=lambda j: waiting[j][0] + waiting[j][1]))[2])
            row = [length, length, []]
            waiting.append(row)
        row[0], row[1] = row[0] - s, row[1] - t
        row[2].append(i)
    return rows + [row[2] for row in waiting]


def collate(tokens: Tokens, rows: list[list[int]], length: int, start: int, end: int) -> Batch:
    out = np.zeros((len(Batch._fields), len(rows), length), dtype=np.int32)
    for b, row in enumerate(rows):
        s = t = 0
        for segment, i in enumerate(row, start=1):
            source, target = tokens.source[i], tokens.target[i]
            n, m = len(source), len(target) + 1
            out[0, b, s : s + n], out[1, b, s : s + n], out[2, b, s : s + n] = source, np.arange(n), segment
            out[3, b, t : t + m], out[4, b, t : t + m] = [start, *target], [*target, end]
            out[5, b, t : t + m], out[6, b, t : t + m] = np.arange(m), segment
            s, t = s + n, t + m
    return Batch(*torch.from_numpy(out).unbind(0))


def batches(
    tokens: Tokens,
    key: Key,
    rows: int,
    collate: Callable[[Tokens, list[list[int]]], Batch],
    length: int,
    first: int = 0,
) -> Iterator[Batch]:
    """Endless training batches from number `first` on. Epoch e is packed in the order of `fold_in(key, e)`, so batch n
    is a function of the key and n alone and a run resumes without replaying anything. Every batch is full: what is
    left over at an epoch's end is dropped, and drawn in another order in the next. Raises DataError where the corpus
    does not fill one batch."""
    epoch = passed = 0
    while True:
        k_order, k_rows = random.split(random.fold_in(key, epoch))
        packed = pack(tokens, random.permutation(k_order, len(tokens.source)).tolist(), length)
        # First-fit closes the fullest rows first: shuffle, so that batches do not depend on when a row was closed.
        shuffled = random.permutation(k_rows, len(packed)).tolist()
        count = len(packed) // rows
        if not count:
            raise DataError(f"{len(tokens.source)} pairs do not fill one batch of {rows} rows of {length} tokens")
        for n in range(max(0, first - passed), count):
            yield collate(tokens, [packed[j] for j in shuffled[n * rows : (n + 1) * rows]])
        epoch, passed = epoch + 1, passed + count
