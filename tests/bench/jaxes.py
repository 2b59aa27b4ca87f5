"""The bench's peers in JAX: Equinox modules, Optax, one jitted step that donates its state.

The networks of modules.py and gans.py once more, under the same names, by which they take over those modules' weights,
so that the peers differ in framework only. Parameters are kept in fp32 and cast for forward and backward as ours are;
softmax, losses and batch statistics are fp32; dropout is drawn from JAX's default generator, Threefry, as ours.
Needs the `jax` extra, so it is imported where a JAX peer is made and nowhere else.
Axes: b rows, t target positions, s source positions, d model width, h heads, c channels, v vocabulary.
"""

import itertools
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax import Array, random
from jaxtyping import Bool, Float, Int, Key

from experiments.exp_transformer_fr import Args
from lib import transformer
from lib.data.packing import Batch
from lib.data.tokens import PAD
from lib.models.seq2seq import Config

# Read when JAX first looks for its devices: as many threads as torch has, and memory as it is needed.
os.environ["PJRT_NPROC"] = str(torch.get_num_threads())
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
jax.config.update("jax_enable_compilation_cache", False)  # every process compiles anew


def use(device: torch.device) -> None:
    """What follows happens on JAX's device of that kind. Raises RuntimeError where it has none."""
    jax.config.update("jax_default_device", jax.devices(device.type)[0])


def peak() -> float:
    """MiB that JAX had allocated on its GPU at most since the process began."""
    return jax.config.jax_default_device.memory_stats()["peak_bytes_in_use"] / 2**20


def arrays(tree: Any) -> Any:
    """torch's tensors as arrays of their own: never views, since a step may be given them to overwrite."""
    return jax.tree.map(lambda x: jnp.array(x.detach().cpu().numpy()), tree)


def name(path: tuple) -> str:
    """As nn.Module has it: the parts of its Sequential bear numbers only."""
    return jax.tree_util.keystr(path, simple=True, separator=".").replace("layers.", "")


