"""CycleGAN (Zhu et al. 2017, https://arxiv.org/abs/1703.10593) that recolours hair, black <-> blond, without pairs.

What it shows: two networks learn to turn black hair blond and back without ever seeing one face in both colours.
Drawn faces exist in both, so that it can be measured: hair's mean error on held-out faces falls from .63 of the range
to .09, while all else is off by .03 (RESULTS.md).
`just run exp_cyclegan_hair`, then `just sample exp_cyclegan_hair --image me.png --to blond`.
"""

from lib.data import batches
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from lib import conv, diagnose, gan, optim, parallel, plot, random, run, tree
from lib.data import albums, faces, images
from lib.data.faces import Faces
from lib.faults import DataError, RunError
from lib.random import Key
from lib.run import cli, directory
from lib.tasks import judge as judges
from lib.tasks.judge import Judge
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
COLOURS = ("black", "blond")
VAL, TEST, SHOWN = 200, 500, 8  # held-out faces of each domain: at most so many in an evaluation, and in the pictures


@dataclass(frozen=True)
class Args(run.Args):
    """Train two generators that translate faces of one domain into the other, and two discriminators."""

    data: str = "default"
    """default (drawn faces with black or blond hair), celeba, or a folder with two subfolders of pictures."""
    size: int = 64
    """Pixels of a side."""
    faces: int = 10_000
    """Drawn faces to train on, of both domains together."""
    width: int = 16
    """Channels of the generators' layers at full size; there are four times as many at a quarter of it."""
    blocks: int = 3
    """Residual blocks of a generator."""
    disc_width: int = 16
    """Channels of the discriminators' first layer, doubled by each further one."""
    disc_downs: int = 2
    """Layers of stride 2 in a discriminator, which judges patches of 16 (1), 34 (2) or 70 (3) pixels."""
    batch: int = 4
    """Faces of each domain."""
    lr: float = 1e-3
    schedule: Literal["linear", "constant"] = "linear"
    """linear: constant for the first half of the run, then linearly to 0."""
    cycle: float = 10.0
    """Weight of the L1 distance between a face and its round trip, in [-1, 1]."""
    identity: float = 0.5
    """Weight, times `cycle`, of the L1 distance between a face and its translation into its own domain."""
    buffer: int = 50
    """Earlier translations to each domain that are shown to its discriminator again; 0: none."""
    flip: bool = False
    """Mirror each training face with probability 1/2."""
    ema_decay: float = 0.99
    """Decay of the averaged generators that are used; 0: the generators themselves."""

    def __post_init__(self) -> None:
        least = max(8, 3 * 2**self.disc_downs)
        if self.size < least or self.size % 4:
            raise ValueError(
                f"--size {self.size}: with --disc-downs {self.disc_downs} a multiple of 4 from {least} on, as {least},"
                f" {least + 4} or {least + 8}"
            )
        if 0 < self.buffer < self.batch:
            raise ValueError(f"--buffer {self.buffer}: 0, or at least a batch ({self.batch})")


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=2000, eval_every=500, save_every=500),
    # Chapter 6: batch 1, Adam at a constant 1e-5, one epoch; no buffer, identity loss or decay. Repaired: no sigmoid
    # before the squared error, faces paired at random and not by number, initialisation that is applied. The up
    # convolutions have kernels of 4 instead of 3, without output padding.
    "book": Args(
        steps=48_472, data="celeba", size=256, width=64, blocks=9, disc_width=64, disc_downs=3, batch=1, lr=1e-5,
        schedule="constant", identity=0.0, buffer=0, flip=True, ema_decay=0.0, log_every=100, eval_every=4847,
        save_every=4847,
    ),
    "best": Args(
        steps=60_000, size=128, faces=50_000, width=64, blocks=6, disc_width=64, batch=8, lr=2e-4, ema_decay=0.999,
        log_every=100, eval_every=5000, save_every=5000,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----
# Axes: b batch, h height, w width, n pictures.


class Pair(NamedTuple):
    """Of the two domains."""

    a: Any
    b: Any


def generator_init(key: Key, args: Args) -> Tree:
    """Biases only where no normalisation would take them away again. Weights N(0, .02) (the paper's 7.2)."""
    w = args.width
    new = partial(conv.conv_init, bias=False, std=0.02)
    up = partial(conv.conv_transpose_init, bias=False, std=0.02)
    keys = random.split(key, 6 + 2 * args.blocks)
    return {
        "in": new(keys[0], 3, w, 7),
        "down": [new(keys[1], w, 2 * w, 3), new(keys[2], 2 * w, 4 * w, 3)],
        "block": [[new(k, 4 * w, 4 * w, 3) for k in pair] for pair in zip(keys[6::2], keys[7::2], strict=True)],
        "up": [up(keys[3], 4 * w, 2 * w, 4), up(keys[4], 2 * w, w, 4)],
        "out": conv.conv_init(keys[5], w, 3, 7, std=0.02),
    }


def generate(p: Tree, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Translated pictures, in [-1, 1] as the given ones are: the paper's 7.2, after Johnson et al. 2016."""
    active = lambda x: F.relu(conv.instance_norm({}, x))  # noqa: E731
    h = active(mirrored(p["in"], x.to(p["in"]["w"].dtype)))
    for down in p["down"]:
        h = active(conv.conv(down, h, stride=2, padding=1))
    for first, second in p["block"]:
        h = h + conv.instance_norm({}, mirrored(second, active(mirrored(first, h))))
    for up in p["up"]:
        h = active(conv.conv_transpose(up, h, stride=2, padding=1))
    return mirrored(p["out"], h).float().tanh()


def mirrored(p: Tree, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f h w"]:
    """A convolution that sees the picture mirrored beyond its edges."""
    r = p["w"].shape[-1] // 2
    return conv.conv(p, F.pad(x, (r, r, r, r), mode="reflect"))


def discriminator_init(key: Key, args: Args) -> Tree:
    widths = [args.disc_width * 2**i for i in range(args.disc_downs + 1)]
    k_in, k_out, *keys = random.split(key, 2 + args.disc_downs)
    layers = zip(keys, widths, widths[1:], strict=False)
    return {
        "in": conv.conv_init(k_in, 3, widths[0], 4, std=0.02),
        "hidden": [conv.conv_init(k, c, f, 4, bias=False, std=0.02) for k, c, f in layers],
        "out": conv.conv_init(k_out, widths[-1], 1, 4, std=0.02),
    }


def discriminate(p: Tree, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h2 w2"]:
    """How real each patch looks (Isola et al. 2017's PatchGAN): 1 for real, 0 for translated."""
    h = F.leaky_relu(conv.conv(p["in"], x.to(p["in"]["w"].dtype), stride=2, padding=1), 0.2)
    for i, layer in enumerate(p["hidden"], 1):  # the last one does not reduce
        h = conv.conv(layer, h, stride=2 if i < len(p["hidden"]) else 1, padding=1)
        h = F.leaky_relu(conv.instance_norm({}, h), 0.2)
    return conv.conv(p["out"], h, padding=1).float()


def l1(x: Tensor, y: Tensor) -> Float[Tensor, ""]:
    return (x - y).abs().mean()


def translated(g: Tree, real: Pair) -> Pair:
    """The faces of each domain that the other one's have become."""
    return Pair(generate(g["ba"], real.b), generate(g["ab"], real.a))


def generator_loss(g: Tree, d: Tree, real: Pair, *, args: Args) -> tuple[Tensor, tuple[Pair, dict[str, Tensor]]]:
    """E (D(fake) - 1)^2 + cycle (L1 of round trips + identity L1 of translations into the own domain), each the sum of
    both directions (equations 1 to 3 with 7.1's squares, and 5.2's identity loss); the translations and the parts."""
    fake = translated(g, real)
    back = translated(g, fake)
    of_a, of_b = (gan.least_squares_generator(discriminate(d[k], x)) for k, x in zip("ab", fake, strict=True))
    adversarial = 2 * (of_a + of_b)  # without Mao's half
    parts = {"adversarial": adversarial, "cycle": l1(back.a, real.a) + l1(back.b, real.b)}
    total = adversarial + args.cycle * parts["cycle"]
    if isinstance(args.identity, Tensor) or args.identity:  # a tensor where --sweep varies it
        parts["identity"] = l1(generate(g["ab"], real.b), real.b) + l1(generate(g["ba"], real.a), real.a)
        total = total + args.cycle * args.identity * parts["identity"]
    return total, (fake, parts)


def discriminator_loss(d: Tree, real: Pair, fake: Pair) -> Float[Tensor, ""]:
    """Mean over both discriminators of 1/2 E (D(real) - 1)^2 + 1/2 E D(fake)^2."""
    of_each = [
        gan.least_squares_discriminator(*discriminate(p, torch.cat([x, y])).chunk(2))
        for p, x, y in zip((d["a"], d["b"]), real, fake, strict=True)
    ]
    return (of_each[0] + of_each[1]) / 2


class TrainState(NamedTuple):
    params: Tree  # {"g": {"ab": from a to b, "ba"}, "d": {"a": of domain a, "b"}}
    opt: Tree  # of "g" and of "d"
    ema: Tree  # averaged parameters of the generators
    buffers: Tree  # of translations to "a" and to "b"; empty without
    key: Key
    step: Int[Tensor, ""]


def objectives(state: TrainState, args: Args) -> dict[str, diagnose.Loss]:
    """Each network's loss on real faces, the other three as they are; discriminators see no buffer."""
    g, d = state.params["g"], state.params["d"]

    def of_generator(name: str) -> diagnose.Loss:
        return lambda p, real: generator_loss({**g, name: p}, d, real, args=args)[0]

    def of_discriminator(name: str) -> diagnose.Loss:
        return lambda p, real: discriminator_loss({**d, name: p}, real, translated(g, real))

    return {f"params.g.{k}": of_generator(k) for k in g} | {f"params.d.{k}": of_discriminator(k) for k in d}


def optimizer(args: Args) -> optim.Optimizer:
    falling = lambda step: args.lr * torch.clamp(2 - 2 * step / args.steps, max=1.0)  # noqa: E731
    adam = optim.adam(falling if args.schedule == "linear" else args.lr, (0.5, 0.999))
    return parallel.shard_optimizer(adam, args.shard_optimizer)


def init_state(key: Key, args: Args) -> TrainState:
    k_ab, k_ba, k_a, k_b, k_train = random.split(key, 5)
    g = {"ab": generator_init(k_ab, args), "ba": generator_init(k_ba, args)}
    d = {"a": discriminator_init(k_a, args), "b": discriminator_init(k_b, args)}
    init, shape = optimizer(args).init, (3, args.size, args.size)
    buffers = {name: gan.buffer(args.buffer, shape, key.device) for name in d} if args.buffer else {}
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    opt = {"g": init(g), "d": init(d)}
    return TrainState({"g": g, "d": d}, opt, tree.map(torch.clone, g), buffers, k_train, step)


def prepared(x: UInt8[Tensor, "b 3 h w"], key: Key, flip: bool) -> Float[Tensor, "b 3 h w"]:
    x = x / 127.5 - 1
    return torch.where(random.bernoulli(key, 0.5, (len(x), 1, 1, 1)), x.flip(-1), x) if flip else x


def step(
    state: TrainState, index: Pair, data: Pair, *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """The generators learn from the faces `index` of each domain and the discriminators as they are; then these learn
    from the same faces and the generators' translations, some of them earlier ones."""
    keys = random.split(random.fold_in(state.key, state.step), 4)
    real = Pair(*(prepared(x[i], k, args.flip) for x, i, k in zip(data, index, keys[:2], strict=True)))
    g, d, update = state.params["g"], state.params["d"], optimizer(args).update

    def g_loss(g: Tree) -> tuple[Tensor, tuple[Pair, dict[str, Tensor]]]:
        return generator_loss(tree.cast(g, dtype), tree.cast(d, dtype), real, args=args)

    (loss_g, (fake, parts)), grads_g = value_and_grad(g_loss, has_aux=True)(g)
    loss_g, parts, grads_g = parallel.mean((loss_g, parts, grads_g))
    g, opt_g = update(grads_g, state.opt["g"], g)

    shown, buffers = fake, state.buffers
    if args.buffer:
        swaps = {name: gan.exchange(buffers[name], x, k) for name, x, k in zip("ab", fake, keys[2:], strict=True)}
        shown, buffers = Pair(*(x for x, _ in swaps.values())), {name: held for name, (_, held) in swaps.items()}
    d_loss = lambda d: discriminator_loss(tree.cast(d, dtype), real, shown)  # noqa: E731
    loss_d, grads_d = parallel.mean(value_and_grad(d_loss)(d))
    d, opt_d = update(grads_d, state.opt["d"], d)

    ema = optim.ema(state.ema, g, args.ema_decay, state.step)
    out = {"train/loss_g": loss_g, "train/loss_d": loss_d} | {f"train/{name}": x for name, x in parts.items()}
    out |= {"grad/norm_g": tree.global_norm(grads_g), "grad/norm_d": tree.global_norm(grads_d)}
    return TrainState({"g": g, "d": d}, {"g": opt_g, "d": opt_d}, ema, buffers, state.key, state.step + 1), out


# ---- evaluation ----


class Held(NamedTuple):
    """Held-out faces of both domains. Drawn ones are the same faces twice, which differ in `hair` only."""

    pixels: Pair
    attributes: Pair
    hair: Bool[Tensor, "n 1 h w"] | None


def domains(args: Args) -> tuple[Faces, str, list[str]]:
    """All faces, the attribute that tells domains apart, and their names. Raises DataError."""
    known = args.data in ("default", *albums.KNOWN)
    what = "hair" if known else "class"
    found = faces.load(args.data, args.data_dir, args.size, hair=COLOURS if known else None, n=args.faces)
    names = found.names.get(what, [])
    if len(names) != 2:
        has = f"it has {len(names)} ({', '.join(names)})" if names else "it has none"
        raise DataError(f"--data {args.data}: a folder of two subfolders of pictures, one a domain, is needed; {has}")
    for split, part in (("training", found.train), ("validation", found.val), ("test", found.test)):
        for i, name in enumerate(names):
            if not (part.attributes[what] == i).any():
                raise DataError(f"--data {args.data}: no face of {name} for {split}")
    return found, what, names


def held_out(split: str, n: int, args: Args, found: Faces | None, what: str) -> Held:
    """Up to n faces of each domain. Drawn ones need no `found`."""
    if found is None or args.data == "default":
        parts = [faces.draw(split, n, args.size, hair=colour) for colour in COLOURS]
        hair = faces.mask("hair", split, n, args.size)
    else:
        part, hair = found.val if split == "val" else found.test, None
        rows = [(part.attributes[what] == i).nonzero()[:n, 0] for i in range(2)]
        parts = [faces.Part(*tree.index(tuple(part), i)) for i in rows]
    attributes = Pair(*({k: v for k, v in x.attributes.items() if k != what} for x in parts))
    return Held(Pair(*(x.pixels for x in parts)), attributes, hair)


@torch.no_grad()
def applied(p: Tree, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    return torch.cat([generate(p, part) for part in x.split(50)])


@torch.no_grad()
def evaluate(g: Tree, held: Held, judge: Judge, what: str) -> tuple[dict[str, float], dict[str, float]]:
    """Of translations from a to b and from b to a: mean absolute errors of pixel values in [0, 1], of the round trip
    and, where there are pairs, of hair and of all else beside doing nothing; shares of the faces in which the judge
    sees the wanted domain (`agreement`), and each other attribute as it was (`kept`)."""
    x, found = Pair(*(pixels / 127.5 - 1 for pixels in held.pixels)), []
    for source, target, there, return_ in ((0, 1, "ab", "ba"), (1, 0, "ba", "ab")):
        new = applied(g[there], x[source])
        values = {"cycle_l1": float(l1(applied(g[return_], new), x[source])) / 2}
        if held.hair is not None:
            off = lambda y, where: float(((y - x[target]).abs() * where).sum() / where.sum() / 6)  # noqa: B023, E731
            values |= {"hair_l1": off(new, held.hair), "hair_l1_nothing": off(x[source], held.hair)}
            values["other_l1"] = off(new, ~held.hair)
        was = held.attributes[source]
        seen = judge.agreement(new, {what: torch.full((len(new),), target, device=new.device), **was})
        values["agreement"] = seen.pop(what)
        values["disagreement"] = 1 - values["agreement"]
        found.append(values | ({"kept": sum(seen.values()) / len(seen)} if seen else {}))
    return found[0], found[1]


def report(ways: tuple[dict[str, float], dict[str, float]], names: list[str]) -> tuple[dict[str, float], list[str]]:
    """Final values by tag, and the table to print."""
    columns = {
        "hair_l1": "hair L1", "hair_l1_nothing": "(nothing done)", "other_l1": "other L1", "cycle_l1": "round trip L1",
        "agreement": "right hair" if "hair_l1" in ways[0] else "right domain", "kept": "rest kept",
    }  # fmt: skip
    columns = {name: title for name, title in columns.items() if name in ways[0]}
    result, lines = dict[str, float](), [" " * 16 + "".join(f"{title:>16}" for title in columns.values())]
    for target, values in zip(names[::-1], ways, strict=True):
        result |= {f"test/{name}/to_{target}": values[name] for name in columns}
        lines.append(f"to {target:<13}" + "".join(f"{values[name]:16.4f}" for name in columns))
    return result | {f"test/{name}": (ways[0][name] + ways[1][name]) / 2 for name in columns}, lines


def sheet(g: Tree, x: Pair, to: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Faces, their translations and these translated back, row by row: from a to b (`to` 1), from b to a (0), or both
    one below the other."""
    ways = {1: ("ab", "ba", x.a), 0: ("ba", "ab", x.b)}
    rows = []
    for there, return_, real in ways.values() if to is None else [ways[to]]:
        new = applied(g[there], real)
        for i in range(0, len(real), SHOWN):
            rows += [part[i : i + SHOWN] for part in (real, new, applied(g[return_], new))]
    filled = [torch.cat([row, row.new_ones(min(SHOWN, len(rows[0])) - len(row), *row.shape[1:])]) for row in rows]
    return plot.tile(torch.cat(filled) / 2 + 0.5, len(filled[0]))


# ---- training: plumbing ----


def unpaired(key: Key, first: int, *, sizes: tuple[int, int], batch: int) -> Iterator[Pair]:
    """Numbers of faces of each domain from batch number `first` on, in orders that have nothing to do with each
    other."""
    orders = (batches.numbers(k, n, batch, first) for k, n in zip(random.split(key), sizes, strict=True))
    return map(Pair, *orders)


def train(args: Args) -> None:
    found, what, names = domains(args)
    judge = judges.load(found, run.device(args))
    pairs = args.data == "default"
    here = run.Run(
        args, NAME, Path(__file__), unit="images", minimise="val/hair_l1" if pairs else "val/disagreement"
    )  # with photographs nobody knows what a face should have become
    data = Pair(*(found.train.pixels[found.train.attributes[what] == i].to(here.device) for i in range(2)))
    print(f"{len(data.a):,} {names[0]} and {len(data.b):,} {names[1]} training pictures; {here.device}, {here.dtype}")
    if here.leads:
        directory.write_json(here.path / "domains.json", names)
        val = tree.to(held_out("val", VAL, args, found, what), here.device)
        test = tree.to(held_out("test", TEST, args, found, what), here.device)
        shown = Pair(*(x[:SHOWN] / 127.5 - 1 for x in test.pixels))
    state = here.start(init_state)
    print(tree.table(state.params, depth=2))
    update = here.compile(step, dtype=here.dtype)
    batches = here.batches(partial(unpaired, sizes=(len(data.a), len(data.b)), batch=args.batch))

    for n in here.progress():
        index = next(batches)
        state, out = update(state, index, data)
        here.record(n, state, out, units=2 * index.a.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                one.writer.add_image("samples/translated", sheet(s.ema, shown), n + 1)
                ways = evaluate(s.ema, val, judge, what)
                values = {name: (x + ways[1][name]) / 2 for name, x in ways[0].items()}
                one.log(n + 1, {f"val/{name}": value for name, value in values.items()})
                one.write(f"step {n + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
        for one, before, after, i in here.diagnosed(n, state, index):
            faces_ = Pair(*(x[j] / 127.5 - 1 for x, j in zip(data, i, strict=True)))
            worst = diagnose.report(one, n + 1, before, after, objectives(after, args), faces_)[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(faces_.a[worst] / 2 + 0.5, 8), n + 1)
    if not here.evaluates(state):
        return
    results = []
    for one, s in here.each(state):
        plot.save(sheet(s.ema, shown), one.path / "samples.png", scale=2)
        values, lines = report(evaluate(s.ema, test, judge, what), names)
        results.append((values, lines))
    here.finish(results, f"--n 8 --to {names[1]}")


# ---- using a run ----


@dataclass(frozen=True)
class Use:
    """Translate faces with the latest finished run: each, its translation, and that translated back."""

    n: int = SHOWN
    """Held-out faces of each domain, where no --image is given."""
    to: str | None = None
    """Domain to translate into, such as blond; with --n both, one below the other, if none is given."""
    image: Path | None = None
    """A photograph or drawing of one's own: the face in the middle, of the other domain."""
    out: Path = Path("translated.png")
    run: Path | None = None
    """Run directory; the latest finished one if not given."""
    data_dir: Path | None = None
    """Where to look for data files; the run's own --data-dir if not given."""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("--n must be at least 1")


def sample(use: Use) -> None:
    path = use.run or run.latest_run(NAME, finished=True)
    args = run.load_config(path, Args)
    names = directory.read_json(path / "domains.json")
    if use.to is not None and use.to not in names:
        raise RunError(f"--to {use.to}: this run translates into {names[0]} or {names[1]}")
    if use.image and use.to is None:
        raise RunError(f"--image needs --to {names[0]} or --to {names[1]}")
    g = run.load(path, init_state(random.key(0), args).ema, "ema")
    to = None if use.to is None else names.index(use.to)
    if use.image:
        x = images.read(use.image, args.size, channels=3)[None] / 127.5 - 1
        picture = sheet(g, Pair(x, x), to)
    else:
        args = replace(args, data_dir=use.data_dir or args.data_dir)
        found, what, _ = (None, "hair", None) if args.data == "default" else domains(args)
        picture = sheet(g, Pair(*(x / 127.5 - 1 for x in held_out("test", use.n, args, found, what).pixels)), to)
    plot.save(picture, use.out, scale=2)
    print(f"each row of faces above its translations and these translated back: {use.out}")


if __name__ == "__main__":
    cli.main(NAME, PRESETS, train, sample, Use)
