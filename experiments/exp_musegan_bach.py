"""Two bars for four voices with a GAN whose voices share some of their noise (Dong et al. 2018, "MuseGAN").

What it shows: a Wasserstein GAN on music as one-hot tokens, whose voices hear those above them as they are written; how
far its bars are from Bach's, in chords, parallels, crossings, durations, copies; and, with --mixed, the book's reshape.
`just run exp_musegan_bach`, then `just sample exp_musegan_bach vary --change groove`.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import diagnose, gan, optim, parallel, random, run, tree
from lib.data import batches, chorales, pieces, voices
from lib.data.pieces import Piece
from lib.faults import RunError
from lib.models import musegan
from lib.models.musegan import Config, Noise
from lib.random import Key
from lib.tasks import composer, music
from lib.tasks.quartet import Quartet, Use, answers
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem


@dataclass(frozen=True)
class Args(run.Args):
    """Train a generator of two bars in four voices against a critic."""

    precision: Literal["fp32"] = "fp32"
    """Number format: the critic's penalty is a derivative of a derivative."""
    data: str = "default"
    """default (music21's chorales), jsb (Jsb16thSeparated.npz under --data-dir, without bars and struck notes), or a
    folder with pieces in four parts (MIDI or MusicXML)."""
    mixed: bool = False
    """Whether time and voices are mixed as in the book, which takes the numbers of four voices, one voice after the
    other, for those of thirty-two sixteenths."""
    keys: Literal["one", "own", "all"] = "one"
    """one: all pieces are brought to the key without sharps and flats, major or minor; own: they stay in theirs; all:
    they are heard in every key in which each voice stays in its range."""
    listen: bool = True
    """Whether each voice hears what it had before and what the voices above it have, and the critic intervals."""
    noise: run.Count = 32
    """Numbers of each of the four kinds of noise."""
    temporal: run.Count = 128
    """Width of the networks that make bars' noises of a piece's."""
    bar: run.Count = 128
    """Channels of a bar's first position, which is doubled four times."""
    least: run.Count = 64
    """Channels of sixteenths at least."""
    critic: run.Count = 64
    """Width of the critic."""
    output: Literal["sampled", "hard", "soft"] = "sampled"
    """What the critic hears of the generator. sampled: tokens drawn with its probabilities, by Gumbel noise; hard: its
    likeliest tokens; both have the derivative of a softmax; soft: the probabilities."""
    penalty: run.Amount = 10.0
    """Weight of the gradient penalty."""
    critic_steps: run.Count = 2
    """Updates of the critic for each update of the generator."""
    batch: run.Count = 32
    """Windows of two bars of a batch."""
    lr: run.Amount = 2e-3
    """Learning rate of the generator, which falls linearly to 0."""
    critic_lr: run.Amount = 1e-3
    """Learning rate of the critic, which falls in the same way."""
    beta1: run.Fraction = 0.0
    """Decay of Adam's first moment."""
    ema_decay: run.Fraction = 0.99
    """Decay of the averaged generator that is used; 0: the generator itself."""
    temperature: run.Free[run.Amount] = 0.75
    """Of the tokens that are drawn where --output is sampled; 0: the likeliest."""
    samples: run.Free[run.Count] = 1000
    """Windows that are generated for the final scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixed and self.listen:
            raise ValueError("--mixed: voices are no voices then, and nothing is heard: give --no-listen too")

    def network(self) -> Config:
        return Config(self.noise, self.temporal, self.bar, self.least, self.critic, self.listen)


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=1200, compile="off", eval_every=200, save_every=200),
    # Chapter 13: five steps of the critic, 500 epochs of the first two bars of 229 pieces in batches of 64. Here all
    # windows of two bars, a fresh point between real and generated for every example, no batch statistics.
    "book": Args(
        steps=1500, mixed=True, keys="own", listen=False, temporal=1024, bar=512, least=256, critic=256, output="soft",
        critic_steps=5, batch=64, lr=1e-3, beta1=0.5, ema_decay=0.0, eval_every=150, save_every=500,
    ),
    "best": Args(
        steps=20_000, temporal=512, bar=1024, least=512, critic=512, critic_steps=5, batch=128, lr=1e-3, critic_lr=5e-4,
        ema_decay=0.999, samples=5000, log_every=100, eval_every=2000, save_every=5000,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----


class TrainState(NamedTuple):
    params: gan.Pair
    opt: gan.Pair
    ema: Tree  # averaged parameters of the generator
    key: Key
    step: Int[Tensor, ""]


class Windows(NamedTuple):
    """`low` and `high`: by how many semitones each can be transposed."""

    cells: Int[Tensor, "n t v"]
    low: Int[Tensor, "n"]
    high: Int[Tensor, "n"]


def heard(g: Tree, z: Noise, args: Args, key: Key | None = None) -> Float[Tensor, "b t v k"]:
    """What the critic hears of a generator. Without a key no token is drawn."""
    logits = musegan.generate(g, z, cfg=args.network())
    if args.output == "sampled" and key is not None:
        logits = logits + musegan.gumbel(key, tuple(logits.shape))
    return musegan.roll(musegan.write(g, logits, soft=args.output == "soft"))


def real(data: Windows, index: Int[Tensor, "b"], key: Key, args: Args) -> Float[Tensor, "b t v k"]:
    low, high = data.low[index], data.high[index]
    cells = data.cells[index]
    if args.keys == "all":
        by = (low + random.uniform(key, (len(index),)) * (high - low + 1)).floor()
        cells = voices.transposed(cells, torch.minimum(by, high.float()).long())
    return musegan.roll(musegan.one_hot(cells))


def critic_loss(
    d: Tree, x: Tensor, fake: Tensor, key: Key, *, args: Args
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss, and the distance that the critic sees between real and generated music."""
    distance = -gan.wasserstein_critic(*musegan.criticise(d, torch.cat([x, fake])).chunk(2))
    return gan.gradient_penalty(
        partial(musegan.criticise, d, counted=False), x, fake, key, args.penalty
    ) - distance, distance


