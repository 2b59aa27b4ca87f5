"""Threefry-2x32 on a GPU, in Triton: one kernel for a draw, and one for new keys (lib/threefry.py says of what)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

SIZE = 1024  # numbers of a program


def draw(keys: Tensor, first: Tensor, n: int, dtype: torch.dtype, p: Tensor | None = None) -> Tensor:
    """Returns (k, n) words of the keys (k, 2) from the counter `first` (0-d) on; with p (k) whether they are below."""
    out = torch.empty(len(keys), n, dtype=dtype, device=keys.device)
    if out.numel():
        keys, grid = keys.contiguous(), (triton.cdiv(n, SIZE), len(keys))
        below = keys if p is None else p.contiguous()
        _draw[grid](keys, first, below, out.view(torch.uint8) if p is not None else out, n, p is not None, SIZE)
    return out


def blocks(keys: Tensor, counters: Tensor) -> Tensor:
    """Returns (n, 2): both words of key i (n, 2) at the counter i (n)."""
    out, n = torch.empty(len(counters), 2, dtype=torch.int32, device=keys.device), len(counters)
    if n:
        size = min(SIZE, triton.next_power_of_2(n))
        _blocks[(triton.cdiv(n, size),)](keys.contiguous(), counters.contiguous(), out, n, size)
    return out


@triton.jit
def _rotate(x, n: tl.constexpr):
    return (x << n) | (x >> (32 - n))


@triton.jit
def _mix(x0, x1, a: tl.constexpr, b: tl.constexpr, c: tl.constexpr, d: tl.constexpr):
    """Four rounds."""
    x0 += x1
    x1 = _rotate(x1, a) ^ x0
    x0 += x1
    x1 = _rotate(x1, b) ^ x0
    x0 += x1
    x1 = _rotate(x1, c) ^ x0
    x0 += x1
    x1 = _rotate(x1, d) ^ x0
    return x0, x1


@triton.jit
def _threefry(k0, k1, counter):
    k2 = k0 ^ k1 ^ 0x1BD11BDA
    x0, x1 = tl.zeros_like(counter) + k0, k1 + counter
    x0, x1 = _mix(x0, x1, 13, 15, 26, 6)
    x0, x1 = x0 + k1, x1 + k2 + 1
    x0, x1 = _mix(x0, x1, 17, 29, 16, 24)
    x0, x1 = x0 + k2, x1 + k0 + 2
    x0, x1 = _mix(x0, x1, 13, 15, 26, 6)
    x0, x1 = x0 + k0, x1 + k1 + 3
    x0, x1 = _mix(x0, x1, 17, 29, 16, 24)
    x0, x1 = x0 + k1, x1 + k2 + 4
    x0, x1 = _mix(x0, x1, 13, 15, 26, 6)
    return x0 + k2, x1 + k0 + 5


@triton.jit
def _draw(keys, first, p, out, n, BELOW: tl.constexpr, SIZE: tl.constexpr):  # noqa: N803
    row = tl.program_id(1)
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    k0 = tl.load(keys + 2 * row).to(tl.uint32, bitcast=True)
    k1 = tl.load(keys + 2 * row + 1).to(tl.uint32, bitcast=True)
    counter = (i + tl.load(first)).to(tl.uint32, bitcast=True)
    x0, x1 = _threefry(k0, k1, counter)
    word = x0 ^ x1
    to = out + row.to(tl.int64) * n + i
    if BELOW:
        unit = (word >> 9).to(tl.int32).to(tl.float32) * (1.0 / 8388608.0)
        tl.store(to, (unit < tl.load(p + row)).to(tl.uint8), mask=i < n)
    else:
        tl.store(to, word.to(tl.int32, bitcast=True), mask=i < n)


@triton.jit
def _blocks(keys, counters, out, n, SIZE: tl.constexpr):  # noqa: N803
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = i < n
    k0 = tl.load(keys + 2 * i, mask=there, other=0).to(tl.uint32, bitcast=True)
    k1 = tl.load(keys + 2 * i + 1, mask=there, other=0).to(tl.uint32, bitcast=True)
    counter = tl.load(counters + i, mask=there, other=0).to(tl.uint32, bitcast=True)
    x0, x1 = _threefry(k0, k1, counter)
    tl.store(out + 2 * i, x0.to(tl.int32, bitcast=True), mask=there)
    tl.store(out + 2 * i + 1, x1.to(tl.int32, bitcast=True), mask=there)
