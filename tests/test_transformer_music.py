"""experiments/exp_transformer_music.py as a user runs it, on a few made songs; its step; what it is asked for."""

import dataclasses
import json
import re
import wave
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from experiments import exp_transformer_music as exp
from lib import random, tree
from lib.data import excerpts, midi, pieces, voices
from lib.data.pieces import Piece
from lib.tasks import composer
from lib.transform import jit
from tests.flags import flags

TINY = {
    "layers": 1, "width": 16, "heads": 2, "ff": 24, "chord": 6, "head": 12, "rows": 4, "length": 48, "warmup": 2,
    "samples": 2, "compile": "off", "precision": "fp32", "device": "cpu", "log_every": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    monkeypatch.setattr(composer, "BARS", 2)


@pytest.fixture
def fit(call, songs, tmp_path):
    """A run of a few steps with flags of one's own: its directory and what it printed."""

    def make(name="run", steps=2, **values):
        path = tmp_path / name
        status, out, told = call(exp, *flags(**{"data": songs, "steps": steps, "run": path, **TINY, **values}))
        assert status == 0, told
        return path, out

    return make


def melody(path, pitches=(67, 69, 71, 72), each=1.0):
    starts = torch.arange(len(pitches)) * each
    notes = voices.Notes(
        starts, torch.full_like(starts, each), torch.tensor(pitches), *torch.tensor([[80], [0]]).expand(2, len(pitches))
    )
    path.write_bytes(midi.encoded(notes, 60, ["melody"]))
    return path


# ---- a whole run ----


@pytest.mark.device
def test_a_run_and_all_that_it_is_asked_for(fit, call, songs, device, tmp_path):
    run, out = fit(steps=4, eval_every=2, diagnose=4)
    assert re.search(rf"^pieces of songs\d+: \d+ to train on; {device}, torch.float32$", out, flags=re.MULTILINE)
    assert re.search(r"^all voices( +\d+\.\d+){3}$", out, flags=re.MULTILINE)
    assert re.search(r"^chords on the beat( +\d\.\d+){2}$", out, flags=re.MULTILINE)
    result = json.loads((run / "result.json").read_text())
    assert {"test/loss", "test/loss_given_soprano", "test/chord", "bach/chord", "test/copied"} <= result.keys()
    text = (run / "metrics.jsonl").read_text()
    assert "written/parallels" in text and "diagnose/params/hessian/trace" in text

    ask = partial(call, exp, "sample")
    status, _, told = ask("--run", run, *flags(n=2, bars=2, out="one"))
    assert status == 0, told
    made = {path.name for path in (tmp_path / "one").iterdir()}
    assert {f"{i}{ending}" for i in (0, 1) for ending in (".mid", ".musicxml", ".wav", "-notes.png")} <= made
    with wave.open(str(tmp_path / "one" / "0.wav")) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(2 * 4 * 60 / 80, abs=0.5)
    ask("--run", run, *flags(n=2, bars=2, out="again"))
    ask("--run", run, *flags(n=2, bars=2, out="other", seed=1))
    read = lambda name: (tmp_path / name / "1.mid").read_bytes()  # noqa: E731
    assert read("one") == read("again") != read("other")

    song = next(path for path in sorted(songs.iterdir()))
    whole = pieces.four(song)
    sung = melody(tmp_path / "melody.mid")
    assert ask("harmonise", sung, "--run", run, *flags(n=2, out="h"))[0] == 0
    found = pieces.placed("h", pieces.parts(tmp_path / "h" / "1.musicxml"))  # whatever the order of its voices
    assert voices.sounding(found.cells.long())[::4, 0].tolist() == [67, 69, 71, 72]
    assert ask("continue", song, "--run", run, *flags(given=1, bars=2, out="c"))[0] == 0
    found = pieces.parts(tmp_path / "c" / "0.musicxml")
    assert found[0].length == 8 and found[3].notes[0].pitch == int(voices.sounding(whole.cells.long())[0, 3])
    assert ask("fill", song, "--run", run, "--voices", "at", "--bars", 2, 2, "--copy-check", *flags(out="f"))[0] == 0
    found = voices.sounding(pieces.placed("f", pieces.parts(tmp_path / "f" / "0.musicxml")).cells.long())
    assert found[:16].equal(voices.sounding(whole.cells.long())[:16])
    assert found[:, [0, 3]].equal(voices.sounding(whole.cells.long())[:, [0, 3]])
    status, out, _ = ask("likelihood", song, 0, "--run", run)
    assert status == 0 and len(out.splitlines()) == 3 and not re.search("nan|inf", out)


@pytest.mark.device
def test_replicas_of_a_sweep(fit):
    path, out = fit(replicas=2)
    assert "best of 2 by val/loss" in out and len(json.loads((path / "result.json").read_text())["all"]) == 2


# ---- the step ----


def tiny(**values):
    return dataclasses.replace(exp.PRESETS["small"], **{**TINY, "steps": 200, **values})


def some(n=4, length=48):
    made = [random.randint(random.fold_in(random.key(6), i), (40 + 4 * i, 4), 0, 48).to(torch.int8) for i in range(n)]
    return [Piece("", cells, torch.arange(len(cells)) % 16, 16, 0) for cells in made]


def test_overfits_one_batch(key):
    args = tiny(lr=0.02, dropout=0.0, weight_decay=0.0, transpose=False, given=0.01)
    batch = next(excerpts.batches(some(), key, 4, args.length))
    state, first = exp.init_state(key, args), None
    for _ in range(150):
        state, out = exp.step(state, batch, args=args, dtype=torch.float32)
        first = first or float(out["train/loss"])
    assert first > 3.7 and out["train/loss"] < 1


def test_the_step_is_one_graph(key):
    args = tiny()
    data = excerpts.batches(some(), key, 4, args.length)
    step = partial(exp.step, args=args, dtype=torch.float32)
    torch._dynamo.reset()
    counters.clear()
    compiled = jit(step, backend="aot_eager")
    b = exp.init_state(key, args)
    a = tree.map(torch.clone, b)
    for batch in (next(data) for _ in range(3)):
        a, b = compiled(a, batch)[0], step(b, batch)[0]
    assert counters["stats"]["unique_graphs"] == 1
    for path, x in tree.flatten(a.params).items():
        torch.testing.assert_close(x, tree.at(b.params, path), rtol=1e-3, atol=1e-4, msg=path)


def test_what_only_shows_how_a_piece_sounds_stays_in_range(key):
    """An excerpt's first pitches, which do not count, are transposed with the others."""
    cells = torch.full((60, 4), 0, dtype=torch.int8)
    cells[0], cells[30] = torch.tensor([47, 40, 30, 14]), torch.tensor([30, 28, 21, 14])
    batch = tree.stack([excerpts.cut(Piece("", cells, torch.arange(60) % 16, 16, 0), 20, 32)] * 64)
    music, _, _ = exp.seen(batch, key, tiny(rows=64))
    assert int(music.cells.max()) <= 47 and int(music.cells[:, 0].min()) >= 2


def test_what_a_model_is_shown(key):
    """Some voices, all but a gap, both, or nothing; in all keys within the ranges; and what is left, at times."""
    args, high = tiny(rows=64, given=0.8), torch.tensor([34, 28, 21, 14], dtype=torch.int8)
    songs = [p._replace(cells=torch.where(p.cells > 1, high + p.cells % 4, p.cells)) for p in some()] * 20
    batch = next(excerpts.batches(songs, key, 64, args.length))
    music, given, counts = exp.seen(batch, key, args)
    assert not (given & counts).any() and (given | counts).equal(batch.counts[..., None].expand_as(given))
    whole = given[:, batch.counts.all(0)]
    kinds = {
        "nothing": ~whole.flatten(1).any(1),
        "voices": whole.any(1).any(1) & (whole.all(1) | ~whole.any(1)).all(1),
        "gap": (whole.all(2) | ~whole.any(2)).all(1) & whole.flatten(1).any(1) & ~whole.flatten(1).all(1),
    }
    assert all(2 <= int(x.sum()) <= 40 for x in kinds.values())
    sounds, before = voices.sounding(music.cells), voices.sounding(batch.cells)
    by = (sounds - before)[before > 0]
    assert len(by.unique()) > 5
    assert (music.left == 0).all(1).any() and (music.left == batch.left).all(1).any()


# ---- bad input ----


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "nowhere"], "neither default, jsb nor a folder"),
        (["--shard-optimizer"], "which Muon needs whole"),
        (["--width", "10", "--heads", "4"], "not a multiple"),
        (["--length", "20"], "two bars at least"),
        (["--given", "1.5"], "--given must be"),
        (["sample", "--top-p", "0"], "--top-p must be above 0 and at most 1"),
        (["sample", "--tempo", "0"], "--tempo must be at least 20"),
        (["sample", "--out", "nowhere/there"], "cannot be a folder"),
        (["sample", "fill", "0", "--voices", "X"], "letters of SATB"),
        (["sample", "fill", "0", "--bars", "3", "2"], "the first comes first"),
    ],
)
def test_bad_flags(call, words, message):
    status, out, told = call(exp, *words)
    assert status in (1, 2) and message in " ".join(re.sub("[│╭╮╰╯─]", " ", out + told).split())


def test_what_cannot_be_written(fit, call, tmp_path, songs):
    run, _ = fit()
    ask = lambda *words: call(exp, "sample", *words, "--run", run)  # noqa: E731
    status, _, told = ask(*flags(bars=4))
    assert status == 1 and "64 sixteenths are more than the 48 that this run has learnt to write" in told
    status, _, told = ask("continue", 0, *flags(given=3, bars=3))
    assert status == 2 and "leaves nothing to write" in told
    status, _, told = ask("harmonise", 99)
    assert status == 1 and re.search("test chorales have numbers from 0 to", told)
    status, _, told = ask("harmonise", melody(tmp_path / "low.mid", (40, 41, 42, 43)))
    assert status == 1 and "a soprano from 60 to 81: transpose it" in told
    status, _, told = ask("fill", sorted(songs.iterdir())[0], "--bars", 9, 9)
    assert status == 1 and "the piece ends before" in told
    status, _, told = ask("harmonise", melody(tmp_path / "off.mid", (67, 69, 71, 72), 1.03))
    assert status == 0 and "notes of" in told and "lay between two sixteenths" in told
    (tmp_path / "bad.mid").write_bytes(b"hello")
    assert ask("fill", tmp_path / "bad.mid")[0] == 1
