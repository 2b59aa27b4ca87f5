"""Token sequences packed into rows of one fixed length: one static shape, so one compiled graph, and little padding."""

import heapq
import itertools
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lib import random
from lib.faults import DataError
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


class Flat(NamedTuple):
    """One side of a corpus as arrays: n sequences with t tokens in all, end to end. Sequence i is
    `ids[first[i] : first[i] + lengths[i]]`."""

    ids: np.ndarray  # int32 (t,)
    first: np.ndarray  # int64 (n,)
    lengths: np.ndarray  # int64 (n,)


class _Lists(NamedTuple):
    source: list[list[int]]
    target: list[list[int]]


class Tokens(_Lists):  # a named tuple itself has no room for what is cached
    """A corpus as token ids, (source, target); the sources end with the end token, the targets have neither start nor
    end. The lists are not to be changed: `flat` is made of them once."""

    @cached_property
    def flat(self) -> tuple[Flat, Flat]:
        """The sources, and the targets each behind a place for the start token: what it takes to fill a batch without
        a loop. Raises OverflowError where an id is no int32."""
        source, (ids, first, lengths) = _flat(self.source), _flat(self.target)
        return source, Flat(np.insert(ids, first, 0), first + np.arange(len(first)), lengths + 1)


def _flat(sequences: list[list[int]]) -> Flat:
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    ids = np.fromiter(itertools.chain.from_iterable(sequences), np.int32, lengths.sum())
    return Flat(ids, np.cumsum(lengths) - lengths, lengths)


def fits(tokens: Tokens, length: int) -> Tokens:
    """Only the pairs that fit a row."""
    kept = [(s, t) for s, t in zip(*tokens, strict=True) if len(s) <= length and len(t) < length]
    return Tokens([s for s, _ in kept], [t for _, t in kept])


def pack(tokens: Tokens, order: list[int], length: int) -> list[list[int]]:
    """Rows as lists of pair numbers, filled first-fit in the given order. OPEN_ROWS rows wait at once: for one more,
    the fullest is closed. A pair longer than a row gets a row to itself, which `collate` refuses."""
    source, target = (side.lengths[order].tolist() if order else [] for side in tokens.flat)
    shortest_source, shortest_target = min(source, default=0), min(target, default=0)
    rows: list[list[int]] = []  # in the order in which they were opened; below, rows are numbers in this list
    source_room: list[int] = []
    target_room: list[int] = []
    closed: list[int] = []
    # Most rows that wait have no room on one side for even the shortest sentence. Those are kept apart, as a heap of
    # (room, row), so that a pair is tried on one or two rows and not on all of them.
    live: list[int] = []
    full: list[tuple[int, int]] = []
    for i, s, t in zip(order, source, target, strict=True):
        for row in live:
            if source_room[row] >= s and target_room[row] >= t:
                rows[row].append(i)
                break
        else:
            if len(live) + len(full) == OPEN_ROWS:
                fullest = min([(source_room[j] + target_room[j], j) for j in live] + full[:1])
                if full and fullest is full[0]:
                    heapq.heappop(full)
                else:
                    live.remove(fullest[1])
                closed.append(fullest[1])
            row = len(rows)
            rows.append([i])
            source_room.append(length)
            target_room.append(length)
            live.append(row)
        source_room[row] -= s
        target_room[row] -= t
        if source_room[row] < shortest_source or target_room[row] < shortest_target:
            live.remove(row)
            heapq.heappush(full, (source_room[row] + target_room[row], row))
    return [rows[row] for row in closed + sorted(live + [row for _, row in full])]


def collate(tokens: Tokens, rows: list[list[int]], length: int, start: int, end: int) -> Batch:
    """The batch's row b holds the pairs numbered `rows[b]` in that order; int32 on the CPU, each (len(rows), length).
    Raises ValueError where the pairs of a row take more than `length` positions."""
    counts = np.fromiter(map(len, rows), np.int64, len(rows))
    pairs = np.fromiter(itertools.chain.from_iterable(rows), np.int64, counts.sum())
    row = np.repeat(np.arange(len(rows)), counts)
    segment = np.arange(1, len(pairs) + 1) - np.repeat(np.cumsum(counts) - counts, counts)

    def laid(side: Flat) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """The positions of the batch that are filled; where among these each pair starts; their ids, positions and
        segments. Rows have no gaps, so the tokens of all pairs in turn are what lies under the mask."""
        lengths = side.lengths[pairs]
        used = np.bincount(row, lengths, len(rows))
        if used.max(initial=0) > length:
            raise ValueError(f"row {used.argmax()} has {used.max():.0f} tokens on one side and room for {length}")
        starts, at = np.cumsum(lengths) - lengths, np.arange(lengths.sum())
        ids = side.ids.take(at + np.repeat(side.first[pairs] - starts, lengths))
        values = [ids, at - np.repeat(starts, lengths), np.repeat(segment, lengths)]
        return np.arange(length) < used[:, None], starts, values

    out = np.zeros((len(Batch._fields), len(rows), length), dtype=np.int32)
    source, target = tokens.flat
    filled, _, values = laid(source)
    for field, value in zip(out[:3], values, strict=True):
        field[filled] = value
    filled, starts, (target_in, *rest) = laid(target)
    target_in[starts] = start
    target_out = np.roll(target_in, -1)
    target_out[starts - 1] = end  # a pair ends before the next starts, the last at -1
    for field, value in zip(out[3:], [target_in, target_out, *rest], strict=True):
        field[filled] = value
    return Batch(*torch.from_numpy(out).unbind(0))


def batches(
    tokens: Tokens | Callable[[Key], Tokens],
    key: Key,
    rows: int,
    collate: Callable[[Tokens, list[list[int]]], Batch],
    length: int,
    first: int = 0,
) -> Iterator[Batch]:
    """Endless training batches from number `first` on. Epoch e is packed in the order of `fold_in(key, e)`, so batch n
    is a function of the key and n alone and a run resumes without replaying a step. `tokens` may be a function that
    makes each epoch's of a key; on resume those of earlier epochs are made again. Every batch is full: what is left
    over at an epoch's end is dropped, and drawn in another order in the next. Raises DataError where the corpus does
    not fill one batch."""
    epoch = passed = 0
    while True:
        k_order, k_rows, k_tokens = random.split(random.fold_in(key, epoch), 3)
        corpus = tokens(k_tokens) if callable(tokens) else tokens
        packed = pack(corpus, random.permutation(k_order, len(corpus.source)).tolist(), length)
        # First-fit closes the fullest rows first: shuffle, so that batches do not depend on when a row was closed.
        shuffled = random.permutation(k_rows, len(packed)).tolist()
        count = len(packed) // rows
        if not count:
            raise DataError(f"{len(corpus.source)} pairs do not fill one batch of {rows} rows of {length} tokens")
        for n in range(max(0, first - passed), count):
            yield collate(corpus, [packed[j] for j in shuffled[n * rows : (n + 1) * rows]])
        epoch, passed = epoch + 1, passed + count
