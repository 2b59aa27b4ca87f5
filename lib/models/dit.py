"""A diffusion Transformer that reads a text (Peebles & Xie 2023; Chen et al. 2024, "PixArt-alpha").

A picture is cut into patches, one position each; every block attends to all of them, then to the words. The noise
level scales, shifts and gates what the branches do, by one map for all blocks and a table of its own in each.
Axes: b batch, t positions, l words, d width, e width of the words, c channels, h height, w width of a picture.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import attention, conv, nn, random, transformer, tree
from lib.models.unet import WAVES, waves
from lib.random import Key
from lib.tree import Tree

LOCAL = 16  # channels of what is made of the patches before the output


@dataclass(frozen=True)
class Config:
    size: int = 32
    patch: int = 4
    width: int = 256
    heads: int = 4
    blocks: int = 6
    words: int = 256  # width of the words' features
    channels: int = 3

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")

    @property
    def positions(self) -> int:
        return (self.size // self.patch) ** 2


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
    """{"embed": two maps of the noise level, "adapt": from it to six vectors, "in", "positions", "blocks", "norm": two
    vectors for the last, "patches": what each position becomes, "smooth": a convolution over those, "out", "filter": of
    the input, "gain": of that}; "out" and "filter" are 0, so that a new network predicts 0."""
    k_embed, k_adapt, k_in, k_positions, k_blocks, k_patches, k_smooth = random.split(key, 7)
    d, c, area = cfg.width, cfg.channels, cfg.patch**2
    zero = lambda p: tree.map(torch.zeros_like, p)  # noqa: E731
    return {
        "embed": nn.mlp_init(k_embed, [WAVES, d, d]),
        "adapt": nn.linear_init(k_adapt, d, 6 * d),
        "in": nn.linear_init(k_in, c * area, d),
        "positions": random.normal(k_positions, (cfg.positions, d)) * 0.3,
        "blocks": [block_init(k, cfg) for k in random.split(k_blocks, cfg.blocks)],
        "norm": torch.zeros(2, d, device=key.device),
        "patches": nn.linear_init(k_patches, d, LOCAL * area),
        "smooth": conv.conv_init(k_smooth, LOCAL + c, LOCAL, 3),
        "out": conv.conv_init(k_smooth, LOCAL, c, 3, std=0.0),
        "filter": conv.conv_init(k_smooth, c, c, 3, std=0.0),
        "gain": zero(nn.linear_init(k_smooth, d, c)),
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
    dtype = p["in"]["w"].dtype
    embedding = F.silu(nn.mlp(p["embed"], waves(noise).to(dtype), activation=F.silu))
    told = rearrange(nn.linear(p["adapt"], embedding), "b (six d) -> b six d", six=6)
    given, words, size = x.to(dtype), words.to(dtype), cfg.size // cfg.patch
    h = nn.linear(p["in"], rearrange(F.pixel_unshuffle(given, cfg.patch), "b c h w -> b (h w) c")) + p["positions"]
    seen = []
    for q in p["blocks"]:
        h, of_words = block(q, h, told, words, mask, weights)
        seen += [of_words] if of_words is not None else []
    h = nn.linear(p["patches"], adapted(h, *p["norm"]))
    h = F.pixel_shuffle(rearrange(h, "b (h w) c -> b c h w", h=size), cfg.patch)
    h = F.silu(conv.conv(p["smooth"], torch.cat([h, given], 1), padding=1))  # else the patches' edges are seen
    gain = nn.linear(p["gain"], embedding).exp()[:, :, None, None]
    return (conv.conv(p["out"], h, padding=1) + conv.conv(p["filter"], given, padding=1) * gain).float(), seen


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
