"""An assistant that sends each request to a tool: MiniLM (Wang et al. 2020) tells which one, and which words are its
arguments.

What it shows: a small encoder, trained for minutes on requests that templates make, is told apart seventeen kinds of
requests and fills in arguments with words of the request alone, so that it invents none; what it is not sure of it asks
back. The tools are exact ones (arithmetic, units, time, a dictionary, an atlas) and finished runs of other experiments.
`just run exp_assistant` trains and measures it on 323 requests written by hand beforehand; then
`just sample exp_assistant "what is 23*55+123"`, or without a request line by line.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from tokenizers import Tokenizer
from torch import Tensor

from lib import diagnose, nn, optim, parallel, plot, random, run, tree
from lib.data import batches, requests, templates, tokens
from lib.data.requests import NONE, SLOTS, TAGS, TOOLS, Request, Rows
from lib.models import bert, minilm
from lib.random import Key
from lib.tools.assistant import Assistant, Use, answers
from lib.tools.desk import Desk
from lib.transform import value_and_grad
from lib.tree import Tree
from lib.workers import Pool

NAME = Path(__file__).stem
READ = 160  # pieces of a request that are read when the model is used


@dataclass(frozen=True)
class Args(run.Args):
    """Train a model that sends requests to tools."""

    start: Literal["minilm", "scratch"] = "minilm"
    """minilm: the released weights of all-MiniLM-L6-v2; scratch: two layers of random weights, and a vocabulary of
    one's own."""
    requests: run.Count = 20_000
    """Requests to learn from, made by the templates."""
    without: tuple[str, ...] = ()
    """Tools to learn nothing of: they are added afterwards, by three examples each."""
    length: run.Count = 28
    """Pieces of words that are read in training; what is longer is cut off."""
    rows: run.Count = 24
    """Requests of a batch."""
    dropout: run.Fraction = 0.1
    """Probability with which an activation is dropped in training."""
    lr: run.Amount = 2e-4
    """Peak learning rate: it is reached after a tenth of the steps, then falls linearly to 0."""
    weight_decay: run.Amount = 0.01
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 3 <= self.length <= READ:
            raise ValueError(f"--length {self.length}: from 3 to {READ} pieces")
        if unknown := [tool for tool in self.without if tool not in TOOLS]:
            raise ValueError(f"--without {unknown[0]}: no such tool, there are {', '.join(TOOLS)}")


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=600, eval_every=100, save_every=200),
    "best": Args(steps=3000, requests=100_000, eval_every=300, save_every=1000),
}

DIAGNOSED = 4  # rows of a batch
AT_ONCE = 128  # rows that are predicted
SCALE = 16.0  # of the cosines that are a request's logits
LOUD = 8.0  # of the tags' logits: the layer is new, and learns so much faster than the rest
EXAMPLES = 3  # of a tool that is added
SCRATCH, VOCABULARY = 128, 4000  # of --start scratch: width, pieces of words
OFFERED = 3  # tools of a request that is asked back about


# ---- model and loss: edit here ----


