"""Diagnostics of a loss at a point: per-example gradients, gradient noise, curvature, and the sizes of updates.

`loss(params, examples) -> scalar` is the mean loss over the examples, which are the first axis of every leaf of
`examples`. It is deterministic: keys and model state are closed over. It treats examples apart from each other:
batch normalisation, if any, uses given statistics. Compile nothing here: transformations of compiled functions fail.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import random, tree
from lib.place import Place
from lib.random import Key
from lib.transform import value_and_grad
from lib.tree import Tree

AT_ONCE = 2**26  # numbers in the per-example gradients that exist at one time: 256 MiB in fp32

Loss = Callable[[Tree, Tree], Tensor]


def per_example(
    loss: Loss, params: Tree, examples: Tree, chunk: int | None = None
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """(losses, Euclidean norms of the gradients) of the examples, each taken as a batch of one.

    Gradients of `chunk` examples exist at once; as many as make `AT_ONCE` numbers if not given. The loss is called
    under vmap: it may not look at values (`.item()`) nor draw from a global generator. A key that it closes over gives
    every example the same draws.
    """

    def one(leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
        value, grads = value_and_grad(loss)(params, tree.unflatten(examples, [x[None] for x in leaves]))
        return value, tree.global_norm(grads)

    chunk = chunk or max(1, AT_ONCE // tree.size(params))
    return torch.func.vmap(one, chunk_size=chunk)(tree.leaves(examples))


def noise_scale(norms: Float[Tensor, "n"], mean_gradient_norm: float | Tensor) -> float:
    """The simple gradient noise scale B = tr(Sigma) / |G|^2, in examples (McCandlish et al. 2018, equation 2.9).

    Sigma is the covariance of an example's gradient and G its expectation. Batches much smaller than B are mostly
    noise; much larger ones waste examples. `norms` are of n examples' gradients, `mean_gradient_norm` of the gradient
    of their mean loss. Both parts are estimated without bias (appendix A.1 with batches of 1 and n):
    |G|^2 = (n |g|^2 - mean |g_i|^2) / (n - 1) and tr(Sigma) = (mean |g_i|^2 - |g|^2) n / (n - 1).
    Their ratio is noisy and not unbiased: average it over several diagnoses by its median. inf where the estimate of
    |G|^2 is not positive, as happens when n is much smaller than B; nan for a single example or without any gradient.

    Examples weigh equally here. Where the mean loss weighs them otherwise (per token: by their tokens), g is the
    weighted mean and the estimates are off by about the squared coefficient of variation of the weights.
    """
    n, each, whole = len(norms), float(norms.double().square().mean()), float(mean_gradient_norm) ** 2
    if n < 2 or each == 0 or not math.isfinite(each + whole):
        return math.nan
    squared = (n * whole - each) / (n - 1)
    return (each - whole) * n / (n - 1) / squared if squared > 0 else math.inf


def hvp(loss: Loss, params: Tree, examples: Tree, vector: Tree) -> Tree:
    """H v for the Hessian H of the loss: the derivative of its gradient along v, forward over reverse mode
    (Pearlmutter 1994, "Fast exact multiplication by the Hessian"). Costs about three gradients."""

    def gradient(leaves: list[Tensor]) -> list[Tensor]:
        return tree.leaves(value_and_grad(loss)(tree.unflatten(params, leaves), examples)[1])

    product = torch.func.jvp(gradient, (tree.leaves(params),), (tree.leaves(vector),))[1]
    return tree.unflatten(params, product)


class Curvature(NamedTuple):
    largest: float  # eigenvalues: algebraically largest and smallest
    smallest: float
    trace: float
    trace_error: float  # standard error of the trace


def hessian(loss: Loss, params: Tree, examples: Tree, key: Key, iterations: int = 10, probes: int = 4) -> Curvature:
    """Extreme eigenvalues and trace of the Hessian of the loss, from `iterations + probes` products with it.

    Eigenvalues by Lanczos (see `extremes`), trace by Hutchinson 1990: the mean of z^T H z over vectors z of random
    signs. The loss should compute in fp32: in bf16 the derivative of a gradient is mostly rounding.
    """
    k_start, k_probes = random.split(key)

    def product(vector: Tree) -> Tree:
        return hvp(loss, params, examples, vector)

    def signs(key: Key) -> Tree:
        return _like(params, key, lambda k, shape: torch.where(random.bernoulli(k, 0.5, shape), 1.0, -1.0))

    largest, smallest = extremes(product, _like(params, k_start, random.normal), iterations)
    found = [dot(z, product(z)) for z in map(signs, random.split(k_probes, probes))]
    samples = torch.tensor(found, dtype=torch.float64)
    error = float(samples.std()) / math.sqrt(probes) if probes > 1 else math.nan
    return Curvature(largest, smallest, float(samples.mean()), error)


def extremes(product: Callable[[Tree], Tree], start: Tree, iterations: int) -> tuple[float, float]:
    """(largest, smallest) eigenvalue of the symmetric operator `product`: Lanczos' method from the vector `start`.

    Both lie within the spectrum: the largest is a lower bound, the smallest an upper bound. An eigenvalue far from
    the others is found in few iterations; the edge of a dense part of the spectrum is not. Three vectors are kept and
    none is made orthogonal again: rounding then repeats eigenvalues, but does not move the extreme ones (Paige 1976).
    """
    norm = math.sqrt(dot(start, start))
    v = tree.map(lambda x: x / norm, start)
    before, beta = tree.map(torch.zeros_like, v), 0.0
    diagonal, beside = list[float](), list[float]()
    while True:
        w = product(v)
        diagonal.append(alpha := dot(v, w))
        if not math.isfinite(alpha):
            return math.nan, math.nan
        if len(diagonal) == iterations:
            break
        w = tree.map(lambda w, v, u, alpha=alpha, beta=beta: w - alpha * v - beta * u, w, v, before)
        beta = math.sqrt(dot(w, w))
        # What is left is rounding: the vectors so far span a space of their own. No eigenvalue moves more than this.
        if beta <= 1e-6 * max(map(abs, diagonal + beside)):
            break
        beside.append(beta)
        before, v = v, tree.map(lambda w, beta=beta: w / beta, w)
    off = torch.tensor(beside, dtype=torch.float64)
    values = torch.linalg.eigvalsh(torch.tensor(diagonal, dtype=torch.float64).diag() + off.diag(1) + off.diag(-1))
    return float(values[-1]), float(values[0])


def update_ratios(before: Tree, after: Tree) -> dict[str, float]:
    """|after - before| / |before| of every leaf by its path; near 1e-3 is usual. inf for a leaf that was all zeros.

    A donated step writes into the storage of the state it is given: `before` must be a copy made ahead of the step.
    """
    ratios = tree.map(
        lambda old, new: torch.linalg.vector_norm(new - old) / torch.linalg.vector_norm(old), before, after
    )
    return {path: float(ratio) for path, ratio in tree.flatten(ratios).items()}


def measure(
    loss: Loss, params: Tree, examples: Tree, key: Key
) -> tuple[dict[str, float], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """(scalars by TensorBoard tag, per-example gradient norms, per-example losses). `key` is for the Hessian's probes.

    The examples with the largest norms are the most surprising: `norms.argsort(descending=True)`.
    """
    losses, norms = per_example(loss, params, examples)
    mean_gradient = value_and_grad(loss)(params, examples)[1]
    curvature = hessian(loss, params, examples, key)
    scalars = {
        "gradient_norm/mean": float(norms.mean()),
        "gradient_norm/max": float(norms.max()),
        "noise_scale": noise_scale(norms, tree.global_norm(mean_gradient)),
        **{f"hessian/{name}": value for name, value in curvature._asdict().items()},
    }
    return scalars, norms, losses


def report(here: Place, n: int, before: Tree, after: Tree, losses: dict[str, Loss], examples: Tree) -> Int[Tensor, "n"]:
    """Logs everything above, for each network of a state: `losses` gives the loss of the parameters under a path.

    `before`, `after`: the state on either side of update number n. Returns the numbers of the examples, the most
    surprising, which have the largest gradients of the first loss, first. The same probes are used each time.
    """
    order = None
    for path, loss in losses.items():
        params, device = tree.at(after, path), tree.leaves(examples)[0].device
        scalars, norms, _ = measure(loss, params, examples, random.key(0, device))
        scalars |= {f"update/{name}": x for name, x in update_ratios(tree.at(before, path), params).items()}
        here.log(n, {f"diagnose/{path}/{name}": x for name, x in scalars.items() if math.isfinite(x)})
        order = norms.argsort(descending=True) if order is None else order
        here.write(
            f"step {n}: {path}: gradient norm of an example {scalars['gradient_norm/mean']:.3g}, at most "
            f"{scalars['gradient_norm/max']:.3g}; noise scale {scalars['noise_scale']:.3g} examples; Hessian's "
            f"eigenvalues {scalars['hessian/smallest']:.3g} to {scalars['hessian/largest']:.3g}, trace "
            f"{scalars['hessian/trace']:.3g} ± {scalars['hessian/trace_error']:.2g}"
        )
    assert order is not None
    return order


def dot(a: Tree, b: Tree) -> float:
    """Inner product of two trees taken as vectors."""
    products = [(x * y).sum(dtype=torch.float64) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True)]
    return float(torch.stack(products).sum())


def _like(params: Tree, key: Key, draw: Callable[[Key, tuple[int, ...]], Tensor]) -> Tree:
    """A random vector of the structure, shapes and dtypes of `params`."""
    leaves = tree.leaves(params)
    keys = random.split(key, len(leaves))
    return tree.unflatten(params, [draw(k, tuple(x.shape)).to(x.dtype) for k, x in zip(keys, leaves, strict=True)])
