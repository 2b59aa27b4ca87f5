"""Flowers by request: a diffusion Transformer that draws what a sentence says, first small, then refined (Peebles & Xie
2023; Ramesh et al. 2022; Saharia et al. 2022).

What it shows: words and a picture meet in cross-attention; guidance makes the words weigh more; combinations that no
training picture had can be asked for. The flowers are drawn by a renderer, so that every word can be checked.
"""

import functools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from lib import diagnose, diffusion, muon, nn, optim, parallel, plot, random, run, transformer, tree
from lib.data import batches, captioned, captions
from lib.data.scenes import SCENES
from lib.faults import RunError
from lib.models import bert, dit, minilm, unet
from lib.random import Key
from lib.tasks import generated, obedience, reader
from lib.tasks.judge import Judge
from lib.tasks.paint import Use, answers
from lib.tasks.painter import Painter
from lib.transform import value_and_grad
from lib.tree import Tree

NAME = Path(__file__).stem


class Networks(NamedTuple):
    words: transformer.Config
    base: dit.Config
    refiner: unet.Config


@dataclass(frozen=True)
class Args(run.Args):
    """Train a diffusion Transformer to draw what captions say, and a U-Net that refines it."""

    data: str = "default"
    """default (drawn flowers), pairs (two of them and how they stand), faces (drawn), flowers102 (Oxford's with ten
    sentences each, under --data-dir) or a folder of pictures with captions.tsv."""
    pictures: run.Count = 10_000
    """Drawn pictures to train on."""
    flip: bool = True
    """Train on mirrored pictures as well, but of pairs; --no-flip where sentences of your own tell left from right."""
    small: run.Count = 32
    """Pixels of a side of what the Transformer draws; the U-Net makes it twice as large."""
    fine: run.Count = 48
    """Channels of the convolutions around the Transformer, whose positions are four pixels a side."""
    width: run.Count = 128
    """Width of the Transformer and of the words."""
    heads: run.Count = 4
    """Heads of attention."""
    blocks: run.Count = 4
    """Blocks of the Transformer."""
    noise: tuple[run.Amount, run.Amount] = (1.0, 1.4)
    """Median of the Transformer's noise levels and standard deviation of their logarithm."""
    widths: tuple[run.Count, ...] = (32, 64, 64)
    """Channels of each level of the U-Net."""
    refined: run.Count = 4
    """The U-Net learns from one in so many pictures of a batch."""
    drop: run.Fraction = 0.1
    """Share of pictures whose sentence is left out, so that drawing can be guided by the difference it makes."""
    text: Literal["own", "minilm"] = "own"
    """Who reads the sentences. own: an encoder that is trained along and knows the words of the captions; minilm: the
    released all-MiniLM-L6-v2, frozen, which knows most words that there are."""
    length: run.Count = 32
    """Words of a sentence at most, or pieces of words of MiniLM's, the start included."""
    batch: run.Count = 32
    """Pictures of a batch."""
    lr: run.Amount = 2e-3
    """Peak learning rate of AdamW."""
    muon_lr: run.Amount = 5e-3
    """Peak learning rate of Muon, which has the matrices of the blocks; 0: AdamW has them too."""
    warmup: run.Natural = 50
    """Steps in which the learning rate rises, before it falls by half a cosine."""
    weight_decay: run.Amount = 0.01
    """Weight decay of matrices."""
    clip: run.Amount = 1.0
    """Largest global gradient norm; 0: no clipping."""
    ema_decay: run.Fraction = 0.995
    """Decay of the averaged parameters that are used."""
    guidance: run.Free[run.Amount] = 2.0
    """How many times the difference that words make is taken in the final scores."""
    prompts: run.Free[run.Count] = 200
    """Sentences of each kind that are drawn for the final scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.networks()
        if not min(self.noise):
            raise ValueError("--noise: both numbers must be above 0")
        if self.text == "minilm" and self.length > minilm.MINILM.context:
            raise ValueError(f"--length {self.length} is more than the {minilm.MINILM.context} of MiniLM")
        if not self.drop and self.guidance != 1:
            raise ValueError("--drop 0 leaves nothing to guide by: --guidance 1 goes with it")
        if self.prompts < 2:
            raise ValueError("--prompts 1: each is compared with another")

    def mirrors(self) -> bool:
        return self.flip and (self.data not in SCENES or SCENES[self.data].mirrored)

    def networks(self) -> Networks:
        """Raises ValueError for sizes and widths that cannot be."""
        of_words = transformer.Config(
            width=self.width, heads=self.heads, ff=4 * self.width, position="learned", activation="gelu"
        )
        base = dit.Config(self.small, self.fine, 1, self.width, self.heads, self.blocks, self.width)
        fine = unet.Config(2 * self.small, self.widths, attention=0, labels=unet.WAVES, given=3)
        return Networks(of_words, base, fine)


PRESETS: dict[str, run.Args] = {
    "small": Args(steps=2500, compile="off", eval_every=500, save_every=500),
    "best": Args(
        steps=40_000, pictures=50_000, fine=96, width=384, heads=6, blocks=12, widths=(64, 128, 256), batch=128,
        lr=1e-3, muon_lr=3e-3, warmup=1000, ema_decay=0.999, prompts=2000, log_every=100, eval_every=5000,
        save_every=5000,
    ),
}  # fmt: skip

WORDS = "words.json"
MATRICES = r"blocks.*(w_[qkvo]|ff\.(in|out)\.w)|(down|middle|up).*(conv_in\.w|conv_out\.w|skip\.w|embed\.w)"
AUGMENTED = 0.3  # most noise on the small picture that the U-Net is given
FINE = 0.3, 1.4  # median of the U-Net's noise levels and standard deviation of their logarithm


class TrainState(NamedTuple):
    params: Tree
    opt: Tree
    ema: Tree
    key: Key
    step: Int[Tensor, ""]


def optimizer(args: Args, dtype: torch.dtype = torch.float32) -> tuple[optim.Optimizer, optim.Schedule]:
    """`dtype`: of Muon's matrix products."""
    rate = optim.cosine(args.lr, args.steps, args.warmup)
    adam = optim.adamw(rate, (0.9, 0.99), 1e-8, args.weight_decay, optim.matrices)
    if not args.muon_lr:
        return parallel.shard_optimizer(adam, args.shard_optimizer), rate
    schedule = optim.cosine(args.muon_lr, args.steps, args.warmup)
    return muon.partition(MATRICES, muon.muon(schedule, args.weight_decay, dtype=dtype), adam), rate


