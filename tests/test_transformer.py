"""lib/transformer.py: torch.nn's stacks with the same weights, masks by gradient, cached decoding, transformations."""

import dataclasses

import pytest
import torch
from einops import rearrange
from torch._dynamo.utils import counters
from torch.func import grad, jvp, vmap

from lib import attention as attn
from lib import random, tree
from lib import transformer as tf
from lib.transform import value_and_grad

CFG = tf.Config(width=8, heads=2, ff=12)
B, T, S, LAYERS = 2, 6, 4, 2  # batch, positions, memory positions


def make(key, cfg=CFG, cross=False, layers=LAYERS):
    """Parameters with every leaf away from its starting value, so that no scale is 1 and no bias 0."""
    p = tf.stack_init(key, layers, cfg, cross)
    keys = iter(random.split(random.fold_in(key, 1), len(tree.leaves(p))))
    return tree.map(lambda x: x + 0.1 * random.normal(next(keys), tuple(x.shape)), p)


def inputs(key):
    k1, k2 = random.split(random.fold_in(key, 2))
    return random.normal(k1, (B, T, 8)), random.normal(k2, (B, S, 8))


def run(p, x, mask=None, memory=None, memory_mask=None, key=None, cfg=CFG):
    cross = None if memory is None else tf.Cross(memory, memory_mask, tf.rotation(torch.arange(S), cfg))
    return tf.stack(p, x, mask, cross, key, cfg=cfg)[0]


def scalar(y):
    """A loss that no norm at the end can make constant."""
    return (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum()


def close(a, b, **tolerance):
    torch.testing.assert_close(tree.leaves(a), tree.leaves(b), **tolerance)


# ---- torch.nn ----


def attention_weights(p, name):
    d = p["w_q"].shape[0]
    return {
        f"{name}.in_proj_weight": torch.cat([rearrange(p[w], "d h c -> (h c) d") for w in ("w_q", "w_k", "w_v")]),
        f"{name}.in_proj_bias": torch.zeros(3 * d),
        f"{name}.out_proj.weight": rearrange(p["w_o"], "h c d -> d (h c)"),
        f"{name}.out_proj.bias": torch.zeros(d),
    }


def torch_weights(p, cross):
    """Our parameters under the names of torch.nn.TransformerEncoder or TransformerDecoder."""
    norms = ["norm_attn", "norm_cross", "norm_ff"] if cross else ["norm_attn", "norm_ff"]
    out = {"norm.weight": p["norm"]["scale"], "norm.bias": p["norm"]["bias"]} if "norm" in p else {}
    for i, block in enumerate(p["blocks"]):
        layer = attention_weights(block["attn"], "self_attn")
        layer |= attention_weights(block["cross"], "multihead_attn") if cross else {}
        for n, name in enumerate(norms, start=1):
            layer |= {f"norm{n}.weight": block[name]["scale"], f"norm{n}.bias": block[name]["bias"]}
        for n, name in enumerate(["in", "out"], start=1):
            layer |= {f"linear{n}.weight": block["ff"][name]["w"].T, f"linear{n}.bias": block["ff"][name]["b"]}
        out |= {f"layers.{i}.{name}": leaf for name, leaf in layer.items()}
    return out


def layer_norm_config(activation, order="pre"):
    cfg = dataclasses.replace(CFG, norm="layer", activation=activation, order=order)
    kwargs = {"dim_feedforward": 12, "dropout": 0.0, "activation": activation, "batch_first": True}
    return cfg, kwargs | {"norm_first": order == "pre"}


ORDERS = pytest.mark.parametrize("order", ["pre", "post"])


@ORDERS
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_equals_torch(key, activation, causal, order):
    cfg, kwargs = layer_norm_config(activation, order)
    p, (x, _) = make(key, cfg), inputs(key)
    layer = torch.nn.TransformerEncoderLayer(8, 2, **kwargs)
    last = torch.nn.LayerNorm(8) if order == "pre" else None
    module = torch.nn.TransformerEncoder(layer, LAYERS, last, enable_nested_tensor=False)
    module.load_state_dict(torch_weights(p, cross=False))
    mask = attn.causal_mask(T) if causal else None
    expected = module(x, mask=~mask if causal else None).detach()
    torch.testing.assert_close(run(p, x, mask, cfg=cfg), expected, rtol=1e-5, atol=1e-5)


@ORDERS
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_decoder_equals_torch(key, activation, padded, order):
    cfg, kwargs = layer_norm_config(activation, order)
    p, (x, memory) = make(key, cfg, cross=True), inputs(key)
    layer = torch.nn.TransformerDecoderLayer(8, 2, **kwargs)
    module = torch.nn.TransformerDecoder(layer, LAYERS, torch.nn.LayerNorm(8) if order == "pre" else None)
    module.load_state_dict(torch_weights(p, cross=True))
    mask, real = attn.causal_mask(T), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]) == 1
    expected = module(x, memory, tgt_mask=~mask, memory_key_padding_mask=~real if padded else None).detach()
    y = run(p, x, mask, memory, rearrange(real, "b s -> b 1 1 s") if padded else None, cfg=cfg)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_a_gpt_block_equals_torch(key):
    """With biases everywhere, layer norm and gelu: torch's own layer, all of its parameters."""
    cfg, kwargs = layer_norm_config("gelu")
    p, (x, _) = make(key, dataclasses.replace(cfg, bias="all"), layers=1), inputs(key)
    weights = torch_weights(p, cross=False)
    attention = p["blocks"][0]["attn"]
    weights["layers.0.self_attn.in_proj_bias"] = torch.cat([attention[name] for name in ("b_q", "b_k", "b_v")])
    weights["layers.0.self_attn.out_proj.bias"] = attention["b_o"]
    layer = torch.nn.TransformerEncoderLayer(8, 2, **kwargs)
    module = torch.nn.TransformerEncoder(layer, 1, torch.nn.LayerNorm(8), enable_nested_tensor=False)
    module.load_state_dict(weights)
    expected = module(x, mask=~attn.causal_mask(T)).detach()
    torch.testing.assert_close(run(p, x, attn.causal_mask(T), cfg=cfg), expected, rtol=1e-5, atol=1e-5)


