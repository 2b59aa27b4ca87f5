"""A U-Net that is told how much noise a picture has (Ronneberger et al. 2015; Ho et al. 2020).

Pictures are first folded, patch x patch pixels into one position, so that no map is larger than that leaves it.
Axes: b batch, c channels, h height, w width, e numbers of the embedding, k numbers that say what is asked for.
"""

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lib import attention, conv, nn, random, tree
from lib.random import Key
from lib.tree import Tree

GROUPS = 8
WAVES = 32  # numbers that say the noise level
SLOWEST, FASTEST = 0.25, 8.0  # waves of a noise label from 0 to 1


@dataclass(frozen=True)
class Config:
    size: int = 64
    widths: tuple[int, ...] = (32, 64, 96, 128)  # channels of each level, the finest first; a level has half the side
    blocks: int = 1  # residual blocks of a level, on the way down and on the way up
    attention: int = 1  # levels with attention, the coarsest ones
    patch: int = 2
    channels: int = 3
    labels: int = 0
    given: int = 0  # channels beside those with noise, which say what is known of the picture

    def __post_init__(self) -> None:
        if not self.widths or any(width % GROUPS for width in self.widths):
            raise ValueError(f"widths {self.widths}: multiples of {GROUPS} are needed")
        step = self.patch * 2 ** (len(self.widths) - 1)
        if self.size % step:
            raise ValueError(f"{len(self.widths)} levels need a size that is a multiple of {step}, not {self.size}")
        if self.size == step and self.widths[-1] == GROUPS:
            raise ValueError(f"size {self.size}: nothing is left to normalise at the coarsest level, of one position")
        if not 0 <= self.attention <= len(self.widths):
            raise ValueError(f"attention {self.attention}: there are {len(self.widths)} levels")

    @property
    def embedding(self) -> int:
        return 4 * self.widths[0]


