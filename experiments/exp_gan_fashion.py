"""Clothes by generative adversarial networks: dense (Goodfellow et al. 2014) or DCGAN (Radford et al. 2016).

What it shows: 900,000 parameters generate clothes after three minutes on two CPU cores, scored by the kernel inception
distance on the features of our own classifier, .052 where training pictures have -.001 (RESULTS.md).
`just run exp_gan_fashion`, then `just sample exp_gan_fashion --n 64`.
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
from torch import Tensor

from lib import conv, diagnose, gan, metrics, nn, optim, parallel, plot, random, run, tree
from lib.answers import Answer, Picture
from lib.data import batches, images
from lib.data.images import FASHION_NAMES as NAMES
from lib.data.images import Images
from lib.faults import RunError
from lib.random import Key
from lib.tasks import judge
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem


@dataclass(frozen=True)
class Args(run.Args):
    """Train a generator of Fashion-MNIST pictures against a discriminator."""

    data: str = "fashion"
    model: Literal["dense", "dcgan"] = "dcgan"
    conditional: bool = False
    """Give the class to both networks, so that samples can be asked for by name."""
    latent: run.Count = 100
    """Size of z, standard normal."""
    width: run.Count = 64
    """Channels of the dcgan's 14 x 14 layers; its 7 x 7 layers have twice as many."""
    dropout: run.Fraction = 0.3
    """Share of the dense discriminator's activations that is dropped in training."""
    loss: Literal["bce", "least_squares"] = "bce"
    batch: run.Count = 64
    lr: run.Amount = 2e-4
    beta1: run.Fraction = 0.5
    """Decay of Adam's first moment, for both networks; the second's is .999."""
    ema_decay: run.Fraction = 0.995
    """Decay of the averaged generator that is used; 0: the generator itself."""
    kid_samples: run.Free[Annotated[int, run.Range(2)]] = 10_000
    """Pictures in the final evaluation, at most."""
    extractor: run.Free[Path | None] = None
    """Run of exp_classifier_fashion whose features KID compares; the latest finished one, or one made first."""


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=3000, lr=6e-4, eval_every=500, save_every=500),
    # Chapter 4: dense networks, Adam at 1e-4, 50 epochs of batches of 32, no averaging.
    "book": Args(
        steps=84_350, model="dense", batch=32, lr=1e-4, beta1=0.9, ema_decay=0.0, log_every=200, eval_every=16_870,
        save_every=4000,
    ),
    "best": Args(steps=60_000, width=128, batch=128, ema_decay=0.999, log_every=200, eval_every=5000, save_every=5000),
}  # fmt: skip


# ---- model and loss: edit here ----
# Axes: b batch, z latent, k classes.


def generator_init(key: Key, args: Args) -> tuple[Tree, Tree]:
    """(params, state)"""
    inputs, w = args.latent + args.conditional * len(NAMES), args.width
    if args.model == "dense":
        return nn.mlp_init(key, (inputs, 256, 512, 1024, 28 * 28)), {}
    k_in, k_up, k_out = random.split(key, 3)
    norms = {"in": conv.batch_norm_init(2 * w, key.device), "up": conv.batch_norm_init(w, key.device)}
    params = {
        "in": {"w": random.normal(k_in, (inputs, 2 * w * 49)) * 0.02},
        "up": conv.conv_transpose_init(k_up, 2 * w, w, 4, bias=False, std=0.02),
        "out": conv.conv_transpose_init(k_out, w, 1, 4, std=0.02),
    }
    return params | {"norm": {k: p for k, (p, _) in norms.items()}}, {k: s for k, (_, s) in norms.items()}


def generate(
    p: Tree, state: Tree, z: Float[Tensor, "b z"], label: Int[Tensor, "b"], *, args: Args, train: bool
) -> tuple[Float[Tensor, "b 1 28 28"], Tree]:
    """Pictures in [-1, 1] and the state after this batch."""
    if args.conditional:
        kind = label[:, None] == torch.arange(len(NAMES), device=label.device)  # F.one_hot cannot be vmapped
        z = torch.cat([z, kind.to(z.dtype)], dim=1)
    z = z.to(tree.leaves(p)[0].dtype)
    if args.model == "dense":
        return rearrange(nn.mlp(p, z), "b (c h w) -> b c h w", c=1, h=28).tanh(), state
    x = rearrange(nn.linear(p["in"], z), "b (c h w) -> b c h w", h=7, w=7)
    x, s_in = conv.batch_norm(p["norm"]["in"], state["in"], x, train=train)
    x = conv.conv_transpose(p["up"], F.relu(x), stride=2, padding=1)
    x, s_up = conv.batch_norm(p["norm"]["up"], state["up"], x, train=train)
    return conv.conv_transpose(p["out"], F.relu(x), stride=2, padding=1).tanh(), {"in": s_in, "up": s_up}


