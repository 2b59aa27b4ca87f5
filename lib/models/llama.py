"""What files say of a model of Llama's shape (Touvron et al. 2023): transformers' config.json, and the metadata of GGUF
as llama.cpp reads it. Both give the arguments of `smollm.config`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lib import transformer
from lib.faults import DataError
from lib.models import facts


class Sizes(NamedTuple):
    """What the weights tell."""

    vocabulary: int
    width: int
    ff: int
    layers: int


USED = {  # and transformers' defaults; see `facts.checked`
    "vocab_size": None, "hidden_size": None, "intermediate_size": None, "num_hidden_layers": None,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 2048,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False, "rope_theta": 10_000.0,
}  # fmt: skip
ONLY = facts.ONLY | {"model_type": "llama", "partial_rotary_factor": 1.0, "rope_interleaved": False}
ROTARY = {  # what each rope_type says besides
    "default": {},
    "linear": {"factor": float},
    "llama3": {"factor": float, "low_freq_factor": float, "high_freq_factor": float},
}
GGUF = {
    "llama.vocab_size": None, "llama.embedding_length": None, "llama.feed_forward_length": None,
    "llama.block_count": None, "llama.context_length": int, "llama.attention.head_count": int,
    "llama.attention.head_count_kv": None, "llama.attention.key_length": None, "llama.attention.value_length": None,
    "llama.attention.layer_norm_rms_epsilon": float, "llama.rope.dimension_count": None,
    "llama.rope.freq_base": 10_000.0, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0,
}  # fmt: skip
GGUF_ONLY = {
    "llama.attention.causal": True, "llama.expert_count": 0, "llama.expert_used_count": 0,
    "llama.rope.scaling.attn_factor": 1.0, "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.add_eos_token": False, "tokenizer.ggml.add_sep_token": False,
    "tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.remove_extra_whitespaces": False,
}  # fmt: skip
GGUF_HARMLESS = {
    "llama.rope.scaling.finetuned", "llama.rope.scaling.original_context_length", "llama.tensor_data_layout",
    "tokenizer.ggml.merges", "tokenizer.ggml.pre", "tokenizer.ggml.scores", "tokenizer.ggml.token_type",
    "tokenizer.ggml.tokens", "tokenizer.huggingface.json",
}  # fmt: skip
# of attention, of the feed-forward maps
BIASES = {(False, False): "none", (True, False): "attention", (False, True): "ff", (True, True): "all"}


def of_config(stored: Mapping[str, Any], file: Path, sizes: Sizes) -> dict[str, Any]:
    """Of a config.json. Raises DataError for what our blocks cannot do, and for sizes that the weights do not have."""
    top = {key: value for key, value in stored.items() if key not in ("rope_scaling", "rope_parameters")}
    known = facts.checked(top, USED, ONLY, file)
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    facts.agree(known, dict(zip(keys, sizes, strict=True)), file)
    heads, kv_heads = _heads(known, sizes.width, file, "num_attention_heads", "num_key_value_heads", ["head_dim"])
    gate = transformer.GATES[facts.activation(known["hidden_act"], "hidden_act", file)]
    return sizes._asdict() | {
        "heads": heads, "kv_heads": kv_heads, "context": known["max_position_embeddings"], "activation": gate,
        "bias": BIASES[known["attention_bias"], known["mlp_bias"]], "eps": known["rms_norm_eps"],
        "untied": not known["tie_word_embeddings"],
    } | _rotary(stored, known, sizes.width // heads, file)  # fmt: skip


def _rotary(stored: Mapping[str, Any], known: Mapping[str, Any], c: int, file: Path) -> dict[str, Any]:
    if stored.get("rope_scaling") and stored.get("rope_parameters"):
        raise DataError(f"{file} has rope_scaling and rope_parameters: leave the one that holds")
    key = "rope_scaling" if stored.get("rope_scaling") else "rope_parameters"
    rope = stored.get(key) or {}
    if not isinstance(rope, dict):
        raise DataError(f"{file}: {key} is {rope!r}, which has no keys")
    if (kind := str(rope.get("rope_type", rope.get("type", "default")))) not in ROTARY:
        raise DataError(f"{file}: the rope_type of {key} is {kind!r}, and only {', '.join(ROTARY)} are known here")
    used = {"rope_theta": known["rope_theta"], **ROTARY[kind]}
    if kind == "llama3":
        used["original_max_position_embeddings"] = known["max_position_embeddings"]
    found = facts.checked(rope, used, {"partial_rotary_factor": 1.0}, file, {"rope_type", "type"})
    base = float(found["rope_theta"])
    if kind == "default":
        return {"rotary_base": base}
    if kind == "linear":
        return {"rotary_base": base, "rotary_stretch": (found["factor"],) * (c // 2)}
    low, high, factor = found["low_freq_factor"], found["high_freq_factor"], found["factor"]
    if low >= high:
        raise DataError(f"{file}: low_freq_factor of {key} is {low}, which is not below high_freq_factor, {high}")
    stretch = []
    for i in range(c // 2):  # Llama 3.1 (Grattafiori et al. 2024): what turns slowly is slowed down, with a ramp
        turns = found["original_max_position_embeddings"] / (2 * math.pi * base ** (2 * i / c))
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        stretch.append(1 / (share + (1 - share) / factor))
    return {"rotary_base": base, "rotary_stretch": tuple(stretch)}


def of_gguf(fields: Mapping[str, Any], file: Path, sizes: Sizes) -> dict[str, Any]:
    """Of the metadata of a GGUF file, of which the keys that begin with llama., tokenizer., split. or adapter. tell of
    the model. Raises DataError as `of_config`."""
    told = {
        key: value for key, value in fields.items() if key.startswith(("llama.", "tokenizer.", "split.", "adapter."))
        and not key.startswith("tokenizer.chat_template") and not key.endswith(("_token_id", "_token_ids"))
    }  # fmt: skip
    known = facts.checked(told, GGUF, GGUF_ONLY, file, GGUF_HARMLESS)
    keys = ("vocab_size", "embedding_length", "feed_forward_length", "block_count")
    facts.agree(known, {f"llama.{key}": n for key, n in zip(keys, sizes, strict=True)}, file)
    attention = "llama.attention."
    channels = [f"{attention}key_length", f"{attention}value_length", "llama.rope.dimension_count"]
    heads, kv_heads = _heads(known, sizes.width, file, f"{attention}head_count", f"{attention}head_count_kv", channels)
    kind, factor = known["llama.rope.scaling.type"], known["llama.rope.scaling.factor"]
    if kind not in ("none", "linear"):
        raise DataError(f"{file}: llama.rope.scaling.type is {kind!r}, and only 'none' and 'linear' are known here")
    stretched = kind == "linear" and factor != 1
    return sizes._asdict() | {
        "heads": heads, "kv_heads": kv_heads, "context": known["llama.context_length"],
        "eps": known[f"{attention}layer_norm_rms_epsilon"], "rotary_base": known["llama.rope.freq_base"],
        "rotary_stretch": (factor,) * (sizes.width // heads // 2) if stretched else None,
    }  # fmt: skip


def _heads(
    known: Mapping[str, Any], width: int, file: Path, queries: str, keys: str, channels: list[str]
) -> tuple[int, int]:
    """(heads of queries, heads of keys), by the keys that have them."""
    heads = known[queries]
    kv_heads, c = known[keys] or heads, width // heads
    if width % heads or heads % kv_heads or c % 2:
        raise DataError(
            f"{file}: {queries} is {heads} and {keys} {kv_heads}, but the first must divide the width, {width}, into "
            "even parts, and the second the first"
        )
    for key in channels:
        if known[key] not in (None, c):
            raise DataError(f"{file}: {key} is {known[key]}, and only width / heads, {c}, is known here")
    return heads, kv_heads