def init_state(key: Key, args: Args, vocabulary: int) -> TrainState:
    k_text, k_base, k_refiner, k_train = random.split(key, 4)
    nets = args.networks()
    params = {
        "text": nn.linear_init(k_text, minilm.MINILM.block.width, args.width)
        if args.text == "minilm"
        else dit.text_init(k_text, vocabulary, args.length, nets.words),
        "base": dit.init(k_base, nets.base),
        "refiner": unet.init(k_refiner, nets.refiner),
    }
    step = torch.zeros((), dtype=torch.int32, device=key.device)
    return TrainState(params, optimizer(args)[0].init(params), tree.map(torch.clone, params), k_train, step)


def sentences(
    params: Tree, frozen: Tree, ids: Int[Tensor, "b l"], args: Args
) -> tuple[Float[Tensor, "b l e"], Bool[Tensor, "b l"]]:
    """Features of their words, and where there are any."""
    p, mask = params["text"], ids != captions.PAD
    if args.text == "own":
        return dit.text(p, ids, mask, cfg=args.networks().words), mask
    found = bert.features(frozen, ids, mask, cfg=minilm.MINILM)
    return nn.linear(p, F.layer_norm(found, found.shape[-1:]).to(p["w"].dtype)), mask


def base(params: Tree, frozen: Tree, ids: Int[Tensor, "b l"], args: Args) -> diffusion.Network:
    """Of small pictures, told a sentence each. `frozen`: MiniLM's parameters, where it reads."""
    words, mask = sentences(params, frozen, ids, args)
    return lambda x, label: dit.apply(params["base"], x, label, words, mask, cfg=args.networks().base)[0]


def refiner(
    params: Tree,
    small: Float[Tensor, "b 3 s s"],
    noise: Float[Tensor, "b 3 s s"],
    level: Float[Tensor, "b"],
    args: Args,
) -> diffusion.Network:
    """Of large pictures, given the small ones with so much noise (Ho et al. 2022, "Cascaded diffusion models")."""
    given = F.interpolate(small + level[:, None, None, None] * noise, scale_factor=2, mode="bilinear")
    return partial(unet.apply, params["refiner"], label=unet.waves(level), given=given, cfg=args.networks().refiner)


