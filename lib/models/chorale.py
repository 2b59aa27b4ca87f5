"""A Transformer over four voices: one position for a sixteenth, whose voices are chained from soprano to bass.

By the chain rule log p(music) is the sum over sixteenths and voices of log p(cell | sixteenths before, voices above),
the same likelihood that a sequence of single cells has (Huang et al. 2018), in a quarter of its length. What is given
of any sixteenth, such as a melody, is read by blocks that look both ways, so that one model continues, harmonises and
fills gaps. Axes: b batch, t sixteenths, v voices, d model width, c channels of a chord, h of a head, k kinds of tokens.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import attention, decode, nn, random, transformer
from lib.data import voices
from lib.data.pieces import LONGEST
from lib.random import Key
from lib.tree import Tree

VOICES = len(voices.NAMES)
PITCHES = 1 + voices.HIGHEST - voices.LOWEST + 1  # and a rest, which is 0
HELD = 16  # sixteenths that a note has been held for: from here on they look the same
PAIRS = [(above, below) for below in range(VOICES) for above in range(below)]
LEAP = 12  # semitones: a larger one looks like this
MOVES = 2 * LEAP + 1
BRISK = 8.0  # times as fast as other parameters AdamW teaches what moves add: each of its numbers is seldom asked for
Before = tuple[Int[Tensor, "b t v"], Int[Tensor, "b t v"]]  # see `features`
LEFT = 64  # sixteenths that are left, where that is known: from here on they look the same


@dataclass(frozen=True, kw_only=True)
class Config:
    layers: int = 4
    around: int = 1  # blocks that read what is given
    chord: int = 64
    head: int = 192
    dropout: float = 0.0  # of what the blocks read, and in the heads: inside of blocks it was not worth its time
    block: transformer.Config = field(default_factory=lambda: transformer.Config(position="rotary", bias="none"))

    def reader(self) -> transformer.Config:
        """Of the blocks that look both ways, for which relative positions have no embeddings."""
        return replace(self.block, position="rotary", reach=0)


class Music(NamedTuple):
    """`cells` with their `place` in the bar. `left`: sixteenths up to the end, this one included; 0 where that is
    not told. What comes before the first sixteenth is not known, so that it holds nothing."""

    cells: Int[Tensor, "b t v"]
    place: Int[Tensor, "b t"]
    left: Int[Tensor, "b t"]


def init(key: Key, cfg: Config) -> Tree:
    """{"embed": {"pitch": (v, p, d), "held": (v, held, d), "place", "left"}, "given": {"pitch": (v, p + 1, d),
    "struck", "stack"}, "trunk", "chord": {"pitch": (v, p, c), "struck": (v, c)}, "leading": (pairs, 12 moves,
    moves + 1), "heads": {"in": (v, d + c, h), "in_b", "out": (v, h, k), "out_b"}}."""
    names = "pitch", "held", "place", "left", "given", "hit", "around", "trunk", "chord", "struck", "in", "out"
    keys = dict(zip(names, random.split(key, len(names)), strict=True))
    d = cfg.block.width
    table = lambda name, *shape: 0.02 * random.normal(keys[name], shape)  # noqa: E731
    zeros = lambda *shape: torch.zeros(*shape, device=key.device)  # noqa: E731
    fan = d + cfg.chord
    return {
        "embed": {
            "pitch": table("pitch", VOICES, PITCHES + 1, d), "held": table("held", VOICES, HELD, d),
            "place": table("place", LONGEST, d), "left": table("left", LEFT + 1, d),
        },
        "given": {
            "pitch": table("given", VOICES, PITCHES + 1, d), "struck": table("hit", VOICES, 2, d),
            "stack": transformer.stack_init(keys["around"], cfg.around, cfg.reader()),
        },
        "trunk": transformer.stack_init(keys["trunk"], cfg.layers, cfg.block),
        "chord": {
            "pitch": table("chord", VOICES, PITCHES, cfg.chord), "struck": table("struck", VOICES, 2, cfg.chord),
        },
        "leading": zeros(len(PAIRS), 12 * MOVES, MOVES + 1),
        "heads": {
            "in": nn.xavier(keys["in"], (VOICES, fan, cfg.head), fan, cfg.head), "in_b": zeros(VOICES, cfg.head),
            "out": nn.xavier(keys["out"], (VOICES, cfg.head, voices.KINDS), cfg.head, voices.KINDS),
            "out_b": zeros(VOICES, voices.KINDS),
        },
    }  # fmt: skip


def _looked_up(tables: Float[Tensor, "v n d"], index: Int[Tensor, "*b v"]) -> Float[Tensor, "*b v d"]:
    """Each voice's row of its own table."""
    v, n, _ = tables.shape
    return F.embedding(index + n * torch.arange(v, device=index.device), tables.flatten(0, 1))


