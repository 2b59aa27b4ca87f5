"""Fashion-MNIST with a dense network or a convolutional one: p(y given x), the discriminative counterpart of the zoo.

What it shows: ten kinds of clothes told apart by 73,000 parameters: 91.8 % of the test pictures after two minutes and a
half on two CPU cores (RESULTS.md), the confusion matrix and the mistakes it is surest of in TensorBoard.
`just run exp_classifier_fashion`, then `just sample exp_classifier_fashion photo.png`.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tyro.conf import Positional

from lib import diagnose, nn, optim, parallel, plot, random, run, tree
from lib.answers import Answer, Table
from lib.data import batches, images
from lib.data.images import Images
from lib.faults import RunError
from lib.models import cnn
from lib.random import Key
from lib.tasks import classify, pictures
from lib.tasks.names import LABELS, check, kept
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem


@dataclass(frozen=True)
class Args(run.Args):
    """Train a classifier of small pictures."""

    data: str = "fashion"
    """Which pictures: fashion, mnist, digits, or a folder with a subfolder of them per label."""
    labels: tuple[str, ...] = ()
    """Only these labels are told apart (two for the binary task: t-shirt "ankle boot"); all if none is given."""
    model: Literal["mlp", "cnn"] = "cnn"
    """What the model is made of: dense layers (mlp) or convolutions (cnn)."""
    hidden: tuple[run.Count, ...] = (256, 128, 64)
    """Widths of the mlp's hidden layers."""
    widths: tuple[run.Count, ...] = (16, 32, 64)
    """Channels of the cnn's stages."""
    batch: run.Count = 128
    """Pictures of a batch."""
    lr: run.Amount = 3e-3
    """Learning rate, the highest where it changes."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: a warm-up of a twentieth of the run, then half a cosine to 0; or a constant learning rate."""
    weight_decay: run.Amount = 0.05
    """Weight decay of matrices, times the learning rate."""
    smoothing: run.Fraction = 0.0
    """Share of a label's probability that is spread over all labels (label smoothing)."""
    dropout: run.Fraction = 0.0
    """Dropout probability in training."""
    augment: bool = False
    """Shift pictures by up to two pixels and mirror them, differently each time. It costs a short run accuracy."""


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=1800, eval_every=300, save_every=600),
    # Chapter 2: 784-256-128-64-10, Adam at 1e-3, batches of 64, no augmentation; 20 epochs, after which its early
    # stopping stopped. Its binary task: --labels t-shirt "ankle boot".
    "book": Args(
        steps=16_880, model="mlp", batch=64, lr=1e-3, schedule="constant", weight_decay=0.0,
        eval_every=844, save_every=844, log_every=100,
    ),
    "best": Args(
        steps=24_000, widths=(64, 128, 256), batch=256, lr=4e-3, dropout=0.2, smoothing=0.1, augment=True,
        eval_every=1000, save_every=2000, log_every=100,
    ),
}  # fmt: skip


# ---- model and loss: edit here ----


class TrainState(NamedTuple):
    params: Tree
    model: Tree  # running statistics of batch normalisation
    opt: Tree
    key: Key
    step: Int[Tensor, ""]


def config(args: Args, classes: int) -> cnn.Config:
    return cnn.Config(args.widths, classes=classes, dropout=args.dropout)


def init(key: Key, args: Args, classes: int) -> tuple[Tree, Tree]:
    """(params, state): of the mlp a list of layers {"w", "b"} and no state, of the cnn as `cnn.init`."""
    if args.model == "mlp":
        return nn.mlp_init(key, (28 * 28, *args.hidden, classes)), []
    return cnn.init(key, config(args, classes))


def apply(
    params: Tree, state: Tree, x: UInt8[Tensor, "b 1 28 28"], key: Key | None = None, *, args: Args, train: bool = False
) -> tuple[Float[Tensor, "b k"], Tree]:
    """Logits and the state after this batch; the dtype of the parameters decides that of the computation."""
    x = x.to(tree.leaves(params)[0].dtype) / 127.5 - 1
    if args.model == "mlp":
        return nn.mlp(params, rearrange(x, "b c h w -> b (c h w)"), key, dropout=args.dropout), state
    return cnn.apply(params, state, x, key, cfg=config(args, 0), train=train)


def augment(x: UInt8[Tensor, "b c h w"], key: Key) -> UInt8[Tensor, "b c h w"]:
    """Each picture shifted by up to two pixels either way, and mirrored with probability a half."""
    k_shift, k_mirror = random.split(key)
    mirror = random.bernoulli(k_mirror, 0.5, (len(x), 1, 1, 1))
    x = images.shifted(x, k_shift, 2)
    return torch.where(mirror, x.flip(-1), x)


