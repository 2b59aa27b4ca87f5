"""Losses of adversarial training, on the discriminator's logits for real and made-up examples."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.transform import value_and_grad


class Losses(NamedTuple):
    discriminator: Callable[[Tensor, Tensor], Tensor]  # (logits of real, logits of fake)
    generator: Callable[[Tensor], Tensor]  # (logits of fake)


def bce_discriminator(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """-log D(real) - log(1 - D(fake)), D the sigmoid of the logit (Goodfellow et al. 2014, equation 1); 2 ln 2 at
    the equilibrium."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def bce_generator(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """-log D(fake): the non-saturating loss (Goodfellow et al. 2014, section 3); ln 2 at the equilibrium."""
    return F.softplus(-fake).mean()


def least_squares_discriminator(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mao et al. 2017, equation 9, with targets 1 for real and 0 for fake."""
    return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()


def least_squares_generator(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    return 0.5 * (fake - 1).square().mean()


def r1(
    judge: Callable[[Tensor], Tensor], real: Float[Tensor, "b ..."], weight: float
) -> tuple[Float[Tensor, "..."], Float[Tensor, ""] | float]:
    """Logits of real examples and the penalty weight / 2 E|d logit / d example|^2 on them (Mescheder et al. 2018,
    equation 9), for a `judge` whose every logit depends on its own example only."""
    if not weight:
        return judge(real), 0.0

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = judge(x)
        return logits.sum(), logits

    (_, logits), slope = value_and_grad(total, has_aux=True)(real)
    return logits, weight / 2 * slope.square().sum() / logits.numel()


LOSSES = {
    "bce": Losses(bce_discriminator, bce_generator),
    "least_squares": Losses(least_squares_discriminator, least_squares_generator),
}
