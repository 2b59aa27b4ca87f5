"""A convolutional classifier of small pictures, whose last hidden layer also serves as features.

Stages of two 3x3 convolutions with batch normalisation and ReLU, each halving the sides (Simonyan & Zisserman 2015's
pattern at the size of Fashion-MNIST), the mean over positions of which a linear layer makes logits.
Axes: b batch, c channels, h height, w width, d features, k classes.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from lib import conv, nn, random
from lib.random import Key
from lib.tree import Tree


@dataclass(frozen=True)
class Config:
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage."""
    channels: int = 1
    classes: int = 10
    dropout: float = 0.0
    """Of the features."""


def init(key: Key, cfg: Config) -> tuple[Tree, Tree]:
    """(params, state): {"stages": [two {"conv", "norm"} a stage], "head"}, and the running statistics of each norm."""
    keys = iter(random.split(key, 2 * len(cfg.widths) + 1))
    stages, states, c = [], [], cfg.channels
    for width in cfg.widths:
        for c_in in (c, width):
            norm, state = conv.batch_norm_init(width, key.device)
            stages.append({"conv": conv.conv_init(next(keys), c_in, width, 3, bias=False), "norm": norm})
            states.append(state)
        c = width
    return {"stages": stages, "head": nn.linear_init(next(keys), c, cfg.classes)}, states


def features(
    params: Tree, state: Tree, x: Float[Tensor, "b c h w"], *, cfg: Config, train: bool
) -> tuple[Float[Tensor, "b d"], Tree]:
    """x in [-1, 1]."""
    after = []
    for i, (p, s) in enumerate(zip(params["stages"], state, strict=True)):
        x, s = conv.batch_norm(p["norm"], s, conv.conv(p["conv"], x, padding=1), train=train)
        x = F.relu(x)
        after.append(s)
        if i % 2 and i + 1 < len(state):
            x = conv.max_pool(x, 2)
    return reduce(x, "b d h w -> b d", "mean"), after


def apply(
    params: Tree, state: Tree, x: Float[Tensor, "b c h w"], key: Key | None = None, *, cfg: Config, train: bool
) -> tuple[Float[Tensor, "b k"], Tree]:
    """Logits. x in [-1, 1]."""
    h, state = features(params, state, x, cfg=cfg, train=train)
    return nn.linear(params["head"], nn.dropout(h, cfg.dropout, key)), state
