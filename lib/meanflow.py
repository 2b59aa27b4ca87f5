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
FLOOR = 1e-3  # of the error that the loss is divided by


def times(key: Key, n: int, share: float = 0.25, mean: float = -0.4, std: float = 1.0) -> tuple[Tensor, Tensor]:
    """(t, gap) of n examples, whose two times are logit-normal, with a gap in a `share` of them (table 1)."""
    k_times, k_share = random.split(key)
    one, other = (mean + std * random.normal(k_times, (n, 2))).sigmoid().unbind(1)
    later, earlier = torch.maximum(one, other), torch.minimum(one, other)
    return later, torch.where(random.bernoulli(k_share, share, (n,)), later - earlier, torch.zeros_like(later))


def loss(
    velocity: Velocity,
    x: Float[Tensor, "b ..."],
    noise: Float[Tensor, "b ..."],
    t: Float[Tensor, "b"],
    gap: Float[Tensor, "b"],
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Each example's loss, and its mean square error, by which the loss is divided (equations 9 and 22, p = 1)."""
    at, width = (part.reshape(-1, *[1] * (x.ndim - 1)) for part in (t, gap))
    along, one = noise - x, torch.ones_like(t)
    u, change = torch.func.jvp(velocity, ((1 - at) * x + at * noise, t, gap), (along, one, one))  # type: ignore[misc]
    error = (u - (along - width * change).detach()).square().flatten(1).mean(1)
    return error / (error.detach() + FLOOR), error


def sample(velocity: Velocity, noise: Float[Tensor, "b ..."], steps: int = 1) -> Float[Tensor, "b ..."]:
    """What becomes of normal noise in `steps` equal steps. Raises ValueError for no steps."""
    if steps < 1:
        raise ValueError(f"{steps} steps: at least one")
    gap = torch.full((len(noise),), 1 / steps, device=noise.device)
    z = noise
    for i in range(steps):
        z = z - velocity(z, 1 - i * gap, gap) / steps
    return z
