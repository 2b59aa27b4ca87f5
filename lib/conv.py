"""Convolutions, pooling and normalisation of channels as pure functions.

Axes: b batch, c channels in, f channels out, h height, w width, k side of the kernel.
Kernels keep torch's order, which F.conv2d takes without a copy: `f c k k`, and `c f k k` transposed.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib import parallel, random
from lib.random import Key
from lib.tree import Tree


def conv_init(key: Key, c: int, f: int, k: int, bias: bool = True, std: float | None = None) -> Tree:
    """{"w": (f, c, k, k), "b": (f) with `bias`}; normal weights with standard deviation `std`, He et al. 2015's sqrt(2
    / fan in) if none is given."""
    w = random.normal(key, (f, c, k, k)) * (math.sqrt(2 / (c * k * k)) if std is None else std)
    return {"w": w, "b": torch.zeros(f, device=key.device)} if bias else {"w": w}


def conv(p: Tree, x: Float[Tensor, "b c h w"], stride: int = 1, padding: int = 0) -> Float[Tensor, "b f h2 w2"]:
    """h2 = (h + 2 padding - k) // stride + 1."""
    return F.conv2d(x, p["w"], p.get("b"), stride, padding)


def conv_transpose_init(key: Key, c: int, f: int, k: int, bias: bool = True, std: float | None = None) -> Tree:
    """{"w": (c, f, k, k), "b": (f) with `bias`}; as `conv_init`, but without `std` sqrt(2 / (c k k)), which keeps
    variance where strides do not thin the taps."""
    w = random.normal(key, (c, f, k, k)) * (math.sqrt(2 / (c * k * k)) if std is None else std)
    return {"w": w, "b": torch.zeros(f, device=key.device)} if bias else {"w": w}


def conv_transpose(
    p: Tree, x: Float[Tensor, "b c h w"], stride: int = 1, padding: int = 0
) -> Float[Tensor, "b f h2 w2"]:
    """The adjoint of `conv` with the same kernel, stride and padding: h2 = (h - 1) stride - 2 padding + k."""
    return F.conv_transpose2d(x, p["w"], p.get("b"), stride, padding)


def max_pool(x: Float[Tensor, "b c h w"], k: int) -> Float[Tensor, "b c h2 w2"]:
    """The largest value of each k x k tile; a rest at the edge is dropped."""
    return F.max_pool2d(x, k)


def batch_norm_init(f: int, device: torch.device | None = None) -> tuple[Tree, Tree]:
    """(params, state): {"scale": (f), "bias": (f)} and running {"mean": (f), "var": (f)}."""
    zeros, ones = torch.zeros(f, device=device), torch.ones(f, device=device)
    return {"scale": ones, "bias": zeros}, {"mean": zeros.clone(), "var": ones.clone()}


def batch_norm(
    p: Tree, state: Tree, x: Float[Tensor, "b f ..."], *, train: bool, momentum: float = 0.1, eps: float = 1e-5
) -> tuple[Float[Tensor, "b f ..."], Tree]:
    """Normalise each channel over the batch and all positions (Ioffe & Szegedy 2015).

    `train`: by this batch's statistics, which also move the running ones by `momentum` (the variance unbiased, as
    nn.BatchNorm2d has it); otherwise by the running statistics. Statistics are kept in fp32. Returns y and the state
    after it; the state given is not touched (F.batch_norm would write into it, also inside torch.func.grad).
    """
    axes = [0, *range(2, x.ndim)]
    wide = lambda v: v.view(-1, *[1] * (x.ndim - 2))  # noqa: E731
    if train:
        n = x.numel() // x.shape[1] * parallel.ranks()
        if n < 2:
            raise ValueError("batch_norm needs at least two values per channel to train")
        var, mean = torch.var_mean(x.to(state["mean"].dtype), axes, correction=0)
        if parallel.ranks() > 1:  # of the global batch
            of_rank, mean = mean, parallel.mean(mean)
            var = parallel.mean(var + (of_rank - mean).square())
        running = torch.stack([mean, var * n / (n - 1)]).detach()
        old = torch.stack([state["mean"], state["var"]])
        state = dict(zip(("mean", "var"), torch.lerp(old, running, momentum).unbind(), strict=True))
    else:
        mean, var = state["mean"], state["var"]
    scale = p["scale"] * torch.rsqrt(var + eps)
    return x * wide(scale).to(x.dtype) + wide(p["bias"] - mean * scale).to(x.dtype), state


def group_norm_init(f: int, device: torch.device | None = None) -> Tree:
    """{"scale": (f), "bias": (f)}: ones and zeros."""
    return {"scale": torch.ones(f, device=device), "bias": torch.zeros(f, device=device)}


def group_norm(p: Tree, x: Float[Tensor, "b f ..."], groups: int, eps: float = 1e-5) -> Float[Tensor, "b f ..."]:
    """Normalise each example over all positions and each of `groups` equal groups of channels (Wu & He 2018); without
    scale and bias where `p` has none. No example touches another, and there is no state."""
    return F.group_norm(x, groups, p.get("scale"), p.get("bias"), eps)


def instance_norm(p: Tree, x: Float[Tensor, "b f ..."], eps: float = 1e-5) -> Float[Tensor, "b f ..."]:
    """`group_norm` of every channel by itself (Ulyanov et al. 2016)."""
    return group_norm(p, x, x.shape[1], eps)
