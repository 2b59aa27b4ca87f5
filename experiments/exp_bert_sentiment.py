"""Is a film review good or bad? BERT (Devlin et al. 2019): learn to fill in masked words first, then to classify.

What it shows: what knowing the language is worth. Sentences of critics (Rotten Tomatoes) are told apart by MiniLM, a
small released BERT, fine-tuned for a few minutes, and by a BERT that has seen nothing but film reviews.
`just run exp_bert_sentiment` fine-tunes MiniLM; `just run exp_bert_sentiment scratch` pretrains one of its own;
`--pretrain-steps 0` on top leaves that out. Then `just sample exp_bert_sentiment "a [MASK] film"`.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from lib import diagnose, nn, optim, parallel, random, run, tree
from lib.answers import Answer, Note, Text
from lib.data import batches, labelled, tokens
from lib.models import bert, minilm
from lib.random import Key
from lib.tasks import classify
from lib.tasks.names import LABELS, check
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
Phase = Literal["pretrain", "finetune"]


@dataclass(frozen=True)
class Args(run.Args):
    """Train a BERT that classifies texts."""

    data: str = "rotten"
    """rotten (sentences on films), imdb (whole reviews), bbc (news), or a path: see `labelled.load`."""
    start: Literal["minilm", "scratch"] = "minilm"
    """minilm: the released weights of all-MiniLM-L6-v2; scratch: a model and a vocabulary of one's own."""
    pretrain_steps: run.Natural = 0
    """How many of the --steps, the first ones, fill in masked words; the rest classify. From scratch only."""
    pretrain_data: str = ""
    """Another data set, named as for --data, whose training texts are pretrained on too."""
    length: run.Count = 48
    """Tokens of a row; what is longer is cut."""
    rows: run.Count = 32
    """Texts of a batch."""
    vocabulary: run.Count = 8000
    """Pieces of words, at most; this and the next four flags are for --start scratch only."""
    layers: run.Count = 4
    """Layers of the model."""
    width: run.Count = 256
    """Width of the model, a multiple of the number of heads."""
    heads: run.Count = 4
    """Attention heads of a layer."""
    ff: run.Count = 1024
    """Width of the feed-forward layers."""
    dropout: run.Fraction = 0.0
    """Probability with which an activation is dropped in training."""
    lr: run.Amount = 1e-4
    """Peak learning rate of fine-tuning: it is reached after a tenth of its steps, then falls linearly to 0."""
    pretrain_lr: run.Amount = 1e-3
    """Peak learning rate of pretraining, with the same schedule."""
    weight_decay: run.Amount = 0.01
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == "minilm" and (self.pretrain_steps or self.pretrain_data):
            raise ValueError("--pretrain-steps and --pretrain-data are for --start scratch: MiniLM is pretrained")
        if self.pretrain_steps >= self.steps:
            raise ValueError(
                f"--pretrain-steps {self.pretrain_steps} leaves nothing of --steps {self.steps} to classify"
            )
        bert.block_config(self.width, self.heads, self.ff)
        most = minilm.MINILM.context if self.start == "minilm" else 10_000
        if not 3 <= self.length <= most:
            raise ValueError(f"--length {self.length}: from 3 to {most} tokens")


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=228, eval_every=76, save_every=114),  # one epoch
    "scratch": Args(steps=1000, start="scratch", pretrain_steps=772, lr=3e-4, eval_every=193, save_every=250),
    # Not in the book. The paper's fine-tuning (appendix A.3): batches of 32, 3 epochs, rates of 2e-5 to 5e-5.
    "book": Args(steps=684, length=128, lr=5e-5, dropout=0.1, eval_every=228, save_every=342),
    "best": Args(
        steps=23_000, start="scratch", pretrain_steps=20_000, pretrain_data="imdb", vocabulary=16_000, length=128,
        rows=128, layers=8, width=512, heads=8, ff=2048, pretrain_lr=5e-4, lr=1e-4, eval_every=1000, save_every=2000,
        log_every=100,
    ),
}  # fmt: skip

DIAGNOSED = 4  # rows of a batch
AT_ONCE = 128  # rows that are predicted
LIKELIEST = 5  # words for a gap
TRY = "a [MASK] film with a great story"


# ---- model and loss: edit here ----


