"""The GANs on points of a curve and on multiples of k, as a user runs them, and what they measure."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters

from experiments import exp_gan_curve as curve
from experiments import exp_gan_multiples as multiples
from lib import random, tree
from lib.transform import jit

BOTH = pytest.mark.parametrize("exp", [curve, multiples], ids=lambda exp: exp.NAME)
TINY = {
    "batch": 4, "generator": (8,), "discriminator": (8,), "compile": "off", "device": "cpu", "log_every": 1,
    "eval_every": 2, "save_every": 2, "steps": 4,
}  # fmt: skip


def tiny(exp, **changes):
    return exp.Args(**{**TINY, **changes})


def step_of(exp, args):
    return partial(exp.step, args=args, **({"curve": exp.curve(args.formula)} if exp is curve else {}))


def words(**values):
    flat = {k: v if isinstance(v, tuple) else (v,) for k, v in values.items()}
    return [word for k, v in flat.items() for word in (f"--{k.replace('_', '-')}", *map(str, v))]


# ---- a whole run ----


@pytest.mark.device
@BOTH
def test_train_and_sample_as_a_user(exp, call):
    more = {"points": 6, "dropout": 0.3} if exp is curve else {"k": 7}
    status, out, err = call(exp, *words(run="run", **TINY, **more))
    assert status == 0 and "run: run\n" in out and f"next: just sample {exp.NAME}" in out
    assert "step 2: " in err and "step 4: " in err
    found = EventAccumulator("run", size_guidance={"tensors": 0}).Reload()
    figure = "samples/points" if exp is curve else "samples/histogram"
    assert [e.step for e in found.Images(figure)] == [2, 4]
    scores = {"inside", "median_squared_error", "coverage", "modes"}
    scores = scores if exp is curve else {"multiples", "smallest_share", "largest_share", "modes"}
    told = {f"{when}/{name}" for when in ("val", "final") for name in scores}
    told |= {"train/loss_d", "train/loss_g", "grad/norm_d", "grad/norm_g"}
    assert told <= set(found.Tags()["scalars"])

    status, out, _ = call(exp, "sample", "--run", "run", "--n", "3")
    assert status == 0 and len(out.splitlines()) == (4 if exp is curve else 3)
    assert out == call(exp, "sample", "--run", "run", "--n", "3", "--seed", "0")[1]
    assert out != call(exp, "sample", "--run", "run", "--n", "3", "--seed", "1")[1]
    assert call(exp, "sample", "--run", "run", "--n", "0")[0] == 2


def test_points_are_written(call):
    assert call(curve, *words(run="run", **TINY))[0] == 0
    printed = call(curve, "sample", "--run", "run", "--n", "5")[1]
    assert call(curve, "sample", "--run", "run", "--n", "5", "--out", "points.csv")[:2] == (0, "")
    assert Path("points.csv").read_text() == printed and printed.splitlines()[0] == "x,y"
    assert call(curve, "sample", "--run", "run", "--out", "points.png")[0] == 0
    assert Path("points.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for out, status in (("no/such/points.csv", 2), ("points.docx", 1)):
        found, _, err = call(curve, "sample", "--run", "run", "--out", out)
        assert found == status and out in err


def test_sequences_are_printed(call):
    assert call(multiples, *words(run="run", **TINY))[0] == 0
    printed = call(multiples, "sample", "--run", "run", "--n", "3")[1]
    assert all(len(line) == 29 and len(line.split()) == 10 for line in printed.splitlines())


@BOTH
def test_a_diagnosis_names_both_networks(exp, call):
    status, _, err = call(exp, *words(run="run", **{**TINY, "steps": 2, "diagnose": 2}))
    assert status == 0 and "params.d: gradient norm" in err and "params.g: gradient norm" in err, err


def test_collapse_is_told_with_its_step(call):
    """Generators that have learnt nothing: with a learning rate of 0 all points are near the middle."""
    _, _, err = call(curve, *words(run="curve", lr=0.0, **TINY))
    assert re.search(r"step 2: mode collapse, \d of 10 tenths: ", err)
    _, _, err = call(multiples, *words(run="multiples", lr=0.0, latent=1, k=2, **TINY))
    assert re.search(r"step 2: mode collapse: .* of 50 values", err)


def test_a_loss_that_is_not_finite(call):
    for exp in (curve, multiples):
        status, _, err = call(exp, *words(run=exp.NAME, **{**TINY, "lr": 1e30, "save_every": 1, "steps": 9}))
        assert status == 1 and re.search(r"is (nan|inf) at step \d; last good checkpoint: ", err)


def test_wrong_arguments_are_told_before_a_run_begins(call):
    status, _, err = call(curve, "--formula", "x + tan(x)", "--run", "here")
    assert status == 1 and "'x + tan(x)'" in err and "'tan(x)' is not understood" in err and not Path("here").exists()
    for k in ("1", "51"):
        status, _, err = call(multiples, "--k", k, "--run", "here")
        assert status == 2 and "--k must be at least 2 and at most 50" in err and not Path("here").exists()


# ---- the step ----


@pytest.mark.parametrize(("exp", "changes"), [(curve, {"points": 6, "dropout": 0.3}), (multiples, {"k": 7})])
def test_the_step_is_one_graph_and_equals_eager(exp, changes):
    args = tiny(exp, **changes)
    step = step_of(exp, args)
    compiled = jit(step, backend="aot_eager")
    torch._dynamo.reset()
    counters.clear()
    state, same = (exp.init_state(random.key(1), args) for _ in range(2))
    for _ in range(3):
        state, out = step(state)
        same, again = compiled(same)
        torch.testing.assert_close([*again.values()], [*out.values()], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tree.leaves(same), tree.leaves(state), atol=1e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1 and counters["graph_break"] == {}
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("exp", "changes"),
    [
        (curve, {}), (curve, {"points": 6, "dropout": 0.3, "r1": 0.0}), (multiples, {"k": 7}),
        (multiples, {"judged": "number", "output": "relu", "r1": 0.0, "ema_decay": 0.0}),
    ],
)  # fmt: skip
def test_the_step_trains_every_leaf_and_replicas_are_runs(exp, changes):
    args = tiny(exp, **changes)
    step, seeds = step_of(exp, args), [random.key(1), random.key(2)]
    replicas, each = torch.func.vmap(step)(tree.stack([exp.init_state(key, args) for key in seeds]))
    for i, key in enumerate(seeds):
        start, (state, out) = exp.init_state(key, args), step(exp.init_state(key, args))
        torch.testing.assert_close([x[i] for x in each.values()], [*out.values()], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tree.leaves(tree.unstack(replicas)[i]), tree.leaves(state), atol=1e-5, rtol=1e-5)
        assert state.step == 1 and not any(leaf.requires_grad for leaf in tree.leaves(state))
        for name in ("params.g", "params.d", "ema"):
            pairs = zip(tree.leaves(tree.at(start, name)), tree.leaves(tree.at(state, name)), strict=True)
            assert not any(torch.equal(a, b) for a, b in pairs), name


def test_sizes_of_the_book():
    state = curve.init_state(random.key(0), curve.PRESETS["book"])
    assert (tree.size(state.params.g), tree.size(state.params.d), len(state.x)) == (658, 41_985, 2048)
    state = multiples.init_state(random.key(0), multiples.PRESETS["book"])
    assert (tree.size(state.params.g), tree.size(state.params.d)) == (10_100, 101)


def test_real_examples():
    args, data = tiny(curve, batch=1000), curve.curve("exponential")
    scaled = curve.real_points(random.key(0), torch.empty(0), args=args, curve=data)
    x, y = (scaled * torch.tensor(data.std) + torch.tensor(data.mean)).unbind(-1)
    assert 0 <= x.min() < 1 and 49 < x.max() < 50
    torch.testing.assert_close(y, 1.08**x, atol=1e-3, rtol=1e-3)
    few = curve.real_points(random.key(0), torch.tensor([1.0, 2.0]), args=tiny(curve, points=2), curve=data)
    assert len(few) == 4 and len(few.unique(dim=0)) <= 2
    for k in (2, 3, 5, 7, 50):
        values = multiples.real_values(random.key(k), 500, k)
        assert values.shape == (500, 10) and sorted(set(values.flatten().tolist())) == list(range(0, k * (100 // k), k))


# ---- metrics ----


def test_metrics_of_points():
    data = curve.curve("5")
    x = torch.arange(0.25, 50, 0.5)
    even = torch.stack([x, torch.full_like(x, 5.5)], -1)
    found = curve.metrics(even, data)
    assert found == {"inside": 1.0, "median_squared_error": 0.25, "coverage": pytest.approx(0, abs=1e-6), "modes": 10}
    half = torch.cat([even[:50], even[:50] - torch.tensor([25.0, 0.0])])  # none right of 25; half of all left of 0
    found = curve.metrics(half, data)
    assert found["inside"] == 0.5 and found["coverage"] == pytest.approx(1.0) and found["modes"] == 5
    assert curve.metrics(even + 100, data)["median_squared_error"] == float("inf")


def test_metrics_of_sequences():
    even = torch.arange(0, 100, 5).view(2, 10)
    assert multiples.metrics(even, 5) == {"multiples": 1.0, "smallest_share": 1, "largest_share": 1, "modes": 20}
    some = torch.tensor([[0, 0, 0, 0, 0, 5, 5, 1, 2, 3]])
    found = multiples.metrics(some, 5)
    assert found["multiples"] == pytest.approx(0.7) and found["largest_share"] == pytest.approx(10)
    assert found["smallest_share"] == 0 and found["modes"] == 2
    assert multiples.metrics(torch.tensor([[99, 0, 33, 66] * 5]).view(2, 10), 3)["multiples"] == 1  # 99: no value
