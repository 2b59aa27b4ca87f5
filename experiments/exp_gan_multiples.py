"""Sequences of ten multiples of k, as one-hot vectors, with a GAN (Goodfellow et al. 2014).

What it shows: the book's generator gives some multiples of 5 a thousand times as often as others. A softmax output
and a discriminator that sees ten numbers at a time, with a gradient penalty, give nothing but multiples, all nearly
equally often (the numbers of one sequence are not quite independent, as the data's are).
`just run exp_gan_multiples --k 7`, then `just sample exp_gan_multiples`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from lib import diagnose, gan, nn, optim, parallel, random, run, tree
from lib.answers import Answer, Table
from lib.random import Key
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
LENGTH, VALUES = 10, 100  # a sequence's numbers, and how many there are to choose from: 0 to 99


@dataclass(frozen=True)
class Args(run.Args):
    """Train a GAN on sequences of ten multiples of k below 100."""

    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Number format; auto is fp32: the networks are so small that bf16 gains nothing."""
    k: Annotated[int, run.Range(2, 50)] = 5
    """The number whose multiples are learnt, 2 to 50."""
    judged: Literal["sequence", "number"] = "sequence"
    """What a latent stands for and the discriminator sees: ten numbers together, or each by itself as in the book,
    where 4 of 20 values were never made: ten together show what is missing (as in PacGAN, Lin et al. 2018)."""
    output: Literal["softmax", "relu"] = "softmax"
    """What the discriminator sees of the generator's logits; relu is the book's. A sequence is their argmax."""
    latent: run.Count = 32
    """Size of z, standard normal."""
    generator: tuple[run.Count, ...] = (128,)
    """Widths of the generator's hidden layers."""
    discriminator: tuple[run.Count, ...] = (128,)
    """Widths of the discriminator's hidden layers."""
    r1: run.Amount = 0.1
    """Weight of the gradient penalty at real sequences (Mescheder et al. 2018)."""
    batch: run.Count = 128
    """Sequences of a batch."""
    lr: run.Amount = 2e-3
    """Learning rate of both networks."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes: along half a cosine to 0, or constant."""
    betas: tuple[run.Fraction, run.Fraction] = (0.0, 0.99)
    """Decays of Adam's two moments, for both networks."""
    slope: run.Amount = 0.2
    """Slope of the leaky ReLUs below 0."""
    ema_decay: run.Fraction = 0.99
    """Decay of the averaged generator that is used; 0: the generator itself."""


