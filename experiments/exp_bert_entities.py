"""Who and what is named in a tweet: BERT (Devlin et al. 2019) with a label for every word.

What it shows: people, places, companies, films and six more kinds of names, learnt from 1,714 tagged tweets: by MiniLM,
a small released BERT which had read much before, and by the same shape from random weights. An entity counts where its
words and its type are exactly right (F1, as CoNLL). Both read lower case only, and so do not see the capitals of names.
`just run exp_bert_entities`, also with `--start scratch`; then
`just sample exp_bert_entities "Watching Toy Story in Chicago"`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor

from lib import diagnose, nn, optim, parallel, plot, random, run, tree
from lib.answers import Answer, Note, Text
from lib.data import batches, entities, files, tokens
from lib.data.entities import Sentence, Tagged
from lib.faults import RunError
from lib.models import bert, minilm
from lib.random import Key
from lib.tasks.names import check
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem


@dataclass(frozen=True)
class Args(run.Args):
    """Train a BERT that finds named entities."""

    data: str = "tweets"
    """tweets, or the path of a file of words and tags: see `entities.load`."""
    start: Literal["minilm", "scratch"] = "minilm"
    """minilm: the released weights of all-MiniLM-L6-v2; scratch: random weights, and a vocabulary of one's own."""
    vocabulary: run.Count = 4000
    """Pieces of words, at most; this and the next four flags are for --start scratch only."""
    layers: run.Count = 6
    """Layers of the model."""
    width: run.Count = 384
    """Width of the model, a multiple of the number of heads."""
    heads: run.Count = 12
    """Attention heads of a layer."""
    ff: run.Count = 1536
    """Width of the feed-forward layers."""
    length: run.Count = 48
    """Tokens of a row; words of a sentence that is longer are cut off, and taken for no entities."""
    rows: run.Count = 32
    """Sentences of a batch."""
    dropout: run.Fraction = 0.0
    """Probability with which an activation is dropped in training."""
    lr: run.Amount = 2e-4
    """Peak learning rate: it is reached after a tenth of the steps, then falls linearly to 0."""
    weight_decay: run.Amount = 0.01
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        bert.block_config(self.width, self.heads, self.ff)
        if not 3 <= self.length <= minilm.MINILM.context:
            raise ValueError(f"--length {self.length}: from 3 to {minilm.MINILM.context} tokens")


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=260, eval_every=65, save_every=130),  # five epochs
    # Not in the book. The paper's fine-tuning (appendix A.3): batches of 32, 3 epochs, rates of 2e-5 to 5e-5.
    "book": Args(steps=160, length=64, lr=5e-5, dropout=0.1, eval_every=52, save_every=160),
    "best": Args(steps=1600, length=64, lr=1e-4, dropout=0.1, eval_every=160, save_every=800),
}

DIAGNOSED = 4  # rows of a batch
AT_ONCE = 128  # rows that are predicted
TAGS = "tags.json"


# ---- model and loss: edit here ----


class Rows(NamedTuple):
    ids: Int[Tensor, "b t"]
    labels: Int[Tensor, "b t"]  # tokens.NOTHING where there is none


def config(args: Args, tokenizer: Tokenizer) -> bert.Config:
    if args.start == "minilm":
        return replace(minilm.MINILM, block=replace(minilm.MINILM.block, dropout=args.dropout))
    block = bert.block_config(args.width, args.heads, args.ff, args.dropout)
    return bert.Config(tokenizer.get_vocab_size(), args.length, args.layers, block)


def apply(params: Tree, ids: Int[Tensor, "b t"], key: Key | None = None, *, cfg: bert.Config) -> Float[Tensor, "b t k"]:
    """Logits of each piece's tag."""
    k_bert, k_head = random.split(key)
    x = bert.features(params["bert"], ids, ids != tokens.PAD, key=k_bert, cfg=cfg)
    return nn.linear(params["head"], nn.dropout(x, cfg.block.dropout, k_head)).float()


def loss(
    params: Tree, batch: Rows, key: Key | None = None, *, cfg: bert.Config, dtype: torch.dtype
) -> Float[Tensor, ""]:
    """Mean cross-entropy per word in nats."""
    logits = rearrange(apply(tree.cast(params, dtype), batch.ids, key, cfg=cfg), "b t k -> (b t) k")
    labels = rearrange(batch.labels, "b t -> (b t)")
    return parallel.weighted(
        F.cross_entropy(logits, labels, ignore_index=tokens.NOTHING), (labels != tokens.NOTHING).sum()
    )


