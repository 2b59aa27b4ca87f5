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
from lib.models.chorale import BRISK
from lib.random import Key
from lib.tree import Tree

VOICES, BARS = len(voices.NAMES), 2
SOUNDS = voices.KINDS - 1  # pitches and a rest
PITCHES = SOUNDS - 1
MOVES = 12  # semitones, up and down
PAIRS = tuple(itertools.combinations(range(VOICES), 2))
LAST = BARS * voices.BAR // 2**3  # positions behind the critic's convolutions
KEEN = 4 * BRISK  # times as fast as others Adam teaches which intervals are kept: there are few such moments
RULE = 0.03  # the most that one of these adds to what the critic says or takes from it
UPS = 4  # times that a bar doubles, from one position to sixteen


@dataclass(frozen=True)
class Config:
    noise: int = 32  # of each of the four
    temporal: int = 256
    bar: int = 256  # channels of a bar's first position; each doubling but the first halves them, down to `least`
    least: int = 128
    critic: int = 128
    listen: bool = True  # whether voices hear those above and what was before, and the critic intervals and moves

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
    """{"temporal": [two maps for the chords and each voice's melody], "bar": [maps of each voice], "out"}, and
    "listen", {"move": (v, distances), "above": (pairs, distances), "hold": (pairs,), "kept": (pairs, intervals)}."""
    k_time, k_bar, k_out = random.split(key, 3)
    a, b = random.split(k_time)
    temporal = [_dense(a, 1 + VOICES, cfg.noise, BARS * cfg.temporal), _dense(b, 1 + VOICES, cfg.temporal, cfg.noise)]
    widths = [4 * cfg.noise, *cfg.widths()]
    sizes = [(d, f if i == 0 else 2 * f) for i, (d, f) in enumerate(itertools.pairwise(widths))]
    bar = [_dense(k, VOICES, *size) for k, size in zip(random.split(k_bar, len(sizes)), sizes, strict=True)]
    p = {"temporal": temporal, "bar": bar, "out": _dense(k_out, VOICES, widths[-1], voices.KINDS)}
    if cfg.listen:
        zeros = lambda *shape: torch.zeros(*shape, device=key.device)  # noqa: E731
        p["listen"] = {
            "move": zeros(VOICES, 2 * PITCHES - 1), "above": zeros(len(PAIRS), 2 * PITCHES - 1),
            "hold": zeros(len(PAIRS)), "kept": zeros(len(PAIRS), 12),
        }  # fmt: skip
    return p


