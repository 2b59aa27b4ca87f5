"""Points on a curve with a GAN: 1.08^x, a sine, or any formula (Goodfellow et al. 2014, on the smallest data there is).

What it shows: the book's GAN leaves 3 % of its points outside [0, 50], with a median squared error of .024. A gradient
penalty, a falling learning rate and an averaged generator give 99.8 % inside, an error of .0012, and every tenth of
[0, 50] within 8 % of its share of 10,000 points, after a minute on two CPU cores (RESULTS.md).
`just run exp_gan_curve --formula "sqrt(x)"`, then `just sample exp_gan_curve --n 200 --out points.png`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from lib import diagnose, gan, nn, optim, parallel, random, run, tree
from lib.answers import Answer, Picture, Table
from lib.data import formula as formulas
from lib.faults import RunError
from lib.random import Key
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
LOW, HIGH = 0.0, 50.0  # x is uniform between them


@dataclass(frozen=True)
class Args(run.Args):
    """Train a GAN on points (x, f(x)), x uniform in [0, 50]."""

    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Number format; auto is fp32, since points are to lie within a hundredth of the curve's height."""
    formula: str = "exponential"
    """exponential (1.08 ** x), sine (sin(x / 8), one wave) or a formula: + - * / ** sin cos exp log sqrt abs tanh."""
    points: run.Natural = 0
    """Size of a fixed training set; 0: fresh points at every step."""
    latent: run.Count = 2
    """Size of z, standard normal."""
    generator: tuple[run.Count, ...] = (64, 64)
    """Widths of the generator's hidden layers."""
    discriminator: tuple[run.Count, ...] = (128, 128)
    """Widths of the discriminator's hidden layers."""
    frequencies: run.Natural = 4
    """The discriminator also sees sines and cosines at so many octaves, from one radian per standard deviation on."""
    slope: run.Amount = 0.2
    """Slope of the leaky ReLUs below 0."""
    dropout: run.Fraction = 0.0
    """Share of the discriminator's activations that is dropped in training."""
    r1: run.Amount = 0.1
    """Weight of the gradient penalty at real points (Mescheder et al. 2018)."""
    batch: run.Count = 512
    """Points of a batch."""
    lr: run.Amount = 2e-3
    """Learning rate of both networks."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes: along half a cosine to 0, or constant."""
    betas: tuple[run.Fraction, run.Fraction] = (0.0, 0.99)
    """Decays of Adam's two moments, for both networks."""
    ema_decay: run.Fraction = 0.995
    """Decay of the averaged generator that is used; 0: the generator itself."""


