"""Diffusion models without their networks: what a network predicts, how much noise, and how to sample.

Everything is written in one frame, that of Karras et al. 2022 ("Elucidating the design space", below EDM): a picture
with noise is x = x0 + sigma n, and a denoiser is a function `denoise(x, sigma) -> x0`, the mean of all x0 that x may
have been. Other frames scale x: alpha x0 + beta n is alpha (x0 + sigma n) with sigma = beta / alpha. Samplers know
nothing of a model but its denoiser, and a guided, clipped or inpainting one is a denoiser again.

Axes: b batch, k noise levels; "..." those of one example. A noise level is one number, or one for each example.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib import random
from lib.random import Key

Denoise: TypeAlias = Callable[[Float[Tensor, "b ..."], Float[Tensor, "*b"]], Float[Tensor, "b ..."]]
Network: TypeAlias = Callable[[Float[Tensor, "b ..."], Float[Tensor, "b"]], Float[Tensor, "b ..."]]
Sigma: TypeAlias = Float[Tensor, "*b"]


# ---- what a network predicts ----


class Scales(NamedTuple):
    """x0 = skip x + out network(into x)."""

    skip: Sigma
    out: Sigma
    into: Sigma


def edm(sigma: Sigma, data: float = 0.5) -> Scales:
    """Input, output and target of variance 1 where the data's standard deviation is `data` (EDM, table 1)."""
    both = (sigma**2 + data**2).sqrt()
    return Scales((data / both) ** 2, sigma * data / both, 1 / both)


def v(sigma: Sigma) -> Scales:
    """alpha n - beta x0 of alpha x0 + beta n (Salimans & Ho 2022)."""
    both = (sigma**2 + 1).sqrt()
    return Scales(1 / both**2, -sigma / both, 1 / both)


def epsilon(sigma: Sigma) -> Scales:
    """The noise n (Ho et al. 2020)."""
    return Scales(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt())


def x0(sigma: Sigma) -> Scales:
    """The picture itself."""
    return Scales(torch.zeros_like(sigma), torch.ones_like(sigma), 1 / (sigma**2 + 1).sqrt())


def flow(sigma: Sigma) -> Scales:
    """The velocity n - x0 of (1 - t) x0 + t n, with t = sigma / (1 + sigma) (Lipman et al. 2023, Liu et al. 2023)."""
    return Scales(1 / (1 + sigma), -sigma / (1 + sigma), 1 / (1 + sigma))


PREDICTS: dict[str, Callable[[Sigma], Scales]] = {"edm": edm, "v": v, "epsilon": epsilon, "x0": x0, "flow": flow}