def test_tanh_gelu_is_the_formula():
    """Hendrycks & Gimpel 2016, the approximation that GPT-2 was trained with."""
    x = torch.linspace(-4, 4, 81)
    expected = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(tf.ACTIVATIONS["gelu_tanh"](x), expected, rtol=1e-5, atol=1e-6)
    assert (tf.ACTIVATIONS["gelu_tanh"](x) - tf.ACTIVATIONS["gelu"](x)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_eps_is_added_to_the_variance(key, kind):
    cfg = dataclasses.replace(CFG, norm=kind, eps=2.0)
    x = random.normal(key, (1, 2, 8))
    centred = x - x.mean(-1, keepdim=True) if kind == "layer" else x
    expected = centred / (centred.square().mean(-1, keepdim=True) + 2.0).sqrt()
    torch.testing.assert_close(tf.norm(tf.nn.norm_init(kind, 8), x, cfg), expected)
    p = make(key, cfg)
    assert not torch.equal(run(p, x, cfg=cfg), run(p, x, cfg=dataclasses.replace(cfg, eps=None)))


def test_rotary_base_and_shared_keys_reach_the_blocks(key):
    cfg = dataclasses.replace(CFG, position="rotary", rotary_base=100.0)
    p, (x, _) = make(key, cfg), inputs(key)
    for other in (dataclasses.replace(cfg, rotary_base=1e4), dataclasses.replace(cfg, rotary_stretch=(1.0, 9.0))):
        assert not torch.equal(run(p, x, "causal", cfg=cfg), run(p, x, "causal", cfg=other))
    shared = tf.block_init(key, dataclasses.replace(cfg, kv_heads=1, bias="all"))["attn"]
    assert {n: tuple(shared[n].shape) for n in ("w_q", "w_k", "w_v", "b_k")} == {
        "w_q": (8, 2, 4), "w_k": (8, 1, 4), "w_v": (8, 1, 4), "b_k": (4,)
    }  # fmt: skip


def test_swiglu_by_hand(key):
    cfg = dataclasses.replace(CFG, activation="swiglu", bias="none")
    p = tf.block_init(key, cfg)["ff"]
    assert {path: tuple(x.shape) for path, x in tree.flatten(p).items()} == {
        "in.w": (8, 12), "out.w": (12, 8), "gate.w": (8, 12)
    }  # fmt: skip
    x = random.normal(key, (1, 2, 8))
    gate, up = x @ p["gate"]["w"], x @ p["in"]["w"]
    expected = (gate / (1 + torch.exp(-gate)) * up) @ p["out"]["w"]
    torch.testing.assert_close(tf.feed_forward(p, x, cfg=cfg), expected)


def test_names_decide_which_parameters_there_are(key):
    default = set(tree.flatten(tf.block_init(key, CFG)))
    assert default == {
        "norm_attn.scale", "attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o", "norm_ff.scale",
        "ff.in.w", "ff.in.b", "ff.out.w", "ff.out.b",
    }  # fmt: skip
    names = {
        bias: set(tree.flatten(tf.block_init(key, dataclasses.replace(CFG, bias=bias))))
        for bias in ("all", "none", "attention")
    }
    assert names["attention"] == names["all"] - {"ff.in.b", "ff.out.b"}
    assert names["all"] - default == {"attn.b_q", "attn.b_k", "attn.b_v", "attn.b_o"}
    assert default - names["none"] == {"ff.in.b", "ff.out.b"}


# ---- masks ----


def influences(p, x, mask, cfg=CFG):
    """(t, s): how much the gradient of output position t weighs on input position s."""
    at = value_and_grad(lambda x, t: scalar(run(p, x, mask, cfg=cfg)[:, t]))
    return torch.stack([at(x, t)[1].abs().sum((0, 2)) for t in range(T)])


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_causality_by_gradient(key, norm):
    cfg = dataclasses.replace(CFG, norm=norm)
    p, (x, _) = make(key, cfg), inputs(key)
    influence = influences(p, x, attn.causal_mask(T), cfg)
    assert torch.equal(influence != 0, torch.ones(T, T).tril() == 1)


def test_without_mask_every_position_sees_every_other(key):
    p, (x, _) = make(key), inputs(key)
    assert (influences(p, x, None) != 0).all()


def test_padding_is_invisible(key):
    p, (x, memory) = make(key, cross=True), inputs(key)
    real, memory_real = torch.arange(T) < 4, torch.arange(S) < 3
    mask, memory_mask = attn.causal_mask(T) & real, memory_real[None, :]
    y = run(p, x, mask, memory, memory_mask)[:, :4]
    other = run(
        p, torch.where(real[:, None], x, 9.0), mask, torch.where(memory_real[:, None], memory, -9.0), memory_mask
    )
    assert torch.equal(other[:, :4], y)
    torch.testing.assert_close(run(p, x[:, :4], attn.causal_mask(4), memory[:, :3]), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences_equal_separate_ones(key, causal):
    p, (x, _) = make(key), inputs(key)
    lengths, segments = [3, 1, 2], torch.tensor([[0, 0, 0, 1, 2, 2]]).expand(B, T)
    mask = attn.segment_mask(segments, segments) & (attn.causal_mask(T) if causal else True)
    parts = [run(p, part, attn.causal_mask(part.shape[1]) if causal else None) for part in x.split(lengths, dim=1)]
    torch.testing.assert_close(run(p, x, mask), torch.cat(parts, dim=1), rtol=1e-5, atol=1e-6)


# ---- cached decoding ----


def decode(p, x, memory, chunks, length, memory_mask=None, stack=tf.stack, cfg=CFG):
    """x through the cache, some positions at a time."""
    cache, out = tf.stack_cache(p, B, length, memory, x, tf.rotation(torch.arange(S), cfg)), []
    for part in x.split(chunks, dim=1):
        mask = tf.cache_mask(cache[0]["position"], part.shape[1], length)
        y, cache = stack(p, part, mask, tf.Cross(None, memory_mask), cache=cache, cfg=cfg)
        out.append(y)
    return torch.cat(out, dim=1), cache


@pytest.mark.parametrize("length", [T, T + 3])
@pytest.mark.parametrize("chunks", [[1] * T, [3, 1, 2], [T]], ids=["token-by-token", "chunks", "at-once"])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("position", ["sinusoidal", "rotary"])
def test_cached_equals_uncached(key, position, cross, chunks, length):
    cfg = dataclasses.replace(CFG, position=position)
    p, (x, memory) = make(key, cfg, cross=cross), inputs(key)
    memory, memory_mask = (memory, torch.tensor([True, True, True, False])[None, :]) if cross else (None, None)
    y, cache = decode(p, x, memory, chunks, length, memory_mask, cfg=cfg)
    expected = run(p, x, attn.causal_mask(T), memory, memory_mask, cfg=cfg)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    assert [c["position"].item() for c in cache] == [T] * LAYERS
    assert all(c["k"].shape == (B, 2, length, 4) for c in cache)


def test_cached_equals_uncached_with_shared_keys(key):
    cfg = dataclasses.replace(CFG, kv_heads=1, position="rotary")
    p, (x, _) = make(key, cfg), inputs(key)
    y, cache = decode(p, x, None, [2, 1, 3], T, cfg=cfg)
    torch.testing.assert_close(y, run(p, x, "causal", cfg=cfg), rtol=1e-5, atol=1e-6)
    assert all(c["k"].shape == (B, 1, T, 4) for c in cache)


def test_cache_mask():
    mask = tf.cache_mask(torch.tensor(2), 2, 5)
    assert mask.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]


def test_cached_decoding_compiles_to_one_graph(key):
    p, (x, memory) = make(key, cross=True), inputs(key)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(tf.stack, fullgraph=True, dynamic=False, backend="aot_eager")
    y, _ = decode(p, x, memory, [1] * T, T, stack=compiled)
    torch.testing.assert_close(y, run(p, x, attn.causal_mask(T), memory), rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("cached", [False, True])
def test_weights_are_the_cross_attention(key, cached):
    p, (x, memory) = make(key, cross=True), inputs(key)
    cache = tf.stack_cache(p, B, T, memory, x) if cached else None
    y, after = tf.stack(p, x, attn.causal_mask(T), tf.Cross(memory), cache=cache, cfg=CFG, weights=True)
    torch.testing.assert_close(y, run(p, x, attn.causal_mask(T), memory), rtol=1e-5, atol=1e-6)
    for c in after:
        assert c["weights"].shape == (B, 2, T, S)
        torch.testing.assert_close(c["weights"].sum(-1), torch.ones(B, 2, T))


def test_cross_attention_needs_a_memory(key):
    p, (x, _) = make(key, cross=True), inputs(key)
    with pytest.raises((TypeError, ValueError)):
        run(p, x)


# ---- purity and gradients ----


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("cross", [False, True])
def test_a_gradient_reaches_every_leaf(key, cross, norm):
    cfg = dataclasses.replace(CFG, norm=norm)
    p, (x, memory) = make(key, cfg, cross), inputs(key)
    grads = value_and_grad(lambda p: scalar(run(p, x, attn.causal_mask(T), memory, cfg=cfg)))(p)[1]
    for path, g in tree.flatten(grads).items():
        assert g.isfinite().all() and g.any(), path


def test_inputs_are_not_mutated(key):
    p, (x, memory) = make(key, cross=True), inputs(key)
    mask, cache = attn.causal_mask(T), tf.stack_cache(p, B, T, memory, x)
    given = {"p": p, "x": x, "memory": memory, "mask": mask, "cache": cache, "key": key}
    before = tree.map(torch.clone, given)
    cfg = dataclasses.replace(CFG, dropout=0.5)
    tf.stack(p, x, mask, tf.Cross(memory), key=key, cache=cache, cfg=cfg)
    value_and_grad(lambda p: scalar(run(p, x, mask, memory, key=key, cfg=cfg)))(p)
    close(given, before, rtol=0, atol=0)
    assert all(set(c) == {"k", "v", "position", "cross_k", "cross_v"} for c in cache)


def test_equals_vmap_and_compile(key):
    cfg = dataclasses.replace(CFG, dropout=0.3)
    (x, memory), keys = inputs(key), random.split(random.fold_in(key, 3))
    ps = [make(k, cross=True, layers=1) for k in keys]

    def loss(p, k):
        return scalar(run(p, x, attn.causal_mask(T), memory, key=k, cfg=cfg))

    fn = value_and_grad(loss)
    expected = [fn(p, k) for p, k in zip(ps, keys, strict=True)]
    close(vmap(fn)(tree.stack(ps), torch.stack(keys)), tree.stack(expected), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
    compiled = torch.compile(fn, fullgraph=True, backend="aot_eager")
    close([compiled(p, k) for p, k in zip(ps, keys, strict=True)], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_forward_mode_of_the_gradient(key, norm):
    """A Hessian-vector product, forward over reverse, equals reverse over reverse (the Hessian is symmetric)."""
    cfg = dataclasses.replace(CFG, norm=norm, activation="gelu")
    p, (x, memory) = make(key, cfg, cross=True), inputs(key)
    v = make(random.fold_in(key, 4), cfg, cross=True)

    def loss(p):
        return scalar(run(p, x, attn.causal_mask(T), memory, cfg=cfg))

    def gradient(p):
        return value_and_grad(loss)(p)[1]

    def along_v(p):
        return sum((g * u).sum() for g, u in zip(tree.leaves(gradient(p)), tree.leaves(v), strict=True))

    close(jvp(gradient, (p,), (v,))[1], grad(along_v)(p), rtol=1e-3, atol=1e-3)


# ---- dropout ----


def test_dropout_follows_the_key(key):
    cfg = dataclasses.replace(CFG, dropout=0.5)
    p, (x, memory) = make(key, cross=True), inputs(key)
    k1, k2 = random.split(key)
    y = run(p, x, None, memory, key=k1, cfg=cfg)
    assert torch.equal(y, run(p, x, None, memory, key=k1, cfg=cfg))
    assert not torch.allclose(y, run(p, x, None, memory, key=k2, cfg=cfg))
    whole = run(p, x, None, memory, cfg=cfg)
    assert not torch.allclose(y, whole)
    assert torch.equal(whole, run(p, x, None, memory, cfg=CFG))


def test_every_dropout_has_its_own_key(key, monkeypatch):
    seen = []
    monkeypatch.setattr(tf.nn, "dropout", lambda x, rate, key: seen.append(tuple(key.tolist())) or x)
    p, (x, memory) = make(key, cross=True), inputs(key)
    run(p, x, None, memory, key=key, cfg=dataclasses.replace(CFG, dropout=0.5))
    assert len(seen) == len(set(seen)) == 6 * LAYERS
