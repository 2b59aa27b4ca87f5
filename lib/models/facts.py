"""What the files of released models say of them. Every key is known: it is used, or it changes nothing that is computed
here, or it is refused.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lib.faults import DataError

# Keys of a config.json that change nothing of what is computed here: where a model comes from, how it was trained,
# how transformers runs it and writes with it, and other heads than the one that tells the next token.
HARMLESS = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled", "_name_or_path",
    "_num_labels", "architectures", "attention_dropout", "attn_implementation", "attn_pdrop", "dtype", "embd_pdrop",
    "finetuning_task", "gradient_checkpointing", "initializer_range", "is_llama_config", "max_sequence_length",
    "model_max_length", "n_ctx", "n_special", "name_or_path", "output_past", "predict_special_tokens", "pretraining_tp",
    "reorder_and_upcast_attn", "resid_pdrop", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj", "task_specific_params", "tokenizer_class", "torch_dtype", "torchscript",
    "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
    "use_return_dict",
    "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "eos_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "pad_token_id", "prefix", "sep_token_id", "suppress_tokens",
    "bad_words_ids", "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "remove_invalid_values", "repetition_penalty",
    "temperature", "top_k", "top_p", "typical_p",
    "chunk_size_feed_forward", "id2label", "is_decoder", "label2id", "num_labels", "output_attentions",
    "output_hidden_states", "output_scores", "problem_type", "return_dict", "return_dict_in_generate",
    "tie_encoder_decoder",
}  # fmt: skip
ONLY = {"add_cross_attention": False, "is_encoder_decoder": False, "pruned_heads": {}}
ACTIVATIONS = {  # transformers' names of transformer.ACTIVATIONS
    "gelu_new": "gelu_tanh", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu",
    "swish": "silu",
}  # fmt: skip


def read_config(path: Path) -> dict[str, Any]:
    """What a config.json says. Raises DataError."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError("it holds no keys")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a model's configuration: {error}") from error
    return stored


def checked(
    stored: Mapping[str, Any],
    used: Mapping[str, Any],
    only: Mapping[str, Any],
    file: Path,
    harmless: Collection[str] = HARMLESS,
) -> dict[str, Any]:
    """The values of the keys that are `used`, where null is as if a key were not there. `used` has for each its
    default, which tells the kind too: a float stands for a number above 0; None for a whole number above 0, or nothing;
    a type instead of a value for one that has no default. `only`: keys that may have one value alone. Raises DataError
    naming the key for any other value, and for a key that is none of these."""
    found = {key: None if isinstance(default, type) else default for key, default in used.items()}
    for key, value in stored.items():
        if value is None or key in harmless:
            continue
        if key in only:
            if value != only[key]:
                raise DataError(f"{file}: {key} is {value!r}, and only {only[key]!r} is known here")
        elif key not in used:
            raise DataError(
                f"{file}: {key} is {str(value)[:60]!r}, which is not known here: take it out of the file if the model "
                "computes the same without it"
            )
        else:
            found[key] = _of_kind(value, used[key], f"{file}: {key}")
    if missing := [key for key, default in used.items() if isinstance(default, type) and found[key] is None]:
        raise DataError(f"{file} does not say {', '.join(missing)}")
    return found


def _of_kind(value: Any, default: Any, name: str) -> Any:
    kind = default if isinstance(default, type) else type(default)
    if kind in (bool, str) and not isinstance(value, kind):
        raise DataError(f"{name} is {value!r}, which is {'no text' if kind is str else 'neither true nor false'}")
    if kind is float and not (type(value) in (int, float) and 0 < value < math.inf):
        raise DataError(f"{name} is {value!r}, not a number above 0")
    if kind in (int, type(None)) and not (type(value) is int and value > 0):
        raise DataError(f"{name} is {value!r}, not a whole number above 0")
    return value


def agree(facts: Mapping[str, Any], weights: Mapping[str, int], file: Path) -> None:
    """Raises DataError naming a size of the configuration `facts` that the weights do not have."""
    for key, n in weights.items():
        if facts[key] not in (None, n):
            raise DataError(f"{file}: {key} is {facts[key]}, and the weights have {n}")


def activation(name: str, key: str, file: Path) -> str:
    """Our name of transformers' activation. Raises DataError for one that is not known here."""
    if name not in ACTIVATIONS:
        raise DataError(f"{file}: {key} is {name}, and only {', '.join(ACTIVATIONS)} are known here")
    return ACTIVATIONS[name]
