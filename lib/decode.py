"""Decoding with static-shape caches: greedy, sampling and beam search.

Each takes a model's `step(tokens (b,), cache) -> (logits (b, v), cache)`, the cache before the first token and the
first token, and knows nothing else of the model. Axes: b sequences, k beams, t positions, v vocabulary.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import random, tree
from lib.random import Key
from lib.tree import Tree

Step: TypeAlias = Callable[[Int[Tensor, "b"], Tree], tuple[Float[Tensor, "b v"], Tree]]


def generate(
    step: Step,
    cache: Tree,
    first: Int[Tensor, "b"],
    length: int,
    end: int,
    key: Key | None = None,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int[Tensor, "b t"]:
    """Up to `length` tokens after `first`: the likeliest ones, or with a key random ones.

    A sequence that has produced `end` goes on with `end`. With a key, token n is drawn with `fold_in(key, n)` (see
    `pick`).
    """
    token, done, out = first, torch.zeros_like(first, dtype=torch.bool), []
    for n in range(length):
        logits, cache = step(token, cache)
        token = pick(logits, random.fold_in(key, n), temperature=temperature, top_k=top_k, top_p=top_p)
        token = torch.where(done, end, token)
        done = done | (token == end)
        out.append(token)
        if done.all():
            break
    return torch.stack(out, dim=1)


def pick(
    logits: Float[Tensor, "b v"],
    key: Key | None = None,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int[Tensor, "b"]:
    """The likeliest token; with a key one drawn from softmax(logits / temperature) restricted by `top_k` and `top_p`
    (see `restrict`)."""
    if key is None:
        return logits.argmax(dim=-1)
    return random.categorical(key, restrict(logits.float() / temperature, top_k, top_p))


def restrict(logits: Float[Tensor, "b v"], top_k: int = 0, top_p: float = 1.0) -> Float[Tensor, "b v"]:
    """-inf outside the `top_k` likeliest tokens (0: all) and outside the nucleus, the smallest set of likeliest
    tokens whose probability reaches `top_p` (Holtzman et al. 2020). The likeliest token always stays."""
    if top_k:
        floor = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = torch.where(logits < floor, -torch.inf, logits)
    if top_p < 1.0:
        ordered, index = logits.sort(dim=-1, descending=True)
        p = ordered.softmax(dim=-1)
        outside = p.cumsum(dim=-1) - p >= top_p  # the mass before this token already suffices
        outside[:, 0] = False
        logits = torch.where(torch.zeros_like(outside).scatter(1, index, outside), -torch.inf, logits)
    return logits


def beam_search(
    step: Step,
    cache: Tree,
    first: Int[Tensor, "b"],
    length: int,
    end: int,
    beams: int = 4,
    alpha: float = 0.6,
) -> tuple[Int[Tensor, "b k t"], Float[Tensor, "b k"]]:
    """The `beams` best continuations of each sequence, best first, with their scores.

    `cache` is for b * beams sequences, each repeated `beams` times. The score is log p(y) / lp(y) with the length
    penalty lp(y) = ((5 + |y|) / 6)^alpha (Wu et al. 2016, equation 14); |y| counts the end token. Finished
    sequences keep their place and their score; the search ends when every beam is finished.
    """
    b, k, device = first.shape[0], beams, first.device
    token = first.repeat_interleave(k)
    logp = torch.full((b, k), -torch.inf, device=device)
    logp[:, 0] = 0.0  # the beams start equal: let only one of them speak
    lengths = torch.zeros(b, k, device=device)
    done = torch.zeros(b, k, dtype=torch.bool, device=device)
    out = torch.full((b, k, 0), end, dtype=first.dtype, device=device)
    rows = torch.arange(b, device=device)[:, None]
    for _ in range(length):
        logits, cache = step(token, cache)
        v = logits.shape[-1]
        word = torch.log_softmax(logits.float(), dim=-1).reshape(b, k, v)
        only_end = torch.where(torch.arange(v, device=device) == end, 0.0, -torch.inf)
        word = torch.where(done[:, :, None], only_end, word)
        grown = torch.where(done, lengths, lengths + 1)
        total = logp[:, :, None] + word
        best = (total / penalty(grown, alpha)[:, :, None]).flatten(1).topk(k).indices
        parent, token = best // v, best % v
        logp, lengths = total.flatten(1).gather(1, best), grown.gather(1, parent)
        done = done.gather(1, parent) | (token == end)
        out = torch.cat([out[rows, parent], token[:, :, None]], dim=-1)
        index, token = (rows * k + parent).flatten(), token.flatten()
        cache = tree.map(lambda x: x[index] if x.ndim else x, cache)  # noqa: B023 (called at once)
        if done.all():
            break
    scores, order = (logp / penalty(lengths, alpha)).sort(dim=1, descending=True)
    return out[rows, order], scores


def penalty(lengths: Tensor, alpha: float) -> Tensor:
    return ((5 + lengths) / 6) ** alpha
