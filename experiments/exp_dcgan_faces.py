"""Faces from a hundred random numbers: DCGAN (Radford et al. 2016).

What it shows: 1.8 million parameters generate faces of 64 pixels after minutes on two CPU cores, scored by the kernel
inception distance on the features of a classifier of faces, .07 where training faces have -.001 (RESULTS.md). `small`
holds the discriminator back by group normalisation and R1; `book` is the paper's, batch normalisation throughout.
`just run exp_dcgan_faces`, then `just sample exp_dcgan_faces way 0 5`.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tyro.conf import Positional

from lib import diagnose, gan, metrics, optim, parallel, plot, random, run, tree
from lib.answers import Answer, Picture
from lib.data import batches, faces
from lib.models import dcgan
from lib.random import Key
from lib.tasks import directions, judge, pictures
from lib.tasks.directions import Move
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem


@dataclass(frozen=True)
class Args(run.Args):
    """Train a generator of faces against a discriminator."""

    data: str = "default"
    """default (drawn faces), anime, celeba, glasses (each under --data-dir), or a folder of pictures."""
    size: run.Count = 64
    """Pixels of a side: 16, 32, 64, 128 or 256."""
    faces: run.Count = 10_000
    """Drawn faces to train on."""
    latent: run.Count = 100
    """Size of z, standard normal."""
    width: run.Count = 64
    """Channels of both networks' finest maps; each halving of the side doubles them."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation in the discriminator; the generator's is batch."""
    loss: Literal["bce", "least_squares"] = "bce"
    """Adversarial loss: cross-entropy or squared error."""
    r1: run.Amount = 0.0
    """Weight of the discriminator's penalty on slopes at real faces, which --norm batch does not allow."""
    batch: run.Count = 64
    """Faces of a batch."""
    lr: run.Amount = 2e-4
    """Learning rate of both networks."""
    beta1: run.Fraction = 0.5
    """Decay of Adam's first moment, for both networks; the second's is .999."""
    ema_decay: run.Fraction = 0.995
    """Decay of the averaged generator that is used; 0: the generator itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        dcgan.widths(self.size, self.width)
        if self.r1 and self.norm == "batch":
            raise ValueError("--r1 needs --norm group: with batch normalisation a slope is not of one face alone")


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=2500, width=32, norm="group", r1=1.0, batch=32, lr=4e-4, eval_every=500, save_every=500),
    # Chapter 4: anime faces, batches of 128, 20 epochs of 63,632, no averaging.
    "book": Args(
        steps=9940, data="anime", batch=128, ema_decay=0.0, log_every=100, eval_every=2485, save_every=1000,
    ),
    "best": Args(
        steps=60_000, faces=50_000, norm="group", r1=1.0, batch=128, ema_decay=0.999, log_every=200, eval_every=5000,
        save_every=5000,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----
# Axes: b batch, z latent, s side of a picture. The networks are lib/models/dcgan.py's.


class TrainState(NamedTuple):
    params: gan.Pair
    model: gan.Pair  # running statistics of batch normalisation
    opt: gan.Pair
    ema: Tree  # averaged parameters and statistics of the generator
    key: Key
    step: Int[Tensor, ""]


def optimizer(args: Args) -> optim.Optimizer:
    adam = optim.adam(args.lr, (args.beta1, 0.999))
    return parallel.shard_optimizer(adam, args.shard_optimizer)


def init_state(key: Key, args: Args) -> TrainState:
    k_g, k_d, k_train = random.split(key, 3)
    g, s_g = dcgan.generator_init(k_g, args.latent, args.width, args.size)
    d, s_d = dcgan.discriminator_init(k_d, 3, args.width, args.size, args.norm)
    init, ema = optimizer(args).init, tree.map(torch.clone, {"params": g, "model": s_g})
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(gan.Pair(g, d), gan.Pair(s_g, s_d), gan.Pair(init(g), init(d)), ema, k_train, step)


def step(
    state: TrainState, index: Int[Tensor, "b"], data: UInt8[Tensor, "n 3 s s"], *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """The discriminator learns from real faces `index` and as many generated ones, then the generator from the new
    discriminator: two networks, two optimisers, one function."""
    k_d, k_g = random.split(random.fold_in(state.key, state.step))
    real, losses, update = data[index] / 127.5 - 1, gan.LOSSES[args.loss], optimizer(args).update
    generate, discriminate = partial(dcgan.generate, train=True), partial(dcgan.discriminate, norm=args.norm)
    z_d, z_g = (random.normal(k, (len(index), args.latent)) for k in (k_d, k_g))

    g, d = state.params
    fake, s_g = generate(tree.cast(g, dtype), state.model.g, z_d)

    def d_loss(d: Tree) -> tuple[Tensor, tuple[Tree, Tensor, Tensor]]:
        d, s_d = tree.cast(d, dtype), state.model.d
        if args.r1:
            on_real, penalty = gan.r1(lambda x: discriminate(d, s_d, x)[0], real, args.r1)
        else:
            (on_real, s_d), penalty = discriminate(d, s_d, real), 0.0
        on_fake, s_d = discriminate(d, s_d, fake)  # each by its own batch statistics
        return losses.discriminator(on_real, on_fake) + penalty, (s_d, on_real, on_fake)

    (loss_d, (s_d, on_real, on_fake)), grads_d = value_and_grad(d_loss, has_aux=True)(d)
    right = {"train/real_right": (on_real > 0).float().mean(), "train/fake_right": (on_fake < 0).float().mean()}
    loss_d, right, grads_d = parallel.mean((loss_d, right, grads_d))
    d, opt_d = update(grads_d, state.opt.d, d)

    def g_loss(g: Tree) -> tuple[Tensor, Tree]:
        fake, after = generate(tree.cast(g, dtype), s_g, z_g)
        return losses.generator(discriminate(tree.cast(d, dtype), s_d, fake)[0]), after

    (loss_g, s_g), grads_g = value_and_grad(g_loss, has_aux=True)(g)
    loss_g, grads_g = parallel.mean((loss_g, grads_g))
    g, opt_g = update(grads_g, state.opt.g, g)

    ema = optim.ema(state.ema, {"params": g, "model": s_g}, args.ema_decay, state.step)
    out = {"train/loss_d": loss_d, "train/loss_g": loss_g, **right}
    out |= {"grad/norm_d": tree.global_norm(grads_d), "grad/norm_g": tree.global_norm(grads_g)}
    after = gan.Pair(g, d), gan.Pair(s_g, s_d), gan.Pair(opt_g, opt_d)
    return TrainState(*after, ema, state.key, state.step + 1), out


def objectives(state: TrainState, args: Args) -> dict[str, diagnose.Loss]:
    """Each network's loss on (real faces, latents) against the other as it is, by running statistics."""
    losses, (s_g, s_d) = gan.LOSSES[args.loss], state.model

    def logits(g: Tree, d: Tree, x: Tensor, z: Tensor) -> list[Tensor]:
        fake, _ = dcgan.generate(g, s_g, z, train=False)
        return [dcgan.discriminate(d, s_d, y, norm=args.norm, train=False)[0] for y in (x, fake)]

    return {
        "params.d": lambda d, examples: losses.discriminator(*logits(state.params.g, d, *examples)),
        "params.g": lambda g, examples: losses.generator(logits(g, state.params.d, *examples)[1]),
    }