def with_weights(shapes: Any, weights: dict[str, torch.Tensor]) -> Any:
    """The module of `eqx.filter_eval_shape` with the weights of an nn.Module whose parts have the same names."""

    def leaf(path: tuple, x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        w = weights[name(path)]
        if w.shape != x.shape:
            raise ValueError(f"{name(path)} has the shape {tuple(w.shape)} in the nn.Module and {x.shape} here")
        return arrays(w)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def number_type(dtype: torch.dtype) -> Any:
    return jnp.bfloat16 if dtype == torch.bfloat16 else jnp.float32


class Trainer:
    """Applies the jitted `step(state, *args) -> (state, out)` again and again; the state is donated."""

    def __init__(self, step: Callable, state: Any) -> None:
        self.arrays, self.static = eqx.partition(state, eqx.is_array)

        def update(arrays: Any, *args: Any) -> tuple[Any, Any]:
            state, out = step(eqx.combine(arrays, self.static), *args)
            return eqx.filter(state, eqx.is_array), out

        self.update = jax.jit(update, donate_argnums=0)

    def step(self, *args: Any) -> tuple[Any, Any]:
        """(state's arrays, what else the step gives): whoever measures waits until all of it is there."""
        self.arrays, out = self.update(self.arrays, *args)
        return self.arrays, out

    @property
    def state(self) -> Any:
        return eqx.combine(self.arrays, self.static)


def updated(optimizer: optax.GradientTransformation, grads: Any, opt: Any, model: Any) -> tuple[Any, Any]:
    updates, opt = optimizer.update(grads, opt, eqx.filter(model, eqx.is_array))
    return eqx.apply_updates(model, updates), opt


def mlp(widths: tuple[int, ...], activation: Callable, dropout: float | None, keys: Any) -> eqx.nn.Sequential:
    """Linear layers with an activation and then dropout after each but the last, numbered as in the nn.Sequentials:
    dropout counts as a part unless it is None."""
    parts: list = []
    for (d, f), key in zip(itertools.pairwise(widths), keys, strict=True):
        after = [eqx.nn.Lambda(activation), *([] if dropout is None else [eqx.nn.Dropout(dropout)])]
        parts += [eqx.nn.Linear(d, f, key=key), *after]
    return eqx.nn.Sequential(parts[: -len(after)])


# ---- translation: modules.py in JAX ----


class Attention(eqx.Module):
    """Multi-head attention without biases, of one row."""

    q: eqx.nn.Linear
    k: eqx.nn.Linear
    v: eqx.nn.Linear
    out: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    heads: int = eqx.field(static=True)

    def __init__(self, cfg: transformer.Config, key: Key) -> None:
        linear = partial(eqx.nn.Linear, cfg.width, cfg.width, use_bias=False)
        self.q, self.k, self.v, self.out = (linear(key=k) for k in random.split(key, 4))
        self.dropout, self.heads = eqx.nn.Dropout(cfg.dropout), cfg.heads

    def __call__(
        self, x: Float[Array, "t d"], memory: Float[Array, "s d"], mask: Bool[Array, "t s"] | None, key: Key | None
    ) -> Float[Array, "t d"]:
        q, k, v = (
            jax.vmap(f)(y).reshape(len(y), self.heads, -1) for f, y in ((self.q, x), (self.k, memory), (self.v, memory))
        )
        scores = jnp.einsum("thc,shc->hts", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
        scores = scores if mask is None else jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        w = jax.nn.softmax(scores).astype(v.dtype)
        y = jnp.einsum("hts,shc->thc", self.dropout(w, key=key), v)
        return jax.vmap(self.out)(y.reshape(x.shape))


def norm(cfg: transformer.Config) -> eqx.Module:
    return eqx.nn.LayerNorm(cfg.width) if cfg.norm == "layer" else eqx.nn.RMSNorm(cfg.width, 1e-6, use_bias=False)


class Block(eqx.Module):
    """A pre-norm block; with `cross` it also attends to the encoder's output."""

    norm_attn: eqx.Module
    attn: Attention
    norm_cross: eqx.Module | None
    cross: Attention | None
    norm_ff: eqx.Module
    ff: eqx.nn.Sequential
    dropout: eqx.nn.Dropout

    def __init__(self, cfg: transformer.Config, cross: bool, key: Key) -> None:
        k_attn, k_cross, k_ff = random.split(key, 3)
        self.norm_attn, self.attn, self.norm_ff = norm(cfg), Attention(cfg, k_attn), norm(cfg)
        self.norm_cross, self.cross = (norm(cfg), Attention(cfg, k_cross)) if cross else (None, None)
        self.ff = mlp((cfg.width, cfg.ff, cfg.width), jax.nn.relu, cfg.dropout, random.split(k_ff))
        self.dropout = eqx.nn.Dropout(cfg.dropout)

    def __call__(
        self, x: Float[Array, "t d"], mask: Array, memory: Array | None = None, memory_mask: Any = None, *, key: Key
    ) -> Float[Array, "t d"]:
        keys = random.split(key, 6)
        h = jax.vmap(self.norm_attn)(x)
        x = x + self.dropout(self.attn(h, h, mask, keys[0]), key=keys[1])
        if self.cross is not None:
            h = jax.vmap(self.norm_cross)(x)
            x = x + self.dropout(self.cross(h, memory, memory_mask, keys[2]), key=keys[3])
        h = jax.vmap(self.norm_ff)(x)
        h = jax.vmap(self.ff)(h, key=random.split(keys[4], len(h)))
        return x + self.dropout(h, key=keys[5])


class Transformer(eqx.Module):
    """Encoder and decoder with three untied tables; called with one packed row it gives the logits."""

    source: eqx.nn.Embedding
    target: eqx.nn.Embedding
    encoder: list[Block]
    decoder: list[Block]
    encoder_norm: eqx.Module
    decoder_norm: eqx.Module
    head: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, cfg: Config, key: Key) -> None:
        k_source, k_target, k_head, k_encoder, k_decoder = random.split(key, 5)
        block, d = cfg.block, cfg.block.width
        self.source = eqx.nn.Embedding(cfg.source_vocabulary, d, key=k_source)
        self.target = eqx.nn.Embedding(cfg.target_vocabulary, d, key=k_target)
        self.encoder = [Block(block, False, k) for k in random.split(k_encoder, cfg.encoder_layers)]
        self.decoder = [Block(block, True, k) for k in random.split(k_decoder, cfg.decoder_layers)]
        self.encoder_norm, self.decoder_norm = norm(block), norm(block)
        self.head = eqx.nn.Linear(d, cfg.target_vocabulary, use_bias=False, key=k_head)
        self.dropout = eqx.nn.Dropout(block.dropout)

    def embed(self, table: eqx.nn.Embedding, ids: Array, position: Array, key: Key) -> Float[Array, "t d"]:
        d = table.embedding_size
        angle = np.arange(len(ids))[:, None] / 10000 ** (np.arange(0, d, 2) / d)
        waves = jnp.array(np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(len(ids), d), table.weight.dtype)
        return self.dropout(jax.vmap(table)(ids) * math.sqrt(d) + waves[position], key=key)

    def __call__(self, row: Batch, key: Key) -> Float[Array, "t v"]:
        keys = iter(random.split(key, 2 + len(self.encoder) + len(self.decoder)))
        same = lambda a, b: a[:, None] == b[None, :]  # noqa: E731
        x = self.embed(self.source, row.source, row.source_position, next(keys))
        for block in self.encoder:
            x = block(x, same(row.source_segment, row.source_segment), key=next(keys))
        memory = jax.vmap(self.encoder_norm)(x)
        x = self.embed(self.target, row.target_in, row.target_position, next(keys))
        mask = jnp.tril(same(row.target_segment, row.target_segment))
        for block in self.decoder:
            x = block(x, mask, memory, same(row.target_segment, row.source_segment), key=next(keys))
        return jax.vmap(self.head)(jax.vmap(self.decoder_norm)(x))


def translation_loss(model: Transformer, batch: Batch, key: Key, dtype: Any, smoothing: float) -> Float[Array, ""]:
    """Mean cross-entropy per target token in nats, with label smoothing."""
    logits = jax.vmap(cast(model, dtype))(batch, random.split(key, len(batch.source))).astype(jnp.float32)
    total, label = jax.nn.logsumexp(logits, axis=-1), batch.target_out
    wanted = jnp.take_along_axis(logits, label[..., None], axis=-1)[..., 0]
    loss = total - (1 - smoothing) * wanted - smoothing * logits.mean(axis=-1)
    return loss.sum(where=label != PAD) / (label != PAD).sum()


class State(NamedTuple):
    model: Transformer
    opt: optax.OptState
    key: Key
    step: Int[Array, ""]


def translation(module: torch.nn.Module, cfg: Config, args: Args, dtype: torch.dtype) -> Trainer:
    """The step of modules.Trainer, from the weights of its module. `args` is the experiment's, with its inverse_sqrt
    schedule."""

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        n = (step + 1).astype(jnp.float32)
        return args.lr * args.width**-0.5 * jnp.minimum(n**-0.5, n * args.warmup**-1.5)

    matrices = partial(jax.tree.map, lambda p: p.ndim >= 2)
    adamw = optax.adamw(rate, 0.9, 0.98, 1e-9, weight_decay=args.weight_decay, mask=matrices)
    optimizer = optax.chain(optax.clip_by_global_norm(args.clip), adamw) if args.clip else adamw

    def step(state: State, batch: Batch) -> tuple[State, Float[Array, ""]]:
        key = random.fold_in(state.key, state.step)
        grad = eqx.filter_value_and_grad(translation_loss)
        loss, grads = grad(state.model, batch, key, number_type(dtype), args.smoothing)
        model, opt = updated(optimizer, grads, state.opt, state.model)
        return State(model, opt, state.key, state.step + 1), loss

    model = with_weights(eqx.filter_eval_shape(Transformer, cfg, random.key(0)), module.state_dict())
    opt = optimizer.init(eqx.filter(model, eqx.is_array))
    return Trainer(step, State(model, opt, random.key(args.seed), jnp.zeros((), jnp.int32)))
