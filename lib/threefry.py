"""Threefry-2x32 with 20 rounds (Salmon et al. 2011) as operations that a compiler does not look into.

Written out in a graph each draw costs the C++ compiler ten seconds, and a Transformer with dropout has sixty of them;
on a GPU the mask would be drawn a second time in the backward pass. As one operation a draw is one kernel: on a CPU one
that torch.compile makes once for all draws, on a GPU one in Triton. Bernoulli draws have an operation of their own, so
that a mask waits for the backward pass as bytes and not as words.

Axes: k keys, n numbers of each. Words are int32 bit patterns: int32 arithmetic wraps as uint32 does.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEAST = 3  # numbers that a kernel on a CPU sees at least: one, or as many as a key has words, would be a graph apart
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def block(key: Int[Tensor, "... 2"], counter: Int[Tensor, "..."]) -> tuple[Tensor, Tensor]:
    """Returns the two words of the blocks at the counters (0, `counter`)."""
    k0, k1 = key[..., 0], key[..., 1]
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    x0, x1 = torch.zeros_like(counter) + k0, counter + k1
    for i in range(5):
        for rotation in ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = _rotate(x1, rotation) ^ x0
        x0 = x0 + keys[(i + 1) % 3]
        x1 = x1 + keys[(i + 2) % 3] + (i + 1)
    return x0, x1


def word(key: Int[Tensor, "... 2"], counter: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Returns the word that JAX's partitionable stream takes of a block."""
    x0, x1 = block(key, counter)
    return x0 ^ x1


def unit(words: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Returns fp32 in [0, 1) from a word's upper 23 bits."""
    return ((words >> 9) & 0x7FFFFF).float() * 2.0**-23


def _rotate(x: Tensor, n: int) -> Tensor:
    return (x << n) | ((x >> (32 - n)) & ((1 << n) - 1))  # int32 >> copies the sign: mask it off


# ---- the operations ----


@torch.library.custom_op("puregen::threefry_words", mutates_args=())
def words(keys: Tensor, first: Tensor, n: int) -> Tensor:
    """Returns (k, n) words of the keys (k, 2) at the counters `first` (0-d int32) and on."""
    return _run(_words, keys, first, n, torch.int32)


@torch.library.custom_op("puregen::threefry_below", mutates_args=())
def below(keys: Tensor, first: Tensor, n: int, p: Tensor) -> Tensor:
    """Returns (k, n) bools: whether each word's number in [0, 1) is below p (k)."""
    if keys.is_cuda:
        return _gpu().draw(keys, first, n, torch.bool, p)
    return _run(_units, keys, first, n, torch.float32) < p[:, None]  # outside: compilers do not vectorise bools


@torch.library.custom_op("puregen::threefry_blocks", mutates_args=())
def blocks(keys: Tensor, counters: Tensor) -> Tensor:
    """Returns (n, 2), new keys: both words of the block of key i (n, 2) at the counter i (n)."""
    if keys.is_cuda:
        return _gpu().blocks(keys, counters)
    return _on_cpu(_blocks, keys, counters)


words.register_fake(lambda keys, first, n: keys.new_empty(len(keys), n))
below.register_fake(lambda keys, first, n, p: keys.new_empty(len(keys), n, dtype=torch.bool))
blocks.register_fake(lambda keys, counters: keys.new_empty(len(counters), 2))


def _batched(op: Callable) -> Callable:
    """The vmap rule of a draw: the batch's keys are keys among others. A `first` of their own has each of them draw
    alone."""

    def rule(info: Any, dims: tuple, keys: Tensor, first: Tensor, n: int, *p: Tensor) -> tuple[Tensor, int]:
        b = info.batch_size
        wide = [_front(x, dim, b) for x, dim in zip([keys, *p], [dims[0], *dims[3:]], strict=True)]
        if dims[1] is not None:
            rows = [op(wide[0][i], first.select(dims[1], i), n, *(x[i] for x in wide[1:])) for i in range(b)]
            return torch.stack(rows), 0
        return op(wide[0].flatten(0, 1), first, n, *(x.flatten() for x in wide[1:])).unflatten(0, (b, -1)), 0

    return rule


def _batched_blocks(info: Any, dims: tuple, keys: Tensor, counters: Tensor) -> tuple[Tensor, int]:
    wide = [_front(x, dim, info.batch_size).flatten(0, 1) for x, dim in zip((keys, counters), dims, strict=True)]
    return blocks(*wide).unflatten(0, (info.batch_size, -1)), 0


def _front(x: Tensor, dim: int | None, b: int) -> Tensor:
    return x.expand(b, *x.shape) if dim is None else x.movedim(dim, 0)


words.register_vmap(_batched(words))
below.register_vmap(_batched(below))
blocks.register_vmap(_batched_blocks)


# ---- how they are computed ----


def _blocks(key: Tensor, counter: Tensor) -> Tensor:
    return torch.stack(block(key, counter), dim=-1)


def _words(key: Tensor, first: Tensor, place: Tensor) -> Tensor:
    return word(key, place + first)


def _units(key: Tensor, first: Tensor, place: Tensor) -> Tensor:
    return unit(_words(key, first, place))


def _run(fn: Callable, keys: Tensor, first: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    if keys.is_cuda:
        return _gpu().draw(keys, first, n, dtype)
    place = torch.arange(max(LEAST, n), dtype=torch.int32)
    rows = [_kernel(fn)(key.clone(), first.clone(), place)[:n] for key in keys]
    return rows[0].view(1, n) if len(rows) == 1 and n >= LEAST else torch.stack(rows)


def _on_cpu(fn: Callable, keys: Tensor, counters: Tensor) -> Tensor:
    """What `_kernel(fn)` gives for keys (n, 2) and counters (n), which it sees padded and not as views."""
    n = len(counters)
    more = max(0, LEAST - n)
    padded = torch.cat([keys, keys.new_zeros(more, 2)]), torch.cat([counters, counters.new_zeros(more)])
    return _kernel(fn)(*padded)[:n].clone()


@functools.cache
def _kernel(fn: Callable) -> Callable:
    return torch.compile(fn, dynamic=True)  # made at first use: it loads the compiler


def _gpu() -> Any:
    from lib import threefry_cuda  # Triton is not there on machines without a GPU

    return threefry_cuda
