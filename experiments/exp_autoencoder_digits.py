"""Digits through a bottleneck: a dense autoencoder beside principal component analysis with as many numbers.

What it shows: with 20 numbers each, held-out digits come back with less than half of PCA's squared error, 7.7 a picture
against 18.6; with two (--bottleneck 2 --steps 3000) 31.9 against 43.3. A linear probe reads 88 % of the labels off 20
numbers and 65 % off two, off PCA's 88 % and 43 %. The run takes 47 s of CPU time.
`just run exp_autoencoder_digits`, then `just sample exp_autoencoder_digits way 3 7`.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from torch import Tensor
from tyro.conf import Positional

from lib import diagnose, nn, optim, parallel, plot, random, run, tree
from lib.answers import Answer, Picture, Text
from lib.data import batches, images
from lib.data.images import Images
from lib.faults import RunError
from lib.random import Key
from lib.tasks import pictures
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
SIDE = 28  # pixels


@dataclass(frozen=True)
class Args(run.Args):
    """Train an autoencoder of small grey pictures."""

    data: str = "digits"
    """Which pictures: digits (10,000 of MNIST's), mnist, fashion, or a folder with a subfolder of them per label."""
    hidden: tuple[run.Count, ...] = (400, 200)
    """Widths between the pixels and the code; the decoder has the same, backwards."""
    bottleneck: run.Count = 20
    """How many numbers a code has."""
    batch: run.Count = 128
    """Pictures of a batch."""
    lr: run.Amount = 2e-3
    """Learning rate, the highest where it changes."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: a warm-up of a twentieth of the run, then half a cosine to 0; or a constant learning rate."""
    shift: run.Natural = 1
    """By how many pixels, at most, each training picture is shifted, differently each time."""


PRESETS: dict[str, run.Args] = {
    # On two cores eager ends sooner: a step takes 15 ms, too little for a compilation to earn itself back.
    "small": Args(steps=2000, eval_every=500, save_every=1000, compile="off"),
    # Chapter 7: 784-200-20-200-784, ReLU, Adam at 2.5e-4, batches of 32, 10 epochs.
    "book": Args(
        steps=16_880, data="mnist", hidden=(200,), batch=32, lr=2.5e-4, schedule="constant", shift=0, eval_every=1688,
        save_every=1688, log_every=100,
    ),
    "best": Args(
        steps=50_000, data="mnist", hidden=(1024, 512), batch=512, lr=2e-3, eval_every=2500,
        save_every=5000, log_every=100,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def init(key: Key, args: Args) -> Tree:
    """{"encoder", "decoder"}, each of `nn.mlp_init`."""
    k_encoder, k_decoder = random.split(key)
    widths = (SIDE * SIDE, *args.hidden, args.bottleneck)
    return {"encoder": nn.mlp_init(k_encoder, widths), "decoder": nn.mlp_init(k_decoder, widths[::-1])}


def encode(params: Tree, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c"]:
    """Codes of pictures with values in [0, 1]; the layer that makes them is linear."""
    return nn.mlp(params["encoder"], rearrange(x, "b 1 h w -> b (h w)"))


def decode(params: Tree, code: Float[Tensor, "b c"]) -> Float[Tensor, "b 1 h w"]:
    """Pictures with values in (0, 1)."""
    flat = nn.mlp(params["decoder"], code).sigmoid()
    return rearrange(flat, "b (h w) -> b 1 h w", h=SIDE)


def loss(
    params: Tree, x: UInt8[Tensor, "b 1 h w"], key: Key | None, *, args: Args, dtype: torch.dtype
) -> Float[Tensor, ""]:
    """Squared error, summed over the pixels of a picture, the mean over pictures."""
    x = (x if key is None or not args.shift else images.shifted(x, key, args.shift)) / 255
    params = tree.cast(params, dtype)
    y = decode(params, encode(params, x.to(dtype)))
    return (y.float() - x).square().sum((1, 2, 3)).mean()


def optimizer(args: Args) -> optim.Optimizer:
    adam = optim.adam(optim.cosine(args.lr, args.steps, args.steps // 20) if args.schedule == "cosine" else args.lr)
    return parallel.shard_optimizer(adam, args.shard_optimizer)


def init_state(key: Key, args: Args) -> TrainState:
    k_params, k_train = random.split(key)
    params = init(k_params, args)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args).init(params), k_train, step)


def step(
    state: TrainState, index: Int[Tensor, "b"], data: Images, *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update on the pictures `index` of the data, which lies on the device as a whole."""
    objective = value_and_grad(partial(loss, args=args, dtype=dtype))
    key = random.fold_in(state.key, state.step)
    value, grads = parallel.mean(objective(state.params, data.pixels[index], key))
    params, opt = optimizer(args).update(grads, state.opt, state.params)
    out = {"train/loss": value, "train/mse": value / SIDE**2, "grad/norm": tree.global_norm(grads)}
    return TrainState(params, opt, state.key, state.step + 1), out


# ---- what it is measured against ----


class Pca(NamedTuple):
    mean: Float[Tensor, "p"]
    axes: Float[Tensor, "p c"]

    def encode(self, x: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n c"]:
        return (x.flatten(1) - self.mean) @ self.axes

    def decode(self, code: Float[Tensor, "n c"]) -> Float[Tensor, "n 1 h w"]:
        return rearrange(code @ self.axes.T + self.mean, "n (h w) -> n 1 h w", h=SIDE)


def pca(x: Float[Tensor, "n 1 h w"], c: int) -> Pca:
    """The c orthonormal axes of largest variance: no linear autoencoder has a smaller squared error on x."""
    flat = x.flatten(1)
    mean = flat.mean(0)
    _, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean))  # of growing variance
    return Pca(mean, vectors[:, -c:].flip(1))


def probe(
    codes: Float[Tensor, "n c"], labels: Int[Tensor, "n"], test: Float[Tensor, "m c"], test_labels: Int[Tensor, "m"]
) -> float:
    """Linear probe: the test accuracy of logistic regression fitted to frozen codes (standardised, Adam on all)."""
    mean, scale = codes.mean(0), codes.std(0) + 1e-6
    x, k = (codes - mean) / scale, int(labels.max()) + 1
    objective = value_and_grad(lambda p: F.cross_entropy(nn.linear(p, x), labels))
    params = nn.linear_init(random.key(0, x.device), x.shape[1], k)
    adam = optim.adam(optim.cosine(0.3, 300))
    state = adam.init(params)
    for _ in range(300):
        params, state = adam.update(objective(params)[1], state, params)
    return float((nn.linear(params, (test - mean) / scale).argmax(1) == test_labels).float().mean())


# ---- training: plumbing ----


def in_turn(data: Images) -> Images:
    """A picture of each label in turn, as long as they last: of ten digits number 3 is a three, and so is number 13."""
    of_label = F.one_hot(data.labels)
    earlier = (of_label.cumsum(0) * of_label).sum(1)  # with the same label
    order = (earlier * of_label.shape[1] + data.labels).argsort()
    return Images(data.pixels[order], data.labels[order])


def interpolation(params: Tree, x: Float[Tensor, "2 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """From one picture to another: the decoded codes on the straight line between theirs."""
    first, last = encode(params, x)
    return decode(params, pictures.between(first, last, 10))


def latent_map(params: Tree, data: Images, names: list[str], n: int = 20) -> Figure:
    """Of a bottleneck of two: where the pictures lie, coloured by label, and what the decoder makes of each place.
    Axes are percentiles of the codes, which are spread too unevenly for their values."""
    code = encode(params, data.pixels / 255)
    percent = 100 * (code.argsort(0).argsort(0) + 0.5) / len(code)
    columns, rows = code.quantile((torch.arange(n, device=code.device) + 0.5) / n, 0).T
    places = torch.cartesian_prod(rows.flip(0), columns).flip(1)
    sheet = rearrange(decode(params, places), "(r k) 1 h w -> (r h) (k w)", r=n)
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, name in enumerate(names):
        left.scatter(*percent[data.labels == label].T.cpu().numpy(), s=8, color=f"C{label}", linewidths=0, label=name)
    figure.legend(markerscale=3, loc="outside left center", frameon=False)
    right.imshow(sheet.cpu().numpy(), cmap="gray", extent=(0, 100, 0, 100))
    left.set(title="codes of test pictures", xlim=(0, 100), ylim=(0, 100), aspect="equal")
    right.set(title="decoded codes")
    return figure


def train(args: Args) -> None:
    splits = images.load(args.data, args.data_dir)
    here = run.Run(args, NAME, Path(__file__), unit="images")
    data, val, test = (tree.to(part, here.device) for part in (splits.train, splits.val, in_turn(splits.test)))
    print(f"{len(data.labels):,} training pictures; {here.device}, {here.dtype}")
    state = here.start(init_state)
    print(tree.table(state.params, depth=1))
    update = here.compile(step, dtype=here.dtype)
    order = here.batches(partial(batches.numbers, n=len(data.labels), size=args.batch))
    base = pca(data.pixels / 255, args.bottleneck)

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                error = float(loss(s.params, val.pixels, None, args=args, dtype=here.dtype))
                one.log(n + 1, {"val/loss": error, "val/mse": error / SIDE**2})
                one.write(f"step {n + 1}: held-out squared error per picture {error:.2f}")
                show(one, n + 1, s.params, test, splits.names)
        for one, before, after, i in here.diagnosed(n, state, index):
            plain = partial(loss, key=None, args=args, dtype=torch.float32)
            worst = diagnose.report(one, n + 1, before, after, {"params": plain}, data.pixels[i])[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(data.pixels[i][worst] / 255, 8), n + 1)
    if not here.evaluates(state):
        return
    here.finish([score(s.params, base, data, test) for _, s in here.each(state)], "way 3 7")


@torch.no_grad()
def score(params: Tree, base: Pca, data: Images, test: Images) -> tuple[dict[str, float], list[str]]:
    """Squared error of test pictures and accuracy of a linear probe, beside PCA's, and the lines to print."""
    result: dict[str, float] = {}
    lines = [f"{'test pictures':<14}{'squared error per pixel':>24}{'per picture':>13}{'linear probe':>14}"]
    coders: dict[str, tuple[Callable, Callable]] = {
        "autoencoder": (partial(encode, params), partial(decode, params)),
        "PCA": (base.encode, base.decode),
    }
    for name, (encoder, decoder) in coders.items():
        x = test.pixels / 255
        codes, test_codes = encoder(data.pixels / 255), encoder(x)
        mse = float((decoder(test_codes) - x).square().mean())
        accuracy = probe(codes, data.labels, test_codes, test.labels)
        result |= {f"{name.lower()}/mse": mse, f"{name.lower()}/probe": accuracy}
        lines.append(f"{name:<14}{mse:24.5f}{mse * SIDE**2:13.2f}{100 * accuracy:12.1f} %")
    return result, lines


@torch.no_grad()
def show(here: run.Place, n: int, params: Tree, test: Images, names: list[str]) -> None:
    """Test pictures above their reconstructions, ways from one to the next, and the map of a plane of codes."""
    x = test.pixels[:10] / 255
    codes = encode(params, x)
    both = torch.cat([x, decode(params, codes)])
    here.writer.add_image("samples/reconstruction", plot.tile(both, len(x)), n)
    ways = [interpolation(params, x[i : i + 2]) for i in range(0, len(x) - 1, 2)]
    here.writer.add_image("samples/interpolation", plot.tile(torch.cat(ways), 10), n)
    if codes.shape[1] == 2:
        here.writer.add_figure("samples/codes", latent_map(params, test, names), n)


# ---- using a run ----


class Model(NamedTuple):
    params: Tree
    bottleneck: int
    test: Callable[[], UInt8[Tensor, "n 1 h w"]]


def load(path: Path, args: Args) -> Model:
    """The parameters of a finished run, and its test pictures, which are loaded when one is asked for."""
    test = functools.cache(lambda: in_turn(images.load(args.data, args.data_dir).test).pixels)
    return Model(run.load(path, init_state(random.key(0), args)).params, args.bottleneck, test)


@dataclass(frozen=True)
class Reconstruct(run.Use):
    """Show pictures above their reconstructions; the codes of files are printed."""

    pictures: Positional[tuple[run.Example, ...]] = tuple(map(str, range(10)))
    """Numbers of test pictures, or picture files, light on dark. Digits take turns: 3 and 13 are threes."""
    out: run.NewFile = Path("reconstruction.png")
    """Where to save the picture."""


@dataclass(frozen=True)
class Way(run.Use):
    """Show the way from one picture to another: decoded codes on the straight line between theirs."""

    pictures: Positional[tuple[run.Example, run.Example]] = ("3", "7")
    """Two numbers of test pictures, or picture files, light on dark. Digits take turns: 3 and 13 are threes."""
    out: run.NewFile = Path("interpolation.png")
    """Where to save the picture."""


@dataclass(frozen=True)
class Decode(run.Use):
    """Show the picture that a code stands for."""

    code: Positional[tuple[float, ...]] = ()
    """The code: as many numbers as the run's bottleneck has."""
    out: run.NewFile = Path("code.png")
    """Where to save the picture."""


Use = Reconstruct | Way | Decode


@torch.no_grad()
def answers(use: Use, model: Model) -> Iterator[Answer]:
    """One picture, and the code of each file. Raises DataError, RunError."""
    match use:
        case Decode():
            if len(use.code) != model.bottleneck:
                raise RunError(f"a code of {len(use.code)} numbers: this run's codes have {model.bottleneck}")
            sheet, columns = decode(model.params, torch.tensor([use.code])), 1
        case Way():
            x, _ = pictures.picked(use.pictures, model.test, SIDE, channels=1)
            sheet, columns = interpolation(model.params, x / 255), 10
        case Reconstruct():
            x, numbers = pictures.picked(use.pictures, model.test, SIDE, channels=1)
            codes = encode(model.params, x / 255)
            for code, number in zip(codes.tolist(), numbers, strict=True):
                if number is None:
                    yield Text(" ".join(f"{value:.4f}" for value in code) + "\n")
            sheet, columns = torch.cat([x / 255, decode(model.params, codes)]), len(x)
    frames, versions = 10 * isinstance(use, Way), 2 * isinstance(use, Reconstruct)
    yield Picture(plot.tile(sheet, columns), use.out, scale=4, frames=frames, versions=versions)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
