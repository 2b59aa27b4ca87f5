"""Counter-based randomness with explicit keys: JAX's verbs and JAX's bits.

A key is an int32 tensor of shape (2,), the bit pattern of `jax.random.key_data(key)`. Everything is a pure function
of the key, so the same key gives the same numbers on CPU and GPU, eager, compiled, vmapped and on every rank.
The generator is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
laid out as JAX's default "partitionable" stream: element i of a draw is `x0 ^ x1` of the block at counter (0, i).
A key is used once or split: never draw twice from the same key. Where a function takes `key=None`, None means no
randomness, and `split(None)` gives Nones.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

Key = Int[Tensor, "2"]
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def key(seed: int, device: torch.device | str = "cpu") -> Key:
    """The key of a 64-bit seed."""
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
    counter = torch.as_tensor(data, device=key.device).to(torch.int32)
    return _blocks(key, counter)


def bits(key: Key, shape: tuple[int, ...]) -> Int[Tensor, "..."]:
    """Uniform 32-bit words, as int32 bit patterns."""
    counter = _counter(key, shape)
    if _inside_cpu_graph(key):
        return _opaque_words(key, counter).reshape(shape)
    return _words(key, counter).reshape(shape)


def uniform(key: Key, shape: tuple[int, ...] = (), low: float = 0.0, high: float = 1.0) -> Float[Tensor, "..."]:
    """fp32 in [low, high), 23 random bits."""
    return _unit(bits(key, shape)) * (high - low) + low


def normal(key: Key, shape: tuple[int, ...] = ()) -> Float[Tensor, "..."]:
    """Standard normal, by the inverse of the distribution function."""
    lowest = -1.0 + 2.0**-24  # the float after -1, so that erfinv stays finite
    u = uniform(key, shape) * 2.0 + lowest  # 2 = float32(1 - lowest), as JAX rounds it
    return math.sqrt(2) * torch.erfinv(torch.clamp(u, min=lowest))


def bernoulli(key: Key, p: float | Tensor = 0.5, shape: tuple[int, ...] = ()) -> Tensor:
    """True with probability p."""
    if _inside_cpu_graph(key) and (not isinstance(p, Tensor) or p.ndim == 0):
        counter = _counter(key, shape)
        return _opaque_below(key, counter, torch.as_tensor(p, dtype=torch.float32)).reshape(shape)
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


def _counter(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    n = math.prod(shape)
    counter = torch.arange(n, dtype=torch.int32, device=key.device)
    return counter if _rank is None else counter + _rank * n


def _unsigned(words: Tensor) -> Tensor:
    return words.to(torch.int64) & 0xFFFFFFFF


def _rotate(x: Tensor, n: int) -> Tensor:
    return (x << n) | ((x >> (32 - n)) & ((1 << n) - 1))  # int32 >> copies the sign: mask it off


def _words(key: Tensor, counter: Tensor) -> Tensor:
    x0, x1 = _threefry(key, counter)
    return x0 ^ x1


def _unit(words: Tensor) -> Tensor:
    """fp32 in [0, 1) from a word's upper 23 bits."""
    return ((words >> 9) & 0x7FFFFF).float() * 2.0**-23


def _units(key: Tensor, counter: Tensor) -> Tensor:
    return _unit(_words(key, counter))


def _blocks(key: Tensor, counter: Tensor) -> Tensor:
    """Both words of each block, on a new last axis: a key."""
    if _inside_cpu_graph(key):
        return _opaque_blocks(key, counter)
    return _block_words(key, counter)


def _block_words(key: Tensor, counter: Tensor) -> Tensor:
    return torch.stack(_threefry(key, counter), dim=-1)


def _threefry(key: Tensor, counter: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks of the counters (0, `counter`). int32 arithmetic throughout: it wraps as uint32 does."""
    k0, k1 = key[..., 0], key[..., 1]
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    x0, x1 = torch.zeros_like(counter) + k0, counter + k1
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = _rotate(x1, rotation) ^ x0
        x0 = x0 + keys[(i + 1) % 3]
        x1 = x1 + keys[(i + 2) % 3] + (i + 1)
    return x0, x1


# In a graph compiled for a CPU a draw is one opaque operation: written out, each costs the C++ compiler ten seconds,
# and a Transformer with dropout has sixty. All draws share one kernel that is compiled once (20 us for a key where the
# twenty rounds take 390 us eagerly). Bernoulli draws have an operation of their own, so that a mask waits for the
# backward pass as bytes and not as words. On a GPU, and where nothing is compiled, none of this is used.


def _inside_cpu_graph(key: Tensor) -> bool:
    return torch.compiler.is_compiling() and key.device.type == "cpu"


@functools.cache
def _kernel(fn: Callable) -> Callable:
    return torch.compile(fn, dynamic=True)  # made at first use: it loads the compiler


def _draw(fn: Callable, key: Tensor, counter: Tensor) -> Tensor:
    """`fn(key, counter)` by its kernel, which sees one axis of two elements at least and no views: one graph."""
    flat = counter.flatten()
    padded = flat.clone() if len(flat) > 1 else torch.cat([flat, flat.new_zeros(2)])
    words = _kernel(fn)(key.clone(), padded)
    return words[: len(flat)].reshape(*counter.shape, *words.shape[1:])


@torch.library.custom_op("puregen::threefry_words", mutates_args=())
def _opaque_words(key: Tensor, counter: Tensor) -> Tensor:
    return _draw(_words, key, counter)


@torch.library.custom_op("puregen::threefry_below", mutates_args=())
def _opaque_below(key: Tensor, counter: Tensor, p: Tensor) -> Tensor:
    return _draw(_units, key, counter) < p  # compared outside the kernel: the compiler does not vectorise bools


@torch.library.custom_op("puregen::threefry_blocks", mutates_args=())
def _opaque_blocks(key: Tensor, counter: Tensor) -> Tensor:
    return _draw(_block_words, key, counter)


_opaque_words.register_fake(lambda key, counter: torch.empty_like(counter))
_opaque_below.register_fake(lambda key, counter, p: torch.empty_like(counter, dtype=torch.bool))
_opaque_blocks.register_fake(lambda key, counter: counter.new_empty(*counter.shape, 2))


def _one_by_one(op: Callable) -> Callable:
    """The vmap rule of an opaque draw: the batch's draws, stacked."""

    def rule(info: Any, dims: tuple, *args: Tensor) -> tuple[Tensor, int]:
        rows = [
            [x if dim is None else x.select(dim, i) for x, dim in zip(args, dims, strict=True)]
            for i in range(info.batch_size)
        ]
        return torch.stack([op(*row) for row in rows]), 0

    return rule


_opaque_words.register_vmap(_one_by_one(_opaque_words))
_opaque_below.register_vmap(_one_by_one(_opaque_below))
_opaque_blocks.register_vmap(_one_by_one(_opaque_blocks))
