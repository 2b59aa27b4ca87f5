"""Writing on in the manner of a novel with an LSTM language model (Zaremba et al. 2014), by words, byte pairs or
characters.

What it shows: held-out perplexity and bits per byte, and how much of what it writes is copied from the book; on Moby
Dick 2.066 ± .011 bits per byte in four minutes on two cores, where a Transformer has 1.841 (exp_gpt_hemingway).
`just run exp_lstm_novel`, then `just sample exp_lstm_novel "The whale"`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from lib import decode, diagnose, nn, optim, parallel, random, run, tree
from lib.data import batches, texts, tokens
from lib.lstm import State, lstm, lstm_init, zero_state
from lib.random import Key
from lib.tasks import writing
from lib.tasks.writing import Use, answers
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
READ = 1000  # tokens at once where only the state goes on


@dataclass(frozen=True)
class Args(run.Args):
    """Train an LSTM on a text: Moby Dick by default."""

    data: str = "default"
    """default (Moby Dick), anna (Anna Karenina), hemingway, a text file or a folder of .txt files."""
    tokens: Literal["word", "bpe", "char"] = "bpe"
    """What the model reads and writes one at a time: words, byte pairs or characters."""
    vocabulary: run.Vocabulary = 4000
    """Entries of the vocabulary, at most; 256 of them are bytes, which spell what is not in it."""
    layers: run.Count = 2
    """Layers of the LSTM."""
    embedding: run.Count = 256
    """Width of an embedding."""
    hidden: run.Count = 256
    """Width of the LSTM's state."""
    dropout: run.Fraction = 0.3
    """Dropout of each layer's input and of what the head reads."""
    rows: run.Count = 32
    """Rows of a batch: the text is read in so many places at once, window after window, the state carried along."""
    length: run.Count = 64
    """Tokens of a window; no gradient reaches further back."""
    lr: run.Amount = 3e-3
    """Peak learning rate: a warm-up of a twentieth of the run, then half a cosine to 0; or constant."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes: along half a cosine to 0, or constant."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""


PRESETS: dict[str, run.Args] = {
    # On a GPU torch.compile unrolls the fused call; on a CPU it takes longer than it saves here.
    "small": Args(steps=1800, eval_every=300, save_every=600, compile="off"),
    # Chapter 8: 128-wide embedding, 3 layers of 128, dropout .2, windows of 100, batches of 32, Adam at 1e-4, clipped
    # at 5, 50 epochs of windows that begin at each token. Here they follow each other, as the carried state wants it:
    # an epoch has a hundredth of the updates, 137 of some 440,000 words.
    "book": Args(
        steps=6850, data="anna", tokens="word", vocabulary=12_778, layers=3, embedding=128, hidden=128, dropout=0.2,
        length=100, lr=1e-4, schedule="constant", clip=5.0, eval_every=685, save_every=685,
        compile="off",
    ),
    "best": Args(
        steps=12_000, vocabulary=6000, embedding=512, hidden=1024, dropout=0.55, rows=64, length=128, lr=2e-3,
        eval_every=500, save_every=1000, compile="off",
    ),
}  # fmt: skip


# ---- model and loss: edit here ----


def init(key: Key, v: int, args: Args) -> Tree:
    """{"embedding": (v, e), "lstm": of `lstm_init`, "head": {"w", "b"}}."""
    ks = random.split(key, 3)
    return {
        "embedding": random.normal(ks[0], (v, args.embedding)),
        "lstm": lstm_init(ks[1], args.embedding, args.hidden, args.layers),
        "head": nn.linear_init(ks[2], args.hidden, v),
    }


def apply(
    params: Tree, x: Int[Tensor, "b t"], state: State, key: Key | None = None, *, args: Args
) -> tuple[Float[Tensor, "b t v"], State]:
    """Logits of each next token, and the state after the last one."""
    k_in, k_lstm, k_out = random.split(key, 3)
    y = nn.dropout(nn.embedding(params["embedding"], x), args.dropout, k_in)
    y, state = lstm(params["lstm"], y, tree.cast(state, y.dtype), k_lstm, dropout=args.dropout)
    return nn.linear(params["head"], nn.dropout(y, args.dropout, k_out)), tree.cast(state, torch.float32)


def loss(
    params: Tree, x: Int[Tensor, "b t_plus_1"], state: State, key: Key | None = None, *, args: Args, dtype: torch.dtype
) -> tuple[Float[Tensor, ""], State]:
    """Mean cross-entropy per token in nats, and the state for the window that follows."""
    logits, state = apply(tree.cast(params, dtype), x[:, :-1], state, key, args=args)
    return F.cross_entropy(logits.float().flatten(0, 1), x[:, 1:].flatten()), state


def optimizer(args: Args) -> optim.Optimizer:
    adam = optim.adam(optim.cosine(args.lr, args.steps, args.steps // 20) if args.schedule == "cosine" else args.lr)
    return parallel.shard_optimizer(adam, args.shard_optimizer)


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    carry: State  # where each row of the batch stands in its part of the text
    key: Key
    step: Int[Tensor, ""]


def init_state(key: Key, v: int, args: Args) -> TrainState:
    k_params, k_train = random.split(key)
    params = init(k_params, v, args)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args).init(params), zero_state(params["lstm"], args.rows), k_train, step)


def step(
    state: TrainState, batch: batches.Window, *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update. No gradient goes through the carried state to the window before."""
    carry = mine(state.carry)
    carry = tree.map(lambda x: torch.where(rearrange(batch.fresh, "b -> b 1 1"), 0.0, x), carry)
    key = random.fold_in(state.key, state.step) if args.dropout else None
    objective = value_and_grad(partial(loss, args=args, dtype=dtype), has_aux=True)
    (value, carry), grads = objective(state.params, batch.tokens, carry, key)
    value, grads = parallel.mean((value, grads))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimizer(args).update(grads, state.opt, state.params)
    out = {"train/loss": value, "grad/norm": norm}
    return TrainState(params, opt, everyones(carry, state.carry), state.key, state.step + 1), out


