"""Endless batches: numbers of examples, random windows of a text, and a text read in order.

Batch number n is a function of the key and n alone, so that a run resumes without replaying anything. Packed pairs are
lib/data/packing.py's.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lib import random
from lib.faults import DataError
from lib.random import Key


class Window(NamedTuple):
    """b rows of t + 1 tokens: the first t are read, the last t predicted. `fresh`: an epoch starts here, with a state
    of zeros; everywhere else row i goes on where row i of the batch before ended."""

    tokens: Int[Tensor, "b t_plus_1"]
    fresh: Bool[Tensor, "b"]


def numbers(key: Key, n: int, size: int, first: int = 0) -> Iterator[Int[Tensor, "size"]]:
    """Endless batches of example numbers below `n`, from batch number `first`: a new order each epoch, its rest
    dropped. Raises DataError where there are fewer examples than a batch holds."""
    if n < size:
        raise DataError(f"{n} training examples are fewer than a batch of {size}")
    epoch, at = divmod(first, n // size)
    while True:
        order = random.permutation(random.fold_in(key, epoch), n)
        yield from order[: n - n % size].view(-1, size)[at:]
        epoch, at = epoch + 1, 0


def windows(
    ids: Int[Tensor, "n"],
    key: Key,
    rows: int,
    length: int,
    first: int = 0,
    also: Int[Tensor, "k"] | None = None,
) -> Iterator[Int[Tensor, "rows length_plus_1"]]:
    """Endless batches of random windows of `length` + 1 tokens, from batch number `first`: a function of key and
    number alone. In each epoch the text is cut anew, at a random offset, into windows that share only their ends (what
    one predicts last the next reads first), each drawn once; the rest that fills no batch is dropped. `also`: where
    further windows begin. Raises DataError where the text does not fill one batch."""
    count = len(ids) // length - 1  # whole windows, whatever the offset
    further = torch.zeros(0, dtype=torch.int64) if also is None else also[also + length < len(ids)]
    per_epoch = (count + len(further)) // rows if count > 0 else 0
    if per_epoch < 1:
        raise DataError(_too_small(ids, (rows + 1) * length, rows, length))
    epoch, at = divmod(first, per_epoch)
    while True:
        k_offset, k_order = random.split(random.fold_in(key, epoch))
        offset = random.randint(k_offset, (), 0, len(ids) - length * count)
        starts = torch.cat([offset + length * torch.arange(count), further])
        starts = starts[random.permutation(k_order, len(starts))]
        for start in starts[: per_epoch * rows].view(per_epoch, rows)[at:]:
            yield ids[start[:, None] + torch.arange(length + 1)]
        epoch, at = epoch + 1, 0


def streams(ids: Int[Tensor, "n"], rows: int, length: int, first: int = 0) -> Iterator[Window]:
    """Endless batches in the order of the text, from batch number `first`, for a model that carries its state from one
    to the next: the text is cut into `rows` equal streams, each read `length` tokens at a time. What is left over, less
    than one batch, is dropped at the end in even epochs and at the start in odd ones. Raises DataError where the text
    does not fill one batch."""
    count = (len(ids) - 1) // (rows * length)
    if count < 1:
        raise DataError(_too_small(ids, rows * length + 1, rows, length))
    spare = len(ids) - 1 - rows * count * length
    places = count * length * torch.arange(rows)[:, None] + torch.arange(length + 1)
    epoch, at = divmod(first, count)
    while True:
        for n in range(at, count):
            yield Window(ids[spare * (epoch % 2) + length * n + places], torch.full((rows,), n == 0))
        epoch, at = epoch + 1, 0


def _too_small(ids: Tensor, needed: int, rows: int, length: int) -> str:
    return f"{len(ids)} tokens do not fill one batch of {rows} rows of {length} tokens: {needed} are needed"
