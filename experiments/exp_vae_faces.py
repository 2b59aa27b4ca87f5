"""Faces from a code of a hundred numbers: a convolutional variational autoencoder (Kingma & Welling 2014).

What it shows: 2.07 bits per dimension of held-out faces; ways from face to face; glasses and hair added to codes, which
a classifier of faces sees in all of them (RESULTS.md, lib/tasks/judge.py). The bound is on -log2 p(picture) per pixel and
colour, averaged over the test faces with one draw of the code each, always by the same key.
`just run exp_vae_faces`, then `just sample exp_vae_faces --add glasses --to 3`.
"""

from lib.data import batches
import math
from collections.abc import Sequence
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
from lib.data import faces, images
from lib.data.faces import Faces, Part
from lib.faults import RunError
from lib.random import Key
from lib.run import cli
from lib.tasks import judge as judges
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
BIN = 1 / 255  # width of a pixel's value, of [0, 1]
ENOUGH = 20  # training faces with a value of an attribute, for a mean of their codes
KINDS = ("before", "once", "twice", "by_threes")
JUDGED = 200  # test faces in each figure of the arithmetic, at most


@dataclass(frozen=True)
class Args(run.Args):
    """Train a variational autoencoder of faces."""

    data: str = "default"
    """default (drawn faces), glasses, celeba, anime (each under --data-dir), or a folder of pictures."""
    size: int = 64
    """Pixels of a side: --coarsest, doubled once or more."""
    faces: int = 10_000
    """Drawn faces to train on."""
    code: int = 100
    """Numbers in a code."""
    width: int = 32
    """Channels at the finest of the convolutions; each halving of the side doubles them."""
    coarsest: int = 4
    """Pixels of a side of the last map before the code."""
    hidden: int = 0
    """Width of a dense layer between that map and the code; 0: none."""
    likelihood: Literal["logistic", "gaussian"] = "logistic"
    """Of a pixel's value in its bin: logistic, its middle and scale decoded; or the book's squared error."""
    beta: float = 1.0
    """Weight of the code's divergence (Higgins et al. 2017); 1 is the bound itself."""
    kl_warmup: int = 0
    """Steps in which that weight grows from 0."""
    batch: int = 32
    lr: float = 2e-3
    """Peak learning rate: a warm-up of a twentieth of the run, then half a cosine to 0; or constant."""
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 1.0
    """Largest global norm of the gradient of bits per dimension; 0: no clipping."""

    def __post_init__(self) -> None:
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
    """Strided convolutions keep the mean square of what they read; the last one starts near grey."""
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
def pictures(params: Tree, code: Float[Tensor, "n z"], args: Args) -> Float[Tensor, "n 3 h w"]:
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


def path(code: Float[Tensor, "2 z"], n: int) -> Float[Tensor, "n z"]:
    """Codes on the straight line from one to the other."""
    return torch.lerp(code[0], code[1], torch.linspace(0, 1, n, device=code.device)[:, None])


class Means(NamedTuple):
    """Mean codes of training faces: `of[name][v]` of those whose attribute `name` has value number v, `but[name][v]`
    of the others. Values that fewer than ENOUGH faces have, or lack, are nan."""

    of: dict[str, Float[Tensor, "k z"]]
    but: dict[str, Float[Tensor, "k z"]]


def means(code: Float[Tensor, "n z"], part: Part, names: dict[str, list[str]]) -> Means:
    found = Means({}, {})
    for name, values in names.items():
        has = (part.attributes[name][:, None] == torch.arange(len(values), device=code.device)).float()
        for table, which in ((found.of, has), (found.but, 1 - has)):
            n = which.sum(0)[:, None]
            table[name] = torch.where(n < ENOUGH, torch.nan, which.T @ code / n)
    return found


# ---- training: plumbing ----


