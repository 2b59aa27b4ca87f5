"""A diffusion model of pictures, drawn from, inverted, edited, filled and asked how likely a picture is.

Pictures have values in [-1, 1]. Axes: n pictures, h height, w width, k noise levels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from lib import diffusion, meanflow, metrics, random
from lib.data.albums import Pictures
from lib.faults import RunError
from lib.likelihood import bits_per_dimension, dequantised, log_likelihood
from lib.meanflow import Velocity
from lib.tasks import generated

AT_ONCE = 100  # pictures that are denoised together
EXACT = 50  # steps of Heun's method where a picture is to come back, or its likelihood is asked for,
FAINT = 0.005  # and the noise that is taken for none there

Sampler = Literal["dpm", "heun", "ddim", "meanflow"]


class Diffuser(NamedTuple):
    """`levels`: of a number of steps, from the most noise to 0, with the least noise before that. `data`: gives the
    pictures it was trained on. `velocity`: the mean one between two times, where that is what was learnt. `steps` and
    `least`: number of steps, and noise above 0, that samples have."""

    denoise: diffusion.Denoise
    levels: Callable[[int, float], Float[Tensor, "k"]]
    size: int
    data: Callable[[], Pictures]
    velocity: Velocity | None = None
    steps: int = 20
    least: float = FAINT

    def noise(self, numbers: Sequence[int], seed: int) -> Float[Tensor, "n 3 h w"]:
        """The same number is the same noise, whatever else is drawn."""
        k, shape = random.key(seed, self.levels(1, self.least).device), (3, self.size, self.size)
        return torch.stack([random.normal(random.fold_in(k, i), shape) for i in numbers])

    @torch.no_grad()
    def drawn(
        self, noise: Float[Tensor, "n 3 h w"], sampler: Sampler = "dpm", steps: int = 20, eta: float = 0.0
    ) -> Float[Tensor, "n 3 h w"]:
        """What becomes of standard normal noise. Raises RunError where the sampler needs another model."""
        if sampler == "meanflow" and self.velocity is None:
            raise RunError("--sampler meanflow needs a run with --objective meanflow")
        levels, denoise = self.levels(steps, self.least), diffusion.clipped(self.denoise)
        methods: dict[Sampler, Callable[[Tensor], Tensor]] = {
            "dpm": lambda x: diffusion.dpm(denoise, levels[0] * x, levels),
            "heun": lambda x: diffusion.heun(denoise, levels[0] * x, levels),
            "ddim": lambda x: diffusion.ddim(denoise, levels[0] * x, levels, random.key(0, x.device), eta),
            "meanflow": lambda x: meanflow.sample(self.velocity, x, steps),  # type: ignore[arg-type]
        }
        return torch.cat([methods[sampler](part) for part in noise.split(AT_ONCE)])

    @torch.no_grad()
    def inverted(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The noise of which `back` makes x, up to x0 outside [-1, 1], which it clips."""
        rising = self.levels(EXACT, FAINT)[:-1].flip(0)
        return torch.cat([diffusion.heun(self.denoise, part, rising) for part in x.split(AT_ONCE)]) / rising[-1]

    def back(self, noise: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """What Heun's method makes of noise in many steps, down to the faintest."""
        return self._replace(least=FAINT).drawn(noise, "heun", EXACT)

    @torch.no_grad()
    def edited(self, x: Float[Tensor, "n 3 h w"], strength: float, noise: Tensor, steps: int) -> Float[Tensor, "..."]:
        """x with the noise of a part of the way, `strength` of all steps, and back (SDEdit; Meng et al. 2022)."""
        levels = self.levels(steps, self.least)
        levels = levels[steps - max(1, round(strength * steps)) :]
        noisy = (x + levels[0] * noise).split(AT_ONCE)
        return torch.cat([diffusion.dpm(diffusion.clipped(self.denoise), part, levels) for part in noisy])

    @torch.no_grad()
    def filled(self, x: Float[Tensor, "n 3 h w"], known: Bool[Tensor, "1 h w"], noise: Tensor, steps: int) -> Tensor:
        """x where it is known, and beside it what goes with that."""
        levels = self.levels(steps, self.least)
        denoise = diffusion.inpainted(diffusion.clipped(self.denoise), x, known)
        return diffusion.dpm(denoise, levels[0] * noise, levels)

    @torch.no_grad()
    def bits(self, pixels: UInt8[Tensor, "n 3 h w"], key: random.Key) -> Float[Tensor, "n"]:
        """Bits per dimension of 8-bit pictures."""
        found = []
        for i, part in enumerate(pixels.split(AT_ONCE)):
            k_blur, k_signs = random.split(random.fold_in(key, i))
            x = dequantised(k_blur, part)
            nats = log_likelihood(self.denoise, x, self.levels(EXACT, FAINT)[:-1].flip(0), k_signs)
            found.append(bits_per_dimension(nats, x[0].numel()))
        return torch.cat(found)


# ---- shown and measured ----


def forward(
    model: Diffuser, x: Float[Tensor, "n 3 h w"], noise: Float[Tensor, "n 3 h w"], columns: int = 8
) -> Float[Tensor, "n columns 3 h w"]:
    """x and the noise it turns into, of variance at most 1 throughout."""
    levels = model.levels(columns - 1, model.least).flip(0)
    return torch.stack([(x + s * noise) / (s**2 + 1).sqrt() for s in levels], 1).clamp(-1, 1)


@torch.no_grad()
def strip(
    model: Diffuser, noise: Float[Tensor, "n 3 h w"], steps: int = 20, most: int = 10
) -> Float[Tensor, "n columns 3 h w"]:
    """What the denoiser makes of the noise at up to `most` of the steps of DPM-Solver++."""
    seen: list[Tensor] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(model.denoise(x, sigma).clamp(-1, 1))
        return seen[-1]

    levels = model.levels(steps, model.least)
    diffusion.dpm(watched, levels[0] * noise, levels)
    at = sorted({round(i * (steps - 1) / max(1, most - 1)) for i in range(most)})
    return torch.stack([seen[i] for i in at], 1)


def inversion(model: Diffuser, x: Float[Tensor, "n 3 h w"]) -> float:
    """How exactly pictures come back from the noise they turn into: peak signal-to-noise ratio in decibels."""
    again = model.back(model.inverted(x))
    return float(-10 * torch.log10((again - x).square().mean() / 4))


def exact(model: Diffuser, pixels: UInt8[Tensor, "n 3 h w"]) -> dict[str, float]:
    """Mean bits per dimension, and `inversion` of the first half."""
    bits = model.bits(pixels, random.key(3, pixels.device)).mean()
    return {"bits": float(bits), "inversion_db": inversion(model, pixels[: -(-len(pixels) // 2)] / 127.5 - 1)}


def compared(model: Diffuser, steps: Sequence[int], n: int) -> Iterator[tuple[str, int, float, float]]:
    """Sampler, steps, KID against test pictures and detail, of n pictures from the same noise; ancestral is ddim with
    an eta of 1. Last, those of training pictures."""
    data = model.data()
    noise = model.noise(range(n), 2)
    judge = generated.judge_of(data, noise.device)
    test = data.test.pixels.to(noise.device) / 127.5 - 1
    real = judge.features(test)
    plain: list[tuple[str, Sampler, float]] = [(sampler, sampler, 0.0) for sampler in get_args(Sampler)]
    for name, sampler, eta in [*plain, ("ancestral", "ddim", 1.0)]:
        for k in () if sampler == "meanflow" and model.velocity is None else steps:
            x = generated.quantised(model.drawn(noise, sampler, k, eta))
            yield name, k, metrics.kid(real, judge.features(x))[0], generated.detail(x)
    shown = data.train.pixels[:n].to(noise.device) / 127.5 - 1
    yield "training", 0, metrics.kid(real, judge.features(shown))[0], generated.detail(shown)
