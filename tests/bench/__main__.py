"""Our way against the usual ones, timed side by side: `python -m tests.bench step`, `book` and `gan`.

step: the experiment's training step against the same architecture as nn.Module with fused AdamW (modules.py), on the
    same packed batches of made-up tokens, which lie on the device before the clock starts.
book: the experiment's `book` preset against the book's own way (book.py) on the same sentence pairs, packed rows here
    and padded batches there. Making batches of token lists is timed; sorting, packing and tokenising are not. Weights
    are random, so a translation would end anywhere: both make as many tokens of a sentence as its reference has, end
    token included, and ours goes on with a batch until its longest is done, as after training.

gan: the adversarial steps of exp_gan_curve (`book`) and exp_gan_fashion (`small`) against the same networks as
    nn.Modules with torch.optim.Adam (gans.py).

The peers take turns in one process; two rounds before do not count. A ratio is the median over rounds of the ratio
within a round, per useful token: a predicted target token, no padding. First steps, compilation included, and peaks
are of fresh processes: the first step with an empty compile cache, the peak from the third step on with the graphs in
the cache. On CUDA it is the most that torch had allocated, state included; on a CPU the largest resident set of the
process, libraries, data and what tracing left behind too; nothing is subtracted.
"""

import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import torch
import tyro

from experiments import exp_transformer_fr as exp
from lib import random, run, seq2seq, transformer, tree
from lib.data import packing, pairs, tokens
from lib.data.sources import DataError
from lib.transform import jit
from tests.bench import book, gans, modules

PRESET = exp.PRESETS["book"]
BATCHES = 8  # different ones of the made-up corpus
BOOK = "the book's way"
HEAD = ["one", "peer", "seconds, median (min-max)", "tokens or sentences / s", "baseline", "time / baseline", "speed"]
HEAD += ["peak MiB", "peak / baseline", "first step, s"]


@dataclass(frozen=True)
class Step:
    """The training step against nn.Module. Without --compile the eager peers only."""

    width: int = PRESET.width
    layers: int = PRESET.encoder_layers
    """Of the encoder, and as many of the decoder."""
    heads: int = PRESET.heads
    ff: int = PRESET.ff
    vocabulary: int = PRESET.vocabulary
    rows: int = PRESET.rows
    length: int = PRESET.length
    dropout: float = PRESET.dropout
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: as in the experiment. The book's way is always fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = True
    rounds: int = 20
    inner: int = 1
    """Steps in one timing."""

    @property
    def args(self) -> exp.Args:
        same = {name: value for name, value in vars(self).items() if hasattr(PRESET, name) and name != "compile"}
        return replace(PRESET, encoder_layers=self.layers, decoder_layers=self.layers, **same)


@dataclass(frozen=True)
class Book(Step):
    """Training and translating against the book's own way. Without --compile ours trains eagerly."""

    data: str = "tatoeba"
    """As in the experiment, and --data-dir too."""
    data_dir: Path | None = None
    pairs: int = 20_000
    """Training pairs, drawn at random."""
    sentences: int = 1000
    book_sentences: int = 30
    """Of the test sentences, spread evenly over their lengths, so many are for timing the book's way."""
    rounds: int = 5
    inner: int = 8
    """Batches in one timing, the same in every round; the book's are spread evenly over the lengths."""


