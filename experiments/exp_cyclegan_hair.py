"""CycleGAN (Zhu et al. 2017, https://arxiv.org/abs/1703.10593) that recolours hair, black <-> blond, without pairs.

What it shows: two networks learn to turn black hair blond and back without ever seeing one face in both colours.
Drawn faces exist in both, so that it can be measured: hair's mean error on held-out faces falls from .63 of the range
to .09, while all else is off by .03 (RESULTS.md).
`just run exp_cyclegan_hair`, then `just sample exp_cyclegan_hair me.png --to blond`.
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lib import conv, diagnose, gan, optim, parallel, plot, random, run, tree
from lib.data import domains
from lib.data.domains import Domains
from lib.faults import RunError
from lib.random import Key
from lib.tasks import judge, unpaired
from lib.tasks.names import check
from lib.tasks.unpaired import Model, Translators, Use, answers
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
DOMAINS = "domains.json"
VAL, TEST = 200, 500  # held-out faces of each domain in an evaluation, at most


@dataclass(frozen=True)
class Args(run.Args):
    """Train two generators that translate faces of one domain into the other, and two discriminators."""

    data: str = "default"
    """default (drawn faces with black or blond hair), celeba, or a folder with two subfolders of pictures."""
    size: run.Count = 64
    """Pixels of a side."""
    faces: run.Count = 10_000
    """Drawn faces to train on, of both domains together."""
    width: run.Count = 16
    """Channels of the generators' layers at full size; there are four times as many at a quarter of it."""
    blocks: run.Count = 3
    """Residual blocks of a generator."""
    disc_width: run.Count = 16
    """Channels of the discriminators' first layer, doubled by each further one."""
    disc_downs: run.Count = 2
    """Layers of stride 2 in a discriminator, which sees patches of 16 (1), 34 (2) or 70 (3) pixels."""
    batch: run.Count = 4
    """Faces of each domain in a batch."""
    lr: run.Amount = 1e-3
    """Learning rate of all networks."""
    schedule: Literal["linear", "constant"] = "linear"
    """How the learning rate goes: linear, constant for half of the run and then linearly to 0; or constant."""
    cycle: run.Amount = 10.0
    """Weight of the L1 distance between a face and its round trip, in [-1, 1]."""
    identity: run.Amount = 0.5
    """Weight, times --cycle, of the L1 distance between a face and its translation into its own domain."""
    buffer: run.Natural = 50
    """Earlier translations to each domain that are shown to its discriminator again; 0: none."""
    flip: bool = False
    """Mirror each training face with probability 1/2."""
    ema_decay: run.Fraction = 0.99
    """Decay of the averaged generators that are used; 0: the generators themselves."""

    def __post_init__(self) -> None:
        super().__post_init__()
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


def generator_init(key: Key, args: Args) -> Tree:
    """{"in", "down": [two], "block": [pairs], "up": [two], "out"}: convolutions, with biases only where no
    normalisation would take them away again. Weights N(0, .02) (the paper's 7.2)."""
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
    """{"in", "hidden": [...], "out"}: convolutions, with biases where no normalisation follows."""
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


def translated(g: Tree, real: Domains) -> Domains:
    """The faces of each domain that the other one's have become."""
    return Domains(generate(g["ba"], real.b), generate(g["ab"], real.a))


def generator_loss(g: Tree, d: Tree, real: Domains, *, args: Args) -> tuple[Tensor, tuple[Domains, dict[str, Tensor]]]:
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


def discriminator_loss(d: Tree, real: Domains, fake: Domains) -> Float[Tensor, ""]:
    """Mean over both discriminators of 1/2 E (D(real) - 1)^2 + 1/2 E D(fake)^2."""
    of_each = [
        gan.least_squares_discriminator(*discriminate(p, torch.cat([x, y])).chunk(2))
        for p, x, y in zip((d["a"], d["b"]), real, fake, strict=True)
    ]
    return (of_each[0] + of_each[1]) / 2


class TrainState(NamedTuple):
    params: gan.Pair  # g: {"ab": from a to b, "ba"}, d: {"a": of domain a, "b"}
    opt: gan.Pair
    ema: Tree  # averaged parameters of the generators
    buffers: Tree  # of translations to "a" and to "b"; empty without them
    key: Key
    step: Int[Tensor, ""]


def objectives(state: TrainState, args: Args) -> dict[str, diagnose.Loss]:
    """Each network's loss on real faces, the other three as they are; discriminators see no buffer."""
    g, d = state.params

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
    params, opt = gan.Pair(g, d), gan.Pair(init(g), init(d))
    return TrainState(params, opt, tree.map(torch.clone, g), buffers, k_train, step)


def prepared(x: UInt8[Tensor, "b 3 h w"], key: Key, flip: bool) -> Float[Tensor, "b 3 h w"]:
    x = x / 127.5 - 1
    return torch.where(random.bernoulli(key, 0.5, (len(x), 1, 1, 1)), x.flip(-1), x) if flip else x


