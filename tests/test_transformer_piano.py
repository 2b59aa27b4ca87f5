"""experiments/exp_transformer_piano.py as a user runs it, on a few made performances; its step; figures; bad input."""

import dataclasses
import json
import math
import re
import wave
from collections import Counter
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from experiments import exp_transformer_piano as exp
from lib import random, tree
from lib.data import midi, performances
from lib.data.performances import END, SHIFT, START
from lib.tasks import pianist, playing
from lib.transform import jit
from tests.flags import flags
from tests.test_soundfont import made

TINY = {
    "layers": 1, "width": 16, "heads": 2, "ff": 24, "rows": 4, "length": 32, "warmup": 2, "compile": "off",
    "precision": "fp32", "device": "cpu", "log_every": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    monkeypatch.setattr(pianist, "GIVEN", 1.0)
    monkeypatch.setattr(pianist, "PLAYED", 0.5)


@pytest.fixture
def fit(call, recital, tmp_path):
    """A run of a few steps with flags of one's own: its directory and what it printed."""

    def make(name="run", steps=2, **values):
        path = tmp_path / name
        status, out, told = call(exp, *flags(**{"data": recital, "steps": steps, "run": path, **TINY, **values}))
        assert status == 0, told
        return path, out

    return make


# ---- a whole run ----


@pytest.mark.device
def test_a_run_and_all_that_it_is_asked_for(fit, call, recital, device, tmp_path):
    run, out = fit(steps=4, eval_every=2, diagnose=4)
    assert re.search(rf"events at 5 speeds to train on; {device}, torch.float32$", out, flags=re.MULTILINE)
    assert re.search(r"^trigrams +\d\.\d+$", out, flags=re.MULTILINE)
    assert re.search(r"^durations, total variation( +[01]\.\d+){2}$", out, flags=re.MULTILINE)
    result = json.loads((run / "result.json").read_text())
    assert {"test/loss", "test/loss_note", "test/trigrams", "test/onsets"} <= result.keys()
    assert "diagnose/params/hessian/trace" in (run / "metrics.jsonl").read_text()

    ask = partial(call, exp, "sample")
    status, _, told = ask("--run", run, *flags(n=2, seconds=1, out="one"))
    assert status == 0, told
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        f"{i}{ending}" for i in (0, 1) for ending in (".mid", ".wav", "-notes.png")
    }
    with wave.open(str(tmp_path / "one" / "0.wav")) as file:
        assert 0.1 < file.getnframes() / file.getframerate() < 1.3
    ask("--run", run, *flags(n=2, seconds=1, out="again"))
    ask("--run", run, *flags(n=2, seconds=1, out="other", seed=1))
    read = lambda name: (tmp_path / name / "1.mid").read_bytes()  # noqa: E731
    assert read("one") == read("again") != read("other")

    song = sorted(recital.iterdir())[0]
    words = ["continue", song, "--run", run, "--copy-check", *flags(start=1, given=1, seconds=3, n=2, out="c")]
    status, out, told = ask(*words)
    assert status == 0 and "longest run of notes that training performances have in some key" in told
    given = playing.cut(midi.read(song), 1, 2)
    whole = midi.read(tmp_path / "c" / "1.mid")
    first = performances.encode(given)
    again = performances.encode(whole)
    struck = lambda ids: ids[ids < END][: len(given.start)].tolist()  # noqa: E731
    assert struck(first) == struck(again) and len(whole.start) > len(given.start)
    status, out, _ = ask("likelihood", song, 0, "--run", run)
    assert status == 0 and len(out.splitlines()) == 3 and not re.search("nan|inf", out)


@pytest.mark.device
def test_replicas_of_a_sweep(fit):
    path, out = fit(replicas=2)
    assert "best of 2 by val/loss" in out and len(json.loads((path / "result.json").read_text())["all"]) == 2


# ---- the step ----


def tiny(**values):
    return dataclasses.replace(exp.PRESETS["small"], **{**TINY, "steps": 200, **values})


def test_overfits_one_batch(key):
    args = tiny(lr=0.02, weight_decay=0.0, transpose=0)
    window = random.randint(key, (4, 33), 0, performances.KINDS).long()
    state, first = exp.init_state(key, args), None
    for _ in range(150):
        state, out = exp.step(state, window, args=args, dtype=torch.float32)
        first = first or float(out["train/loss"])
    assert first > 5.5 and out["train/loss"] < 1


def test_the_step_is_one_graph(key):
    args = tiny()
    step = partial(exp.step, args=args, dtype=torch.float32)
    torch._dynamo.reset()
    counters.clear()
    compiled = jit(step, backend="aot_eager")
    b = exp.init_state(key, args)
    a = tree.map(torch.clone, b)
    for i in range(3):
        window = random.randint(random.fold_in(key, i), (4, 33), 0, performances.KINDS).long()
        a, b = compiled(a, window)[0], step(b, window)[0]
    assert counters["stats"]["unique_graphs"] == 1
    for path, x in tree.flatten(a.params).items():
        torch.testing.assert_close(x, tree.at(b.params, path), rtol=1e-3, atol=1e-4, msg=path)


