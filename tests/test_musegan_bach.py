"""experiments/exp_musegan_bach.py as a user runs it, on a few made songs; its networks, its step, its verbs."""

import dataclasses
import json
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from experiments import exp_musegan_bach as exp
from lib import random, tree
from lib.data import pieces, voices
from lib.models import musegan
from lib.models.musegan import Config, Noise
from lib.transform import jit
from tests.flags import flags

CFG = Config(noise=4, temporal=8, bar=16, least=8, critic=8)
TINY = {
    "noise": 4, "temporal": 8, "bar": 16, "least": 8, "critic": 8, "batch": 4, "samples": 8, "compile": "off",
    "device": "cpu", "log_every": 1,
}  # fmt: skip
B, T = 3, 32


@pytest.fixture
def fit(call, songs, tmp_path):
    """A run of a few steps with flags of one's own: its directory and what it printed."""

    def make(name="run", *words, steps=2, **values):
        path = tmp_path / name
        status, out, told = call(exp, *flags(**{"data": songs, "steps": steps, "run": path, **TINY, **values}), *words)
        assert status == 0, told
        return path, out

    return make


# ---- networks ----


@pytest.fixture(scope="module")
def g():
    return musegan.generator_init(random.key(0), CFG)


@pytest.mark.parametrize("listen", [True, False])
def test_tokens_have_probabilities_and_nothing_is_held_at_first(g, listen):
    logits = musegan.generate(g, musegan.noise(random.key(1), B, CFG), cfg=CFG)
    p = musegan.write(g if listen else {}, logits, soft=True)
    assert p.shape == (B, T, 4, voices.KINDS)
    torch.testing.assert_close(p.sum(-1), torch.ones(B, T, 4))
    assert bool((p[:, 0, :, voices.HOLD] == 0).all()) and bool((p[:, 1:, :, voices.HOLD] > 0).all())


@pytest.mark.parametrize(
    ("kind", "everybody"), [("chords", True), ("style", True), ("melody", False), ("groove", False)]
)
def test_each_noise_reaches_whom_it_concerns(g, kind, everybody):
    z = musegan.noise(random.key(1), B, CFG)
    changed = getattr(z, kind).clone()
    changed[:, *([] if everybody else [2])] += 1
    p, other = (musegan.generate(g, x, cfg=CFG).softmax(-1) for x in (z, z._replace(**{kind: changed})))
    moved = other - p
    reached = moved.abs().amax((0, 1, 3)) > 1e-6
    assert reached.tolist() == ([True] * 4 if everybody else [False, False, True, False])


@pytest.mark.parametrize(("kind", "changes"), [("chords", True), ("melody", True), ("style", False), ("groove", False)])
def test_bars_differ_by_what_changes_with_time(g, kind, changes):
    z = Noise(*(torch.zeros_like(x) for x in musegan.noise(random.key(1), B, CFG)))
    z = z._replace(**{kind: random.normal(random.key(2), tuple(getattr(z, kind).shape))})
    p = musegan.generate(g, z, cfg=CFG).softmax(-1)
    same = torch.allclose(p[:, 1:16], p[:, 17:], atol=1e-6)  # the first sixteenth of all holds nothing
    assert same != changes


def some(b=B):
    cells = random.randint(random.key(3), (b, T, 4), 0, voices.KINDS).long()
    cells = torch.where(random.bernoulli(random.key(4), 0.5, (b, T, 4)), 0, cells)
    cells[:, 0] = cells[:, 0].clamp(min=1)
    return cells


def test_the_roll_is_what_sounds():
    cells = some()
    heard = musegan.roll(musegan.one_hot(cells))
    sounds = (voices.sounding(cells) - voices.LOWEST + 1).clamp(min=0)
    assert heard[..., :-1].equal(F.one_hot(sounds, musegan.SOUNDS).float())
    assert heard[..., -1].equal((cells >= 2).float())


def test_the_roll_of_probabilities_is_the_average():
    p = random.uniform(random.key(5), (1, 3, 4, voices.KINDS)).pow(20)
    p[:, 0, :, 0] = 0
    p = p / p.sum(-1, keepdim=True)
    n = 4000
    tokens = random.categorical(random.key(6), p.log().clamp(min=-1e9).expand(n, -1, -1, -1))
    average = musegan.roll(musegan.one_hot(tokens)).mean(0)
    assert (average - musegan.roll(p)[0]).abs().max() < 5 * 0.5 / n**0.5