def _normed(x: Tensor) -> Tensor:
    """Each position by itself, where the book has the batch's statistics, which a sample must not depend on."""
    return F.relu(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


def generate(p: Tree, z: Noise, *, cfg: Config) -> Float[Tensor, "b t v k"]:
    """Logits of the tokens of every cell, before the voices hear each other."""
    changing = torch.cat([z.chords[:, None], z.melody], 1)
    h = _normed(rearrange(_mapped(p["temporal"][0], changing), "b n (m c) -> b n m c", m=BARS))
    h = _mapped(p["temporal"][1], h)
    chords, melody = repeat(h[:, 0], "b m z -> b v m z", v=VOICES), h[:, 1:]
    still = [repeat(z.style, "b z -> b v m z", v=VOICES, m=BARS), repeat(z.groove, "b v z -> b v m z", m=BARS)]
    x = torch.cat([chords, still[0], melody, still[1]], -1)
    x = _normed(_mapped(p["bar"][0], x))[..., None, :]
    for layer in p["bar"][1:]:  # transposed convolutions whose kernel is as wide as their stride
        x = _normed(rearrange(_mapped(layer, x), "b v m s (two c) -> b v m (s two) c", two=2))
    return rearrange(_mapped(p["out"], x), "b v m s k -> b (m s) v k")


def write(
    p: Tree, logits: Float[Tensor, "b t v k"], soft: bool = False, given: Int[Tensor, "b t g"] | None = None
) -> Float[Tensor, "b t v k"]:
    """Tokens of `generate`'s logits, to which noise may have been added. `soft`: their probabilities, else one-hot.
    Nothing is held before something was struck. `given`: cells of the upper voices, which are not written.

    Where voices listen they are written sixteenth after sixteenth, from soprano to bass. Each voice's logits are told
    how far a pitch is from what the voice had before ("move") and from what each voice above it has now ("above"),
    whether that one strikes ("hold", for the hold), and, where that one moves, which pitches keep the interval that was
    between them ("kept"), so that fifths and octaves need not be parallel.
    """
    token = lambda x: x.softmax(-1) if soft else straight_through(x.softmax(-1))  # noqa: E731
    when, kind = (torch.arange(n, device=logits.device) for n in (logits.shape[1], voices.KINDS))
    logits = logits.masked_fill((when[:, None, None] == 0) & (kind == voices.HOLD), -torch.inf)
    known = [] if given is None else one_hot(given).to(logits.dtype).unbind(2)
    if "listen" not in p:
        return torch.cat([*(x[:, :, None] for x in known), token(logits[:, :, len(known) :])], 2)
    mine, apart = p["listen"], torch.arange(PITCHES, device=logits.device)
    apart = apart - apart[:, None] + PITCHES - 1  # from a row's pitch to a column's
    above = [[i for i, pair in enumerate(PAIRS) if pair[1] == v] for v in range(VOICES)]
    maps = [
        BRISK * torch.cat([mine["move"][v][apart], *(mine["above"][i][apart] for i in above[v])]) for v in range(VOICES)
    ]
    before = [logits.new_zeros(len(logits), SOUNDS)] * VOICES
    was = [torch.zeros_like(logits[:, 0, 0, 0], dtype=torch.int64)] * VOICES  # numbers of pitches, 0 for a rest
    number = torch.arange(1, SOUNDS, device=logits.device)
    rows: list[Tensor] = []
    for t in range(logits.shape[1]):
        now: list[Tensor] = []  # what is heard of each voice, and what it has, as a token and as a number
        row: list[Tensor] = []
        numbers: list[Tensor] = []
        for v in range(VOICES):
            heard = torch.cat([x[:, 1:] for x in (before[v], *now)], -1)
            logit = logits[:, t, v] + F.pad(heard @ maps[v], (voices.KINDS - PITCHES, 0))
            if v and t:
                struck = torch.stack([x[:, 2:].sum(-1) for x in row], -1)
                hold = BRISK * (struck * torch.stack([mine["hold"][i] for i in above[v]])).sum(-1, keepdim=True)
                kept = torch.zeros_like(logit[:, 2:])
                for i, up, is_ in zip(above[v], was, numbers, strict=False):
                    moves = (is_ != up) & (is_ > 0) & (up > 0) & (was[v] > 0)
                    keeps = (number - (was[v] + is_ - up)[:, None]) % 12 == 0
                    kept = kept + KEEN * (mine["kept"][i][(up - was[v]) % 12] * moves)[:, None] * keeps
                logit = logit + torch.cat([hold, torch.zeros_like(hold), kept], -1)
            row.append(known[v][:, t] if v < len(known) else token(logit))
            now.append(row[v][:, 1:] + row[v][:, :1] * before[v])
            numbers.append(now[v].argmax(-1))
        before, was = now, numbers
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)