class Rows(NamedTuple):
    ids: Int[Tensor, "b t"]
    labels: Int[Tensor, "b"]


def config(args: Args, tokenizer: Tokenizer) -> bert.Config:
    if args.start == "minilm":
        return replace(minilm.MINILM, block=replace(minilm.MINILM.block, dropout=args.dropout))
    block = bert.block_config(args.width, args.heads, args.ff, args.dropout)
    return bert.Config(tokenizer.get_vocab_size(), args.length, args.layers, block)


def init(key: Key, cfg: bert.Config, args: Args, classes: int) -> Tree:
    """{"bert", "head", "language" where there is a pretraining}"""
    k_bert, k_head, k_language = random.split(key, 3)
    params = {"bert": bert.init(k_bert, cfg), "head": bert.dense_init(k_head, cfg.block.width, classes)}
    return params | ({"language": bert.language_init(k_language, cfg)} if args.pretrain_steps else {})


def apply(params: Tree, ids: Int[Tensor, "b t"], key: Key | None = None, *, cfg: bert.Config) -> Float[Tensor, "b k"]:
    """Logits, of the mean over tokens: MiniLM was trained with it, and it needs no token of its own."""
    k_bert, k_head = random.split(key)
    mask = ids != tokens.PAD
    x = bert.mean_features(bert.features(params["bert"], ids, mask, key=k_bert, cfg=cfg), mask)
    return nn.linear(params["head"], nn.dropout(x, cfg.block.dropout, k_head).to(params["head"]["w"].dtype)).float()


