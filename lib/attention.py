"""Multi-head attention (Vaswani et al. 2017, section 3.2.2) with masks and static-shape key-value caches.

Axes: b batch, t query positions, s key positions, d model width, h heads, g heads of keys and values, c channels per
head.
A mask is boolean, True where the query may attend, and broadcasts to (b, h, t, s); or it is "causal": `causal_mask`
without the tensor, for which fused kernels have a faster way.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import nn, random
from lib.random import Key
from lib.transform import second_order
from lib.tree import Tree

SHORT = 128 * 128  # query times key positions
KeysValues = tuple[Float[Tensor, "b g s c"], Float[Tensor, "b g s c"]]
Mask = Bool[Tensor, "..."] | Literal["causal"] | None
Rotation = tuple[Float[Tensor, "*b t n"], Float[Tensor, "*b t n"]]  # cosines and sines of n pairs of channels


def attention_init(
    key: Key, d: int, heads: int, bias: bool = False, kv_heads: int = 0, normed: bool = False, reach: int = 0
) -> Tree:
    """{"w_q", "w_k", "w_v": (d, heads, c), "w_o": (heads, c, d), with `bias` "b_q" ... "b_o"}: Xavier-uniform
    projections, and biases that are vectors of zeros. `kv_heads`: heads of keys and values, each of which serves as
    many of the queries (Ainslie et al. 2023); 0: one for each. `normed`: queries and keys have a norm each, "norm_q"
    and "norm_k", so that scores cannot grow without bound (Dehghani et al. 2023, "ViT-22B"). `reach`: how
    many distances back have embeddings, "relative": (heads, reach, c), for `relative`; 0: none. Raises ValueError where
    heads do not divide the width, or kv_heads the heads."""
    g = kv_heads or heads
    if d % heads:
        raise ValueError(f"the width must be a multiple of the number of heads: {d} is not a multiple of {heads}")
    if heads % g:
        raise ValueError(f"heads of keys must divide the number of heads: {g} do not divide {heads}")
    c = d // heads
    k_q, k_k, k_v, k_o = random.split(key, 4)
    p = {
        "w_q": nn.xavier(k_q, (d, heads, c), d, d),
        "w_k": nn.xavier(k_k, (d, g, c), d, g * c),
        "w_v": nn.xavier(k_v, (d, g, c), d, g * c),
        "w_o": nn.xavier(k_o, (heads, c, d), d, d),
    }
    if normed:
        p |= {name: nn.norm_init("rms", c, key.device) for name in ("norm_q", "norm_k")}
    if reach:
        p["relative"] = 0.02 * random.normal(random.fold_in(key, 4), (heads, reach, c))
    sizes = {"b_q": d, "b_k": g * c, "b_v": g * c, "b_o": d}
    return p | {name: torch.zeros(n, device=key.device) for name, n in sizes.items() if bias}


def project(p: Tree, name: str, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b h t c"]:
    """The queries ("q"), keys ("k") or values ("v") of x."""
    w = p[f"w_{name}"]
    y = x @ w.flatten(1)
    y = rearrange(y + p[f"b_{name}"] if f"b_{name}" in p else y, "b t (h c) -> b h t c", h=w.shape[1])
    return nn.rms_norm(p[f"norm_{name}"], y) if f"norm_{name}" in p else y


def keys_values(p: Tree, x: Float[Tensor, "b s d"], rotation: Rotation | None = None) -> KeysValues:
    return rotate(project(p, "k", x), rotation), project(p, "v", x)


def rotation(
    positions: Int[Tensor, "*b t"], c: int, base: float = 10_000.0, stretch: Sequence[float] | None = None
) -> Rotation:
    """cos and sin of position / base^(2i/c) for channels i and i + c/2, which `rotate` turns together; `stretch`: c/2
    numbers that these angles are divided by, for longer texts than a model was first trained on. Raises ValueError
    where c is odd."""
    if c % 2:
        raise ValueError(f"rotary positions turn pairs of channels: {c} channels a head are an odd number")
    rate = base ** -(torch.arange(0, c, 2, device=positions.device) / c)
    if stretch is not None:  # written on the device: a CUDA graph cannot hold a copy to it
        rate = rate / torch.cat([torch.full_like(rate[:1], x) for x in stretch])
    angle = positions[..., None] * rate
    return _once(angle.cos()), _once(angle.sin())


def _once(x: Tensor) -> Tensor:
    """x; compiled, it is computed once. Else inductor writes its cosines out in every kernel that turns something,
    which made a step of the translator a twentieth longer on a CPU."""
    return x.as_strided(x.shape, x.stride())


def rotate(x: Float[Tensor, "b h t c"], rotation: Rotation | None) -> Float[Tensor, "b h t c"]:
    """Rotary positions (Su et al. 2021): a query times a key then depends on how far they are apart, not on where they
    are. Channel i turns with channel i + c/2, as in the released Llama weights; the paper pairs 2i with 2i + 1. None
    is no rotation."""
    if rotation is None:
        return x
    cos, sin = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(
    p: Tree,
    x: Float[Tensor, "b t d"],
    kv: KeysValues,
    mask: Mask = None,
    key: Key | None = None,
    rotation: Rotation | None = None,
    *,
    dropout: float = 0.0,
    weights: bool = False,
    start: Int[Tensor, ""] | int = 0,
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b h t s"] | None]:
    """Attend from x to keys and values. `weights=True` also returns the attention weights, otherwise None. `rotation`:
    of the queries; the keys have had theirs. `start`: the first query's position among the keys, where distances have
    embeddings.

    The framework's fused attention is used where it can be: it draws dropout from the global generator and shows no
    weights, nor has it forward-mode or second derivatives. On a CPU its backward is slower than the plain formula for
    short sequences (LOG.md, 2026-11-21).
    """
    q = rotate(project(p, "q", x), rotation)
    k, v = kv
    short = not x.is_cuda and q.shape[2] * k.shape[2] <= SHORT
    far = relative(p["relative"], q, k.shape[2], start) if "relative" in p else None
    if weights or short or (key is not None and dropout > 0) or second_order() or far is not None:
        mask = causal_mask(q.shape[2], x.device) if isinstance(mask, str) else mask
        y, w = math_attention(q, k, v, mask, key, dropout=dropout, far=far)
    else:
        given: dict = {"is_causal": True} if isinstance(mask, str) else {"attn_mask": mask}
        if q.shape[1] != k.shape[1]:
            given["enable_gqa"] = True  # which reads shared heads without copies
        y, w = F.scaled_dot_product_attention(q, k, v, **given), None  # type: ignore[arg-type]
    y = rearrange(y, "b h t c -> b t (h c)") @ p["w_o"].flatten(0, 1)
    return y + p["b_o"] if "b_o" in p else y, w if weights else None


def math_attention(
    q: Float[Tensor, "b h t c"],
    k: Float[Tensor, "b g s c"],
    v: Float[Tensor, "b g s c"],
    mask: Bool[Tensor, "..."] | None = None,
    key: Key | None = None,
    *,
    dropout: float = 0.0,
    far: Float[Tensor, "b h t s"] | None = None,
) -> tuple[Float[Tensor, "b h t c"], Float[Tensor, "b h t s"]]:
    """softmax(q k^T / sqrt(c)) v written out: for dropout, pictures, forward-mode and second derivatives, and where it
    is faster. Heads of queries that share keys and values read them one after another.
    `far`: what is added to the scores."""
    t, g = q.shape[2], k.shape[1]
    grouped = rearrange(q * q.shape[-1] ** -0.5, "b (g n) t c -> b g (n t) c", g=g)
    scores = rearrange(grouped @ k.mT, "b g (n t) s -> b (g n) t s", t=t)
    scores = scores if far is None else scores + far
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    w = torch.softmax(scores.float(), dim=-1).to(q.dtype)
    y = rearrange(nn.dropout(w, dropout, key), "b (g n) t s -> b g (n t) s", g=g) @ v
    return rearrange(y, "b g (n t) c -> b (g n) t c", t=t), w


def relative(
    table: Float[Tensor, "h r c"], q: Float[Tensor, "b h t c"], s: int, start: Int[Tensor, ""] | int = 0
) -> Float[Tensor, "b h t s"]:
    """What is added to the scores of queries from position `start` on for s keys: q e / sqrt(c) with e the embedding of
    how far back a key is (Shaw et al. 2018; Huang et al. 2018, equation 3), from r - 1 on the last one. Keys ahead,
    which a mask must hide, count as those at the query. The paper's skewing is a gather here, so that a cache may be
    longer than what is in it."""
    each = (q * q.shape[-1] ** -0.5) @ table.mT
    back = start + torch.arange(q.shape[2], device=q.device)[:, None] - torch.arange(s, device=q.device)
    return each.gather(-1, back.clamp(0, table.shape[1] - 1).expand(*q.shape[:2], -1, -1))


def causal_mask(t: int, device: torch.device | str = "cpu") -> Bool[Tensor, "t t"]:
    """Position t attends to itself and what came before."""
    return torch.ones(t, t, dtype=torch.bool, device=device).tril()


def segment_mask(q: Int[Tensor, "b t"], k: Int[Tensor, "b s"]) -> Bool[Tensor, "b 1 t s"]:
    """Sequences packed into one row attend within themselves: equal segment numbers."""
    return rearrange(q, "b t -> b 1 t 1") == rearrange(k, "b s -> b 1 1 s")


def cache_init(b: int, h: int, s: int, c: int, dtype: torch.dtype, device: torch.device | str) -> Tree:
    """An empty cache for up to s positions: shapes never change, so a decoding step is one graph."""
    return {name: torch.zeros(b, h, s, c, dtype=dtype, device=device) for name in ("k", "v")}


def cache_write(cache: Tree, kv: KeysValues, position: Int[Tensor, ""]) -> Tree:
    """The cache with keys and values of t positions written from `position` on; the input stays as it was."""
    slots = position + torch.arange(kv[0].shape[2], device=position.device)
    return {name: cache[name].index_copy(2, slots, x) for name, x in zip(("k", "v"), kv, strict=True)}
