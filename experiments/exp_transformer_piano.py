"""A Transformer that plays the piano (Huang et al. 2018, "Music Transformer"; Oore et al. 2018).

What it shows: a performance, with its timing, touch and pedal, is a sequence of events, and a decoder-only Transformer
goes on with it as with a text; how likely it finds what people played, and how far what it plays is from that.
`just run exp_transformer_piano`, then `just sample exp_transformer_piano`.
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lib import diagnose, muon, optim, parallel, random, run, transformer, tree
from lib.data import batches, performances
from lib.data.performances import KEYS, KINDS, PITCHES, SHIFT, START
from lib.faults import RunError
from lib.models import gpt
from lib.random import Key
from lib.tasks import pianist
from lib.tasks.perform import Use, answers
from lib.tasks.pianist import Pianist
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
MATRICES = r"decoder\.blocks\.\d+\.(attn|ff)\..*w"  # what Muon trains
SPEEDS = (0.95, 0.975, 1.0, 1.025, 1.05)  # at which training performances are also heard
DIAGNOSED = 4  # rows of a batch: second derivatives take three times the memory of first ones


@dataclass(frozen=True)
class Args(run.Args):
    """Train a Transformer on piano performances."""

    data: str = "default"
    """default (ten performances of MAESTRO), maestro (all 1,276, fetched or under --data-dir), or a folder of MIDI
    files."""
    layers: run.Count = 4
    """Layers of the model."""
    width: run.Count = 256
    """Model width d; a multiple of the number of heads."""
    heads: run.Count = 4
    """Attention heads of a layer."""
    ff: run.Count = 688
    """Width of the feed-forward layers, which have a gate."""
    position: Literal["rotary", "relative", "learned", "sinusoidal"] = "rotary"
    """How the model knows positions; relative: as in the paper, each distance has an embedding."""
    dropout: run.Fraction = 0.0
    """Probability with which an activation is dropped in training."""
    rows: run.Count = 8
    """Windows of a batch."""
    length: run.Count = 512
    """Events of a window, and the context: as many as the model ever sees at once. People play some 41 a second."""
    transpose: run.Natural = 3
    """Semitones by which windows are moved up or down at most in training."""
    speeds: bool = True
    """Train at five speeds from .95 to 1.05."""
    lr: run.Amount = 2e-3
    """Peak learning rate of both optimisers."""
    warmup: run.Natural = 50
    """Steps of the warm-up."""
    weight_decay: run.Amount = 0.1
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.network()

    def network(self) -> gpt.Config:
        """Raises ValueError for widths that cannot be."""
        block = transformer.Config(
            width=self.width, heads=self.heads, ff=self.ff, dropout=self.dropout, activation="swiglu",
            position=self.position, bias="none", reach=self.length if self.position == "relative" else 0,
        )  # fmt: skip
        return gpt.Config(KINDS, self.length, self.layers, block)


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=600, eval_every=150, save_every=150),
    "best": Args(
        steps=40_000, data="maestro", layers=8, width=512, heads=8, ff=1376, dropout=0.1, rows=32, length=2048, lr=1e-3,
        warmup=500, eval_every=4000, save_every=2000, log_every=100,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----


def transposed(window: Int[Tensor, "b n"], by: Int[Tensor, "b"]) -> Int[Tensor, "b n"]:
    """All pitches so many semitones higher, or as many as keep a window on the piano."""
    pitch, of_pitch = window % PITCHES, window < SHIFT
    lowest = torch.where(of_pitch, pitch, PITCHES).amin(1)
    highest = torch.where(of_pitch, pitch, 0).amax(1)
    by = torch.minimum(torch.maximum(by, (KEYS[0] - lowest).clamp(max=0)), (KEYS[1] - highest).clamp(min=0))
    return torch.where(of_pitch, window + by[:, None], window)


def loss(
    params: Tree, window: Int[Tensor, "b n_plus_1"], key: Key | None = None, *, cfg: gpt.Config, dtype: torch.dtype
) -> Float[Tensor, ""]:
    """Mean cross-entropy per event in nats."""
    logits = gpt.apply(tree.cast(params, dtype), window[:, :-1], key, cfg=cfg)
    return F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


def optimizer(args: Args, dtype: torch.dtype = torch.float32) -> tuple[optim.Optimizer, optim.Schedule]:
    """`dtype`: of Muon's matrix products."""
    rate = optim.linear(args.lr, args.steps, args.warmup)
    adam = optim.adamw(rate, (0.9, 0.95), weight_decay=args.weight_decay, decay=optim.matrices)
    return muon.partition(MATRICES, muon.muon(rate, args.weight_decay, dtype=dtype), adam), rate


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def init_state(key: Key, args: Args) -> TrainState:
    k_params, k_train = random.split(key)
    params = gpt.init(k_params, args.network())
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args)[0].init(params), k_train, step)