PRESETS: dict[str, run.Args] = {
    # A step is 13 ms eager and 6 compiled on one core: a cold compilation would take longer than it gains.
    "small": Args(steps=2500, compile="off", eval_every=250, save_every=500, log_every=50),
    # Chapter 3: 2,048 points, 658 and 41,985 parameters, dropout, 10,000 epochs of 16 batches (drawn with replacement);
    # no early stopping, which looks at no more than the last batch.
    "book": Args(
        steps=160_000, points=2048, generator=(16, 32), discriminator=(256, 128, 64), frequencies=0, slope=0.0,
        dropout=0.3, r1=0.0, batch=128, lr=5e-4, schedule="constant", betas=(0.9, 0.999), ema_decay=0.0, log_every=400,
        eval_every=8000, save_every=8000,
    ),
    "best": Args(
        steps=20_000, generator=(256, 256, 256), discriminator=(512, 512, 512), frequencies=6, batch=4096, lr=1e-3,
        ema_decay=0.999, eval_every=1000, save_every=2000, log_every=100,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----


class Curve(NamedTuple):
    """The data: y = f(x) with the mean and the standard deviation of (x, y), by which the networks see it scaled."""

    f: Callable[[Tensor], Tensor]
    mean: tuple[float, float]
    std: tuple[float, float]


def curve(formula: str) -> Curve:
    """Raises RunError where the formula is not understood or not finite somewhere on [0, 50]."""
    f, x = formulas.parse(formula), torch.linspace(LOW, HIGH, 10_001)
    y = f(x)
    if len(bad := (~y.isfinite()).nonzero()):
        at, value = float(x[bad[0]]), float(y[bad[0]])
        raise RunError(f"--formula {formula!r} is {value} at x = {at:g}: it must be finite on [0, 50]")
    (mean_x, std_x), (mean_y, std_y) = ((float(v.double().mean()), float(v.double().std())) for v in (x, y))
    return Curve(f, (mean_x, mean_y), (std_x, std_y if std_y > 1e-6 else 1.0))


class TrainState(NamedTuple):
    params: gan.Pair
    opt: gan.Pair
    ema: Tree  # averaged parameters of the generator
    x: Float[Tensor, "n"]  # of the fixed training set; empty where points are fresh
    key: Key
    step: Int[Tensor, ""]


def network(params: Tree, x: Float[Tensor, "... d"], key: Key | None = None, *, args: Args) -> Float[Tensor, "... f"]:
    """Dense layers in the dtype of --precision."""
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    leaky = partial(F.leaky_relu, negative_slope=args.slope)
    return nn.mlp(tree.cast(params, dtype), x.to(dtype), key, activation=leaky, dropout=args.dropout).float()


def real_points(key: Key, fixed: Float[Tensor, "n"], *, args: Args, curve: Curve) -> Float[Tensor, "b 2"]:
    """Points of the curve, scaled."""
    n = parallel.rows(args.batch)
    if args.points:
        x = fixed[random.randint(key, (n,), 0, args.points)]
    else:
        x = random.uniform(key, (n,), LOW, HIGH)
    (mean_x, mean_y), (std_x, std_y) = curve.mean, curve.std
    return torch.stack([(x - mean_x) / std_x, (curve.f(x) - mean_y) / std_y], dim=-1)


def generate(params: Tree, z: Float[Tensor, "b z"], *, args: Args) -> Float[Tensor, "b 2"]:
    """Scaled points."""
    return network(params, z, args=args)


def discriminate(params: Tree, u: Float[Tensor, "b 2"], key: Key | None = None, *, args: Args) -> Float[Tensor, "b"]:
    """Logits of being real, for scaled points."""
    waves = [wave for i in range(args.frequencies) for wave in ((2**i * u).sin(), (2**i * u).cos())]
    return network(params, torch.cat([u, *waves], dim=-1), key, args=args).squeeze(-1)


def discriminator_loss(
    params: Tree, real: Float[Tensor, "b 2"], fake: Float[Tensor, "b 2"], key: Key | None = None, *, args: Args
) -> Float[Tensor, ""]:
    """The GAN's loss and R1."""
    k_real, k_fake = random.split(key)
    reals, penalty = gan.r1(lambda u: discriminate(params, u, k_real, args=args), real, args.r1)
    return gan.bce_discriminator(reals, discriminate(params, fake, k_fake, args=args)) + penalty


def generator_loss(
    params: Tree, discriminator: Tree, z: Float[Tensor, "b z"], key: Key | None = None, *, args: Args
) -> Float[Tensor, ""]:
    return gan.bce_generator(discriminate(discriminator, generate(params, z, args=args), key, args=args))


def objectives(state: TrainState, args: Args) -> dict[str, diagnose.Loss]:
    """Each network's loss on (real points, latents) against the other as it is, without dropout."""

    def d_loss(d: Tree, examples: tuple[Tensor, Tensor]) -> Tensor:
        return discriminator_loss(d, examples[0], generate(state.params.g, examples[1], args=args), args=args)

    def g_loss(g: Tree, examples: tuple[Tensor, Tensor]) -> Tensor:
        return generator_loss(g, state.params.d, examples[1], args=args)

    return {"params.d": d_loss, "params.g": g_loss}


def optimizer(args: Args) -> optim.Optimizer:
    adam = optim.adam(optim.cosine(args.lr, args.steps) if args.schedule == "cosine" else args.lr, args.betas)
    return parallel.shard_optimizer(adam, args.shard_optimizer)


def init_state(key: Key, args: Args) -> TrainState:
    k_g, k_d, k_x, k_train = random.split(key, 4)
    g = nn.mlp_init(k_g, (args.latent, *args.generator, 2))
    d = nn.mlp_init(k_d, (2 + 4 * args.frequencies, *args.discriminator, 1))
    init, ema = optimizer(args).init, tree.map(torch.clone, g)
    x = random.uniform(k_x, (args.points,), LOW, HIGH)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(gan.Pair(g, d), gan.Pair(init(g), init(d)), ema, x, k_train, step)


def step(state: TrainState, *, args: Args, curve: Curve) -> tuple[TrainState, dict[str, Tensor]]:
    """One update of the discriminator, then one of the generator, each with latents of its own."""
    keys, adam, n = random.split(random.fold_in(state.key, state.step), 5), optimizer(args), parallel.rows(args.batch)
    real = real_points(keys[0], state.x, args=args, curve=curve)
    g, d = state.params
    fake = generate(g, random.normal(keys[1], (n, args.latent)), args=args)
    d_loss = value_and_grad(partial(discriminator_loss, args=args))
    loss_d, grads_d = parallel.mean(d_loss(d, real, fake, keys[2]))
    d, opt_d = adam.update(grads_d, state.opt.d, d)

    g_loss, z = value_and_grad(partial(generator_loss, args=args)), random.normal(keys[3], (n, args.latent))
    loss_g, grads_g = parallel.mean(g_loss(g, d, z, keys[4]))
    g, opt_g = adam.update(grads_g, state.opt.g, g)
    ema = optim.ema(state.ema, g, args.ema_decay, state.step)
    out = {"train/loss_d": loss_d, "train/loss_g": loss_g}
    out |= {"grad/norm_d": tree.global_norm(grads_d), "grad/norm_g": tree.global_norm(grads_g)}
    return TrainState(gan.Pair(g, d), gan.Pair(opt_g, opt_d), ema, state.x, state.key, state.step + 1), out


# ---- training: plumbing ----


@torch.no_grad()
def draw(params: Tree, key: Key, n: int, args: Args, curve: Curve) -> Float[Tensor, "n 2"]:
    """n points (x, y)."""
    u = generate(params, random.normal(key, (n, args.latent)), args=args).cpu()
    return u * torch.tensor(curve.std) + torch.tensor(curve.mean)


def metrics(points: Float[Tensor, "n 2"], curve: Curve) -> dict[str, float]:
    """Share of points with x in [0, 50]; median of (y - f(x))^2 over them; the largest relative deviation of a tenth of
    [0, 50] from its tenth of the points; and how many of the tenths have at least a tenth of theirs."""
    x, y = points.double().unbind(-1)
    inside = (x >= LOW) & (x <= HIGH)
    errors = (y - curve.f(x)).square()[inside]
    shares = torch.histc(x[inside], 10, LOW, HIGH) / len(x) * 10  # in units of the due share
    return {
        "inside": float(inside.double().mean()),
        "median_squared_error": float(errors.median()) if len(errors) else float("inf"),
        "coverage": float((shares - 1).abs().max()),
        "modes": float((shares >= 0.1).sum()),
    }


def scatter(points: Float[Tensor, "n 2"], curve: Curve) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    x = torch.linspace(LOW, HIGH, 501)
    axes.plot(x, curve.f(x), color="tab:orange", label="curve")
    axes.scatter(points[:, 0], points[:, 1], s=4, color="tab:blue", label="generated", zorder=2)
    axes.legend()
    return figure


def describe(result: dict[str, float]) -> str:
    return (
        f"{100 * result['inside']:.2f} % of x in [0, 50], median squared error {result['median_squared_error']:.5f}, "
        f"tenths of [0, 50] within {100 * result['coverage']:.1f} % of their share"
    )


def train(args: Args) -> None:
    data = curve(args.formula)
    here = run.Run(args, NAME, Path(__file__), unit="points", minimise="val/median_squared_error")
    state = here.start(init_state)
    print(f"{args.formula}; {here.device}", tree.table(state.params, depth=1), sep="\n")
    update = here.compile(step, curve=data)

    for n in here.progress():
        state, out = update(state)
        here.record(n, state, out, units=args.batch * len(here.members))
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                show(one, n + 1, draw(s.ema, here.show_key, 10_000, args, data), data)
        for one, before, after, _ in here.diagnosed(n, state, ()):
            real, losses = real_points(here.show_key, after.x, args=args, curve=data), objectives(after, args)
            examples = real, random.normal(here.show_key, (args.batch, args.latent))
            worst = real[diagnose.report(one, n + 1, before, after, losses, examples)[:8]].cpu()
            rows = [f"({x:.2f}, {y:.2f})" for x, y in worst * torch.tensor(data.std) + torch.tensor(data.mean)]
            one.writer.add_text("diagnose/surprising", "\n\n".join(rows), n + 1)
    if not here.evaluates(state):
        return
    results = [metrics(draw(s.ema, here.show_key, 10_000, args, data), data) for _, s in here.each(state)]
    here.finish([(result, [describe(result)]) for result in results], "--n 200 --out points.png")


def show(here: run.Place, n: int, points: Float[Tensor, "n 2"], curve: Curve) -> None:
    """Scores and a picture at fixed latents; says so where points have (almost) left a tenth of [0, 50]."""
    result = metrics(points, curve)
    here.log(n, {f"val/{name}": value for name, value in result.items()})
    here.writer.add_figure("samples/points", scatter(points[:1000], curve), n)
    collapsed = f"mode collapse, {result['modes']:.0f} of 10 tenths: " if result["modes"] < 10 else ""
    here.write(f"step {n}: {collapsed}{describe(result)}")


# ---- using a run ----


class Model(NamedTuple):
    ema: Tree
    args: Args


def load(path: Path, args: Args) -> Model:
    return Model(run.load(path, init_state(random.key(0), args).ema, "ema"), args)


@dataclass(frozen=True)
class Use(run.Use):
    """Generate points with the latest finished run."""

    n: run.Count = 200
    """How many points."""
    out: run.NewFile | None = None
    """Where to save them: points.csv, or a picture: points.png; standard output if not given."""
    seed: run.Seed = 0
    """Decides what is generated."""


def answers(use: Use, model: Model) -> Iterator[Answer]:
    ema, args = model
    data = curve(args.formula)
    points = draw(ema, random.key(use.seed), use.n, args, data)
    if use.out and use.out.suffix.lower() != ".csv":
        yield Picture(scatter(points, data), use.out, caption=None)
    else:
        rows = [(x, y) for x, y in points.tolist()]
        yield Table(("x", "y"), rows, "{:.6g},{:.6g}", head="x,y", file=use.out)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