def discriminator_init(key: Key, args: Args) -> tuple[Tree, Tree]:
    k_net, k_class = random.split(key)
    features = 256 if args.model == "dense" else 2 * args.width * 49
    classes = {"class": nn.embedding_init(k_class, len(NAMES), features)} if args.conditional else {}
    if args.model == "dense":
        return {"mlp": nn.mlp_init(k_net, (28 * 28, 1024, 512, features)), "out": _head(features, key)} | classes, {}
    k_in, k_down = random.split(k_net)
    norm, state = conv.batch_norm_init(2 * args.width, key.device)
    params = {
        "in": conv.conv_init(k_in, 1, args.width, 4, std=0.02),
        "down": conv.conv_init(k_down, args.width, 2 * args.width, 4, bias=False, std=0.02),
        "norm": norm,
        "out": _head(features, key),
    }
    return params | classes, {"norm": state}


def _head(features: int, key: Key) -> Tree:
    """Starts undecided: logit 0 for every picture."""
    return {"w": torch.zeros(features, 1, device=key.device), "b": torch.zeros(1, device=key.device)}


def discriminate(
    p: Tree, state: Tree, x: Tensor, label: Int[Tensor, "b"], key: Key | None, *, args: Args, train: bool = True
) -> tuple[Float[Tensor, "b"], Tree]:
    """Logits of pictures, high for real; with classes by projection (Miyato & Koyama 2018): <embedding of the class,
    features>."""
    x = x.to(tree.leaves(p)[0].dtype)
    if args.model == "dense":
        k_hidden, k_last = random.split(key)
        h = nn.mlp(p["mlp"], rearrange(x, "b c h w -> b (c h w)"), k_hidden, dropout=args.dropout)
        h = nn.dropout(F.relu(h), args.dropout, k_last)
    else:
        h = F.leaky_relu(conv.conv(p["in"], x, stride=2, padding=1), 0.2)
        h = conv.conv(p["down"], h, stride=2, padding=1)
        h, norm = conv.batch_norm(p["norm"], state["norm"], h, train=train)
        h, state = rearrange(F.leaky_relu(h, 0.2), "b c h w -> b (c h w)"), {"norm": norm}
    logit = nn.linear(p["out"], h).squeeze(1)
    if args.conditional:
        logit = logit + (nn.embedding(p["class"], label) * h).mean(1)
    return logit.float(), state


class TrainState(NamedTuple):
    params: gan.Pair
    model: gan.Pair  # running statistics of batch normalisation
    opt: gan.Pair
    ema: Tree  # averaged parameters and statistics of the generator
    key: Key
    step: Int[Tensor, ""]


