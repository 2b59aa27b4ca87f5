"""lib/models/facts.py and llama.py: configurations as they were released, and every key that changes what is computed
refused by its name."""

from pathlib import Path

import pytest

from lib.faults import DataError
from lib.models import facts, gpt2, llama

FILE = Path("here/config.json")
GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 50257,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}  # fmt: skip
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
    "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama",
    "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": True,
    "vocab_size": 49152,
}  # fmt: skip
TINYLLAMA = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
    "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22,
    "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.35.0", "use_cache": True,
    "vocab_size": 32000,
}  # fmt: skip
LLAMA3 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
    "rope_scaling": {
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}  # fmt: skip


def of_llama(stored):
    """With weights of the sizes that it tells."""
    known = {"vocab_size": 320, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2} | stored
    sizes = [known[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")]
    return llama.of_config(stored, FILE, llama.Sizes(*sizes))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n_special": 0, "predict_special_tokens": True, "n_embd": 1024, "n_head": 16, "n_layer": 24},  # medium
        {"output_past": True, "n_embd": 1600, "n_head": 25, "n_layer": 48},  # xl
        {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "n_layer": 6},  # distilgpt2
    ],
)
def test_released_gpt2s(more):
    stored = GPT2 | more
    known = facts.checked(stored, gpt2.USED, gpt2.ONLY, FILE)
    keys = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "activation_function", "layer_norm_epsilon")
    assert {key: known[key] for key in keys} == {key: stored[key] for key in keys}
    assert known["n_inner"] is None and known["scale_attn_weights"] and not known["scale_attn_by_inverse_layer_idx"]


