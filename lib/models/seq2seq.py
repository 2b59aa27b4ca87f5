"""The encoder-decoder Transformer over token sequences (Vaswani et al. 2017).

Axes: b rows, s source positions, t target positions, d model width, v vocabulary.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lib import attention, decode, nn, random, transformer, tree
from lib.data.tokens import PAD
from lib.random import Key
from lib.transformer import Cross
from lib.tree import Tree


@dataclass(frozen=True)
class Config:
    encoder_layers: int
    decoder_layers: int
    block: transformer.Config
    source_vocabulary: int
    target_vocabulary: int
    shared: bool  # one table embeds source and target and is the head (Press & Wolf 2017)


class Sequences(NamedTuple):
    """Token ids, their positions within their sentence, and the number of the sentence in its row (0: padding)."""

    ids: Int[Tensor, "b s"]
    position: Int[Tensor, "b s"]
    segment: Int[Tensor, "b s"]


def init(key: Key, cfg: Config) -> Tree:
    """{"embed": {"source", "target", "head"}, "encoder", "decoder"}; a shared table is one leaf, embed.source."""
    k_source, k_target, k_head, k_encoder, k_decoder = random.split(key, 5)
    d = cfg.block.width
    embed = {"source": nn.embedding_init(k_source, cfg.source_vocabulary, d)}
    if not cfg.shared:
        embed["target"] = nn.embedding_init(k_target, cfg.target_vocabulary, d)
        embed["head"] = nn.embedding_init(k_head, cfg.target_vocabulary, d)
    return {
        "embed": embed,
        "encoder": transformer.stack_init(k_encoder, cfg.encoder_layers, cfg.block),
        "decoder": transformer.stack_init(k_decoder, cfg.decoder_layers, cfg.block, cross=True),
    }


def table(params: Tree, name: str) -> Float[Tensor, "v d"]:
    """The table of "source", "target" or "head"."""
    return params["embed"].get(name, params["embed"]["source"])


def waves(longest: int, table: Float[Tensor, "v d"], cfg: Config) -> Float[Tensor, "n d"] | None:
    """Sinusoidal positions below `longest` in the dtype of the table; None where positions are rotary."""
    if cfg.block.position == "rotary":
        return None
    return nn.sinusoidal_positions(longest, table.shape[1], table.device).to(table.dtype)


def embed(
    table: Float[Tensor, "v d"],
    ids: Int[Tensor, "b s"],
    waves: Float[Tensor, "n d"] | None,
    position: Int[Tensor, "..."],
) -> Float[Tensor, "b s d"]:
    """Embeddings times sqrt(d) plus the waves, if any, of their positions (section 3.4)."""
    x = nn.embedding(table, ids) * math.sqrt(table.shape[1])
    return x if waves is None else x + waves[position]


def encode(params: Tree, source: Sequences, key: Key | None = None, *, cfg: Config) -> Float[Tensor, "b s d"]:
    k_embed, k_stack = random.split(key)
    vectors = table(params, "source")
    x = embed(vectors, source.ids, waves(source.ids.shape[1], vectors, cfg), source.position)
    mask = attention.segment_mask(source.segment, source.segment)
    x = nn.dropout(x, cfg.block.dropout, k_embed)
    return transformer.stack(params["encoder"], x, mask, key=k_stack, position=source.position, cfg=cfg.block)[0]


def head(params: Tree, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t v"]:
    return F.linear(x, table(params, "head"))


def apply(
    params: Tree, source: Sequences, target: Sequences, key: Key | None = None, *, cfg: Config, weights: bool = False
) -> tuple[Float[Tensor, "b t v"], list[Tree]]:
    """Logits of each next target token, and with `weights` each decoder layer's cross-attention as "weights"."""
    k_encode, k_embed, k_stack = random.split(key, 3)
    memory = encode(params, source, k_encode, cfg=cfg)
    vectors = table(params, "target")
    x = embed(vectors, target.ids, waves(target.ids.shape[1], vectors, cfg), target.position)
    x = nn.dropout(x, cfg.block.dropout, k_embed)
    mask = attention.segment_mask(target.segment, target.segment)
    mask = mask & attention.causal_mask(x.shape[1], x.device)
    # Padding attends to everything: fused attention may make NaN of a query that attends to nothing, and its gradient
    # would reach every weight.
    seen = attention.segment_mask(target.segment, source.segment) | rearrange(target.segment == 0, "b t -> b 1 t 1")
    cross = Cross(memory, seen, transformer.rotation(source.position, cfg.block))
    x, layers = transformer.stack(
        params["decoder"], x, mask, cross, k_stack, position=target.position, cfg=cfg.block, weights=weights
    )
    return head(params, x), layers


def matmul_weights(params: Tree) -> int:
    """Weights that take part in a matrix product for a target token and its share of the source: 2 FLOP each forward
    and 4 backward (Kaplan et al. 2020, table 1; attention scores and norms left out)."""
    return sum(x.numel() for x in tree.leaves([params["encoder"], params["decoder"], table(params, "head")]))


def one_a_row(rows: list[list[int]], device: torch.device) -> Sequences:
    """Unpacked sequences, padded to the longest."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    position = torch.arange(width, device=device).expand_as(ids)
    return Sequences(ids, position, (position < lengths[:, None]).int())


def start(params: Tree, source: Sequences, beams: int, length: int, *, cfg: Config) -> tuple[decode.Step, list[Tree]]:
    """What `decode` needs: the function from the last token and the cache to the next logits, and the first cache,
    for `beams` copies of each source and up to `length` target tokens."""
    memory = encode(params, source, cfg=cfg).repeat_interleave(beams, dim=0)
    seen = rearrange(source.segment > 0, "b s -> b 1 1 s").repeat_interleave(beams, dim=0)
    turn = transformer.rotation(source.position.repeat_interleave(beams, dim=0), cfg.block)
    cache = transformer.stack_cache(params["decoder"], memory.shape[0], length, memory, memory, turn)

    vectors = table(params, "target")
    places = waves(length, vectors, cfg)

    def step(token: Int[Tensor, "b"], cache: list[Tree]) -> tuple[Float[Tensor, "b v"], list[Tree]]:
        position = cache[0]["position"]
        x = embed(vectors, rearrange(token, "b -> b 1"), places, position)
        mask = transformer.cache_mask(position, 1, length)
        x, cache = transformer.stack(params["decoder"], x, mask, Cross(None, seen), cache=cache, cfg=cfg.block)
        return head(params, x)[:, 0], cache

    return step, cache