def mine(carry: State) -> State:
    """The carried state of the rows that this rank works on. All ranks keep all rows, so that a run can go on with
    another number of them."""
    if parallel.ranks() == 1:
        return carry
    return tree.map(lambda x: parallel.part(x).reshape(parallel.rows(len(x)), *x.shape[1:]), carry)


def everyones(carry: State, like: State) -> State:
    return carry if parallel.ranks() == 1 else parallel.whole(carry, like)


# ---- writing and evaluation ----


@torch.no_grad()
def go_on(
    params: Tree, prompt: Int[Tensor, "b t"], key: Key | None = None, *, args: Args, room: int = 0, **sampling: float
) -> Iterator[Int[Tensor, "b"]]:
    """Token after token behind a prompt, for ever. Token n is picked with `fold_in(key, n)`; `sampling` as in
    `decode.pick`. `room` changes nothing: a recurrent state is as large before one token as before a thousand."""
    state, unread, n = zero_state(params["lstm"], len(prompt)), prompt, 0
    while True:
        logits, state = apply(params, unread, state, args=args)
        token = decode.pick(logits[:, -1], random.fold_in(key, n), **sampling)  # type: ignore[arg-type]
        yield token
        unread, n = rearrange(token, "b -> b 1"), n + 1


@torch.no_grad()
def nats(params: Tree, ids: Int[Tensor, "n"], *, args: Args, dtype: torch.dtype) -> float:
    """Summed negative log-likelihood of all tokens but the first, read in order with the state carried."""
    device, total = params["embedding"].device, 0.0
    state = zero_state(params["lstm"], 1)
    for first in range(0, len(ids) - 1, READ):
        part = ids[first : first + READ + 1].to(device)
        value, state = loss(params, part[None], state, args=args, dtype=dtype)
        total += float(value) * (len(part) - 1)
    return total


