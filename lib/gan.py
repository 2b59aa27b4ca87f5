"""Losses of adversarial training on the discriminator's logits for real and generated examples; penalties; a buffer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lib import parallel, random
from lib.random import Key
from lib.transform import value_and_grad


class Pair(NamedTuple):
    """Something of both networks: parameters, optimisers' states, statistics."""

    g: Any  # of the generator
    d: Any  # of the discriminator, or critic


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
    discriminate: Callable[[Tensor], Tensor], real: Float[Tensor, "b ..."], weight: float
) -> tuple[Float[Tensor, "..."], Float[Tensor, ""] | float]:
    """Logits of real examples and the penalty weight / 2 E|d logit / d example|^2 on them (Mescheder et al. 2018,
    equation 9), where `discriminate` makes every logit of its own example only."""
    if not weight:
        return discriminate(real), 0.0

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = discriminate(x)
        return logits.sum(), logits

    (_, logits), slope = value_and_grad(total, has_aux=True)(real)
    return logits, weight / 2 * slope.square().sum() / logits.numel()


def wasserstein_critic(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """E fake - E real: minus the Wasserstein-1 distance where the critic is the best 1-Lipschitz function (Arjovsky et
    al. 2017, equation 2)."""
    return fake.mean() - real.mean()


def wasserstein_generator(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    return -fake.mean()


def gradient_penalty(
    criticise: Callable[[Tensor], Tensor],
    real: Float[Tensor, "b ..."],
    fake: Float[Tensor, "b ..."],
    key: Key,
    weight: float,
    above: bool = False,
) -> Float[Tensor, ""]:
    """weight E (|d logit / d x| - 1)^2 at a random point x between each real and fake example (Gulrajani et al. 2017,
    equation 3), where `criticise` makes every logit of its own example only. `above`: of slopes above 1 alone
    (Petzka et al. 2018, equation 8)."""
    share = random.uniform(key, (len(real), *[1] * (real.ndim - 1)))
    _, slope = value_and_grad(lambda x: criticise(x).sum())(torch.lerp(real, fake, share))
    excess = slope.flatten(1).square().sum(1).add(1e-12).sqrt() - 1
    return weight * (excess.clamp(min=0) if above else excess).square().mean()


class Buffer(NamedTuple):
    """Generated examples of earlier steps, to be shown to a discriminator again (Shrivastava et al. 2017, 2.3)."""

    examples: Float[Tensor, "n ..."]
    filled: Int[Tensor, ""]


def buffer(n: int, shape: tuple[int, ...], device: torch.device | None = None) -> Buffer:
    """Empty, with room for n examples."""
    return Buffer(torch.zeros(n, *shape, device=device), torch.zeros((), dtype=torch.int32, device=device))


def exchange(held: Buffer, new: Float[Tensor, "b ..."], key: Key) -> tuple[Float[Tensor, "b ..."], Buffer]:
    """As many examples to show as are `new`, and the buffer after it. Until the buffer is full the new ones are kept
    and shown; then one in two is shown, and the other takes the place of an old one, which is shown instead.

    The buffer has room for a batch at least. Of several processes all keep the same buffer, of all their examples.
    """
    shown, n = parallel.joined(new), len(held.examples)
    b = len(shown)
    if b > n:
        raise ValueError(f"a buffer of {n} examples is smaller than a batch of {b}")
    draws = parallel.joined(random.uniform(key, (len(new), 2)))  # by row, so that all ranks draw the same
    order, part = torch.arange(b, device=new.device), n // b  # each row has a part of the buffer: no two want one place
    room = held.filled + b <= n
    places = torch.where(room, held.filled + order, part * order + (part * draws[:, 0]).long())
    swap = ~room & (draws[:, 1] < 0.5)
    wide = lambda mask: mask.view(-1, *[1] * (new.ndim - 1))  # noqa: E731
    old = held.examples.index_select(0, places)
    examples = held.examples.index_copy(0, places, torch.where(wide(room | swap), shown, old))
    filled = torch.where(room, held.filled + b, held.filled).to(torch.int32)
    return parallel.mine(torch.where(wide(swap), old, shown)), Buffer(examples, filled)


LOSSES = {
    "bce": Losses(bce_discriminator, bce_generator),
    "least_squares": Losses(least_squares_discriminator, least_squares_generator),
    "wasserstein": Losses(wasserstein_critic, wasserstein_generator),
}
