"""lib/nn.py: torch.nn with the same weights, published formulas, and keyed dropout."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import vmap

from lib import nn, random
from lib.transform import value_and_grad

LEADING = [(), (3,), (2, 5), (0,)]


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_torch(key, leading, bias):
    k1, k2, k3 = random.split(key, 3)
    p = nn.linear_init(k1, 6, 4, bias)
    assert set(p) == ({"w", "b"} if bias else {"w"})
    if bias:
        p["b"] = random.normal(k2, (4,))
    x = random.normal(k3, (*leading, 6))
    torch.testing.assert_close(nn.linear(p, x), F.linear(x, p["w"].T, p.get("b")))


def test_linear_starts_without_bias(key):
    p = nn.linear_init(key, 6, 4)
    assert p["w"].shape == (6, 4)
    assert torch.equal(p["b"], torch.zeros(4))


@pytest.mark.parametrize("d, f", [(20, 30), (300, 7)])
def test_xavier_bound(key, d, f):
    w, bound = nn.xavier(key, (d, f), d, f), math.sqrt(6 / (d + f))
    assert -bound <= w.min() < -0.97 * bound
    assert 0.97 * bound < w.max() < bound
    assert abs(w.std() / (bound / math.sqrt(3)) - 1) < 0.05


def test_embedding_picks_rows(key):
    table = nn.embedding_init(key, 7, 4)
    ids = torch.tensor([[0, 6, 2], [2, 2, 1]])
    assert nn.embedding(table, ids).shape == (2, 3, 4)
    assert torch.equal(nn.embedding(table, ids), table[ids])


def test_embedding_starts_with_unit_logits(key):
    table = nn.embedding_init(key, 2000, 25)
    assert abs(table.std() * math.sqrt(25) - 1) < 0.02


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 100.0])  # at 1e-3 the place and size of eps decide
def test_layer_norm_equals_torch(key, leading, scale):
    k1, k2, k3 = random.split(key, 3)
    p = {"scale": random.normal(k1, (8,)), "bias": random.normal(k2, (8,))}
    module = torch.nn.LayerNorm(8)
    module.load_state_dict({"weight": p["scale"], "bias": p["bias"]})
    x = random.normal(k3, (*leading, 8)) * scale
    torch.testing.assert_close(nn.layer_norm(p, x), module(x).detach())


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 100.0])
def test_rms_norm_equals_torch_and_formula(key, leading, scale):
    k1, k2 = random.split(key)
    p = {"scale": random.normal(k1, (8,))}
    module = torch.nn.RMSNorm(8, eps=1e-6)
    module.load_state_dict({"weight": p["scale"]})
    x = random.normal(k2, (*leading, 8)) * scale
    torch.testing.assert_close(nn.rms_norm(p, x), module(x).detach())
    formula = x.double() / torch.sqrt(x.double().square().mean(-1, keepdim=True) + 1e-6) * p["scale"]
    torch.testing.assert_close(nn.rms_norm(p, x), formula.float())


@pytest.mark.parametrize("kind, leaves", [("layer", {"scale", "bias"}), ("rms", {"scale"})])
def test_norm_starts_as_the_plain_norm(key, kind, leaves):
    p, x = nn.norm_init(kind, 8), random.normal(key, (3, 8))
    assert set(p) == leaves
    centred = x - x.mean(-1, keepdim=True) if kind == "layer" else x
    expected = centred / centred.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(nn.NORMS[kind](p, x), expected, rtol=1e-4, atol=1e-4)


# ---- dropout ----


def test_dropout_without_key_or_rate_is_the_identity(key):
    x = random.normal(key, (5,))
    assert torch.equal(nn.dropout(x, 0.5, None), x)
    assert torch.equal(nn.dropout(x, 0.0, key), x)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_rate_scaling_and_mean(key, rate):
    x = random.uniform(random.fold_in(key, 1), (200, 100), 1.0, 2.0)
    y = nn.dropout(x, rate, key)
    kept = y != 0
    assert abs((~kept).float().mean() - rate) < 0.015
    torch.testing.assert_close(y[kept], x[kept] / (1 - rate))
    assert abs(y.mean() / x.mean() - 1) < 0.03


def test_dropout_mask_follows_the_key(key):
    x, (k1, k2) = torch.ones(100), random.split(key)
    assert torch.equal(nn.dropout(x, 0.5, k1), nn.dropout(x, 0.5, k1))
    assert not torch.equal(nn.dropout(x, 0.5, k1), nn.dropout(x, 0.5, k2))


def test_dropout_keeps_the_dtype(key):
    assert nn.dropout(torch.ones(9, dtype=torch.bfloat16), 0.5, key).dtype == torch.bfloat16


def test_dropout_equals_vmap_and_compile(key):
    xs, keys = random.normal(key, (3, 20)), random.split(random.fold_in(key, 1), 3)
    expected = torch.stack([nn.dropout(x, 0.5, k) for x, k in zip(xs, keys, strict=True)])
    torch.testing.assert_close(vmap(lambda x, k: nn.dropout(x, 0.5, k))(xs, torch.stack(keys)), expected)
    torch._dynamo.reset()
    compiled = torch.compile(nn.dropout, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(xs[0], 0.5, keys[0]), expected[0])


# ---- dense networks ----


def mlp_of(key, widths):
    """Parameters with biases, and torch's network with the same, of linear layers, ReLU and dropout of a half."""
    p = nn.mlp_init(key, widths)
    p = [{"w": x["w"], "b": random.normal(random.fold_in(key, i), x["b"].shape)} for i, x in enumerate(p)]
    layers = []
    for x in p:
        layers += [torch.nn.Linear(*x["w"].shape), torch.nn.ReLU(), torch.nn.Dropout(0.5)]
        layers[-3].load_state_dict({"weight": x["w"].T, "bias": x["b"]})
    return p, torch.nn.Sequential(*layers[:-2])


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("widths", [(6, 4), (6, 7, 4), (6, 8, 7, 4)])
def test_mlp_equals_torch(key, widths, leading):
    p, module = mlp_of(key, widths)
    assert [x["w"].shape for x in p] == list(itertools.pairwise(widths))
    x = random.normal(random.fold_in(key, 9), (*leading, 6))
    torch.testing.assert_close(nn.mlp(p, x), module.eval()(x).detach())
    module(x).square().sum().backward()
    _, grads = value_and_grad(lambda p: nn.mlp(p, x).square().sum())(p)
    expected = [{"w": layer.weight.grad.T, "b": layer.bias.grad} for layer in module[::3]]
    torch.testing.assert_close(grads, expected, rtol=1e-4, atol=1e-4)