def optimizer(args: Args) -> tuple[optim.Optimizer, optim.Schedule]:
    rate = optim.linear(args.lr, args.steps, args.steps // 10)
    adam = optim.adamw(rate, eps=1e-6, weight_decay=args.weight_decay, decay=optim.matrices)
    return parallel.shard_optimizer(adam, args.shard_optimizer), rate


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def init_state(key: Key, cfg: bert.Config, args: Args, classes: int, released: Tree | None = None) -> TrainState:
    """`released`: weights to begin with instead of random ones."""
    k_bert, k_head, k_train = random.split(key, 3)
    body = bert.init(k_bert, cfg) if released is None else tree.map(lambda x: x.to(key.device, copy=True), released)
    params = {"bert": body, "head": bert.dense_init(k_head, cfg.block.width, classes)}
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args)[0].init(params), k_train, step)


def step(
    state: TrainState, index: Int[Tensor, "b"], data: Rows, *, cfg: bert.Config, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update on the rows `index` of the data, which lies on the device as a whole."""
    optimiser, rate = optimizer(args)
    key = random.fold_in(state.key, state.step) if args.dropout else None
    objective = value_and_grad(partial(loss, cfg=cfg, dtype=dtype))
    value, grads = parallel.mean(objective(state.params, Rows(data.ids[index], data.labels[index]), key))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimiser.update(grads, state.opt, state.params)
    out = {"train/loss": value, "grad/norm": norm, "train/lr": rate(state.step)}
    return TrainState(params, opt, state.key, state.step + 1), out


# ---- training: plumbing ----


def train(args: Args) -> None:
    corpus = entities.load(args.data, args.data_dir)
    check(args, corpus.names, TAGS)
    released, known = minilm.load(args.data_dir) if args.start == "minilm" else (None, None)
    here = run.Run(args, NAME, Path(__file__), unit="sentences")
    words = (" ".join(sentence.words) for sentence in corpus.train)
    here.once(lambda: tokens.save(here.path, known or tokens.train_wordpiece(words, args.vocabulary)))
    here.once(lambda: run.write_json(here.path / TAGS, corpus.names))
    tokenizer = tokens.load(here.path)
    cfg = config(args, tokenizer)
    parts = (corpus.train, corpus.val, corpus.test)
    data, val, test = (
        tree.to(Rows(*entities.rows(tokenizer, part, corpus.names, args.length)), here.device) for part in parts
    )
    print(f"{len(corpus.train):,} sentences to learn from; {here.device}, {here.dtype}")
    numbers = here.batches(partial(batches.numbers, n=len(data.ids), size=args.rows))
    index = next(numbers)  # too few sentences are told before anything is computed

    state = here.start(init_state, cfg=cfg, classes=len(corpus.names), released=released)
    print(tree.table(state.params, depth=1))
    here.throughput.flops_per_unit = 6 * args.length * bert.matmul_weights(state.params["bert"]) // len(here.members)
    update = here.compile(step, cfg=cfg, dtype=here.dtype)

    for n in here.progress():
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                show(one, n + 1, predict(s.params, val.ids, cfg, here.dtype).cpu(), val.labels.cpu(), corpus)
        for one, before, after, i in here.diagnosed(n, state, index):
            rows = tree.index(data, i[:DIAGNOSED])
            calm = partial(loss, cfg=cfg, dtype=torch.float32)
            order = diagnose.report(one, n + 1, before, after, {"params": calm}, rows)
            surprising = tokenizer.decode_batch(rows.ids[order].tolist())
            one.writer.add_text("diagnose/surprising", "\n\n".join(surprising), n + 1)
        index = next(numbers)
    if not here.evaluates(state):
        return
    results = []
    for _, s in here.each(state):
        guess = predict(s.params, test.ids, cfg, here.dtype).argmax(-1).cpu()
        found = entities.tags_of(guess, test.labels.cpu(), corpus.test, corpus.names)
        results.append(report(found, corpus))
    here.finish(results, '"Watching Toy Story in Chicago with Tom Hanks"')


@torch.no_grad()
def predict(params: Tree, ids: Int[Tensor, "n t"], cfg: bert.Config, dtype: torch.dtype) -> Float[Tensor, "n t k"]:
    """Log-probabilities."""
    params = tree.cast(params, dtype)
    return torch.cat([apply(params, part, cfg=cfg) for part in ids.split(AT_ONCE)]).log_softmax(-1)


def commonest(train: list[Sentence], sentences: list[Sentence]) -> list[list[str]]:
    """What memory alone gives: of each word the tag that it had most often in training, O if it was not there."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for sentence in train:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            counts[word.lower()][tag] += 1
    known = {word: counter.most_common(1)[0][0] for word, counter in counts.items()}
    return [[known.get(word.lower(), "O") for word in sentence.words] for sentence in sentences]


def report(guess: list[list[str]], corpus: Tagged) -> tuple[dict[str, float], list[str]]:
    """F1 on the test sentences, and the lines to print."""
    truth = [sentence.tags for sentence in corpus.test]
    found, memory = (entities.score(truth, tags) for tags in (guess, commonest(corpus.train, corpus.test)))
    lines = [f"{'test entities':<16}{'n':>5}{'precision':>11}{'recall':>8}{'F1':>7}"]
    for kind, x in found.items():
        numbers = "".join(f"{100 * y:{width}.1f}" for y, width in zip(x[:3], (11, 8, 7), strict=True))
        lines.append(f"{kind or 'all':<16}{x.n:5}{numbers}")
    lines.append(f"always O: F1 0.0; each word's commonest tag in training: F1 {100 * memory[''].f1:.1f}")
    whole = found[""]
    return {"test/f1": whole.f1, "test/precision": whole.precision, "test/recall": whole.recall,
            "test/memory_f1": memory[""].f1}, lines  # fmt: skip


def show(here: run.Place, n: int, logp: Float[Tensor, "n t k"], labels: Int[Tensor, "n t"], corpus: Tagged) -> None:
    """Held-out loss and F1, which type is taken for which, and tagged sentences."""
    guess = entities.tags_of(logp.argmax(-1), labels, corpus.val, corpus.names)
    found = entities.score([sentence.tags for sentence in corpus.val], guess)[""]
    nats = F.nll_loss(rearrange(logp, "n t k -> (n t) k"), rearrange(labels, "n t -> (n t)"))  # leaves NOTHING out
    here.log(n, {"val/loss": float(nats), "val/f1": found.f1})
    names = ["O", *sorted({tag[2:] for tag in corpus.names} - {""})]
    number = {tag: names.index(tag[2:] or "O") for tag in corpus.names}
    table = torch.zeros(len(names), len(names))
    for sentence, tags in zip(corpus.val, guess, strict=True):
        for a, b in zip(sentence.tags, tags, strict=True):
            table[number[a], number[b]] += 1
    share = table / table.sum(1, keepdim=True).clamp(min=1)
    here.writer.add_figure("samples/confusion", plot.heatmap(share, names, names, title="word (row) taken for"), n)
    lines = [marked(sentence.words, tags) for sentence, tags in zip(corpus.val[:20], guess, strict=False)]
    here.writer.add_text("samples/tagged", "\n\n".join(lines), n)
    here.write(f"step {n}: held-out F1 {100 * found.f1:.1f} %")


def marked(words: tuple[str, ...], tags: list[str]) -> str:
    """The sentence with each entity in brackets."""
    shown = list(words)
    for kind, start, end in entities.spans(tags):
        shown[start] = "[" + shown[start]
        shown[end - 1] += f"]({kind})"
    return " ".join(shown)


# ---- using a run ----


@dataclass(frozen=True)
class Use(run.Typed):
    """Mark the entities of a text, or of each line that is typed, with the latest finished run."""


class Model(NamedTuple):
    params: Tree
    tokenizer: Tokenizer
    tags: list[str]
    cfg: bert.Config
    length: int  # tokens that are read


def load(path: Path, args: Args) -> Model:
    """The model of a run's latest checkpoint."""
    tokenizer, tags = tokens.load(path), run.read_json(path / TAGS)
    cfg = config(args, tokenizer)
    state = run.load(path, init_state(random.key(0, "meta"), cfg, args, len(tags)))
    return Model(state.params, tokenizer, tags, cfg, args.length)


def answers(use: Use, model: Model) -> Iterator[Answer]:
    """The text with each entity in brackets. Raises DataError and RunError."""
    text = files.encodable(use.text or "")
    words = tuple(word for word, _ in pre_tokenizers.WhitespaceSplit().pre_tokenize_str(text))
    if not words:
        raise RunError("nothing to mark: the text is empty")
    sentence = Sentence(words, ("O",) * len(words))
    ids, labels = entities.rows(model.tokenizer, [sentence], model.tags, model.length)
    guess = predict(model.params, ids, model.cfg, torch.float32).argmax(-1)
    if int((labels != tokens.NOTHING).sum()) < len(words):
        yield Note(f"only the first {model.length} tokens are read")
    yield Text(marked(words, entities.tags_of(guess, labels, [sentence], model.tags)[0]) + "\n")


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
