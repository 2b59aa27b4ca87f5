"""Points in the plane under three models: p(x), a mixture of Gaussians; p(x|y), one a class; p(y|x), a classifier.

What it shows: held-out log-likelihoods within 0.01 nats of the true density, which is known, and a classifier by Bayes'
rule from p(x|y) p(y) as good as the discriminative one: 95.3 %, which is the true density's own. 23 s of CPU time.
`just run exp_mixture_points`, then `just sample exp_mixture_points --label 2 --out points.png`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tyro.conf import Positional

from lib import diagnose, nn, optim, parallel, random, run, tree
from lib.answers import Answer, Picture, Table, Text
from lib.data import batches
from lib.data.points import truth
from lib.faults import RunError
from lib.random import Key
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
COLOURS = torch.tensor([[0.12, 0.47, 0.71], [0.84, 0.35, 0.10], [0.17, 0.60, 0.33]])  # of the classes
EDGE = 4.5  # pictures show [-EDGE, EDGE] both ways
SIDE = torch.linspace(-EDGE, EDGE, 200)
GRID = torch.cartesian_prod(SIDE, SIDE).flip(1)  # row by row


@dataclass(frozen=True)
class Args(run.Args):
    """Fit the densities p(x) and p(x|y) and the classifier p(y|x) to the same points."""

    data: str = "pinwheel"
    """Which points: pinwheel, three arms of five Gaussians each, or pair, two classes of one Gaussian each."""
    points: run.Count = 20_000
    """How many training points; there are as many for validation, and for the test."""
    components: run.Count = 24
    """How many Gaussians p(x) has."""
    class_components: run.Count = 8
    """How many Gaussians each p(x|y) has."""
    hidden: tuple[run.Count, ...] = (64, 64)
    """Widths of the classifier's hidden layers."""
    batch: run.Count = 512
    """Points of a batch."""
    lr: run.Amount = 2e-2
    """Peak learning rate: a warm-up of a twentieth of the run, then half a cosine to 0."""


# A step takes 8 ms eager on a CPU: small and book end before a compilation would have paid.
PRESETS: dict[str, run.Args] = {
    "small": Args(steps=2000, eval_every=1000, save_every=1000, compile="off", precision="fp32"),
    # The book has no such model. This is the textbooks' case: two classes, a Gaussian each (Bayes' rule is then a
    # quadratic discriminant), and p(x) a mixture of two.
    "book": Args(
        steps=1000, data="pair", points=2000, components=2, class_components=1, hidden=(16,), batch=256,
        eval_every=250, compile="off", precision="fp32",
    ),
    "best": Args(
        steps=20_000, points=500_000, components=32, class_components=12, hidden=(128, 128, 128), batch=4096,
        eval_every=1000, save_every=5000, log_every=100, precision="fp32",
    ),
}  # fmt: skip


class Points(NamedTuple):
    x: Float[Tensor, "n d"]
    labels: Int[Tensor, "n"]


# ---- model and loss: edit here ----
#
# A mixture of k Gaussians is {"logits": k, "mean": k d, "cholesky": k d d}. Row by row "cholesky" is the factor L of
# the covariance L L^T below the diagonal and log L on it, so that every tree is a density.


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    step: Int[Tensor, ""]


def mixture_init(key: Key, k: int, d: int = 2) -> Tree:
    """{"logits": (k), "mean": (k, d), "cholesky": (k, d, d)}: round components of equal weight, scattered as widely as
    the points are."""
    mean = 1.5 * random.normal(key, (k, d))
    cholesky = math.log(0.5) * torch.eye(d, device=key.device).repeat(k, 1, 1)
    return {"logits": torch.zeros(k, device=key.device), "mean": mean, "cholesky": cholesky}


def factor(p: Tree) -> Float[Tensor, "k d d"]:
    """L of every component."""
    return p["cholesky"].tril(-1) + torch.diag_embed(p["cholesky"].diagonal(dim1=-2, dim2=-1).exp())


