"""Faces from a code of a hundred numbers: a convolutional variational autoencoder (Kingma & Welling 2014).

What it shows: 2.07 bits per dimension of held-out faces; ways from face to face; glasses and hair added to codes, which
a classifier of faces sees in all of them (RESULTS.md, lib/tasks/judge.py). The bound is on -log2 p(picture) per pixel
and colour, averaged over the test faces with one draw of the code each, always by the same key.
`just run exp_vae_faces`, then `just sample exp_vae_faces change 3 --add glasses`.
"""

import functools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lib import conv, diagnose, metrics, nn, optim, parallel, plot, random, run, tree
from lib.data import batches, faces
from lib.data.albums import Pictures
from lib.random import Key
from lib.tasks import arithmetic, directions, pictures
from lib.tasks import judge as judges
from lib.tasks.codes import Coder, Use, answers
from lib.tasks.names import LABELS
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
BIN = 1 / 255  # width of a pixel's value, of [0, 1]


@dataclass(frozen=True)
class Args(run.Args):
    """Train a variational autoencoder of faces."""

    data: str = "default"
    """Which faces: default (drawn ones), glasses, celeba, anime (each under --data-dir), or a folder of pictures."""
    size: run.Count = 64
    """Pixels of a picture's side: --coarsest, doubled once or more."""
    faces: run.Count = 10_000
    """How many drawn faces to train on."""
    code: run.Count = 100
    """How many numbers a code has."""
    width: run.Count = 32
    """Channels of the finest convolution; each halving of the side doubles them."""
    coarsest: run.Count = 4
    """Pixels of a side of the last map before the code."""
    hidden: run.Natural = 0
    """Width of a dense layer between the last map and the code; 0: there is none."""
    likelihood: Literal["logistic", "gaussian"] = "logistic"
    """What is maximised: a pixel's logistic probability, its middle and scale decoded; or the book's squared error."""
    beta: run.Amount = 1.0
    """Weight of the code's divergence (Higgins et al. 2017); with 1 the loss is the bound itself."""
    kl_warmup: run.Natural = 0
    """Steps in which the weight --beta grows from 0."""
    batch: run.Count = 32
    """Pictures of a batch."""
    lr: run.Amount = 2e-3
    """Learning rate, the highest where it changes."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: a warm-up of a twentieth of the run, then half a cosine to 0; or a constant learning rate."""
    clip: run.Amount = 1.0
    """Largest global norm of the gradient of bits per dimension; 0: it is not clipped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        possible = [self.coarsest * 2**i for i in range(1, 9) if 8 <= self.coarsest * 2**i <= 1024]
        if self.size not in possible:
            raise ValueError(f"--size {self.size} with --coarsest {self.coarsest}: possible are {possible}")


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=5000, eval_every=1000, save_every=1000),
    # Chapter 7: 256 pixels, 8-16-32 channels and 1024 units to a code of 100, Adam at 1e-4, batches of 16, 10 epochs,
    # squared error.
    "book": Args(
        steps=2250, data="glasses", size=256, width=8, coarsest=32, hidden=1024, likelihood="gaussian", batch=16,
        lr=1e-4, schedule="constant", clip=0.0, eval_every=225, save_every=450,
    ),
    "best": Args(
        steps=40_000, faces=50_000, width=64, code=128, batch=256, lr=1e-3, eval_every=1000, save_every=5000,
        log_every=100,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----
# Axes: b batch, z code, h height, w width.


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def init(key: Key, args: Args) -> Tree:
    """{"encoder": {"convs", "dense"}, "decoder": {"dense", "convs", "log_scale" of logistic}}. Strided convolutions
    keep the mean square of what they read; the last one starts near grey."""
    c = [args.width * 2**i for i in range(int(math.log2(args.size // args.coarsest)))]
    dense = (c[-1] * args.coarsest**2, *([args.hidden] if args.hidden else []))
    k_down, k_up, k_code, k_flat, k_out = random.split(key, 5)
    pairs = list(zip([3, *c], c, strict=False))
    down = [conv.conv_init(k, a, b, 4) for k, (a, b) in zip(random.split(k_down, len(c)), pairs, strict=True)]
    pairs = list(zip(c[::-1], c[-2::-1], strict=False))
    up = [
        conv.conv_transpose_init(k, a, b, 4, std=math.sqrt(2 / (4 * a)))  # a stride of 2 leaves 2 x 2 of the 4 x 4 taps
        for k, (a, b) in zip(random.split(k_up, len(pairs)), pairs, strict=False)
    ]
    up.append(conv.conv_transpose_init(k_out, c[0], 3, 4, std=0.02))
    scale = {} if args.likelihood == "gaussian" else {"log_scale": torch.full((3,), -2.0, device=key.device)}
    return {
        "encoder": {"convs": down, "dense": nn.mlp_init(k_code, (*dense, 2 * args.code))},
        "decoder": {"dense": nn.mlp_init(k_flat, (args.code, *dense[::-1])), "convs": up, **scale},
    }


class Code(NamedTuple):
    """A normal distribution with independent components."""

    mean: Float[Tensor, "b z"]
    log_var: Float[Tensor, "b z"]


class Pixels(NamedTuple):
    """Of the distribution of every pixel; `middle` can lie beyond black and white, 0 and 1."""

    middle: Float[Tensor, "b 3 h w"]
    log_scale: Float[Tensor, "3 1 1"] | None


def encode(params: Tree, x: Float[Tensor, "b 3 h w"]) -> Code:
    """q(code | picture), of pictures with values in [0, 1]."""
    x = 2 * x - 1
    for p in params["encoder"]["convs"]:
        x = F.silu(conv.conv(p, x, stride=2, padding=1))
    flat = nn.mlp(params["encoder"]["dense"], rearrange(x, "b c h w -> b (c h w)"), activation=F.silu)
    return Code(*flat.float().chunk(2, dim=1))


def decode(params: Tree, code: Float[Tensor, "b z"], args: Args) -> Pixels:
    """p(picture | code)."""
    p = params["decoder"]
    x = nn.mlp(p["dense"], code.to(p["convs"][0]["w"].dtype), activation=F.silu)
    x = rearrange(x, "b (c h w) -> b c h w", h=args.coarsest, w=args.coarsest)
    for q in p["convs"]:
        x = conv.conv_transpose(q, F.silu(x), stride=2, padding=1)
    if args.likelihood == "gaussian":
        return Pixels(x.float().sigmoid(), None)
    return Pixels(0.5 + x.float(), p["log_scale"].float()[:, None, None].clamp(min=-7))


def log_likelihood(x: Float[Tensor, "b 3 h w"], of: Pixels) -> Float[Tensor, "b"]:
    """log p(picture | code) in nats: of each pixel the logistic distribution's mass in its bin, 1/255 wide; what lies
    beyond black and white counts as theirs (Salimans et al. 2017, section 2.1). Without a scale: the normal density of
    variance 1/2 times the bin, whose gradient is the squared error's."""
    if of.log_scale is None:
        each = -(x - of.middle).square() - 0.5 * math.log(math.pi) + math.log(BIN)
    else:
        sharp = (-of.log_scale).exp()
        above, below = (x + BIN / 2 - of.middle) * sharp, (x - BIN / 2 - of.middle) * sharp
        # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - e^(b - a)), s the logistic function
        inside = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-BIN * sharp))
        each = torch.where(x > 1 - BIN / 2, F.logsigmoid(-below), inside)
        each = torch.where(x < BIN / 2, F.logsigmoid(above), each)
    return reduce(each, "b c h w -> b", "sum")


