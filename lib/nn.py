"""Layers as pairs of pure functions: `<layer>_init(key, ...) -> params` and `<layer>(params, x) -> y`.

Axes: ... any leading axes, d features in, f features out, v vocabulary, t positions.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lib import random
from lib.random import Key
from lib.tree import Tree


def xavier(key: Key, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010): keeps variance both ways."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    return random.uniform(key, shape, -bound, bound)


def linear_init(key: Key, d: int, f: int, bias: bool = True) -> Tree:
    """{"w": (d, f), "b": (f) with `bias`}: Xavier-uniform weights, and zeros."""
    p = {"w": xavier(key, (d, f), d, f)}
    return {**p, "b": torch.zeros(f, device=key.device)} if bias else p


def linear(p: Tree, x: Float[Tensor, "... d"]) -> Float[Tensor, "... f"]:
    y = x @ p["w"]  # as an einsum it would be a batch of one product, for which bf16 has no fast kernel on CPUs
    return y + p["b"] if "b" in p else y


def mlp_init(key: Key, widths: Sequence[int]) -> list[Tree]:
    """A list of linear layers {"w": (d, f), "b": (f)} from widths[0] to widths[-1] features."""
    pairs = list(itertools.pairwise(widths))
    return [linear_init(k, d, f) for k, (d, f) in zip(random.split(key, len(pairs)), pairs, strict=True)]


def mlp(
    p: list[Tree],
    x: Float[Tensor, "... d"],
    key: Key | None = None,
    *,
    activation: Callable[[Tensor], Tensor] = F.relu,
    dropout: float = 0.0,
) -> Float[Tensor, "... f"]:
    """Linear layers with an activation and then dropout after each but the last."""
    for layer, k in zip(p[:-1], random.split(key, len(p)), strict=False):
        x = _dropout(activation(linear(layer, x)), dropout, k)
    return linear(p[-1], x)


def embedding_init(key: Key, v: int, d: int) -> Float[Tensor, "v d"]:
    """Normal with standard deviation d^-1/2, so that a tied head starts with logits of unit size."""
    return random.normal(key, (v, d)) * d**-0.5


def embedding(table: Float[Tensor, "v d"], ids: Int[Tensor, "..."]) -> Float[Tensor, "... d"]:
    return F.embedding(ids, table)


def norm_init(kind: str, d: int, device: torch.device | None = None) -> Tree:
    """{"scale": (d), "bias": (d) of the kind "layer", none of "rms"}."""
    scale = {"scale": torch.ones(d, device=device)}
    return {**scale, "bias": torch.zeros(d, device=device)} if kind == "layer" else scale


def layer_norm(p: Tree, x: Float[Tensor, "... d"], eps: float = 1e-5) -> Float[Tensor, "... d"]:
    """Ba et al. 2016."""
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], eps)


def rms_norm(p: Tree, x: Float[Tensor, "... d"], eps: float = 1e-6) -> Float[Tensor, "... d"]:
    """x / sqrt(mean(x^2) + eps) * scale (Zhang & Sennrich 2019)."""
    return F.rms_norm(x, x.shape[-1:], p["scale"], eps)


NORMS = {"layer": layer_norm, "rms": rms_norm}


def dropout(x: Tensor, rate: float, key: Key | None) -> Tensor:
    """Zero each element with probability `rate` and scale the others by 1 / (1 - rate); key=None is the identity."""
    if key is None or rate == 0.0:
        return x
    keep = random.bernoulli(key, 1 - rate, tuple(x.shape))
    return torch.where(keep, x / (1 - rate), 0.0)


_dropout = dropout  # where an argument has that name


def sinusoidal_positions(n: int, d: int, device: torch.device | str = "cpu") -> Float[Tensor, "n d"]:
    """sin and cos of position / 10000^(2i/d), interleaved (Vaswani et al. 2017, section 3.5). d must be even."""
    rate = torch.exp(torch.arange(0, d, 2, device=device) * (-math.log(10000.0) / d))
    angle = torch.arange(n, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(n, d)
