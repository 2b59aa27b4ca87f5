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


# Of s, s^3 and s^5, in turn: the first three steps of the Polar Express (Amsel et al. 2025) for singular values from
# 1e-3. Five of Jordan's, which end in [0.7, 1.2], make a training step a seventh longer and it learns no more (LOG.md).
POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)


def orthogonalise(g: Float[Tensor, "n r c"], dtype: torch.dtype) -> Float[Tensor, "n r c"]:
    """Roughly u v^T where g = u s v^T: three polynomials bring every singular value above a 700th of g's norm into
    [0.18, 1.87], without a decomposition. `dtype`: of the matrix products; bf16 is enough, where it is fast."""
    wide = g.shape[1] <= g.shape[2]
    x = (g if wide else g.mT).to(dtype)
    x = x / (1.01 * x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in POLYNOMIALS:
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x if wide else x.mT).to(g.dtype)


def muon(
    lr: float | Tensor | Schedule,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    *,
    dtype: torch.dtype,
) -> Optimizer:
    """m <- momentum m + g;  p <- p (1 - lr weight_decay) - lr 0.2 sqrt(max(r, c)) orthogonalise(g + momentum m).

    The factor gives the update the root mean square of a typical Adam step, so that both take one learning rate (Liu
    et al. 2025, "Muon is scalable for LLM training"). Attention's leaves (d, h, c) and w_o, (h, c, d), are a matrix for
    each head. Matrices of one shape are orthogonalised as one batch, in `dtype`.
    """
    rate = optim.schedule(lr)

    def update(grads: Tree, state: MuonState, params: Tree) -> tuple[Tree, MuonState]:
        m = tree.map(lambda m, g: momentum * m + g, state.momentum, grads)
        nesterov = tree.flatten(tree.map(lambda m, g: g + momentum * m, m, grads))
        matrices = {path: x.flatten(1) if x.ndim == 4 else _heads_first(path, x) for path, x in nesterov.items()}
        shapes: dict[tuple[int, ...], list[str]] = {}
        for path, x in matrices.items():
            shapes.setdefault(tuple(x.shape[-2:]), []).append(path)
        direction: dict[str, Tensor] = {}
        for shape, paths in shapes.items():
            batch = [matrices[path].reshape(-1, *shape) for path in paths]
            o = orthogonalise(torch.cat(batch), dtype=dtype) * (0.2 * max(shape) ** 0.5)
            for path, x in zip(paths, o.split(list(map(len, batch))), strict=True):
                shaped = x.reshape(matrices[path].shape)
                direction[path] = _heads_first(path, shaped).reshape(nesterov[path].shape)
        alpha = rate(state.step)
        new = tree.map_with_path(lambda path, p: p * (1 - alpha * weight_decay) - alpha * direction[path], params)
        return new, MuonState(state.step + 1, m)

    def init(params: Tree) -> MuonState:
        zero = torch.zeros((), dtype=torch.int32, device=tree.leaves(params)[0].device)
        return MuonState(zero, tree.map(torch.zeros_like, params))

    return Optimizer(init, update)


def _heads_first(path: str, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """(d, h, c) to (h, d, c) and back; anything else as it is."""
    return x.transpose(0, 1) if x.ndim == 3 and not path.endswith("w_o") else x


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
