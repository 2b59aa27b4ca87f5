"""MeanFlow: from noise to a picture in one step (Geng et al. 2025, "Mean flows for one-step generative modeling").

Pictures x (t = 0) and noise n (t = 1) are joined by lines z = (1 - t) x + t n. A network u(z, t, gap) learns the mean
velocity from time t back to t - gap, so that z - gap u is where the flow was; with gap 0 it is the velocity itself, as
flow matching learns it (`lib.diffusion.flow`). Differentiating gap u by t gives what it must be (equation 6): the
velocity less gap du/dt, and du/dt is a jvp of the network along the line.

Axes: b batch; "..." those of one example.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lib import random
from lib.random import Key

Velocity: TypeAlias = Callable[[Float[Tensor, "b ..."], Float[Tensor, "b"], Float[Tensor, "b"]], Float[Tensor, "b ..."]]
EVERY = 4  # a quarter of the examples have a gap (table 1)
FLOOR = 1e-3  # of the error that the loss is divided by


def times(key: Key, n: int, every: int = EVERY, mean: float = -0.4, std: float = 1.0) -> tuple[Tensor, Tensor]:
    """(t, gap) of n examples, whose two times are logit-normal; each `every`th has a gap."""
    one, other = (mean + std * random.normal(key, (n, 2))).sigmoid().unbind(1)
    later, earlier = torch.maximum(one, other), torch.minimum(one, other)
    chosen = torch.arange(n, device=later.device) % every == 0
    return later, torch.where(chosen, later - earlier, torch.zeros_like(later))


def loss(
    velocity: Velocity,
    x: Float[Tensor, "b ..."],
    noise: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
    gap: Float[Tensor, "b"],
    every: int = 1,
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Each example's loss, and its mean square error, by which the loss is divided (equations 9 and 22, p = 1). Where
    only each `every`th of them has a gap, a derivative is taken of no other; it must divide their number."""
    at = t.reshape(-1, *[1] * (x.ndim - 1))
    z, along = (1 - at) * x + at * noise, noise - x
    if every == 1:
        error = gap_error(velocity, z, along, t, gap)
    else:
        groups = [part.unflatten(0, (-1, every)) for part in (z, along, t, gap)]
        first = gap_error(velocity, *(group[:, 0].contiguous() for group in groups))
        z, along, t, gap = (group[:, 1:].flatten(0, 1) for group in groups)
        others = (velocity(z, t, gap) - along).square().flatten(1).mean(1)
        error = torch.cat([first[:, None], others.unflatten(0, (-1, every - 1))], 1).flatten()
    return error / (error.detach() + FLOOR), error


def gap_error(
    velocity: Velocity,
    z: Float[Tensor, "b ..."],
    along: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
    gap: Float[Tensor, "b"],
) -> Float[Tensor, "b"]:
    """The mean square of u - (along - gap du/dt) at z on lines that run `along`."""
    one = torch.ones_like(t)
    u, change = torch.func.jvp(velocity, (z, t, gap), (along, one, one))  # type: ignore[misc]
    width = gap.reshape(-1, *[1] * (z.ndim - 1))
    return (u - (along - width * change).detach()).square().flatten(1).mean(1)


def sample(velocity: Velocity, noise: Float[Tensor, "b ..."], steps: int = 1) -> Float[Tensor, "b ..."]:
    """What becomes of normal noise in `steps` equal steps. Raises ValueError for no steps."""
    if steps < 1:
        raise ValueError(f"{steps} steps: at least one")
    gap = torch.full((len(noise),), 1 / steps, device=noise.device)
    z = noise
    for i in range(steps):
        z = z - velocity(z, 1 - i * gap, gap) / steps
    return z
