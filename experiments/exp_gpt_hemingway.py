"""A small GPT that writes like one author (Radford et al. 2018, 2019), the book's shape and a modern one.

What it shows: a decoder-only Transformer learns a novel's spelling, syntax and manner from nothing, and what the
choices made since 2018 are worth: on Moby Dick, in five minutes on two cores, 1.841 ± .004 bits per byte of held-out
text by the modern shape and 1.989 ± .008 by the book's, on as many tokens and with as many parameters in the blocks.
`just run exp_gpt_hemingway` (any text by `--data`), then `just sample exp_gpt_hemingway "Call me"`.
The book's shape:

    just run exp_gpt_hemingway --norm layer --position learned --activation gelu --ff 1024 --bias all --head untied \
        --optimizer adamw

Bits per byte compare tokenizers too: `--tokens word`, `bpe` or `char`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from lib import diagnose, muon, optim, parallel, random, run, transformer, tree
from lib.data import batches, texts, tokens
from lib.faults import RunError
from lib.models import gpt
from lib.random import Key
from lib.tasks import writing
from lib.tasks.writing import Use, answers
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
MATRICES = r"blocks\.\d+\.(attn|ff)\..*w"  # what Muon trains


@dataclass(frozen=True)
class Args(run.Args):
    """Train a decoder-only Transformer on novels or any other text."""

    data: str = "default"
    """default (Moby Dick), hemingway, anna, or the path of a text file or of a folder of .txt files."""
    tokens: Literal["word", "bpe", "char"] = "bpe"
    """What a token is: see `tokens.train_lossless`."""
    vocabulary: run.Vocabulary = 2000
    """Different tokens, at most; 256 of them are bytes."""
    layers: run.Count = 4
    """Layers of the model."""
    width: run.Count = 256
    """Model width d; a multiple of the number of heads."""
    heads: run.Count = 4
    """Attention heads of a layer."""
    ff: run.Count = 688
    """Width of the feed-forward layers: 8/3 d with swiglu, which has three matrices, is as large as 4 d with two."""
    norm: Literal["layer", "rms"] = "rms"
    """Kind of normalisation."""
    position: Literal["sinusoidal", "learned", "rotary"] = "rotary"
    """How the model knows positions."""
    activation: Literal["relu", "gelu", "swiglu"] = "swiglu"
    """Activation of the feed-forward layers."""
    bias: Literal["none", "ff", "all"] = "none"
    """Which maps of a block have biases: none, the feed-forward ones, or all."""
    head: Literal["tied", "untied"] = "tied"
    """Whether the table of embeddings is the head as well (tied) or not (untied)."""
    dropout: run.Fraction = 0.0
    """Probability with which an activation is dropped in training."""
    rows: run.Count = 32
    """Windows of a batch."""
    length: run.Count = 128
    """Tokens of a window, and the context: as many as the model ever sees at once."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """adamw for everything, or muon for the blocks' matrices and adamw for the rest."""
    lr: run.Amount = 2e-3
    """Peak learning rate of both optimisers."""
    schedule: Literal["linear", "constant"] = "linear"
    """How the learning rate goes: linearly to 0 after the warm-up, or constant without one."""
    warmup: run.Natural = 50
    """Steps of the warm-up."""
    weight_decay: run.Amount = 0.1
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.block()

    def block(self) -> transformer.Config:
        """Raises ValueError for widths that cannot be."""
        return transformer.Config(
            width=self.width, heads=self.heads, ff=self.ff, dropout=self.dropout, norm=self.norm,
            activation=self.activation, position=self.position, bias=self.bias,
        )  # fmt: skip


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=600, save_every=300, eval_every=150),
    # Chapter 12 of the book: 7,829,760 parameters with a vocabulary of 10,600, Adam at 1e-4, 40 epochs. Its windows
    # overlap (stride 1, so that an epoch there is 128 of ours); it lower-cases and has one token for all rare words.
    "book": Args(
        steps=3000, tokens="word", vocabulary=10_600, layers=3, ff=1024, norm="layer", position="learned",
        activation="gelu", bias="all", head="untied", dropout=0.1, optimizer="adamw", lr=1e-4, schedule="constant",
        weight_decay=0.0, eval_every=300, save_every=600,
    ),
    "best": Args(
        steps=700, layers=6, width=512, heads=8, ff=1376, dropout=0.3, rows=64, length=256, lr=1e-3, warmup=100,
        eval_every=100, save_every=350,
    ),
}  # fmt: skip

DIAGNOSED = 8  # rows of a batch: second derivatives take three times the memory of first ones


# ---- model and loss: edit here ----


def model_config(args: Args, tokenizer: Tokenizer) -> gpt.Config:
    return gpt.Config(tokenizer.get_vocab_size(), args.length, args.layers, args.block(), args.head)


def loss(
    params: Tree, window: Int[Tensor, "b t_plus_1"], key: Key | None = None, *, cfg: gpt.Config, dtype: torch.dtype
) -> Float[Tensor, ""]:
    """Mean cross-entropy per token in nats."""
    logits = gpt.apply(tree.cast(params, dtype), window[:, :-1], key, cfg=cfg)
    return F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