def loss(
    params: Tree, state: Tree, batch: Images, key: Key, *, args: Args, dtype: torch.dtype
) -> tuple[Float[Tensor, ""], tuple[Tree, Float[Tensor, ""]]]:
    """Cross-entropy in nats; the model's state and the accuracy beside it."""
    k_augment, k_dropout = random.split(key)
    x = augment(batch.pixels, k_augment) if args.augment else batch.pixels
    logits, state = apply(tree.cast(params, dtype), state, x, k_dropout, args=args, train=True)
    accuracy = (logits.argmax(-1) == batch.labels).float().mean()
    return F.cross_entropy(logits.float(), batch.labels, label_smoothing=args.smoothing), (state, accuracy)


def fixed_loss(params: Tree, batch: Images, *, state: Tree, args: Args) -> Float[Tensor, ""]:
    """Cross-entropy in nats as a function of the parameters alone: running statistics, no noise."""
    return F.cross_entropy(apply(params, state, batch.pixels, args=args)[0], batch.labels)


def optimizer(args: Args) -> optim.Optimizer:
    falling = optim.cosine(args.lr, args.steps, args.steps // 20)
    lr = falling if args.schedule == "cosine" else args.lr
    adamw = optim.adamw(lr, weight_decay=args.weight_decay, decay=optim.matrices)
    return parallel.shard_optimizer(adamw, args.shard_optimizer)


def init_state(key: Key, args: Args, classes: int) -> TrainState:
    k_params, k_train = random.split(key)
    params, state = init(k_params, args, classes)
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, state, optimizer(args).init(params), k_train, step)