@dataclass(frozen=True)
class Gan:
    """The adversarial steps of exp_gan_curve and exp_gan_fashion against nn.Module. Without --compile eager only."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = True
    rounds: int = 20

    @property
    def args(self) -> run.Args:
        return run.Args(device=self.device, precision=self.precision)


class Job(NamedTuple):
    """What the peers train on; can be sent to another process. `packed`, `padded`: batches as pair numbers."""

    args: exp.Args
    cfg: seq2seq.Config
    device: torch.device
    dtype: torch.dtype
    corpus: packing.Tokens
    packed: list[list[list[int]]]
    padded: list[list[int]]

    def load(self, n: int) -> packing.Batch:
        batch = packing.collate(self.corpus, self.packed[n], self.args.length, tokens.START, tokens.END)
        return tree.to(batch, self.device)

    def useful(self, peer: str, n: int) -> int:
        chosen = self.padded[n] if peer == BOOK else itertools.chain.from_iterable(self.packed[n])
        return sum(len(self.corpus.target[i]) + 1 for i in chosen)


def make_job(args: exp.Args, corpus: packing.Tokens, vocabularies: list[int], batches: int) -> Job:
    block, device = transformer.Config(args.width, args.heads, args.ff, args.dropout, args.norm), run.device(args)
    cfg = seq2seq.Config(args.encoder_layers, args.decoder_layers, block, *vocabularies, args.shared)
    padded = spread(book.batches(corpus), batches)
    rows = packing.batches(corpus, random.key(args.seed), args.rows, lambda _, rows: rows, args.length)
    return Job(args, cfg, device, run.dtype(args, device), corpus, list(itertools.islice(rows, len(padded))), padded)


def spread(items: list, k: int) -> list:
    """k evenly spaced items, or all."""
    return [items[(2 * i + 1) * len(items) // (2 * k)] for i in range(k)] if k < len(items) else items


def ours(job: Job, load: Callable, compiled: bool) -> Callable:
    state = exp.init_state(random.key(job.args.seed, job.device), job.cfg, job.args)
    update = jit(partial(exp.step, cfg=job.cfg, args=job.args, dtype=job.dtype), enabled=compiled)

    def train(n: int) -> None:
        nonlocal state
        state, _ = update(state, load(n))

    return train


def usual(job: Job, load: Callable, compiled: bool) -> Callable:
    params = seq2seq.init(random.key(job.args.seed, job.device), job.cfg)
    model = modules.from_tree(params, job.cfg, job.args.length, job.args.smoothing)
    trainer = modules.Trainer(model, job.args, job.dtype, compiled)
    return lambda n: trainer.step(load(n))


def books(job: Job, _: Callable) -> Callable:
    trainer = book.Trainer(book.Book(job.cfg).to(job.device), job.args.warmup)
    return lambda n: trainer.step(book.pad(job.corpus, job.padded[n], job.device))


PEERS: dict[str, Callable] = {  # (job, function that loads its packed batch n) -> function that trains on batch n
    "nn.Module, eager": partial(usual, compiled=False),
    "ours, eager": partial(ours, compiled=False),
    "nn.Module, compiled": partial(usual, compiled=True),
    "ours, compiled": partial(ours, compiled=True),
    BOOK: books,
}


def probe(peer: str, job: Job) -> tuple[float, float]:
    """Seconds of the first step, and after the warm-up the peak memory in MiB; for a process that does only this."""
    train, order = PEERS[peer](job, job.load), range(len(job.packed))[::-1]  # the longest padded batch first
    first = modules.timed(lambda: train(order[0]), job.device)
    train(order[-1])
    modules.forget_peak(job.device)
    for n in order:
        train(n)
    return first, modules.peak(job.device)


def training(job: Job, peers: list[str], load: Callable, flags: Step) -> list[str]:
    if flags.compile:  # what the compiler does once for all stays in the cache, so that no peer pays for it
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=job.device))
    probes = {}
    for name in peers:
        print(f"first step and memory of {name} ...", file=sys.stderr)
        found = [modules.alone(probe, name, job, device=job.device) for _ in range(2 if "compiled" in name else 1)]
        probes[name] = found[0][0], found[-1][1]  # the second finds the first one's graphs in the cache
    trains = {name: PEERS[name](job, load) for name in peers}
    order = [[(r * flags.inner + i) % len(job.packed) for i in range(flags.inner)] for r in range(flags.rounds)]
    works = {name: lambda r, train=train: [train(n) for n in order[r]] for name, train in trains.items()}
    seconds = modules.take_turns(works, flags.rounds, job.device)
    each = {name: [t / flags.inner for t in times] for name, times in seconds.items()}
    useful = {name: [sum(job.useful(name, n) for n in numbers) for numbers in order] for name in peers}
    rates = {name: [n / t for n, t in zip(useful[name], seconds[name], strict=True)] for name in peers}
    return table("training step", each, rates, probes)


def table(what: str, seconds: dict, rates: dict, probes: dict) -> list[str]:
    """The table's lines. Of each peer and round: seconds for one `what`, and tokens or sentences per second."""
    lines = []
    for name, rate in rates.items():
        base = BOOK if BOOK in rates else name.replace("ours", "nn.Module")
        ratio, s = median(b / r for b, r in zip(rates[base], rate, strict=True)), seconds[name]
        cells = [what, name, f"{median(s):.4g} ({min(s):.4g}-{max(s):.4g})", f"{median(rate):,.1f}", base]
        cells += [f"{ratio:.3g}", f"{1 / ratio:.3g} x"]
        (first, peak), (_, base_peak) = probes.get(name, (0, 0)), probes.get(base, (0, 0))
        cells += [f"{peak:,.0f}", f"{peak / base_peak:.3g}", f"{first:.1f}"] if peak else [""] * 3
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def bench_step(flags: Step) -> list[str]:
    def sentences(step: int) -> list[list[int]]:
        """Of 4 to 16 tokens, as most of tatoeba's."""
        lengths = [min(4 + step * i % 13, flags.length - 1) for i in range(BATCHES * flags.rows * flags.length // 8)]
        return [[3 + (31 * i + 17 * j) % (flags.vocabulary - 3) for j in range(n)] for i, n in enumerate(lengths)]

    corpus = packing.Tokens(sentences(7), sentences(5))
    job = make_job(flags.args, corpus, [flags.vocabulary] * 2, BATCHES)
    ready = [job.load(n) for n in range(len(job.packed))]
    peers = [name for name in PEERS if name != BOOK and (flags.compile or "eager" in name)]
    return training(job, peers, ready.__getitem__, flags)


def bench_book(flags: Book) -> list[str]:
    args, splits = flags.args, pairs.load(flags.data, flags.data_dir)
    shuffled = random.permutation(random.key(args.seed), len(splits.train)).tolist()
    train, test = [splits.train[i] for i in shuffled[: flags.pairs]], {p.source: p for p in splits.test}
    tokenizers = tokens.train_pair([p.source for p in train], [p.target for p in train], args.vocabulary, args.shared)
    corpus = exp.encoded(train, tokenizers, args.length)
    job = make_job(args, corpus, [t.get_vocab_size() for t in tokenizers], flags.inner)
    lines = training(job, [BOOK, "ours, compiled" if flags.compile else "ours, eager"], job.load, flags)
    params = tree.cast(seq2seq.init(random.key(args.seed, job.device), job.cfg), job.dtype)
    model = book.Book(job.cfg).to(job.device).eval()
    held_out = exp.encoded(spread(list(test.values()), flags.sentences), tokenizers, args.length)
    many = sorted(((s, len(t) + 1) for s, t in zip(*held_out, strict=True)), key=lambda x: len(x[0]))
    few = spread(many, flags.book_sentences)
    ours_translates = lambda _: book.all_at_once(params, many, job.cfg, args.length)  # noqa: E731
    works = {BOOK: lambda _: book.one_by_one(model, few), "ours": ours_translates}
    seconds = modules.take_turns(works, flags.rounds, job.device)
    each = {BOOK: [t / len(few) for t in seconds[BOOK]], "ours": [t / len(many) for t in seconds["ours"]]}
    rates = {name: [1 / t for t in times] for name, times in each.items()}
    lines += table("translated sentence", each, rates, {})
    return [*lines, "", f"{len(many)} sentences to translate; the book's way is timed on {len(few)} of them"]


def bench_gan(flags: Gan) -> list[str]:
    device, lines = run.device(flags.args), []
    peers = [name for name in gans.PEERS if flags.compile or "eager" in name]
    for experiment, (make, inner) in gans.STEPS.items():
        dtype = run.dtype(flags.args, device)
        print(f"first step and memory of {experiment} ...", file=sys.stderr)
        found = {
            name: [modules.alone(gans.probe, experiment, name, device, dtype, device=device) for _ in range(2)]
            for name in peers
        }
        trains = {name: make(*gans.PEERS[name], device, dtype) for name in peers}
        works = {name: partial(several, train, inner) for name, train in trains.items()}
        seconds = modules.take_turns(works, flags.rounds, device)
        each = {name: [t / inner for t in times] for name, times in seconds.items()}
        rates = {name: [1 / t for t in times] for name, times in each.items()}
        lines += table(f"step of {experiment}", each, rates, {k: (v[0][0], v[1][1]) for k, v in found.items()})
    return lines


def several(train: gans.Train, inner: int, _: int) -> None:
    for n in range(inner):
        train(n)


def main() -> None:
    commands = {"step": (Step, bench_step), "book": (Book, bench_book), "gan": (Gan, bench_gan)}
    kinds = {name: kind for name, (kind, _) in commands.items()}
    flags = tyro.extras.subcommand_cli_from_dict(kinds, prog="bench", description=__doc__)
    work = next(work for kind, work in commands.values() if type(flags) is kind)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            lines = work(flags)
        except (run.RunError, DataError) as error:
            sys.exit(f"error: {error}")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}\n" + "\n".join(lines))
    print(f"\n`{' '.join(['python -m tests.bench', *sys.argv[1:]])}`; {modules.environment(run.device(flags.args))}")


if __name__ == "__main__":
    from tests.bench import __main__ as bench  # a name that other processes can import, so that they find `probe`

    bench.main()