def optimizer(args: Args, lr: float, updates: int) -> optim.Optimizer:
    """Of a network that is updated so often."""
    return parallel.shard_optimizer(optim.adam(optim.linear(lr, updates), (args.beta1, 0.9)), args.shard_optimizer)


def init_state(key: Key, args: Args) -> TrainState:
    k_g, k_d, k_train = random.split(key, 3)
    g, d = musegan.generator_init(k_g, args.network()), musegan.critic_init(k_d, args.network())
    init = optimizer(args, args.lr, args.steps).init
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(gan.Pair(g, d), gan.Pair(init(g), init(d)), tree.map(torch.clone, g), k_train, step)


def step(
    state: TrainState, index: Int[Tensor, "b c"], data: Windows, *, args: Args
) -> tuple[TrainState, dict[str, Tensor]]:
    """c steps of the critic, then one of the generator against the new critic."""
    keys = random.split(random.fold_in(state.key, state.step), 1 + args.critic_steps)
    (g, d), opt_d = state.params, state.opt.d
    out: dict[str, Tensor] = {}
    for picked, key in zip(index.unbind(1), keys[1:], strict=True):
        k_real, k_z, k_token, k_between = random.split(key, 4)
        fake = heard(g, musegan.noise(k_z, len(picked), args.network()), args, k_token)
        objective = value_and_grad(partial(critic_loss, args=args), has_aux=True)
        (loss, distance), grads = parallel.mean(objective(d, real(data, picked, k_real, args), fake, k_between))
        d, opt_d = optimizer(args, args.critic_lr, args.steps * args.critic_steps).update(grads, opt_d, d)
        out = {"train/loss_d": loss, "train/distance": distance, "grad/norm_d": tree.global_norm(grads)}

    def g_loss(g: Tree) -> Tensor:
        k_z, k_token = random.split(keys[0])
        z = musegan.noise(k_z, len(index), args.network())
        return gan.wasserstein_generator(musegan.criticise(d, heard(g, z, args, k_token)))

    loss_g, grads_g = parallel.mean(value_and_grad(g_loss)(g))
    g, opt_g = optimizer(args, args.lr, args.steps).update(grads_g, state.opt.g, g)
    ema = optim.ema(state.ema, g, args.ema_decay, state.step)
    out |= {"train/loss_g": loss_g, "grad/norm_g": tree.global_norm(grads_g)}
    return TrainState(gan.Pair(g, d), gan.Pair(opt_g, opt_d), ema, state.key, state.step + 1), out


def objectives(state: TrainState, args: Args) -> dict[str, diagnose.Loss]:
    """Each network's loss on (real music, noise) against the other as it is: of the scores alone."""

    def scores(g: Tree, d: Tree, x: Tensor, z: Noise) -> tuple[Tensor, Tensor]:
        return musegan.criticise(d, x), musegan.criticise(d, heard(g, z, args))

    return {
        "params.d": lambda d, examples: gan.wasserstein_critic(*scores(state.params.g, d, *examples)),
        "params.g": lambda g, examples: gan.wasserstein_generator(scores(g, state.params.d, *examples)[1]),
    }