def step(
    state: TrainState, window: Int[Tensor, "b n_plus_1"], *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update. The whole of training is this function, applied again and again."""
    optimiser, rate = optimizer(args, dtype)
    k_pitch, k_dropout = random.split(random.fold_in(state.key, state.step))
    by = random.randint(k_pitch, (len(window),), -args.transpose, args.transpose + 1)
    objective = partial(loss, cfg=args.network(), dtype=dtype)
    key = k_dropout if args.dropout else None
    value, grads = parallel.mean(value_and_grad(objective)(state.params, transposed(window, by), key))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimiser.update(grads, state.opt, state.params)
    out = {"train/loss": value, "grad/norm": norm, "train/lr": rate(state.step)}
    return TrainState(params, opt, state.key, state.step + 1), out


# ---- training: plumbing ----


def pianist_of(params: Tree, args: Args, dtype: torch.dtype, device: torch.device) -> Pianist:
    corpus = cache(partial(performances.load, args.data, args.data_dir))
    return Pianist(tree.cast(params, dtype), args.network(), device, corpus)


def train(args: Args) -> None:
    if args.shard_optimizer:
        raise RunError("--shard-optimizer cuts matrices, which Muon needs whole: leave it out")
    corpus = performances.load(args.data, args.data_dir)
    speeds = SPEEDS if args.speeds else (1.0,)
    ids = torch.cat([performances.encode(piece.notes, speed) for speed in speeds for piece in corpus.train])
    beginnings = (ids == START).nonzero().flatten()  # where a piece begins, a window does too
    here = run.Run(args, NAME, Path(__file__), unit="events")
    data = here.batches(lambda key, first: batches.windows(ids, key, args.rows, args.length, first, beginnings))
    window = next(data)  # too few events are told before anything is computed
    each = f"{len(ids) // len(speeds):,} events"
    print(f"{corpus.name}: {each} at {len(speeds)} speeds to train on; {here.device}, {here.dtype}")
    state = here.start(init_state)
    print(tree.table(state.params, depth=1))
    update = here.compile(step, dtype=here.dtype)

    def as_pianist(s: TrainState) -> Pianist:
        return pianist_of(s.params, args, here.dtype, here.device)

    for n in here.progress():
        state, out = update(state, window)
        here.record(n, state, out, units=window[..., 1:].numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                pianist.watch(one, n + 1, as_pianist(s), corpus, here.show_key)
        for one, before, after, w in here.diagnosed(n, state, window):
            plain = partial(loss, cfg=args.network(), dtype=torch.float32)
            diagnose.report(one, n + 1, before, after, {"params": plain}, w[:DIAGNOSED])
        window = next(data)
    if not here.evaluates(state):
        return
    results = [pianist.evaluate(one, args.steps, as_pianist(s), corpus) for one, s in here.each(state)]
    here.finish(results)


# ---- using a run ----


def load(path: Path, args: Args) -> Pianist:
    device = run.device(run.Args())
    params = run.load(path, gpt.init(random.key(0), args.network()), "params", device)
    return pianist_of(params, args, run.dtype(args, device), device)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