def train(args: Args) -> None:
    found = faces.load(args.data, args.data_dir, size=args.size, n=args.faces)
    here = run.Run(args, NAME, Path(__file__), unit="images")
    data, val, test = (part.pixels.to(here.device) for part in (found.train, found.val, found.test))
    print(f"{len(data):,} training pictures; {here.device}, {here.dtype}")
    if not found.names:
        print(f"{found.name} has no attributes: no arithmetic on codes, and no judge")
    state = here.start(init_state)
    print(tree.table(state.params, depth=2))
    update = here.compile(step, dtype=here.dtype)
    batches = here.batches(partial(batches.numbers, n=len(data), size=args.batch))

    for n in here.progress():
        index = next(batches)
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                values = held_out(s.params, val, here.show_key, args)
                one.log(n + 1, {f"val/{name}": value for name, value in values.items()})
                one.write(f"step {n + 1}: held out " + ", ".join(f"{k} {v:.3f}" for k, v in values.items()))
                show(one, n + 1, s.params, test, here.show_key, args)
        for one, before, after, i in here.diagnosed(n, state, index):
            plain = lambda p, x: loss(p, x, None, args=args, dtype=torch.float32)[0]  # noqa: E731
            worst = diagnose.report(one, n + 1, before, after, {"params": plain}, data[i])[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(data[i][worst] / 255, 8), n + 1)
    if not here.evaluates(state):
        return
    found = found._replace(train=tree.to(found.train, here.device), test=tree.to(found.test, here.device))
    results = [score(one, s.params, found, here.show_key, args) for one, s in here.each(state)]
    here.finish(results, f"--add {next(iter(found.names.values()))[1]} --to 0 1 2" if found.names else "--n 64")


@torch.no_grad()
def show(here: run.Run | run.View, n: int, params: Tree, test: Tensor, key: Key, args: Args) -> None:
    """Test pictures above their reconstructions, pictures of codes drawn at random, and ways between faces."""
    x = test[:10]
    code = codes(params, x)
    both = torch.cat([x / 255, pictures(params, code, args)])
    here.writer.add_image("samples/reconstruction", plot.tile(both, len(x)), n)
    here.writer.add_image("samples/grid", plot.tile(drawn_at_random(params, 40, key, args), 10), n)
    ways = [path(code[[i, (i + 1) % len(x)]], 10) for i in range(0, len(x), 2)]
    here.writer.add_image("samples/interpolation", plot.tile(pictures(params, torch.cat(ways), args), 10), n)
    plot.add_gif(here.writer, "samples/animation", animation(params, code[[0, -1]], args), n)


def drawn_at_random(params: Tree, n: int, key: Key, args: Args) -> Float[Tensor, "n 3 h w"]:
    return pictures(params, random.normal(key, (n, args.code)), args)


