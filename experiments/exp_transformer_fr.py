"""English to French with the 2017 Transformer (Vaswani et al. 2017, "Attention is all you need").

What it shows: an encoder-decoder of 3.6 million parameters, trained from nothing in ten minutes on two CPU cores,
translates everyday sentences however they are typed. `just run exp_transformer_fr`: BLEU 61.9 ± 1.6 on held-out phrases
(RESULTS.md).
Then `just sample exp_transformer_fr "How are you?"`.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from lib import diagnose, metrics, muon, optim, parallel, plot, random, run, transformer, tree
from lib.data import casing, files, packing, pairs, slots, tokens, typed
from lib.faults import RunError
from lib.models.seq2seq import Config, Sequences, apply, init, matmul_weights
from lib.random import Key
from lib.tasks import robust
from lib.tasks.translate import Use, answers
from lib.tasks.translator import Translator
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem


@dataclass(frozen=True)
class Args(run.Args):
    """Train a Transformer on text pairs: English to French by default, any two languages from a TSV."""

    data: str = "default"
    """default (packaged corpora), tatoeba or multi30k, in other languages as tatoeba:eng-cmn or multi30k:en-de, or the
    path of a two-column TSV."""
    reverse: bool = False
    """Translate from the data's second language to its first."""
    encoder_layers: run.Count = 2
    """Layers of the encoder."""
    decoder_layers: run.Count = 2
    """Layers of the decoder."""
    width: run.Count = 192
    """Width of the model, a multiple of the number of heads."""
    heads: run.Count = 4
    """Attention heads of a layer."""
    ff: run.Count = 768
    """Width of the feed-forward layers."""
    norm: Literal["layer", "rms"] = "rms"
    """Kind of normalisation."""
    position: Literal["sinusoidal", "rotary"] = "sinusoidal"
    """How the model knows positions: waves added to embeddings, or queries and keys turned, in cross-attention too."""
    dropout: run.Fraction = 0.0
    """Probability with which an activation is dropped in training."""
    vocabulary: run.Count = 8000
    """Entries of the byte-pair encoding, at most."""
    shared: bool = True
    """One vocabulary and one table for source, target and head; otherwise three."""
    rows: run.Count = 32
    """Rows of a batch; each holds as many whole pairs as fit."""
    length: run.Count = 64
    """Tokens of a row on either side; longer sentences are left out."""
    lr: run.Amount = 16e-3
    """Peak learning rate of AdamW (linear schedule) or its factor (inverse_sqrt schedule)."""
    muon_lr: run.Amount = 4e-3
    """The same of Muon, which trains the matrices of blocks and leaves the tables to AdamW; 0: AdamW trains all."""
    schedule: Literal["linear", "inverse_sqrt"] = "linear"
    """Course of the learning rate behind the warm-up: linearly to 0, or with the inverse square root of the step."""
    warmup: run.Natural = 100
    """Steps in which the learning rate rises."""
    weight_decay: run.Amount = 0.01
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""
    smoothing: run.Fraction = 0.1
    """Share of a token's probability that is spread over all tokens (label smoothing)."""
    ema_decay: run.Fraction = 0.0
    """Decay of the averaged parameters that are evaluated; 0: evaluate the parameters themselves."""
    beams: run.Free[run.Count] = 4
    """Beams of the final evaluation."""
    test_sentences: run.Free[run.Count] = 500
    """Held-out sentences per corpus in the final evaluation, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary < tokens.SMALLEST:
            raise ValueError(f"--vocabulary {self.vocabulary}: at least {tokens.SMALLEST}, which are bytes and signs")
        self.block()

    def block(self) -> transformer.Config:
        """Raises ValueError for widths that cannot be."""
        return transformer.Config(
            width=self.width, heads=self.heads, ff=self.ff, dropout=self.dropout, norm=self.norm, position=self.position
        )


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=2000, position="rotary", save_every=500, eval_every=500),
    # Chapter 10 of the book: 6 + 6 layers, untied tables of 11,000, Noam schedule, smoothing .1. Its feed-forward has
    # no activation; here it has ReLU. 128 pairs of some 10 tokens are 20 rows of 64.
    "book": Args(
        steps=36_900, encoder_layers=6, decoder_layers=6, width=256, heads=8, ff=1024, norm="layer", dropout=0.1,
        vocabulary=11_000, shared=False, rows=20, lr=1.0, muon_lr=0.0, schedule="inverse_sqrt", warmup=2000,
        weight_decay=0.0, clip=0.0, beams=1, eval_every=1000, save_every=1000, test_sentences=5000,
    ),
    "best": Args(
        steps=6000, encoder_layers=6, decoder_layers=6, width=512, heads=8, ff=2048, position="rotary", dropout=0.2,
        vocabulary=10_000, rows=128, lr=8e-3, muon_lr=3e-3, warmup=500, eval_every=1000, save_every=2000,
        test_sentences=5000,
    ),
}  # fmt: skip

MATRICES = r"blocks\.\d+\.(attn|cross|ff)\..*w"  # what Muon trains
DIAGNOSED = 8  # rows of a batch: second derivatives take three times the memory of first ones

# What a person would try first; the final table marks what stands in the training data.
TRY = [
    "How are you?", "I don't speak French.", "Today is a beautiful day!", "I love skiing in the winter!",
    "Where is the train station?", "My sister doesn't like coffee.", "We will go to the beach tomorrow.",
    "what time is it", "He was too tired to work.", "I would like a glass of water, please.", "CAN YOU HELP ME?",
    "The children are playing in the garden.", "my name is paul and i am a doctor",
    "Why didn't you call me yesterday?",
]  # fmt: skip


# ---- model and loss: edit here ----


def model_config(args: Args, vocabularies: tuple[Tokenizer, Tokenizer]) -> Config:
    source, target = (vocabulary.get_vocab_size() for vocabulary in vocabularies)
    return Config(args.encoder_layers, args.decoder_layers, args.block(), source, target, args.shared)


def loss(
    params: Tree, batch: packing.Batch, key: Key | None = None, *, cfg: Config, dtype: torch.dtype, smoothing: float
) -> Float[Tensor, ""]:
    """Mean cross-entropy per target token in nats, with label smoothing (Szegedy et al. 2016)."""
    source = Sequences(batch.source, batch.source_position, batch.source_segment)
    target = Sequences(batch.target_in, batch.target_position, batch.target_segment)
    logits, _ = apply(tree.cast(params, dtype), source, target, key, cfg=cfg)
    labels = batch.target_out.flatten().long()
    value = F.cross_entropy(logits.float().flatten(0, 1), labels, ignore_index=tokens.PAD, label_smoothing=smoothing)
    return parallel.weighted(value, (labels != tokens.PAD).sum())


def optimizer(args: Args, dtype: torch.dtype = torch.float32) -> tuple[optim.Optimizer, optim.Schedule]:
    """`dtype`: of Muon's matrix products."""
    if args.schedule == "inverse_sqrt":
        schedule = partial(optim.inverse_sqrt, args.width, args.warmup)
    else:
        schedule = partial(optim.linear, steps=args.steps, warmup=args.warmup)
    rate = schedule(args.lr)
    adam = optim.adamw(rate, (0.9, 0.98), 1e-9, args.weight_decay, optim.matrices)  # section 5.3's constants
    if not args.muon_lr:
        return parallel.shard_optimizer(adam, args.shard_optimizer), rate
    return muon.partition(MATRICES, muon.muon(schedule(args.muon_lr), args.weight_decay, dtype=dtype), adam), rate


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    ema: Tree  # None without averaging
    key: Key
    step: Int[Tensor, ""]