def gumbel(key: Key, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Noise with which the largest of logits is a draw of their softmax, and the softmax has a derivative for it (Jang
    et al. 2017, "Categorical reparameterization with Gumbel-softmax")."""
    return -(-random.uniform(key, shape).clamp(1e-6, 1 - 1e-6).log()).log()


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
    """{"alone": maps of each voice's cells, "together": of all voices', "mixed", "time": convolutions, "out"}, and
    "kept": (pairs * intervals,)."""
    keys, c, heard = random.split(key, 8), cfg.critic, SOUNDS + 1
    more = 2 * len(PAIRS) * 12 + VOICES * (2 * MOVES + 1) if cfg.listen else 0
    return ({"kept": torch.zeros(len(PAIRS) * 12, device=key.device)} if cfg.listen else {}) | {
        "alone": _dense(keys[0], VOICES, heard, c // 2),
        "together": _dense(keys[1], 1, VOICES * heard + more, 2 * c),
        "mixed": _dense(keys[2], 1, 4 * c, 2 * c),
        "time": [_conv(k, 2 * c) for k in keys[3:6]],
        "out": [
            nn.linear_init(keys[6], 2 * c * LAST, 2 * c),
            nn.linear_init(keys[7], 2 * c, 1, bias=False),  # which would have no derivative
        ],
    }


def _conv(key: Key, c: int) -> Tree:
    return {"w": random.normal(key, (c, c, 4)) * (2 / (4 * c)) ** 0.5, "b": torch.zeros(c, device=key.device)}


def _harmony(heard: Float[Tensor, "b t v k"]) -> Float[Tensor, "b t f"]:
    """The interval from each voice to each below it, up to octaves, the same where the voices move and keep it, and the
    move of each voice since the sixteenth before, one-hot where the voices are: products of pitches, which no linear
    map makes."""
    pitch = heard[..., 1 : 1 + PITCHES]
    number = torch.arange(PITCHES, device=heard.device)
    tones = pitch @ ((number[:, None] + voices.LOWEST) % 12 == number[:12]).to(pitch.dtype)
    turned = torch.stack([tones.roll(by, -1) for by in range(12)], -2)
    intervals = torch.stack([(turned[:, :, a] * tones[:, :, b, None]).sum(-1) for a, b in PAIRS], 2)
    before = F.pad(pitch[:, :-1], (MOVES, MOVES, 0, 0, 1, 0)).unfold(-1, PITCHES, 1)
    moves = torch.einsum("btvdp,btvp->btvd", before, pitch)
    stays = torch.stack([moves[:, :, a, MOVES, None] for a, _ in PAIRS], 2)
    kept = intervals * F.pad(intervals[:, :-1], (0, 0, 0, 0, 1, 0)) * (1 - stays)
    return torch.cat([intervals.flatten(2), kept.flatten(2), moves.flatten(2)], -1)


def criticise(p: Tree, heard: Float[Tensor, "b t v k"], counted: bool = True) -> Float[Tensor, "b"]:
    """How real each example seems. Convolutions over voices, time and pitch whose kernels span all pitches: of each
    voice by itself, MuseGAN's private branch, and of all at once, which hears chords; then over time. `counted`: with
    the weights of "kept" for each time that two voices move and keep an interval, bounded as in Arjovsky et al. 2017,
    "Wasserstein GAN": a gradient penalty forbids them, as such products are steep for pitches that do not sound."""
    leaky = lambda x: F.leaky_relu(x, 0.2)  # noqa: E731
    alone = leaky(_mapped(p["alone"], rearrange(heard, "b t v k -> b v t k")))
    flat = rearrange(heard, "b t v k -> b 1 t (v k)")
    kept: Tensor | float = 0.0
    if "kept" in p:
        harmony, n = _harmony(heard), len(p["kept"])
        flat = torch.cat([flat, harmony[:, None]], -1)
        kept = harmony[..., n : 2 * n].sum(1) @ (RULE * torch.tanh(KEEN * p["kept"]))
    together = leaky(_mapped(p["together"], flat))
    x = torch.cat([rearrange(alone, "b v t c -> b 1 t (v c)"), together], -1)
    x = rearrange(leaky(_mapped(p["mixed"], x)), "b 1 t c -> b c t")
    for layer in p["time"]:
        x = leaky(F.conv1d(x, layer["w"], layer["b"], stride=2, padding=1))
    found = nn.linear(p["out"][1], leaky(nn.linear(p["out"][0], x.flatten(1)))).squeeze(-1)
    return found + kept if counted else found


def one_hot(cells: Int[Tensor, "*b"]) -> Float[Tensor, "*b k"]:
    return (cells[..., None] == torch.arange(voices.KINDS, device=cells.device)).float()  # F.one_hot has no vmap


def cells(tokens: Float[Tensor, "b t v k"]) -> Int[Tensor, "b t v"]:
    """The likeliest token of each cell."""
    return tokens.argmax(-1)
