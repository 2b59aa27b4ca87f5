"""BERT (Devlin et al. 2019): a Transformer encoder that sees both sides of every token, trained to fill in masked ones.

Its blocks, the language head, and the rule by which tokens are masked; released weights: lib/models/minilm. Axes:
b rows, t positions, d model width, v vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import nn, random, transformer, tree
from lib.data import tokens
from lib.random import Key
from lib.tree import Tree

SPREAD = 0.02  # standard deviation of new weights (the authors' code; the paper names none)
EPS = 1e-12  # of the norms, as released
ROWS = 128  # that are scored at once


@dataclass(frozen=True)
class Config:
    vocabulary: int
    context: int  # tokens of a row at most
    layers: int
    block: transformer.Config  # of `block_config`
    types: int = 2  # kinds of segments


def block_config(width: int, heads: int, ff: int, dropout: float = 0.0) -> transformer.Config:
    """The paper's block: norms behind the sums, gelu, biases everywhere. Its dropout is that of our blocks, which drop
    hidden units of the feed-forward layers too, where the paper does not."""
    return transformer.Config(
        width=width, heads=heads, ff=ff, dropout=dropout, norm="layer", activation="gelu", position="learned",
        bias="all", order="post", eps=EPS,
    )  # fmt: skip


def init(key: Key, cfg: Config) -> Tree:
    """{"embed": {"tokens", "positions", "types", "norm"}, "encoder"}; weights are normal with standard deviation .02,
    biases zero."""
    *k_embed, k_encoder, k_matrices = random.split(key, 5)
    sizes = {"tokens": cfg.vocabulary, "positions": cfg.context, "types": cfg.types}
    embed = {
        name: SPREAD * random.normal(k, (n, cfg.block.width))
        for k, (name, n) in zip(k_embed, sizes.items(), strict=True)
    }
    encoder = transformer.stack_init(k_encoder, cfg.layers, cfg.block)
    keys = iter(random.split(k_matrices, len(tree.leaves(encoder))))
    encoder = tree.map(lambda x: SPREAD * random.normal(next(keys), tuple(x.shape)) if x.ndim >= 2 else x, encoder)
    return {"embed": {**embed, "norm": nn.norm_init("layer", cfg.block.width, key.device)}, "encoder": encoder}


def dense_init(key: Key, d: int, f: int) -> Tree:
    """{"w": (d, f), "b": (f)} of a head, made as the rest is."""
    return {"w": SPREAD * random.normal(key, (d, f)), "b": torch.zeros(f, device=key.device)}


def features(
    params: Tree,
    ids: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    types: Int[Tensor, "b t"] | None = None,
    key: Key | None = None,
    *,
    cfg: Config,
) -> Float[Tensor, "b t d"]:
    """What the heads read. `mask`: True where there is a token; `types`: the segment of each, all 0 if not given.
    Raises ValueError where there are more tokens than the context."""
    t = ids.shape[1]
    if t > cfg.context:
        raise ValueError(f"{t} tokens do not fit in a context of {cfg.context}")
    k_embed, k_encoder = random.split(key)
    embed = params["embed"]
    of_types = embed["types"][0] if types is None else nn.embedding(embed["types"], types)
    x = nn.embedding(embed["tokens"], ids) + embed["positions"][:t] + of_types
    x = nn.dropout(transformer.norm(embed["norm"], x, cfg.block), cfg.block.dropout, k_embed)
    return transformer.stack(params["encoder"], x, rearrange(mask, "b s -> b 1 1 s"), key=k_encoder, cfg=cfg.block)[0]


def mean_features(x: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b d"]:
    """The mean over a row's tokens, in fp32."""
    weight = mask.float()
    return einsum(x.float(), weight / reduce(weight, "b t -> b 1", "sum"), "b t d, b t -> b d")


def matmul_weights(params: Tree) -> int:
    """Weights that take part in a matrix product for each token: 2 FLOP each forward and 4 backward (Kaplan et al.
    2020, table 1; attention scores and norms left out)."""
    return sum(x.numel() for x in tree.leaves(params["encoder"]))


