"""The Gaussian mixtures and the autoencoder as a user runs them, and their formulas against others' code."""

import itertools
import json
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import distributions
from torch._dynamo.utils import counters

from experiments import exp_autoencoder_digits as autoencoder
from experiments import exp_mixture_points as mixture
from lib import checkpoint, random, tree
from lib.data import batches
from lib.data.images import Images
from lib.data.points import truth
from lib.transform import jit

EXPERIMENTS = [mixture, autoencoder]
COMMON = {
    "steps": 6, "compile": "off", "precision": "fp32", "device": "cpu", "log_every": 1, "eval_every": 3,
    "save_every": 3,
}  # fmt: skip
TINY = {
    mixture: {"points": 200, "components": 4, "class_components": 2, "hidden": (8,), "batch": 32},
    autoencoder: {"hidden": (16,), "bottleneck": 2, "batch": 16, "shift": 1},
}

NEXT = {mixture: "--label 1 --out points.png", autoencoder: "way 3 7"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of two labels, some sixty different ones each: bars that lie and bars that stand."""
    path = tmp_path_factory.mktemp("pictures")
    for name in ("lying", "standing"):
        (path / name).mkdir()
    for at, width in itertools.product(range(2, 22), (2, 4, 6)):
        picture = torch.zeros(28, 28, dtype=torch.uint8)
        picture[at : at + width, 3:25] = 200 + at
        for name, pixels in (("lying", picture), ("standing", picture.T.contiguous())):
            Image.fromarray(pixels.numpy()).save(path / name / f"{at}-{width}.png")
    return path


def arguments(exp, folder, **values):
    data = {"data": str(folder)} if exp is autoencoder else {}
    return exp.Args(**{**COMMON, **TINY[exp], **data, **values})


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run of six steps without a break of each experiment."""
    found = {}
    for exp in EXPERIMENTS:
        found[exp] = arguments(exp, folder, run=tmp_path_factory.mktemp("run") / exp.NAME)
        exp.train(found[exp])
    return found


# ---- whole runs ----


@pytest.mark.device
@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_a_run_by_command(exp, call, folder):
    values = {**COMMON, **TINY[exp], "steps": 2, "hidden": 8, "run": "here"} | (
        {"data": folder} if exp is autoencoder else {}
    )
    status, out, err = call(
        exp, "small", *(word for k, v in values.items() for word in (f"--{k.replace('_', '-')}", v))
    )
    assert status == 0 and "2/2" in err and "Traceback" not in err
    assert "run: here\n" in out and f"next: just sample {exp.NAME} {NEXT[exp]}\n" in out
    expected = [r"log p\(x\|y\) ( *-\d+\.\d{4}){2}", "Bayes' rule +\\d+"]
    if exp is autoencoder:
        expected = [rf"^{name} +\d\.\d{{5}} +\d+\.\d\d +\d+\.\d %$" for name in ("autoencoder", "PCA")]
    assert all(re.search(line, out, flags=re.MULTILINE) for line in expected)


@pytest.mark.device
@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_what_a_run_leaves(exp, finished):
    path = finished[exp].run
    assert [n for n, _ in checkpoint.steps(path / "checkpoints")] == [3, 6]
    result = json.loads((path / "result.json").read_text())
    assert all(math.isfinite(x) for x in result.values())
    tags = EventAccumulator(str(path), size_guidance={"images": 0}).Reload().Tags()
    assert {"train/loss", "grad/norm", *(f"final/{name}" for name in result)} <= set(tags["scalars"])
    pictures = {mixture: {"densities"}, autoencoder: {"reconstruction", "interpolation", "codes"}}[exp]
    assert {f"samples/{name}" for name in pictures} == set(tags["images"])


# ---- the step ----


def started(exp, args):
    """(step, state, data) of a small problem."""
    if exp is mixture:
        true = truth("pinwheel")
        return exp.init_state(random.key(1), args, 3), exp.made(random.key(2), true, args.points)
    pixels = random.randint(random.key(2), (100, 1, 28, 28), 0, 256).to(torch.uint8)
    return exp.init_state(random.key(1), args), Images(pixels, torch.zeros(100, dtype=torch.int64))


@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_the_step_is_one_graph_and_equals_eager(exp, folder):
    args = arguments(exp, folder)
    state, data = started(exp, args)
    same = tree.map(torch.clone, state)
    step = partial(exp.step, args=args, dtype=torch.float32)
    torch._dynamo.reset()
    counters.clear()
    compiled = jit(step, backend="aot_eager")
    for index in itertools.islice(batches.numbers(random.key(3), len(data.labels), args.batch), 3):
        state, out = step(state, index, data)
        same, again = compiled(same, index, data)
        torch.testing.assert_close([*again.values()], [*out.values()], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tree.leaves(same), tree.leaves(state), atol=1e-5, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1 and counters["graph_break"] == {}
    torch._dynamo.reset()


@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_replicas_are_one_step_mapped(exp, folder):
    args = arguments(exp, folder)
    _, data = started(exp, args)
    init = partial(exp.init_state, args=args, **({"classes": 3} if exp is mixture else {}))
    states = [init(key) for key in random.split(random.key(5), 2)]
    step = partial(exp.step, args=args, dtype=torch.float32)
    index = torch.arange(args.batch)
    both, _ = torch.vmap(step, in_dims=(0, None, None))(tree.stack(states), index, data)
    alone = tree.stack([step(state, index, data)[0] for state in states])
    torch.testing.assert_close(tree.leaves(both), tree.leaves(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_a_gradient_reaches_every_leaf(exp, folder):
    args = arguments(exp, folder)
    before, data = started(exp, args)
    after, _ = exp.step(before, torch.arange(args.batch), data, args=args, dtype=torch.float32)
    for path, moment in tree.flatten(after.opt.mu).items():
        assert moment.abs().sum() > 0, path
    assert before.step == 0 and after.step == 1


@pytest.mark.parametrize("exp", EXPERIMENTS)
@pytest.mark.parametrize("preset", ["small", "book", "best"])
def test_presets_construct(exp, preset):
    args = exp.PRESETS[preset]
    state = exp.init_state(random.key(0), args, *([2] if exp is mixture else []))
    if exp is autoencoder and preset == "book":
        assert tree.size(state.params) == 322_804  # as published
    assert 0 < args.eval_every <= args.steps and 0 < args.save_every <= args.steps


# ---- mixtures ----


def by_torch(p):
    """The mixture as torch.distributions has it."""
    components = distributions.MultivariateNormal(p["mean"], scale_tril=mixture.factor(p))
    return distributions.MixtureSameFamily(distributions.Categorical(logits=p["logits"]), components)


def scattered(key, k=5):
    """A mixture whose every parameter differs."""
    shapes = mixture.mixture_init(key, k)
    keys = random.split(key, 3)
    return {
        name: leaf + 0.5 * random.normal(k, tuple(leaf.shape))
        for k, (name, leaf) in zip(keys, shapes.items(), strict=True)
    }


def test_log_density_is_that_of_torch_distributions(key):
    p, x = scattered(key), 2 * random.normal(random.key(1), (50, 2))
    torch.testing.assert_close(mixture.log_density(p, x), by_torch(p).log_prob(x))


def test_the_joint_is_likelihood_times_prior(key):
    params = {
        "conditional": tree.stack([scattered(k) for k in random.split(key, 3)]),
        "prior": torch.tensor([1.0, 0.0, -2.0]),
    }
    x = random.normal(random.key(1), (50, 2))
    columns = [by_torch(p).log_prob(x) for p in tree.unstack(params["conditional"])]
    expected = torch.stack(columns, 1) + params["prior"].log_softmax(0)
    torch.testing.assert_close(mixture.log_joint(params, x), expected)


@pytest.mark.parametrize("data", ["pinwheel", "pair"])
def test_the_true_density_integrates_to_one(data):
    side = torch.linspace(-9, 9, 400)
    joint = mixture.log_joint(truth(data), torch.cartesian_prod(side, side))
    mass = joint.exp().sum(0) * float(side[1] - side[0]) ** 2
    torch.testing.assert_close(mass, truth(data)["prior"].exp(), atol=1e-4, rtol=0)
    assert abs(float(mass.sum()) - 1) < 1e-4


@pytest.mark.parametrize("data", ["pinwheel", "pair"])
def test_points_are_drawn_from_the_true_density(data):
    true = truth(data)
    points = mixture.made(random.key(1), true, 50_000)
    shares = torch.bincount(points.labels) / len(points.labels)
    torch.testing.assert_close(shares, true["prior"].exp(), atol=0.01, rtol=0)
    for y, p in enumerate(tree.unstack(true["conditional"])):
        x, torchs = points.x[points.labels == y], by_torch(p)
        torch.testing.assert_close(x.mean(0), torchs.mean, atol=0.05, rtol=0)
        torch.testing.assert_close(x.var(0), torchs.variance, atol=0.1, rtol=0)
    error = (mixture.log_joint(true, points.x).argmax(1) != points.labels).float().mean()
    assert 0.02 < error < 0.08  # no classifier errs less


@pytest.mark.device
def test_points_as_a_user(finished, call):
    words = ["sample", "--run", finished[mixture].run]
    status, out, _ = call(mixture, *words, "--n", 5)
    rows = out.splitlines()
    assert status == 0 and rows[0] == "x1,x2,log p(x)" and len(rows) == 6
    assert call(mixture, *words, "--n", 5)[1] == out != call(mixture, *words, "--n", 5, "--seed", 1)[1]
    x1, x2, log_p = rows[1].split(",")
    status, out, _ = call(mixture, "sample", "score", "--run", finished[mixture].run, x1, x2)
    assert status == 0 and abs(float(out.split()[2]) - float(log_p)) < 1e-3
    assert len(out.splitlines()) == 5  # a line a class
    told = call(mixture, *words, "--label", 2, "--n", 7, "--out", "a.csv")
    assert told[0] == 0 and re.fullmatch(r"a\.csv: 7 points, mean log p\(x\|y=2\) -\d+\.\d{4}\n", told[1])
    assert len(Path("a.csv").read_text().splitlines()) == 8 and "y=2" in Path("a.csv").read_text()
    assert call(mixture, *words, "--out", "a.png")[0] == 0 and Image.open("a.png").size[0] > 300


# ---- the autoencoder ----


def test_pca_is_the_singular_value_decomposition(key):
    x = random.normal(key, (40, 1, 28, 28)) * torch.linspace(0, 1, 28) + 3
    flat = x.flatten(1)
    base = autoencoder.pca(x, 3)
    u, s, v = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    best = flat.mean(0) + u[:, :3] * s[:3] @ v[:3]
    torch.testing.assert_close(base.decode(base.encode(x)), best.view_as(x), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(base.axes.T @ base.axes, torch.eye(3), atol=1e-4, rtol=0)
    variances = base.encode(x).var(0)
    torch.testing.assert_close(variances, s[:3].square() / 39, atol=1e-3, rtol=1e-4)  # the largest first


def test_the_probe_finds_what_is_linear(key):
    codes = random.normal(key, (400, 3)) * torch.tensor([1.0, 100.0, 0.01]) + 5
    labels = (codes[:, 0] > 5).long()
    assert autoencoder.probe(codes[:300], labels[:300], codes[300:], labels[300:]) > 0.95
    coin = random.bernoulli(random.key(1), 0.5, (400,)).long()
    assert autoencoder.probe(codes[:300], coin[:300], codes[300:], coin[300:]) < 0.7


def test_labels_take_turns():
    data = Images(torch.arange(7).view(-1, 1, 1, 1), torch.tensor([0, 0, 0, 1, 2, 2, 0]))
    turned = autoencoder.in_turn(data)
    assert turned.labels.tolist() == [0, 1, 2, 0, 2, 0, 0]
    assert turned.pixels.flatten().tolist() == [0, 3, 4, 1, 5, 2, 6]


@pytest.mark.device
def test_pictures_as_a_user(finished, folder, call):
    run = ["--run", finished[autoencoder].run]
    for more, name, columns, rows in (
        ([], "reconstruction.png", 10, 2),
        (["reconstruct", "0", "1", "2"], "reconstruction.png", 3, 2),
        (["way"], "interpolation.png", 10, 1),
        (["way", "3", folder / "lying" / "5-4.png"], "interpolation.png", 10, 1),
        (["decode", "0.1", "-2"], "code.png", 1, 1),
        (["reconstruct", "1", "--out", "a.png"], "a.png", 1, 2),
    ):
        status, out, err = call(autoencoder, "sample", *more, *run)
        assert status == 0 and out == f"{name}\n", err
        assert Image.open(name).size == (4 * (30 * columns + 2), 4 * (30 * rows + 2))
    status, out, _ = call(autoencoder, "sample", "reconstruct", *run, folder / "lying" / "5-4.png")
    code = out.splitlines()[0].split()
    assert status == 0 and len(code) == 2
    first = Path("reconstruction.png").read_bytes()
    assert call(autoencoder, "sample", "decode", *run, *code)[0] == 0
    decoded, reconstructed = (Image.open(name).convert("L") for name in ("code.png", "reconstruction.png"))
    below = reconstructed.crop((0, 30 * 4, *reconstructed.size))
    worst = max(abs(a - b) for a, b in zip(decoded.tobytes(), below.tobytes(), strict=True))
    assert first and worst <= 1  # decoding a picture's code is reconstructing it


@pytest.mark.parametrize(
    ("exp", "words", "message"),
    [
        (mixture, ["--label", "3"], "the labels are 0 to 2"),
        (mixture, ["--label", "-1"], "the labels are 0 to 2"),
        (mixture, ["--out", "no/such/folder/a.csv"], "a.csv"),
        (mixture, ["--out", "a.docx"], "a.docx"),
        (autoencoder, ["decode", "1"], "a code of 1 numbers: this run's codes have 2"),
        (autoencoder, ["decode"], "a code of 0 numbers: this run's codes have 2"),
        (autoencoder, ["reconstruct", "0", "999"], "picture 999: the held-out pictures are 0 to"),
        (autoencoder, ["way", "-1", "3"], "cannot read -1"),
        (autoencoder, ["reconstruct", "missing.png"], "cannot read missing.png"),
        (autoencoder, ["decode", "1", "2", "--out", "a.docx"], "a.docx"),
    ],
)
def test_what_cannot_be_done_is_said(exp, words, message, finished, call):
    status, _, err = call(exp, "sample", *words, "--run", finished[exp].run)
    assert status in (1, 2) and message in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("exp", "words", "message"),
    [
        (mixture, ["--n", "0"], "--n must be at least 1"),
        (mixture, ["score", "1"], "Missing argument"),
        (autoencoder, ["way", "1"], "tuple"),
    ],
)
def test_a_wrong_command_line_is_told(exp, words, message, finished, call):
    status, _, err = call(exp, "sample", *words, "--run", finished[exp].run)
    assert status == 2 and message in err and "Traceback" not in err


def test_unknown_data_is_told_before_a_run_begins(call):
    for exp in EXPERIMENTS:
        status, _, err = call(exp, "--data", "nonsense", "--run", "here")
        assert status == 1 and "nonsense" in err and not Path("here").exists()