PRESETS: dict[str, run.Args] = {
    # Eager: a cold compilation would take longer than it gains.
    "small": Args(steps=1500, compile="off", eval_every=250, save_every=500, log_every=50),
    # Chapter 3: one linear layer each (101 and 10,100 parameters), sequences one at a time, every number seen by
    # itself; no early stopping, which its generator's collapse would please.
    "book": Args(
        steps=10_000, judged="number", output="relu", latent=100, generator=(), discriminator=(), r1=0.0, batch=1,
        lr=5e-4, schedule="constant", betas=(0.9, 0.999), ema_decay=0.0, compile="off", eval_every=500,
        save_every=2500, log_every=50,
    ),
    "best": Args(
        steps=10_000, generator=(512, 512), discriminator=(512, 512), batch=1024, lr=1e-3, ema_decay=0.999,
        eval_every=1000, save_every=2500, log_every=100,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----


class TrainState(NamedTuple):
    params: gan.Pair
    opt: gan.Pair
    ema: Tree  # averaged parameters of the generator
    key: Key
    step: Int[Tensor, ""]


def network(params: Tree, x: Float[Tensor, "... d"], *, args: Args) -> Float[Tensor, "... f"]:
    """Dense layers in the dtype of --precision."""
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    leaky = partial(F.leaky_relu, negative_slope=args.slope)
    return nn.mlp(tree.cast(params, dtype), x.to(dtype), activation=leaky).float()


def real_values(key: Key, n: int, k: int) -> Int[Tensor, "n t"]:
    """k times a whole number below 100 // k, uniform, as in the book."""
    return k * random.randint(key, (n, LENGTH), 0, VALUES // k)


def one_hot(values: Int[Tensor, "..."]) -> Float[Tensor, "... v"]:
    return F.one_hot(values.long(), VALUES).float()


def draw_latents(key: Key, n: int, args: Args) -> Float[Tensor, "n z"] | Float[Tensor, "n t z"]:
    return random.normal(key, (n, args.latent) if args.judged == "sequence" else (n, LENGTH, args.latent))


def generate(params: Tree, z: Tensor, *, args: Args) -> Float[Tensor, "b t v"]:
    """What the discriminator sees; its argmax is the sequence.

    Soft vectors beside the data's one-hot ones: to fool the discriminator the softmax must become sharp, and what
    varies is left to the latents. Straight-through Gumbel-softmax was left with half a per cent of wrong numbers
    (LOG.md).
    """
    logits = network(params, z, args=args)
    logits = rearrange(logits, "b (t v) -> b t v", t=LENGTH) if args.judged == "sequence" else logits
    return logits.softmax(-1) if args.output == "softmax" else F.relu(logits)


def discriminate(params: Tree, x: Float[Tensor, "b t v"], *, args: Args) -> Float[Tensor, "b *t"]:
    """Logits of being real."""
    x = rearrange(x, "b t v -> b (t v)") if args.judged == "sequence" else x
    return network(params, x, args=args).squeeze(-1)


def discriminator_loss(
    params: Tree, real: Float[Tensor, "b t v"], fake: Float[Tensor, "b t v"], *, args: Args
) -> Float[Tensor, ""]:
    """The GAN's loss and R1."""
    reals, penalty = gan.r1(partial(discriminate, params, args=args), real, args.r1)
    return gan.bce_discriminator(reals, discriminate(params, fake, args=args)) + penalty


def generator_loss(params: Tree, discriminator: Tree, z: Tensor, *, args: Args) -> Float[Tensor, ""]:
    return gan.bce_generator(discriminate(discriminator, generate(params, z, args=args), args=args))


def objectives(state: TrainState, args: Args) -> dict[str, diagnose.Loss]:
    """Each network's loss on (real sequences, latents) against the other as it is."""

    def d_loss(d: Tree, examples: tuple[Tensor, Tensor]) -> Tensor:
        return discriminator_loss(d, examples[0], generate(state.params.g, examples[1], args=args), args=args)

    def g_loss(g: Tree, examples: tuple[Tensor, Tensor]) -> Tensor:
        return generator_loss(g, state.params.d, examples[1], args=args)

    return {"params.d": d_loss, "params.g": g_loss}


def optimizer(args: Args) -> optim.Optimizer:
    adam = optim.adam(optim.cosine(args.lr, args.steps) if args.schedule == "cosine" else args.lr, args.betas)
    return parallel.shard_optimizer(adam, args.shard_optimizer)


def init_state(key: Key, args: Args) -> TrainState:
    k_g, k_d, k_train = random.split(key, 3)
    v = VALUES * (LENGTH if args.judged == "sequence" else 1)
    g = nn.mlp_init(k_g, (args.latent, *args.generator, v))
    d = nn.mlp_init(k_d, (v, *args.discriminator, 1))
    init, ema = optimizer(args).init, tree.map(torch.clone, g)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(gan.Pair(g, d), gan.Pair(init(g), init(d)), ema, k_train, step)


def step(state: TrainState, *, args: Args) -> tuple[TrainState, dict[str, Tensor]]:
    """One update of the discriminator, then one of the generator, on fresh sequences and latents."""
    k_real, k_d, k_g = random.split(random.fold_in(state.key, state.step), 3)
    adam, n = optimizer(args), parallel.rows(args.batch)
    real = one_hot(real_values(k_real, n, args.k))
    g, d = state.params
    fake = generate(g, draw_latents(k_d, n, args), args=args)
    d_loss = value_and_grad(partial(discriminator_loss, args=args))
    loss_d, grads_d = parallel.mean(d_loss(d, real, fake))
    d, opt_d = adam.update(grads_d, state.opt.d, d)

    g_loss = value_and_grad(partial(generator_loss, args=args))
    loss_g, grads_g = parallel.mean(g_loss(g, d, draw_latents(k_g, n, args)))
    g, opt_g = adam.update(grads_g, state.opt.g, g)
    ema = optim.ema(state.ema, g, args.ema_decay, state.step)
    out = {"train/loss_d": loss_d, "train/loss_g": loss_g}
    out |= {"grad/norm_d": tree.global_norm(grads_d), "grad/norm_g": tree.global_norm(grads_g)}
    return TrainState(gan.Pair(g, d), gan.Pair(opt_g, opt_d), ema, state.key, state.step + 1), out


# ---- training: plumbing ----


@torch.no_grad()
def draw(params: Tree, key: Key, n: int, args: Args) -> Int[Tensor, "n t"]:
    """n sequences."""
    return generate(params, draw_latents(key, n, args), args=args).argmax(-1)


def counts(values: Int[Tensor, "n t"]) -> Float[Tensor, "v"]:
    return torch.bincount(values.flatten().cpu(), minlength=VALUES).float()


def metrics(values: Int[Tensor, "n t"], k: int) -> dict[str, float]:
    """Share of multiples of k; the smallest and the largest share of one of the data's values, in units of its due
    share; and how many of the values have at least a tenth of it."""
    found = counts(values)
    shares = found[: k * (VALUES // k) : k] / found.sum() * (VALUES // k)
    return {
        "multiples": float(found[::k].sum() / found.sum()),
        "smallest_share": float(shares.min()),
        "largest_share": float(shares.max()),
        "modes": float((shares >= 0.1).sum()),
    }


def histogram(values: Int[Tensor, "n t"], k: int) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    shares = (100 * counts(values) / values.numel()).tolist()
    axes.bar(range(VALUES), shares, color=["tab:red" if i % k else "tab:blue" for i in range(VALUES)])
    due = axes.axhline(100 / (VALUES // k), color="black", linewidth=0.8, linestyle=":")
    axes.margins(y=0.2)
    axes.legend([due], ["due share"], loc="upper right")
    axes.set(xlabel=f"generated number (red: no multiple of {k})", ylabel="%")
    return figure


def text(values: Int[Tensor, "n t"]) -> list[str]:
    return [" ".join(f"{x:2d}" for x in row) for row in values.tolist()]


def train(args: Args) -> None:
    here = run.Run(args, NAME, Path(__file__), unit="sequences", minimise="val/largest_share")
    state = here.start(init_state)
    print(f"multiples of {args.k}; {here.device}", tree.table(state.params, depth=1), sep="\n")
    update = here.compile(step)

    for n in here.progress():
        state, out = update(state)
        here.record(n, state, out, units=args.batch * len(here.members))
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                show(one, n + 1, draw(s.ema, here.show_key, 10_000, args), args.k)
        for one, before, after, _ in here.diagnosed(n, state, ()):
            values = real_values(here.show_key, args.batch, args.k)
            examples = one_hot(values), draw_latents(here.show_key, args.batch, args)
            order = diagnose.report(one, n + 1, before, after, objectives(after, args), examples)
            one.writer.add_text("diagnose/surprising", "\n\n".join(text(values[order[:8]])), n + 1)
    if not here.evaluates(state):
        return
    results = []
    for _, s in here.each(state):
        values = draw(s.ema, here.show_key, 10_000, args)
        result = metrics(values, args.k)
        results.append((result, [describe(result, args.k), *text(values[:5])]))
    here.finish(results, "--n 10")


def describe(result: dict[str, float], k: int) -> str:
    return (
        f"{100 * result['multiples']:.3f} % multiples of {k}; {result['modes']:.0f} of {VALUES // k} values, with "
        f"{result['smallest_share']:.2f} to {result['largest_share']:.2f} of their due share"
    )


def show(here: run.Place, n: int, values: Int[Tensor, "n t"], k: int) -> None:
    """Scores, a histogram and sequences at fixed latents; says so where a value of the data has (almost) gone."""
    result = metrics(values, k)
    here.log(n, {f"val/{name}": value for name, value in result.items()})
    here.writer.add_figure("samples/histogram", histogram(values, k), n)
    here.writer.add_text("samples/sequences", "    " + "\n    ".join(text(values[:10])), n)
    collapsed = "mode collapse: " if result["modes"] < VALUES // k else ""
    here.write(f"step {n}: {collapsed}{describe(result, k)}")


# ---- using a run ----


class Model(NamedTuple):
    ema: Tree
    args: Args


def load(path: Path, args: Args) -> Model:
    return Model(run.load(path, init_state(random.key(0), args).ema, "ema"), args)


@dataclass(frozen=True)
class Use(run.Use):
    """Generate sequences with the latest finished run."""

    n: run.Count = 10
    """How many sequences."""
    seed: run.Seed = 0
    """Decides what is generated."""


def answers(use: Use, model: Model) -> Iterator[Answer]:
    ema, args = model
    rows = [tuple(row) for row in draw(ema, random.key(use.seed), use.n, args).tolist()]
    yield Table(tuple(map(str, range(1, LENGTH + 1))), rows, " ".join(["{:2d}"] * LENGTH))


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