def config(args: Args, tokenizer: Tokenizer) -> bert.Config:
    if args.start == "minilm":
        return replace(minilm.MINILM, block=replace(minilm.MINILM.block, dropout=args.dropout))
    block = bert.block_config(SCRATCH, SCRATCH // 32, 4 * SCRATCH, args.dropout)
    return bert.Config(tokenizer.get_vocab_size(), READ, 2, block)


def apply(
    params: Tree, ids: Int[Tensor, "b t"], key: Key | None = None, *, cfg: bert.Config
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b t k"]]:
    """(features of requests, of length 1; logits of each piece's tag)."""
    k_bert, k_head = random.split(key)
    mask = ids != tokens.PAD
    x = bert.features(params["bert"], ids, mask, key=k_bert, cfg=cfg)
    whole = F.normalize(bert.mean_features(x, mask), dim=-1)
    return whole, LOUD * nn.linear(params["tags"], nn.dropout(x, cfg.block.dropout, k_head)).float()


def choice(params: Tree, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
    """Logits of the tools: the cosines between requests and a prototype of each tool. A tool that is added needs no
    training, but a prototype: the mean of its examples' features (Snell et al. 2017)."""
    return SCALE * features @ F.normalize(params["tools"].float(), dim=-1).T


def loss(
    params: Tree, batch: Rows, key: Key | None = None, *, cfg: bert.Config, dtype: torch.dtype
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of a request's tool, plus that of a piece's tag."""
    features, logits = apply(tree.cast(params, dtype), batch.ids, key, cfg=cfg)
    tags, count = rearrange(batch.tags, "b t -> (b t)"), (batch.tags != tokens.NOTHING).sum()
    each = F.cross_entropy(rearrange(logits, "b t k -> (b t) k"), tags, ignore_index=tokens.NOTHING)
    return F.cross_entropy(choice(params, features), batch.tools) + parallel.weighted(each, count)


def optimizer(args: Args) -> tuple[optim.Optimizer, optim.Schedule]:
    rate = optim.linear(args.lr, args.steps, args.steps // 10)
    adam = optim.adamw(rate, eps=1e-6, weight_decay=args.weight_decay, decay=optim.matrices)
    return parallel.shard_optimizer(adam, args.shard_optimizer), rate


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def init_state(key: Key, cfg: bert.Config, args: Args, released: Tree | None = None) -> TrainState:
    """`released`: weights to begin with instead of random ones."""
    k_bert, k_tags, k_tools, k_train = random.split(key, 4)
    body = bert.init(k_bert, cfg) if released is None else tree.map(lambda x: x.to(key.device, copy=True), released)
    d = cfg.block.width
    params = {
        "bert": body, "tags": bert.dense_init(k_tags, d, len(TAGS)), "tools": random.normal(k_tools, (len(TOOLS), d))
    }  # fmt: skip
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args)[0].init(params), k_train, step)


def step(
    state: TrainState, index: Int[Tensor, "b"], data: Rows, *, cfg: bert.Config, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update on the rows `index` of the data, which lies on the device as a whole."""
    optimiser, rate = optimizer(args)
    key = random.fold_in(state.key, state.step) if args.dropout else None
    objective = value_and_grad(partial(loss, cfg=cfg, dtype=dtype))
    batch = Rows(data.ids[index], data.tools[index], data.tags[index])
    value, grads = parallel.mean(objective(state.params, batch, key))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimiser.update(grads, state.opt, state.params)
    out = {"train/loss": value, "grad/norm": norm, "train/lr": rate(state.step)}
    return TrainState(params, opt, state.key, state.step + 1), out


# ---- training: plumbing ----


def corpora(args: Args) -> tuple[list[Request], list[Request], list[Request]]:
    """Requests to learn from, of held-out templates, and written by hand; none of the last is learnt from."""
    held = requests.held()
    there = {request.text.lower() for request in held}
    train, val = templates.load()
    made = [x for x in templates.made(train, args.requests, 0) if x.text.lower() not in there]
    return [x for x in made if x.tool not in args.without], templates.made(val, 40 * len(TOOLS), 1), held


def train(args: Args) -> None:
    made, val, held = corpora(args)
    released, known = minilm.load(args.data_dir) if args.start == "minilm" else (None, None)
    here = run.Run(args, NAME, Path(__file__), unit="requests", minimise="val/wrong")
    here.once(lambda: tokens.save(here.path, known or tokens.train_wordpiece([x.text for x in made], VOCABULARY)))
    cfg = config(args, tokenizer := tokens.load(here.path))
    data = tree.to(requests.rows(tokenizer, made, args.length), here.device)
    print(f"{len(made):,} requests to learn from; {here.device}, {here.dtype}")
    index = next(numbers := here.batches(partial(batches.numbers, n=len(made), size=args.rows)))

    state = here.start(init_state, cfg=cfg, released=released)
    print(tree.table(state.params, depth=1))
    here.throughput.flops_per_unit = 6 * args.length * bert.matmul_weights(state.params["bert"]) // len(here.members)
    update = here.compile(step, cfg=cfg, dtype=here.dtype)

    for n in here.progress():
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                show(one, n + 1, Router(s.params, tokenizer, cfg, here.dtype), val)
        for one, before, after, i in here.diagnosed(n, state, index):
            some = tree.index(data, i[:DIAGNOSED])
            calm = partial(loss, cfg=cfg, dtype=torch.float32)
            order = diagnose.report(one, n + 1, before, after, {"params": calm}, some)
            one.writer.add_text(
                "diagnose/surprising", "\n\n".join(tokenizer.decode_batch(some.ids[order].tolist())), n + 1
            )
        index = next(numbers)
    if here.evaluates(state):
        router = lambda s: Router(s.params, tokenizer, cfg, here.dtype)  # noqa: E731
        here.finish([evaluate(one, router(s), held, args) for one, s in here.each(state)], '"what is 23*55+123"')


class Router(NamedTuple):
    params: Tree
    tokenizer: Tokenizer
    cfg: bert.Config
    dtype: torch.dtype = torch.float32

    def ids(self, texts: Sequence[str]) -> Int[Tensor, "n t"]:
        found = requests.rows(self.tokenizer, [Request(text, NONE, ()) for text in texts], READ).ids
        return found[:, : int((found != tokens.PAD).sum(1).max())].to(self.params["tools"].device)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n t v"]]:
        """Log-probabilities of each text's tool, and of each of its pieces' tags."""
        params = tree.cast(self.params, self.dtype)
        found = [apply(params, part, cfg=self.cfg) for part in self.ids(texts).split(AT_ONCE)]
        tools = torch.cat([choice(self.params, features) for features, _ in found]).log_softmax(-1)
        return tools.cpu(), torch.cat([logits for _, logits in found]).log_softmax(-1).cpu()

    def options(self, texts: Sequence[str]) -> list[list[tuple[Request, float]]]:
        """Of each text the tools, the likeliest first, with its arguments and how probable the tool is."""
        logp, tags = self(texts)
        pieces = requests.encoded(self.tokenizer, [Request(text, NONE, ()) for text in texts], READ)
        found, names = list[list[tuple[Request, float]]](), list(TOOLS)
        for text, row, marks, words in zip(texts, logp, tags, pieces, strict=True):
            best = row.topk(OFFERED)
            each = [
                Request(text, names[i], requests.spans(marks, words, names[i], text)) for i in best.indices.tolist()
            ]
            found.append(list(zip(each, best.values.exp().tolist(), strict=True)))
        return found

    def routed(self, texts: Sequence[str]) -> list[tuple[Request, float]]:
        return [options[0] for options in self.options(texts)]

    def extended(self, tool: str, examples: Sequence[str]) -> "Router":
        """With a prototype of the tool made of examples."""
        with torch.no_grad():
            features, _ = apply(self.params, self.ids(examples), cfg=self.cfg)
        at = torch.arange(len(TOOLS), device=features.device) == list(TOOLS).index(tool)
        tools = torch.where(at[:, None], features.mean(0), self.params["tools"])
        return self._replace(params=self.params | {"tools": tools})


def scores(found: Sequence[tuple[Request, float]], truth: Sequence[Request]) -> dict[str, float]:
    """`tool`: right ones; `sure85`: right ones of the 85 % that the model is surest of; `none`: how many of the
    requests that no tool can serve are recognised; `arguments`: requests of the right tool whose arguments are right to
    the letter."""
    right = [a.tool == b.tool for (a, _), b in zip(found, truth, strict=True)]
    surest = sorted(range(len(truth)), key=lambda i: -found[i][1])[: round(0.85 * len(truth))]
    none = [ok for ok, b in zip(right, truth, strict=True) if b.tool == NONE]
    exact = [
        sorted(a.arguments()) == sorted(b.arguments())
        for (a, _), b, ok in zip(found, truth, right, strict=True) if ok and TOOLS[b.tool]
    ]  # fmt: skip
    mean = lambda of: sum(of) / max(1, len(of))  # noqa: E731
    return {"tool": mean(right), "sure85": mean([right[i] for i in surest]), "none": mean(none),
            "arguments": mean(exact)}  # fmt: skip


def by_slot(found: Sequence[tuple[Request, float]], truth: Sequence[Request]) -> dict[str, float]:
    """F1 of each slot's spans."""
    a, b = ([{(i, *pair) for i, one in enumerate(side) for pair in one.arguments()}]
            for side in ([request for request, _ in found], truth))  # fmt: skip
    values = {}
    for slot in SLOTS:
        mine, theirs = ({x for x in side[0] if x[1] == slot} for side in (a, b))
        values[slot] = 2 * len(mine & theirs) / max(1, len(mine) + len(theirs))
    return values


def show(here: run.Place, n: int, router: Router, val: list[Request]) -> None:
    """On requests of held-out templates: figures, which tool is taken for which, and what the model is least sure of"""
    found = router.routed([request.text for request in val])
    values = scores(found, val)
    here.log(n, {f"val/{name}": value for name, value in values.items()} | {"val/wrong": 1 - values["tool"]})
    here.log(n, {f"val_f1/{slot}": value for slot, value in by_slot(found, val).items()})
    here.writer.add_figure("samples/confusion", confusion(found, val), n)
    unsure = sorted(zip(found, val, strict=True), key=lambda pair: pair[0][1])[:20]
    lines = [f"{p:.2f} {a.tool} (it is {b.tool}): {told(a)}" for (a, p), b in unsure]
    here.writer.add_text("samples/least_sure", "\n\n".join(lines), n)
    here.write(f"step {n}: tool {100 * values['tool']:.1f} %, arguments {100 * values['arguments']:.1f} %")


def confusion(found: Sequence[tuple[Request, float]], truth: Sequence[Request]) -> Figure:
    names, counts = list(TOOLS), Counter((b.tool, a.tool) for (a, _), b in zip(found, truth, strict=True))
    table = torch.tensor([[counts[b, a] for a in names] for b in names]).float()
    return plot.heatmap(table, names, names, numbers=True, title="request (row) sent to (column)")


def told(request: Request) -> str:
    """The request with each argument in brackets."""
    text = request.text
    for slot, begin, end in reversed(request.spans):
        text = f"{text[:begin]}[{text[begin:end]}]({slot}){text[end:]}"
    return text


def evaluate(here: run.Place, router: Router, held: list[Request], args: Args) -> tuple[dict[str, float], list[str]]:
    """On the requests that were written by hand."""
    made = templates.made(templates.load()[0], EXAMPLES * len(TOOLS), 2)
    for tool in args.without:
        router = router.extended(tool, [x.text for x in made if x.tool == tool])
    found = router.routed([request.text for request in held])
    values = scores(found, held)
    lines = [f"{name:<12}{100 * value:6.1f} %" for name, value in values.items()]
    if args.without:
        new = [a.tool == b.tool for (a, _), b in zip(found, held, strict=True) if b.tool in args.without]
        values["new"] = sum(new) / len(new)
        lines.append(f"{', '.join(args.without)}, by {EXAMPLES} examples each: {100 * values['new']:.1f} %")
    here.writer.add_figure("test/confusion", confusion(found, held), args.steps)
    for (a, p), b in zip(found, held, strict=True):
        if a.tool != b.tool or sorted(a.arguments()) != sorted(b.arguments()):
            lines.append(f"  {p:.2f} {a.tool if a.tool == b.tool else a.tool + ' for ' + b.tool}: {told(a)}")
    return {f"test/{name}": value for name, value in values.items()}, lines


# ---- using a run ----


def load(path: Path, args: Args) -> Assistant:
    """The router of a run's latest checkpoint, and tools that start what they need when they are asked."""
    cfg = config(args, tokenizer := tokens.load(path))
    state = run.load(path, init_state(random.key(0, "meta"), cfg, args))
    router = Router(state.params, tokenizer, cfg)
    return Assistant(lambda text: router.options([text])[0], Desk(Pool(alone=False), args.data_dir))


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