def test_released_llamas():
    known = of_llama(SMOLLM2 | {"pad_token_id": 2, "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}})
    assert known == {
        "vocabulary": 49152, "width": 576, "ff": 1536, "layers": 30, "heads": 9, "kv_heads": 3, "context": 8192,
        "activation": "swiglu", "bias": "none", "eps": 1e-5, "untied": False, "rotary_base": 1e5,
    }  # fmt: skip
    known = of_llama(TINYLLAMA)
    assert known["untied"] and known["rotary_base"] == 1e4 and "rotary_stretch" not in known
    known = of_llama(LLAMA3)
    stretch = known["rotary_stretch"]
    assert known["rotary_base"] == 5e5 and not known["untied"] and len(stretch) == 32
    assert stretch[0] == 1 and stretch[-1] == 32 and sorted(stretch) == list(stretch) and len({*stretch}) > 4


def test_what_transformers_writes_and_its_defaults():
    """The whole of its two configurations with nothing said, and nothing said at all."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Config().to_dict()
    known = facts.checked(theirs, gpt2.USED, gpt2.ONLY, FILE)
    assert known == {key: theirs[key] for key in known}
    told_nothing = facts.checked({}, gpt2.USED, gpt2.ONLY, FILE)
    assert {key: x for key, x in told_nothing.items() if x is not None} == {
        key: x for key, x in theirs.items() if told_nothing.get(key) is not None
    }
    theirs = transformers.LlamaConfig().to_dict()
    small = {"num_attention_heads": 2}  # of a width of 24
    sizes = {"hidden_size": 4096, "vocab_size": 32000, "intermediate_size": 11008, "num_hidden_layers": 32}
    assert of_llama(theirs) == of_llama(sizes)
    assert of_llama(small)["kv_heads"] == 2 and of_llama(small)["eps"] == theirs["rms_norm_eps"] == 1e-6


def test_null_is_as_if_a_key_were_not_there():
    for key in SMOLLM2.keys() - {"num_attention_heads", "rope_scaling"}:  # 32 heads would not divide this width
        less = {other: x for other, x in SMOLLM2.items() if other != key}
        sizes = llama.Sizes(49152, 576, 1536, 30)
        expected = llama.of_config(less, FILE, sizes)
        assert llama.of_config(SMOLLM2 | {key: None}, FILE, sizes) == expected, key


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("n_head", "many", "not a whole number above 0"),
        ("n_head", True, "not a whole number above 0"),
        ("n_layer", 0, "not a whole number above 0"),
        ("n_inner", 1.5, "not a whole number above 0"),
        ("layer_norm_epsilon", -1, "not a number above 0"),
        ("layer_norm_epsilon", float("nan"), "not a number above 0"),
        ("scale_attn_weights", "no", "which is neither true nor false"),
        ("activation_function", 3, "which is no text"),
        ("add_cross_attention", True, "only False is known here"),
        ("is_encoder_decoder", True, "only False is known here"),
        ("pruned_heads", {"1": [0]}, "only {} is known here"),
        ("tie_word_embeddings", False, "only True is known here"),
        ("model_type", "gpt_neo", "only 'gpt2' is known here"),
        ("attention_layers", ["local"], "is not known here: take it out of the file if"),
        ("quantization_config", {"bits": 4}, "is not known here: take it out of the file if"),
    ],
)
def test_keys_of_gpt2_that_are_refused(key, value, message):
    with pytest.raises(DataError) as told:
        facts.checked(GPT2 | {key: value}, gpt2.USED, gpt2.ONLY, FILE)
    for words in (f"{FILE}: {key} is ", str(value)[:9], message):
        assert words in str(told.value)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"hidden_act": "quick_gelu"}, "hidden_act is quick_gelu, and only gelu_new, gelu, "),
        ({"head_dim": 80}, "head_dim is 80, and only width / heads, 64, is known here"),
        ({"num_attention_heads": 7}, "num_attention_heads is 7 and num_key_value_heads 3, but the first must divide"),
        ({"num_key_value_heads": 2}, "num_attention_heads is 9 and num_key_value_heads 2, but the first must divide"),
        ({"num_attention_heads": 192, "num_key_value_heads": 3}, "into even parts"),
        ({"sliding_window": 4096}, "sliding_window is '4096', which is not known here"),
        ({"num_local_experts": 8}, "num_local_experts is '8', which is not known here"),
        ({"rope_interleaved": True}, "rope_interleaved is True, and only False is known here"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, and only 1.0 is known here"),
        ({"attention_bias": 1}, "attention_bias is 1, which is neither true nor false"),
        ({"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_type": "default"}}, "leave the one that"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', which has no keys"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling is 'yarn', and only default, linear, l"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "the rope_type of rope_scaling is 'dynamic'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "does not say factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor is 0, not a number above 0"),
        ({"rope_scaling": {"rope_type": "default", "factor": 2.0}}, "factor is '2.0', which is not known here"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5, and only 1.0"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "does not say low_freq_factor, high_freq_factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4, "high_freq_factor": 4}},
            "low_freq_factor of rope_scaling is 4, which is not below high_freq_factor, 4",
        ),
    ],
)  # fmt: skip
def test_keys_of_llama_that_are_refused(changed, message):
    with pytest.raises(DataError) as told:
        of_llama(SMOLLM2 | changed)
    assert str(told.value).startswith(str(FILE)) and message in str(told.value)


def test_sizes_that_the_weights_do_not_have():
    for i, key in enumerate(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")):
        sizes = [49152, 576, 1536, 30]
        sizes[i] += 576
        with pytest.raises(DataError, match=f"{key} is {sizes[i] - 576}, and the weights have {sizes[i]}"):
            llama.of_config(SMOLLM2, FILE, llama.Sizes(*sizes))


def test_files_that_are_no_configuration(tmp_path):
    path = tmp_path / "config.json"
    for content in ("{", "[]", "\x00", '"text"'):
        path.write_text(content)
        with pytest.raises(DataError, match=r"config\.json is not a model's configuration: "):
            facts.read_config(path)
    path.unlink()
    with pytest.raises(DataError, match=r"config\.json is not a model's configuration: .*No such file"):
        facts.read_config(path)
