"""How likely a diffusion model finds a picture, by its probability flow.

Axes: b batch, k noise levels; "..." those of one example.
"""

import itertools
import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lib import random
from lib.diffusion import Denoise
from lib.random import Key


def log_likelihood(
    denoise: Denoise, x: Float[Tensor, "b ..."], levels: Float[Tensor, "k"], key: Key, probes: int = 1
) -> Float[Tensor, "b"]:
    """ln of the density, in nats, of pictures with noise levels[0] at x, under the probability flow (Song et al. 2021,
    "Score-based generative modeling", equation 39): by Heun's method on levels that rise from above 0 to where x is as
    good as normal. The divergence is Hutchinson's estimate with one or more `probes`, vectors of signs for each
    example: a jvp of the denoiser each, without bias, and exact in one dimension. Not to be compiled."""
    n, levels = x[0].numel(), levels.to(x)
    signs = random.bernoulli(key, 0.5, (len(x), probes, *x.shape[1:])).to(x.dtype) * 2 - 1

    def slopes(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """dx / dsigma and its divergence."""
        traces = torch.zeros(len(x), device=x.device, dtype=x.dtype)
        for sign in signs.unbind(1):
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


def dequantised(key: Key, pixels: UInt8[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """(pixel + u) / 128 - 1 with u uniform in [0, 1), which has a density where 256 values have none."""
    return (pixels + random.uniform(key, tuple(pixels.shape))) / 128 - 1


def bits_per_dimension(nats: Float[Tensor, "b"], n: int) -> Float[Tensor, "b"]:
    """Bits for each of the n pixels of pictures whose `dequantised` have log densities `nats`: on average over u no
    fewer than the pictures themselves have (Theis et al. 2016)."""
    return math.log2(128) - nats / (n * math.log(2))
