"""lib/models/chorale.py: what each cell may see, what is given, and that writing is the likelihood turned round."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lib import random, transformer, tree
from lib.data import voices
from lib.models import chorale
from lib.models.chorale import Music
from lib.tasks import composer

BLOCK = transformer.Config(width=16, heads=2, ff=24, position="rotary", bias="none", activation="swiglu")
CFG = chorale.Config(layers=2, around=1, chord=6, head=12, block=BLOCK)
B, T = 2, 12


def own(cfg):
    """Parameters far enough from zero that everything matters."""
    p = chorale.init(random.key(0), cfg)
    return tree.map(lambda x: x + 0.3 * random.normal(random.key(x.numel()), tuple(x.shape)), p)


@pytest.fixture(scope="module")
def params():
    return own(CFG)


def music(seed=1):
    cells = random.randint(random.key(seed), (B, T, 4), 0, voices.KINDS).long()
    cells = torch.where(random.bernoulli(random.key(seed + 1), 0.6, (B, T, 4)), 0, cells)
    place = torch.arange(T).expand(B, T) % 16
    return Music(cells, place, T - place)


def nothing(value=False):
    return torch.full((B, T, 4), value)


def test_a_cell_sees_sixteenths_before_and_voices_above(params):
    own = music()
    logits = chorale.apply(params, own, nothing(), cfg=CFG)
    assert logits.shape == (B, T, 4, voices.KINDS)
    at, voice = 5, 2
    cells = own.cells.clone()
    cells[:, at, voice] = (cells[:, at, voice] + 7) % voices.KINDS
    moved = (chorale.apply(params, own._replace(cells=cells), nothing(), cfg=CFG) - logits).abs().amax((0, 3))
    assert bool((moved[:at] == 0).all()) and bool((moved[at, : voice + 1] == 0).all())
    assert bool((moved[at, voice + 1 :] > 1e-4).all()) and bool((moved[at + 1 :] > 1e-5).all())


def test_what_is_given_is_seen_from_everywhere(params):
    own, given = music(), nothing()
    given[:, 8, 1] = True
    logits = chorale.apply(params, own, given, cfg=CFG)
    cells = own.cells.clone()
    cells[:, 8, 1] = torch.where(cells[:, 8, 1] == 40, 41, 40)
    moved = (chorale.apply(params, own._replace(cells=cells), given, cfg=CFG) - logits).abs().amax((0, 3))
    assert bool((moved > 1e-5).all())
    cells[:, 8, 0] = torch.where(cells[:, 8, 0] == 40, 41, 40)  # not given: nothing before it sees it
    again = chorale.apply(params, own._replace(cells=cells), given, cfg=CFG)
    cells[:, 8, 0] = own.cells[:, 8, 0]
    assert again[:, :8].equal(chorale.apply(params, own._replace(cells=cells), given, cfg=CFG)[:, :8])


@pytest.mark.parametrize("what", ["place", "left"])
def test_place_and_end_are_told(params, what):
    own = music()
    other = own._replace(**{what: getattr(own, what) + 1})
    assert not torch.allclose(
        chorale.apply(params, own, nothing(), cfg=CFG), chorale.apply(params, other, nothing(), cfg=CFG), atol=1e-3
    )


def test_held_is_how_long():
    cells = torch.tensor([[30], [0], [0], [31], [1], [0]])
    assert chorale.held(cells)[:, 0].tolist() == [0, 1, 2, 0, 0, 1]
    assert chorale.pitches(cells)[:, 0].tolist() == [29, 29, 29, 30, 0, 0]


@pytest.mark.parametrize("position", ["rotary", "relative"])
def test_the_likeliest_cells_are_those_of_the_logits(position):
    reach = 8 if position == "relative" else 0
    cfg = replace(CFG, block=replace(BLOCK, position=position, reach=reach))
    params, given, asked = own(cfg), nothing(), music()
    given[:, 4:, 0] = True
    asked = asked._replace(cells=torch.where(given, asked.cells.clamp(min=1), asked.cells))  # struck in any case
    written = chorale.generate(params, asked, given, cfg=cfg)
    assert written[given].equal(asked.cells[given])
    logits = chorale.apply(params, asked._replace(cells=written), given, cfg=cfg)
    far = [path for path in tree.flatten(params) if "relative" in path]
    assert [path.split(".")[0] for path in far] == ["trunk"] * (2 if reach else 0)
    logits[:, 0, :, voices.HOLD] = -torch.inf
    assert logits.argmax(-1)[~given].equal(written[~given])


def test_given_pitches_sound_as_they_are_given(params):
    own, given = music(), nothing()
    given[:, :, 0] = True
    given[:, 6:9] = True
    written = chorale.generate(params, own, given, random.key(3), cfg=CFG)
    assert voices.sounding(written)[given].equal(voices.sounding(own.cells)[given])
    assert bool((written[:, 0] != voices.HOLD).all())
    other = chorale.generate(params, own, given, random.key(4), cfg=CFG)
    assert not other.equal(written)
    assert chorale.generate(params, own, given, random.key(3), cfg=CFG).equal(written)


def test_writing_follows_the_likelihood(params):
    """Of what is written from nothing, the mean surprise is the mean entropy of what could have been."""
    n, t = 256, 3
    place = torch.arange(t).expand(n, t)
    blank = Music(torch.zeros(n, t, 4, dtype=torch.int64), place, t - place)
    none = torch.zeros(n, t, 4, dtype=torch.bool)
    written = chorale.generate(params, blank, none, random.key(5), cfg=CFG)
    logits = chorale.apply(params, blank._replace(cells=written), none, cfg=CFG)
    logits[:, 0, :, voices.HOLD] = -torch.inf
    p = logits.softmax(-1)
    entropy = -torch.where(p > 0, p * p.log(), 0).sum(-1)
    nats = F.cross_entropy(logits.flatten(0, 2), written.flatten(), reduction="none").view_as(entropy)
    assert (nats - entropy).mean().abs() < 4 * (nats - entropy).std() / nats.numel() ** 0.5
    assert entropy.mean() > 0.5


def test_where_blocks_look_is_what_came_before(params):
    found = composer.looked(params, music(), cfg=CFG)
    assert found.shape == (2, B, 2, T, T)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, B, 2, T))
    assert not found.triu(1).any() and found[..., -1, :].std() > 1e-3


def test_nats_are_of_each_cell(params):
    own = music()
    found = composer.nats(params, own, nothing(), cfg=CFG)
    logits = chorale.apply(params, own, nothing(), cfg=CFG)
    assert torch.allclose(found, -logits.log_softmax(-1).gather(-1, own.cells[..., None])[..., 0], atol=1e-5)


def test_dropout_needs_a_key(params):
    cfg = chorale.Config(layers=2, around=1, chord=6, head=12, dropout=0.5, block=BLOCK)
    plain = chorale.apply(params, music(), nothing(), cfg=cfg)
    assert plain.equal(chorale.apply(params, music(), nothing(), cfg=CFG))
    assert not plain.equal(chorale.apply(params, music(), nothing(), random.key(0), cfg=cfg))


def test_what_moves_add_to_logits():
    """One rule written by hand: a voice a fifth below one that goes up by two does not go up by two."""
    p = chorale.init(random.key(0), CFG)
    pair, rise = chorale.PAIRS.index((0, 3)), chorale.LEAP + 2
    p["leading"][pair, 7 * chorale.MOVES + rise, rise] = -9 / chorale.BRISK
    p["leading"][pair, 7 * chorale.MOVES + rise, chorale.MOVES] = 5 / chorale.BRISK  # but holds
    before, now = torch.tensor([[40, 0, 30, 21], [40, 0, 30, 20]]), torch.tensor([[42, 0, 30, 0], [42, 0, 30, 0]])
    found = chorale.leading(p, before, now)
    assert found.shape == (2, 4, voices.KINDS) and found[:, :3].abs().max() == 0  # 21 is 19 below 40: a fifth, 20 not
    assert found[0, 3, 21 + 2 + 1] == -9 and found[0, 3, voices.HOLD] == 5 and found[0, 3].count_nonzero() == 2
    assert found[1].abs().max() == 0
    higher = chorale.leading(p, before[:1] + 3, now[:1] + 3)
    assert higher[0, 3, 21 + 3 + 2 + 1] == -9 and higher[0, 3].count_nonzero() == 2


def test_rests_add_nothing(params):
    moved = torch.tensor([[42, 30, 24, 20]])
    all_sound = chorale.leading(params, torch.tensor([[40, 30, 24, 20]]), moved)
    assert (all_sound[:, 1:].abs().amax(-1) > 0).all()
    for before, now in (([0, 30, 24, 20], moved), ([40, 0, 24, 20], moved), ([47, 47, 47, 47], moved)):
        found = chorale.leading(params, torch.tensor([before]), now)
        assert found[:, 1].abs().max() == 0
    assert chorale.leading(params, torch.tensor([[40, 30, 24, 20]]), torch.tensor([[0, 0, 0, 0]])).abs().max() == 0


def test_moves_count_in_every_voice_but_the_soprano(params):
    sounds = chorale.pitches(music().cells)
    found = chorale.leading(params, sounds[:, :-1], sounds[:, 1:])
    assert found[..., 0, :].abs().max() == 0 and (found[..., 1:, :].abs().flatten(-2).amax((0, 1)) > 0).any()
    assert (found[..., voices.REST] == 0).all() and found.shape == (B, T - 1, 4, voices.KINDS)
