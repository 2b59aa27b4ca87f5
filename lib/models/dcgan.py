"""DCGAN's two stacks of convolutions (Radford et al. 2016): from a vector to a picture, from a picture to a number.

Between a picture and a map of 4 x 4, each convolution of 4 x 4 halves (or doubles) the sides and doubles (halves) the
channels. Axes: b batch, z inputs, c channels of a picture, s its side.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lib import conv, random
from lib.random import Key
from lib.tree import Tree

Norm = Literal["batch", "instance", "group"]
SIZES = (16, 32, 64, 128, 256)
GROUPS = 8
STD = 0.02  # of all first weights
LABEL = 5.0  # what a label is multiplied by, so that Adam learns its vectors, from zero on, so much faster


def widths(size: int, width: int) -> list[int]:
    """Channels of the maps from the finest, of half the picture's side, to the one of 4 x 4. Raises ValueError."""
    if size not in SIZES:
        raise ValueError(f"no pictures of {size} pixels: a side can be {', '.join(map(str, SIZES))}")
    return [width * 2**i for i in range(size.bit_length() - 3)]


def generator_init(key: Key, z: int, width: int, size: int, labels: int = 0) -> tuple[Tree, Tree]:
    """(params, state) of a generator from z numbers: {"in", "up": [...], "norm": [...], "out", "label": [...] where
    there are labels} and {"norm": [running statistics]}. `width`: channels of its finest map; `labels`: how many
    numbers say what is asked for."""
    coarse_to_fine = widths(size, width)[::-1]
    k_in, k_out, *keys = random.split(key, len(coarse_to_fine) + 1)
    pairs = zip(keys, coarse_to_fine, coarse_to_fine[1:], strict=False)
    norms = [conv.batch_norm_init(c, key.device) for c in coarse_to_fine]
    params = {
        "in": random.normal(k_in, (z, 16 * coarse_to_fine[0])) * STD,
        "up": [conv.conv_transpose_init(k, c, f, 4, bias=False, std=STD) for k, c, f in pairs],
        "norm": [p for p, _ in norms],
        "out": conv.conv_transpose_init(k_out, width, 3, 4, std=STD),
    }
    if labels:
        of_map = lambda c: {name: torch.zeros(labels, c, device=key.device) for name in ("scale", "bias")}  # noqa: E731
        params["label"] = [of_map(c) for c in coarse_to_fine]
    return params, {"norm": [s for _, s in norms]}


def generate(
    p: Tree, state: Tree, z: Float[Tensor, "b z"], label: Float[Tensor, "b k"] | None = None, *, train: bool
) -> tuple[Float[Tensor, "b 3 s s"], Tree]:
    """Pictures in [-1, 1], and the state after this batch. A label scales and shifts the channels of each normalised
    map (Dumoulin et al. 2017, equation 5), linearly, so that labels can be blended."""
    x = rearrange(z.to(p["in"].dtype) @ p["in"], "b (c h w) -> b c h w", h=4, w=4)
    after = []
    for i, (norm, s) in enumerate(zip(p["norm"], state["norm"], strict=True)):
        if i:
            x = conv.conv_transpose(p["up"][i - 1], x, stride=2, padding=1)
        x, s = conv.batch_norm(norm, s, x, train=train)
        if label is not None:
            of_map = {name: LABEL * label.to(w.dtype) @ w for name, w in p["label"][i].items()}
            scale, bias = (rearrange(of_map[name], "b f -> b f 1 1") for name in ("scale", "bias"))
            x = x * (1 + scale) + bias
        x = F.relu(x)
        after.append(s)
    return conv.conv_transpose(p["out"], x, stride=2, padding=1).tanh(), {"norm": after}


def discriminator_init(key: Key, c: int, width: int, size: int, norm: Norm) -> tuple[Tree, Tree]:
    """(params, state) of a discriminator of pictures with c channels: {"in", "down": [...], "norm": [...], "out"} and
    of batch normalisation {"norm": [running statistics]}. `width`: channels of its finest map."""
    fine_to_coarse = widths(size, width)
    k_in, k_out, *keys = random.split(key, len(fine_to_coarse) + 1)
    pairs = list(zip(keys, fine_to_coarse, fine_to_coarse[1:], strict=False))
    params = {
        "in": conv.conv_init(k_in, c, width, 4, std=STD),
        "down": [conv.conv_init(k, c, f, 4, bias=False, std=STD) for k, c, f in pairs],
        "norm": [conv.group_norm_init(f, key.device) for *_, f in pairs],
        "out": conv.conv_init(k_out, fine_to_coarse[-1], 1, 4, std=STD),
    }
    states = [conv.batch_norm_init(f, key.device)[1] for *_, f in pairs]
    return params, {"norm": states} if norm == "batch" else {}


def features(
    p: Tree, state: Tree, x: Float[Tensor, "b c s s"], *, norm: Norm, train: bool = True
) -> tuple[Float[Tensor, "b f 4 4"], Tree]:
    """The last map of a discriminator, and the state after this batch: statistics of batch normalisation, with which a
    picture's map depends on the whole batch; nothing otherwise. No normalisation of the first map."""
    h, after = conv.conv(p["in"], x.to(p["in"]["w"].dtype), stride=2, padding=1), []
    for i, (q, scale) in enumerate(zip(p["down"], p["norm"], strict=True)):
        h = conv.conv(q, F.leaky_relu(h, 0.2), stride=2, padding=1)
        if norm == "batch":
            h, s = conv.batch_norm(scale, state["norm"][i], h, train=train)
            after.append(s)
        else:
            h = conv.group_norm(scale, h, GROUPS) if norm == "group" else conv.instance_norm(scale, h)
    return F.leaky_relu(h, 0.2), {"norm": after} if after else {}


def discriminate(
    p: Tree, state: Tree, x: Float[Tensor, "b c s s"], *, norm: Norm, train: bool = True
) -> tuple[Float[Tensor, "b"], Tree]:
    """A number for each picture, high for real, and the state after this batch."""
    h, state = features(p, state, x, norm=norm, train=train)
    return judged(p, h), state


def judged(p: Tree, h: Float[Tensor, "b f 4 4"]) -> Float[Tensor, "b"]:
    """The number for a last map."""
    return rearrange(conv.conv(p["out"], h), "b 1 1 1 -> b").float()