def pitches(cells: Int[Tensor, "*b t v"]) -> Int[Tensor, "*b t v"]:
    """The numbers of what sounds: 0 for a rest."""
    return (voices.sounding(cells) - voices.LOWEST + 1).clamp(min=0)


def held(cells: Int[Tensor, "*b t v"]) -> Int[Tensor, "*b t v"]:
    """For how many sixteenths each cell has been held."""
    t = torch.arange(cells.shape[-2], device=cells.device)[:, None]
    return t - torch.where(cells == voices.HOLD, 0, t).cummax(dim=-2).values


def read_given(
    p: Tree, music: Music, given: Bool[Tensor, "b t v"], key: Key | None = None, *, cfg: Config
) -> Float[Tensor, "b t d"]:
    """What is known of every sixteenth beforehand; cells that are not `given` do not count."""
    sounds = torch.where(given, pitches(music.cells), PITCHES)
    struck = (given & (music.cells != voices.HOLD)).long()
    x = _looked_up(p["given"]["pitch"], sounds).sum(-2) + _looked_up(p["given"]["struck"], struck).sum(-2)
    x = x + nn.embedding(p["embed"]["place"], music.place)
    return transformer.stack(p["given"]["stack"], x, None, key=key, cfg=cfg.reader())[0]


def features(
    p: Tree,
    before: Before,
    place: Int[Tensor, "b t"],
    left: Int[Tensor, "b t"],
    known: Float[Tensor, "b t d"],
    key: Key | None = None,
    cache: list[Tree] | None = None,
    *,
    cfg: Config,
    weights: bool = False,
) -> tuple[Float[Tensor, "b t d"], list[Tree]]:
    """What tells each sixteenth from those before, and the cache and `weights` as `transformer.stack` has them.
    `before`: `pitches` of the sixteenth before it (`PITCHES` in front of the first) and how long they have been
    `held`."""
    sounds, long = before
    x = _looked_up(p["embed"]["pitch"], sounds).sum(-2)
    x = x + _looked_up(p["embed"]["held"], long.clamp(max=HELD - 1)).sum(-2)
    x = x + nn.embedding(p["embed"]["place"], place) + nn.embedding(p["embed"]["left"], left.clamp(max=LEFT)) + known
    k_in, k_stack = random.split(key)
    x = nn.dropout(x, cfg.dropout, k_in)
    mask: attention.Mask = "causal"
    if cache:
        mask = transformer.cache_mask(cache[0]["position"], x.shape[1], cache[0]["k"].shape[2])
    return transformer.stack(p["trunk"], x, mask, key=k_stack, cache=cache, cfg=cfg.block, weights=weights)


def chord(p: Tree, sounds: Int[Tensor, "*b v"], cells: Int[Tensor, "*b v"]) -> Float[Tensor, "*b v c"]:
    """Of each voice, what those above it do in the same sixteenth."""
    each = _looked_up(p["chord"]["pitch"], sounds) + _looked_up(p["chord"]["struck"], (cells != voices.HOLD).long())
    return F.pad(each.cumsum(-2)[..., :-1, :], (0, 0, 1, 0))


def leading(p: Tree, before: Int[Tensor, "*b v"], now: Int[Tensor, "*b v"]) -> Float[Tensor, "*b v k"]:
    """What is added to the logits of each voice's moves and of its hold for each voice above it, by how that one moves
    and by the interval that was between them, from which parallels are told, in whatever key. `before`: `pitches` of
    the sixteenth before, `now`: of this one. Nothing is added to rests, to larger moves, and where a voice rested."""
    sounds = (before > 0) & (before < PITCHES)
    own, other, moved, known = (
        torch.stack([of(above, below) for above, below in PAIRS], -1)
        for of in (
            lambda _, below: before[..., below],
            lambda above, _: before[..., above],
            lambda above, _: now[..., above] - before[..., above],
            lambda above, below: sounds[..., below] & sounds[..., above] & (now[..., above] > 0),
        )
    )
    index = (other - own) % 12 * MOVES + moved.clamp(-LEAP, LEAP) + LEAP
    table = F.pad(BRISK * p["leading"], (0, 0, 0, 1))  # with zeros for what is not known
    each = _looked_up(table, torch.where(known, index, 12 * MOVES))
    parts = each.split(list(range(1, VOICES)), -2)
    moves = torch.stack([torch.zeros_like(each[..., 0, :]), *(part.sum(-2) for part in parts)], -2)
    token = torch.arange(voices.KINDS, device=before.device)
    move = token - 1 - before[..., None] + LEAP
    may = (token >= 2) & (move >= 0) & (move < MOVES) & sounds[..., None]
    at = torch.where(token == voices.HOLD, MOVES, torch.where(may, move, MOVES + 1))
    return F.pad(moves, (0, 1)).gather(-1, at)


