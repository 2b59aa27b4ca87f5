"""The adversarial steps of gans.py in JAX: the same networks under the same names, Optax's Adam, one jitted step.

Pictures are b c h w, as everywhere in the project; XLA chooses its own layout. Batch statistics are fp32.
Axes: b batch, c channels, h height, w width, z latent.
"""

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
from torch import nn

from experiments.exp_gan_curve import Args
from tests.bench.jaxes import Trainer, cast, mlp, number_type, updated, with_weights

Running = dict[str, tuple[Array, Array]]  # means and variances of batch normalisation


class Dense(eqx.Module):
    """Dense layers on a batch, with dropout; a single feature is left out of the shape."""

    parts: eqx.nn.Sequential

    def __call__(self, x: Float[Array, "b d"], running: Running, key: Key) -> tuple[Float[Array, "b ..."], Running]:
        y = jax.vmap(self.parts)(x, key=random.split(key, len(x)))
        return (y[:, 0] if y.shape[1] == 1 else y), running


class BatchNorm(eqx.Module):
    """By the batch's statistics, which also move the running ones by a tenth, as nn.BatchNorm2d does."""

    weight: Float[Array, "c"]
    bias: Float[Array, "c"]

    def __init__(self, c: int) -> None:
        self.weight, self.bias = jnp.ones(c), jnp.zeros(c)

    def __call__(
        self, x: Float[Array, "b c h w"], running: tuple[Array, Array]
    ) -> tuple[Float[Array, "b c h w"], tuple[Array, Array]]:
        y, n = x.astype(jnp.float32), x.size // x.shape[1]
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3))
        now = jax.lax.stop_gradient((mean, var * n / (n - 1)))
        wide = partial(jnp.expand_dims, axis=(0, 2, 3))
        y = (y - wide(mean)) * wide(self.weight * jax.lax.rsqrt(var + 1e-5)) + wide(self.bias)
        return y.astype(x.dtype), jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, running, now)


class Generator(eqx.Module):
    inward: eqx.nn.Linear
    norm_in: BatchNorm
    up: eqx.nn.ConvTranspose2d
    norm_up: BatchNorm
    out: eqx.nn.ConvTranspose2d

    def __init__(self, latent: int, width: int, key: Key) -> None:
        self.inward = eqx.nn.Linear(latent, 2 * width * 49, use_bias=False, key=key)
        self.norm_in, self.norm_up = BatchNorm(2 * width), BatchNorm(width)
        self.up = eqx.nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, use_bias=False, key=key)
        self.out = eqx.nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1, key=key)

    def __call__(self, z: Float[Array, "b z"], running: Running, _: Key) -> tuple[Float[Array, "b 1 28 28"], Running]:
        x = jax.vmap(self.inward)(z).reshape(len(z), -1, 7, 7)
        x, inward = self.norm_in(x, running["in"])
        x, up = self.norm_up(jax.vmap(self.up)(jax.nn.relu(x)), running["up"])
        return jnp.tanh(jax.vmap(self.out)(jax.nn.relu(x))), {"in": inward, "up": up}


class Discriminator(eqx.Module):
    inward: eqx.nn.Conv2d
    down: eqx.nn.Conv2d
    norm: BatchNorm
    out: eqx.nn.Linear

    def __init__(self, width: int, key: Key) -> None:
        self.inward = eqx.nn.Conv2d(1, width, 4, stride=2, padding=1, key=key)
        self.down = eqx.nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, use_bias=False, key=key)
        self.norm, self.out = BatchNorm(2 * width), eqx.nn.Linear(2 * width * 49, 1, key=key)

    def __call__(self, x: Float[Array, "b 1 28 28"], running: Running, _: Key) -> tuple[Float[Array, "b"], Running]:
        h = jax.nn.leaky_relu(jax.vmap(self.inward)(x), 0.2)
        h, norm = self.norm(jax.vmap(self.down)(h), running["norm"])
        return jax.vmap(self.out)(jax.nn.leaky_relu(h, 0.2).reshape(len(x), -1))[:, 0], {"norm": norm}


class Networks(NamedTuple):
    """Functions (batch, running statistics, key) -> (result, running statistics), and the statistics at the start."""

    generator: Any
    discriminator: Any
    running_g: Running
    running_d: Running


def dense(generator: nn.Module, discriminator: nn.Module, args: Args) -> Networks:
    """With the weights of `gans.mlp`'s modules of exp_gan_curve."""

    def network(module: nn.Module, widths: tuple[int, ...], dropout: float | None) -> Dense:
        activation = partial(jax.nn.leaky_relu, negative_slope=args.slope)
        shapes = eqx.filter_eval_shape(mlp, widths, activation, dropout, random.split(random.key(0), len(widths) - 1))
        return Dense(with_weights(shapes, module.state_dict()))

    g = network(generator, (args.latent, *args.generator, 2), None)
    return Networks(g, network(discriminator, (2, *args.discriminator, 1), args.dropout or None), {}, {})


