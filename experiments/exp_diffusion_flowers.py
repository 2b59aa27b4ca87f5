"""Flowers from noise: a U-Net that removes noise (Ho et al. 2020; Karras et al. 2022).

What it shows: a network that has learnt one thing, what a picture with noise was, draws new ones, fills gaps, goes from
picture to picture and says how likely each is. The flowers are drawn by a renderer, so that colours, shapes and petals
are known and what is generated can be scored.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lib import diagnose, diffusion, meanflow, metrics, muon, optim, parallel, plot, random, run, tree
from lib.data import batches, faces, flowers
from lib.data.albums import Pictures
from lib.faults import RunError
from lib.models import unet
from lib.random import Key
from lib.tasks import diffuser, generated
from lib.tasks.diffuse import Use, answers
from lib.tasks.diffuser import Diffuser
from lib.tasks.judge import Judge
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem


@dataclass(frozen=True)
class Args(run.Args):
    """Train a U-Net to remove noise from pictures."""

    data: str = "default"
    """default (drawn flowers), faces (drawn), flowers102 (Oxford's, fetched or under --data-dir), flowers17, celeba,
    glasses or anime (each under --data-dir), or a folder."""
    size: run.Count = 64
    """Pixels of a side, a multiple of the patch times two for each level but the first."""
    pictures: run.Count = 10_000
    """Drawn pictures to train on."""
    flip: bool = True
    """Train on mirrored pictures as well."""
    objective: Literal["edm", "v", "epsilon", "x0", "flow", "meanflow"] = "edm"
    """What the network predicts; meanflow: the mean velocity between two times, so that a few steps draw."""
    noise: tuple[run.Amount, run.Amount] = (1.2, 1.4)
    """Median of EDM's noise levels and standard deviation of their logarithm (in the paper .3 and 1.2)."""
    levels: Literal["lognormal", "uniform", "cosine", "clipped", "linear"] = "lognormal"
    """How much noise: EDM's; t / (1 - t) of uniform t; or of a chain of 1,000 steps, cosine, the same with betas in
    [.0001, .02], or linear."""
    power: run.Count = 2
    """Of the loss: 1 absolute, 2 squared."""
    widths: tuple[run.Count, ...] = (32, 64, 96, 128)
    """Channels of each level, the finest first; a level has half the side of the one before."""
    blocks: run.Count = 1
    """Residual blocks of a level, on either way."""
    attention: run.Natural = 1
    """Levels with attention, the coarsest ones."""
    patch: run.Count = 2
    """Pixels of a side that are one position of the finest level."""
    batch: run.Count = 32
    """Pictures of a batch."""
    lr: run.Amount = 4e-3
    """Peak learning rate of AdamW."""
    muon_lr: run.Amount = 5e-3
    """Peak learning rate of Muon, which has the kernels and matrices of the blocks; 0: AdamW has them too."""
    warmup: run.Natural = 50
    """Steps in which the learning rate rises, before it falls by half a cosine."""
    weight_decay: run.Amount = 0.01
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""
    ema_decay: run.Fraction = 0.995
    """Decay of the averaged parameters that are used."""
    sample_steps: run.Free[run.Count] = 20
    """Steps of DPM-Solver++ from noise to picture."""
    least: run.Free[Annotated[float, run.Range(0.001, 10)]] = 0.005
    """Noise of EDM's levels from which samples go to none in one step: more gives smoother pictures."""
    samples: run.Free[Annotated[int, run.Range(2)]] = 1000
    """Pictures that are drawn for the final scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.network()
        if self.objective == "meanflow" and (self.levels != "lognormal" or self.power != 2):
            raise ValueError("--objective meanflow has its own times and loss: leave --levels and --power out")
        if self.noise != Args.noise and (self.objective == "meanflow" or self.levels != "lognormal"):
            raise ValueError("--noise is of --levels lognormal and no mean flow: leave it out")
        if not min(self.noise):
            raise ValueError("--noise: both numbers must be above 0")
        if self.levels not in ("lognormal", "uniform") and self.sample_steps > 1000:
            raise ValueError(f"--sample-steps {self.sample_steps}: a chain has 1000 at most")

    def network(self) -> unet.Config:
        """Raises ValueError for sizes and widths that cannot be."""
        told = unet.WAVES if self.objective == "meanflow" else 0
        return unet.Config(self.size, self.widths, self.blocks, self.attention, self.patch, labels=told)


PRESETS: dict[str, run.Args] = {
    "small": Args(
        steps=2500, eval_every=700, save_every=700, compile="off", sample_steps=5, least=0.05,  # the last three: LOG.md
    ),
    # Chapter 15: epsilon by L1, a clipped cosine chain, batches of 4; so many steps are 100 epochs of Oxford's 8,189.
    "book": Args(
        steps=204_800, objective="epsilon", levels="clipped", power=1, widths=(128, 256, 512, 1024), blocks=2, patch=1,
        batch=4, lr=1e-4, muon_lr=0.0, warmup=300, ema_decay=0.0, sample_steps=50, log_every=200, eval_every=20_000,
        save_every=10_000,
    ),
    "best": Args(
        steps=40_000, pictures=50_000, widths=(128, 256, 384, 512), blocks=2, batch=128, lr=2e-3, muon_lr=3e-3,
        warmup=1000, ema_decay=0.999, samples=5000, log_every=100, eval_every=5000, save_every=5000,
    ),
}  # fmt: skip

MATRICES = r"(down|middle|up).*(conv_in\.w|conv_out\.w|skip\.w|embed\.w|attn\.w_)"
BANDS = (0.13, 0.3, 0.7)  # noise levels between which the loss is told apart


# ---- model and loss: edit here ----


def chain(args: Args, device: torch.device) -> Float[Tensor, "k"] | None:
    """The levels of a chain of 1,000 steps, from the least noise to the most; None where levels are continuous."""
    return diffusion.CHAINS[args.levels]().to(device) if args.levels in diffusion.CHAINS else None


def training_levels(key: Key, n: int, args: Args, of_chain: Float[Tensor, "k"] | None) -> Float[Tensor, "n"]:
    if of_chain is not None:
        return diffusion.chosen(key, n, of_chain)
    if args.levels == "uniform":
        t = random.uniform(key, (n,), 0.001, 0.999)
        return t / (1 - t)
    return diffusion.lognormal(key, n, math.log(args.noise[0]), args.noise[1])


def sampling_levels(steps: int, least: float, *, args: Args, device: torch.device) -> Float[Tensor, "k"]:
    of_chain = chain(args, device)
    if of_chain is not None:
        if steps > len(of_chain):
            raise RunError(f"--steps {steps}: the chain of this run has {len(of_chain)}")
        return diffusion.strided(of_chain, steps)
    if args.levels == "uniform":
        t = torch.linspace(0.99, 0, steps + 1, device=device)
        return t / (1 - t)
    return diffusion.karras(steps, least, 80.0).to(device)


def velocity(params: Tree, args: Args) -> meanflow.Velocity:
    """Of a network that is told two times: the one at which z is, and the gap to the earlier one."""
    network = partial(unet.apply, params, cfg=args.network(), plain=True)
    return lambda z, t, gap: network(z, t, unet.waves(gap))


def network(params: Tree, args: Args) -> diffusion.Network:
    """With a mean velocity over no gap at all, which is the velocity of a flow."""
    if args.objective == "meanflow":
        return lambda z, label: velocity(params, args)(z, (4 * label).sigmoid(), torch.zeros_like(label))
    return partial(unet.apply, params, cfg=args.network())


def scales(args: Args) -> Callable[[Tensor], diffusion.Scales]:
    return diffusion.PREDICTS["flow" if args.objective == "meanflow" else args.objective]


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    ema: Tree
    key: Key
    step: Int[Tensor, ""]


def optimizer(args: Args, dtype: torch.dtype = torch.float32) -> tuple[optim.Optimizer, optim.Schedule]:
    rate = optim.cosine(args.lr, args.steps, args.warmup)
    adam = optim.adamw(rate, (0.9, 0.99), 1e-8, args.weight_decay, optim.matrices)
    if not args.muon_lr:
        return parallel.shard_optimizer(adam, args.shard_optimizer), rate
    schedule = optim.cosine(args.muon_lr, args.steps, args.warmup)
    return muon.partition(MATRICES, muon.muon(schedule, args.weight_decay, dtype=dtype), adam), rate


def init_state(key: Key, args: Args) -> TrainState:
    k_params, k_train = random.split(key)
    params = unet.init(k_params, args.network())
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args)[0].init(params), tree.map(torch.clone, params), k_train, step)


def step(
    state: TrainState,
    index: Int[Tensor, "b"],
    data: UInt8[Tensor, "n 3 s s"],
    *,
    args: Args,
    dtype: torch.dtype,
    of_chain: Float[Tensor, "k"] | None = None,
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update on pictures `index`, each with its own level of noise."""
    k_level, k_noise, k_flip = random.split(random.fold_in(state.key, state.step), 3)
    x, n = data[index] / 127.5 - 1, len(index)
    if args.flip:
        x = torch.where(random.bernoulli(k_flip, 0.5, (n, 1, 1, 1)), x.flip(-1), x)
    noise = random.normal(k_noise, tuple(x.shape))
    if args.objective == "meanflow":
        t, gap = meanflow.times(k_level, n)
        sigma = t / (1 - t)
    else:
        sigma = training_levels(k_level, n, args, of_chain)

    def objective(params: Tree) -> tuple[Tensor, Tensor]:
        params = tree.cast(params, dtype)
        if args.objective == "meanflow":
            each, error = meanflow.loss(velocity(params, args), x, noise, t, gap, meanflow.EVERY)
            return each.mean(), error
        each = diffusion.loss(network(params, args), scales(args), x, sigma, noise, args.power)
        return each.mean(), each

    (value, each), grads = value_and_grad(objective, has_aux=True)(state.params)
    band = torch.bucketize(sigma, torch.stack([torch.full_like(sigma[0], edge) for edge in BANDS]))
    inside = torch.stack([(band == i).float() for i in range(len(BANDS) + 1)])
    value, sums, counts, grads = parallel.mean((value, (inside * each.detach()).sum(1), inside.sum(1), grads))
    grads, norm = optim.clip(grads, args.clip)
    opt, rate = optimizer(args, dtype)
    params, opt_state = opt.update(grads, state.opt, state.params)
    ema = optim.ema(state.ema, params, args.ema_decay, state.step)
    out = {"train/loss": value, "grad/norm": norm, "train/lr": rate(state.step)}
    names = ("least", "little", "more", "most")
    out |= {f"noise/{name}": part for name, part in zip(names, (sums / counts.clamp(min=1e-6)).unbind(), strict=True)}
    return TrainState(params, opt_state, ema, state.key, state.step + 1), out


# ---- training: plumbing ----


def dataset(args: Args) -> Pictures:
    if args.data in ("default", *flowers.PHOTOGRAPHS):
        return flowers.load(args.data, args.data_dir, args.size, args.pictures)
    return faces.load("default" if args.data == "faces" else args.data, args.data_dir, size=args.size, n=args.pictures)


def model_of(params: Tree, args: Args, dtype: torch.dtype, device: torch.device) -> Diffuser:
    params = tree.cast(params, dtype)
    levels = functools.cache(partial(sampling_levels, args=args, device=device))  # once, not in each drawing
    jumps = velocity(params, args) if args.objective == "meanflow" else None
    denoise = diffusion.denoiser(network(params, args), scales(args))
    return Diffuser(
        denoise, levels, args.size, functools.cache(partial(dataset, args)), jumps, args.sample_steps, args.least
    )


def train(args: Args) -> None:
    if args.shard_optimizer and args.muon_lr:
        raise RunError("--shard-optimizer cuts matrices, which Muon needs whole: leave it out, or --muon-lr 0")
    if args.objective == "meanflow" and args.batch % (meanflow.EVERY * parallel.size()):
        raise RunError(f"--batch must be a multiple of {meanflow.EVERY} times the number of processes for a mean flow")
    splits = dataset(args)
    metrics.check_kid(splits.name, splits.train.pixels, splits.val.pixels, splits.test.pixels)
    if len(splits.train.pixels) < args.batch:
        raise RunError(f"{len(splits.train.pixels)} training examples are fewer than a batch of {args.batch}")
    extractor = generated.judge_of(splits, run.device(args))
    here = run.Run(args, NAME, Path(__file__), unit="images", minimise="val/kid")
    data = splits.train.pixels.to(here.device)
    print(f"{len(data):,} training pictures of {splits.name}; {here.device}, {here.dtype}")
    if len(data) < 1000:
        print(f"{len(data)} pictures are few: a run of {args.steps} steps is likely to copy them")
    if splits.names:
        print("the judge's accuracy on held-out pictures", *generated.readings(extractor, splits.test), sep="\n")
    state = here.start(init_state)
    print(tree.table(state.params, depth=1))
    update = here.compile(step, dtype=here.dtype, of_chain=chain(args, here.device))
    order = here.batches(partial(batches.numbers, n=len(data), size=args.batch))

    features = lambda x: extractor.features(generated.quantised(x))  # noqa: E731
    val = features(splits.val.pixels.to(here.device) / 127.5 - 1)
    model = lambda s: model_of(s.ema, args, here.dtype, here.device)  # noqa: E731

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                show(one, n + 1, model(s), args, splits.val.pixels[:4])
                x = model(s).drawn(model(s).noise(range(min(len(val), 200)), 1), steps=args.sample_steps)
                kid, _ = metrics.kid(val, features(x))
                one.log(n + 1, {"val/kid": kid})
                one.write(f"step {n + 1}: KID {kid:.4f}")
        for one, before, after, i in here.diagnosed(n, state, index):
            k_level, k_noise = random.split(here.show_key)
            x = data[i] / 127.5 - 1
            sigma = training_levels(k_level, len(i), args, chain(args, here.device))
            examples = x, sigma, random.normal(k_noise, tuple(x.shape))
            worst = diagnose.report(one, n + 1, before, after, {"params": partial(plain, args=args)}, examples)[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(data[i][worst] / 255, 8), n + 1)
    if not here.evaluates(state):
        return
    results = [evaluate(one, model(s), splits, extractor, args) for one, s in here.each(state)]
    here.finish(results, "draw")


def plain(params: Tree, examples: tuple[Tensor, Tensor, Tensor], *, args: Args) -> Tensor:
    """The loss in fp32 on (pictures, levels, noise)."""
    return diffusion.loss(network(params, args), scales(args), *examples, args.power).mean()


def evaluate(
    here: run.Place, model: Diffuser, splits: Pictures, extractor: Judge, args: Args
) -> tuple[dict[str, float], list[str]]:
    """Final scores, each beside what real pictures have, and the lines to print."""
    x = generated.quantised(model.drawn(model.noise(range(args.samples), 2), steps=args.sample_steps))
    scores, lines, near = generated.scored(extractor, x, splits, args.flip)
    exact = diffuser.exact(model, splits.test.pixels[:32].to(x.device))
    lines += [f"{'bits per dimension':<28}{exact['bits']:.3f}", f"{'inversion':<28}{exact['inversion_db']:.1f} dB"]
    plot.save(plot.tile(x[:32] / 2 + 0.5, 8), here.path / "samples.png", scale=2)
    copies = plot.tile(generated.beside(x, splits.train.pixels.to(x.device), near) / 2 + 0.5, 8)
    here.writer.add_image("samples/beside_nearest", copies, args.steps)
    plot.save(copies, here.path / "nearest.png", scale=2)
    return scores | {f"test/{name}": value for name, value in exact.items()}, lines


def show(here: run.Place, n: int, model: Diffuser, args: Args, real: UInt8[Tensor, "4 3 s s"]) -> None:
    """The same noise over training; pictures that turn into noise, and what comes out of noise."""
    noise = model.noise(range(32), 0)
    few = noise[: len(real)]
    here.writer.add_image("samples/grid", plot.tile(model.drawn(noise, steps=args.sample_steps) / 2 + 0.5, 8), n)
    there = diffuser.forward(model, real.to(noise.device) / 127.5 - 1, few) / 2 + 0.5
    back = diffuser.strip(model, few, args.sample_steps) / 2 + 0.5
    both = torch.cat([there, back], 1)
    here.writer.add_image("samples/strip", plot.tile(both.flatten(0, 1), both.shape[1]), n)
    plot.add_gif(here.writer, "samples/animation", plot.gif(back[0]), n)


# ---- using a run ----


def load(path: Path, args: Args) -> Diffuser:
    device = run.device(run.Args())
    params = run.load(path, unet.init(random.key(0), args.network()), "ema", device)
    return model_of(params, args, run.dtype(args, device), device)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
