"""lib/diagnose.py: every figure against a small closed form."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import attention as attn
from lib import diagnose, nn, optim, random, transformer, tree
from lib.models import seq2seq
from lib.transform import value_and_grad

N, D = 24, 5


def least_squares(p, batch):
    """Mean of (w . x + b - y)^2."""
    x, y = batch
    return (x @ p["layer"]["w"] + p["b"] - y).square().mean()


def regression(key):
    k_w, k_x, k_y = random.split(key, 3)
    params = {"layer": {"w": random.normal(k_w, (D,))}, "b": torch.tensor(0.3)}
    return params, (random.normal(k_x, (N, D)), random.normal(k_y, (N,)))


def by_hand(p, batch):
    """Losses, gradients 2 (w . x + b - y) (x, 1) and the Hessian 2 X^T X / n of least squares, in numpy."""
    x, y = (leaf.double().numpy() for leaf in batch)
    w = np.append(p["layer"]["w"].double().numpy(), float(p["b"]))
    x = np.column_stack([x, np.ones(len(x))])
    residual = x @ w - y
    return residual**2, 2 * residual[:, None] * x, 2 * x.T @ x / len(x)


def quadratic(h):
    """A loss with the Hessian h: p^T h p / 2, plus a part that is linear in p and in the example."""
    return lambda p, x: p["a"] @ h @ p["a"] / 2 + (x @ p["a"]).mean()


def rotated(key, eigenvalues):
    q = torch.linalg.qr(random.normal(key, (len(eigenvalues), len(eigenvalues)))).Q
    return q @ torch.diag(torch.tensor(eigenvalues)) @ q.T


def translation(key, norm="rms", length=7, position="rotary"):
    """A small encoder-decoder and a loss per token over rows with padding."""
    block = transformer.Config(width=8, heads=2, ff=12, norm=norm, activation="gelu", position=position)
    cfg = seq2seq.Config(1, 1, block, 11, 11, shared=True)
    k_params, k_source, k_target = random.split(key, 3)
    places = torch.arange(length).expand(3, length)
    segment = (places < torch.tensor([[length], [length - 2], [length - 1]])).int()
    sides = [seq2seq.Sequences(random.randint(k, (3, length), 3, 11), places, segment) for k in (k_source, k_target)]

    def loss(params, batch):
        logits, _ = seq2seq.apply(params, *batch, cfg=cfg)
        labels = torch.where(batch[1].segment > 0, batch[1].ids, 0).flatten().long()
        return F.cross_entropy(logits.flatten(0, 1), labels, ignore_index=0, label_smoothing=0.1)

    return loss, seq2seq.init(k_params, cfg), sides


# ---- per-example gradients ----


@pytest.mark.parametrize("chunk", [1, 7, N, 100, None])
def test_per_example_equals_the_closed_form(key, chunk):
    params, batch = regression(key)
    losses, gradients, _ = by_hand(params, batch)
    found, norms = diagnose.per_example(least_squares, params, batch, chunk)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    np.testing.assert_allclose(norms, np.linalg.norm(gradients, axis=1), rtol=1e-5)


def test_no_more_than_a_chunk_at_once(key, monkeypatch):
    params, batch = regression(key)
    sizes, vmap = [], torch.func.vmap
    monkeypatch.setattr(diagnose, "AT_ONCE", 4 * tree.size(params) + 1)
    monkeypatch.setattr(torch.func, "vmap", lambda fn, chunk_size: sizes.append(chunk_size) or vmap(fn))
    diagnose.per_example(least_squares, params, batch)
    monkeypatch.setattr(diagnose, "AT_ONCE", 1)
    diagnose.per_example(least_squares, params, batch)
    assert sizes == [4, 1]


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_per_example_of_a_transformer_equals_one_at_a_time(key, norm):
    loss, params, batch = translation(key, norm)
    losses, norms = diagnose.per_example(loss, params, batch, chunk=2)
    for i in range(3):
        value, grads = value_and_grad(loss)(params, tree.map(lambda x, i=i: x[i : i + 1], batch))
        torch.testing.assert_close(losses[i], value)
        torch.testing.assert_close(norms[i], tree.global_norm(grads))


def test_a_key_the_loss_closes_over(key):
    params, (x, y) = regression(key)

    def noisy(p, batch):
        return least_squares(p, (nn.dropout(batch[0], 0.5, key), batch[1]))

    _, norms = diagnose.per_example(noisy, params, (x, y), chunk=5)
    kept = nn.dropout(torch.ones(1, D), 0.5, key)
    _, gradients, _ = by_hand(params, (x * kept, y))
    np.testing.assert_allclose(norms, np.linalg.norm(gradients, axis=1), rtol=1e-5)


# ---- noise scale ----


def test_noise_scale_equals_the_empirical_covariance(key):
    params, batch = regression(key)
    _, gradients, _ = by_hand(params, batch)
    mean = gradients.mean(0)
    trace = np.trace(np.cov(gradients, rowvar=False))  # divides by n - 1
    expected = trace / (mean @ mean - trace / N)
    assert expected > 0
    found = diagnose.noise_scale(torch.tensor(np.linalg.norm(gradients, axis=1)), float(np.linalg.norm(mean)))
    assert found == pytest.approx(expected, rel=1e-9)


def test_noise_scale_of_gaussian_means(key):
    """The loss |p - x|^2 / 2 with x normal around 0 has G = p and Sigma = sigma^2 I: B = d sigma^2 / |p|^2."""
    p, sigma = {"a": torch.tensor([0.6, -0.8, 0.0])}, 2.0

    def loss(p, x):
        return (p["a"] - x).square().sum(-1).mean() / 2

    found = []
    for k in random.split(key, 20):
        x = sigma * random.normal(k, (1000, 3))
        _, norms = diagnose.per_example(loss, p, x)
        found.append(diagnose.noise_scale(norms, tree.global_norm(value_and_grad(loss)(p, x)[1])))
    assert np.median(found) == pytest.approx(3 * sigma**2 / 1.0, rel=0.1)  # of a standard deviation of 3 %


@pytest.mark.parametrize(
    "norms, mean, expected",
    [
        ([1.0, 1.0], 1.0, 0.0),  # equal gradients: no noise
        ([1.0, 1.0], 0.0, math.inf),  # opposite gradients: nothing but noise
        ([3.0, 4.0], 2.5, math.inf),  # at right angles: |G|^2 is estimated as exactly 0
        ([1.0], 1.0, math.nan),
        ([0.0, 0.0], 0.0, math.nan),
        ([math.nan, 1.0], 1.0, math.nan),
        ([math.inf, 1.0], math.inf, math.nan),
    ],
)
def test_noise_scale_at_its_edges(norms, mean, expected):
    found = diagnose.noise_scale(torch.tensor(norms), torch.tensor(mean))
    assert found == pytest.approx(expected, nan_ok=True)


# ---- curvature ----


def test_hessian_of_least_squares(key):
    params, batch = regression(key)
    _, _, h = by_hand(params, batch)
    eigenvalues = np.linalg.eigvalsh(h)
    found = diagnose.hessian(least_squares, params, batch, key, probes=400)
    assert found.largest == pytest.approx(eigenvalues[-1], rel=1e-4)
    assert found.smallest == pytest.approx(eigenvalues[0], rel=1e-4)
    # The variance of a probe with random signs: 2 (|H|_F^2 - sum of the squared diagonal).
    error = math.sqrt(2 * ((h**2).sum() - (h.diagonal() ** 2).sum()) / 400)
    assert found.trace_error == pytest.approx(error, rel=0.15)
    assert abs(found.trace - np.trace(h)) < 3 * error


def test_the_largest_eigenvalue_of_a_saddle_is_not_the_largest_in_size(key):
    h = rotated(key, [-10.0, -1.0, 0.5, 2.0])
    params, x = {"a": random.normal(key, (4,))}, torch.zeros(1, 4)
    found = diagnose.hessian(quadratic(h), params, x, key)
    assert (found.largest, found.smallest) == pytest.approx((2.0, -10.0), rel=1e-4)


def test_eigenvalues_far_from_the_others_need_few_iterations(key):
    h = rotated(key, [-5.0, *torch.linspace(0, 1, 98).tolist(), 20.0])
    params, x = {"a": torch.zeros(100)}, torch.zeros(1, 100)
    found = diagnose.hessian(quadratic(h), params, x, key)
    assert (found.largest, found.smallest) == pytest.approx((20.0, -5.0), rel=1e-3)
    one = diagnose.hessian(quadratic(h), params, x, key, iterations=1)
    assert -5 < one.smallest == one.largest < 20


def test_hessian_of_one_parameter(key):
    found = diagnose.hessian(quadratic(torch.tensor([[3.0]])), {"a": torch.ones(1)}, torch.zeros(1, 1), key)
    assert found == (3.0, 3.0, 3.0, 0.0)


def test_trace_of_a_diagonal_needs_one_probe(key):
    h = torch.diag(torch.tensor([3.0, -1.0, 0.5]))
    found = diagnose.hessian(quadratic(h), {"a": torch.ones(3)}, torch.zeros(1, 3), key, probes=2)
    assert (found.trace, found.trace_error) == (2.5, 0.0)
    one = diagnose.hessian(quadratic(h), {"a": torch.ones(3)}, torch.zeros(1, 3), key, probes=1)
    assert one.trace == 2.5 and math.isnan(one.trace_error)


def test_hessian_of_a_linear_loss_is_zero(key):
    found = diagnose.hessian(quadratic(torch.zeros(3, 3)), {"a": torch.ones(3)}, torch.ones(2, 3), key)
    assert found == (0.0, 0.0, 0.0, 0.0)


def test_a_loss_that_is_not_finite_gives_nan(key):
    params, x = {"a": torch.full((3,), math.nan)}, torch.ones(2, 3)
    scalars, norms, _ = diagnose.measure(lambda p, x: (p["a"] * x).square().mean() ** 2, params, x, key)
    assert all(math.isnan(value) for value in scalars.values()) and norms.isnan().all()


def test_probes_follow_the_key(key):
    loss, params, batch = translation(key)
    one, again, other = (
        diagnose.hessian(loss, params, batch, k, iterations=2, probes=2) for k in (key, key, random.key(1))
    )
    assert one == again
    assert one.trace != other.trace and one.largest != other.largest


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_hvp_of_a_transformer_equals_finite_differences(key, monkeypatch, norm):
    monkeypatch.setattr(attn, "SHORT", 0)  # the gradient is fused and all float64; the plain softmax is fp32
    loss, params, batch = translation(key, norm)
    params = tree.cast(params, torch.float64)
    leaves = tree.leaves(params)
    keys = random.split(random.key(7), len(leaves))
    v = tree.unflatten(params, [random.normal(k, x.shape).double() for k, x in zip(keys, leaves, strict=True)])

    def gradient(size):
        return value_and_grad(loss)(tree.map(lambda p, v: p + size * v, params, v), batch)[1]

    size = 1e-5
    expected = tree.map(lambda a, b: (a - b) / (2 * size), gradient(size), gradient(-size))
    found = diagnose.hvp(loss, params, batch, v)
    assert list(tree.flatten(found)) == list(tree.flatten(params))
    torch.testing.assert_close(tree.leaves(found), tree.leaves(expected), rtol=1e-5, atol=1e-6)


# ---- updates ----


def test_update_ratios_by_hand():
    before = {"layers": [{"w": torch.tensor([[3.0, 0.0], [0.0, 4.0]])}], "b": torch.zeros(2), "still": torch.zeros(1)}
    after = {"layers": [{"w": torch.tensor([[3.0, 0.3], [0.4, 4.0]])}], "b": torch.ones(2), "still": torch.zeros(1)}
    found = diagnose.update_ratios(before, after)
    assert list(found) == list(tree.flatten(before))
    assert found["layers.0.w"] == pytest.approx(0.1)
    assert found["b"] == math.inf and math.isnan(found["still"])


def test_update_ratio_of_a_step_of_descent(key):
    params, batch = regression(key)
    _, grads = value_and_grad(least_squares)(params, batch)
    descent = optim.sgd(0.01)
    after, _ = descent.update(grads, descent.init(params), params)
    found = diagnose.update_ratios(params, after)
    expected = 0.01 * np.linalg.norm(grads["layer"]["w"]) / np.linalg.norm(params["layer"]["w"])
    assert found["layer.w"] == pytest.approx(float(expected), rel=1e-4)


# ---- all together ----


def test_measure_collects_everything(key):
    params, batch = regression(key)
    losses, gradients, h = by_hand(params, batch)
    before = tree.map(torch.clone, (params, batch, key))
    scalars, norms, found = diagnose.measure(least_squares, params, batch, key)
    tags = ["gradient_norm/mean", "gradient_norm/max", "noise_scale"]
    assert list(scalars) == tags + [f"hessian/{name}" for name in ("largest", "smallest", "trace", "trace_error")]
    assert all(type(value) is float for value in scalars.values())
    sizes = np.linalg.norm(gradients, axis=1)
    np.testing.assert_allclose(norms, sizes, rtol=1e-5)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    assert scalars["gradient_norm/mean"] == pytest.approx(sizes.mean(), rel=1e-5)
    assert scalars["gradient_norm/max"] == pytest.approx(sizes.max(), rel=1e-5)
    mean = float(np.linalg.norm(gradients.mean(0)))
    assert scalars["noise_scale"] == pytest.approx(diagnose.noise_scale(torch.tensor(sizes), mean), rel=1e-4)
    assert scalars["hessian/largest"] == pytest.approx(np.linalg.eigvalsh(h)[-1], rel=1e-4)
    assert abs(scalars["hessian/trace"] - np.trace(h)) < 5 * scalars["hessian/trace_error"]
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves((params, batch, key)), tree.leaves(before), strict=True))
    assert not any(x.requires_grad for x in [*tree.leaves((params, batch)), norms, found])


def test_a_loss_in_bf16(key):
    loss, params, batch = translation(key)
    low, *_ = diagnose.measure(lambda p, b: loss(tree.cast(p, torch.bfloat16), b).float(), params, batch, key)
    full, *_ = diagnose.measure(loss, params, batch, key)
    assert low["gradient_norm/max"] == pytest.approx(full["gradient_norm/max"], rel=0.05)
    assert low["hessian/largest"] == pytest.approx(full["hessian/largest"], rel=0.2)