def init_state(key: Key, cfg: Config, args: Args) -> TrainState:
    k_params, k_train = random.split(key)
    params = init(k_params, cfg)
    ema = tree.map(torch.clone, params) if args.ema_decay else None
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args)[0].init(params), ema, k_train, step)


def step(
    state: TrainState, batch: packing.Batch, *, cfg: Config, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update. The whole of training is this function, applied again and again."""
    opt, schedule = optimizer(args, dtype)
    key = random.fold_in(state.key, state.step) if args.dropout else None
    objective = partial(loss, cfg=cfg, dtype=dtype, smoothing=args.smoothing)
    value, grads = parallel.mean(value_and_grad(objective)(state.params, batch, key))
    grads, norm = optim.clip(grads, args.clip)
    params, opt_state = opt.update(grads, state.opt, state.params)
    ema = optim.ema(state.ema, params, args.ema_decay, state.step) if args.ema_decay else None
    out = {"train/loss": value, "grad/norm": norm, "train/lr": schedule(state.step)}
    return TrainState(params, opt_state, ema, state.key, state.step + 1), out


# ---- data and evaluation ----


def encoded(
    sides: tuple[list[str], list[str]], vocabularies: tuple[Tokenizer, Tokenizer], length: int
) -> packing.Tokens:
    def ids(tokenizer: Tokenizer, spelled: Callable[[str], str], texts: list[str]) -> list[list[int]]:
        different = list(dict.fromkeys(texts))  # each text once, however often it is there
        found = tokens.encode(tokenizer, map(spelled, different))
        of = dict(zip(different, found, strict=True))
        return [of[text] for text in texts]

    source = [[*row, tokens.END] for row in ids(vocabularies[0], casing.lower, sides[0])]
    return packing.fits(packing.Tokens(source, ids(vocabularies[1], casing.marked, sides[1])), length)


def save_vocabularies(folder: Path, train: list[pairs.Pair], names: set[str], args: Args) -> None:
    tokens.save_pair(folder, tokens.train_pair(*typed.sides(train), args.vocabulary, args.shared))
    slots.save(folder, typed.lexicon(train, names))


@torch.no_grad()
def held_out_loss(params: Tree, batches: list[packing.Batch], cfg: Config, dtype: torch.dtype) -> float:
    """Cross-entropy per target token in nats, without smoothing; 0 where no sentence is held out."""
    counts = [int((b.target_out != tokens.PAD).sum()) for b in batches]
    sums = [
        n * float(loss(params, b, cfg=cfg, dtype=dtype, smoothing=0.0)) for n, b in zip(counts, batches, strict=True)
    ]
    return sum(sums) / max(1, sum(counts))


def evaluate(translator: Translator, splits: pairs.Splits, args: Args) -> tuple[dict[str, float], list[str]]:
    """Scores on held-out sentences, each corpus by itself, and the lines to print: BLEU and chrF; BLEU of the same
    sentences as people type them; names and numbers kept; and whether doubtful translations are the bad ones."""
    scores = dict[str, float]()
    lines, signatures, as_typed, doubts = (list[str]() for _ in range(4))
    for origin, references in sorted(pairs.references(splits.test).items()):
        sources = list(references)[: args.test_sentences]
        wanted = [references[s] for s in sources]
        found = translator.best(sources, args.beams)
        score = metrics.bleu_chrf(found, wanted)
        scores |= {f"{origin}/bleu": score["bleu"], f"{origin}/chrf": score["chrf"]}
        lines.append(f"{origin:<12} {len(sources):>6} {score['bleu']:>8.1f} {score['chrf']:>8.1f}")
        signatures = [f"BLEU {score['bleu_signature']}", f"chrF {score['chrf_signature']}"]
        typing = robust.typing(translator, sources, wanted, args.beams)
        as_typed.append(f"{origin:<12} " + " ".join(f"{bleu:>20.1f}" for bleu in typing.values()))
        area, bad, marked = robust.doubting(translator, sources, found, wanted)
        doubts.append(f"{origin:<12} {area:>8.2f} {100 * bad:>6.0f} % {100 * marked:>6.0f} %")
        scores |= {f"{origin}/bleu_{name}": bleu for name, bleu in typing.items()}
        if bad not in (0, 1):
            scores[f"{origin}/doubt"] = area
    kept, cases = robust.copying(translator, splits.test, splits.train, args.beams)
    scores |= {f"names/kept_{name}": share for name, share in kept.items() if cases}
    return scores, [
        f"{'held out':<12} {'n':>6} {'BLEU':>8} {'chrF':>8}", *lines, *signatures, "",
        f"{'BLEU, typed':<12} " + " ".join(f"{name.replace('_', ' '):>20}" for name in robust.TYPED), *as_typed, "",
        f"{'doubt':<12} {'area':>8} {'bad':>8} {'marked':>8}", *doubts,
        *[
            f"{100 * share:.0f} % of {cases} names and numbers kept that training never saw, {name.replace('_', ' ')}"
            for name, share in kept.items()
        ] * bool(cases),
    ]  # fmt: skip


# ---- training: plumbing ----


def train(args: Args) -> None:
    if args.shard_optimizer and args.muon_lr:
        raise RunError("--shard-optimizer cuts matrices, which Muon needs whole: leave it out, or --muon-lr 0")
    splits = pairs.load(args.data, args.data_dir, args.reverse)
    here = run.Run(args, NAME, Path(__file__), unit="tokens")
    names = typed.names(splits.train)
    here.once(lambda: save_vocabularies(here.path, splits.train, names, args))
    vocabularies = tokens.load_pair(here.path)
    cfg = model_config(args, vocabularies)
    lexicon, corpus = slots.load(here.path), typed.corpus(splits.train, names)
    held_out = encoded(typed.emptied(splits.val, lexicon), vocabularies, args.length)
    collate = partial(packing.collate, length=args.length, start=tokens.START, end=tokens.END)
    rows = packing.pack(held_out, list(range(len(held_out.source))), args.length)
    val = [tree.to(collate(held_out, rows[i : i + args.rows]), here.device) for i in range(0, len(rows), args.rows)]
    own = [p.source for p in splits.train[:6] + splits.test[:6]]
    texts = TRY if pairs.is_english(args.data, args.reverse) else own
    print(f"{len(corpus.pairs):,} training pairs, {len(held_out.source):,} for validation; {here.device}, {here.dtype}")

    state = here.start(init_state, cfg=cfg)
    print(tree.table(state.params, depth=1))
    here.throughput.flops_per_unit = 6 * matmul_weights(state.params) // len(here.members)
    update = here.compile(step, cfg=cfg, dtype=here.dtype)
    epoch = lambda key: encoded(typed.varied(corpus, key), vocabularies, args.length)  # noqa: E731
    data = here.batches(lambda key, first: packing.batches(epoch, key, args.rows, collate, args.length, first))

    def translator(state: TrainState) -> Translator:
        params = tree.cast(state.params if state.ema is None else state.ema, here.dtype)
        return Translator(params, *vocabularies, lexicon, cfg, args.length)

    for n in here.progress():
        batch = next(data)
        state, out = update(state, batch)
        here.record(n, state, out, units=(batch.target_out != tokens.PAD).sum())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                t = translator(s)
                show(one, n + 1, t, texts, held_out_loss(t.params, val, cfg, here.dtype))
        for one, before, after, b in here.diagnosed(n, state, batch):
            rows = tree.map(lambda x: x[:DIAGNOSED], b)
            plain = partial(loss, cfg=cfg, dtype=torch.float32, smoothing=args.smoothing)
            order = diagnose.report(one, n + 1, before, after, {"params": plain}, rows)
            texts_of = [" / ".join(tokens.decode(vocabularies[1], [rows.target_out[i].tolist()])) for i in order[:4]]
            one.writer.add_text("diagnose/surprising", "\n\n".join(texts_of), n + 1)
    if not here.evaluates(state):
        return
    seen = {files.normalise(p.source) for p in splits.train}
    results = []
    for _, s in here.each(state):
        scores, lines = evaluate(translator(s), splits, args)
        lines += ["", "* = this sentence was in the training data"]
        for text, translation in zip(texts, translator(s).best(texts, args.beams), strict=True):
            lines.append(f"{'*' if files.normalise(text) in seen else ' '} {text:<40} {translation}")
        results.append((scores, lines))
    here.finish(results, shlex.quote(texts[0]))


def show(here: run.Place, n: int, translator: Translator, texts: list[str], held_out: float) -> None:
    """What to watch while it trains: held-out loss, translations, and where the model looks."""
    here.log(n, {"val/loss": held_out})
    found = translator.best(texts)
    rows = "\n".join(f"| {a} | {b} |" for a, b in zip(texts, found, strict=True))
    here.writer.add_text("samples/translations", f"| source | translation |\n|---|---|\n{rows}", n)
    here.writer.add_figure("attention/cross", plot.heatmap(*translator.attention_map(texts[0], found[0])), n)
    here.write(f"step {n}: held-out loss {held_out:.3f}   {texts[0]} -> {found[0]}")


# ---- using a run ----


def load(path: Path, args: Args) -> Translator:
    """The model of a run's latest checkpoint: the averaged parameters where there are any."""
    vocabularies = tokens.load_pair(path)
    cfg = model_config(args, vocabularies)
    device = run.device(run.Args())
    params = run.load(path, init(random.key(0), cfg), "ema" if args.ema_decay else "params", device)
    return Translator(tree.cast(params, run.dtype(args, device)), *vocabularies, slots.load(path), cfg, args.length)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