def logits(
    p: Tree,
    x: Float[Tensor, "*b d"],
    above: Float[Tensor, "*b v c"],
    led: Float[Tensor, "*b v k"],
    key: Key | None = None,
    *,
    cfg: Config,
) -> Float[Tensor, "*b v k"]:
    """From `features`, `chord` and `leading`."""
    heads = p["heads"]
    x = torch.cat([x[..., None, :].expand(*above.shape[:-1], x.shape[-1]), above], -1)
    h = F.gelu(torch.einsum("...vi,vih->...vh", x, heads["in"]) + heads["in_b"])
    return torch.einsum("...vh,vhk->...vk", nn.dropout(h, cfg.dropout, key), heads["out"]) + heads["out_b"] + led


def apply(
    p: Tree, music: Music, given: Bool[Tensor, "b t v"], key: Key | None = None, *, cfg: Config
) -> Float[Tensor, "b t v k"]:
    """Logits of every cell, from the sixteenths before it, the voices above it, and what is `given` anywhere."""
    k_given, k_trunk, k_head = random.split(key, 3)
    known = read_given(p, music, given, k_given, cfg=cfg)
    sounds = pitches(music.cells)
    before = earlier(music.cells, sounds)
    x, _ = features(p, before, music.place, music.left, known, k_trunk, cfg=cfg)
    return logits(p, x, chord(p, sounds, music.cells), leading(p, before[0], sounds), k_head, cfg=cfg)


def earlier(cells: Int[Tensor, "b t v"], sounds: Int[Tensor, "b t v"]) -> Before:
    """What was before each sixteenth, as `features` takes it. `sounds`: the cells' `pitches`."""
    return F.pad(sounds[:, :-1], (0, 0, 1, 0), value=PITCHES), F.pad(held(cells)[:, :-1], (0, 0, 1, 0))


@torch.no_grad()
def generate(
    p: Tree,
    music: Music,
    given: Bool[Tensor, "b t v"],
    key: Key | None = None,
    *,
    cfg: Config,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Int[Tensor, "b t v"]:
    """Cells for all that is not `given`, sixteenth after sixteenth, from soprano to bass: the likeliest ones, or with a
    key random ones (`decode.pick`). A given pitch that the voice does not hold already is struck."""
    b, t, _ = music.cells.shape
    wanted, known = pitches(music.cells), read_given(p, music, given, cfg=cfg)
    cache = transformer.stack_cache(p["trunk"], b, t, None, known)
    sounds = torch.full_like(wanted[:, :1], PITCHES)
    long, out = torch.zeros_like(sounds), []
    for i in range(t):
        one = slice(i, i + 1)
        x, cache = features(
            p, (sounds, long), music.place[:, one], music.left[:, one], known[:, one], cache=cache, cfg=cfg
        )
        cells, now = torch.zeros_like(sounds), torch.zeros_like(sounds)
        for v in range(VOICES):
            found = logits(p, x, chord(p, now, cells), leading(p, sounds, now), cfg=cfg)[:, 0, v].float()
            silent = (sounds[:, 0, v] == PITCHES)[:, None] & (
                torch.arange(voices.KINDS, device=x.device) == voices.HOLD
            )
            k = random.fold_in(key, i * VOICES + v)
            token = decode.pick(found.masked_fill(silent, -torch.inf), k, temperature=temperature, top_p=top_p)
            pitch = wanted[:, i, v]
            asked = torch.where(pitch == 0, voices.REST, pitch + 1)
            goes_on = (music.cells[:, i, v] == voices.HOLD) & (pitch == sounds[:, 0, v])
            token = torch.where(given[:, i, v], torch.where(goes_on, voices.HOLD, asked), token)
            held_on = token == voices.HOLD
            cells[:, 0, v] = token
            now[:, 0, v] = torch.where(held_on, sounds[:, 0, v], (token - 1).clamp(min=0))
            long[:, 0, v] = torch.where(held_on, long[:, 0, v] + 1, 0)
        sounds = now
        out.append(cells)
    return torch.cat(out, 1)
