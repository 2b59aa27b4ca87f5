"""The language models' steps of language.py in JAX: the same models under the same names, Optax, one jitted step.

Needs the `jax` extra, as jaxes.py does, which also says how parameters and numbers are kept.
Axes: b rows, t positions, d model width, h heads, g the four gates' features, v vocabulary.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import torch
from jax import Array, random
from jaxtyping import Float, Int, Key

from experiments import exp_gpt_hemingway, exp_lstm_novel
from lib.models.gpt import Config
from tests.bench import language
from tests.bench.jaxes import Trainer, arrays, cast, mlp, number_type, updated, with_weights

Carry = tuple[Array, ...]  # nothing of a GPT; h and c of an LSTM, each (b, layers, d)


class Attention(eqx.Module):
    """Causal multi-head attention of one row; one map makes queries, keys and values."""

    qkv: eqx.nn.Linear
    out: eqx.nn.Linear
    heads: int = eqx.field(static=True)
    kernel: str | None = eqx.field(static=True)

    def __init__(self, d: int, heads: int, kernel: str | None, key: Key) -> None:
        self.qkv, self.out = eqx.nn.Linear(d, 3 * d, key=key), eqx.nn.Linear(d, d, key=key)
        self.heads, self.kernel = heads, kernel

    def __call__(self, x: Float[Array, "t d"]) -> Float[Array, "t d"]:
        q, k, v = (y.reshape(len(x), self.heads, -1) for y in jnp.split(jax.vmap(self.qkv)(x), 3, axis=-1))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=self.kernel)
        return jax.vmap(self.out)(y.reshape(x.shape))


class Block(eqx.Module):
    norm_attn: eqx.nn.LayerNorm
    attn: Attention
    norm_ff: eqx.nn.LayerNorm
    ff: eqx.nn.Sequential

    def __init__(self, d: int, heads: int, ff: int, kernel: str | None, key: Key) -> None:
        self.norm_attn, self.norm_ff = eqx.nn.LayerNorm(d), eqx.nn.LayerNorm(d)
        self.attn = Attention(d, heads, kernel, key)
        self.ff = mlp((d, ff, d), partial(jax.nn.gelu, approximate=False), None, random.split(key))

    def __call__(self, x: Float[Array, "t d"]) -> Float[Array, "t d"]:
        x = x + self.attn(jax.vmap(self.norm_attn)(x))
        return x + jax.vmap(self.ff)(jax.vmap(self.norm_ff)(x))


class Gpt(eqx.Module):
    """Called with a batch it gives the logits, by the table of embeddings once more."""

    tokens: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    blocks: list[Block]
    norm: eqx.nn.LayerNorm

    def __init__(self, cfg: Config, kernel: str | None, key: Key) -> None:
        block, d = cfg.block, cfg.block.width
        self.tokens = eqx.nn.Embedding(cfg.vocabulary, d, key=key)
        self.positions = eqx.nn.Embedding(cfg.context, d, key=key)
        self.blocks = [Block(d, block.heads, block.ff, kernel, key) for _ in range(cfg.layers)]
        self.norm = eqx.nn.LayerNorm(d)

    def __call__(self, ids: Int[Array, "b t"], carry: Carry, key: Key) -> tuple[Float[Array, "b t v"], Carry]:
        del key  # no dropout

        def row(ids: Int[Array, "t"]) -> Float[Array, "t v"]:
            x = jax.vmap(self.tokens)(ids) + self.positions.weight[: len(ids)]
            for block in self.blocks:
                x = block(x)
            return jax.vmap(self.norm)(x) @ self.tokens.weight.T

        return jax.vmap(row)(ids), carry


class LstmLayer(eqx.Module):
    """As nn.LSTM's, with one bias. What the inputs give is computed for all positions at once, before the scan."""

    weight_ih: Float[Array, "g d"]
    weight_hh: Float[Array, "g h"]
    bias_ih: Float[Array, "g"]

    def __init__(self, d: int, h: int) -> None:
        self.weight_ih, self.weight_hh, self.bias_ih = jnp.zeros((4 * h, d)), jnp.zeros((4 * h, h)), jnp.zeros(4 * h)

    def __call__(
        self, x: Float[Array, "b t d"], start: tuple[Float[Array, "b h"], Float[Array, "b h"]]
    ) -> tuple[Float[Array, "b t h"], tuple[Float[Array, "b h"], Float[Array, "b h"]]]:
        def cell(state: tuple[Array, Array], given: Float[Array, "b g"]) -> tuple[tuple[Array, Array], Array]:
            h, c = state
            i, f, new, o = jnp.split(given + h @ self.weight_hh.T, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(new)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        given = x.swapaxes(0, 1) @ self.weight_ih.T + self.bias_ih
        end, shown = jax.lax.scan(cell, start, given)
        return shown.swapaxes(0, 1), end


class Lstm(eqx.Module):
    embedding: eqx.nn.Embedding
    lstm: list[LstmLayer]
    head: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, args: exp_lstm_novel.Args, key: Key) -> None:
        self.embedding = eqx.nn.Embedding(args.vocabulary, args.embedding, key=key)
        self.lstm = [LstmLayer(args.hidden if i else args.embedding, args.hidden) for i in range(args.layers)]
        self.head, self.dropout = eqx.nn.Linear(args.hidden, args.vocabulary, key=key), eqx.nn.Dropout(args.dropout)

    def __call__(self, ids: Int[Array, "b t"], carry: Carry, key: Key) -> tuple[Float[Array, "b t v"], Carry]:
        x, ends = self.embedding.weight[ids], []
        keys = random.split(key, len(self.lstm) + 1)
        for i, layer in enumerate(self.lstm):
            x, end = layer(self.dropout(x, key=keys[i]), tuple(part[:, i].astype(x.dtype) for part in carry))
            ends.append(end)
        carry = tuple(jnp.stack(parts, axis=1).astype(jnp.float32) for parts in zip(*ends, strict=True))
        return self.dropout(x, key=keys[-1]) @ self.head.weight.T + self.head.bias, carry