def log_density(p: Tree, x: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """log sum_k w_k N(x; m_k, L_k L_k^T), in nats."""
    offset = rearrange(x, "b d -> 1 d b") - rearrange(p["mean"], "k d -> k d 1")
    z = torch.linalg.solve_triangular(factor(p), offset, upper=False)
    log_det = p["cholesky"].diagonal(dim1=-2, dim2=-1).sum(-1)
    constant = p["logits"].log_softmax(0) - log_det - 0.5 * x.shape[1] * math.log(2 * math.pi)
    return (rearrange(constant, "k -> k 1") - 0.5 * z.square().sum(1)).logsumexp(0)


def draw(key: Key, p: Tree, n: int) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]:
    """n points m + L z of a mixture, and which component each is of."""
    k_component, k_normal = random.split(key)
    component = random.categorical(k_component, p["logits"].expand(n, -1))
    z = random.normal(k_normal, (n, p["mean"].shape[1]))
    return p["mean"][component] + einsum(factor(p)[component], z, "n d e, n e -> n d"), component


def init(key: Key, args: Args, classes: int) -> Tree:
    """p(x) as "marginal", p(x|y) as "conditional" (a mixture with a first axis of classes), log p(y) as "prior", and
    p(y|x) as "classifier"."""
    k_marginal, k_conditional, k_classifier = random.split(key, 3)
    mixtures = [mixture_init(k, args.class_components) for k in random.split(k_conditional, classes)]
    return {
        "marginal": mixture_init(k_marginal, args.components),
        "conditional": tree.stack(mixtures),
        "prior": torch.zeros(classes, device=key.device),
        "classifier": nn.mlp_init(k_classifier, (2, *args.hidden, classes)),
    }


def log_joint(p: Tree, x: Float[Tensor, "b d"]) -> Float[Tensor, "b y"]:
    """log p(x|y) + log p(y) for every class y. Its softmax is Bayes' rule, p(y|x)."""
    likelihood = torch.vmap(log_density, in_dims=(0, None), out_dims=1)(p["conditional"], x)
    return likelihood + p["prior"].log_softmax(0)


