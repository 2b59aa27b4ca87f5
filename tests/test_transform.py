"""lib/transform.py: gradients in every mode, and compiled steps that write into their own state."""

from typing import NamedTuple

import pytest
import torch
from torch._dynamo.utils import counters
from torch.func import vmap

from lib import optim, random, tree
from lib.transform import jit, value_and_grad


class Params(NamedTuple):
    layers: list
    unused: torch.Tensor


def make(key):
    k1, k2, k3 = random.split(key, 3)
    layers = [{"w": random.normal(k1, (3, 4)), "b": random.normal(k2, (4,))}, {"w": random.normal(k3, (4, 2))}]
    return Params(layers, torch.ones(2))


def loss(p, x):
    hidden = torch.tanh(x @ p.layers[0]["w"] + p.layers[0]["b"])
    return (hidden @ p.layers[1]["w"]).square().mean()


def penalised(p, x):
    """A loss plus the squared norm of its gradient with respect to the data, as in WGAN-GP."""
    value, grad = value_and_grad(lambda x: loss(p, x))(x)
    return value + 0.1 * grad.square().sum()


def penalised_by_hand(p, x):
    x = x.clone().requires_grad_()
    value = loss(p, x)
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    return value + 0.1 * grad.square().sum()


def by_hand(fn, p, x):
    """torch.autograd without the library."""
    p = tree.map(lambda leaf: leaf.clone().requires_grad_(), p)
    value = fn(p, x)
    grads = torch.autograd.grad(value, tree.leaves(p), allow_unused=True, materialize_grads=True)
    return value.detach(), grads


def compiled(fn):
    torch._dynamo.reset()
    return torch.compile(fn, fullgraph=True, backend="aot_eager")


def as_one_of_a_batch(fn):
    """`fn` through vmap over a batch of one."""

    def call(p, x):
        return tree.map(lambda y: y[0], vmap(fn)(tree.map(lambda leaf: leaf[None], p), x[None]))

    return call


MODES = {"eager": lambda fn: fn, "vmap": as_one_of_a_batch, "compile": compiled}


# ---- value_and_grad ----


@pytest.mark.parametrize("mode", MODES)
def test_value_comes_first(key, mode):
    p = {"a": torch.tensor([3.0, 4.0])}
    value, grads = MODES[mode](value_and_grad(lambda p, x: (p["a"] * x).sum()))(p, torch.tensor([1.0, 2.0]))
    assert value.item() == 11.0
    assert grads["a"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("mode", MODES)
def test_has_aux(key, mode):
    def fn(p, x):
        return (p["a"] * x).sum(), {"twice": 2 * p["a"], "x": x}

    p, x = {"a": torch.tensor([3.0, 4.0])}, torch.tensor([1.0, 2.0])
    (value, aux), grads = MODES[mode](value_and_grad(fn, has_aux=True))(p, x)
    assert value.item() == 11.0
    assert aux["twice"].tolist() == [6.0, 8.0]
    assert torch.equal(aux["x"], x)
    assert grads["a"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fn, expected", [(loss, loss), (penalised, penalised_by_hand)], ids=["plain", "nested"])
def test_equals_torch_autograd(key, mode, fn, expected):
    p, x = make(key), random.normal(random.fold_in(key, 1), (5, 3))
    value, grads = MODES[mode](value_and_grad(fn))(p, x)
    value_by_hand, grads_by_hand = by_hand(expected, p, x)
    torch.testing.assert_close(value, value_by_hand)
    assert list(tree.flatten(grads)) == list(tree.flatten(p))
    torch.testing.assert_close(tree.leaves(grads), list(grads_by_hand))
    assert not grads.unused.any()


@pytest.mark.parametrize("mode", MODES)
def test_third_derivative(mode):
    def derivative(fn):
        return lambda p, x: value_and_grad(fn)(p, x)[1]["a"]

    third = derivative(derivative(derivative(lambda p, x: x * p["a"] ** 4)))
    assert MODES[mode](third)({"a": torch.tensor(2.0)}, torch.tensor(0.5)).item() == 24.0


@pytest.mark.parametrize("mode", ["eager", "compile"])
def test_none_is_an_empty_subtree(mode):
    _, grads = MODES[mode](value_and_grad(lambda p: p["a"].square().sum()))({"a": torch.ones(2), "none": None})
    assert grads["a"].tolist() == [2.0, 2.0] and grads["none"] is None


def test_vmap_over_parameters_equals_separate_runs(key):
    ps = [make(k) for k in random.split(key, 3)]
    x = random.normal(random.fold_in(key, 1), (5, 3))
    values, grads = vmap(value_and_grad(loss), in_dims=(0, None))(tree.stack(ps), x)
    for i, g in enumerate(tree.unstack(grads)):
        value, expected = value_and_grad(loss)(ps[i], x)
        torch.testing.assert_close(values[i], value)
        torch.testing.assert_close(tree.leaves(g), tree.leaves(expected))


def test_keyword_arguments_reach_the_function(key):
    fn = value_and_grad(lambda p, *, scale: scale * p.sum())
    expected = (6.0, [3.0, 3.0])
    for mode in (lambda f: f, compiled):
        value, grad = mode(fn)(torch.ones(2), scale=3.0)
        assert (value.item(), grad.tolist()) == expected


@pytest.mark.parametrize("mode", ["eager", "compile"])
def test_nothing_asks_for_gradients(key, mode):
    p, x = make(key), random.normal(random.fold_in(key, 1), (5, 3))
    fn = value_and_grad(lambda p, x: (loss(p, x), {"copy": p.layers[0]["w"] * 2}), has_aux=True)
    before = tree.map(torch.clone, p)
    out = MODES[mode](fn)(p, x)
    assert not any(leaf.requires_grad for leaf in tree.leaves((p, x)))
    assert all(leaf.grad is None for leaf in tree.leaves((p, x)))
    assert not any(leaf.requires_grad or leaf.grad_fn is not None for leaf in tree.leaves(out))
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(p), tree.leaves(before), strict=True))


