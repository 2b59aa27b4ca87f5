"""A Transformer that writes chorales in four voices, after Bach (Huang et al. 2018, "Music Transformer").

What it shows: one model that says how likely music is, writes it, goes on with it, harmonises a melody and fills gaps;
and how far its chorales are from Bach's, in chords, parallels, crossings, durations and copies.
`just run exp_transformer_music`, then `just sample exp_transformer_music`.
"""

import functools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import diagnose, muon, optim, parallel, random, run, transformer, tree
from lib.data import chorales, excerpts, voices
from lib.data.excerpts import Excerpt
from lib.faults import RunError
from lib.models import chorale
from lib.models.chorale import Config, Music
from lib.random import Key
from lib.tasks import composer
from lib.tasks.compose import Use, answers
from lib.tasks.composer import Composer
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
MATRICES = r"blocks\.\d+\.(attn|ff)\..*w"  # what Muon trains
DIAGNOSED = 4  # rows of a batch: second derivatives take three times the memory of first ones


@dataclass(frozen=True)
class Args(run.Args):
    """Train a Transformer on chorales of J. S. Bach."""

    data: str = "default"
    """default (music21's chorales), jsb (Jsb16thSeparated.npz under --data-dir, without bars and struck notes), or a
    folder with pieces in four parts (MIDI or MusicXML)."""
    layers: run.Count = 4
    """Blocks that read all sixteenths before one."""
    around: run.Count = 1
    """Blocks that read what is given, before and behind."""
    width: run.Count = 192
    """Model width d; a multiple of the number of heads."""
    heads: run.Count = 6
    """Attention heads of a block."""
    ff: run.Count = 512
    """Width of the feed-forward layers, which have a gate."""
    position: Literal["rotary", "relative"] = "rotary"
    """How blocks know which sixteenth came when; relative: as in the paper, each distance has an embedding."""
    chord: run.Count = 64
    """Channels in which a voice sees those above it."""
    head: run.Count = 192
    """Width of each voice's head."""
    dropout: run.Fraction = 0.1
    """Probability with which an activation is dropped in training."""
    rows: run.Count = 16
    """Excerpts of a batch."""
    length: run.Count = 256
    """Sixteenths of an excerpt, and the longest piece that can be written."""
    transpose: bool = True
    """Train in all keys in which every voice stays in its range."""
    given: run.Share = 0.5
    """Share of the excerpts of which voices, or all but a gap, are given."""
    lr: run.Amount = 3e-3
    """Peak learning rate of both optimisers."""
    warmup: run.Natural = 50
    """Steps of the warm-up."""
    weight_decay: run.Amount = 0.1
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""
    ema_decay: run.Fraction = 0.99
    """Decay of the averaged parameters that are used; 0: no averaging."""
    samples: run.Free[run.Count] = 32
    """Chorales that are written for the final scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.network()
        if self.length < 2 * voices.BAR:
            raise ValueError(f"--length {self.length}: two bars at least, {2 * voices.BAR} sixteenths")

    def network(self) -> Config:
        """Raises ValueError for widths that cannot be."""
        block = transformer.Config(
            width=self.width, heads=self.heads, ff=self.ff, activation="swiglu", bias="none",
            position=self.position, reach=self.length if self.position == "relative" else 0,
        )  # fmt: skip
        return Config(
            layers=self.layers, around=self.around, chord=self.chord, head=self.head, dropout=self.dropout, block=block
        )


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=900, eval_every=300, save_every=300),
    "best": Args(
        steps=6000, layers=8, around=2, width=384, heads=8, ff=1024, chord=128, head=384, dropout=0.3, rows=64,
        lr=1e-3, warmup=300, ema_decay=0.999, samples=256, eval_every=500, save_every=1000, log_every=50,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----


def seen(batch: Excerpt, key: Key, args: Args) -> tuple[Music, Bool[Tensor, "b t v"], Bool[Tensor, "b t v"]]:
    """An excerpt as a model is to see it, what of it is given, and what is to be predicted. Of those with
    something given it is some voices, or all but a gap, or, of one in five, both; half of all are told what is left."""
    k_shift, k_left, k_kind, k_voice, k_gap = random.split(key, 5)
    b, t, v = batch.cells.shape
    cells, n = batch.cells, torch.arange(t, device=batch.cells.device)
    if args.transpose:
        low, high = voices.shifts(voices.sounding(cells))
        by = (low + random.uniform(k_shift, (b,)) * (high - low + 1)).floor()
        cells = voices.transposed(cells, torch.minimum(by, high.float()).long())
    left = torch.where(random.bernoulli(k_left, 0.5, (b, 1)), batch.left, 0)
    kind = random.uniform(k_kind, (b, 1, 1)) / args.given
    ends = (random.uniform(k_gap, (b, 2)) * t).sort(1).values
    outside = ((n < ends[:, :1]) | (n > ends[:, 1:]))[..., None]
    given = (random.bernoulli(k_voice, 0.5, (b, 1, v)) & (kind < 0.6)) | (outside & (kind > 0.4) & (kind < 1))
    given = given.expand(b, t, v) & batch.counts[..., None]
    return Music(cells, batch.place, left), given, batch.counts[..., None] & ~given


def loss(
    params: Tree,
    music: Music,
    given: Bool[Tensor, "b t v"],
    counts: Bool[Tensor, "b t v"],
    key: Key | None = None,
    *,
    cfg: Config,
    dtype: torch.dtype,
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of the cells that count."""
    logits = chorale.apply(tree.cast(params, dtype), music, given, key, cfg=cfg).float()
    each = F.cross_entropy(rearrange(logits, "b t v k -> b k t v"), music.cells, reduction="none")
    n = counts.sum()
    return parallel.weighted((each * counts).sum() / n.clamp(min=1), n)