def logits(p: Tree, x: Float[Tensor, "b d"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b y"]:
    """Those of the classifier. Only it is computed in `dtype`: densities of narrow Gaussians need fp32."""
    return nn.mlp(tree.cast(p["classifier"], dtype), x.to(dtype)).float()


def loss(params: Tree, batch: Points, *, dtype: torch.dtype) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """-log p(x) - log p(x, y) - log p(y|x) in nats, the mean over points. The three share no parameter, so minimising
    the sum fits each by maximum likelihood."""
    terms = {
        "marginal": -log_density(params["marginal"], batch.x).mean(),
        "joint": -log_joint(params, batch.x).gather(1, batch.labels[:, None]).mean(),
        "discriminative": F.cross_entropy(logits(params, batch.x, dtype), batch.labels),
    }
    return terms["marginal"] + terms["joint"] + terms["discriminative"], terms


def optimizer(args: Args) -> optim.Optimizer:
    adam = optim.adam(optim.cosine(args.lr, args.steps, args.steps // 20))
    return parallel.shard_optimizer(adam, args.shard_optimizer)


def init_state(key: Key, args: Args, classes: int) -> TrainState:
    params = init(key, args, classes)
    return TrainState(params, optimizer(args).init(params), torch.zeros((), dtype=torch.int32, device=key.device))


def step(
    state: TrainState, index: Int[Tensor, "b"], data: Points, *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update on the points `index`."""
    batch = Points(data.x[index], data.labels[index])
    objective = value_and_grad(partial(loss, dtype=dtype), has_aux=True)
    (value, terms), grads = parallel.mean(objective(state.params, batch))
    params, opt = optimizer(args).update(grads, state.opt, state.params)
    out = {"train/loss": value, **{f"train/{name}": term for name, term in terms.items()}}
    return TrainState(params, opt, state.step + 1), {**out, "grad/norm": tree.global_norm(grads)}


# ---- training: plumbing ----


def made(key: Key, p: Tree, n: int) -> Points:
    """Points of sum_y p(y) p(x|y), drawn as from one mixture whose component i belongs to class i // k."""
    weights = p["prior"].log_softmax(0)[:, None] + p["conditional"]["logits"].log_softmax(1)
    x, component = draw(key, tree.map(lambda leaf: leaf.flatten(0, 1), {**p["conditional"], "logits": weights}), n)
    return Points(x, component // weights.shape[1])


@torch.no_grad()
def measure(params: Tree, true: Tree, data: Points) -> dict[str, float]:
    """Mean log-likelihood in nats per point, of the models and of the truth, and accuracy of the three classifiers."""
    joint, true_joint = log_joint(params, data.x), log_joint(true, data.x)
    values = {"log_px": log_density(params["marginal"], data.x), "log_px_true": true_joint.logsumexp(1)}
    for end, p, scores in (("", params, joint), ("_true", true, true_joint)):
        values["log_px_given_y" + end] = (scores - p["prior"].log_softmax(0)).gather(1, data.labels[:, None])
    for name, scores in (("bayes_rule", joint), ("discriminative", logits(params, data.x)), ("true", true_joint)):
        values[f"accuracy_{name}"] = scores.argmax(1) == data.labels
    return {name: float(value.float().mean()) for name, value in values.items()}


def train(args: Args) -> None:
    true = truth(args.data)
    here = run.Run(args, NAME, Path(__file__), unit="points", minimise="val/loss")
    true = tree.to(true, here.device)
    # The same points for every seed, from a key that no seed is likely to be.
    data, val, test = (made(k, true, args.points) for k in random.split(random.key(1 << 32, here.device), 3))
    state = here.start(init_state, classes=len(true["prior"]))
    print(tree.table(state.params, depth=1))
    update = here.compile(step, dtype=here.dtype)
    order = here.batches(partial(batches.numbers, n=args.points, size=args.batch))

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                values = {"loss": float(loss(s.params, val, dtype=here.dtype)[0]), **measure(s.params, true, val)}
                one.log(n + 1, {f"val/{name}": value for name, value in values.items()})
                one.writer.add_figure("samples/densities", picture(s.params, true, val), n + 1)
        for one, before, after, i in here.diagnosed(n, state, index):
            examples = Points(data.x[i], data.labels[i])
            plain = lambda p, batch: loss(p, batch, dtype=torch.float32)[0]  # noqa: E731
            worst = diagnose.report(one, n + 1, before, after, {"params": plain}, examples)[:8]
            rows = [f"({x:.2f}, {y:.2f}) of class {k}" for (x, y), k in zip(*tree.index(examples, worst), strict=True)]
            one.writer.add_text("diagnose/surprising", "\n\n".join(rows), n + 1)
    if not here.evaluates(state):
        return
    here.finish([score(s.params, true, test) for _, s in here.each(state)], "--label 1 --out points.png")


def score(params: Tree, true: Tree, test: Points) -> tuple[dict[str, float], list[str]]:
    """What `measure` finds on the test points, and the lines to print."""
    result = measure(params, true, test)
    lines = [f"{len(test.labels):,} test points{'model':>14}{'truth':>9}{'gap':>9}"]
    for name, key in (("nats, log p(x)", "log_px"), ("nats, log p(x|y)", "log_px_given_y")):
        model, best = result[key], result[f"{key}_true"]
        lines.append(f"{name:<23}{model:9.4f}{best:9.4f}{best - model:9.4f}")
    for name, key in (("Bayes' rule", "bayes_rule"), ("discriminative", "discriminative"), ("truth", "true")):
        lines.append(f"accuracy, {name:<15}{100 * result[f'accuracy_{key}']:7.2f} %")
    return result, lines


def contours(axes: Axes, log_p: Float[Tensor, "n"], colour: str | list[float] = "black") -> None:
    """Lines of a density over the grid, each four times as high as the next one outside it."""
    levels = [math.log(0.3 * 4**-i) for i in range(6, -1, -1)]
    side, square = SIDE.numpy(), log_p.view(len(SIDE), len(SIDE)).numpy()
    axes.contour(side, side, square, levels, colors=[colour], linewidths=0.7, linestyles="solid")


@torch.no_grad()
def picture(params: Tree, true: Tree, data: Points) -> Figure:
    """Above: contours of the true p(x), of the model's and of the model's p(x|y), over points. Below: p(y|x) as a
    blend of colours, in truth, by Bayes' rule and of the classifier."""
    params, true, data = (tree.to(part, "cpu") for part in (params, true, Points(data.x[:2000], data.labels[:2000])))
    joint, true_joint = log_joint(params, GRID), log_joint(true, GRID)
    figure = Figure(figsize=(12, 8), layout="constrained")
    above, below = figure.subplots(2, 3, sharex=True, sharey=True)
    for axes in above:
        axes.scatter(*data.x.T.numpy(), s=4, c=COLOURS[data.labels].numpy(), alpha=0.6, linewidths=0)
    contours(above[0], true_joint.logsumexp(1))
    contours(above[1], log_density(params["marginal"], GRID))
    for scores, colour in zip((joint - params["prior"].log_softmax(0)).T, COLOURS * 0.6, strict=False):
        contours(above[2], scores, colour.tolist())
    for axes, scores in zip(below, (true_joint, joint, logits(params, GRID)), strict=True):
        blend = (scores.softmax(1) @ COLOURS[: scores.shape[1]]).view(len(SIDE), len(SIDE), 3)
        axes.imshow(blend.numpy(), origin="lower", extent=(-EDGE, EDGE, -EDGE, EDGE))
    titles = ("true p(x)", "p(x)", "p(x|y)", "true p(y|x)", "p(y|x) by Bayes' rule", "p(y|x), discriminative")
    for axes, title in zip((*above, *below), titles, strict=True):
        axes.set(title=title, aspect="equal", xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE))
    return figure


# ---- using a run ----


def load(path: Path, args: Args) -> Tree:
    return run.load(path, init_state(random.key(0), args, len(truth(args.data)["prior"]))).params


@dataclass(frozen=True)
class Draw(run.Use):
    """Generate points with the latest finished run."""

    n: run.Count = 10
    """How many points."""
    label: int | None = None
    """The class of which p(x|y) is sampled; p(x) if not given."""
    out: run.NewFile | None = None
    """Write the points to this .csv, or draw them with the density's contours (.png); printed if not given."""
    seed: run.Seed = 0
    """Decides what is generated."""


@dataclass(frozen=True)
class Score(run.Use):
    """Say what the densities and the classifier of the latest finished run make of a point."""

    point: Positional[Annotated[tuple[float, float], run.Plane(-EDGE, EDGE, -EDGE, EDGE)]]
    """The point, of which log p(x), log p(x|y) and p(y|x) are printed."""


Use = Draw | Score


@torch.no_grad()
def answers(use: Use, p: Tree) -> Iterator[Answer]:
    """Points, or what is said of one. Raises RunError."""
    match use:
        case Draw():
            yield from generated(use, p)
        case Score():
            x = torch.tensor([use.point])
            joint = log_joint(p, x)[0]
            columns = [joint - p["prior"].log_softmax(0), joint.softmax(0), logits(p, x)[0].softmax(0)]
            rows = [(y, *row) for y, row in enumerate(torch.stack(columns, 1).tolist())]
            names = ("y", "log p(x|y)", "p(y|x) by Bayes rule", "discriminative")
            yield Text(f"log p(x) {float(log_density(p['marginal'], x)):.4f}\n")
            yield Table(names, rows, "{:>3}{:12.4f}{:23.4f}{:16.4f}", head="{:>3}{:>12}{:>23}{:>16}".format(*names))


def generated(use: Draw, p: Tree) -> Iterator[Answer]:
    """Points with their log-density, as a table or a picture. Raises RunError."""
    classes = len(p["prior"])
    if use.label is not None and not 0 <= use.label < classes:
        raise RunError(f"--label {use.label}: the labels are 0 to {classes - 1}")
    mixture = p["marginal"] if use.label is None else tree.map(lambda leaf: leaf[use.label], p["conditional"])
    name = "p(x)" if use.label is None else f"p(x|y={use.label})"
    x, _ = draw(random.key(use.seed), mixture, use.n)
    log_p = log_density(mixture, x)
    if use.out is None or use.out.suffix.lower() == ".csv":
        columns = ("x1", "x2", f"log {name}")
        rows = [tuple(row) for row in torch.cat([x, log_p[:, None]], 1).tolist()]
        yield Table(columns, rows, "{:.4f},{:.4f},{:.4f}", head=",".join(columns), file=use.out)
    else:
        figure = Figure(figsize=(6, 6), layout="constrained")
        axes = figure.subplots()
        axes.plot(*x.T.numpy(), ".", markersize=3)
        contours(axes, log_density(mixture, GRID))
        axes.set(title=name, aspect="equal")
        yield Picture(figure, use.out, caption=None)
    if use.out is not None:
        yield Text(f"{use.out}: {use.n} points, mean log {name} {float(log_p.mean()):.4f}\n")


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