def loss(model: Any, window: Int[Array, "b t_plus_1"], carry: Carry, key: Key, dtype: Any) -> tuple[Array, Carry]:
    """Mean cross-entropy per token in nats, and what is carried to the next window."""
    logits, carry = cast(model, dtype)(window[:, :-1], carry, key)
    each = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), window[:, 1:])
    return each.mean(), carry


class State(NamedTuple):
    model: Any
    opt: optax.OptState
    carry: Carry
    key: Key
    step: Int[Array, ""]


def trainer(model: Any, adam: optax.GradientTransformation, args: Any, carry: Carry, dtype: torch.dtype) -> Trainer:
    optimizer = optax.chain(optax.clip_by_global_norm(args.clip), adam) if args.clip else adam

    def step(state: State, window: Int[Array, "b t_plus_1"]) -> tuple[State, Float[Array, ""]]:
        key, grad = random.fold_in(state.key, state.step), eqx.filter_value_and_grad(loss, has_aux=True)
        (value, carry), grads = grad(state.model, window, state.carry, key, number_type(dtype))
        model, opt = updated(optimizer, grads, state.opt, state.model)
        return State(model, opt, carry, state.key, state.step + 1), value

    opt = optimizer.init(eqx.filter(model, eqx.is_array))
    return Trainer(step, State(model, opt, carry, random.key(args.seed), jnp.zeros((), jnp.int32)))


def warmed_up(peak: float, warmup: int, after: Callable) -> Callable:
    """A schedule: linear to `peak`, then peak * after(step)."""
    return lambda step: peak * jnp.where(step < warmup, (step + 1) / max(1, warmup), after(step))


def cosine(peak: float, steps: int, warmup: int) -> Callable:
    """A schedule: linear to `peak`, then half a cosine to 0."""
    done = lambda n: jnp.clip((n - warmup) / (steps - warmup), 0.0, 1.0)  # noqa: E731
    return warmed_up(peak, warmup, lambda n: 0.5 * (1 + jnp.cos(jnp.pi * done(n))))


def gpt(module: language.Gpt, cfg: Config, args: exp_gpt_hemingway.Args, dtype: torch.dtype) -> Trainer:
    """The step of `language.gpt_trainer`, from the weights of its module."""
    rate = warmed_up(args.lr, args.warmup, lambda n: jnp.maximum(0.0, (args.steps - n) / (args.steps - args.warmup)))
    matrices = partial(jax.tree.map, lambda p: p.ndim >= 2)
    adamw = optax.adamw(rate, 0.9, 0.95, weight_decay=args.weight_decay, mask=matrices)
    # By default XLA's own products and softmax, which keep every score: too much for long rows.
    kernel = "cudnn" if module.tokens.weight.is_cuda and dtype == torch.bfloat16 else None
    shapes = eqx.filter_eval_shape(Gpt, cfg, kernel, random.key(0))
    return trainer(with_weights(shapes, module.state_dict()), adamw, args, (), dtype)


def lstm(module: language.Lstm, args: exp_lstm_novel.Args, dtype: torch.dtype) -> Trainer:
    """The step of `language.lstm_trainer`, from the weights of its module."""
    adam = optax.adam(cosine(args.lr, args.steps, args.steps // 20))
    model = with_weights(eqx.filter_eval_shape(Lstm, args, random.key(0)), lstm_weights(module))
    zeros = torch.zeros(args.rows, args.layers, args.hidden)
    return trainer(model, adam, args, (arrays(zeros), arrays(zeros)), dtype)


def lstm_weights(module: language.Lstm) -> dict[str, torch.Tensor]:
    """Under the names they have here, where each layer is a module, and without the bias that stays zero."""
    renamed = {re.sub(r"^lstm\.(\w+)_l(\d+)$", r"lstm.\2.\1", name): w for name, w in module.state_dict().items()}
    return {name: w for name, w in renamed.items() if not name.endswith("bias_hh")}
