"""Text classification by a pretrained decoder with a new head (Radford et al. 2018, section 3.2), tuned four ways.

What it shows: what a language model brings to a task with a few thousand examples, against words counted by tf-idf and
the same shape trained from nothing, and how little of it must be trained: all of it, its last blocks, low-rank adapters
(Hu et al. 2021) or the head alone. `just run exp_gpt2_classify` (sentences of film critics, SmolLM2-135M), then
`just sample exp_gpt2_classify "A film to forget."`

Of 832 held-out sentences the last four of thirty blocks get 80.5 % right (eight minutes on one core), adapters 84.4 %,
all of it 83.1 %, the head 79.2 %; tf-idf and logistic regression 76.8 %, a model from nothing 74.5 %.

From nothing, smaller so that it can be afforded: `--weights new --tune full --layers 4 --width 192 --lr 1e-3`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lib import diagnose, lora, nn, optim, parallel, random, run, tree
from lib.answers import Answer, Note
from lib.data import batches, labelled, tokens
from lib.data.labelled import Example
from lib.faults import RunError
from lib.models import gpt, gpt2, smollm
from lib.random import Key
from lib.tasks import classify
from lib.tasks.classify import Encoded
from lib.tasks.names import LABELS, check
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem
RATES = {"full": 2e-5, "last": 1e-4, "lora": 3e-4, "head": 1e-3}
ADAPTED = r"decoder\.blocks\.\d+\.(attn\.w_\w|ff\.\w+\.w)$"  # what has low-rank adapters
SCALE = 2.0  # of adapters: alpha / rank (Hu et al. 2021, section 4.1)
HEAD = 64  # channels of a head of "new", of which three share keys and values, as in SmolLM2-135M
AT_ONCE = 64  # texts that are classified at once


@dataclass(frozen=True)
class Args(run.Args):
    """Train a head on a pretrained decoder, and some or all of the decoder with it."""

    data: str = "rotten"
    """rotten (film critics' sentences), imdb (film reviews), bbc (news), or the path of a folder with a subfolder of
    .txt files for each label or of a CSV file with the columns text and label."""
    weights: str = "smollm2"
    """smollm2 (SmolLM2-135M-Instruct), gpt2 (the small one, from Hugging Face's hub), new (SmolLM2's shape, from
    nothing), or the path of weights: a GGUF file, or a folder or file of Llama's or GPT-2's shape."""
    layers: run.Count = 30
    """Layers of a new model."""
    width: run.Count = 576
    """Width of a new model, a multiple of 192."""
    tune: Literal["full", "last", "lora", "head"] = "last"
    """What is trained with the head: everything; the last blocks and the final norm; low-rank adapters of all matrices
    of the blocks; nothing."""
    blocks: run.Count = 4
    """How many of the last blocks --tune last trains."""
    rank: run.Count = 8
    """Rank of the adapters of --tune lora."""
    length: run.Count = 48
    """Tokens that are read of a text; what is longer is cut off."""
    batch: run.Count = 16
    """Texts of a batch."""
    lr: run.Amount = 0.0
    """Peak learning rate, after a twentieth of the run; then it falls linearly to 0. 0: what suits --tune, 2e-5 for
    full, 1e-4 for last, 3e-4 for lora, 1e-3 for head."""
    weight_decay: run.Amount = 0.01
    """Weight decay of matrices."""
    dropout: run.Fraction = 0.1
    """Dropout of what the head reads."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (3 * HEAD):
            raise ValueError(f"--width {self.width} is not a multiple of {3 * HEAD}")
        if self.weights == "new" and self.tune != "full":
            raise ValueError("--weights new knows nothing that could stay as it is: give --tune full")


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=250, batch=32, eval_every=125, save_every=125, log_every=10),
    # "A pretrained GPT-2 gets an extra layer and is fine-tuned": 3 epochs.
    "book": Args(
        steps=1370, weights="gpt2", tune="full", lr=2e-5, length=80, eval_every=456, save_every=456,
    ),
    "best": Args(steps=1370, tune="full", lr=5e-5, length=80, eval_every=228, save_every=456),
}  # fmt: skip