def divergence(code: Code) -> Float[Tensor, "b"]:
    """KL(q(code | picture) || standard normal) in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (code.mean.square() + code.log_var.exp() - 1 - code.log_var).sum(1)


def bound(
    params: Tree, x: UInt8[Tensor, "b 3 h w"], key: Key | None, *, args: Args, dtype: torch.dtype
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """(-log p(picture | code), divergence) of each picture in bits per dimension, which is a pixel's colour; their sum
    bounds -log p(picture) from above. The code is drawn with the key; without one it is the mean: no bound then."""
    params, pixels = tree.cast(params, dtype), x / 255
    code = encode(params, pixels.to(dtype))
    z = code.mean if key is None else code.mean + (code.log_var / 2).exp() * random.normal(key, tuple(code.mean.shape))
    bits = 1 / (math.log(2) * x[0].numel())
    return -bits * log_likelihood(pixels, decode(params, z, args)), bits * divergence(code)


def loss(
    params: Tree, x: UInt8[Tensor, "b 3 h w"], key: Key | None, weight: Tensor | float = 1.0, *, args: Args,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:  # fmt: skip
    """Reconstruction + weight * divergence, means over the pictures, and the two."""
    reconstruction, kl = (part.mean() for part in bound(params, x, key, args=args, dtype=dtype))
    return reconstruction + weight * kl, {"train/reconstruction": reconstruction, "train/kl": kl}


def optimizer(args: Args) -> optim.Optimizer:
    adam = optim.adam(optim.cosine(args.lr, args.steps, args.steps // 20) if args.schedule == "cosine" else args.lr)
    return parallel.shard_optimizer(adam, args.shard_optimizer)


def init_state(key: Key, args: Args) -> TrainState:
    k_params, k_train = random.split(key)
    params = init(k_params, args)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args).init(params), k_train, step)


def step(
    state: TrainState, index: Int[Tensor, "b"], data: UInt8[Tensor, "n 3 h w"], *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update on the pictures `index` of the data, which lies on the device as a whole."""
    key = random.fold_in(state.key, state.step)
    weight = args.beta * ((state.step + 1) / args.kl_warmup).clamp(max=1) if args.kl_warmup else args.beta
    objective = value_and_grad(partial(loss, args=args, dtype=dtype), has_aux=True)
    (value, out), grads = parallel.mean(objective(state.params, data[index], key, weight))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimizer(args).update(grads, state.opt, state.params)
    return TrainState(params, opt, state.key, state.step + 1), {"train/loss": value, "grad/norm": norm, **out}


