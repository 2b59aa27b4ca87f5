"""A classifier of all attributes of a set of pictures, by which generated ones are judged: trained on real ones, scored
on held-out ones. What it computes below its heads are features for the kernel inception distance.

Axes: b batch, n pictures, h height, w width, d features, k values of an attribute.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from filelock import FileLock
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from lib import checkpoint, nn, optim, parallel, random, run, runs, tree
from lib.cache import cache_dir
from lib.data import batches, drawn, images
from lib.data.albums import Part, Pictures
from lib.faults import CheckpointError, DataError, RunError
from lib.models import cnn
from lib.random import Key
from lib.transform import value_and_grad
from lib.tree import Tree

SIDE = 64  # larger pictures are reduced to it


class Recipe(NamedTuple):
    """How a judge learns. `reach`: pixels by which training pictures are shifted. `noise`: largest standard deviation
    of the noise on them, for generated pictures are never as clean as real ones. `edge`: what comes in where a picture
    is shifted is its own edge, not white. `fold`: pixels of a side that are one position of the network. `half`: in
    bf16 where the machine is fast at it."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    steps: int = 600
    batch: int = 64
    lr: float = 2e-3
    reach: int = 2
    noise: float = 0.3
    edge: bool = False
    fold: int = 1
    half: bool = False


FACES = Recipe()  # of drawn ones, on white; what RESULTS.md has of faces was scored by it
OTHERS = Recipe((32, 64, 128), steps=1500, lr=3e-3, edge=True, fold=2, half=True)


class Judge(NamedTuple):
    """`params`, `state`: of lib/models/cnn, whose logits are those of all attributes side by side. `sizes`: how many of
    them each attribute has."""

    name: str
    params: Tree
    state: Tree
    sizes: dict[str, int]
    recipe: Recipe

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Features of pictures in [-1, 1]."""
        cfg = config(self.sizes, self.recipe)
        network = partial(cnn.features, self.params, self.state, cfg=cfg, train=False)
        return torch.cat([network(seen(part, self.recipe))[0] for part in x.split(250)])

    @torch.no_grad()
    def probabilities(self, x: Float[Tensor, "n 3 h w"]) -> dict[str, Float[Tensor, "n k"]]:
        """Probabilities of each attribute's values, for pictures in [-1, 1]."""
        parts = nn.linear(self.params["head"], self.features(x)).split(list(self.sizes.values()), dim=1)
        return {name: part.softmax(1) for name, part in zip(self.sizes, parts, strict=True)}

    def agreement(self, x: Float[Tensor, "n 3 h w"], wanted: dict[str, Int[Tensor, "n"]]) -> dict[str, float]:
        """Share of the pictures in which the judge sees each attribute's wanted value."""
        seen = self.probabilities(x)
        return {name: float((seen[name].argmax(1) == value).float().mean()) for name, value in wanted.items()}

    def accuracy(self, part: Part) -> dict[str, float]:
        """The share of pictures that the judge reads rightly, for each attribute; they may be on any device."""
        device = self.params["head"]["w"].device
        return self.agreement(part.pixels.to(device) / 127.5 - 1, tree.to(part.attributes, device))


def config(sizes: dict[str, int], recipe: Recipe) -> cnn.Config:
    return cnn.Config(recipe.widths, channels=3 * recipe.fold**2, classes=sum(sizes.values()))


