"""lib/optim.py: torch.optim leaf by leaf, schedules at points worked out by hand, and what every optimiser must do."""

import math

import pytest
import torch
from einops import rearrange
from torch.func import vmap

from lib import muon, optim, random, tree

OPTIMIZERS = {  # a new optimiser joins here and passes the conformance tests below
    "sgd": optim.sgd(0.1),
    "momentum": optim.sgd(0.05, momentum=0.9),
    "adam": optim.adam(0.1),
    "adamw": optim.adamw(0.1, weight_decay=0.001, decay=optim.matrices),
    "muon": muon.partition(r"w$", muon.muon(optim.linear(0.2, 400), dtype=torch.float32), optim.adam(0.1)),
    "scheduled": optim.adamw(optim.cosine(0.1, steps=400, warmup=5), weight_decay=0.0),
}
SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
PARITY = {
    "sgd": (optim.sgd(0.1), lambda p: SGD(p.values(), 0.1)),
    "momentum": (optim.sgd(0.1, 0.9), lambda p: SGD(p.values(), 0.1, momentum=0.9)),
    "adam": (optim.adam(0.01), lambda p: ADAM(p.values(), 0.01)),
    "adam-betas": (
        optim.adam(0.01, (0.5, 0.9), eps=1e-3),
        lambda p: ADAM(p.values(), 0.01, betas=(0.5, 0.9), eps=1e-3),
    ),
    "adamw": (optim.adamw(0.01), lambda p: ADAMW(p.values(), 0.01)),
    "adamw-decay": (optim.adamw(0.01, weight_decay=0.5), lambda p: ADAMW(p.values(), 0.01, weight_decay=0.5)),
    "adamw-mask": (
        optim.adamw(0.01, weight_decay=0.5, decay=lambda p: tree.match(r"w$", p)),
        lambda p: ADAMW(
            [
                {"params": [x for path, x in p.items() if path.endswith("w")], "weight_decay": 0.5},
                {"params": [x for path, x in p.items() if not path.endswith("w")], "weight_decay": 0.0},
            ],
            0.01,
        ),
    ),
}


def make(key):
    k1, k2, k3, k4 = random.split(key, 4)
    return {
        "w": random.normal(k1, (3, 4)),
        "b": random.normal(k2, (4,)),
        "deep": [{"w": random.normal(k3, (2, 2, 2)), "scale": random.normal(k4, ())}],
    }


def gradients(key, i):
    return make(random.fold_in(key, 100 + i))


def close(a, b, **tolerance):
    assert list(tree.flatten(a)) == list(tree.flatten(b))
    torch.testing.assert_close(tree.flatten(a), tree.flatten(b), **tolerance)


# ---- torch.optim ----


@pytest.mark.parametrize("name", PARITY)
def test_equals_torch_optim(key, name):
    opt, make_theirs = PARITY[name]
    params = make(key)
    theirs = {path: torch.nn.Parameter(leaf.clone()) for path, leaf in tree.flatten(params).items()}
    reference, state = make_theirs(theirs), opt.init(params)
    for i in range(10):
        grads = gradients(key, i)
        for path, grad in tree.flatten(grads).items():
            theirs[path].grad = grad.clone()
        reference.step()
        params, state = opt.update(grads, state, params)
        for path, leaf in tree.flatten(params).items():
            torch.testing.assert_close(leaf, theirs[path].detach(), rtol=1e-5, atol=2e-6, msg=f"{path}, step {i}")
    assert state.step.item() == 10