def test_straight_through_is_one_hot_with_the_slope_of_the_probabilities():
    logits = random.normal(random.key(7), (5, voices.KINDS)).requires_grad_()
    weight = random.normal(random.key(8), (5, voices.KINDS))
    y = musegan.straight_through(logits.softmax(-1))
    torch.testing.assert_close(y, F.one_hot(logits.argmax(-1), voices.KINDS).float())
    (grad,) = torch.autograd.grad((y * weight).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    torch.testing.assert_close(grad, soft)


def listening(**values):
    """A generator's tables, of zeros but for these."""
    zeros = musegan.generator_init(random.key(0), CFG)["listen"]
    return {"listen": {name: values.get(name, x) for name, x in zeros.items()}}


def likely(t=6, b=40):
    """Logits with noise, mostly of holds after the first sixteenth."""
    logits = 2 * random.normal(random.key(10), (b, t, 4, voices.KINDS))
    logits[:, 0, :, 0] = -torch.inf
    logits[:, 1:, :, 0] += 6
    return logits


def test_voices_that_heard_nothing_yet_write_what_they_would():
    x = likely()
    assert musegan.write(listening(), x).equal(musegan.write({}, x))
    torch.testing.assert_close(musegan.write(listening(), x, soft=True), x.softmax(-1))


def test_a_voice_hears_the_one_above_it_and_itself():
    far = torch.zeros(6, 91)
    far[musegan.PAIRS.index((0, 1)), 45 - 4] = 20.0
    pitch = voices.sounding(musegan.cells(musegan.write(listening(above=far), likely(t=1))))
    high = pitch[..., 0] >= voices.LOWEST + 4
    assert bool((pitch[..., 1] == pitch[..., 0] - 4)[high].all()) and high.sum() > 20
    assert bool((pitch[..., 2] != pitch[..., 0] - 4).any())
    near = torch.zeros(4, 91)
    near[3, 45 + 2] = 20.0
    cells = musegan.cells(musegan.write(listening(move=near), likely(t=2)))
    pitch, struck = voices.sounding(cells), cells[:, 1, 3] >= 2
    room = (pitch[:, 0, 3] > 0) & (pitch[:, 0, 3] <= voices.HIGHEST - 2)
    assert bool((pitch[:, 1, 3] == pitch[:, 0, 3] + 2)[room].all()) and bool(struck[room].all())


def test_a_voice_holds_where_the_one_above_it_strikes():
    hold = torch.zeros(6)
    hold[musegan.PAIRS.index((0, 2))] = 20.0
    cells = musegan.cells(musegan.write(listening(hold=hold), likely() - 0.0))
    after = cells[:, 1:]
    assert bool((after[..., 2] == 0)[after[..., 0] >= 2].all()) and bool((after[..., 2] > 0)[after[..., 0] == 0].any())


def parallels(cells, a=0, b=2):
    """Where a voice moves, and where another keeps the interval to it as it does."""
    pitch = voices.sounding(cells)
    sound = (pitch > 0)[..., [a, b]].all(-1)
    moved = sound[:, 1:] & sound[:, :-1] & (pitch[:, 1:, a] != pitch[:, :-1, a])
    interval = (pitch[..., a] - pitch[..., b]) % 12
    return moved, moved & (interval[:, 1:] == interval[:, :-1]), interval[:, :-1]


def test_an_interval_is_kept_or_not_where_the_voice_above_moves():
    x = likely(t=4)
    x[:, 1:, :, 0] -= 12  # nobody holds
    plain = musegan.cells(musegan.write(listening(), x))
    kept = torch.zeros(6, 12)
    kept[musegan.PAIRS.index((0, 2)), 7] = 20.0
    cells = musegan.cells(musegan.write(listening(kept=kept), x))
    moved, same, interval = parallels(cells)
    assert same[moved].equal((interval == 7)[moved] | same[moved]) and (moved & (interval == 7)).sum() > 2
    never = musegan.cells(musegan.write(listening(kept=-torch.ones(6, 12) * 20), x))
    assert not parallels(never)[1].any() and parallels(plain)[1].any()
    assert cells[..., :2].equal(plain[..., :2])  # others do as they did


@pytest.mark.parametrize("listen", [True, False])
def test_what_is_given_stays_and_is_heard(g, listen):
    heard = {"listen": tree.map(lambda x: 20 * random.normal(random.key(14), tuple(x.shape)), g["listen"])}
    given = some()[:, :5, :1]
    one, other = (musegan.cells(musegan.write(heard if listen else {}, likely(5, B), given=x)) for x in (None, given))
    assert other[..., :1].equal(given)
    assert other[..., 1:].equal(one[..., 1:]) != listen


def test_what_a_voice_heard_has_a_derivative():
    p = musegan.generator_init(random.key(0), CFG)
    weight = random.normal(random.key(12), (3, 4, 4, voices.KINDS))
    grad = torch.func.grad(lambda p: (musegan.write(p, likely(4, 3)) * weight).sum())(p)
    assert all(bool((x != 0).any()) for x in grad["listen"].values())


def test_writing_is_one_graph():
    torch._dynamo.reset()
    p, x = musegan.generator_init(random.key(0), CFG), likely(3, 2)
    compiled = torch.compile(musegan.write, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(p, x), musegan.write(p, x))


def test_noise_draws_tokens_with_their_probabilities():
    logits = torch.tensor([0.0, 1.0, -1.0])
    drawn = (logits + musegan.gumbel(random.key(13), (20_000, 3))).argmax(-1)
    share = torch.bincount(drawn, minlength=3) / 20_000
    torch.testing.assert_close(share, logits.softmax(-1), atol=0.015, rtol=0)


def test_intervals_and_moves_are_what_the_critic_hears():
    cells = some()
    found = musegan._harmony(musegan.roll(musegan.one_hot(cells)))
    pitch = voices.sounding(cells)
    kept = 0
    for i, (a, b) in enumerate(musegan.PAIRS):
        both = (pitch[..., a] > 0) & (pitch[..., b] > 0)
        interval, same = (found[..., 12 * i + at : 12 * i + at + 12] for at in (0, 72))
        assert interval.sum(-1).bool().equal(both)
        assert interval.argmax(-1)[both].equal(((pitch[..., b] - pitch[..., a]) % 12)[both])
        wanted = both[:, 1:] & both[:, :-1] & (pitch[:, 1:, a] != pitch[:, :-1, a])
        wanted = wanted & (interval.argmax(-1)[:, 1:] == interval.argmax(-1)[:, :-1])
        assert same[:, 1:].equal(interval[:, 1:] * wanted[..., None]) and not same[:, 0].any()
        kept += int(wanted.sum())
    assert kept > 10
    moves = found[..., 144:].view(*found.shape[:2], 4, 25)[:, 1:]
    by = pitch[:, 1:] - pitch[:, :-1]
    near = (pitch[:, 1:] > 0) & (pitch[:, :-1] > 0) & (by.abs() <= 12)
    assert moves.sum(-1).bool().equal(near) and moves.argmax(-1)[near].equal((12 - by)[near])


def test_the_critic_counts_intervals_that_are_kept():
    d, x = musegan.critic_init(random.key(9), CFG), musegan.roll(musegan.one_hot(some()))
    counts = musegan._harmony(x)[..., 72:144].sum(1)
    at = int(counts.sum(0).argmax())
    told = {**d, "kept": torch.zeros(72).index_fill(0, torch.tensor([at]), 100.0)}
    more = musegan.criticise(told, x) - musegan.criticise(d, x)
    torch.testing.assert_close(more, musegan.RULE * counts[:, at], atol=1e-5, rtol=1e-4)
    assert more.max() > 0 and musegan.criticise(told, x, counted=False).equal(musegan.criticise(d, x))


def test_the_critic_judges_each_example_by_itself_and_hears_everything():
    d, x = musegan.critic_init(random.key(9), CFG), musegan.roll(musegan.one_hot(some()))
    whole = musegan.criticise(d, x)
    torch.testing.assert_close(whole[1:2], musegan.criticise(d, x[1:2]))
    slope = torch.func.grad(lambda y: musegan.criticise(d, y).sum())(x)
    assert bool((slope.abs().amax((0, 3)) > 0).all())  # of every sixteenth of every voice


# ---- a whole run ----


@pytest.mark.device
def test_a_run_and_all_that_it_is_asked_for(fit, call, songs, device, tmp_path):
    run, out = fit(steps=4, eval_every=2, diagnose=4)
    assert re.search(rf"^pieces of songs\d+: \d+ windows of two bars to train on; {device}", out, flags=re.MULTILINE)
    assert re.search(r"^parallel fifths and octaves per 100 changes( +\d+\.\d+){2}$", out, flags=re.MULTILINE)
    result = json.loads((run / "result.json").read_text())
    assert {"test/chord", "bach/chord", "test/copied", "bach/nearest"} <= result.keys()
    text = (run / "metrics.jsonl").read_text()
    assert "generated/parallels" in text and "diagnose/params.g/hessian/trace" in text and "val/unlike" in text

    ask = partial(call, exp, "sample")
    assert ask("--run", run, *flags(n=2, out="one"), "--copy-check")[0] == 0
    ask("--run", run, *flags(n=2, out="again"))
    ask("--run", run, *flags(n=2, out="other", seed=1))
    read = lambda name: (tmp_path / name / "1.mid").read_bytes()  # noqa: E731
    assert read("one") == read("again") != read("other")
    assert ask("way", "--run", run, *flags(out="way"))[0] == 0
    assert pieces.parts(tmp_path / "way" / "0.musicxml")[0].length == 8 * 8
    assert ask("accompany", "0", "--run", run, *flags(n=2, out="under"))[0] == 0
    assert [len(pieces.parts(tmp_path / "under" / f"{i}.musicxml")) for i in (0, 1)] == [4, 4]
    assert ask("vary", "--run", run, *flags(change="melody", out="vary"))[0] == 0
    status, _, told = ask("vary", "--run", run, *flags(change="tempo"))
    assert status == 2 and "groove" in told


@pytest.mark.device
def test_the_books_mixing_and_soft_output(fit):
    _, out = fit("mixed", "--mixed", "--no-listen", keys="own", output="soft", ema_decay=0.0)
    assert "to the sopranos" not in out
    # thirty-two numbers of one voice, four at a time, move in parallel
    bach = re.search(r"^parallel fifths and octaves per 100 changes +\S+ +(\S+)$", out, flags=re.MULTILINE)
    assert float(bach[1]) >= 0 and "windows of two bars" in out


@pytest.mark.device
def test_replicas_of_a_sweep(fit):
    path, out = fit(replicas=2)
    assert "best of 2 by val/unlike" in out and len(json.loads((path / "result.json").read_text())["all"]) == 2


def test_mixing_is_the_books(songs):
    args = exp.PRESETS["small"]
    own = [pieces.four(path) for path in sorted(songs.iterdir())[:4]]
    plain, mixed = (
        voices.sounding(exp.windows(own, dataclasses.replace(args, mixed=x, listen=False))) for x in (False, True)
    )
    assert mixed[0].flatten().equal(plain[0].T.flatten())


# ---- the step ----


def tiny(**values):
    return dataclasses.replace(exp.PRESETS["small"], **{**TINY, "steps": 200, **values})


def data(n=12):
    cells = some(n)
    return exp.Windows(cells, *voices.shifts(voices.sounding(cells)))


def test_the_step_is_one_graph(key):
    args, own = tiny(listen=False), data()  # with it compilation takes minutes
    step = partial(exp.step, args=args)
    torch._dynamo.reset()
    counters.clear()
    compiled = jit(step, backend="aot_eager")
    b = exp.init_state(key, args)
    a = tree.map(torch.clone, b)
    for i in range(3):
        index = random.randint(random.fold_in(key, i), (4, args.critic_steps), 0, 12).long()
        a, b = compiled(a, index, own)[0], step(b, index, own)[0]
    assert counters["stats"]["unique_graphs"] == 1
    for path, x in tree.flatten(a.params).items():
        torch.testing.assert_close(x, tree.at(b.params, path), rtol=1e-3, atol=1e-4, msg=path)


def test_it_learns_a_chord(key):
    """All windows are one chord, held: after some steps most of it is generated, of 48 tokens for each cell."""
    cells = torch.zeros(8, T, 4, dtype=torch.int64)
    cells[:, 0] = torch.tensor([33, 30, 26, 14])
    own = exp.Windows(cells, *[torch.zeros(8, dtype=torch.int64)] * 2)
    args = tiny(batch=8, steps=300, lr=3e-3, critic_lr=3e-3, beta1=0.5, penalty=1.0, listen=False, output="hard")
    state = exp.init_state(key, args)
    for i in range(100):
        index = random.randint(random.fold_in(key, i), (8, args.critic_steps), 0, 8).long()
        state, _ = exp.step(state, index, own, args=args)
    made = exp.quartet(state.ema, args).draw(musegan.noise(random.key(3), 16, args.network()), key)
    assert (made == cells[:1]).float().mean() > 0.4


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "nowhere"], "neither default, jsb nor a folder"),
        (["--critic-steps", "0"], "--critic-steps must be at least 1"),
        (["--penalty", "-1"], "--penalty must be at least 0"),
        (["--mixed"], "give --no-listen too"),
        (["sample", "--n", "0"], "--n must be at least 1"),
    ],
)
def test_bad_flags(call, words, message):
    status, out, told = call(exp, *words)
    assert status in (1, 2) and message in " ".join(re.sub("[│╭╮╰╯─]", " ", out + told).split())
