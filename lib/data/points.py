"""Points in the plane whose true density is known.

Axes: y classes, k Gaussians of a class, d coordinates.
"""

import math

import torch
from einops import einsum

from lib.faults import DataError
from lib.tree import Tree


def truth(data: str) -> Tree:
    """The density of the points `data`: "conditional", a mixture of k Gaussians {"logits": y k, "mean": y k d,
    "cholesky": y k d d} for each class, and "prior", log p(y). Row by row "cholesky" is the factor L of the covariance
    L L^T below the diagonal and log L on it. Raises DataError.

    pinwheel: each of three classes is a spiral, r = 0.1 + 3.2 t at angle 2 t, of five Gaussians that lie along it.
    pair: two classes of a Gaussian each.
    """
    if data == "pinwheel":
        t, prior = torch.linspace(0.1, 1, 5), torch.tensor([0.4, 0.35, 0.25])
        spiral = torch.polar(0.1 + 3.2 * t, 2 * t)
        along = spiral * (3.2 / (0.1 + 3.2 * t) + 2j)  # the derivative
        along = along / along.abs()
        turn = torch.polar(torch.ones(3), 2 * math.pi / 3 * torch.arange(3))[:, None]
        mean = torch.view_as_real(turn * spiral)
        axes = torch.view_as_real(turn[..., None] * torch.stack([0.42 * along, (0.2 + 0.25 * t) * 1j * along], -1))
    elif data == "pair":
        mean, prior = torch.tensor([[[-0.9, 0.3]], [[1.1, -0.2]]]), torch.tensor([0.6, 0.4])
        axes = torch.tensor([[[[0.9, 0.4], [0.0, 0.6]]], [[[0.5, -0.3], [0.0, 1.1]]]])
    else:
        raise DataError(f"--data {data}: pinwheel or pair")
    cholesky = torch.linalg.cholesky(einsum(axes, axes, "y k a d, y k a e -> y k d e"))
    cholesky = cholesky.tril(-1) + torch.diag_embed(cholesky.diagonal(dim1=-2, dim2=-1).log())
    return {
        "conditional": {"logits": torch.zeros(mean.shape[:2]), "mean": mean, "cholesky": cholesky},
        "prior": prior.log(),
    }
