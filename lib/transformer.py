"""Stacks of Transformer blocks: encoder, decoder with cross-attention, decoder alone.

Vaswani et al. 2017, as it was, with norms behind the residual sums ("post"), or with the norm inside the residual
branch and one at the end of the stack ("pre", as in the book and most later models). Axes: b batch, t positions,
s memory positions, d model width, h heads, c channels per head, f feed-forward width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import attention as attn
from lib import nn, random
from lib.random import Key
from lib.tree import Tree

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2's
    "silu": F.silu,
}
GATES = {"relu": "reglu", "gelu": "geglu", "gelu_tanh": "geglu_tanh", "silu": "swiglu"}  # with a gate (Shazeer 2020)
ACTIVATIONS |= {gated: ACTIVATIONS[plain] for plain, gated in GATES.items()}


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 256
    heads: int = 8
    ff: int = 1024
    dropout: float = 0.0
    norm: str = "rms"  # or "layer"
    activation: str = "relu"  # one of ACTIVATIONS; with one of GATES a second map gates the first
    position: str = "sinusoidal"  # or "learned": whoever embeds adds them; "rotary": queries and keys are turned here;
    # "relative": distances back have embeddings, which are added to scores (of causal stacks)
    reach: int = 0  # of relative positions: how many distances
    bias: str = "ff"  # the feed-forward maps have biases; "attention": those of attention; "all": both; "none"
    order: str = "pre"  # or "post": where the norms are
    kv_heads: int = 0  # of keys and values; 0: as many as heads
    eps: float | None = None  # of the norms; None: nn's own
    rotary_base: float = 10_000.0
    rotary_stretch: tuple[float, ...] | None = None  # how many times slower each pair of channels turns; None: 1

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if (self.position == "relative") != (self.reach > 0):
            raise ValueError(f"relative positions need a reach, and others have none: not {self.reach}")
        parts = {"sinusoidal": ("width", self.width), "rotary": ("width / heads", self.width // self.heads)}
        name, channels = parts.get(self.position, ("", 0))
        if channels % 2:
            raise ValueError(f"{self.position} positions need an even {name}, not {channels}")


class Cross(NamedTuple):
    """What cross-attention reads, beside a cache that has its keys and values only the mask. `rotation`: of the keys;
    needed where positions are rotary."""

    memory: Float[Tensor, "b s d"] | None
    mask: Bool[Tensor, "..."] | None = None
    rotation: attn.Rotation | None = None


def norm(p: Tree, x: Float[Tensor, "b t d"], cfg: Config) -> Float[Tensor, "b t d"]:
    return nn.NORMS[cfg.norm](p, x) if cfg.eps is None else nn.NORMS[cfg.norm](p, x, cfg.eps)


def block_init(key: Key, cfg: Config, cross: bool = False) -> Tree:
    """{"norm_attn", "attn", "norm_ff", "ff": {"in", "out", "gate" of GATES}}, with `cross` "norm_cross" and
    "cross"."""
    k_self, k_cross, k_in, k_out = random.split(key, 4)
    new_norm = lambda: nn.norm_init(cfg.norm, cfg.width, key.device)  # noqa: E731
    biased = cfg.bias in ("attention", "all")
    attention = partial(attn.attention_init, d=cfg.width, heads=cfg.heads, bias=biased, kv_heads=cfg.kv_heads)
    p = {"norm_attn": new_norm(), "attn": attention(k_self, reach=cfg.reach)}
    if cross:
        p |= {"norm_cross": new_norm(), "cross": attention(k_cross)}
    bias = cfg.bias in ("ff", "all")
    ff = {"in": nn.linear_init(k_in, cfg.width, cfg.ff, bias), "out": nn.linear_init(k_out, cfg.ff, cfg.width, bias)}
    if cfg.activation in GATES.values():
        ff["gate"] = nn.linear_init(random.fold_in(k_in, 1), cfg.width, cfg.ff, bias)
    return p | {"norm_ff": new_norm(), "ff": ff}


def feed_forward(p: Tree, x: Float[Tensor, "b t d"], key: Key | None = None, *, cfg: Config) -> Float[Tensor, "b t d"]:
    """activation(x w_in) w_out; with a gate (activation(x w_gate) * x w_in) w_out."""
    h, activation = nn.linear(p["in"], x), ACTIVATIONS[cfg.activation]
    h = activation(nn.linear(p["gate"], x)) * h if "gate" in p else activation(h)
    return nn.linear(p["out"], nn.dropout(h, cfg.dropout, key))


def block(
    p: Tree,
    x: Float[Tensor, "b t d"],
    mask: attn.Mask,
    cross: Cross | None = None,
    key: Key | None = None,
    cache: Tree | None = None,
    rotation: attn.Rotation | None = None,
    *,
    cfg: Config,
    weights: bool = False,
) -> tuple[Float[Tensor, "b t d"], Tree]:
    """One block. Cross-attends to `cross` where the parameters have "cross". `rotation`: of rotary positions; it turns
    the queries of cross-attention too.

    `cache` (see `stack_cache`) holds what came before position `cache["position"]` and, for cross-attention, the
    memory's keys and values. Returns x and the cache as it is after x; with `weights`, the weights of cross-attention,
    or where there is none those of attention to itself, stand in it as "weights".
    """
    k_attn, k_attn_out, k_cross, k_cross_out, k_ff, k_ff_out = random.split(key, 6)
    after, pre = dict(cache or {}), cfg.order == "pre"

    h = norm(p["norm_attn"], x, cfg) if pre else x
    kv = attn.keys_values(p["attn"], h, rotation)
    if cache is not None:
        after |= attn.cache_write(cache, kv, cache["position"])
        after["position"] = cache["position"] + x.shape[1]
        kv = after["k"], after["v"]
    start = 0 if cache is None else cache["position"]
    own = weights and "cross" not in p
    h, w = attn.attention(p["attn"], h, kv, mask, k_attn, rotation, dropout=cfg.dropout, weights=own, start=start)
    x = x + nn.dropout(h, cfg.dropout, k_attn_out)
    x = x if pre else norm(p["norm_attn"], x, cfg)

    if "cross" in p:
        if cache is not None:
            kv = cache["cross_k"], cache["cross_v"]
        elif cross is not None and cross.memory is not None:
            kv = attn.keys_values(p["cross"], cross.memory, cross.rotation)
        else:
            raise ValueError("a block with cross-attention needs a memory or a cache")
        h = norm(p["norm_cross"], x, cfg) if pre else x
        seen = cross and cross.mask
        h, w = attn.attention(p["cross"], h, kv, seen, k_cross, rotation, dropout=cfg.dropout, weights=weights)
        x = x + nn.dropout(h, cfg.dropout, k_cross_out)
        x = x if pre else norm(p["norm_cross"], x, cfg)
    after |= {"weights": w} if weights else {}

    h = feed_forward(p["ff"], norm(p["norm_ff"], x, cfg) if pre else x, k_ff, cfg=cfg)
    x = x + nn.dropout(h, cfg.dropout, k_ff_out)
    return x if pre else norm(p["norm_ff"], x, cfg), after


def stack_init(key: Key, layers: int, cfg: Config, cross: bool = False) -> Tree:
    """{"blocks": [of `block_init`], "norm" where norms are inside the blocks}."""
    blocks = [block_init(k, cfg, cross) for k in random.split(key, layers)]
    return {"blocks": blocks} | ({"norm": nn.norm_init(cfg.norm, cfg.width, key.device)} if cfg.order == "pre" else {})


def stack(
    p: Tree,
    x: Float[Tensor, "b t d"],
    mask: attn.Mask,
    cross: Cross | None = None,
    key: Key | None = None,
    cache: list[Tree] | None = None,
    position: Int[Tensor, "*b t"] | None = None,
    *,
    cfg: Config,
    weights: bool = False,
) -> tuple[Float[Tensor, "b t d"], list[Tree]]:
    """All blocks and, of norms inside them, the final one. Arguments and results as `block`; the cache is a list, one
    entry a block. `position`: of rotary positions; behind the cache's, one after another, where it is None."""
    after: list[Tree] = []
    if position is None and cfg.position == "rotary":
        position = torch.arange(x.shape[1], device=x.device) + (cache[0]["position"] if cache else 0)
    turn = rotation(position, cfg)
    keys = random.split(key, len(p["blocks"]))
    for i, (p_i, k_i) in enumerate(zip(p["blocks"], keys, strict=True)):
        x, c = block(p_i, x, mask, cross, k_i, cache and cache[i], turn, cfg=cfg, weights=weights)
        after.append(c)
    return norm(p["norm"], x, cfg) if "norm" in p else x, after


