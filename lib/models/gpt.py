"""The decoder-only Transformer over token sequences (Radford et al. 2018, 2019): what comes next, scored and sampled.

Norm, positions, feed-forward layer, biases and head are chosen by name: layer norm, learned positions, gelu, biases
everywhere make GPT-2, RMS norm, rotary positions, swiglu without biases make Llama. Axes: b rows, t positions,
d model width, v vocabulary.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import attention, decode, nn, random, transformer, tree
from lib.random import Key
from lib.transform import jit
from lib.tree import Tree

ROWS = 32  # windows that are scored at once, and fewer where a vocabulary is large:
LOGITS = 2**26  # numbers at once, a quarter of a gigabyte
SPREAD = 0.02  # standard deviation of new weights (Radford et al. 2018, section 4.1)


@dataclass(frozen=True)
class Config:
    vocabulary: int
    context: int  # tokens that the model sees at most
    layers: int
    block: transformer.Config
    head: str = "tied"  # the table of embeddings is the head (Press & Wolf 2017), or "untied"


def init(key: Key, cfg: Config) -> Tree:
    """{"embed": {"tokens", "positions" where learned, "head" where untied}, "decoder"}. Weights are normal with
    standard deviation .02; those that write to the residual stream, two a layer, .02 / sqrt(2 layers), so that their
    sum does not grow with depth (Radford et al. 2019, section 2.3)."""
    k_tokens, k_positions, k_head, k_decoder, k_matrices = random.split(key, 5)
    shape = cfg.vocabulary, cfg.block.width
    embed = {"tokens": SPREAD * random.normal(k_tokens, shape)}
    if cfg.block.position == "learned":
        embed["positions"] = SPREAD * random.normal(k_positions, (cfg.context, cfg.block.width))
    if cfg.head == "untied":
        embed["head"] = SPREAD * random.normal(k_head, shape)
    decoder = transformer.stack_init(k_decoder, cfg.layers, cfg.block)
    keys = iter(random.split(k_matrices, len(tree.leaves(decoder))))

    def redrawn(path: str, x: Tensor) -> Tensor:
        spread = SPREAD / math.sqrt(2 * cfg.layers) if path.endswith(("w_o", "out.w")) else SPREAD
        return spread * random.normal(next(keys), tuple(x.shape)) if x.ndim >= 2 else x

    return {"embed": embed, "decoder": tree.map_with_path(redrawn, decoder)}


def shapes(cfg: Config) -> Tree:
    """The parameters of `init` as tensors of torch's device meta, which have a shape and no content. Written out: the
    first operation on that device, whatever it is, takes seconds (LOG.md)."""
    block, d = cfg.block, cfg.block.width
    g, c = block.kv_heads or block.heads, d // block.heads
    empty = lambda *shape: torch.empty(shape, device="meta")  # noqa: E731
    linear = lambda n, m: {"w": empty(n, m)} | ({"b": empty(m)} if block.bias in ("ff", "all") else {})  # noqa: E731
    norm = {"scale": empty(d)} | ({"bias": empty(d)} if block.norm == "layer" else {})
    attn = {"w_q": empty(d, block.heads, c), "w_k": empty(d, g, c), "w_v": empty(d, g, c)}
    attn["w_o"] = empty(block.heads, c, d)
    attn |= {"relative": empty(block.heads, block.reach, c)} if block.reach else {}
    if block.bias in ("attention", "all"):
        attn |= {"b_q": empty(d), "b_k": empty(g * c), "b_v": empty(g * c), "b_o": empty(d)}
    ff = {"in": linear(d, block.ff), "out": linear(block.ff, d)}
    ff |= {"gate": linear(d, block.ff)} if block.activation in transformer.GATES.values() else {}
    blocks = [{"norm_attn": norm, "attn": attn, "norm_ff": norm, "ff": ff}] * cfg.layers
    rows = {"tokens": cfg.vocabulary} | ({"positions": cfg.context} if block.position == "learned" else {})
    rows |= {"head": cfg.vocabulary} if cfg.head == "untied" else {}
    embed = {name: empty(n, d) for name, n in rows.items()}
    return {"embed": embed, "decoder": {"blocks": blocks} | ({"norm": norm} if block.order == "pre" else {})}


def head(params: Tree) -> Float[Tensor, "v d"]:
    return params["embed"].get("head", params["embed"]["tokens"])


def features(
    params: Tree, ids: Int[Tensor, "b t"], key: Key | None = None, cache: list[Tree] | None = None, *, cfg: Config
) -> tuple[Float[Tensor, "b t d"], list[Tree]]:
    """What the head reads, and with a cache (of `start`), which holds the tokens before these, the cache after them.
    Raises ValueError where there are more tokens than the context."""
    t = ids.shape[1]
    if t > cfg.context:
        raise ValueError(f"{t} tokens do not fit in a context of {cfg.context}")
    k_embed, k_decoder = random.split(key)
    x = nn.embedding(params["embed"]["tokens"], ids)
    places = torch.arange(t, device=ids.device) + (cache[0]["position"] if cache else 0)
    if cfg.block.position == "learned":
        x = x + nn.embedding(params["embed"]["positions"], places)
    elif cfg.block.position == "sinusoidal":  # with embeddings as large as the waves (Vaswani et al. 2017, section 3.4)
        waves = nn.sinusoidal_positions(cfg.context, cfg.block.width, ids.device)
        x = x * (cfg.block.width**0.5) + waves[places].to(x.dtype)
    x = nn.dropout(x, cfg.block.dropout, k_embed)
    mask: attention.Mask = transformer.cache_mask(places[0], t, cache[0]["k"].shape[2]) if cache else "causal"
    return transformer.stack(params["decoder"], x, mask, key=k_decoder, cache=cache, cfg=cfg.block)


def apply(params: Tree, ids: Int[Tensor, "b t"], key: Key | None = None, *, cfg: Config) -> Float[Tensor, "b t v"]:
    """Logits of each next token. On a GPU by a table with as many rows of zeros more as make them a multiple of 64, for
    which it has faster products; their logits are left out."""
    x, table = features(params, ids, key, cfg=cfg)[0], head(params)
    spare = -len(table) % 64 if x.is_cuda else 0
    return F.linear(x, F.pad(table, (0, 0, 0, spare)))[..., : len(table)] if spare else F.linear(x, table)


def matmul_weights(params: Tree) -> int:
    """Weights that take part in a matrix product for each token: 2 FLOP each forward and 4 backward (Kaplan et al.
    2020, table 1; attention scores and norms left out)."""
    return sum(x.numel() for x in tree.leaves([params["decoder"], head(params)]))


# ---- scoring ----


def scored_once(ids: Int[Tensor, "n"], length: int) -> Iterator[tuple[Int[Tensor, "t_plus_1"], int]]:
    """Windows of `length` + 1 tokens that together predict each token but the first once: (window, how many of its
    predictions do not count, for the window before has made them). Windows lie half a length apart, so that all but
    the first `length` predictions see half a length of text or more. Fewer tokens than that are one shorter window."""
    scored, n = 0, len(ids) - 1
    while scored < n:
        end = min(scored + (max(1, length // 2) if scored else length), n)
        first = max(0, end - length)
        yield ids[first : end + 1], scored - first
        scored = end


@torch.no_grad()
def nats(params: Tree, ids: Int[Tensor, "n"], *, cfg: Config) -> float:
    """The summed negative log-likelihood of all tokens but the first."""
    windows = list(scored_once(ids, cfg.context))
    total = torch.zeros((), dtype=torch.float64, device=params["embed"]["tokens"].device)
    rows = min(ROWS, max(1, LOGITS // (cfg.context * cfg.vocabulary)))
    for i in range(0, len(windows), rows):
        batch = torch.stack([tokens for tokens, _ in windows[i : i + rows]]).to(total.device)
        logits = apply(params, batch[:, :-1], cfg=cfg).float()
        each = F.cross_entropy(rearrange(logits, "b t v -> b v t"), batch[:, 1:], reduction="none")
        for row, (_, skip) in zip(each, windows[i : i + rows], strict=True):
            total += row[skip:].sum()
    return float(total)


@torch.no_grad()
def forced(params: Tree, ids: Int[Tensor, "n"], behind: int, *, cfg: Config) -> Iterator[Float[Tensor, "t v"]]:
    """Logits of the tokens behind the first so many, of which there is one at least, in parts: each token behind as
    much of the text as `generate` has in its context there."""
    ids, half = ids.to(params["embed"]["tokens"].device), max(1, cfg.context // 2)
    first, told = 0, 1
    while told < len(ids):
        end = min(first + cfg.context, len(ids) - 1)  # the last token that this window tells
        told = max(told, behind)
        if told <= end:
            x, _ = features(params, ids[None, first:end], cfg=cfg)
            yield F.linear(x[0, told - first - 1 :], head(params))
        told, first = end + 1, end + 1 - half


# ---- generation ----


def start(params: Tree, b: int, length: int | None = None, *, cfg: Config) -> list[Tree]:
    """The cache before the first of at most `length` tokens of b sequences; None: as many as the context."""
    return transformer.stack_cache(params["decoder"], b, length or cfg.context, None, params["embed"]["tokens"])


def read(
    params: Tree, ids: Int[Tensor, "b t"], cache: list[Tree], *, cfg: Config
) -> tuple[Float[Tensor, "b v"], list[Tree]]:
    """Logits of the token after these, and the cache that holds them too."""
    x, cache = features(params, ids, cache=cache, cfg=cfg)
    return F.linear(x[:, -1], head(params)), cache


@functools.cache  # what is compiled is kept
def _read_on(cfg: Config, compiled: bool) -> Callable[[list[Tree], Tree, Tensor], tuple[list[Tree], Tensor]]:
    """`read` as a step whose state is the cache."""

    def step(cache: list[Tree], params: Tree, ids: Tensor) -> tuple[list[Tree], Tensor]:
        logits, cache = read(params, ids, cache, cfg=cfg)
        return cache, logits

    return jit(step, enabled=compiled)


def generate(
    params: Tree,
    prompt: Int[Tensor, "b t"],
    key: Key | None = None,
    *,
    cfg: Config,
    room: int | None = None,
    compiled: bool = False,
    allowed: Callable[[Int[Tensor, "b"] | None], Bool[Tensor, "b v"]] | None = None,
    **sampling: float,
) -> Iterator[Int[Tensor, "b"]]:
    """Token after token behind a prompt of at most `cfg.context` tokens (ValueError), for ever. Token n is picked with
    `fold_in(key, n)`; `sampling` as in `decode.pick`.

    The context slides by halves: when it is full, its last half is read again as the beginning of a new one, whatever
    the kind of positions, and text before it is forgotten. `room`: how many tokens will be asked for, where that is
    known: a token takes as long as its cache is large. More may be asked for: all is then read again into a whole one.
    `compiled`: tokens behind the prompt are read by one graph, made at the first and anew for caches of another length.
    `allowed`: which tokens may come next, asked with the one picked before, None behind the prompt.
    """
    token: Tensor | None = None
    length = cfg.context if room is None else min(prompt.shape[1] + room, cfg.context)
    cache, seen, unread, n = start(params, len(prompt), length, cfg=cfg), prompt, prompt, 0
    while True:
        if seen.shape[1] > length and n:
            seen = unread = seen[:, -max(1, cfg.context // 2) :] if seen.shape[1] > cfg.context else seen
            length = cfg.context
            cache = start(params, len(prompt), cfg=cfg)
        cache, logits = _read_on(cfg, compiled and unread.shape[1] == 1)(cache, params, unread)
        if allowed is not None:
            logits = torch.where(allowed(token), logits, -torch.inf)
        token = decode.pick(logits, random.fold_in(key, n), **sampling)  # type: ignore[arg-type]
        yield token
        unread = rearrange(token, "b -> b 1")
        seen, n = torch.cat([seen, unread], dim=1), n + 1
