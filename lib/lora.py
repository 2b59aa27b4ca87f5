"""Low-rank adapters (LoRA, Hu et al. 2021): a frozen weight W plus a trained product of two thin matrices.

Axes: i inputs of a weight, o its outputs (one or more axes each, heads being axes of their own), r rank.
"""

import math
import re

import torch

from lib import random, tree
from lib.random import Key
from lib.tree import Tree

# Weights that read heads and channels; all others have one axis of inputs, the first.
TWO_INPUTS = r"\.w_o$"


def init(key: Key, params: Tree, pattern: str, rank: int) -> Tree:
    """{path: {"a": (i, r), "b": (r, o)}} for the weights in whose path the regular expression `pattern` is found.

    a is normal with variance 1 / inputs and b zero, so that the first update starts from the weights as they are
    (section 4.1). Raises ValueError where the pattern finds nothing, or something that is no matrix.
    """
    found = {path: w for path, w in tree.flatten(params).items() if re.search(pattern, path)}
    if not found or any(w.ndim < 2 for w in found.values()):
        raise ValueError(f"no matrices to adapt: {pattern!r} finds {', '.join(found) or 'nothing'}")
    adapters = {}
    for k, (path, w) in zip(random.split(key, len(found)), found.items(), strict=True):
        n = 2 if re.search(TWO_INPUTS, path) else 1
        inputs, outputs = tuple(w.shape[:n]), tuple(w.shape[n:])
        a = random.normal(k, (*inputs, rank)) / math.sqrt(math.prod(inputs))
        adapters[path] = {"a": a, "b": torch.zeros(rank, *outputs, device=key.device)}
    return adapters


def merged(params: Tree, adapters: Tree, scale: float) -> Tree:
    """W + scale a b in place of every adapted W: x W + scale (x a) b without a layer that knows of it. The backward
    pass makes W's whole gradient on the way, so what is saved is the optimiser's memory, not time."""

    def weight(path: str, w: torch.Tensor) -> torch.Tensor:
        if path not in adapters:
            return w
        return w + scale * torch.tensordot(adapters[path]["a"], adapters[path]["b"], 1)

    return tree.map_with_path(weight, params)