def rotation(position: Int[Tensor, "*b t"] | None, cfg: Config) -> attn.Rotation | None:
    """What turns the queries and keys of these positions in every head; None unless positions are rotary."""
    if cfg.position != "rotary" or position is None:
        return None
    position = position if position.ndim == 1 else rearrange(position, "b t -> b 1 t")
    return attn.rotation(position, cfg.width // cfg.heads, cfg.rotary_base, cfg.rotary_stretch)


def stack_cache(
    p: Tree,
    b: int,
    length: int,
    memory: Float[Tensor, "b s d"] | None,
    like: Tensor,
    rotation: attn.Rotation | None = None,
) -> list[Tree]:
    """Empty caches for `length` positions of `b` sequences, in the dtype and on the device of `like`. `rotation`: of
    the memory's keys."""
    caches = []
    for p_i in p["blocks"]:
        _, h, c = p_i["attn"]["w_k"].shape
        cache = attn.cache_init(b, h, length, c, like.dtype, like.device)
        cache["position"] = torch.zeros((), dtype=torch.int64, device=like.device)
        if memory is not None:
            cache["cross_k"], cache["cross_v"] = attn.keys_values(p_i["cross"], memory, rotation)
        caches.append(cache)
    return caches


def cache_mask(position: Int[Tensor, ""], t: int, length: int) -> Bool[Tensor, "t s"]:
    """Queries at `position`.. may attend to the cache's slots up to their own."""
    slots = torch.arange(length, device=position.device)
    return slots[None, :] <= position + slots[:t, None]