def reduced(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
    return F.adaptive_avg_pool2d(x, SIDE) if x.shape[-1] > SIDE else x


def seen(x: Float[Tensor, "b 3 h w"], recipe: Recipe) -> Float[Tensor, "b c h2 w2"]:
    """Pictures as the network is given them."""
    return F.pixel_unshuffle(reduced(x), recipe.fold)


def number_format(recipe: Recipe, device: torch.device) -> torch.dtype:
    return run.dtype(run.Args(), device) if recipe.half else torch.float32


def load(data: Pictures, device: torch.device) -> Judge:
    """The judge of a set that has attributes, on `device`: from the cache, or trained now, which takes two to four
    minutes on two CPU cores, and eleven where those have no bf16."""
    recipe = FACES if data.name == drawn.STYLE else OTHERS
    if min(data.train.pixels.shape[-1], SIDE) % recipe.fold:
        recipe = recipe._replace(fold=1)
    sizes = {name: max(len(data.names[name]), 2) for name in data.train.attributes}
    cfg = config(sizes, recipe)
    marks = [data.train.pixels, *data.train.attributes.values()]
    digest = hashlib.blake2b(repr((cfg, sizes, *recipe[1:6])).encode(), digest_size=8)
    for x in marks:
        digest.update(x.cpu().numpy().tobytes())
    if recipe != FACES:
        digest.update(repr((recipe[6:], number_format(recipe, device))).encode())
    name = f"{data.name}-{digest.hexdigest()}"
    path = cache_dir() / "judges" / f"{name}.safetensors"
    like = dict(zip(("params", "state"), cnn.init(random.key(0), cfg), strict=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # of a run's processes one trains
            try:
                found = checkpoint.load_tree(path, like, device)
            except CheckpointError:  # none, or a damaged one
                found = dict(zip(like, fit(random.key(0, device), data.train, sizes, device, recipe), strict=True))
                checkpoint.save_tree(path, found)
    except OSError as error:
        raise DataError(f"cannot keep the judge {path}: {error}") from error
    return Judge(name, found["params"], found["state"], sizes, recipe)


def fit(key: Key, part: Part, sizes: dict[str, int], device: torch.device, recipe: Recipe) -> tuple[Tree, Tree]:
    """(params, state) after `recipe.steps` steps of Adam on shifted pictures with normal noise. Trained on clean ones,
    the judge of faces took faint noise for glasses (LOG.md)."""
    cfg = config(sizes, recipe)
    k_init, k_train = random.split(key)
    params, state = cnn.init(k_init, cfg)
    adam = optim.adam(optim.cosine(recipe.lr, recipe.steps, recipe.steps // 20))
    dtype = number_format(recipe, device)

    def loss(params: Tree, state: Tree, x: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Tree]:
        params, x = tree.cast(params, dtype), seen(x, recipe).to(dtype)
        logits, state = cnn.apply(params, state, x, cfg=cfg, train=True)
        parts = zip(sizes, logits.float().split(list(sizes.values()), dim=1), strict=True)
        return sum((F.cross_entropy(one, labels[name]) for name, one in parts), torch.zeros(())), state

    opt = adam.init(params)
    order = batches.numbers(k_train, n=len(part.pixels), size=min(recipe.batch, len(part.pixels)))
    often = 0.1 if sys.stderr.isatty() else 10.0  # seconds, as of a run's own bar
    for n in tqdm(range(recipe.steps), desc="training the judge", unit="step", mininterval=often):
        index = next(order).cpu()
        # Shifted inverted, so that what comes in is white.
        k_shift, k_level, k_noise = random.split(random.fold_in(k_train, n), 3)
        moved = images.shifted(255 - part.pixels[index].to(device), k_shift, recipe.reach, recipe.edge)
        x = reduced(1 - moved / 127.5)
        level = random.uniform(k_level, (len(index), 1, 1, 1), 0.0, recipe.noise)
        x = x + level * random.normal(k_noise, tuple(x.shape))
        labels = {name: x[index].long().to(device) for name, x in part.attributes.items()}
        (_, state), grads = value_and_grad(loss, has_aux=True)(params, state, x, labels)
        params, opt = adam.update(grads, opt, params)
    return params, state


# ---- clothes: the features of an experiment's classifier ----


class Extractor(NamedTuple):
    name: str
    features: Callable[[Tensor], Tensor]  # of pictures in [-1, 1]
    classify: Callable[[Tensor], Tensor]


def clothes(path: Path | None, device: torch.device) -> Extractor:
    """The network of a finished run of exp_classifier_fashion, which is made first where there is none."""
    experiment = "exp_classifier_fashion"
    if path is None:
        try:
            path = runs.latest(experiment, finished=True)
        except RunError:
            if parallel.size() > 1:
                raise RunError(f"no finished run of {experiment}, whose features KID compares: make one") from None
            print(f"no finished run of {experiment}, whose features KID compares: making one first", file=sys.stderr)
            if subprocess.run([sys.executable, "-m", "experiments", experiment]).returncode:
                raise RunError(f"{experiment} did not finish; give a run of it as --extractor") from None
            path = runs.latest(experiment, finished=True)
    try:
        stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"--extractor {path} is not a run directory: {error}") from error
    if (stored.get("model"), stored.get("data"), stored.get("labels")) != ("cnn", "fashion", []):
        raise RunError(f"--extractor {path}: not a run of {experiment} with --model cnn on all of Fashion-MNIST")
    cfg = cnn.Config(tuple(stored["widths"]))
    like = dict(zip(("params", "model"), cnn.init(random.key(0), cfg), strict=True))
    params, state = (run.load(path, tree_like, name, device) for name, tree_like in like.items())

    def parts(fn: Callable, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([fn(params, state, part, cfg=cfg, train=False)[0] for part in x.split(500)])

    return Extractor(f"{experiment}/{path.name}", partial(parts, cnn.features), partial(parts, cnn.apply))