def test_schedule_equals_torch_optim_with_that_rate(key):
    schedule = optim.linear(0.1, steps=8, warmup=3)
    opt, params = optim.adamw(schedule, weight_decay=0.1), make(key)
    theirs = {path: torch.nn.Parameter(leaf.clone()) for path, leaf in tree.flatten(params).items()}
    reference, state = ADAMW(theirs.values(), weight_decay=0.1), opt.init(params)
    for i in range(10):
        grads = gradients(key, i)
        for path, grad in tree.flatten(grads).items():
            theirs[path].grad = grad.clone()
        reference.param_groups[0]["lr"] = schedule(torch.tensor(i)).item()
        reference.step()
        params, state = opt.update(grads, state, params)
        torch.testing.assert_close(
            tree.flatten(params), {k: v.detach() for k, v in theirs.items()}, rtol=1e-5, atol=1e-5
        )


def test_rate_may_be_a_tensor(key):
    params, grads = make(key), gradients(key, 0)
    results = []
    for lr in (0.01, torch.tensor(0.01), optim.constant(0.01)):
        opt = optim.adamw(lr)
        results.append(opt.update(grads, opt.init(params), params)[0])
    close(results[0], results[1])
    close(results[0], results[2])


def test_matrices_decay_and_vectors_do_not(key):
    assert optim.matrices(make(key)) == {"w": True, "b": False, "deep": [{"w": True, "scale": False}]}


# ---- Muon ----


def evened(s):
    """What `orthogonalise` does to singular values."""
    for a, b, c in muon.POLYNOMIALS:
        s = a * s + b * s**3 + c * s**5
    return s


def test_every_singular_value_of_note_is_evened_out():
    s = evened(torch.linspace(1 / 700, 1, 100_000, dtype=torch.float64) / 1.01)
    assert s.min() > 0.18 and s.max() < 1.87


@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 4, 9), (2, 9, 4)])
def test_orthogonalise_keeps_singular_vectors_and_evens_out_singular_values(key, shape):
    g = random.normal(key, shape) * 7
    u, s, vt = torch.linalg.svd(g.double(), full_matrices=False)
    s = evened(s / (1.01 * s.norm(dim=1, keepdim=True)))
    expected = u @ torch.diag_embed(s) @ vt
    torch.testing.assert_close(muon.orthogonalise(g, dtype=torch.float32).double(), expected, rtol=1e-3, atol=1e-3)
    assert s.min() > 0.18 and s.max() < 1.87  # for matrices that are not nearly singular


def test_orthogonalise_in_bf16_is_enough(key):
    g = random.normal(key, (2, 48, 192))
    exact = muon.orthogonalise(g, torch.float32)
    assert 0 < (muon.orthogonalise(g, torch.bfloat16) - exact).norm() / exact.norm() < 0.1


def test_muon_equals_a_plain_reference(key):
    """Matrix after matrix in fp64: the momentum of Nesterov, orthogonalised, as large as an Adam step."""
    k1, k2, k3 = random.split(key, 3)
    params = {"w_q": random.normal(k1, (6, 2, 3)), "w_o": random.normal(k2, (2, 3, 6)), "w": random.normal(k3, (6, 8))}
    params["kernel"] = random.normal(random.fold_in(key, 4), (5, 2, 3, 3))
    opt, lr, decay = muon.muon(0.03, weight_decay=0.1, dtype=torch.float32), 0.03, 0.1
    as_matrices = {"w_q": "d h c -> h d c", "w_o": "h c d -> h c d", "w": "r c -> 1 r c"}  # attention's head by head
    as_matrices["kernel"] = "f c a b -> 1 f (c a b)"
    p = {name: rearrange(params[name].double(), axes) for name, axes in as_matrices.items()}
    m, state = {name: torch.zeros_like(x) for name, x in p.items()}, opt.init(params)
    for i in range(4):
        grads = tree.map(lambda x, i=i: random.normal(random.fold_in(key, 10 + i), tuple(x.shape)), params)
        params, state = opt.update(grads, state, params)
        for name, axes in as_matrices.items():
            gs = rearrange(grads[name].double(), axes)
            m[name] = 0.95 * m[name] + gs
            for n, g in enumerate(gs):
                x = (g + 0.95 * m[name][n]) / (1.01 * torch.linalg.matrix_norm(g + 0.95 * m[name][n]))
                for a, b, c in muon.POLYNOMIALS:
                    x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
                p[name][n] = (1 - lr * decay) * p[name][n] - lr * 0.2 * math.sqrt(max(x.shape)) * x
    for name, axes in as_matrices.items():
        torch.testing.assert_close(rearrange(params[name].double(), axes), p[name], rtol=1e-3, atol=1e-3)
    assert state.step == 4