def step(
    state: TrainState, index: Domains, data: Domains, *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """The generators learn from the faces `index` of each domain and the discriminators as they are; then these learn
    from the same faces and the generators' translations, some of them earlier ones."""
    keys = random.split(random.fold_in(state.key, state.step), 4)
    real = Domains(*(prepared(x[i], k, args.flip) for x, i, k in zip(data, index, keys[:2], strict=True)))
    (g, d), update = state.params, optimizer(args).update

    def g_loss(g: Tree) -> tuple[Tensor, tuple[Domains, dict[str, Tensor]]]:
        return generator_loss(tree.cast(g, dtype), tree.cast(d, dtype), real, args=args)

    (loss_g, (fake, parts)), grads_g = value_and_grad(g_loss, has_aux=True)(g)
    loss_g, parts, grads_g = parallel.mean((loss_g, parts, grads_g))
    g, opt_g = update(grads_g, state.opt.g, g)

    shown, buffers = fake, state.buffers
    if args.buffer:
        swaps = {name: gan.exchange(buffers[name], x, k) for name, x, k in zip("ab", fake, keys[2:], strict=True)}
        shown, buffers = Domains(*(x for x, _ in swaps.values())), {name: held for name, (_, held) in swaps.items()}
    d_loss = lambda d: discriminator_loss(tree.cast(d, dtype), real, shown)  # noqa: E731
    loss_d, grads_d = parallel.mean(value_and_grad(d_loss)(d))
    d, opt_d = update(grads_d, state.opt.d, d)

    ema = optim.ema(state.ema, g, args.ema_decay, state.step)
    out = {"train/loss_g": loss_g, "train/loss_d": loss_d} | {f"train/{name}": x for name, x in parts.items()}
    out |= {"grad/norm_g": tree.global_norm(grads_g), "grad/norm_d": tree.global_norm(grads_d)}
    return TrainState(gan.Pair(g, d), gan.Pair(opt_g, opt_d), ema, buffers, state.key, state.step + 1), out


# ---- training: plumbing ----


def translators(g: Tree) -> Translators:
    return Translators(partial(generate, g["ab"]), partial(generate, g["ba"]))


def train(args: Args) -> None:
    found, what, names = domains.load(args.data, args.data_dir, args.size, args.faces)
    check(args, names, DOMAINS)
    extractor = judge.load(found, run.device(args))
    pairs = args.data == "default"
    here = run.Run(
        args, NAME, Path(__file__), unit="images", minimise="val/hair_l1" if pairs else "val/disagreement"
    )  # with photographs nobody knows what a face should have become
    data = Domains(*(found.train.pixels[found.train.attributes[what] == i].to(here.device) for i in range(2)))
    print(f"{len(data.a):,} {names[0]} and {len(data.b):,} {names[1]} training pictures; {here.device}, {here.dtype}")
    here.once(lambda: run.write_json(here.path / DOMAINS, names))
    if here.leads:
        held = partial(domains.held_out, size=args.size, found=None if pairs else found, what=what)
        val, test = (tree.to(held(split, n), here.device) for split, n in (("val", VAL), ("test", TEST)))
        shown = Domains(*(x[: unpaired.SHOWN] / 127.5 - 1 for x in test.pixels))
    state = here.start(init_state)
    print(tree.table(state.params, depth=2))
    update = here.compile(step, dtype=here.dtype)
    order = here.batches(partial(domains.numbers, sizes=(len(data.a), len(data.b)), batch=args.batch))

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data)
        here.record(n, state, out, units=2 * index.a.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                one.writer.add_image("samples/translated", unpaired.sheet(translators(s.ema), shown), n + 1)
                ways = unpaired.evaluate(translators(s.ema), val, extractor, what)
                values = {name: (x + ways[1][name]) / 2 for name, x in ways[0].items()}
                one.log(n + 1, {f"val/{name}": value for name, value in values.items()})
                one.write(f"step {n + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
        for one, before, after, i in here.diagnosed(n, state, index):
            faces_ = Domains(*(x[j] / 127.5 - 1 for x, j in zip(data, i, strict=True)))
            worst = diagnose.report(one, n + 1, before, after, objectives(after, args), faces_)[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(faces_.a[worst] / 2 + 0.5, 8), n + 1)
    if not here.evaluates(state):
        return
    results = []
    for one, s in here.each(state):
        plot.save(unpaired.sheet(translators(s.ema), shown), one.path / "samples.png", scale=2)
        results.append(unpaired.report(unpaired.evaluate(translators(s.ema), test, extractor, what), names))
    here.finish(results, f'--n 8 --to "{names[1]}"')


# ---- using a run ----


def load(path: Path, args: Args) -> Model:
    names = run.read_json(path / DOMAINS)
    g = run.load(path, init_state(random.key(0), args).ema, "ema")

    photographs = cache(partial(domains.load, args.data, args.data_dir, args.size, args.faces))

    def held(n: int) -> Domains:
        found, what, now = (None, "hair", names) if args.data == "default" else photographs()
        if now != names:
            raise RunError(
                f"--data {args.data} has {' and '.join(now)} now: name its folders {' and '.join(names)} again"
            )
        return domains.held_out("test", n, args.size, found, what).pixels

    return Model(translators(g), names, args.size, held)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