def dcgan(generator: nn.Module, discriminator: nn.Module, latent: int, width: int) -> Networks:
    """With the weights of gans.DcganGenerator and gans.DcganDiscriminator."""
    weights_g, weights_d = generator.state_dict(), discriminator.state_dict()
    for name in ("up.weight", "out.weight"):  # torch keeps the kernel of the convolution whose adjoint it applies
        weights_g[name] = weights_g[name].transpose(0, 1).flip(2, 3)
    g = eqx.filter_eval_shape(Generator, latent, width, random.key(0))
    d = eqx.filter_eval_shape(Discriminator, width, random.key(0))
    start = lambda c: (jnp.zeros(c), jnp.ones(c))  # noqa: E731
    running = {"in": start(2 * width), "up": start(width)}, {"norm": start(2 * width)}
    g, d = with_weights(g, of_convolutions(weights_g)), with_weights(d, of_convolutions(weights_d))
    return Networks(g, d, *running)


def of_convolutions(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the biases of convolutions as Equinox has them: c 1 1."""
    kernels = {name.removesuffix("weight") for name, w in weights.items() if w.ndim == 4}
    return {
        name: w[:, None, None] if name.endswith("bias") and name.removesuffix("bias") in kernels else w
        for name, w in weights.items()
    }


class State(NamedTuple):
    networks: Networks
    opt_g: optax.OptState
    opt_d: optax.OptState
    average: Any  # of the generator; None without averaging
    key: Key
    step: Int[Array, ""]


def adversarial(
    networks: Networks,
    real: Callable[..., Array],
    shape: tuple[int, int],
    lr: float,
    betas: tuple[float, float],
    ema_decay: float,
    dtype: torch.dtype,
) -> Trainer:
    """The step of gans.Trainer. `real(key, *args)`: examples, of what the step is given. `shape`: batch, latent."""
    adam, policy = optax.adam(lr, *betas), number_type(dtype)

    def run(network: Any, x: Array, running: Running, key: Key) -> tuple[Array, Running]:
        return cast(network, policy)(x.astype(policy), running, key)

    def loss_d(d: Any, real: Array, fake: Array, running: Running, key: Key) -> tuple[Float[Array, ""], Running]:
        k_real, k_fake = random.split(key)
        on_real, running = run(d, real, running, k_real)  # each by its own batch statistics
        on_fake, running = run(d, fake, running, k_fake)
        return bce(on_real, 1.0) + bce(on_fake, 0.0), running

    def loss_g(g: Any, d: Any, z: Array, before: Networks, key: Key) -> tuple[Float[Array, ""], tuple]:
        k_g, k_d = random.split(key)
        fake, running_g = run(g, z, before.running_g, k_g)
        on_fake, running_d = run(d, fake, before.running_d, k_d)
        return bce(on_fake, 1.0), (running_g, running_d)

    def step(state: State, *args: Any) -> tuple[State, tuple[Array, Array]]:
        keys = random.split(random.fold_in(state.key, state.step), 6)
        g, d, running_g, running_d = state.networks
        fake, running_g = run(g, random.normal(keys[0], shape), running_g, keys[1])
        grad = eqx.filter_value_and_grad(loss_d, has_aux=True)
        (judged, running_d), grads = grad(d, real(keys[2], *args), fake, running_d, keys[3])
        d, opt_d = updated(adam, grads, state.opt_d, d)

        grad = eqx.filter_value_and_grad(loss_g, has_aux=True)
        before = Networks(g, d, running_g, running_d)
        (fooled, running), grads = grad(g, d, random.normal(keys[4], shape), before, keys[5])
        g, opt_g = updated(adam, grads, state.opt_g, g)
        average = state.average
        if average is not None:
            average = optax.incremental_update(eqx.filter(g, eqx.is_array), average, 1 - ema_decay)
        return State(Networks(g, d, *running), opt_g, opt_d, average, state.key, state.step + 1), (judged, fooled)

    g, d = (eqx.filter(network, eqx.is_array) for network in networks[:2])
    average = jax.tree.map(jnp.copy, g) if ema_decay else None
    return Trainer(step, State(networks, adam.init(g), adam.init(d), average, random.key(0), jnp.zeros((), jnp.int32)))


def bce(logits: Float[Array, "b"], label: float) -> Float[Array, ""]:
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), jnp.full(len(logits), label)).mean()