def test_a_muon_step_is_as_large_as_an_adam_step(key):
    params = {"w": random.normal(key, (64, 128))}
    opt = muon.muon(1.0, dtype=torch.float32)
    new, _ = opt.update(params, opt.init(params), params)
    assert 0.15 < (new["w"] - params["w"]).square().mean().sqrt() < 0.25


def test_partition_gives_each_leaf_to_one_optimiser(key):
    params, grads = make(key), gradients(key, 0)
    opt = muon.partition(r"deep", optim.sgd(0.1), optim.adam(0.01))
    new, state = opt.update(grads, opt.init(params), params)
    alone = optim.sgd(0.1), optim.adam(0.01)
    sgd, adam = (o.update(grads, o.init(params), params)[0] for o in alone)
    close(new, {**adam, "deep": sgd["deep"]})
    assert [list(tree.flatten(s)) for s in state] == [
        ["step", "momentum.deep.0.w", "momentum.deep.0.scale"],
        ["step", "mu.w", "mu.b", "nu.w", "nu.b"],
    ]


# ---- schedules ----


@pytest.mark.parametrize(
    "schedule, points",
    [
        (optim.constant(0.3), {0: 0.3, 1000: 0.3}),
        # warmup 4 of 12 steps to 1, then down to 0.1: a quarter of the way at 6, half at 8
        (
            optim.cosine(1.0, 12, warmup=4, floor=0.1),
            {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 6: 0.1 + 0.45 * (1 + math.sqrt(0.5)), 8: 0.55, 12: 0.1, 99: 0.1},
        ),
        (
            optim.linear(1.0, 12, warmup=4, floor=0.1),
            {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 6: 0.775, 8: 0.55, 12: 0.1, 99: 0.1},
        ),
        (optim.cosine(2.0, 10), {0: 2.0, 5: 1.0, 10: 0.0, 11: 0.0}),
        (optim.linear(2.0, 10), {0: 2.0, 5: 1.0, 9: 0.2, 10: 0.0, 11: 0.0}),
        # 64^-1/2 min(n^-1/2, n / 64) with n = step + 1
        (optim.inverse_sqrt(64, warmup=16), {0: 1 / 512, 7: 1 / 64, 15: 1 / 32, 63: 1 / 64, 255: 1 / 128}),
        (optim.inverse_sqrt(64, warmup=16, factor=2.0), {0: 1 / 256, 15: 1 / 16}),
    ],
)
def test_schedule_by_hand(schedule, points):
    for step, expected in points.items():
        rate = schedule(torch.tensor(step, dtype=torch.int32))
        assert rate.shape == () and rate.dtype == torch.float32
        torch.testing.assert_close(rate.item(), expected, rtol=1e-5, atol=1e-7, msg=f"step {step}: {rate.item()}")


@pytest.mark.parametrize("warmup", [1, 4, 400])
def test_inverse_sqrt_peaks_at_the_end_of_warmup(warmup):
    schedule = optim.inverse_sqrt(d_model=512, warmup=warmup)
    rates = vmap(schedule)(torch.arange(1000))
    assert rates.argmax().item() == warmup - 1
    torch.testing.assert_close(rates.max().item(), (512 * warmup) ** -0.5, rtol=1e-5, atol=0)


# ---- clipping and averaging ----


