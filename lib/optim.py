"""Optimisers as pairs of pure functions, schedules, clipping and averaging.

`update(grads, opt_state, params) -> (params, opt_state)`. A learning rate is a number or a schedule: a function of
the number of updates done so far (a 0-d tensor, 0 at the first update), evaluated inside the graph.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import tree
from lib.tree import Tree

Schedule: TypeAlias = Callable[[Tensor], Tensor]


class Optimizer(NamedTuple):
    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]


class SgdState(NamedTuple):
    step: Int[Tensor, ""]
    momentum: Tree


class AdamState(NamedTuple):
    step: Int[Tensor, ""]
    mu: Tree
    nu: Tree


def sgd(lr: float | Tensor | Schedule, momentum: float = 0.0) -> Optimizer:
    """m <- momentum m + g;  p <- p - lr m  (torch.optim.SGD's convention)."""
    rate = schedule(lr)

    def update(grads: Tree, state: SgdState, params: Tree) -> tuple[Tree, SgdState]:
        m = tree.map(lambda m, g: momentum * m + g, state.momentum, grads)
        return tree.map(lambda p, m: p - rate(state.step) * m, params, m), SgdState(state.step + 1, m)

    return Optimizer(lambda params: SgdState(_zero(params), tree.map(torch.zeros_like, params)), update)


def adam(lr: float | Tensor | Schedule, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Optimizer:
    """Kingma & Ba 2015, algorithm 1: p <- p - lr mhat / (sqrt(vhat) + eps), both moments bias-corrected."""
    return adamw(lr, betas, eps, weight_decay=0.0)


def adamw(
    lr: float | Tensor | Schedule,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    decay: Callable[[Tree], Tree] | None = None,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): p <- p (1 - lr weight_decay) first.

    `decay(params)` is a tree of bools, True where a leaf decays (all by default): see `tree.match`, `matrices`.
    """
    rate, (b1, b2) = schedule(lr), betas

    def init(params: Tree) -> AdamState:
        zeros = lambda: tree.map(torch.zeros_like, params)  # noqa: E731
        return AdamState(_zero(params), zeros(), zeros())

    def update(grads: Tree, state: AdamState, params: Tree) -> tuple[Tree, AdamState]:
        alpha, n = rate(state.step), (state.step + 1).float()
        mu = tree.map(lambda m, g: torch.lerp(m, g, 1 - b1), state.mu, grads)
        nu = tree.map(lambda v, g: torch.lerp(v, g.square(), 1 - b2), state.nu, grads)
        size, root = alpha / (1 - b1**n), torch.sqrt(1 - b2**n)
        decays = decay(params) if decay else tree.map(lambda _: True, params)
        shrink = 1 - alpha * weight_decay

        def leaf(p: Tensor, m: Tensor, v: Tensor, decays: bool) -> Tensor:
            p = p * shrink if decays and weight_decay else p
            return p - size * m / (torch.sqrt(v) / root + eps)

        return tree.map(leaf, params, mu, nu, decays), AdamState(state.step + 1, mu, nu)

    return Optimizer(init, update)


def matrices(params: Tree) -> Tree:
    """The usual decay mask: True for leaves with two axes or more, False for biases and norms."""
    return tree.map(lambda p: p.ndim >= 2, params)


def clip(grads: Tree, max_norm: float) -> tuple[Tree, Float[Tensor, ""]]:
    """Scale gradients so that their global norm is at most `max_norm` (0: never). Also returns the norm before."""
    norm = tree.global_norm(grads)
    if not max_norm:
        return grads, norm
    scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    return tree.map(lambda g: g * scale, grads), norm


def ema(average: Tree, params: Tree, decay: float, step: Int[Tensor, ""]) -> Tree:
    """Exponential moving average of parameters after update number `step` (from 0).

    The decay starts low and grows to `decay` as (1 + step) / (10 + step), so that the first weights are forgotten.
    """
    rate = torch.clamp((1.0 + step) / (10.0 + step), max=decay)
    return tree.map(lambda a, p: torch.lerp(p, a, rate.to(p.dtype)), average, params)


def constant(value: float | Tensor) -> Schedule:
    if isinstance(value, Tensor):
        return lambda step: value.to(step.device, torch.float32)
    return lambda step: torch.full((), value, dtype=torch.float32, device=step.device)  # no copy from the host


def cosine(peak: float, steps: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear from 0 to `peak` over `warmup` steps, then half a cosine to `floor` at `steps`."""

    def schedule(step: Tensor) -> Tensor:
        done = torch.clamp((step - warmup) / max(1, steps - warmup), 0.0, 1.0)
        falling = floor + (peak - floor) * 0.5 * (1 + torch.cos(math.pi * done))
        return torch.where(step < warmup, peak * (step + 1) / max(1, warmup), falling)

    return schedule


def linear(peak: float, steps: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear from 0 to `peak` over `warmup` steps, then linear to `floor` at `steps`."""

    def schedule(step: Tensor) -> Tensor:
        done = torch.clamp((step - warmup) / max(1, steps - warmup), 0.0, 1.0)
        return torch.where(step < warmup, peak * (step + 1) / max(1, warmup), peak + (floor - peak) * done)

    return schedule


def inverse_sqrt(d_model: int, warmup: int, factor: float = 1.0) -> Schedule:
    """factor d_model^-1/2 min(n^-1/2, n warmup^-3/2) with n = step + 1 (Vaswani et al. 2017, equation 3)."""

    def schedule(step: Tensor) -> Tensor:
        n = (step + 1).float()
        return factor * d_model**-0.5 * torch.minimum(n**-0.5, n * warmup**-1.5)

    return schedule


def schedule(lr: float | Tensor | Schedule) -> Schedule:
    return lr if callable(lr) else constant(lr)  # type: ignore[return-value,arg-type]


def _zero(params: Tree) -> Tensor:
    return torch.zeros((), dtype=torch.int32, device=tree.leaves(params)[0].device)