def animation(params: Tree, code: Float[Tensor, "2 z"], args: Args) -> bytes:
    """A GIF of the way from one to the other and back, at least 192 pixels wide."""
    frames = pictures(params, path(code, 24), args)
    return plot.gif(F.interpolate(frames, scale_factor=max(1, 192 // args.size)))


def score(
    here: run.Run | run.View, params: Tree, found: Faces, key: Key, args: Args
) -> tuple[dict[str, float], list[str]]:
    """The bound on test pictures, arithmetic on codes as the judge sees it, and the lines to print; draws the files."""
    test = found.test.pixels
    values = {f"test/{name}": value for name, value in held_out(params, test, key, args).items()}
    lines = [f"{name:<22} {value:.4f} bits per dimension" for name, value in values.items()]
    sheet = drawn_at_random(params, max(64, len(test)), key, args)
    plot.save(plot.tile(sheet[:64], 8), here.path / "samples.png", scale=2)
    plot.save(animation(params, codes(params, test[[0, -1]]), args), here.path / "interpolation.gif")
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
    more, table = arithmetic(here, params, found, judge, key, args)
    return values | more, lines + table


@torch.no_grad()
def arithmetic(
    here: run.Run | run.View, params: Tree, found: Faces, judge: judges.Judge, key: Key, args: Args
) -> tuple[dict[str, float], list[str]]:
    """Test faces moved between the first two values of each attribute, by the difference of the mean codes of training
    faces, twice that, or the difference of three random ones of either kind: the shares in which the judge sees the new
    value, and sees the other attributes as in the plain reconstruction."""
    train = codes(params, found.train.pixels)
    mean = means(train, found.train, found.names)
    values: dict[str, float] = {}
    lines = ["\n% in which the judge sees the new value, and of other attributes as they were"]
    lines += [f"{'to':<14}{'faces':>6}" + "".join(f"{kind.replace('_', ' '):>15}" for kind in KINDS)]
    draw = partial(pictures, params, args=args)
    for name, of in mean.of.items():
        for old, new in ((0, 1), (1, 0)):
            x = found.test.pixels[found.test.attributes[name] == old][:JUDGED]
            if not len(x) or of[[old, new]].isnan().any():
                continue
            code, key = codes(params, x), random.fold_in(key, 1)
            three = [
                train[kind][random.randint(k, (len(x), 3), 0, int(kind.sum()))].mean(1)
                for k, kind in zip(
                    random.split(key), (found.train.attributes[name] == v for v in (old, new)), strict=True
                )
            ]
            way = of[new] - of[old]
            way = of[new] - of[old]
            looks = [draw(code + by) for by in (0, way, 2 * way, three[1] - three[0])]
            seen = [{k: p.argmax(1) for k, p in judge.probabilities(2 * y - 1).items()} for y in looks]
            stays = [
                torch.stack([each[k] == seen[0][k] for k in each if k != name] or [torch.ones(1)]) for each in seen
            ]
            value = found.names[name][new]
            tag, cells = value.replace(" ", "_"), ""
            for kind, each, stay in zip(KINDS, seen, stays, strict=True):
                share, kept = float((each[name] == new).float().mean()), float(stay.float().mean())
                values |= {f"{tag}/{kind}": share, f"{tag}/{kind}/others": kept}
                cells += f"{100 * share:9.1f} {100 * kept:5.1f}"
            lines.append(f"{value:<14}{len(x):6}{cells}")
            if len(lines) == 3:  # the first
                rows = torch.cat([x[:10] / 255, *(y[:10] for y in looks[:3])])
                plot.save(plot.tile(rows, min(len(x), 10)), here.path / "arithmetic.png", scale=2)
    if args.data == "default" and not mean.of["glasses"].isnan().any():  # the same faces drawn with glasses and without
        without, with_ = (
            codes(params, faces.draw("test", 200, args.size, glasses=x).pixels.to(here.device)) for x in (False, True)
        )
        target, added = draw(with_), without + mean.of["glasses"][1] - mean.of["glasses"][0]
        near, far = (float((draw(code) - target).abs().mean()) for code in (added, without))
        values |= {"pairs/l1": near, "pairs/l1_before": far}
        lines += [
            "",
            f"200 faces with glasses added: L1 to the reconstruction of their true pair {near:.4f}, before {far:.4f}",
        ]
    return values, lines


# ---- using a run ----


@dataclass(frozen=True)
class Use:
    """Draw faces with the latest finished run, or change test faces, which go by number."""

    n: int = 64
    """Faces to draw from random codes, if nothing else is asked for."""
    reconstruct: tuple[int, ...] = ()
    """Test faces to draw above their reconstructions."""
    interpolate: tuple[int, int] | None = None
    """Two test faces: the way from one to the other; an animation where --out ends in .gif."""
    image: Path | None = None
    """A picture of one's own, whose middle square is reconstructed; with --add or --remove changed, too."""
    add: str | None = None
    """An attribute's value, such as glasses, blond or skin=brown, to give to the faces --to or the --image."""
    remove: str | None = None
    """Likewise, to take away."""
    strength: float = 2.0
    """How often the difference of mean codes is added or taken away."""
    to: tuple[int, ...] = ()
    """Test faces."""
    plus: tuple[int, ...] = ()
    """Test faces: the mean code of these, less that of --minus, plus that of --base is decoded."""
    minus: tuple[int, ...] = ()
    base: tuple[int, ...] = ()
    out: Path | None = None
    """Picture file; samples.png, reconstruction.png, interpolation.png or arithmetic.png here if not given."""
    seed: int = 0
    run: Path | None = None
    """Run directory; the latest finished one if not given."""
    data_dir: Path | None = None
    """Where the data is; the run's own --data-dir if not given."""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("--n must be at least 1")
        group = bool(self.plus) + bool(self.minus) + bool(self.base)
        asked = {
            "--reconstruct": self.reconstruct, "--interpolate": self.interpolate, "--image": self.image,
            "--to": self.to, "--plus, --minus and --base": group,
        }  # fmt: skip
        if len(given := [flag for flag, x in asked.items() if x]) > 1:
            raise ValueError(f"{given[0]} and {given[1]}: one at a time")
        if group % 3:
            raise ValueError("--plus, --minus and --base go together")
        change = self.add or self.remove
        if change and not (self.to or self.image):
            raise ValueError("--add and --remove need faces: --to NUMBERS or --image FILE")
        if self.to and not change:
            raise ValueError("--to needs --add or --remove; for reconstructions there is --reconstruct")


@torch.no_grad()
def sample(use: Use) -> None:
    folder = use.run or run.latest_run(NAME, finished=True)
    args = run.load_config(folder, Args)
    params = run.load(folder, init_state(random.key(0), args)).params
    draw = partial(pictures, params, args=args)
    numbers = use.reconstruct or use.interpolate or use.to or (*use.plus, *use.minus, *use.base)
    change = use.add or use.remove
    if numbers or change:
        found = faces.load(args.data, use.data_dir or args.data_dir, size=args.size, n=args.faces)
        if outside := [i for i in numbers if not 0 <= i < len(found.test.pixels)]:
            raise RunError(f"{outside[0]}: the test faces are 0 to {len(found.test.pixels) - 1}")
    if use.image or numbers:
        x = images.read(use.image, args.size, channels=3)[None] if use.image else found.test.pixels[list(numbers)]
        code = codes(params, x)
    if use.interpolate:
        name, sheet, columns = "interpolation.png", draw(path(code, 10)), 10
    elif use.base:
        groups = [part.mean(0, keepdim=True) for part in code.split([len(use.plus), len(use.minus), len(use.base)])]
        name, columns = "arithmetic.png", 4
        sheet = draw(torch.cat([*groups, groups[0] - groups[1] + groups[2]]))
    elif change:
        changed = code + use.strength * shift(use, found, params, [] if use.image else list(numbers))
        name, columns = "arithmetic.png", len(x)
        sheet = torch.cat([x / 255, draw(code), draw(changed)])
    elif use.image or use.reconstruct:
        name, sheet, columns = "reconstruction.png", torch.cat([x / 255, draw(code)]), len(x)
    else:
        name, sheet, columns = "samples.png", drawn_at_random(params, use.n, random.key(use.seed), args), 8
    out = use.out or Path(name)
    moving = use.interpolate and out.suffix == ".gif"
    plot.save(animation(params, code, args) if moving else plot.tile(sheet, columns), out, scale=2)
    print(out)


def shift(use: Use, found: Faces, params: Tree, numbers: Sequence[int]) -> Float[Tensor, "b z"]:
    """What --add and --remove add to the codes of the test faces `numbers`, or of a picture, of which nothing is known:
    the mean code of faces with a value, less that of faces with the value that this face has, or of all others."""
    asked = [faces.value(word, found.names) if word else None for word in (use.add, use.remove)]
    mean, total = means(codes(params, found.train.pixels), found.train, found.names), torch.zeros(())
    for place, sign in zip(asked, (1, -1), strict=True):
        if place is None:
            continue
        name, v = place
        of, but = mean.of[name], mean.but[name]
        if of[v].isnan().any() or but[v].isnan().any():
            raise RunError(f"{found.names[name][v]}: fewer than {ENOUGH} training faces have it, or have it not")
        if not numbers:
            total = total + sign * (of[v] - but[v])
            continue
        own = found.test.attributes[name][list(numbers)].long()
        if sign > 0:
            total = total + of[v] - torch.where(of[own].isnan(), but[v], of[own])
        else:
            total = total + torch.where((own == v)[:, None], but[v] - of[v], 0.0)
    return total


if __name__ == "__main__":
    cli.main(NAME, PRESETS, train, sample, Use)