# ---- codes ----


@torch.no_grad()
def codes(params: Tree, x: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n z"]:
    """The means, in fp32."""
    return torch.cat([encode(params, part / 255).mean for part in x.split(250)])


@torch.no_grad()
def decoded(params: Tree, code: Float[Tensor, "n z"], args: Args) -> Float[Tensor, "n 3 h w"]:
    """The middles, in [0, 1]."""
    return torch.cat([decode(params, part, args).middle.clamp(0, 1) for part in code.split(250)])


@torch.no_grad()
def held_out(params: Tree, x: UInt8[Tensor, "n 3 h w"], key: Key, args: Args) -> dict[str, float]:
    """The bound, reconstruction and divergence in bits per dimension, with beta 1."""
    parts = x.split(250)
    found = [
        torch.stack(bound(params, part, k, args=args, dtype=torch.float32))
        for k, part in zip(random.split(key, len(parts)), parts, strict=True)
    ]
    reconstruction, kl = torch.cat(found, 1).mean(1).tolist()
    return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


# ---- training: plumbing ----


def train(args: Args) -> None:
    found = faces.load(args.data, args.data_dir, size=args.size, n=args.faces)
    metrics.check_kid(found.name, found.val.pixels, found.test.pixels)
    here = run.Run(args, NAME, Path(__file__), unit="images")
    here.once(lambda: run.write_json(here.path / LABELS, found.names))
    data, val, test = (part.pixels.to(here.device) for part in (found.train, found.val, found.test))
    print(f"{len(data):,} training pictures; {here.device}, {here.dtype}")
    if not found.names:
        print(f"{found.name} has no attributes: no arithmetic on codes, and no judge")
    state = here.start(init_state)
    print(tree.table(state.params, depth=2))
    update = here.compile(step, dtype=here.dtype)
    order = here.batches(partial(batches.numbers, n=len(data), size=args.batch))

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                values = held_out(s.params, val, here.show_key, args)
                one.log(n + 1, {f"val/{name}": value for name, value in values.items()})
                one.write(f"step {n + 1}: held out " + ", ".join(f"{k} {v:.3f}" for k, v in values.items()))
                show(one, n + 1, coder(s.params, args), test, here.show_key)
        for one, before, after, i in here.diagnosed(n, state, index):
            plain = lambda p, x: loss(p, x, None, args=args, dtype=torch.float32)[0]  # noqa: E731
            worst = diagnose.report(one, n + 1, before, after, {"params": plain}, data[i])[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(data[i][worst] / 255, 8), n + 1)
    if not here.evaluates(state):
        return
    found = found._replace(train=tree.to(found.train, here.device), test=tree.to(found.test, here.device))
    results = [score(one, s.params, found, here.show_key, args) for one, s in here.each(state)]
    here.finish(results, f'change 0 1 2 --add "{next(iter(found.names.values()))[1]}"' if found.names else "--n 64")


@torch.no_grad()
def show(here: run.Place, n: int, coder: Coder, test: UInt8[Tensor, "n 3 h w"], key: Key) -> None:
    """Test pictures above their reconstructions, pictures of random codes, and ways between faces."""
    x = test[:10]
    code = coder.encode(x)
    here.writer.add_image("samples/reconstruction", plot.tile(torch.cat([x / 255, coder.decode(code)]), len(x)), n)
    here.writer.add_image("samples/grid", plot.tile(coder.generated(40, key), 10), n)
    ways = [pictures.between(code[i], code[(i + 1) % len(x)], 10) for i in range(0, len(x), 2)]
    here.writer.add_image("samples/interpolation", plot.tile(coder.decode(torch.cat(ways)), 10), n)
    plot.add_gif(here.writer, "samples/animation", coder.animation(code[0], code[-1]), n)


def score(here: run.Place, params: Tree, found: Pictures, key: Key, args: Args) -> tuple[dict[str, float], list[str]]:
    """The bound on test pictures, arithmetic on codes as the judge sees it, and the lines to print. Pictures are
    saved."""
    test = found.test.pixels
    values = {f"test/{name}": value for name, value in held_out(params, test, key, args).items()}
    lines = [f"{name:<22} {value:.4f} bits per dimension" for name, value in values.items()]
    model = coder(params, args)
    sheet = model.generated(max(64, len(test)), key)
    plot.save(plot.tile(sheet[:64], 8), here.path / "samples.png", scale=2)
    plot.save(model.animation(*model.encode(test[[0, -1]])), here.path / "interpolation.gif")
    if not found.names:
        return values, lines
    judge = judges.load(found, here.device)
    features = [
        judge.features(x) for x in (test / 127.5 - 1, 2 * sheet - 1, found.train.pixels[: len(test)] / 127.5 - 1)
    ]
    values["test/kid"], floor = (metrics.kid(features[0], x)[0] for x in features[1:])
    lines.append(
        f"{'kid of samples':<22} {values['test/kid']:.4f}, of training pictures {floor:.4f}, by judge {judge.name}"
    )
    size = args.size if args.data == "default" else None
    more, table = arithmetic.report(here, model.encode, model.decode, found, judge, key, size)
    return values | more, lines + table


# ---- using a run ----


def coder(params: Tree, args: Args) -> Coder:
    """The parameters as what `just sample` asks: codes are means, pictures middles. It loads data where it must."""
    data = functools.cache(partial(faces.load, args.data, args.data_dir, size=args.size, n=args.faces))
    found = functools.cache(lambda: directions.directions(lambda z: decode(params, z, args).middle, args.code))
    return Coder(partial(codes, params), partial(decoded, params, args=args), args.code, args.size, data, found)


def load(path: Path, args: Args) -> Coder:
    return coder(run.load(path, init_state(random.key(0), args)).params, args)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