def test_another_key_moves_pitches_alone(recital):
    notes = performances.read(sorted(recital.iterdir())[0]).notes
    ids = performances.encode(notes)
    higher = exp.transposed(ids[None], torch.tensor([3]))[0]
    assert higher.equal(performances.encode(notes._replace(pitch=notes.pitch + 3)))
    window = torch.tensor([[106, END + 106, SHIFT, START], [23, END + 60, SHIFT, 379], [300, 301, 302, START]])
    assert exp.transposed(window, torch.tensor([3, -3, 3])).tolist() == [
        [108, END + 108, SHIFT, START], [21, END + 58, SHIFT, 379], [300, 301, 302, START],
    ]  # fmt: skip


# ---- figures ----


def test_trigrams(key):
    """Against counts by hand: of a text of two letters, one held-out event at a time."""
    train, test = random.randint(key, (300,), 0, 3).long(), random.randint(random.fold_in(key, 1), (40,), 0, 3).long()

    def p(context, event):
        seen = Counter(zip(*(train[2 - k : len(train) - k].tolist() for k in range(len(context), -1, -1)), strict=True))
        total = sum(n for at, n in seen.items() if at[:-1] == context)
        kinds = len([at for at in seen if at[:-1] == context])
        below = p(context[1:], event) if context else 1 / performances.KINDS
        return (seen[(*context, event)] + kinds * below) / (total + kinds) if total else below

    pieces = test.tolist()
    by_hand = [-math.log(p(tuple(pieces[i - 2 : i]), pieces[i])) for i in range(2, 40)]
    assert playing.trigrams([train], [test]) == pytest.approx(sum(by_hand) / 38)


def test_a_run_of_notes_in_another_key(recital):
    notes = performances.read(sorted(recital.iterdir())[0]).notes
    training = playing.intervals(notes)
    some = playing.cut(notes, 1, 3)
    assert playing.copied(some._replace(pitch=some.pitch + 5), training) == len(some.start) > 5
    late = playing.cut(notes, 1.0037, 3)
    faster = performances.decode(performances.encode(late, 1.02))
    assert playing.copied(faster, training) >= len(late.start) * 0.7  # a chord may become two
    assert playing.copied(some._replace(pitch=some.pitch % 2 * 40 + 30 + torch.arange(len(some.pitch)) ** 2), "ab") == 0


def test_variation(recital):
    one, other = (performances.read(path).notes for path in sorted(recital.iterdir())[:2])
    assert set(playing.variation(one, one).values()) == {0.0}
    assert all(0 <= value <= 1 for value in playing.variation(one, other).values())
    softer = one._replace(velocity=torch.full_like(one.velocity, 3))
    found = playing.variation(one, softer)
    assert found["velocities"] == 1 and found["pitch_classes"] == found["onsets"] == found["durations"] == 0


def test_short_performances_are_not_played_on(fit, monkeypatch):
    monkeypatch.setattr(pianist, "GIVEN", 10.0)
    path, out = fit()
    assert "no test performance is longer than 10.5 seconds: none was played on" in out
    assert "test/loss" in json.loads((path / "result.json").read_text())


def test_prompts_are_spread_over_performances(recital):
    pieces = [performances.read(path) for path in sorted(recital.iterdir())]
    found = pianist.prompts(pieces)
    assert len(found) == pianist.PROMPTS and not found[0][0].start.equal(found[1][0].start)
    assert all(given.start.max() < pianist.GIVEN and len(true.start) for given, true in found)
    assert len(pianist.prompts(pieces[:3])) == 9 and pianist.prompts([]) == []
    asked = pianist.prompts(pieces[:15])  # of the first, and of every second or so to the last but one
    assert len(asked) == 8 and asked[-1][0].pitch.equal(pianist.prompts([pieces[13]] * 8)[0][0].pitch)


# ---- bad input ----


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "nowhere"], "neither default nor maestro nor a folder"),
        (["--shard-optimizer"], "which Muon needs whole"),
        (["--width", "10", "--heads", "4"], "not a multiple"),
        (["sample", "--seconds", "0"], "--seconds must be at least 0.1"),
        (["sample", "--top-p", "0"], "--top-p must be above 0 and at most 1"),
        (["sample", "--out", "nowhere/there"], "cannot be a folder"),
    ],
)
def test_bad_flags(call, words, message):
    status, out, told = call(exp, *words)
    assert status in (1, 2) and message in " ".join(re.sub("[│╭╮╰╯─]", " ", out + told).split())


def test_what_cannot_be_played(fit, call, recital, tmp_path):
    run, _ = fit()
    ask = lambda *words: call(exp, "sample", *words, "--run", run)  # noqa: E731
    status, _, told = ask("continue", 99)
    assert status == 1 and "test performances have numbers from 0 to" in told
    status, _, told = ask("continue", sorted(recital.iterdir())[0], *flags(start=3000))
    assert status == 1 and "has no notes from second 3000 to" in told
    (tmp_path / "bad.mid").write_bytes(b"hello")
    assert ask("continue", tmp_path / "bad.mid")[0] == 1
    for name, wanted in (
        ("nowhere.sf2", "--soundfont nowhere.sf2 is no file: sums of sines are heard instead"),
        (made(tmp_path / "one.sf2", number=0), ""),
        (made(tmp_path / "other.sf2"), "the soundfont has no instrument of number 0"),
    ):
        status, _, told = ask(*flags(n=1, seconds=2, soundfont=name, out=f"s{status}"))
        assert wanted in told and status == ("number 0" in wanted) and ("sums of sines" in told) == ("sines" in wanted)
    status, _, told = ask("continue", sorted(recital.iterdir())[0], *flags(given=5, seconds=0.1))
    assert status == 0 and "the model hears the last 16 of them" in told