# ---- training: plumbing ----


@torch.no_grad()
def draw(ema: Tree, z: Float[Tensor, "n z"]) -> Float[Tensor, "n 3 s s"]:
    """Faces in [-1, 1] of the averaged generator."""
    return torch.cat([dcgan.generate(ema["params"], ema["model"], part, train=False)[0] for part in z.split(250)])


def train(args: Args) -> None:
    splits = faces.load(args.data, args.data_dir, size=args.size, n=args.faces)
    metrics.check_kid(splits.name, splits.val.pixels, splits.test.pixels)
    known = splits if splits.names else faces.load("default", size=args.size, n=args.faces)  # whom a judge can learn
    extractor = judge.load(known, run.device(args))
    here = run.Run(args, NAME, Path(__file__), unit="images", minimise="val/kid")
    data = splits.train.pixels.to(here.device)
    print(f"{len(data):,} training faces of {splits.name}; {here.device}, {here.dtype}")
    state = here.start(init_state)
    print(tree.table(state.params, depth=2))
    update = here.compile(step, dtype=here.dtype)
    order = here.batches(partial(batches.numbers, n=len(data), size=args.batch))

    real, val = (extractor.features(part.pixels.to(here.device) / 127.5 - 1) for part in (splits.test, splits.val))
    k_show, k_val, k_test = random.split(here.show_key, 3)
    shown, z_val, z_test = (
        random.normal(k, (n, args.latent)) for k, n in ((k_show, 32), (k_val, len(val)), (k_test, 5 * len(real)))
    )

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                show(one, n + 1, s.ema, shown)
                kid, _ = metrics.kid(val, extractor.features(draw(s.ema, z_val)))
                one.log(n + 1, {"val/kid": kid})
                one.write(f"step {n + 1}: KID {kid:.4f}")
        for one, before, after, i in here.diagnosed(n, state, index):
            examples = data[i] / 127.5 - 1, random.normal(here.show_key, (len(i), args.latent))
            worst = diagnose.report(one, n + 1, before, after, objectives(after, args), examples)[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(data[i][worst] / 255, 8), n + 1)
    if not here.evaluates(state):
        return
    floor = metrics.kid(real, extractor.features(data[: 5 * len(real)] / 127.5 - 1))[0]
    results = []
    for one, s in here.each(state):
        kid, spread = metrics.kid(real, extractor.features(draw(s.ema, z_test)))
        lines = [
            f"{f'KID of {len(z_test):,} generated faces':<28}{kid:.4f} ± {spread:.4f} over subsets",
            f"{'KID of training faces':<28}{floor:.4f}",
            f"against {len(real):,} test faces, on the features of the judge {extractor.name}",
        ]
        plot.save(plot.tile(draw(s.ema, shown) / 2 + 0.5, 8), one.path / "samples.png", scale=2)
        plot.save(plot.gif(way(s.ema, shown[:5])), one.path / "interpolation.gif")
        results.append(({"test/kid": kid}, lines))
    here.finish(results, "way 0 5")