def step(
    state: TrainState,
    index: Int[Tensor, "b"],
    data: UInt8[Tensor, "n 3 s s"],
    texts: Int[Tensor, "n ways l"],
    frozen: Tree,
    *,
    args: Args,
    dtype: torch.dtype,
) -> tuple[TrainState, dict[str, Tensor]]:
    """One update of all three networks on pictures `index`, each under one of its sentences."""
    k_way, k_drop, k_flip, k_level, k_noise, k_fine, k_finer, k_given, k_on_given = random.split(
        random.fold_in(state.key, state.step), 9
    )
    x, n = data[index] / 127.5 - 1, len(index)
    if args.mirrors():
        x = torch.where(random.bernoulli(k_flip, 0.5, (n, 1, 1, 1)), x.flip(-1), x)
    ids = texts[index, random.randint(k_way, (n,), 0, texts.shape[1]).long()]
    dropped = random.bernoulli(k_drop, args.drop, (n, 1)) & (torch.arange(ids.shape[1], device=ids.device) > 0)
    ids = torch.where(dropped, captions.PAD, ids)
    small = F.avg_pool2d(x, 2)
    sigma = diffusion.lognormal(k_level, n, math.log(args.noise[0]), args.noise[1])
    noise = random.normal(k_noise, tuple(small.shape))
    some, given = x[:: args.refined], small[:: args.refined]
    m = len(some)
    fine = diffusion.lognormal(k_fine, m, math.log(FINE[0]), FINE[1])
    finer = random.normal(k_finer, tuple(some.shape))
    level, on_given = random.uniform(k_given, (m,), 0.0, AUGMENTED), random.normal(k_on_given, tuple(given.shape))

    def objective(params: Tree) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        params = tree.cast(params, dtype)
        drawn = diffusion.loss(base(params, frozen, ids, args), diffusion.edm, small, sigma, noise).mean()
        enlarge = refiner(params, given, on_given, level, args)
        refined = diffusion.loss(enlarge, diffusion.edm, some, fine, finer).mean()
        return drawn + refined, (drawn, refined)

    (value, parts), grads = value_and_grad(objective, has_aux=True)(state.params)
    value, parts, grads = parallel.mean((value, parts, grads))
    grads, norm = optim.clip(grads, args.clip)
    opt, rate = optimizer(args, dtype)
    params, opt_state = opt.update(grads, state.opt, state.params)
    ema = optim.ema(state.ema, params, args.ema_decay, state.step)
    out = {"train/loss": value, "train/base": parts[0], "train/refiner": parts[1]}
    out |= {"grad/norm": norm, "train/lr": rate(state.step)}
    return TrainState(params, opt_state, ema, state.key, state.step + 1), out


# ---- training: plumbing ----


def reading(args: Args, vocabulary: list[str]) -> tuple[Tree, reader.Reader]:
    """Frozen parameters, where there are any, and how sentences are read."""
    if args.text == "own":
        return {}, reader.own(vocabulary, args.length)
    frozen, tokenizer = minilm.load(args.data_dir)
    return frozen, reader.pieces(tokenizer, args.length)


def painter(
    params: Tree, frozen: Tree, read: reader.Reader, args: Args, dtype: torch.dtype, device: torch.device
) -> Painter:
    params, frozen, scene = tree.cast(params, dtype), tree.cast(frozen, dtype), SCENES.get(args.data)

    def heeded(x: Tensor, label: Tensor, ids: Tensor) -> Float[Tensor, "n l h w"]:
        """The mean over heads and blocks."""
        nets, (words, mask) = args.networks(), sentences(params, frozen, ids, args)
        _, seen = dit.apply(params["base"], x, label, words, mask, cfg=nets.base, weights=True)
        return rearrange(torch.stack(seen).mean((0, 2)).float(), "n (h w) l -> n l h w", h=nets.base.side)

    return Painter(
        partial(base, params, frozen, args=args), partial(refiner, params, args=args), heeded, read, args.small, device,
        functools.cache(partial(captioned.held_out, args.data, args.data_dir, 2 * args.small, args.pictures)), scene,
    )  # fmt: skip


