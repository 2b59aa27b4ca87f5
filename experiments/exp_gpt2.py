"""GPT-2 as it was released (Radford et al. 2019): how well it knows a text, what it writes, and fine-tuning on a novel.

What it shows: the same functions that learn a novel from nothing (exp_gpt_hemingway) are GPT-2 once they hold its
weights, by OpenAI's own tokenizer or the one that lies beside other weights. With --steps 0, the default, nothing is
trained: a run measures held-out text and writes; more steps fine-tune on the training text as nanoGPT does on
Shakespeare.

    just run exp_gpt2 --weights hub               # OpenAI's weights from Hugging Face, 0.5 GB; --size medium, large, xl
    just run exp_gpt2 --weights folder            # any of its shape under Hugging Face's names: see `gpt2.load`
    just run exp_gpt2 --weights hub --steps 100   # fine-tuned
    just sample exp_gpt2 "I went to the kitchen and"

Without weights it is a new model, which writes noise and finds each of 50,257 tokens about equally likely: ln 50,257 =
10.82 nats. The small preset needs some two minutes of one core.
"""

import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from lib import diagnose, optim, parallel, random, run, transformer, tree
from lib.data import batches, texts, tokens
from lib.faults import DataError, RunError
from lib.models import gpt, gpt2
from lib.random import Key
from lib.tasks import writing
from lib.tasks.writing import Use, answers
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
SPELLED = "It's  1 – é, 漢 😀\n\n\tB "  # by a tokenizer that leaves nothing out and adds nothing
PROMPTS = ("I went to the kitchen and", "Lexington is the second largest city in the state of Kentucky")  # the book's
SAMPLE = f'"{PROMPTS[0]}"'
TIMED = 64  # tokens that are written to see how long one takes


@dataclass(frozen=True)
class Args(run.Args):
    """Measure a released GPT-2, or fine-tune it on novels or any other text."""

    data: str = "default"
    """default (Moby Dick), hemingway, anna, or the path of a text file or of a folder of .txt files."""
    steps: run.Free[run.Natural] = 0
    """Updates of fine-tuning; 0: nothing is trained."""
    weights: str = "new"
    """new (random: it writes noise), hub (OpenAI's, from Hugging Face), or the path of a file or folder of weights,
    with their tokenizer beside them if it is not OpenAI's."""
    size: Literal["small", "medium", "large", "xl"] | None = None
    """The size of GPT-2; small if not given, or what a path's weights are."""
    scored: run.Natural = 20_000
    """Tokens of each held-out text that are scored, from its beginning; 0: all."""
    dropout: run.Fraction = 0.0
    """Probability with which an activation is dropped in training."""
    rows: run.Count = 4
    """Windows of a batch."""
    length: run.Count = 256
    """Tokens of a window; the context stays that of the weights."""
    lr: run.Amount = 3e-5
    """Learning rate, which is constant."""
    weight_decay: run.Amount = 0.1
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""


PRESETS: dict[str, run.Args] = {
    "small": Args(log_every=5, eval_every=50, save_every=100),
    # Chapter 11: the largest one, on a CPU, as it was released.
    "book": Args(precision="fp32", weights="hub", size="xl"),
    # nanoGPT's recipe (config/finetune_shakespeare.py) on the largest size that it leaves room for on one GPU of 80 GB.
    "best": Args(
        steps=100, weights="hub", size="medium", scored=0, rows=16, length=1024, log_every=5, eval_every=20,
        save_every=50,
    ),
}  # fmt: skip

DIAGNOSED = 4  # rows of a batch: second derivatives take three times the memory of first ones


# ---- model and loss: edit here ----


def loss(
    params: Tree, window: Int[Tensor, "b t_plus_1"], key: Key | None = None, *, cfg: gpt.Config, dtype: torch.dtype
) -> Float[Tensor, ""]:
    """Mean cross-entropy per token in nats."""
    logits = gpt.apply(tree.cast(params, dtype), window[:, :-1], key, cfg=cfg)
    return F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


def optimizer(args: Args) -> optim.Optimizer:
    adam = optim.adamw(optim.constant(args.lr), (0.9, 0.95), weight_decay=args.weight_decay, decay=optim.matrices)
    return parallel.shard_optimizer(adam, args.shard_optimizer)


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def init_state(key: Key, cfg: gpt.Config, args: Args, released: Tree | None = None) -> TrainState:
    """`released`: parameters to start from, which stay as they are; None: new ones."""
    k_params, k_train = random.split(key)
    params = gpt.init(k_params, cfg) if released is None else tree.map(torch.clone, released)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args).init(params), k_train, step)


