"""The step of diffusion.py in JAX: the same U-Net under the same names, Optax's AdamW, one jitted step.

Needs the `jax` extra, as jaxes.py does, which also says how parameters and numbers are kept. A draw has the same key as
in the experiment, and so the same bits. The network is of one picture: c h w.
Axes: b batch, c channels, h height, w width, e numbers of the embedding.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from einops import rearrange, reduce, repeat
from jax import Array, random
from jaxtyping import Float, Int, Key, UInt8

from experiments.exp_diffusion_flowers import Args, TrainState
from lib.models import unet
from tests.bench.diffusion import DATA, Size, Sizes, weights
from tests.bench.jaxes import Attention, Trainer, cast, mlp, name, number_type, updated, with_weights
from tests.bench.jaxgans import of_convolutions
from tests.bench.jaxlanguage import cosine


class Block(eqx.Module):
    """Two convolutions around a group norm whose scale and shift the embedding gives, then attention, where it is."""

    norm_in: eqx.nn.GroupNorm
    conv_in: eqx.nn.Conv2d
    embed: eqx.nn.Linear
    norm_out: eqx.nn.GroupNorm
    conv_out: eqx.nn.Conv2d
    skip: eqx.nn.Conv2d | None
    norm_attn: eqx.nn.GroupNorm | None
    attn: Attention | None

    def __init__(self, size: Size, key: Key) -> None:
        c, f, e, heads = size
        self.norm_in = eqx.nn.GroupNorm(unet.GROUPS, c)
        self.conv_in = eqx.nn.Conv2d(c, f, 3, padding=1, key=key)
        self.embed = eqx.nn.Linear(e, 2 * f, key=key)
        self.norm_out = eqx.nn.GroupNorm(unet.GROUPS, f, channelwise_affine=False)
        self.conv_out = eqx.nn.Conv2d(f, f, 3, padding=1, key=key)
        self.skip = eqx.nn.Conv2d(c, f, 1, key=key) if c != f else None
        self.norm_attn = eqx.nn.GroupNorm(unet.GROUPS, f) if heads else None
        self.attn = Attention(size.attention, key) if heads else None

    def __call__(self, x: Float[Array, "c h w"], embedding: Float[Array, "e"]) -> Float[Array, "f h w"]:
        scale, shift = jnp.split(self.embed(embedding)[:, None, None], 2)
        h = self.norm_out(self.conv_in(jax.nn.silu(self.norm_in(x)))) * (1 + scale) + shift
        x = (x if self.skip is None else self.skip(x)) + self.conv_out(jax.nn.silu(h))
        if self.attn is None or self.norm_attn is None:
            return x
        h = rearrange(self.norm_attn(x), "f h w -> (h w) f")
        return x + rearrange(self.attn(h, h, None, None), "(h w) f -> f h w", h=x.shape[1])


class UNet(eqx.Module):
    """Called with a picture with noise, of a numbers' kind, and the label of its noise it gives what is predicted."""

    embed: eqx.nn.Sequential
    inward: eqx.nn.Conv2d
    down: list[list[Block]]
    middle: list[Block]
    up: list[list[Block]]
    narrow: list[eqx.nn.Conv2d]
    norm: eqx.nn.GroupNorm
    out: eqx.nn.Conv2d
    filter: eqx.nn.Conv2d
    gain: eqx.nn.Linear
    patch: int = eqx.field(static=True)

    def __init__(self, cfg: unet.Config, key: Key) -> None:
        sizes, first, e = Sizes.of(cfg), cfg.widths[0], cfg.embedding
        level = lambda blocks: [Block(size, key) for size in blocks]  # noqa: E731
        self.embed = mlp((unet.WAVES, e, e), jax.nn.silu, None, random.split(key))
        self.inward = eqx.nn.Conv2d(sizes.folded, first, 3, padding=1, key=key)
        self.down, self.middle, self.up = [*map(level, sizes.down)], level(sizes.middle), [*map(level, sizes.up)]
        self.narrow = [eqx.nn.Conv2d(c, f, 1, key=key) for c, f in sizes.narrow]
        self.norm = eqx.nn.GroupNorm(unet.GROUPS, first)
        self.out = eqx.nn.Conv2d(first, sizes.folded, 3, padding=1, key=key)
        self.filter = eqx.nn.Conv2d(sizes.folded, sizes.folded, 3, padding=1, key=key)
        self.gain = eqx.nn.Linear(e, sizes.folded, key=key)
        self.patch = cfg.patch

    def __call__(self, x: Float[Array, "c h w"], noise: Float[Array, ""]) -> Float[Array, "c h w"]:
        rate = np.geomspace(unet.SLOWEST, unet.FASTEST, unet.WAVES // 2, dtype=np.float32)
        waves = jnp.concatenate([jnp.cos(angle := 2 * math.pi * noise * rate), jnp.sin(angle)])
        embedding, kept = jax.nn.silu(self.embed(waves.astype(x.dtype))), []
        folded = rearrange(x, "c (h a) (w b) -> (c a b) h w", a=self.patch, b=self.patch)
        h = self.inward(folded)
        for i, blocks in enumerate(self.down):
            h = reduce(h, "c (h a) (w b) -> c h w", "mean", a=2, b=2) if i else h
            for block in blocks:
                h = block(h, embedding)
            kept.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for i, blocks in enumerate(self.up):
            h = repeat(self.narrow[i - 1](h), "c h w -> c (h a) (w b)", a=2, b=2) if i else h
            h = jnp.concatenate([h, kept.pop()])
            for block in blocks:
                h = block(h, embedding)
        h = self.out(jax.nn.silu(self.norm(h))) + self.filter(folded) * jnp.exp(self.gain(embedding))[:, None, None]
        return rearrange(h, "(c a b) h w -> c (h a) (w b)", a=self.patch, b=self.patch)


def loss(
    model: UNet, x: Float[Array, "b c h w"], sigma: Float[Array, "b"], noise: Float[Array, "b c h w"], dtype: Any
) -> Float[Array, ""]:
    """Mean squared error of what EDM's network predicts (Karras et al. 2022, equation 8)."""
    level = sigma[:, None, None, None]
    both, noisy = jnp.sqrt(level**2 + DATA**2), x + level * noise
    found = jax.vmap(cast(model, dtype))((noisy / both).astype(dtype), jnp.log(sigma) / 4)
    wanted = (x - (DATA / both) ** 2 * noisy) * both / (level * DATA)
    return jnp.square(found.astype(jnp.float32) - wanted).mean()


class State(NamedTuple):
    model: UNet
    opt: optax.OptState
    average: Any
    key: Key
    step: Int[Array, ""]


def matrices(model: Any) -> Any:
    """True for leaves that decay; Equinox's biases of convolutions have three axes."""
    return jax.tree_util.tree_map_with_path(lambda path, p: p.ndim >= 2 and name(path).endswith("weight"), model)


def trainer(start: TrainState, args: Args, dtype: torch.dtype) -> Trainer:
    """The step of diffusion.Trainer, from our state, with our draws."""
    rate = cosine(args.lr, args.steps, args.warmup)
    adamw = optax.adamw(rate, 0.9, 0.99, weight_decay=args.weight_decay, mask=matrices)
    optimizer = optax.chain(optax.clip_by_global_norm(args.clip), adamw) if args.clip else adamw

    def step(state: State, pixels: UInt8[Array, "n c h w"], index: Int[Array, "b"]) -> tuple[State, Float[Array, ""]]:
        k_level, k_noise, k_flip = random.split(random.fold_in(state.key, state.step), 3)
        x = pixels[index].astype(jnp.float32) / 127.5 - 1
        if args.flip:
            x = jnp.where(random.bernoulli(k_flip, 0.5, (len(x), 1, 1, 1)), x[..., ::-1], x)
        sigma = jnp.exp(math.log(args.noise[0]) + args.noise[1] * random.normal(k_level, (len(x),)))
        noise = random.normal(k_noise, x.shape)
        value, grads = eqx.filter_value_and_grad(loss)(state.model, x, sigma, noise, number_type(dtype))
        model, opt = updated(optimizer, grads, state.opt, state.model)
        decay = jnp.minimum(args.ema_decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(eqx.filter(model, eqx.is_array), state.average, 1 - decay)
        return State(model, opt, average, state.key, state.step + 1), value

    shapes = eqx.filter_eval_shape(UNet, args.network(), random.key(0))
    model = with_weights(shapes, of_convolutions(weights(start.params)))
    params = eqx.filter(model, eqx.is_array)
    key = random.wrap_key_data(jnp.array(start.key.cpu().numpy().view(np.uint32)))
    state = State(model, optimizer.init(params), jax.tree.map(jnp.copy, params), key, jnp.zeros((), jnp.int32))
    return Trainer(step, state)