def train(args: Args) -> None:
    if args.shard_optimizer and args.muon_lr:
        raise RunError("--shard-optimizer cuts matrices, which Muon needs whole: leave it out, or --muon-lr 0")
    if args.batch % (args.refined * parallel.size()):
        raise RunError(f"--batch {args.batch} must be a multiple of --refined times the number of processes")
    found = captioned.load(args.data, args.data_dir, 2 * args.small, args.pictures)
    splits, scene = found.pictures, found.scene
    if len(splits.train.pixels) < args.batch:
        raise RunError(f"{len(splits.train.pixels)} training examples are fewer than a batch of {args.batch}")
    vocabulary = captioned.vocabulary(found)
    frozen, read = reading(args, vocabulary)
    ids = captioned.encoded(found, read.encode, read.known, args.prompts)
    extractor = generated.judge_of(splits, run.device(args))  # which has seen all combinations
    here = run.Run(args, NAME, Path(__file__), unit="images", minimise="val/missed")
    here.once(lambda: run.write_json(here.path / WORDS, vocabulary))
    data, ids, frozen = splits.train.pixels.to(here.device), ids.to(here.device), tree.to(frozen, here.device)
    print(f"{len(data):,} training pictures of {splits.name}, read by {args.text}; {here.device}, {here.dtype}")
    if scene:
        print("the judge's accuracy on held-out pictures", *generated.readings(extractor, splits.test), sep="\n")
    state = here.start(init_state, vocabulary=len(vocabulary))
    print(tree.table(state.params, depth=1))
    update = here.compile(step, dtype=here.dtype)
    order = here.batches(partial(batches.numbers, n=len(data), size=args.batch))
    model = lambda s: painter(s.ema, frozen, read, args, here.dtype, here.device)  # noqa: E731

    for n in here.progress():
        index = next(order)
        state, out = update(state, index, data, ids, frozen)
        here.record(n, state, out, units=index.numel())
        if here.due(n, args.eval_every):
            for one, s in here.each(state):
                scores, x = obedience.watched(model(s), extractor, found, args.guidance)
                one.log(n + 1, {f"obeyed/{name}": share for name, share in scores.items()})
                one.log(n + 1, {"val/missed": 1 - sum(scores.values()) / len(scores)})
                one.writer.add_image("samples/grid", plot.tile(x[:32] / 2 + 0.5, 8), n + 1)
                one.write(f"step {n + 1}: obeyed {obedience.told(scores)}")
        for one, before, after, i in here.diagnosed(n, state, index):
            k_level, k_noise = random.split(here.show_key)
            x = F.avg_pool2d(data[i] / 127.5 - 1, 2)
            sigma = diffusion.lognormal(k_level, len(i), math.log(args.noise[0]), args.noise[1])
            examples = x, ids[i, 0], sigma, random.normal(k_noise, tuple(x.shape))
            worst = diagnose.report(
                one, n + 1, before, after, {"params": partial(plain, frozen=frozen, args=args)}, examples
            )[:32]
            one.writer.add_image("diagnose/surprising", plot.tile(data[i][worst] / 255, 8), n + 1)
    if not here.evaluates(state):
        return
    results = [evaluate(one, model(s), extractor, found, args) for one, s in here.each(state)]
    here.finish(results, f'--text "{scene.example}"' if scene else "")


def plain(params: Tree, examples: tuple[Tensor, Tensor, Tensor, Tensor], *, frozen: Tree, args: Args) -> Tensor:
    """The Transformer's loss in fp32 on (small pictures, sentences, levels, noise)."""
    x, ids, sigma, noise = examples
    return diffusion.loss(base(params, frozen, ids, args), diffusion.edm, x, sigma, noise).mean()


def evaluate(
    here: run.Place, model: Painter, extractor: Judge, found: captioned.Captioned, args: Args
) -> tuple[dict[str, float], list[str]]:
    """How much of what sentences say is drawn, and what of other sentences; a sheet of pictures and what each is of."""
    scores, lines, texts, x = obedience.report(model, extractor, found, args.prompts, args.guidance, args.mirrors())
    plot.save(plot.captioned(x[:16] / 2 + 0.5, texts[:16]), here.path / "samples.png")
    return scores, lines


# ---- using a run ----


def load(path: Path, args: Args) -> Painter:
    device, vocabulary = run.device(run.Args()), run.read_json(path / WORDS)
    frozen, read = reading(args, vocabulary)
    params = run.load(path, init_state(random.key(0), args, len(vocabulary)).params, "ema", device)
    return painter(params, tree.to(frozen, device), read, args, run.dtype(args, device), device)


if __name__ == "__main__":
    run.main(NAME, PRESETS, train, load, answers, Use)