# ---- training: plumbing ----


def windows(songs: list[Piece], args: Args) -> Int[Tensor, "n t v"]:
    """Raises RunError where there are none."""
    cells = music.windows([pieces.in_one_key(piece) for piece in songs] if args.keys == "one" else songs)
    if not len(cells):
        raise RunError("no piece has two whole bars of four quarters")
    if args.mixed:
        pitch = voices.sounding(cells).transpose(1, 2).reshape(cells.shape)
        cells = voices.tokens(pitch, torch.zeros_like(pitch, dtype=torch.bool))
    return cells


def quartet(g: Tree, args: Args) -> Quartet:
    corpus = functools.cache(partial(chorales.load, args.data, args.data_dir))
    drawn = args.temperature if args.output == "sampled" else None
    training = lambda: windows(corpus().train, args)  # noqa: E731
    one_key = args.keys == "one"
    return Quartet(g, args.network(), drawn, args.output == "soft", one_key, training, lambda: corpus().test)


def train(args: Args) -> None:
    corpus = chorales.load(args.data, args.data_dir)
    train, val, test = (windows(side, args) for side in corpus[1:])
    here = run.Run(args, NAME, Path(__file__), unit="windows", minimise="val/unlike")
    data = tree.to(Windows(train, *voices.shifts(voices.sounding(train))), here.device)
    print(f"{corpus.name}: {len(train):,} windows of two bars to train on; {here.device}, {here.dtype}")
    state = here.start(init_state)
    print(tree.table(state.params, depth=2))
    update = here.compile(step)
    wide = args.batch * args.critic_steps
    order = here.batches(partial(numbers, n=len(train), size=wide, columns=args.critic_steps))
    k_val, k_test, k_token = random.split(here.show_key, 3)
    z_val, z_test, z_given = (
        musegan.noise(k, n, args.network())
        for k, n in ((k_val, 256), (k_test, args.samples), (random.fold_in(k_test, 1), len(test)))
    )
    bach = music.scores(val, train, near=64)

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                cells = quartet(s.ema, args).draw(z_val, k_token)
                own = music.scores(cells, train, near=64)
                one.log(n + 1, {f"generated/{tag}": x for tag, x in own.items()})
                one.log(n + 1, {f"bach/{tag}": x for tag, x in bach.items()})
                one.log(n + 1, {"val/unlike": music.unlike(own, bach)})
                composer.show(one, n + 1, cells[:4].flatten(0, 1))
                told = [
                    f"{tag} {own[tag]:.2f} ({bach[tag]:.2f})" for tag in ("chord", "parallels", "crossed", "onsets")
                ]
                one.write(f"step {n + 1}, Bach's in brackets: {', '.join(told)}")
        for one, before, after, i in here.diagnosed(n, state, index):
            k_real, k_z = random.split(here.show_key)
            z = musegan.noise(k_z, len(i), args.network())
            examples = real(data, i[:, 0], k_real, args), z
            diagnose.report(one, n + 1, before, after, objectives(after, args), examples)
    if not here.evaluates(state):
        return
    results, bach = [], music.scores(test, train)
    for one, s in here.each(state):
        model = quartet(s.ema, args)
        cells = model.draw(z_test, k_token)
        own = music.scores(cells, train)
        composer.show(one, args.steps, cells[:4].flatten(0, 1))
        found = {f"test/{tag}": x for tag, x in own.items()} | {f"bach/{tag}": x for tag, x in bach.items()}
        told = music.table(own, bach, f"{len(cells):,} windows of two bars")
        if args.listen:
            under = music.harmony(model.written(model.logits(z_given), k_token, test[..., :1]))
            found |= {f"accompanied/{tag}": x for tag, x in under.items()}
            told += ["", *music.table(under, bach, f"to the sopranos of {len(test):,} test windows")]
        results.append((found, told))
    here.finish(results)


def numbers(key: Key, n: int, size: int, columns: int, first: int = 0) -> Iterator[Int[Tensor, "b c"]]:
    """Batches for several steps of the critic, one a column."""
    return (index.view(-1, columns) for index in batches.numbers(key, n, size, first))


# ---- using a run ----


def load(path: Path, args: Args) -> Quartet:
    return quartet(run.load(path, init_state(random.key(0), args).ema, "ema"), args)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