@pytest.mark.parametrize("max_norm", [0.01, 0.5, 1e3])
def test_clip_equals_torch(key, max_norm):
    grads = make(key)
    theirs = [torch.nn.Parameter(torch.zeros_like(leaf)) for leaf in tree.leaves(grads)]
    for p, grad in zip(theirs, tree.leaves(grads), strict=True):
        p.grad = grad.clone()
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    clipped, norm = optim.clip(grads, max_norm)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(tree.leaves(clipped), [p.grad for p in theirs])
    assert tree.global_norm(clipped) <= max_norm * (1 + 1e-5)


def test_clip_zero_never_clips(key):
    grads = make(key)
    clipped, norm = optim.clip(grads, 0)
    close(clipped, grads, rtol=0, atol=0)
    torch.testing.assert_close(norm, tree.global_norm(grads))


@pytest.mark.parametrize("step, rate", [(0, 0.1), (1, 2 / 11), (8, 0.5), (80, 0.9), (100_000, 0.9)])
def test_ema_by_hand(key, step, rate):
    average, params = make(key), gradients(key, 0)
    expected = tree.map(lambda a, p: rate * a + (1 - rate) * p, average, params)
    close(optim.ema(average, params, decay=0.9, step=torch.tensor(step)), expected)


def test_ema_of_constant_parameters_is_constant(key):
    params = make(key)
    close(optim.ema(params, params, decay=0.99, step=torch.tensor(3)), params)


# ---- conformance: what every optimiser must do ----


def run(opt, key, params, update, steps=3):
    state = opt.init(params)
    for i in range(steps):
        params, state = update(gradients(key, i), state, params)
    return params, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_structure_shapes_and_dtypes_are_preserved(key, name):
    opt, params = OPTIMIZERS[name], make(key)
    params["half"], grads = random.normal(key, (5,)).bfloat16(), gradients(key, 0)
    grads["half"] = random.normal(key, (5,)).bfloat16()
    state = opt.init(params)
    new_params, new_state = opt.update(grads, state, params)
    assert type(new_state) is type(state)
    for old, new in [(params, new_params), (state, new_state)]:
        old, new = tree.flatten(old), tree.flatten(new)
        assert list(new) == list(old)
        assert all((new[path].shape, new[path].dtype) == (old[path].shape, old[path].dtype) for path in old)
    assert all(not torch.equal(a, b) for a, b in zip(tree.leaves(params), tree.leaves(new_params), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_inputs_are_not_mutated(key, name):
    opt, params = OPTIMIZERS[name], make(key)
    params, state = run(opt, key, params, opt.update)  # a state that is not all zeros
    inputs = {"grads": gradients(key, 9), "state": state, "params": params}
    before = tree.map(torch.clone, inputs)
    out = opt.update(*inputs.values())
    close(inputs, before, rtol=0, atol=0)
    assert not {x.data_ptr() for x in tree.leaves(out)} & {x.data_ptr() for x in tree.leaves(inputs)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_quadratic_is_minimised(key, name):
    opt, params, target = OPTIMIZERS[name], make(key), gradients(key, 0)
    state = opt.init(params)
    for _ in range(400):
        grads = tree.map(lambda p, t: p - t, params, target)
        params, state = opt.update(grads, state, params)
    close(params, target, rtol=0, atol=2e-2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_vmap_equals_separate_runs(key, name):
    opt, keys = OPTIMIZERS[name], random.split(key, 3)
    params = [make(k) for k in keys]
    p = tree.stack(params)
    state = vmap(opt.init)(p)
    for i in range(3):
        p, state = vmap(opt.update)(tree.stack([gradients(k, i) for k in keys]), state, p)
    for k, start, batched in zip(keys, params, tree.unstack((p, state)), strict=True):
        close(batched, run(opt, k, start, opt.update))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiles_to_the_same(key, name):
    opt, params = OPTIMIZERS[name], make(key)
    torch._dynamo.reset()
    compiled = torch.compile(opt.update, fullgraph=True, backend="aot_eager")
    close(run(opt, key, params, compiled), run(opt, key, params, opt.update))
