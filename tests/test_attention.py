"""lib/attention.py: torch.nn.MultiheadAttention with the same weights, masks by gradient, and caches."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch.autograd import forward_ad

from lib import attention as attn
from lib import nn, random, tree
from lib.transform import value_and_grad

SHAPES = [(2, 5, 5, 8, 2), (1, 1, 7, 6, 3), (3, 4, 2, 8, 1), (1, 130, 150, 4, 4)]  # b t s d heads; the last is fused


def attend(p, x, memory, mask=None, **kwargs):
    return attn.attention(p, x, attn.keys_values(p, memory), mask, **kwargs)


def masks(key, b, t, s):
    """No mask, a lower triangle, keys shut out per row, and an arbitrary one; no query is left without a key."""
    padding = torch.arange(s) < torch.arange(s, s - b, -1)[:, None].clamp(min=1)
    noise = random.bernoulli(key, 0.5, (b, 1, t, s))
    noise[..., 0] = True
    return {
        "none": None,
        "causal": torch.ones(t, s, dtype=torch.bool).tril(),
        "padding": rearrange(padding, "b s -> b 1 1 s"),
        "noise": noise,
    }


def torch_module(p):
    """torch.nn.MultiheadAttention with our weights."""
    d, heads, _ = p["w_q"].shape
    module = torch.nn.MultiheadAttention(d, heads, bias=False, batch_first=True)
    stacked = torch.cat([rearrange(p[name], "d h c -> (h c) d") for name in ("w_q", "w_k", "w_v")])
    module.load_state_dict({"in_proj_weight": stacked, "out_proj.weight": rearrange(p["w_o"], "h c d -> d (h c)")})
    return module.requires_grad_(False)


# ---- torch ----


@pytest.mark.parametrize("mask", ["none", "causal", "padding", "noise"])
@pytest.mark.parametrize("b, t, s, d, heads", SHAPES)
def test_equals_torch(key, b, t, s, d, heads, mask):
    k1, k2, k3, k4 = random.split(key, 4)
    p, x, memory = attn.attention_init(k1, d, heads), random.normal(k2, (b, t, d)), random.normal(k3, (b, s, d))
    mask = masks(k4, b, t, s)[mask]
    theirs = None if mask is None else ~mask.expand(b, heads, t, s).reshape(b * heads, t, s)  # True shuts out there
    expected, weights = torch_module(p)(x, memory, memory, attn_mask=theirs, average_attn_weights=False)
    y, w = attend(p, x, memory, mask)
    assert w is None
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    y, w = attend(p, x, memory, mask, weights=True)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(w, weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", ["none", "causal", "padding", "noise"])
@pytest.mark.parametrize("b, t, s, d, heads", SHAPES)
def test_math_attention_equals_fused(key, b, t, s, d, heads, mask):
    k1, k2, k3, k4 = random.split(key, 4)
    q, k, v = (random.normal(ki, (b, heads, n, d)) for ki, n in [(k1, t), (k2, s), (k3, s)])
    mask = masks(k4, b, t, s)[mask]
    y, w = attn.math_attention(q, k, v, mask)
    torch.testing.assert_close(y, F.scaled_dot_product_attention(q, k, v, attn_mask=mask), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(w.sum(-1), torch.ones(b, heads, t))
    if mask is not None:
        assert not w[~mask.expand_as(w)].any()


@pytest.mark.parametrize("short", [0, 10**6], ids=["fused", "plain"])
def test_both_paths_have_the_same_gradients_also_by_the_masks_name(key, monkeypatch, short):
    k1, k2, k3 = random.split(key, 3)
    p, x, r = attn.attention_init(k1, 8, 2), random.normal(k2, (2, 5, 8)), random.normal(k3, (2, 5, 8))
    fn = lambda mask: value_and_grad(lambda p: (attend(p, x, x, mask)[0] * r).sum())(p)  # noqa: E731
    expected = fn(attn.causal_mask(5))
    monkeypatch.setattr(attn, "SHORT", short)
    for mask in (attn.causal_mask(5), "causal"):
        torch.testing.assert_close(tree.leaves(fn(mask)), tree.leaves(expected), rtol=1e-5, atol=1e-5)


def fused_calls(monkeypatch):
    """Counts what reaches the fused attention, which is on for any length."""
    fused, calls = F.scaled_dot_product_attention, []
    monkeypatch.setattr(attn, "SHORT", 0)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    return calls


FIRST_ORDER = {
    "plain": lambda f, x: f(x),
    "value_and_grad": lambda f, x: value_and_grad(f)(x),
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vmap of grad": lambda f, x: torch.func.vmap(value_and_grad(f))(x[None]),
}
SECOND_ORDER = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,))[1],
    "dual numbers": lambda f, x: forward_ad.unpack_dual(f(forward_ad.make_dual(x, x))).tangent,
    "jvp of grad": lambda f, x: torch.func.jvp(torch.func.grad(f), (x,), (x,))[1],
    "grad of grad": lambda f, x: torch.func.grad(lambda x: torch.func.grad(f)(x).square().sum())(x),
    "value_and_grad twice": lambda f, x: value_and_grad(lambda x: value_and_grad(f)(x)[1].square().sum())(x)[1],
    "hessian": lambda f, x: torch.func.hessian(f)(x),
}


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_first_derivatives_are_fused(key, monkeypatch, name):
    p, x = attn.attention_init(key, 4, 2), random.normal(key, (1, 3, 4))
    calls = fused_calls(monkeypatch)
    FIRST_ORDER[name](lambda x: attend(p, x, x)[0].square().sum(), x)
    assert len(calls) == 1


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_forward_mode_and_second_derivatives_choose_the_plain_path(key, monkeypatch, name):
    p, x = attn.attention_init(key, 4, 2), random.normal(key, (1, 3, 4))
    loss = lambda x: attend(p, x, x, attn.causal_mask(3))[0].square().sum()  # noqa: E731
    with forward_ad.dual_level() if name == "dual numbers" else nullcontext():
        expected = SECOND_ORDER[name](loss, x)  # short: the plain path anyway
        calls = fused_calls(monkeypatch)
        torch.testing.assert_close(SECOND_ORDER[name](loss, x), expected)
    assert not calls
    loss(x)
    assert calls  # and afterwards it is as before


def test_choosing_the_path_does_not_break_the_graph(key, monkeypatch):
    monkeypatch.setattr(attn, "SHORT", 0)
    p, x = attn.attention_init(key, 4, 2), random.normal(key, (1, 3, 4))
    fn = value_and_grad(lambda p: attend(p, x, x)[0].square().sum())
    torch._dynamo.reset()
    graph = torch.compile(fn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(tree.leaves(graph(p)), tree.leaves(fn(p)))


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("mask", ["none", "causal", "noise"])
def test_shared_keys_equal_repeated_ones(key, monkeypatch, mask, short):
    """Six heads of queries that read two of keys: heads 0 to 2 the first, 3 to 5 the second (Ainslie et al. 2023)."""
    monkeypatch.setattr(attn, "SHORT", 10**9 if short else 0)
    k1, k2, k3 = random.split(key, 3)
    p, x = attn.attention_init(k1, 12, 6, kv_heads=2), random.normal(k2, (2, 5, 12))
    assert p["w_k"].shape == p["w_v"].shape == (12, 2, 2)
    repeated = p | {name: torch.stack([p[name][:, i // 3] for i in range(6)], dim=1) for name in ("w_k", "w_v")}
    mask = masks(k3, 2, 5, 5)[mask]
    torch.testing.assert_close(attend(p, x, x, mask)[0], attend(repeated, x, x, mask)[0], rtol=1e-5, atol=1e-6)


def test_heads_of_keys_must_divide_the_heads(key):
    with pytest.raises(ValueError, match="4 do not divide 6"):
        attn.attention_init(key, 12, 6, kv_heads=4)


# ---- parameters ----


def test_normed_scores_do_not_grow_with_the_weights(key):
    """Each query and key has a root mean square of 1, times a scale of its own."""
    k1, k2, k3 = random.split(key, 3)
    p, x = attn.attention_init(k1, 12, 3, normed=True), random.normal(k2, (2, 5, 12))
    p["norm_q"]["scale"] = random.normal(k3, (4,))
    q = rearrange(x @ p["w_q"].flatten(1), "b t (h c) -> b h t c", h=3)
    expected = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * p["norm_q"]["scale"]
    torch.testing.assert_close(attn.project(p, "q", x), expected)
    torch.testing.assert_close(attn.project(p, "v", x), rearrange(x @ p["w_v"].flatten(1), "b t (h c) -> b h t c", h=3))
    seen = lambda p: attn.attention(p, x, attn.keys_values(p, x), weights=True)[1]  # noqa: E731
    grown = p | {"w_q": 9 * p["w_q"], "w_k": 9 * p["w_k"]}
    torch.testing.assert_close(seen(grown), seen(p), atol=1e-4, rtol=1e-3)


def test_init_shapes_and_bound(key):
    p = attn.attention_init(key, 12, 3)
    assert {name: tuple(w.shape) for name, w in p.items()} == {
        "w_q": (12, 3, 4),
        "w_k": (12, 3, 4),
        "w_v": (12, 3, 4),
        "w_o": (3, 4, 12),
    }
    assert all(0.45 < w.abs().max() <= 0.5 for w in p.values())  # sqrt(6 / 24)
    assert not torch.equal(p["w_q"], p["w_k"])


@pytest.mark.parametrize("d, heads", [(10, 4), (8, 3)])
def test_heads_must_divide_the_width(key, d, heads):
    with pytest.raises(ValueError, match=rf"\b{d}\b.*\b{heads}\b"):
        attn.attention_init(key, d, heads)


# ---- dropout ----


def test_biases_equal_torch(key):
    p, x = attn.attention_init(key, 8, 2, bias=True), random.normal(key, (2, 5, 8))
    p |= {name: random.normal(random.fold_in(key, i), (8,)) for i, name in enumerate(["b_q", "b_k", "b_v", "b_o"])}
    module = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    stacked = torch.cat([rearrange(p[name], "d h c -> (h c) d") for name in ("w_q", "w_k", "w_v")])
    weights = {"in_proj_weight": stacked, "in_proj_bias": torch.cat([p[name] for name in ("b_q", "b_k", "b_v")])}
    weights |= {"out_proj.weight": rearrange(p["w_o"], "h c d -> d (h c)"), "out_proj.bias": p["b_o"]}
    module.load_state_dict(weights)
    torch.testing.assert_close(attend(p, x, x)[0], module(x, x, x)[0].detach(), rtol=1e-5, atol=1e-6)


# ---- rotary positions ----


def test_rotation_equals_complex_numbers(key):
    """Channels i and i + 3 are the real and imaginary part of a number that is multiplied by e^(i angle)."""
    x, places = random.normal(key, (2, 3, 5, 6)), torch.tensor([0, 1, 4, 9, 100])
    angle = places[:, None] * torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])
    turned = torch.complex(x[..., :3], x[..., 3:]) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    torch.testing.assert_close(attn.rotate(x, attn.rotation(places, 6)), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(attn.rotate(x, None), x)
    slower = attn.rotation(places, 6, stretch=(1.0, 4.0, 2.0))
    angle = angle / torch.tensor([1.0, 4.0, 2.0])
    torch.testing.assert_close(slower[0], angle.cos(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slower[1], angle.sin(), rtol=1e-4, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone(key):
    p, x = attn.attention_init(key, 8, 2), random.normal(key, (1, 6, 8))

    def weights(places):
        r = attn.rotation(places, 4)
        return attn.attention(p, x, attn.keys_values(p, x, r), rotation=r, weights=True)[1]

    here, there, spread = (weights(places) for places in (torch.arange(6), torch.arange(6) + 50, torch.arange(6) * 2))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(here, spread, atol=1e-3)


def test_rotary_needs_pairs_of_channels():
    with pytest.raises(ValueError, match="3 channels"):
        attn.rotation(torch.arange(2), 3)


# ---- dropout ----


def test_dropout_follows_the_key(key):
    k1, k2, k3, k4 = random.split(key, 4)
    p, x = attn.attention_init(k1, 8, 2), random.normal(k2, (2, 5, 8))
    y = attend(p, x, x, key=k3, dropout=0.5)[0]
    assert torch.equal(y, attend(p, x, x, key=k3, dropout=0.5)[0])
    assert not torch.allclose(y, attend(p, x, x, key=k4, dropout=0.5)[0])
    for kwargs in ({"key": None, "dropout": 0.5}, {"key": k3, "dropout": 0.0}):
        assert torch.equal(attend(p, x, x, **kwargs)[0], attend(p, x, x)[0])


def test_dropout_falls_on_the_weights_and_shows_them_whole(key):
    k1, k2, k3, k4 = random.split(key, 4)
    q, k, v = (random.normal(ki, (2, 2, 5, 4)) for ki in (k1, k2, k3))
    y, w = attn.math_attention(q, k, v, key=k4, dropout=0.5)
    torch.testing.assert_close(w, attn.math_attention(q, k, v)[1])
    torch.testing.assert_close(y, nn.dropout(w, 0.5, k4) @ v)


# ---- masks ----


def test_causal_mask():
    assert attn.causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]


@pytest.mark.parametrize("short", [0, 10**6], ids=["fused", "plain"])
def test_causality_by_gradient(key, monkeypatch, short):
    monkeypatch.setattr(attn, "SHORT", short)
    k1, k2 = random.split(key)
    p, x = attn.attention_init(k1, 8, 2), random.normal(k2, (1, 6, 8))
    at = value_and_grad(lambda x, t: attend(p, x, x, attn.causal_mask(6))[0][:, t].square().sum())
    influence = torch.stack([at(x, t)[1].abs().sum((0, 2)) for t in range(6)])  # of input s on output t
    assert torch.equal(influence != 0, torch.ones(6, 6).tril() == 1)


def test_segment_mask():
    mask = attn.segment_mask(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1, 2]]))
    assert mask.shape == (1, 1, 3, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0]]


@pytest.mark.parametrize("lengths", [[3, 4, 2], [1, 8], [9]])
def test_packed_sequences_equal_separate_ones(key, lengths):
    k1, k2 = random.split(key)
    p, x = attn.attention_init(k1, 8, 2), random.normal(k2, (2, 9, 8))
    segments = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).expand(2, 9)
    packed = attend(p, x, x, attn.segment_mask(segments, segments))[0]
    separate = torch.cat([attend(p, part, part)[0] for part in x.split(lengths, dim=1)], dim=1)
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("short", [0, 10**6], ids=["fused", "plain"])
def test_rows_of_pads_stay_finite(key, monkeypatch, short):
    monkeypatch.setattr(attn, "SHORT", short)
    k1, k2 = random.split(key)
    p, x = attn.attention_init(k1, 8, 2), random.normal(k2, (2, 4, 8))
    segments = torch.tensor([[0, 0, -1, -1], [-1, -1, -1, -1]])  # pads share a segment of their own

    def loss(p):
        return attend(p, x, x, attn.segment_mask(segments, segments))[0].square().sum()

    assert all(leaf.isfinite().all() for leaf in tree.leaves(value_and_grad(loss)(p)))


# ---- caches ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_starts_empty(dtype):
    cache = attn.cache_init(2, 3, 5, 4, dtype, "cpu")
    assert set(cache) == {"k", "v"}
    assert all(x.shape == (2, 3, 5, 4) and x.dtype == dtype and not x.any() for x in cache.values())


@pytest.mark.parametrize("position, t", [(0, 1), (2, 3), (5, 1), (0, 6)])
def test_cache_write_fills_its_slots_and_nothing_else(key, position, t):
    k1, k2, k3, k4 = random.split(key, 4)
    cache = {"k": random.normal(k1, (2, 2, 6, 4)), "v": random.normal(k2, (2, 2, 6, 4))}
    kv = random.normal(k3, (2, 2, t, 4)), random.normal(k4, (2, 2, t, 4))
    before, expected = tree.map(torch.clone, cache), tree.map(torch.clone, cache)
    expected["k"][:, :, position : position + t], expected["v"][:, :, position : position + t] = kv
    after = attn.cache_write(cache, kv, torch.tensor(position))
    for name in ("k", "v"):
        assert torch.equal(after[name], expected[name])
        assert torch.equal(cache[name], before[name])


@pytest.mark.parametrize("start, s", [(0, 6), (3, 9), (0, 12)])  # 12: a cache with room
def test_relative_scores_are_their_definition(key, start, s):
    """Huang et al. 2018, equation 3, written as loops."""
    k_q, k_table = random.split(key)
    q, table = random.normal(k_q, (2, 3, 6, 4)), random.normal(k_table, (3, 5, 4))
    found = attn.relative(table, q, s, start)
    for t in range(6):
        for j in range(min(start + t + 1, s)):
            wanted = (q[:, :, t] * table[:, min(start + t - j, 4)]).sum(-1) / 2
            torch.testing.assert_close(found[:, :, t, j], wanted)


def test_relative_positions_change_scores_alone(key):
    """With embeddings of 0 it is attention without them; with others, weights are a softmax of both sums."""
    p = attn.attention_init(key, 8, 2, reach=5)
    x = random.normal(random.fold_in(key, 1), (2, 5, 8))
    kv = attn.keys_values(p, x)
    plain = {name: w for name, w in p.items() if name != "relative"}
    none = attn.attention({**plain, "relative": 0 * p["relative"]}, x, kv, "causal")[0]
    torch.testing.assert_close(none, attn.attention(plain, x, kv, "causal")[0])
    p["relative"] = random.normal(random.fold_in(key, 2), (2, 5, 4))
    _, w = attn.attention(p, x, kv, "causal", weights=True)
    q = attn.project(p, "q", x)
    scores = q @ kv[0].mT / 2 + attn.relative(p["relative"], q, 5)
    scores = scores.masked_fill(~attn.causal_mask(5), -torch.inf)
    torch.testing.assert_close(w, scores.softmax(-1))