def block_init(key: Key, c: int, f: int, embedding: int, attends: bool = False) -> Tree:
    """{"norm_in", "conv_in", "embed", "conv_out", "skip" where c is not f, "norm_attn" and "attn" where it attends};
    the last convolution and the last map of attention are 0, so that a block begins as the identity."""
    k_in, k_embed, k_out, k_skip, k_attn = random.split(key, 5)
    p = {
        "norm_in": conv.group_norm_init(c, key.device),
        "conv_in": conv.conv_init(k_in, c, f, 3),
        "embed": nn.linear_init(k_embed, embedding, 2 * f),
        "conv_out": conv.conv_init(k_out, f, f, 3, std=0.0),
    }
    if c != f:
        p["skip"] = conv.conv_init(k_skip, c, f, 1, std=1 / math.sqrt(c))
    if attends:
        attn = attention.attention_init(k_attn, f, math.gcd(f, max(1, f // 32)))
        p |= {"norm_attn": conv.group_norm_init(f, key.device), "attn": {**attn, "w_o": attn["w_o"] * 0}}
    return p


def norm(p: Tree, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Group norm. Scale and bias come after it: where they are in it, its jvp does not compile (LOG.md)."""
    return conv.group_norm({}, x, GROUPS) * p["scale"][:, None, None] + p["bias"][:, None, None]


def block(
    p: Tree, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], plain: bool = False
) -> Float[Tensor, "b f h w"]:
    """Two convolutions around a norm whose scale and shift the embedding gives, beside the identity; then attention
    over all positions, where there is any."""
    h = conv.conv(p["conv_in"], F.silu(norm(p["norm_in"], x)), padding=1)
    scale, shift = rearrange(nn.linear(p["embed"], embedding), "b (two f) -> two b f 1 1", two=2)
    h = conv.group_norm({}, h, GROUPS) * (1 + scale) + shift
    x = (conv.conv(p["skip"], x) if "skip" in p else x) + conv.conv(p["conv_out"], F.silu(h), padding=1)
    if "attn" not in p:
        return x
    h = rearrange(norm(p["norm_attn"], x), "b f h w -> b (h w) f")
    h, _ = attention.attention(p["attn"], h, attention.keys_values(p["attn"], h), weights=plain)
    return x + rearrange(h, "b (h w) f -> b f h w", h=x.shape[2])


def init(key: Key, cfg: Config) -> Tree:
    """{"embed": two maps, "label" where there are labels, "in", "down": [levels of blocks], "middle": [two blocks],
    "up": [levels of blocks, the coarsest first], "narrow": [what comes before each of them but the first], "norm",
    "out", "filter": of the input, "gain": of that}; "out" and "filter" are 0, so that a new network predicts 0."""
    k_embed, k_label, k_in, k_out, k_down, k_middle, k_up, k_narrow = random.split(key, 8)
    first, levels = cfg.widths[0], len(cfg.widths)
    folded, given = cfg.channels * cfg.patch**2, cfg.given * cfg.patch**2
    attends = [i >= levels - cfg.attention for i in range(levels)]

    def level(key: Key, i: int, c: int) -> list[Tree]:
        f = cfg.widths[i]
        keys = random.split(key, cfg.blocks)
        return [block_init(k, c if j == 0 else f, f, cfg.embedding, attends[i]) for j, k in enumerate(keys)]

    down, up, middle = random.split(k_down, levels), random.split(k_up, levels), random.split(k_middle)
    last = cfg.widths[-1]
    p = {
        "embed": nn.mlp_init(k_embed, [WAVES, cfg.embedding, cfg.embedding]),
        "in": conv.conv_init(k_in, folded + given, first, 3, std=1 / math.sqrt(9 * (folded + given))),
        "down": [level(down[i], i, cfg.widths[max(0, i - 1)]) for i in range(levels)],
        "middle": [block_init(k, last, last, cfg.embedding, cfg.attention > 0) for k in middle],
        "up": [level(up[i], i, 2 * cfg.widths[i]) for i in reversed(range(levels))],
        "narrow": [
            conv.conv_init(random.fold_in(k_narrow, i), c, f, 1, std=c**-0.5)
            for i, (c, f) in enumerate(itertools.pairwise(reversed(cfg.widths)))
        ],
        "norm": conv.group_norm_init(first, key.device),
        "out": conv.conv_init(k_out, first, folded, 3, std=0.0),
        "filter": conv.conv_init(k_out, folded, folded, 3, std=0.0),
        "gain": tree.map(torch.zeros_like, nn.linear_init(k_out, cfg.embedding, folded)),
    }  # fmt: skip
    return p | ({"label": nn.linear_init(k_label, cfg.labels, cfg.embedding, bias=False)} if cfg.labels else {})


def waves(x: Float[Tensor, "b"]) -> Float[Tensor, "b w"]:
    """WAVES numbers that say a number of about -1 to 1: cosines and sines of it at rising rates."""
    rate = torch.exp(torch.linspace(math.log(SLOWEST), math.log(FASTEST), WAVES // 2, device=x.device))
    angle = 2 * math.pi * x[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], 1)


def embed(p: Tree, noise: Float[Tensor, "b"], label: Float[Tensor, "b k"] | None) -> Float[Tensor, "b e"]:
    """Waves of the noise label through two maps, and what is asked for added to it."""
    dtype = p["embed"][0]["w"].dtype
    found = nn.mlp(p["embed"], waves(noise).to(dtype), activation=F.silu)
    return F.silu(found if label is None else found + nn.linear(p["label"], label.to(dtype)))


def apply(
    p: Tree,
    x: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b"],
    label: Float[Tensor, "b k"] | None = None,
    given: Float[Tensor, "b g h w"] | None = None,
    *,
    cfg: Config,
    plain: bool = False,
) -> Float[Tensor, "b c h w"]:
    """What is predicted of pictures with noise, in fp32. A linear filter of the input is added to what the U makes,
    with a gain for each noise level: faint noise is found by it in a few steps, where the U takes hundreds (LOG.md).
    `plain`: with attention written out, for a jvp that is compiled, where `second_order` does not see it."""
    embedding = embed(p, noise, label)
    folded = F.pixel_unshuffle(x, cfg.patch).to(embedding.dtype)
    beside = [] if given is None else [F.pixel_unshuffle(given, cfg.patch).to(embedding.dtype)]
    h = conv.conv(p["in"], torch.cat([folded, *beside], 1), padding=1)
    kept = []
    for i, blocks in enumerate(p["down"]):
        h = F.avg_pool2d(h, 2) if i else h
        for q in blocks:
            h = block(q, h, embedding, plain)
        kept.append(h)
    for q in p["middle"]:
        h = block(q, h, embedding, plain)
    for i, (blocks, skip) in enumerate(zip(p["up"], reversed(kept), strict=True)):
        h = F.interpolate(conv.conv(p["narrow"][i - 1], h), scale_factor=2) if i else h
        h = torch.cat([h, skip], 1)
        for q in blocks:
            h = block(q, h, embedding, plain)
    h = conv.conv(p["out"], F.silu(norm(p["norm"], h)), padding=1)
    gain = nn.linear(p["gain"], embedding).exp()[:, :, None, None]
    h = h + conv.conv(p["filter"], folded, padding=1) * gain
    return F.pixel_shuffle(h.float(), cfg.patch)
