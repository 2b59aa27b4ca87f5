"""Counter-based randomness with explicit keys: JAX's verbs and JAX's bits.

A key is an int32 tensor of shape (2,), the bit pattern of `jax.random.key_data(key)`. Everything is a pure function
of the key, so the same key gives the same numbers on CPU and GPU, eager, compiled, vmapped and on every rank.
The generator is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
laid out as JAX's default "partitionable" stream: element i of a draw is `x0 ^ x1` of the block at counter (0, i).
A key is used once or split: never draw twice from the same key. Where a function takes `key=None`, None means no
randomness, and `split(None)` gives Nones.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import threefry

Key = Int[Tensor, "2"]
TRITON = find_spec("triton") is not None


def key(seed: int, device: torch.device | str = "cpu") -> Key:
    """The key of a 64-bit seed. Raises ValueError for a number of more bits, which would be another one's key."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"a seed has 64 bits, which {seed} does not fit")
    words = [(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF]
    return torch.tensor([w - (1 << 32) if w >= 1 << 31 else w for w in words], dtype=torch.int32, device=device)


@overload
def split(key: Key, n: int = 2) -> list[Key]: ...
@overload
def split(key: None, n: int = 2) -> list[None]: ...
def split(key: Key | None, n: int = 2) -> list[Key] | list[None]:
    """n independent keys."""
    if key is None:
        return [None] * n
    return list(_blocks(key, torch.arange(n, dtype=torch.int32, device=key.device)).unbind(0))


@overload
def fold_in(key: Key, data: int | Tensor) -> Key: ...
@overload
def fold_in(key: None, data: int | Tensor) -> None: ...
def fold_in(key: Key | None, data: int | Tensor) -> Key | None:
    """The key's child number `data` (an int or a 0-d integer tensor): one key per step, layer or replica."""
    if key is None:
        return None
    if not isinstance(data, Tensor):
        data = torch.full((), data, dtype=torch.int64, device=key.device)  # no copy from the host
    return _blocks(key, data.to(key.device, torch.int32))


def bits(key: Key, shape: tuple[int, ...]) -> Int[Tensor, "..."]:
    """Uniform 32-bit words, as int32 bit patterns."""
    n = math.prod(shape)
    if _opaque(key):
        return threefry.words(key[None], _first(key, n), n).reshape(shape)
    place = torch.arange(n, dtype=torch.int32, device=key.device)
    return threefry.word(key, place if _rank is None else place + _rank * n).reshape(shape)


def uniform(key: Key, shape: tuple[int, ...] = (), low: float = 0.0, high: float = 1.0) -> Float[Tensor, "..."]:
    """fp32 in [low, high), 23 random bits."""
    return threefry.unit(bits(key, shape)) * (high - low) + low


def normal(key: Key, shape: tuple[int, ...] = ()) -> Float[Tensor, "..."]:
    """Standard normal, by the inverse of the distribution function."""
    lowest = -1.0 + 2.0**-24  # the float after -1, so that erfinv stays finite
    u = uniform(key, shape) * 2.0 + lowest  # 2 = float32(1 - lowest), as JAX rounds it
    return math.sqrt(2) * torch.erfinv(torch.clamp(u, min=lowest))


def bernoulli(key: Key, p: float | Tensor = 0.5, shape: tuple[int, ...] = ()) -> Tensor:
    """True with probability p."""
    if _opaque(key) and (not isinstance(p, Tensor) or p.ndim == 0):
        n, p = math.prod(shape), p.float() if isinstance(p, Tensor) else torch.full((), p, device=key.device)
        return threefry.below(key[None], _first(key, n), n, p[None]).reshape(shape)
    return uniform(key, shape) < p


def gumbel(key: Key, shape: tuple[int, ...] = ()) -> Float[Tensor, "..."]:
    """Standard Gumbel noise: -log(-log(u))."""
    tiny = torch.finfo(torch.float32).tiny
    return -torch.log(-torch.log(torch.clamp(uniform(key, shape), min=tiny)))


def categorical(key: Key, logits: Float[Tensor, "... v"]) -> Int[Tensor, "..."]:
    """Indices drawn with probability softmax(logits) over the last axis, by the Gumbel-max trick."""
    return torch.argmax(logits + gumbel(key, tuple(logits.shape)), dim=-1)


def randint(key: Key, shape: tuple[int, ...], low: int, high: int) -> Int[Tensor, "..."]:
    """int32 in [low, high). Two words per number keep the bias of the modulus below 2^-32 for small ranges."""
    if high <= low:
        raise ValueError(f"randint needs low < high, got {low} and {high}")
    span = high - low
    upper, lower = (_unsigned(bits(k, shape)) % span for k in split(key))
    multiplier = (2**16 % span) ** 2 % 2**32 % span
    # uint32 arithmetic, as in JAX: the product wraps before the last modulus.
    return (((upper * multiplier + lower) & 0xFFFFFFFF) % span + low).to(torch.int32)


def permutation(key: Key, n: int) -> Int[Tensor, "n"]:
    """A uniform permutation of 0..n-1: stable sorts by random words, repeated until ties cannot matter."""
    order = torch.arange(n, device=key.device)
    for _ in range(math.ceil(3 * math.log(max(1, n)) / math.log(2**32 - 1))):
        key, subkey = split(key)
        words = _unsigned(bits(subkey, (n,)))
        order = order[torch.sort(words, stable=True).indices]
    return order


_rank: Tensor | None = None


@contextmanager
def on_rank(rank: Int[Tensor, ""]) -> Iterator[None]:
    """Inside, every draw is rank number `rank`'s rows of a larger one: what a process with the rows of all ranks would
    draw from the same key. The first axis of a draw must be the batch; keys themselves are the same on all ranks."""
    global _rank
    _rank = rank
    try:
        yield
    finally:
        _rank = None


def _first(key: Tensor, n: int) -> Int[Tensor, ""]:
    """The counter of a draw's first number, of n on this rank."""
    zero = torch.zeros((), dtype=torch.int32, device=key.device)
    return zero if _rank is None else _rank * n


def _unsigned(words: Tensor) -> Tensor:
    return words.to(torch.int64) & 0xFFFFFFFF


def _opaque(key: Tensor) -> bool:
    """Whether draws are operations of their own: in compiled graphs, and on a GPU always, where Triton is there. What
    another thread draws while this one compiles is not: `is_compiling` would be true of it."""
    return TRITON if key.is_cuda else torch.compiler.is_dynamo_compiling()


def _blocks(key: Tensor, counter: Tensor) -> Tensor:
    """Both words of each block, on a new last axis: a key."""
    if _opaque(key):
        keys = key.expand(*counter.shape, 2).reshape(-1, 2)
        return threefry.blocks(keys, counter.reshape(-1)).reshape(*counter.shape, 2)
    return torch.stack(threefry.block(key, counter), dim=-1)