def _over(x: Float[Tensor, "b ..."], sigma: Sigma) -> Float[Tensor, "b ..."]:
    """The levels with as many axes as x."""
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def noise_label(sigma: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """What a network is told of the noise: ln(sigma) / 4 (EDM, table 1)."""
    return sigma.log() / 4


def denoiser(network: Network, scales: Callable[[Sigma], Scales]) -> Denoise:
    """The denoiser of a network, which is given scaled pictures and `noise_label`, and predicts what `scales` says."""

    def denoise(x: Float[Tensor, "b ..."], sigma: Sigma) -> Float[Tensor, "b ..."]:
        sigma = sigma.to(x.device).expand(len(x))
        skip, out, into = (_over(x, part).to(x.dtype) for part in scales(sigma))
        return skip * x + out * network(into * x, noise_label(sigma)).to(x.dtype)

    return denoise


def loss(
    network: Network,
    scales: Callable[[Sigma], Scales],
    x: Float[Tensor, "b ..."],
    sigma: Float[Tensor, "b"],
    noise: Float[Tensor, "b ..."],
    power: int = 2,
) -> Float[Tensor, "b"]:
    """Each example's mean |network - what it should predict|^power: by this weight of the noise levels every
    prediction has its usual loss (EDM, equation 8; Ho et al. 2020, equation 14)."""
    noisy = x + _over(x, sigma) * noise
    skip, out, into = (_over(x, part) for part in scales(sigma))
    error = network(into * noisy, noise_label(sigma)).float() - (x - skip * noisy) / out
    return error.abs().pow(power).flatten(1).mean(1)


# ---- how much noise: schedules are made on the CPU ----


def lognormal(key: Key, n: int, mean: float = -1.2, std: float = 1.2) -> Float[Tensor, "n"]:
    """Training levels whose logarithm is normal (EDM, table 1)."""
    return (mean + std * random.normal(key, (n,))).exp()


def chosen(key: Key, n: int, levels: Float[Tensor, "k"]) -> Float[Tensor, "n"]:
    """Training levels drawn from `levels`, which lie where the key does, each equally likely."""
    return levels[random.randint(key, (n,), 0, len(levels)).long()]


def karras(n: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Float[Tensor, "k"]:
    """n levels from `high` to `low`, closer together where there is little noise, and 0 (EDM, equation 5)."""
    share = torch.linspace(0, 1, n, dtype=torch.float64)
    levels = (high ** (1 / rho) + share * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


def of_betas(betas: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """The levels of a chain that keeps sqrt(1 - beta) of the picture in each step, from the least noise to the most."""
    kept = torch.cumprod(1 - betas.double(), 0)
    return ((1 - kept) / kept).sqrt().float()


def cosine(n: int = 1000, s: float = 0.008, least: float = 0.0, most: float = 0.999) -> Float[Tensor, "k"]:
    """The cosine schedule of n steps (Nichol & Dhariwal 2021, equation 17), from the least noise to the most; each
    beta cut to [least, most]."""
    share = torch.arange(n + 1, dtype=torch.float64) / n
    kept = torch.cos((share + s) / (1 + s) * math.pi / 2) ** 2
    return of_betas((1 - kept[1:] / kept[:-1]).clamp(least, most))


def linear(n: int = 1000, first: float = 1e-4, last: float = 0.02) -> Float[Tensor, "k"]:
    """The linear schedule of n steps (Ho et al. 2020), from the least noise to the most."""
    return of_betas(torch.linspace(first, last, n, dtype=torch.float64))


CHAINS: dict[str, Callable[[], Tensor]] = {
    "cosine": cosine,
    "clipped": partial(cosine, least=1e-4, most=0.02),  # the book's
    "linear": linear,
}


def strided(levels: Float[Tensor, "k"], n: int) -> Float[Tensor, "m"]:
    """n of a chain's levels, evenly taken, from the most noise to the least, and 0. Raises ValueError."""
    if not 0 < n <= len(levels):
        raise ValueError(f"{n} of {len(levels)} levels: there must be 1 at least and no more than there are")
    at = torch.linspace(len(levels) - 1, (len(levels) - 1) // n, n).round().long()
    return torch.cat([levels[at], levels.new_zeros(1)])


# ---- samplers: from levels[0] to levels[-1], which fall ----


def _steps(x: Float[Tensor, "b ..."], levels: Float[Tensor, "k"]) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Each level with the next, where x is and in its dtype, and whether that is 0: known on the host, so that no step
    waits for the device."""
    last = [level == 0 for level in levels.tolist()]
    levels = levels.to(x)
    return zip(levels[:-1], levels[1:], last[1:], strict=True)


def ddim(
    denoise: Denoise, x: Float[Tensor, "b ..."], levels: Float[Tensor, "k"], key: Key | None = None, eta: float = 0.0
) -> Float[Tensor, "b ..."]:
    """DDIM (Song et al. 2021, equations 12 and 16), which is Euler's method on the probability flow where `eta` is 0,
    and the ancestral sampler of Ho et al. 2020 where it is 1. Step i draws its noise with `fold_in(key, i)`. Raises
    ValueError for an eta outside [0, 1], and for one above 0 without a key."""
    if not 0 <= eta <= 1 or (eta and key is None):
        raise ValueError(f"eta {eta}: it must be in [0, 1], and above 0 it needs a key")
    for i, (now, then, _) in enumerate(_steps(x, levels)):
        up = eta * then * (1 - (then / now) ** 2).sqrt()
        clean = denoise(x, now)
        x = clean + ((then**2 - up**2).sqrt() / now) * (x - clean)
        if eta and key is not None:
            x = x + up * random.normal(random.fold_in(key, i), tuple(x.shape))
    return x


def heun(denoise: Denoise, x: Float[Tensor, "b ..."], levels: Float[Tensor, "k"]) -> Float[Tensor, "b ..."]:
    """Heun's method on the probability flow, of second order: two denoisings a step, one in the step to 0 (EDM,
    algorithm 1). With levels that rise from above 0 it turns pictures into noise."""
    for now, then, last in _steps(x, levels):
        first = (x - denoise(x, now)) / now  # dx / dsigma (EDM, equation 1)
        ahead = x + (then - now) * first
        if not last:
            ahead = x + (then - now) * (first + (ahead - denoise(ahead, then)) / then) / 2
        x = ahead
    return x


def dpm(denoise: Denoise, x: Float[Tensor, "b ..."], levels: Float[Tensor, "k"]) -> Float[Tensor, "b ..."]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): of second order with one denoising a step, which goes on along
    the line through this x0 and the one before; the first step and that to 0 are of first order."""
    before, width = None, None  # the x0 of the step before, and its width in -ln(sigma)
    for now, then, last in _steps(x, levels):
        clean = denoise(x, now)
        step = (now / then).log()
        ahead = clean
        if before is not None and not last:
            ahead = clean + step / (2 * width) * (clean - before)  # type: ignore[operator]
        x = ahead + (then / now) * (x - ahead)
        before, width = clean, step
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddim": ddim, "heun": heun, "dpm": dpm}


# ---- denoisers of denoisers ----


def clipped(denoise: Denoise) -> Denoise:
    """What pictures in [-1, 1] can be: few steps come out grey without it."""
    return lambda x, sigma: denoise(x, sigma).clamp(-1, 1)


def guided(strong: Denoise, weak: Denoise, weight: float, low: float = 0.0, high: float = math.inf) -> Denoise:
    """weak + weight (strong - weak) at one level in (low, high], `strong` elsewhere; not to be compiled. With the same
    network that is told nothing as `weak` it is classifier-free guidance (Ho & Salimans 2022), with an earlier one
    autoguidance (Karras et al. 2024); limited to an interval by Kynkäänniemi et al. 2024. A weight of 1 is none."""

    def denoise(x: Float[Tensor, "b ..."], sigma: Float[Tensor, ""]) -> Float[Tensor, "b ..."]:
        good = strong(x, sigma)
        if weight == 1 or not low < sigma <= high:
            return good
        bad = weak(x, sigma)
        return bad + weight * (good - bad)

    return denoise


def inpainted(denoise: Denoise, known: Float[Tensor, "b ..."], mask: Bool[Tensor, "..."]) -> Denoise:
    """What is `known` where `mask` is true: samplers whose levels end at 0 end at it exactly, its noise fading on the
    way."""
    return lambda x, sigma: torch.where(mask, known, denoise(x, sigma))