# ---- model and loss: edit here ----


def released(args: Args, data_dir: Path | None) -> smollm.Released:
    """The decoder of --weights; of "new" without parameters. Raises DataError."""
    if args.weights == "smollm2":
        return smollm.load(data_dir=data_dir)
    if args.weights == "new":
        like, heads = smollm.load(data_dir=data_dir), args.width // HEAD
        block = replace(like.cfg.block, width=args.width, heads=heads, kv_heads=heads // 3, ff=args.width * 8 // 3)
        return replace(like, params=None, cfg=replace(like.cfg, layers=args.layers, block=block))
    if _is_llama(Path(args.weights)):
        return smollm.load(args.weights)
    if args.weights == "gpt2":
        params, cfg = gpt2.load(gpt2.hub("small", data_dir))
        return smollm.Released(params, cfg, gpt2.tokenizer(data_dir))
    path = Path(args.weights)
    params, cfg = gpt2.load(path)
    tokenizer = gpt2.tokenizer_of(path, data_dir)
    gpt2.check_tokens(tokenizer, path, cfg)
    return smollm.Released(params, cfg, tokenizer)


def _is_llama(path: Path) -> bool:
    try:
        return (
            path.suffix == ".gguf"
            or json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"] == "llama"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def divided(trunk: Tree, args: Args) -> tuple[Tree, Tree]:
    """(what of the trunk stays as it is, what is trained): `assembled` puts it together."""
    if args.tune == "full":
        return {}, {"trunk": trunk}
    if args.tune == "last":
        embed, blocks, norm = trunk["embed"], trunk["decoder"]["blocks"], trunk["decoder"]["norm"]
        frozen = {"embed": embed, "blocks": blocks[: -args.blocks]}
        return frozen, {"blocks": blocks[-args.blocks :], "norm": norm}
    return trunk, {}


def assembled(frozen: Tree, params: Tree, args: Args) -> Tree:
    """The parameters of gpt.features."""
    if args.tune == "full":
        return params["trunk"]
    if args.tune == "last":
        blocks = [*frozen["blocks"], *params["blocks"]]
        return {"embed": frozen["embed"], "decoder": {"blocks": blocks, "norm": params["norm"]}}
    return lora.merged(frozen, params["lora"], SCALE) if args.tune == "lora" else frozen


def logits(
    trunk: Tree, head: Tree, ids: Int[Tensor, "b t"], last: Int[Tensor, "b"], key: Key | None = None,
    *, cfg: gpt.Config, dropout: float = 0.0,
) -> Float[Tensor, "b k"]:  # fmt: skip
    """Read from the feature of the last token, the only one that has seen the whole text; the head computes in fp32."""
    x, _ = gpt.features(trunk, ids, cfg=cfg)
    feature = x[torch.arange(len(ids), device=ids.device), last].float()
    return nn.linear(head, nn.dropout(feature, dropout, key))


def loss(
    params: Tree, batch: Encoded, frozen: Tree, key: Key | None = None,
    *, cfg: gpt.Config, args: Args, dtype: torch.dtype,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:  # fmt: skip
    """Cross-entropy in nats, and the accuracy beside it."""
    trunk = tree.cast(assembled(frozen, params, args), dtype)
    found = logits(trunk, params["head"], batch.ids, batch.last, key, cfg=cfg, dropout=args.dropout)
    return F.cross_entropy(found, batch.labels), (found.argmax(-1) == batch.labels).float().mean()


def optimizer(args: Args) -> tuple[optim.Optimizer, optim.Schedule]:
    lr = RATES[args.tune] if isinstance(args.lr, float) and args.lr == 0 else args.lr  # a swept one is a tensor
    rate = optim.linear(lr, args.steps, args.steps // 20)
    adamw = optim.adamw(rate, weight_decay=args.weight_decay, decay=optim.matrices)
    return parallel.shard_optimizer(adamw, args.shard_optimizer), rate


class TrainState(NamedTuple):
    params: Tree  # only what is trained
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def init_state(key: Key, trunk: Tree, cfg: gpt.Config, classes: int, args: Args) -> TrainState:
    """`trunk`: the released parameters; None: new ones. The head is normal with standard deviation .02 (Radford
    et al. 2018, section 4.1)."""
    k_trunk, k_head, k_lora, k_train = random.split(key, 4)
    _, trained = divided(gpt.init(k_trunk, cfg) if trunk is None else trunk, args)
    params = tree.map(torch.clone, trained)  # a compiled step writes into its state
    params["head"] = {
        "w": 0.02 * random.normal(k_head, (cfg.block.width, classes)), "b": torch.zeros(classes, device=key.device)
    }  # fmt: skip
    if args.tune == "lora":
        params["lora"] = lora.init(k_lora, trunk, ADAPTED, args.rank)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args)[0].init(params), k_train, step)


def step(
    state: TrainState, index: Int[Tensor, "b"], data: Encoded, frozen: Tree,
    *, cfg: gpt.Config, args: Args, dtype: torch.dtype,
) -> tuple[TrainState, dict[str, Tensor]]:  # fmt: skip
    """One update on the texts `index` of the data. The backward pass ends where nothing before it is trained."""
    optimiser, rate = optimizer(args)
    batch = Encoded(*(x[index] for x in data))
    key = random.fold_in(state.key, state.step)
    objective = value_and_grad(partial(loss, cfg=cfg, args=args, dtype=dtype), has_aux=True)
    (value, accuracy), grads = parallel.mean(objective(state.params, batch, frozen, key))
    grads, norm = optim.clip(grads, args.clip)
    params, opt = optimiser.update(grads, state.opt, state.params)
    out = {"train/loss": value, "train/accuracy": accuracy, "grad/norm": norm, "train/lr": rate(state.step)}
    return TrainState(params, opt, state.key, state.step + 1), out


# ---- training: plumbing ----


def prepared(
    args: Args, data_dir: Path | None, device: torch.device, dtype: torch.dtype
) -> tuple[smollm.Released, Tree]:
    """The decoder without the head that predicts tokens, and what of it stays as it is."""
    found = released(args, data_dir)
    if args.length > found.cfg.context:
        raise RunError(f"--length {args.length}: these weights read at most {found.cfg.context} tokens")
    if args.tune == "last" and args.blocks > found.cfg.layers:
        raise RunError(f"--blocks {args.blocks}: these weights have {found.cfg.layers}")
    if found.params is None:
        return found, {}
    found.params["embed"].pop("head", None)
    trunk = tree.to(found.params, device)
    frozen, _ = divided(trunk, args)
    # Adapters are small beside the weights that they are added to: a sum in bf16 would lose them.
    return replace(found, params=trunk), frozen if args.tune == "lora" else tree.cast(frozen, dtype)


@torch.no_grad()
def predict(
    params: Tree, data: Encoded, frozen: Tree, *, cfg: gpt.Config, args: Args, dtype: torch.dtype
) -> Float[Tensor, "n k"]:
    """Log-probabilities. Texts of about one length are read together, without the padding."""
    trunk, order = tree.cast(assembled(frozen, params, args), dtype), data.last.argsort(stable=True)
    parts = []
    for i in order.split(AT_ONCE):
        ids = data.ids[i, : int(data.last[i[-1]]) + 1]
        parts.append(logits(trunk, params["head"], ids, data.last[i], cfg=cfg))
    return torch.cat(parts)[order.argsort()].log_softmax(-1)


def train(args: Args) -> None:
    corpus = labelled.load(args.data, args.data_dir)
    check(args, corpus.names)
    here = run.Run(args, NAME, Path(__file__), unit="texts")
    here.once(lambda: run.write_json(here.path / LABELS, corpus.names))
    decoder, frozen = prepared(args, args.data_dir, here.device, here.dtype)
    here.once(lambda: tokens.save(here.path, decoder.tokenizer))
    parts = [classify.encoded(decoder.tokenizer, part, args.length) for part in corpus[1:4]]
    data, val, test = (tree.to(part, here.device) for part, _ in parts)
    print(f"{corpus.name}: {len(data.ids):,} training texts of {', '.join(corpus.names)}; {here.device}, {here.dtype}")
    print(f"longer than {args.length} tokens, and cut off there: {parts[0][1]:,} of them")
    state = here.start(init_state, trunk=decoder.params, cfg=decoder.cfg, classes=len(corpus.names))
    sizes = tree.size(state.params) // len(here.members), tree.size(frozen)
    decoder = replace(decoder, params=None)  # what is needed of it is in the state or frozen
    print(tree.table(state.params, depth=1))
    print(f"{sizes[0]:,} parameters are trained, of {sum(sizes):,}")
    update = here.compile(step, cfg=decoder.cfg, dtype=here.dtype)
    guess = partial(predict, frozen=frozen, cfg=decoder.cfg, args=args, dtype=here.dtype)
    numbers = here.batches(partial(batches.numbers, n=len(data.ids), size=args.batch))
    others = classify.baselines(corpus, here.write) if here.leads else {}

    for n in here.progress():
        index = next(numbers)
        state, out = update(state, index, data, frozen)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                classify.show(one, n + 1, guess(s.params, val), corpus)
        for one, before, after, i in here.diagnosed(n, state, index):
            plain = partial(loss, frozen=frozen, cfg=decoder.cfg, args=args, dtype=torch.float32)
            fixed = lambda params, batch, plain=plain: plain(params, batch)[0]  # noqa: E731
            order = diagnose.report(one, n + 1, before, after, {"params": fixed}, Encoded(*(x[i] for x in data)))
            surprising = [corpus.train[j].text for j in i[order[:8]].tolist()]
            one.writer.add_text("diagnose/surprising", "\n\n---\n\n".join(surprising), n + 1)
    if not here.evaluates(state):
        return
    results = [classify.report(title(args), guess(s.params, test), corpus, others) for _, s in here.each(state)]
    here.finish(results, '"A film to forget."')


def title(args: Args) -> str:
    if args.weights == "new":
        return f"from nothing: {args.layers} layers of width {args.width}"
    parts = {"full": "all", "last": f"the last {args.blocks} blocks", "lora": f"adapters of rank {args.rank}"}
    return f"{args.weights}: {parts.get(args.tune, 'the head')} trained"


# ---- using a run ----


@dataclass(frozen=True)
class Use(run.Typed):
    """Classify a text, or each line that is typed, with the latest finished run."""


class Model(NamedTuple):
    """What `predict` needs of a finished run."""

    params: Tree
    frozen: Tree
    decoder: smollm.Released
    names: list[str]  # of the labels
    args: Args
    dtype: torch.dtype


def load(path: Path, args: Args) -> Model:
    """The model of a run's latest checkpoint, with the part of the released decoder that was not trained."""
    device = run.device(run.Args())
    dtype = run.dtype(args, device)
    decoder, frozen = prepared(args, args.data_dir, device, dtype)
    if (path / "tokenizer.json").exists():  # runs of before it was kept read that of the weights
        decoder = replace(decoder, tokenizer=tokens.load(path))
        decoder.tokenizer.encode_special_tokens = True  # a text that spells one is a text, which the file does not say
    names = run.read_json(path / LABELS)
    trunk = None if decoder.params is None else tree.to(decoder.params, "meta")
    like = init_state(random.key(0, "meta"), trunk, decoder.cfg, len(names), args).params
    params = run.load(path, like, "params", device)
    return Model(params, frozen, replace(decoder, params=None), names, args, dtype)


def answers(use: Use, model: Model) -> Iterator[Answer]:
    """Every label with its probability, the likeliest first. Raises DataError."""
    text, args, cfg = classify.readable(use.text or ""), model.args, model.decoder.cfg
    data, cut = classify.encoded(model.decoder.tokenizer, [Example(text, 0)], args.length)
    if cut:
        yield Note(f"only the first {args.length} tokens are read")
    data = tree.to(data, model.params["head"]["w"].device)
    logp = predict(model.params, data, model.frozen, cfg=cfg, args=args, dtype=model.dtype)[0]
    yield classify.likeliest(logp.exp(), model.names)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