@torch.no_grad()
def forced(params: Tree, ids: Int[Tensor, "n"], behind: int, *, args: Args) -> Iterator[Float[Tensor, "t v"]]:
    """Logits of the tokens behind the first so many, of which there is one at least, in parts."""
    state, skip = zero_state(params["lstm"], 1), behind - 1
    for part in ids[:-1].to(params["embedding"].device).split(READ):
        logits, state = apply(params, part[None], state, args=args)
        yield logits[0, skip:]
        skip = max(0, skip - len(part))


def writer(params: Tree, tokenizer: Tokenizer, args: Args, dtype: torch.dtype) -> writing.Writer:
    params = tree.cast(params, dtype)
    return writing.Writer(
        tokenizer, partial(go_on, params, args=args), partial(nats, params, args=args, dtype=dtype),
        partial(forced, params, args=args), params["embedding"].device,
        cache(lambda: texts.load(args.data, args.data_dir).train),
    )  # fmt: skip


# ---- training: plumbing ----


def train(args: Args) -> None:
    corpus = texts.load(args.data, args.data_dir)
    here = run.Run(args, NAME, Path(__file__), unit="tokens", minimise="val/bits_per_byte")
    here.once(lambda: tokens.save(here.path, tokens.train_lossless(args.tokens, corpus.train, args.vocabulary)))
    tokenizer = tokens.load(here.path)
    ids, size = texts.encode(tokenizer, corpus.train), tokenizer.get_vocab_size()
    data = here.batches(lambda _, first: batches.streams(ids, args.rows, args.length, first))
    batch = next(data)  # too small a text is told before anything is computed
    print(f"{corpus.name}: {len(ids):,} training tokens of {len(corpus.train.encode()) / len(ids):.2f} bytes, "
          f"{size:,} different; {here.device}, {here.dtype}")  # fmt: skip
    state = here.start(init_state, v=size)
    print(tree.table(state.params, depth=1))
    here.throughput.flops_per_unit = 6 * (tree.size(state.params) // len(here.members) - size * args.embedding)
    update = here.compile(step, dtype=here.dtype)

    def as_writer(s: TrainState) -> writing.Writer:
        return writer(s.params, tokenizer, args, here.dtype)

    for n in here.progress():
        state, out = update(state, batch)
        here.record(n, state, out, units=args.rows * args.length // parallel.size())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                writing.watch(one, n + 1, as_writer(s), corpus, here.show_key)
        for one, before, after, b in here.diagnosed(n, state, batch):
            report(one, n + 1, before, after, b.tokens, tokenizer, args)
        batch = next(data)
    if not here.evaluates(state):
        return
    results = [writing.report(one, args.steps, as_writer(s), corpus, here.show_key) for one, s in here.each(state)]
    here.finish(results, '"It was"')


def report(
    here: run.Place, n: int, before: TrainState, after: TrainState, x: Tensor, tokenizer: Tokenizer, args: Args
) -> None:
    """A diagnosis of the loss from a state of zeros, without dropout."""

    def plain(params: Tree, x: Int[Tensor, "b t_plus_1"]) -> Float[Tensor, ""]:
        return loss(params, x, zero_state(params["lstm"], len(x)), args=args, dtype=torch.float32)[0]

    order = diagnose.report(here, n, before, after, {"params": plain}, x)
    worst = [texts.decode(tokenizer, x[i].cpu()) for i in order[:4]]
    here.writer.add_text("diagnose/surprising", "\n\n".join(worst), n)


# ---- using a run ----


def load(path: Path, args: Args) -> writing.Writer:
    """The model of a run's latest checkpoint."""
    tokenizer, device = tokens.load(path), run.device(run.Args())
    params = run.load(path, init(random.key(0), tokenizer.get_vocab_size(), args), "params", device)
    return writer(params, tokenizer, args, run.dtype(args, device))


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
