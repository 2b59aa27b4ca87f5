"""A diffusion Transformer that reads a text (Peebles & Xie 2023; Chen et al. 2024, "PixArt-alpha"), with convolutions
around it (Hoogeboom et al. 2023, "simple diffusion").

Convolutions make one position of four pixels a side, and pixels of them again, beside what they had before; every block
attends to all positions, then to the words. The noise level and the words' mean scale, shift and gate what the branches
do, by one map for all blocks and a table of its own in each.
Axes: b batch, t positions, l words, d width, e width of the words, c channels, h height, w width of a picture.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import attention, conv, nn, random, transformer, tree
from lib.models import unet
from lib.models.unet import WAVES, waves
from lib.random import Key
from lib.tree import Tree

FOLD = 2  # pixels of a side that are one position of the convolutions; the Transformer has half of those a side


@dataclass(frozen=True)
class Config:
    size: int = 32
    fine: int = 64  # channels of the convolutions around the Transformer
    around: int = 1  # blocks of them on each side
    width: int = 192
    heads: int = 4
    blocks: int = 4
    words: int = 192  # width of the words' features
    channels: int = 3

    def __post_init__(self) -> None:
        if self.size % (2 * FOLD):
            raise ValueError(f"size {self.size} is not a multiple of {2 * FOLD}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.fine % unet.GROUPS:
            raise ValueError(f"fine {self.fine} is not a multiple of {unet.GROUPS}")
        if not self.around:
            raise ValueError("around 0: one block on each side at least")

    @property
    def side(self) -> int:
        return self.size // (2 * FOLD)

    @property
    def positions(self) -> int:
        return self.side**2


def block_init(key: Key, cfg: Config) -> Tree:
    """{"attn", "cross", "ff": {"in", "out"}, "table": six vectors}; what ends a branch is 0, so that a block begins as
    the identity."""
    d, (k_attn, k_cross, k_in) = cfg.width, random.split(key, 3)

    def attends(key: Key, memory: int) -> Tree:
        p = attention.attention_init(key, d, cfg.heads, normed=True)
        if memory != d:
            k_k, k_v = random.split(random.fold_in(key, 1))
            p |= {
                name: nn.xavier(k, (memory, *p[name].shape[1:]), memory, d) for name, k in (("w_k", k_k), ("w_v", k_v))
            }
        return p | {"w_o": torch.zeros_like(p["w_o"])}

    return {
        "attn": attends(k_attn, d),
        "cross": attends(k_cross, cfg.words),
        "ff": {"in": nn.linear_init(k_in, d, 4 * d), "out": tree.map(torch.zeros_like, nn.linear_init(k_in, 4 * d, d))},
        "table": torch.zeros(6, d, device=key.device),
    }


def init(key: Key, cfg: Config) -> Tree:
    """{"embed": two maps of the noise level, "pool": two of all words together, "adapt": from those to six vectors,
    "in", "down": blocks of the U-Net, "wide", "positions", "blocks", "norm": two vectors for the last, "narrow", "up",
    "norm_out", "out", "filter" of the input, "gain" of that}; "out" and "filter" are 0, so that a new network predicts
    0."""
    k_embed, k_pool, k_adapt, k_in, k_down, k_wide, k_positions, k_blocks, k_narrow, k_up = random.split(key, 10)
    d, f, c = cfg.width, cfg.fine, cfg.channels * FOLD**2
    up = [2 * f] + [f] * (cfg.around - 1)
    return {
        "embed": nn.mlp_init(k_embed, [WAVES, d, d]),
        "pool": nn.mlp_init(k_pool, [cfg.words, d, d]),
        "adapt": nn.linear_init(k_adapt, d, 6 * d),
        "in": conv.conv_init(k_in, c, f, 3, std=1 / math.sqrt(9 * c)),
        "down": [unet.block_init(k, f, f, d) for k in random.split(k_down, cfg.around)],
        "wide": conv.conv_init(k_wide, f, d, 1, std=f**-0.5),
        "positions": random.normal(k_positions, (cfg.positions, d)) * 0.3,
        "blocks": [block_init(k, cfg) for k in random.split(k_blocks, cfg.blocks)],
        "norm": torch.zeros(2, d, device=key.device),
        "narrow": conv.conv_init(k_narrow, d, f, 1, std=d**-0.5),
        "up": [unet.block_init(k, g, f, d) for k, g in zip(random.split(k_up, cfg.around), up, strict=True)],
        "norm_out": conv.group_norm_init(f, key.device),
        "out": conv.conv_init(k_in, f, c, 3, std=0.0),
        "filter": conv.conv_init(k_in, c, c, 3, std=0.0),
        "gain": tree.map(torch.zeros_like, nn.linear_init(k_in, d, c)),
    }


def adapted(x: Float[Tensor, "b t d"], shift: Tensor, scale: Tensor) -> Float[Tensor, "b t d"]:
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def block(
    p: Tree,
    x: Float[Tensor, "b t d"],
    told: Float[Tensor, "b six d"],
    words: Float[Tensor, "b l e"],
    mask: Bool[Tensor, "b l"],
    weights: bool = False,
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b heads t l"] | None]:
    """Positions among themselves, positions to words, and each by itself; with `weights` those of the words as well."""
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (told + p["table"])[:, :, None].unbind(1)
    h = adapted(x, shift_a, scale_a)
    h, _ = attention.attention(p["attn"], h, attention.keys_values(p["attn"], h))
    x = x + (1 + gate_a) * h
    h = F.layer_norm(x, x.shape[-1:])
    kv = attention.keys_values(p["cross"], words)
    h, seen = attention.attention(p["cross"], h, kv, rearrange(mask, "b l -> b 1 1 l"), weights=weights)
    x = x + h
    h = F.gelu(nn.linear(p["ff"]["in"], adapted(x, shift_f, scale_f)), approximate="tanh")
    return x + (1 + gate_f) * nn.linear(p["ff"]["out"], h), seen


def apply(
    p: Tree,
    x: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b"],
    words: Float[Tensor, "b l e"],
    mask: Bool[Tensor, "b l"],
    *,
    cfg: Config,
    weights: bool = False,
) -> tuple[Float[Tensor, "b c h w"], list[Float[Tensor, "b heads t l"]]]:
    """What is predicted of pictures with noise, in fp32; with `weights` how much each position heeds each word, block
    by block. `mask`: True where there is a word; one at least in each text."""
    dtype = p["positions"].dtype
    words, there = words.to(dtype), mask[:, :, None].to(dtype)
    pool = nn.mlp(p["pool"], (words * there).sum(1) / there.sum(1), activation=F.silu)
    embedding = F.silu(nn.mlp(p["embed"], waves(noise).to(dtype), activation=F.silu) + pool)
    told = rearrange(nn.linear(p["adapt"], embedding), "b (six d) -> b six d", six=6)
    folded = F.pixel_unshuffle(x, FOLD).to(dtype)
    fine = conv.conv(p["in"], folded, padding=1)
    for q in p["down"]:
        fine = unet.block(q, fine, embedding)
    h = conv.conv(p["wide"], F.avg_pool2d(fine, 2))
    h, seen = rearrange(h, "b d h w -> b (h w) d") + p["positions"], []
    for q in p["blocks"]:
        h, of_words = block(q, h, told, words, mask, weights)
        seen += [of_words] if of_words is not None else []
    h = rearrange(adapted(h, *p["norm"]), "b (h w) d -> b d h w", h=cfg.side)
    h = torch.cat([F.interpolate(conv.conv(p["narrow"], h), scale_factor=2), fine], 1)
    for q in p["up"]:
        h = unet.block(q, h, embedding)
    h = conv.conv(p["out"], F.silu(unet.norm(p["norm_out"], h)), padding=1)
    gain = nn.linear(p["gain"], embedding).exp()[:, :, None, None]
    return F.pixel_shuffle((h + conv.conv(p["filter"], folded, padding=1) * gain).float(), FOLD), seen


# ---- the words ----


def text_init(key: Key, vocabulary: int, length: int, cfg: transformer.Config, blocks: int = 2) -> Tree:
    """{"words", "positions", "stack"} of texts of at most `length` words."""
    k_words, k_positions, k_stack = random.split(key, 3)
    return {
        "words": random.normal(k_words, (vocabulary, cfg.width)) * 0.5,
        "positions": random.normal(k_positions, (length, cfg.width)) * 0.1,
        "stack": transformer.stack_init(k_stack, blocks, cfg),
    }


def text(
    p: Tree, ids: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"], *, cfg: transformer.Config
) -> Float[Tensor, "b l e"]:
    """Features of words that have seen one another; all is padding where `mask` is False."""
    x = nn.embedding(p["words"], ids) + p["positions"][: ids.shape[1]]
    return transformer.stack(p["stack"], x, rearrange(mask, "b l -> b 1 1 l"), cfg=cfg)[0]