def test_works_under_no_grad(key):
    p, x = make(key), random.normal(random.fold_in(key, 1), (5, 3))
    expected = value_and_grad(loss)(p, x)
    with torch.no_grad():
        torch.testing.assert_close(tree.leaves(value_and_grad(loss)(p, x)), tree.leaves(expected))


# ---- jit ----


def trainer(key):
    """A step with everything in it, its first state, and a batch for each of its calls."""
    opt = optim.adamw(optim.cosine(0.1, steps=10, warmup=3))

    def step(state, x):
        value, grads = value_and_grad(loss)(state["params"], x)
        grads, norm = optim.clip(grads, 1.0)
        params, opt_state = opt.update(grads, state["opt"], state["params"])
        return {"params": params, "opt": opt_state}, {"loss": value, "norm": norm}

    params = make(key)
    batches = [random.normal(random.fold_in(key, i), (5, 3)) for i in range(6)]
    return step, {"params": params, "opt": opt.init(params)}, batches


def jitted(step, **kwargs):
    torch._dynamo.reset()
    counters.clear()
    return jit(step, backend="aot_eager", **kwargs)


@pytest.mark.parametrize("donate", [True, False])
def test_jit_equals_eager_in_one_graph(key, donate):
    step, state, batches = trainer(key)
    expected, fast = tree.map(torch.clone, state), jitted(step, donate=donate)
    for x in batches:
        expected, out = step(expected, x)
        state, fast_out = fast(state, x)
        torch.testing.assert_close(tree.leaves(fast_out), tree.leaves(out))
        torch.testing.assert_close(tree.leaves(state), tree.leaves(expected))
    assert counters["stats"]["unique_graphs"] == 1


def test_donation_writes_into_the_same_storage(key):
    step, state, batches = trainer(key)
    before, old = [leaf.data_ptr() for leaf in tree.leaves(state)], tree.map(torch.clone, state)
    fast = jitted(step)
    for x in batches[:3]:
        state, _ = fast(state, x)
        assert [leaf.data_ptr() for leaf in tree.leaves(state)] == before
    assert not torch.equal(state["params"].layers[0]["w"], old["params"].layers[0]["w"])
    assert state["opt"].step.item() == 3


def test_without_donation_the_input_stays(key):
    step, state, batches = trainer(key)
    before = tree.map(torch.clone, state)
    new, _ = jitted(step, donate=False)(state, batches[0])
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(state), tree.leaves(before), strict=True))
    assert new["params"].layers[0]["w"].data_ptr() != state["params"].layers[0]["w"].data_ptr()


def test_schedule_inside_the_graph_does_not_recompile():
    schedule = optim.inverse_sqrt(d_model=4, warmup=3)

    def step(state, _):
        return {"n": state["n"] + 1}, schedule(state["n"])

    fast, state = jitted(step), {"n": torch.zeros((), dtype=torch.int32)}
    for n in range(8):
        state, lr = fast(state, None)
        torch.testing.assert_close(lr, schedule(torch.tensor(n)))
    assert counters["stats"]["unique_graphs"] == 1


def test_disabled_jit_is_the_step_itself(key):
    step, *_ = trainer(key)
    assert jit(step, enabled=False) is step
