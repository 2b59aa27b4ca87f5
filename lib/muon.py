"""Muon: momentum whose update is made orthogonal (Jordan et al. 2024), for the weight matrices of hidden layers; and
how two optimisers share one tree.

Axes: n matrices of one shape, r rows, c columns.
"""

import re
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib import optim, tree
from lib.optim import Optimizer, Schedule
from lib.tree import Tree


class MuonState(NamedTuple):
    step: Int[Tensor, ""]
    momentum: Tree


def orthogonalise(
    g: Float[Tensor, "n r c"], steps: int = 5, dtype: torch.dtype = torch.bfloat16
) -> Float[Tensor, "n r c"]:
    """About u v^T where g = u s v^T: a quintic Newton-Schulz iteration whose coefficients bring singular values into
    some [0.7, 1.2], soon rather than near 1. `dtype`: of the matrix products; bf16 is enough."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = g.shape[1] <= g.shape[2]
    x = (g if wide else g.mT).to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x if wide else x.mT).to(g.dtype)


def muon(
    lr: float | Tensor | Schedule,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    dtype: torch.dtype = torch.bfloat16,
) -> Optimizer:
    """m <- momentum m + g;  p <- p (1 - lr weight_decay) - lr 0.2 sqrt(max(r, c)) orthogonalise(g + momentum m).

    The factor gives the update the root mean square of a typical Adam step, so that both take one learning rate (Liu
    et al. 2025, "Muon is scalable for LLM training"). A leaf (d, h, c) counts as the matrix (d, h c), but one whose
    path ends in w_o, (h, c, d), as (h c, d). Matrices of one shape are orthogonalised as one batch, in `dtype`.
    """
    rate = optim.schedule(lr)

    def update(grads: Tree, state: MuonState, params: Tree) -> tuple[Tree, MuonState]:
        m = tree.map(lambda m, g: momentum * m + g, state.momentum, grads)
        nesterov = tree.flatten(tree.map(lambda m, g: g + momentum * m, m, grads))
        matrices = {path: x.flatten(0, -2) if path.endswith("w_o") else x.flatten(1) for path, x in nesterov.items()}
        shapes: dict[tuple[int, ...], list[str]] = {}
        for path, x in matrices.items():
            shapes.setdefault(tuple(x.shape), []).append(path)
        direction: dict[str, Tensor] = {}
        for shape, paths in shapes.items():
            o = orthogonalise(torch.stack([matrices[path] for path in paths]), dtype=dtype) * (0.2 * max(shape) ** 0.5)
            direction |= {path: x.reshape(nesterov[path].shape) for path, x in zip(paths, o.unbind(0), strict=True)}
        alpha = rate(state.step)
        new = tree.map_with_path(lambda path, p: p * (1 - alpha * weight_decay) - alpha * direction[path], params)
        return new, MuonState(state.step + 1, m)

    def init(params: Tree) -> MuonState:
        zero = torch.zeros((), dtype=torch.int32, device=tree.leaves(params)[0].device)
        return MuonState(zero, tree.map(torch.zeros_like, params))

    return Optimizer(init, update)


def partition(chosen: str, one: Optimizer, other: Optimizer) -> Optimizer:
    """Leaves in whose path the regular expression `chosen` is found go to `one`, the rest to `other`, each as a flat
    dict by path. The state is the pair of their states."""

    def parts(whole: Tree) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        leaves = tree.flatten(whole)
        mine = {path: x for path, x in leaves.items() if re.search(chosen, path)}
        return mine, {path: x for path, x in leaves.items() if path not in mine}

    def init(params: Tree) -> tuple[Tree, Tree]:
        mine, theirs = parts(params)
        return one.init(mine), other.init(theirs)

    def update(grads: Tree, state: tuple[Tree, Tree], params: Tree) -> tuple[Tree, tuple[Tree, Tree]]:
        halves = zip((one, other), parts(grads), state, parts(params), strict=True)
        (mine, s_one), (theirs, s_other) = (optimizer.update(g, s, p) for optimizer, g, s, p in halves)
        both = mine | theirs
        return tree.map_with_path(lambda path, _: both[path], params), (s_one, s_other)

    return Optimizer(init, update)