def step(
    state: TrainState, window: Int[Tensor, "b t_plus_1"], *, cfg: gpt.Config, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update. The whole of fine-tuning is this function, applied again and again."""
    key = random.fold_in(state.key, state.step) if args.dropout else None
    value, grads = parallel.mean(value_and_grad(partial(loss, cfg=cfg, dtype=dtype))(state.params, window, key))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimizer(args).update(grads, state.opt, state.params)
    return TrainState(params, opt, state.key, state.step + 1), {"train/loss": value, "grad/norm": norm}


# ---- plumbing: weights, measuring, fine-tuning ----


def tokenizer_for(args: Args) -> Tokenizer:
    """OpenAI's, or that of the folder of weights. Raises DataError for one that is not for language models."""
    if args.weights in ("new", "hub"):
        return gpt2.tokenizer(args.data_dir)
    found = gpt2.tokenizer_of(Path(args.weights), args.data_dir)
    if found.token_to_id(gpt2.END) is None:
        raise DataError(f"the tokenizer beside {args.weights} has no {gpt2.END}, the token between two texts")
    if texts.decode(found, texts.encode(found, SPELLED)) != SPELLED:
        raise DataError(f"the tokenizer beside {args.weights} changes a text, so bits per byte would mean nothing")
    return found


def released(args: Args, device: torch.device, dtype: torch.dtype) -> tuple[Tree | None, gpt.Config]:
    """Parameters and configuration that the flags ask for; no parameters where they are to be new."""
    if args.weights == "new":
        cfg = gpt2.config(args.size or "small", args.dropout)
        gpt2.check_room(cfg, torch.float32, device, training=args.steps > 0)
        return None, cfg
    if args.weights == "hub":
        cfg = gpt2.config(args.size or "small")
        gpt2.check_room(cfg, dtype, device, training=args.steps > 0)  # before the download
    path = gpt2.hub(args.size or "small", args.data_dir) if args.weights == "hub" else Path(args.weights)
    params, cfg = gpt2.load(path, device, dtype, args.dropout, training=args.steps > 0)
    size = args.size or ("small" if args.weights == "hub" else gpt2.size_of(cfg))
    if gpt2.size_of(cfg) != size:
        raise DataError(f"{path} is a GPT-2 {gpt2.size_of(cfg)}, not --size {size}")
    return params, cfg


def untrained(args: Args, device: torch.device, dtype: torch.dtype) -> tuple[Tree, gpt.Config]:
    """What a run without a step has: released parameters, or new ones with a warning."""
    params, cfg = released(args, device, dtype)
    if params is None:
        print(
            "NOTE: --weights new is a GPT-2 that has learned nothing and writes NOISE. For the real one: --weights\n"
            "hub, or --weights with the path of a file or folder that has its weights.", file=sys.stderr
        )  # fmt: skip
        params = tree.cast(gpt.init(random.key(args.seed, device), cfg), dtype)
    return params, cfg


def writer(params: Tree, tokenizer: Tokenizer, cfg: gpt.Config, args: Args, dtype: torch.dtype) -> writing.Writer:
    params = tree.cast(params, dtype)
    return writing.Writer(
        tokenizer, partial(gpt.generate, params, cfg=cfg), partial(gpt.nats, params, cfg=cfg),
        partial(gpt.forced, params, cfg=cfg), params["embed"]["tokens"].device,
        cache(lambda: texts.load(args.data, args.data_dir).train), cfg.context, tokenizer.token_to_id(gpt2.END),
    )  # fmt: skip


def beginning(tokenizer: Tokenizer, text: str, n: int) -> str:
    """The text of the first n tokens, without a character that is cut; 0: all."""
    ids = texts.encode(tokenizer, text)
    for end in range(n or len(ids), 0, -1):
        if text.startswith(part := texts.decode(tokenizer, ids[:end])):
            return part
    return text


def speed(w: writing.Writer) -> float:
    """Tokens a second behind the neutral prompt, one after another, without the first."""
    new = w.go_on(w.ids("")[None], None, room=writing.SHOWN)
    int(next(new))
    began = time.perf_counter()
    for _, token in zip(range(TIMED), new, strict=False):
        int(token)  # waits for the device
    return TIMED / (time.perf_counter() - began)


def report(
    here: run.Place, step: int, w: writing.Writer, corpus: texts.Texts, key: Key, cfg: gpt.Config
) -> tuple[dict[str, float], list[str]]:
    prompts = [prompt for prompt in PROMPTS if len(texts.encode(w.tokenizer, prompt)) <= cfg.context]
    result, lines = writing.report(here, step, w, corpus, key, prompts)
    rate, size, count = speed(w), gpt2.size_of(cfg), tree.size(gpt.shapes(cfg))
    here.log(step, {"perf/generated_tokens_per_second": rate})
    published = f" (published: {gpt2.SIZES[size].parameters:,})" if size in gpt2.SIZES else ""
    return result, [
        f"GPT-2 {size}: {count:,} parameters{published}; {rate:.1f} tokens a second written one after another",
        f"no knowledge: ln {cfg.vocabulary:,} = {math.log(cfg.vocabulary):.3f} nats per token", *lines,
    ]  # fmt: skip


def train(args: Args) -> None:
    if not args.steps and (args.replicas > 1 or args.sweep):
        raise RunError("--replicas and --sweep need --steps: without training all replicas are the same")
    if args.weights not in ("new", "hub"):
        args = replace(args, weights=str(Path(args.weights).resolve()))  # to be found again from another folder
    corpus, tokenizer = texts.load(args.data, args.data_dir), tokenizer_for(args)
    held_out = [beginning(tokenizer, text, args.scored) for text in (corpus.val, corpus.test)]
    corpus = corpus._replace(val=held_out[0], test=held_out[1])
    device = run.device(args)
    start = released if args.steps else untrained
    params, cfg = start(args, device, torch.float32 if args.steps else run.dtype(args, device))
    if args.weights not in ("new", "hub"):
        gpt2.check_tokens(tokenizer, Path(args.weights), cfg)
    if args.length > cfg.context:
        raise RunError(f"--length {args.length}: the model's context is {cfg.context}")

    here = run.Run(args, NAME, Path(__file__), unit="tokens", minimise="val/bits_per_byte")
    here.once(lambda: tokens.save(here.path, tokenizer))
    here.once(lambda: run.write_json(here.path / "model.json", asdict(cfg)))
    print(
        f"{corpus.name}: {len(texts.encode(tokenizer, corpus.test)):,} tokens are scored; {here.device}, {here.dtype}"
    )

    def as_writer(params: Tree) -> writing.Writer:
        return writer(params, tokenizer, cfg, args, here.dtype)

    if not args.steps:
        if here.leads:
            here.finish([report(here, 0, as_writer(params), corpus, here.show_key, cfg)], SAMPLE)
        return

    ids = texts.encode(tokenizer, corpus.train)
    data = here.batches(lambda key, first: batches.windows(ids, key, args.rows, args.length, first))
    window = next(data)
    state = here.start(init_state, cfg=cfg, released=params)
    del params  # the state has its own
    print(tree.table(state.params, depth=1))
    here.throughput.flops_per_unit = 6 * gpt.matmul_weights(state.params) // len(here.members)
    update = here.compile(step, cfg=cfg, dtype=here.dtype)

    for n in here.progress():
        if n == 0:  # what fine-tuning begins with
            for one, s in here.each(state):
                writing.watch(one, 0, as_writer(s.params), corpus, here.show_key)
        state, out = update(state, window)
        here.record(n, state, out, units=window[..., 1:].numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                writing.watch(one, n + 1, as_writer(s.params), corpus, here.show_key)
        for one, before, after, w in here.diagnosed(n, state, window):
            plain = partial(loss, cfg=cfg, dtype=torch.float32)
            diagnose.report(one, n + 1, before, after, {"params": plain}, w[:DIAGNOSED])
        window = next(data)
    if not here.evaluates(state):
        return
    each = here.each(state)
    here.finish([report(one, args.steps, as_writer(s.params), corpus, here.show_key, cfg) for one, s in each], SAMPLE)


# ---- using a run ----


def load(path: Path, args: Args) -> writing.Writer:
    """The model of a run's latest checkpoint; of a run that trained nothing the one that its weights are of, which are
    read again."""
    tokenizer, device = tokens.load(path), run.device(run.Args())
    tokenizer.encode_special_tokens = True  # a text that spells one is a text
    dtype = run.dtype(args, device)
    if not args.steps:
        params, cfg = untrained(args, device, dtype)
        return writer(params, tokenizer, cfg, args, dtype)
    stored = run.read_json(path / "model.json")
    cfg = gpt.Config(**{**stored, "block": transformer.Config(**stored["block"])})
    params = run.load(path, gpt.shapes(cfg), "params", device)
    return writer(params, tokenizer, cfg, args, dtype)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