def optimizer(args: Args, dtype: torch.dtype = torch.float32) -> tuple[optim.Optimizer, optim.Schedule]:
    """`dtype`: of Muon's matrix products."""
    rate = optim.linear(args.lr, args.steps, args.warmup) if args.schedule == "linear" else optim.constant(args.lr)
    adam = optim.adamw(rate, (0.9, 0.95), weight_decay=args.weight_decay, decay=optim.matrices)
    if args.optimizer == "adamw":
        return parallel.shard_optimizer(adam, args.shard_optimizer), rate
    return muon.partition(MATRICES, muon.muon(rate, args.weight_decay, dtype=dtype), adam), rate


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def init_state(key: Key, cfg: gpt.Config, args: Args) -> TrainState:
    k_params, k_train = random.split(key)
    params = gpt.init(k_params, cfg)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args)[0].init(params), k_train, step)


def step(
    state: TrainState, window: Int[Tensor, "b t_plus_1"], *, cfg: gpt.Config, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update. The whole of training is this function, applied again and again."""
    optimiser, rate = optimizer(args, dtype)
    key = random.fold_in(state.key, state.step) if args.dropout else None
    value, grads = parallel.mean(value_and_grad(partial(loss, cfg=cfg, dtype=dtype))(state.params, window, key))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimiser.update(grads, state.opt, state.params)
    out = {"train/loss": value, "grad/norm": norm, "train/lr": rate(state.step)}
    return TrainState(params, opt, state.key, state.step + 1), out


# ---- training: plumbing ----


def go_on(
    params: Tree, prompt: Int[Tensor, "b t"], key: Key | None = None, *, cfg: gpt.Config, room: int, **sampling: float
) -> Iterator[Int[Tensor, "b"]]:
    """`gpt.generate` with a cache for the whole context: a smaller one, for `room` tokens, would round differently, and
    a text would not be the beginning of a longer one with the same key."""
    return gpt.generate(params, prompt, key, cfg=cfg, **sampling)  # type: ignore[arg-type]


def writer(params: Tree, tokenizer: Tokenizer, cfg: gpt.Config, args: Args, dtype: torch.dtype) -> writing.Writer:
    params = tree.cast(params, dtype)
    return writing.Writer(
        tokenizer, partial(go_on, params, cfg=cfg), partial(gpt.nats, params, cfg=cfg),
        partial(gpt.forced, params, cfg=cfg), params["embed"]["tokens"].device,
        cache(lambda: texts.load(args.data, args.data_dir).train), cfg.context,
    )  # fmt: skip


def train(args: Args) -> None:
    if args.shard_optimizer and args.optimizer == "muon":
        raise RunError("--shard-optimizer cuts matrices, which Muon needs whole: leave it out, or --optimizer adamw")
    corpus = texts.load(args.data, args.data_dir)
    here = run.Run(args, NAME, Path(__file__), unit="tokens", minimise="val/bits_per_byte")
    here.once(lambda: tokens.save(here.path, tokens.train_lossless(args.tokens, corpus.train, args.vocabulary)))
    tokenizer = tokens.load(here.path)
    cfg, ids = model_config(args, tokenizer), texts.encode(tokenizer, corpus.train)
    data = here.batches(lambda key, first: batches.windows(ids, key, args.rows, args.length, first))
    window = next(data)  # too small a text is told before anything is computed
    print(f"{corpus.name}: {len(ids):,} tokens of {cfg.vocabulary:,} kinds; {here.device}, {here.dtype}")

    state = here.start(init_state, cfg=cfg)
    print(tree.table(state.params, depth=1))
    here.throughput.flops_per_unit = 6 * gpt.matmul_weights(state.params) // len(here.members)
    update = here.compile(step, cfg=cfg, dtype=here.dtype)

    def as_writer(s: TrainState) -> writing.Writer:
        return writer(s.params, tokenizer, cfg, args, here.dtype)

    for n in here.progress():
        state, out = update(state, window)
        here.record(n, state, out, units=window[..., 1:].numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                writing.watch(one, n + 1, as_writer(s), corpus, here.show_key)
        for one, before, after, w in here.diagnosed(n, state, window):
            rows = w[:DIAGNOSED]
            plain = partial(loss, cfg=cfg, dtype=torch.float32)
            order = diagnose.report(one, n + 1, before, after, {"params": plain}, rows)
            surprising = [texts.decode(tokenizer, rows[i].cpu()) for i in order[:4]]
            one.writer.add_text("diagnose/surprising", "\n\n---\n\n".join(surprising), n + 1)
        window = next(data)
    if not here.evaluates(state):
        return
    results = [writing.report(one, args.steps, as_writer(s), corpus, here.show_key) for one, s in here.each(state)]
    here.finish(results, '"The"')


# ---- using a run ----


def load(path: Path, args: Args) -> writing.Writer:
    """The model of a run's latest checkpoint."""
    tokenizer, device = tokens.load(path), run.device(run.Args())
    cfg = model_config(args, tokenizer)
    params = run.load(path, gpt.init(random.key(0), cfg), "params", device)
    return writer(params, tokenizer, cfg, args, run.dtype(args, device))


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