def step(
    state: TrainState, index: Int[Tensor, "b"], data: Images, *, args: Args, dtype: torch.dtype
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update on the examples `index` of the data, which lies on the device as a whole."""
    batch = Images(data.pixels[index], data.labels[index])
    key = random.fold_in(state.key, state.step)
    objective = value_and_grad(partial(loss, args=args, dtype=dtype), has_aux=True)
    (value, (model, accuracy)), grads = objective(state.params, state.model, batch, key)
    value, accuracy, grads = parallel.mean((value, accuracy, grads))
    params, opt = optimizer(args).update(grads, state.opt, state.params)
    out = {"train/loss": value, "train/accuracy": accuracy, "grad/norm": tree.global_norm(grads)}
    return TrainState(params, model, opt, state.key, state.step + 1), out


# ---- training: plumbing ----


def chosen(data: Images, names: list[str], labels: tuple[str, ...]) -> Images:
    """The examples that have one of the labels, numbered anew; all where no label is given. Raises RunError."""
    if not labels:
        return data
    if len(set(labels)) < len(labels):
        raise RunError(f"a label is given twice: {', '.join(labels)}")
    if unknown := [name for name in labels if name not in names]:
        raise RunError(f"no label {unknown[0]!r} in this data: {', '.join(names)}")
    new = torch.full((len(names),), -1)
    new[[names.index(name) for name in labels]] = torch.arange(len(labels))
    keep = new[data.labels] >= 0
    return Images(data.pixels[keep], new[data.labels[keep]])


@torch.no_grad()
def predict(state: TrainState, x: UInt8[Tensor, "n 1 28 28"], args: Args, dtype: torch.dtype) -> Float[Tensor, "n k"]:
    """Log-probabilities."""
    params = tree.cast(state.params, dtype)
    parts = [apply(params, state.model, part, args=args)[0].float() for part in x.split(1000)]
    return torch.cat(parts).log_softmax(-1)


def mistakes(logp: Float[Tensor, "n k"], labels: Int[Tensor, "n"]) -> Int[Tensor, "m"]:
    """Numbers of the wrongly classified examples, the most confident first."""
    p, guess = logp.max(-1)
    wrong = (guess != labels).nonzero().squeeze(1)
    return wrong[p[wrong].argsort(descending=True)]


def train(args: Args) -> None:
    splits = images.load(args.data, args.data_dir)
    names = list(args.labels) or splits.names
    parts = [chosen(part, splits.names, args.labels) for part in splits[1:4]]
    check(args, names)
    here = run.Run(args, NAME, Path(__file__), unit="images")
    here.once(lambda: run.write_json(here.path / LABELS, names))
    data, val, test = (tree.to(part, here.device) for part in parts)
    print(f"{len(data.labels):,} training pictures of {', '.join(names)}; {here.device}, {here.dtype}")
    state = here.start(init_state, classes=len(names))
    print(tree.table(state.params, depth=1))
    update = here.compile(step, dtype=here.dtype)
    order = here.batches(partial(batches.numbers, n=len(data.labels), size=args.batch))

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                show(one, n + 1, predict(s, val.pixels, args, here.dtype), val, names)
        for one, before, after, i in here.diagnosed(n, state, index):
            examples = Images(data.pixels[i], data.labels[i])
            fixed = partial(fixed_loss, state=after.model, args=args)
            worst = diagnose.report(one, n + 1, before, after, {"params": fixed}, examples)[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(examples.pixels[worst] / 255, 8), n + 1)
    if not here.evaluates(state):
        return
    here.finish([score(predict(s, test.pixels, args, here.dtype), test, names) for _, s in here.each(state)], "PICTURE")


def score(logp: Float[Tensor, "n k"], test: Images, names: list[str]) -> tuple[dict[str, float], list[str]]:
    """Test accuracy, and the lines to print."""
    right = logp.argmax(-1) == test.labels
    accuracy = float(right.float().mean())
    lines = [f"test accuracy {100 * accuracy:.2f} % of {len(right):,}"]
    for k, name in enumerate(names):
        if (of_label := right[test.labels == k]).numel():
            lines.append(f"  {name:<12} {100 * float(of_label.float().mean()):.1f} %")
    return {"test/accuracy": accuracy}, lines


def show(here: run.Place, n: int, logp: Float[Tensor, "n k"], val: Images, names: list[str]) -> None:
    """Held-out loss and accuracy, who is taken for whom, and the mistakes the model is surest of."""
    guess, labels = logp.argmax(-1), val.labels
    accuracy = float((guess == labels).float().mean())
    here.log(n, {"val/loss": float(F.nll_loss(logp, labels)), "val/accuracy": accuracy})
    table = torch.bincount(labels * len(names) + guess, minlength=len(names) ** 2).view(len(names), -1).cpu()
    figure = plot.heatmap(table.float(), names, names, numbers=True, title="label (row) taken for (column)")
    here.writer.add_figure("samples/confusion", figure, n)
    worst = mistakes(logp, labels)[:32]
    here.writer.add_image("samples/mistakes", plot.tile(val.pixels[worst] / 255, 8), n)
    rows = "\n".join(f"| {i} | {names[labels[j]]} | {names[guess[j]]} |" for i, j in enumerate(worst.tolist(), 1))
    here.writer.add_text("samples/mistakes", f"| place | label | taken for |\n|---|---|---|\n{rows}", n)
    here.write(f"step {n}: held-out accuracy {100 * accuracy:.2f} %")


# ---- using a run ----


@dataclass(frozen=True)
class Use(run.Use):
    """Say what is on pictures with the latest finished run."""

    pictures: Positional[tuple[run.Example, ...]] = ()
    """Numbers of test pictures, or picture files, light on dark: the middle square is taken, grey and 28 pixels wide.
    The first ten test pictures if none is given."""


class Model(NamedTuple):
    state: TrainState
    args: Args
    names: list[str]
    test: Callable[[], Images]


def load(path: Path, args: Args) -> Model:
    """A finished run, and its test pictures, which are loaded when one is asked for."""
    names = kept(path, list(args.labels) or images.NAMES.get(args.data))

    def test() -> Images:
        splits = images.load(args.data, args.data_dir)
        return chosen(splits.test, splits.names, tuple(names))

    return Model(run.load(path, init_state(random.key(0), args, len(names))), args, names, functools.cache(test))


def answers(use: Use, model: Model) -> Iterator[Answer]:
    """What each test picture is taken for; of each file, the likeliest labels. Raises DataError, RunError."""
    names = model.names
    asked = use.pictures or tuple(map(str, range(min(10, len(model.test().labels)))))
    pixels, numbers = pictures.picked(asked, lambda: model.test().pixels, 28, channels=1)
    p = predict(model.state, pixels, model.args, torch.float32).exp()
    rows = [
        (i, names[model.test().labels[i]], names[row.argmax()], 100 * float(row.max()))
        for i, row in zip(numbers, p, strict=True)
        if i is not None
    ]
    if rows:
        columns = ("picture", "label", "taken for", "percent")
        yield Table(columns, rows, "{:>5}  {:<12} taken for {} ({:.1f} %)")
    for file, i, row in zip(asked, numbers, p, strict=True):
        if i is None:
            yield replace(classify.likeliest(row, names, 3), head=file if len(asked) > 1 else "")


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