def way(ema: Tree, z: Float[Tensor, "k z"], n: int = 12) -> Float[Tensor, "m 3 s s"]:
    """Faces in [0, 1] on the ways from each vector to the next, n of each way."""
    return draw(ema, torch.cat([pictures.between(a, b, n, circle=True) for a, b in itertools.pairwise(z)])) / 2 + 0.5


def show(here: run.Place, n: int, ema: Tree, z: Tensor) -> None:
    """What becomes of the same vectors, and of those between them."""
    here.writer.add_image("samples/grid", plot.tile(draw(ema, z) / 2 + 0.5, 8), n)
    here.writer.add_image("samples/interpolation", plot.tile(way(ema, z[:5]), 12), n)
    plot.add_gif(here.writer, "samples/animation", plot.gif(way(ema, z[:5])), n)


# ---- using a run ----


class Model(NamedTuple):
    ema: Tree
    latent: int
    directions: Callable[[], Tensor]


def load(path: Path, args: Args) -> Model:
    ema = run.load(path, init_state(random.key(0), args).ema, "ema")
    return Model(ema, args.latent, functools.cache(lambda: directions.directions(partial(draw, ema), args.latent)))


@dataclass(frozen=True)
class Draw(run.Use):
    """Generate faces with the latest finished run."""

    n: run.Count = 64
    """How many faces; they are numbered from 0, row by row."""
    out: run.NewFile = Path("samples.png")
    """Where to save the picture."""
    seed: run.Seed = 0
    """Decides, with its number, what a face looks like."""


@dataclass(frozen=True)
class Way(run.Use):
    """Show the ways from each face to the next, as a strip; a .gif moves."""

    pictures: Positional[tuple[int, ...]]
    """Numbers of two faces or more."""
    out: run.NewFile = Path("samples.png")
    """Where to save the picture."""
    seed: run.Seed = 0
    """Decides, with its number, what a face looks like."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.pictures) < 2 or min(self.pictures) < 0:
            raise ValueError("a way needs the numbers of two faces at least, from 0")


Use = Draw | Move | Way


def answers(use: Use, model: Model) -> Iterator[Answer]:
    if isinstance(use, Move):
        yield from directions.moved(use, lambda z: draw(model.ema, z) / 2 + 0.5, model.directions())
        return
    if isinstance(use, Way):
        frames, columns = way(model.ema, pictures.latents(use.pictures, model.latent, use.seed)), 12
    else:
        frames, columns = draw(model.ema, pictures.latents(range(use.n), model.latent, use.seed)) / 2 + 0.5, 8
    moving = use.out.suffix.lower() == ".gif"
    content = plot.gif(frames) if moving else plot.tile(frames, columns)
    one_row = isinstance(use, Way) and not moving and len(frames) <= columns
    yield Picture(content, use.out, f"{len(frames)} faces", frames=columns * one_row)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