def optimizer(args: Args, dtype: torch.dtype = torch.float32) -> tuple[optim.Optimizer, optim.Schedule]:
    """`dtype`: of Muon's matrix products."""
    rate = optim.linear(args.lr, args.steps, args.warmup)
    adam = optim.adamw(rate, (0.9, 0.95), weight_decay=args.weight_decay, decay=optim.matrices)
    return muon.partition(MATRICES, muon.muon(rate, args.weight_decay, dtype=dtype), adam), rate


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    ema: Tree  # None without averaging
    key: Key
    step: Int[Tensor, ""]


def init_state(key: Key, args: Args) -> TrainState:
    k_params, k_train = random.split(key)
    params = chorale.init(k_params, args.network())
    ema = tree.map(torch.clone, params) if args.ema_decay else None
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args)[0].init(params), ema, k_train, step)


def step(state: TrainState, batch: Excerpt, *, args: Args, dtype: torch.dtype) -> tuple[TrainState, dict[str, Tensor]]:
    """One update. The whole of training is this function, applied again and again."""
    optimiser, rate = optimizer(args, dtype)
    k_seen, k_dropout = random.split(random.fold_in(state.key, state.step))
    music, given, counts = seen(batch, k_seen, args)
    objective = partial(loss, cfg=args.network(), dtype=dtype)
    key = k_dropout if args.dropout else None
    value, grads = parallel.mean(value_and_grad(objective)(state.params, music, given, counts, key))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimiser.update(grads, state.opt, state.params)
    ema = optim.ema(state.ema, params, args.ema_decay, state.step) if args.ema_decay else None
    out = {"train/loss": value, "grad/norm": norm, "train/lr": rate(state.step)}
    return TrainState(params, opt, ema, state.key, state.step + 1), out


# ---- training: plumbing ----


def composer_of(params: Tree, args: Args, dtype: torch.dtype, device: torch.device) -> Composer:
    corpus = functools.cache(partial(chorales.load, args.data, args.data_dir))
    return Composer(tree.cast(params, dtype), args.network(), args.length, device, corpus)


def train(args: Args) -> None:
    if args.shard_optimizer:
        raise RunError("--shard-optimizer cuts matrices, which Muon needs whole: leave it out")
    corpus = chorales.load(args.data, args.data_dir)
    here = run.Run(args, NAME, Path(__file__), unit="cells")
    data = here.batches(lambda key, first: excerpts.batches(corpus.train, key, args.rows, args.length, first))
    batch = next(data)  # too few pieces are told before anything is computed
    print(f"{corpus.name}: {len(corpus.train)} to train on; {here.device}, {here.dtype}")
    state = here.start(init_state)
    print(tree.table(state.params, depth=1))
    update = here.compile(step, dtype=here.dtype)

    def as_composer(s: TrainState) -> Composer:
        return composer_of(s.ema if args.ema_decay else s.params, args, here.dtype, here.device)

    for n in here.progress():
        state, out = update(state, batch)
        here.record(n, state, out, units=batch.cells.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                composer.watch(one, n + 1, as_composer(s), corpus, here.show_key)
        for one, before, after, b in here.diagnosed(n, state, batch):
            examples = tree.map(lambda x: x[:DIAGNOSED], seen(b, here.show_key, args))
            diagnose.report(one, n + 1, before, after, {"params": partial(plain, args=args)}, examples)
        batch = next(data)
    if not here.evaluates(state):
        return
    results = [composer.evaluate(one, args.steps, as_composer(s), corpus, args.samples) for one, s in here.each(state)]
    here.finish(results)


def plain(params: Tree, examples: tuple[Music, Tensor, Tensor], *, args: Args) -> Tensor:
    return loss(params, *examples, cfg=args.network(), dtype=torch.float32)


# ---- using a run ----


def load(path: Path, args: Args) -> Composer:
    device = run.device(run.Args())
    like = chorale.init(random.key(0), args.network())
    params = run.load(path, like, "ema" if args.ema_decay else "params", device)
    return composer_of(params, args, run.dtype(args, device), device)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