# ---- the masked language model ----


def language_init(key: Key, cfg: Config) -> Tree:
    """{"dense", "norm", "bias"}; the table of embeddings is the rest of the head."""
    d = cfg.block.width
    norm, bias = nn.norm_init("layer", d, key.device), torch.zeros(cfg.vocabulary, device=key.device)
    return {"dense": dense_init(key, d, d), "norm": norm, "bias": bias}


def language(
    params: Tree, ids: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"], key: Key | None = None, *, cfg: Config
) -> Float[Tensor, "b t v"]:
    """Logits of the token at each place, by {"bert", "language"}."""
    x = features(params["bert"], ids, mask, key=key, cfg=cfg)
    p, table = params["language"], params["bert"]["embed"]["tokens"]
    h = transformer.norm(p["norm"], F.gelu(nn.linear(p["dense"], x)), cfg.block)
    return F.linear(h, table, p["bias"])


def masked(
    key: Key, ids: Int[Tensor, "b t"], vocabulary: int, share: float = 0.15
) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """(inputs, targets) of section 3.1: each token that is no special one is to be predicted with probability `share`;
    of these the inputs have [MASK] for 80 %, any token of the vocabulary for 10 % and the token itself for 10 %. Where
    nothing is to be predicted targets are `tokens.NOTHING`. For vocabularies of `tokens.train_wordpiece`."""
    k_share, k_how, k_any = random.split(key, 3)
    shape = tuple(ids.shape)
    chosen = (ids > tokens.MASK) & random.bernoulli(k_share, share, shape)
    how, other = random.uniform(k_how, shape), random.randint(k_any, shape, 0, vocabulary).to(ids.dtype)
    shown = torch.where(how < 0.8, tokens.MASK, torch.where(how < 0.9, other, ids))
    return torch.where(chosen, shown, ids), torch.where(chosen, ids, tokens.NOTHING)


def masked_scores(
    params: Tree, ids: Int[Tensor, "b t"], k_mask: Key, key: Key | None = None, *, cfg: Config
) -> tuple[Float[Tensor, ""], Int[Tensor, ""], Int[Tensor, ""]]:
    """(summed cross-entropy in nats, how many are guessed right, how many there are) of the tokens that `masked` with
    `k_mask` asks for; `key`: of dropout."""
    inputs, targets = masked(k_mask, ids, cfg.vocabulary)
    logits = rearrange(language(params, inputs, ids != tokens.PAD, key, cfg=cfg), "b t v -> (b t) v").float()
    targets = rearrange(targets, "b t -> (b t)")
    nats = F.cross_entropy(logits, targets, ignore_index=tokens.NOTHING, reduction="sum")
    return nats, (logits.argmax(-1) == targets).sum(), (targets != tokens.NOTHING).sum()


@torch.no_grad()
def masked_figures(params: Tree, ids: Int[Tensor, "n t"], key: Key, *, cfg: Config) -> dict[str, float]:
    """Loss in nats, perplexity and accuracy per masked token."""
    sums = torch.zeros(3)
    for i, part in enumerate(ids.split(ROWS)):
        sums += torch.tensor([float(x) for x in masked_scores(params, part, random.fold_in(key, i), cfg=cfg)])
    nats, right, n = sums.tolist()
    return {"loss": nats / max(1, n), "perplexity": math.exp(nats / max(1, n)), "accuracy": right / max(1, n)}


@torch.no_grad()
def fill(
    params: Tree, ids: Int[Tensor, "t"], k: int, *, cfg: Config
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """For each [MASK] of a row without padding the k likeliest tokens: (probabilities, ids)."""
    logits = language(params, ids[None], torch.ones_like(ids[None], dtype=torch.bool), cfg=cfg)[0]
    p, best = logits[ids == tokens.MASK].float().softmax(-1).topk(k)
    return p, best