def test_mlp_starts_with_layers_of_their_own(key):
    p = nn.mlp_init(key, (5, 5, 5))
    assert not torch.equal(p[0]["w"], p[1]["w"])
    assert all(torch.equal(x["b"], torch.zeros(5)) and x["w"].abs().max() <= math.sqrt(6 / 10) for x in p)


def test_mlp_takes_an_activation(key):
    p, x = nn.mlp_init(key, (3, 4, 2)), random.normal(key, (5, 3))
    expected = nn.linear(p[1], torch.tanh(nn.linear(p[0], x)))
    torch.testing.assert_close(nn.mlp(p, x, activation=torch.tanh), expected)


def test_mlp_drops_after_each_activation(key):
    p, _ = mlp_of(key, (6, 50, 40, 4))
    x, (k1, k2, _) = random.normal(key, (5, 6)), random.split(key, 3)
    h = nn.dropout(nn.linear(p[0], x).relu(), 0.5, k1)
    h = nn.dropout(nn.linear(p[1], h).relu(), 0.5, k2)
    torch.testing.assert_close(nn.mlp(p, x, key, dropout=0.5), nn.linear(p[2], h))
    assert torch.equal(nn.mlp(p, x, dropout=0.5), nn.mlp(p, x)) and torch.equal(nn.mlp(p, x, key), nn.mlp(p, x))
    assert not torch.equal(nn.mlp(p, x, key, dropout=0.5), nn.mlp(p, x, random.key(1), dropout=0.5))
    assert torch.equal(nn.mlp(p[:1], x, key, dropout=0.5), nn.linear(p[0], x))  # the last is left whole


# ---- positions ----


@pytest.mark.parametrize("n, d", [(1, 2), (7, 6), (50, 16)])
def test_sinusoidal_positions_by_the_formula(n, d):
    expected = torch.empty(n, d, dtype=torch.float64)
    for position in range(n):
        for i in range(d // 2):
            angle = position / 10000 ** (2 * i / d)
            expected[position, 2 * i], expected[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
    torch.testing.assert_close(nn.sinusoidal_positions(n, d), expected.float(), rtol=0, atol=2e-5)
