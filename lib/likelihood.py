"""How likely a diffusion model finds a picture, by its probability flow.

Axes: b batch, k noise levels; "..." those of one example.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from lib import random
from lib.diffusion import Denoise
from lib.random import Key


def log_likelihood(
    denoise: Denoise, x: Float[Tensor, "b ..."], levels: Float[Tensor, "k"], key: Key, probes: int = 1
) -> Float[Tensor, "b"]:
    """ln p(x) in nats under the probability flow (Song et al. 2021, "Score-based generative modeling", equation 39),
    by Heun's method on levels that rise to where x is as good as normal. The divergence is Hutchinson's estimate with
    `probes` vectors of signs for each example: a jvp of the denoiser each, without bias, and exact in one dimension."""
    n = x[0].numel()
    signs = random.bernoulli(key, 0.5, (probes, *x.shape)).to(x.dtype) * 2 - 1

    def slopes(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """dx / dsigma and its divergence."""
        traces = torch.zeros(len(x), device=x.device, dtype=x.dtype)
        for sign in signs:
            clean, tangent = torch.func.jvp(lambda x: denoise(x, sigma), (x,), (sign,))  # type: ignore[misc]
            traces = traces + (sign * tangent).flatten(1).sum(1) / probes
        return (x - clean) / sigma, (n - traces) / sigma

    total = torch.zeros(len(x), device=x.device, dtype=x.dtype)
    for now, then in itertools.pairwise(levels):
        first, spread = slopes(x, now)
        second, spread_then = slopes(x + (then - now) * first, then)
        x = x + (then - now) * (first + second) / 2
        total = total + (then - now) * (spread + spread_then) / 2
    last = levels[-1]
    normal = -x.flatten(1).square().sum(1) / (2 * last**2) - n * (last.log() + 0.5 * math.log(2 * math.pi))
    return normal + total


def bits_per_dimension(nats: Float[Tensor, "b"], n: int, values: int = 256) -> Float[Tensor, "b"]:
    """Of ln p of n integers below `values` as numbers (integer + u) / (values / 2) - 1, u uniform in [0, 1)."""
    return math.log2(values / 2) - nats / (n * math.log(2))
