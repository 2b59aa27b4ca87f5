"""A generator of four voices over two bars and its critic (Dong et al. 2018, "MuseGAN", the hybrid model).

What the voices share and what is their own, what changes from bar to bar and what does not, each has its own noise:
chords (shared, changes), style (shared), melody (of a voice, changes), groove (of a voice). Axes: b batch, v voices, m
bars, s sixteenths of a bar, t of all bars, k kinds of tokens, r pitches and a rest, z noise.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from lib import nn, random
from lib.data import voices
from lib.random import Key
from lib.tree import Tree

VOICES, BARS = len(voices.NAMES), 2
SOUNDS = voices.KINDS - 1  # pitches and a rest
LAST = BARS * voices.BAR // 2**3  # positions behind the critic's convolutions
UPS = 4  # times that a bar doubles, from one position to sixteen


@dataclass(frozen=True)
class Config:
    noise: int = 32  # of each of the four
    temporal: int = 256
    bar: int = 256  # channels of a bar's first position; each doubling but the first halves them, down to `least`
    least: int = 128
    critic: int = 128

    def widths(self) -> list[int]:
        return [max(self.least, self.bar // 2 ** max(0, i - 1)) for i in range(UPS + 1)]


class Noise(NamedTuple):
    """Standard normal."""

    chords: Float[Tensor, "b z"]
    style: Float[Tensor, "b z"]
    melody: Float[Tensor, "b v z"]
    groove: Float[Tensor, "b v z"]


def noise(key: Key, b: int, cfg: Config) -> Noise:
    keys = random.split(key, 4)
    shapes = [(b, cfg.noise)] * 2 + [(b, VOICES, cfg.noise)] * 2
    return Noise(*(random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)))


def _dense(key: Key, n: int, d: int, f: int) -> Tree:
    """n maps side by side: {"w": (n, d, f), "b": (n, f)}, He-normal."""
    return {"w": random.normal(key, (n, d, f)) * (2 / d) ** 0.5, "b": torch.zeros(n, f, device=key.device)}


def _mapped(p: Tree, x: Float[Tensor, "b n *t d"]) -> Float[Tensor, "b n *t f"]:
    """Each of n maps of its own part of x."""
    shape = (1, p["b"].shape[0], *[1] * (x.ndim - 3), p["b"].shape[1])
    return torch.einsum("bn...d,ndf->bn...f", x, p["w"]) + p["b"].view(shape)


def generator_init(key: Key, cfg: Config) -> Tree:
    """{"temporal": [two maps for the chords and each voice's melody], "bar": [maps of each voice], "out"}."""
    k_time, k_bar, k_out = random.split(key, 3)
    a, b = random.split(k_time)
    temporal = [_dense(a, 1 + VOICES, cfg.noise, BARS * cfg.temporal), _dense(b, 1 + VOICES, cfg.temporal, cfg.noise)]
    widths = [4 * cfg.noise, *cfg.widths()]
    sizes = [(d, f if i == 0 else 2 * f) for i, (d, f) in enumerate(itertools.pairwise(widths))]
    keys = random.split(k_bar, len(sizes))
    bar = [_dense(k, VOICES, *size) for k, size in zip(keys, sizes, strict=True)]
    return {"temporal": temporal, "bar": bar, "out": _dense(k_out, VOICES, widths[-1], voices.KINDS)}


def _normed(x: Tensor) -> Tensor:
    """Each position by itself, where the book has the batch's statistics, which a sample must not depend on."""
    return F.relu(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


def generate(p: Tree, z: Noise, *, cfg: Config) -> Float[Tensor, "b t v k"]:
    """Probabilities of the tokens of every cell. Nothing is held before something was struck."""
    changing = torch.cat([z.chords[:, None], z.melody], 1)
    h = _normed(rearrange(_mapped(p["temporal"][0], changing), "b n (m c) -> b n m c", m=BARS))
    h = _mapped(p["temporal"][1], h)
    chords, melody = repeat(h[:, 0], "b m z -> b v m z", v=VOICES), h[:, 1:]
    still = [repeat(z.style, "b z -> b v m z", v=VOICES, m=BARS), repeat(z.groove, "b v z -> b v m z", m=BARS)]
    x = torch.cat([chords, still[0], melody, still[1]], -1)
    x = _normed(_mapped(p["bar"][0], x))[..., None, :]
    for layer in p["bar"][1:]:  # transposed convolutions whose kernel is as wide as their stride
        x = _normed(rearrange(_mapped(layer, x), "b v m s (two c) -> b v m (s two) c", two=2))
    logits = rearrange(_mapped(p["out"], x), "b v m s k -> b (m s) v k")
    first = torch.arange(logits.shape[1], device=logits.device)[:, None, None] == 0
    hold = torch.arange(voices.KINDS, device=logits.device) == voices.HOLD
    return logits.masked_fill(first & hold, -torch.inf).softmax(-1)


def straight_through(p: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
    """The likeliest token as one-hot, with the derivative of the probabilities (Bengio et al. 2013)."""
    return p + (one_hot(p.argmax(-1)).to(p.dtype) - p).detach()


def roll(tokens: Float[Tensor, "b t v k"]) -> Float[Tensor, "b t v k"]:
    """What is heard: for each cell pitches and a rest, held notes too, and whether it is struck. Of probabilities it is
    what is heard on average, if tokens were drawn one by one."""
    hold, fresh = tokens[..., voices.HOLD, None], tokens[..., voices.REST :]
    sounds = [fresh[:, 0]]
    for i in range(1, tokens.shape[1]):
        sounds.append(fresh[:, i] + hold[:, i] * sounds[-1])
    struck = tokens[..., voices.REST + 1 :].sum(-1, keepdim=True)
    return torch.cat([torch.stack(sounds, 1), struck], -1)


def critic_init(key: Key, cfg: Config) -> Tree:
    """{"alone": maps of each voice's cells, "together": of all voices', "mixed", "time": convolutions, "out"}."""
    keys, c, heard = random.split(key, 8), cfg.critic, SOUNDS + 1
    return {
        "alone": _dense(keys[0], VOICES, heard, c // 2),
        "together": _dense(keys[1], 1, VOICES * heard, 2 * c),
        "mixed": _dense(keys[2], 1, 4 * c, 2 * c),
        "time": [_conv(k, 2 * c) for k in keys[3:6]],
        "out": [
            nn.linear_init(keys[6], 2 * c * LAST, 2 * c),
            nn.linear_init(keys[7], 2 * c, 1, bias=False),  # which would have no derivative
        ],
    }


def _conv(key: Key, c: int) -> Tree:
    return {"w": random.normal(key, (c, c, 4)) * (2 / (4 * c)) ** 0.5, "b": torch.zeros(c, device=key.device)}


def criticise(p: Tree, heard: Float[Tensor, "b t v k"]) -> Float[Tensor, "b"]:
    """How real each example seems. Convolutions over voices, time and pitch whose kernels span all pitches: of each
    voice by itself, MuseGAN's private branch, and of all at once, which hears chords; then over time."""
    leaky = lambda x: F.leaky_relu(x, 0.2)  # noqa: E731
    alone = leaky(_mapped(p["alone"], rearrange(heard, "b t v k -> b v t k")))
    together = leaky(_mapped(p["together"], rearrange(heard, "b t v k -> b 1 t (v k)")))
    x = torch.cat([rearrange(alone, "b v t c -> b 1 t (v c)"), together], -1)
    x = rearrange(leaky(_mapped(p["mixed"], x)), "b 1 t c -> b c t")
    for layer in p["time"]:
        x = leaky(F.conv1d(x, layer["w"], layer["b"], stride=2, padding=1))
    return nn.linear(p["out"][1], leaky(nn.linear(p["out"][0], x.flatten(1)))).squeeze(-1)


def one_hot(cells: Int[Tensor, "*b"]) -> Float[Tensor, "*b k"]:
    return (cells[..., None] == torch.arange(voices.KINDS, device=cells.device)).float()  # F.one_hot has no vmap


def cells(probabilities: Float[Tensor, "b t v k"]) -> Int[Tensor, "b t v"]:
    """The likeliest token of each cell."""
    return probabilities.argmax(-1)