def objectives(state: TrainState, args: Args) -> dict[str, diagnose.Loss]:
    """Each network's loss on (real pictures, labels, latents) against the other as it is: running statistics, no
    dropout."""
    losses, fixed = gan.LOSSES[args.loss], partial(discriminate, key=None, args=args, train=False)
    draw = partial(generate, args=args, train=False)

    def d_loss(d: Tree, examples: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        real, label, z = examples
        fake, _ = draw(state.params.g, state.model.g, z, label)
        logits = lambda x: fixed(d, state.model.d, x, label)[0]  # noqa: E731
        return losses.discriminator(logits(real), logits(fake))

    def g_loss(g: Tree, examples: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        _, label, z = examples
        fake, _ = draw(g, state.model.g, z, label)
        return losses.generator(fixed(state.params.d, state.model.d, fake, label)[0])

    return {"params.d": d_loss, "params.g": g_loss}


def optimizer(args: Args) -> optim.Optimizer:
    adam = optim.adam(args.lr, (args.beta1, 0.999))
    return parallel.shard_optimizer(adam, args.shard_optimizer)


def init_state(key: Key, args: Args) -> TrainState:
    k_g, k_d, k_train = random.split(key, 3)
    (g, s_g), (d, s_d) = generator_init(k_g, args), discriminator_init(k_d, args)
    init, ema = optimizer(args).init, tree.map(torch.clone, {"params": g, "model": s_g})
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(gan.Pair(g, d), gan.Pair(s_g, s_d), gan.Pair(init(g), init(d)), ema, k_train, step)


def step(
    state: TrainState, index: Int[Tensor, "b"], data: Images, *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """The discriminator learns from real pictures `index` and as many generated ones, then the generator from the new
    discriminator: two networks, two optimisers, one function."""
    keys = random.split(random.fold_in(state.key, state.step), 5)
    real, label = data.pixels[index] / 127.5 - 1, data.labels[index]
    losses, update = gan.LOSSES[args.loss], optimizer(args).update
    draw = partial(generate, args=args, train=True)
    z_d, z_g = (random.normal(k, (len(index), args.latent)) for k in keys[:2])

    g, d = state.params
    fake, s_g = draw(tree.cast(g, dtype), state.model.g, z_d, label)

    def d_loss(d: Tree) -> tuple[Tensor, tuple[Tree, Tensor, Tensor]]:
        logits = partial(discriminate, tree.cast(d, dtype), args=args)
        on_real, s_d = logits(state.model.d, real, label, keys[2])  # each by its own batch statistics
        on_fake, s_d = logits(s_d, fake, label, keys[3])
        return losses.discriminator(on_real, on_fake), (s_d, on_real, on_fake)

    (loss_d, (s_d, on_real, on_fake)), grads_d = value_and_grad(d_loss, has_aux=True)(d)
    right = {"train/real_right": (on_real > 0).float().mean(), "train/fake_right": (on_fake < 0).float().mean()}
    loss_d, right, grads_d = parallel.mean((loss_d, right, grads_d))
    d, opt_d = update(grads_d, state.opt.d, d)

    def g_loss(g: Tree) -> tuple[Tensor, Tree]:
        fake, after = draw(tree.cast(g, dtype), s_g, z_g, label)
        on_fake, _ = discriminate(tree.cast(d, dtype), s_d, fake, label, keys[4], args=args)
        return losses.generator(on_fake), after

    (loss_g, s_g), grads_g = value_and_grad(g_loss, has_aux=True)(g)
    loss_g, grads_g = parallel.mean((loss_g, grads_g))
    g, opt_g = update(grads_g, state.opt.g, g)

    ema = optim.ema(state.ema, {"params": g, "model": s_g}, args.ema_decay, state.step)
    out = {"train/loss_d": loss_d, "train/loss_g": loss_g, **right}
    out |= {"grad/norm_d": tree.global_norm(grads_d), "grad/norm_g": tree.global_norm(grads_g)}
    after = gan.Pair(g, d), gan.Pair(s_g, s_d), gan.Pair(opt_g, opt_d)
    return TrainState(*after, ema, state.key, state.step + 1), out


# ---- evaluation ----


@torch.no_grad()
def draw(ema: Tree, key: Key, label: Int[Tensor, "n"], args: Args) -> Float[Tensor, "n 1 28 28"]:
    """Pictures in [-1, 1] of the averaged generator; `label` counts where it is conditional."""
    z = random.normal(key, (len(label), args.latent))
    parts = [
        generate(ema["params"], ema["model"], *part, args=args, train=False)[0]
        for part in zip(z.split(500), label.split(500), strict=True)
    ]
    return torch.cat(parts)


def evaluate(pictures: Tensor, label: Tensor, real: Tensor, extractor: judge.Extractor, args: Args) -> dict[str, float]:
    """KID of generated pictures against real features, the share of the rarest class, and, where classes were asked
    for, how often the extractor's classifier sees the class that was asked for."""
    seen = extractor.classify(pictures).argmax(1)
    values = {"kid": metrics.kid(real, extractor.features(pictures))[0]}
    values["rarest_class"] = float(torch.bincount(seen, minlength=len(NAMES)).min() / len(seen))
    return values | ({"agreement": float((seen == label).float().mean())} if args.conditional else {})


# ---- training: plumbing ----


def train(args: Args) -> None:
    if args.data != "fashion":
        raise RunError(f"--data {args.data}: this experiment compares features of Fashion-MNIST, so only fashion")
    splits = images.load(args.data, args.data_dir)
    extractor = judge.clothes(args.extractor, run.device(args))
    here = run.Run(args, NAME, Path(__file__), unit="images", minimise="val/kid")
    data, test = tree.to(splits.train, here.device), tree.to(splits.test, here.device)
    print(f"{len(data.labels):,} training pictures; {here.device}, {here.dtype}")
    state = here.start(init_state)
    print(tree.table(state.params, depth=2))
    update = here.compile(step, dtype=here.dtype)
    order = here.batches(partial(batches.numbers, n=len(data.labels), size=args.batch))

    k_show, k_test = random.split(here.show_key)
    shown = torch.arange(8 * len(NAMES), device=here.device) // 8  # eight of each class, one class a row
    real = extractor.features(test.pixels / 127.5 - 1)

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            label = test.labels[:2000]
            for one, s in here.each(state):
                sheet = draw(s.ema, k_show, shown, args)
                one.writer.add_image("samples/grid", plot.tile(sheet / 2 + 0.5, 8), n + 1)
                values = evaluate(draw(s.ema, k_test, label, args), label, real, extractor, args)
                one.log(n + 1, {f"val/{name}": value for name, value in values.items()})
                collapse = "   mode collapse: a class has all but vanished" if values["rarest_class"] < 0.01 else ""
                one.write(f"step {n + 1}: KID {values['kid']:.4f}, rarest class {values['rarest_class']:.3f}{collapse}")
        for one, before, after, i in here.diagnosed(n, state, index):
            z = random.normal(here.show_key, (len(i), args.latent))
            examples = data.pixels[i] / 127.5 - 1, data.labels[i], z
            worst = diagnose.report(one, n + 1, before, after, objectives(after, args), examples)[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(data.pixels[i][worst] / 255, 8), n + 1)
    if not here.evaluates(state):
        return
    label = test.labels[: args.kid_samples]
    floor = metrics.kid(real, extractor.features(data.pixels[:10_000] / 127.5 - 1))[0]
    results = []
    for one, s in here.each(state):
        values = evaluate(draw(s.ema, k_test, label, args), label, real, extractor, args)
        lines = [f"{name:<26} {value:.4f}" for name, value in values.items()]
        lines += [f"{'kid of training pictures':<26} {floor:.4f}"]
        lines += [f"on {len(label):,} pictures; KID on the features of {extractor.name}"]
        plot.save(plot.tile(draw(s.ema, k_show, shown, args) / 2 + 0.5, 8), one.path / "samples.png", scale=2)
        results.append(({f"test/{name}": value for name, value in values.items()}, lines))
    here.finish(results, "--n 64")


# ---- using a run ----


class Model(NamedTuple):
    ema: Tree
    args: Args


def load(path: Path, args: Args) -> Model:
    return Model(run.load(path, init_state(random.key(0), args).ema, "ema"), args)


@dataclass(frozen=True)
class Use(run.Use):
    """Generate pictures with the latest finished run."""

    n: run.Count = 64
    """How many pictures."""
    label: str | None = None
    """A kind of clothes, such as "ankle boot", of a run that was trained with --conditional; each in turn if none."""
    out: run.NewFile = Path("samples.png")
    """Where to save the pictures."""
    seed: run.Seed = 0
    """Decides what is generated."""


def answers(use: Use, model: Model) -> Iterator[Answer]:
    """One picture. Raises RunError for a label that cannot be asked for."""
    ema, args = model
    if use.label is not None and not args.conditional:
        raise RunError(f"the run was trained without --conditional, so it cannot generate --label {use.label!r}")
    if use.label is not None and use.label not in NAMES:
        raise RunError(f"no label {use.label!r}: {', '.join(NAMES)}")
    label = torch.arange(use.n) % len(NAMES) if use.label is None else torch.full((use.n,), NAMES.index(use.label))
    columns = len(NAMES) if use.label is None and args.conditional else 8
    sheet = plot.tile(draw(ema, random.key(use.seed), label, args) / 2 + 0.5, columns)
    yield Picture(sheet, use.out, f"{use.n} pictures")


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