def loss(
    params: Tree, batch: Rows, k_mask: Key, key: Key | None = None, *,
    phase: Phase, cfg: bert.Config, dtype: torch.dtype,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:  # fmt: skip
    """Cross-entropy in nats and accuracy, per masked token or per text."""
    params, ids = tree.cast(params, dtype), batch.ids
    if phase == "finetune":
        logits = apply(params, ids, key, cfg=cfg)
        return F.cross_entropy(logits, batch.labels), (logits.argmax(-1) == batch.labels).float().mean()
    nats, right, n = bert.masked_scores(params, ids, k_mask, key, cfg=cfg)
    return parallel.weighted(nats / n.clamp(min=1), n), parallel.weighted(right / n.clamp(min=1), n)


def optimizer(args: Args, phase: Phase) -> tuple[optim.Optimizer, optim.Schedule]:
    pretrains = phase == "pretrain"
    steps = args.pretrain_steps if pretrains else args.steps - args.pretrain_steps
    rate = optim.linear(args.pretrain_lr if pretrains else args.lr, steps, steps // 10)
    adam = optim.adamw(rate, eps=1e-6, weight_decay=args.weight_decay, decay=optim.matrices)
    return parallel.shard_optimizer(adam, args.shard_optimizer), rate


class TrainState(NamedTuple):
    params: Tree
    filler: Tree  # the language model as pretraining left it, which fine-tuning spoils; None without pretraining
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def filler(params: Tree) -> Tree:
    return tree.map(torch.clone, {name: params[name] for name in ("bert", "language")})


def init_state(key: Key, cfg: bert.Config, args: Args, classes: int, released: Tree | None = None) -> TrainState:
    """`released`: weights to begin with instead of random ones."""
    k_params, k_train = random.split(key)
    params = init(k_params, cfg, args, classes)
    if released is not None:
        params["bert"] = tree.map(lambda x: x.to(key.device, copy=True), released)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    opt = optimizer(args, "finetune")[0].init(params)  # in both phases the same numbers, from zero on
    return TrainState(params, filler(params) if args.pretrain_steps else None, opt, k_train, step)


def fine_tuning(state: TrainState) -> TrainState:
    """The state between the phases: the language model is put by, and the optimiser begins anew."""
    return state._replace(filler=filler(state.params), opt=tree.map(torch.zeros_like, state.opt))


def step(
    state: TrainState, index: Int[Tensor, "b"], data: Rows, *,
    phase: Phase, cfg: bert.Config, args: Args, dtype: torch.dtype,
) -> tuple[TrainState, dict[str, Tensor]]:  # fmt: skip
    """One update on the rows `index` of the data, which lies on the device as a whole."""
    optimiser, rate = optimizer(args, phase)
    batch = Rows(data.ids[index], data.labels[index])
    k_mask, k_dropout = random.split(random.fold_in(state.key, state.step))
    objective = value_and_grad(partial(loss, phase=phase, cfg=cfg, dtype=dtype), has_aux=True)
    (value, accuracy), grads = objective(state.params, batch, k_mask, k_dropout)
    value, accuracy, grads = parallel.mean((value, accuracy, grads))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimiser.update(grads, state.opt, state.params)
    kind = "masked_" if phase == "pretrain" else ""
    out = {f"train/{kind}loss": value, f"train/{kind}accuracy": accuracy, "grad/norm": norm}
    out["train/lr"] = rate(state.opt.step)
    return TrainState(params, state.filler, opt, state.key, state.step + 1), out


# ---- training: plumbing ----


def encoded(tokenizer: Tokenizer, part: list[labelled.Example], length: int) -> tuple[Rows, int]:
    """And how many texts were cut."""
    ids, cut = tokens.rows(tokenizer, [example.text for example in part], length)
    return Rows(ids, torch.tensor([example.label for example in part])), cut


def in_phases(key: Key, first: int = 0, *, args: Args, sizes: dict[Phase, int]) -> Iterator[Int[Tensor, "b"]]:
    """Numbers of rows, of the phases one after the other."""
    k_pretrain, k_finetune = random.split(key)
    if left := max(0, args.pretrain_steps - first):
        yield from itertools.islice(batches.numbers(k_pretrain, sizes["pretrain"], args.rows, first), left)
    yield from batches.numbers(k_finetune, sizes["finetune"], args.rows, max(0, first - args.pretrain_steps))


def train(args: Args) -> None:
    corpus = labelled.load(args.data, args.data_dir)
    check(args, corpus.names)
    more = labelled.load(args.pretrain_data, args.data_dir).train if args.pretrain_data else []
    texts = [example.text for example in [*corpus.train, *more]]
    released, known = minilm.load(args.data_dir) if args.start == "minilm" else (None, None)
    here = run.Run(args, NAME, Path(__file__), unit="texts")
    here.once(lambda: tokens.save(here.path, known or tokens.train_wordpiece(texts, args.vocabulary)))
    here.once(lambda: run.write_json(here.path / LABELS, corpus.names))
    tokenizer = tokens.load(here.path)
    cfg = config(args, tokenizer)
    parts = [encoded(tokenizer, part, args.length) for part in (corpus.train, corpus.val, corpus.test)]
    data, val, test = (tree.to(part, here.device) for part, _ in parts)
    print(f"{len(data.ids):,} texts ({', '.join(corpus.names)}), {parts[0][1]:,} of them cut to {args.length} tokens; "
          f"{here.device}, {here.dtype}")  # fmt: skip
    of_phase: dict[Phase, Rows] = {"finetune": data}
    if args.pretrain_steps:
        ids = tokens.all_rows(tokenizer, texts, args.length).to(here.device)
        of_phase["pretrain"] = Rows(ids, torch.zeros_like(ids[:, 0]))
        print(f"{len(ids):,} rows to pretrain on, of {cfg.vocabulary:,} kinds of tokens")
    numbers = here.batches(partial(in_phases, args=args, sizes={phase: len(x.ids) for phase, x in of_phase.items()}))
    index = next(numbers)  # too few texts are told before anything is computed

    state = here.start(init_state, cfg=cfg, classes=len(corpus.names), released=released)
    print(tree.table(state.params, depth=1))
    here.throughput.flops_per_unit = 6 * args.length * bert.matmul_weights(state.params["bert"]) // len(here.members)
    others = classify.baselines(corpus, here.write) if here.leads else {}
    updates = {phase: here.compile(step, phase=phase, cfg=cfg, dtype=here.dtype) for phase in of_phase}

    for n in here.progress():
        phase: Phase = "pretrain" if n < args.pretrain_steps else "finetune"
        if n == args.pretrain_steps > 0:
            state = fine_tuning(state)
        state, out = updates[phase](state, index, of_phase[phase])
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                if phase == "pretrain":
                    found = bert.masked_figures(tree.cast(s.params, here.dtype), val.ids, here.show_key, cfg=cfg)
                    one.log(n + 1, {f"val/masked_{name}": x for name, x in found.items()})
                    one.write(f"step {n + 1}: {told(found)}")
                else:
                    classify.show(one, n + 1, predict(s.params, val.ids, cfg, here.dtype), corpus)
        for one, before, after, i in here.diagnosed(n, state, index):
            rows = tree.index(of_phase[phase], i[:DIAGNOSED])
            calm = lambda p, b: loss(p, b, here.show_key, phase=phase, cfg=cfg, dtype=torch.float32)[0]  # noqa: B023, E731
            order = diagnose.report(one, n + 1, before, after, {"params": calm}, rows)
            surprising = tokenizer.decode_batch(rows.ids[order].tolist())
            one.writer.add_text("diagnose/surprising", "\n\n".join(surprising), n + 1)
        index = next(numbers)
    if not here.evaluates(state):
        return
    results = []
    for _, s in here.each(state):
        figures, lines = classify.report(args.start, predict(s.params, test.ids, cfg, here.dtype), corpus, others)
        if s.filler is not None:
            found = bert.masked_figures(tree.cast(s.filler, here.dtype), test.ids, here.show_key, cfg=cfg)
            figures |= {f"test/masked_{name}": x for name, x in found.items()}
            lines.append(f"test texts: {told(found)}")
            lines += filled(s.filler, tokenizer, TRY, cfg)
        results.append((figures, lines))
    here.finish(results, f'"{TRY}"')


@torch.no_grad()
def predict(params: Tree, ids: Int[Tensor, "n t"], cfg: bert.Config, dtype: torch.dtype) -> Float[Tensor, "n k"]:
    """Log-probabilities."""
    params = tree.cast(params, dtype)
    return torch.cat([apply(params, part, cfg=cfg) for part in ids.split(AT_ONCE)]).log_softmax(-1)


def told(found: dict[str, float]) -> str:
    return f"{100 * found['accuracy']:.1f} % of masked words right, perplexity {found['perplexity']:.1f}"


# ---- using a run ----


@dataclass(frozen=True)
class Use(run.Typed):
    """Classify a text, or each line that is typed, and fill in its [MASK], with the latest finished run."""


class Model(NamedTuple):
    params: Tree
    filler: Tree  # the language model; None where there was no pretraining
    tokenizer: Tokenizer
    names: list[str]  # of the labels
    cfg: bert.Config
    length: int  # tokens that are read


def filled(params: Tree, tokenizer: Tokenizer, text: str, cfg: bert.Config) -> list[str]:
    """For each [MASK] of the text a line with the likeliest tokens."""
    ids = tokens.rows(tokenizer, [text], cfg.context)[0][0]
    ids = ids[ids != tokens.PAD].to(params["bert"]["embed"]["tokens"].device)
    p, best = bert.fill(params, ids, LIKELIEST, cfg=cfg)
    return ["[MASK]: " + ", ".join(f"{tokenizer.id_to_token(i)} {100 * x:.1f} %" for x, i in zip(*row, strict=True))
            for row in zip(p.tolist(), best.tolist(), strict=True)]  # fmt: skip


def load(path: Path, args: Args) -> Model:
    """The model of a run's latest checkpoint."""
    tokenizer, names = tokens.load(path), run.read_json(path / LABELS)
    cfg = config(args, tokenizer)
    state = run.load(path, init_state(random.key(0, "meta"), cfg, args, len(names)))
    return Model(state.params, state.filler, tokenizer, names, cfg, args.length)


def answers(use: Use, model: Model) -> Iterator[Answer]:
    """The likeliest words for each [MASK], and every label with its probability, the likeliest first. Raises
    DataError."""
    text = classify.readable(use.text or "")
    ids, cut = tokens.rows(model.tokenizer, [text], model.length)
    if cut:
        yield Note(f"only the first {model.length} tokens are read")
    if "[MASK]" in text and model.filler is None:
        yield Text("[MASK] is filled in by runs with --pretrain-steps only: MiniLM comes without a language head\n")
    elif "[MASK]" in text:
        yield Text("\n".join(filled(model.filler, model.tokenizer, text, model.cfg)) + "\n")
    yield classify.likeliest(predict(model.params, ids, model.cfg, torch.float32)[0].exp(), model.names)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
