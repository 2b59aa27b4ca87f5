"""Chorales: voices on a grid, pieces from files, splits, excerpts for a model, and how music is measured."""

import io
import itertools
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch

from lib import random
from lib.data import chorales, excerpts, midi, musicxml, pieces, voices
from lib.data.pieces import Piece
from lib.faults import DataError
from lib.tasks import music

CADENCE = ((67, 64, 60, 48), (65, 60, 57, 53), (62, 59, 55, 43), (60, 60, 55, 48))  # C F G C, soprano to bass


def cells(chords=CADENCE, each=4):
    pitch = torch.tensor(chords).repeat_interleave(each, 0)
    struck = torch.zeros_like(pitch, dtype=torch.bool)
    struck[::each] = True
    return voices.tokens(pitch, struck)


def piece(name="a", bars=4, by=0, place=0):
    own = voices.transposed(cells().repeat(bars, 1), by).to(torch.int8)
    return Piece(name, own, (torch.arange(len(own)) + place) % 16, 16, 0)


# ---- voices ----


def test_tokens_say_what_sounds_and_what_is_struck():
    pitch = torch.tensor([[60], [60], [60], [0], [0], [62], [62]])
    struck = torch.tensor([[1], [0], [1], [1], [1], [1], [0]]).bool()
    found = voices.tokens(pitch, struck)
    assert found[:, 0].tolist() == [26, voices.HOLD, 26, voices.REST, voices.HOLD, 28, voices.HOLD]
    assert voices.sounding(found).equal(pitch)
    assert voices.sounding(torch.zeros(3, 4, dtype=torch.int64)).equal(torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="pitch 82 is not within 36 to 81"):
        voices.tokens(torch.tensor([[82]]), torch.tensor([[True]]))


def test_notes_begin_and_end_where_cells_do():
    found = voices.notes(cells(), 60)
    assert len(found.start) == 16
    assert found.start[:5].tolist() == [0, 0, 0, 0, 1]
    assert found.duration.unique().tolist() == [1]
    assert found.pitch[:4].tolist() == list(CADENCE[0]) and found.voice[:4].tolist() == [0, 1, 2, 3]
    assert len(voices.notes(torch.ones(4, 4, dtype=torch.int64), 60).start) == 0


def test_transposition_stays_in_every_range():
    own = cells()
    low, high = voices.shifts(voices.sounding(own))
    assert (int(low), int(high)) == (0, 11)  # the soprano's 60 is its lowest; the tenor's 60 eleven below its highest
    moved = voices.transposed(own[None], torch.tensor([high]))
    assert voices.sounding(moved)[0].equal(voices.sounding(own) + 11) and (moved[0] == 0).equal(own == 0)
    out = voices.shifts(torch.tensor([[84, 0, 0, 30]]))  # outside already: not further out, and back only by itself
    assert (int(out[0]), int(out[1])) == (0, 0)


# ---- pieces ----


def note(start, duration, pitch, tied=False):
    return musicxml.Note(Fraction(start), Fraction(duration), pitch, tied, False)


def part(notes, bars=(0,), time=(4, 4), length=None):
    end = max(n.start + n.duration for n in notes) if length is None else Fraction(length)
    return musicxml.Part("", notes, [Fraction(b) for b in bars], [(Fraction(0), 2)], [(Fraction(0), time)], end)


def test_a_score_is_put_on_the_grid():
    tied = [note(0, 1, 60), note(1, "1/2", 60, tied=True), note("3/2", "1/2", 60)]
    found = pieces.placed("x", [part(tied, bars=(0, 1), length=5), *[part([note(0, 5, 55)])] * 3])
    assert found.cells[:9, 0].tolist() == [26, 0, 0, 0, 0, 0, 26, 0, voices.REST]
    assert found.cells[:, 3].tolist() == [21] + [0] * 19
    assert found.place.tolist() == [12, 13, 14, 15, *range(16)] and (found.bar, found.fifths) == (16, 2)


def test_a_bar_that_a_repeat_cuts_goes_on():
    whole = [part([note(0, 8, 60)], bars=(0, 4, 7)), *[part([note(0, 8, 55)])] * 3]  # 16, 12 and 4 sixteenths
    assert pieces.placed("x", whole).place.tolist() == [*range(16), *range(12), 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ([[note(0, 4, 90)]], "goes from 90 to 90, a soprano from 60 to 81"),
        ([[note(0, 4, 65), note(2, 4, 67)]], "several notes at once 2 quarters from its beginning"),
        ([[note(0, 1, 65)]], "shorter than a bar"),
        ([[note(0, "1/8", 65), note("1/8", "1/8", 67), note("1/4", 4, 65)]], "shorter than a sixteenth 0 quarters"),
        ([[note(0, "1/32", 65)]], "shorter than a bar"),
        ([[note(0, 4, 65)], [note(0, 4, 60)]], "has 2 parts: give the melody alone"),
        ([[]], "has no notes"),
    ],
)
def test_what_is_no_melody_is_refused(parts, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(midi, "parts", lambda path: [part(notes, length=None if notes else 4) for notes in parts])
    with pytest.raises(DataError, match=fault):
        pieces.melody(tmp_path / "a.mid")


def test_notes_off_the_grid_are_counted_and_moved(tmp_path):
    notes = voices.Notes(
        *(torch.tensor(x) for x in ([0.0, 1.1, 2.0], [1.0, 0.9, 2.0], [65, 67, 69], [80] * 3, [0] * 3))
    )
    (tmp_path / "a.mid").write_bytes(midi.encoded(notes, 60, ["soprano"]))
    assert pieces.moved(str(tmp_path / "a.mid")) == 1 and pieces.moved("3") == 0
    found = pieces.melody(tmp_path / "a.mid")
    assert voices.sounding(found.cells.long())[:, 0].tolist() == [65] * 4 + [67] * 4 + [69] * 8
    assert found.cells[:, 0].nonzero().flatten().tolist() == [0, 4, 8]


def test_four_parts_survive_midi_and_musicxml(tmp_path):
    own = piece()
    (tmp_path / "a.mid").write_bytes(midi.encoded(voices.notes(own.cells.long(), 90), 90, voices.NAMES))
    (tmp_path / "a.musicxml").write_bytes(musicxml.written(own.cells.long(), own.place, 0, "a", 90))
    for name in ("a.mid", "a.musicxml"):
        found = pieces.four(tmp_path / name)
        assert found.cells.equal(own.cells) and found.place.equal(own.place)
    notes = voices.notes(own.cells.long(), 90)
    (tmp_path / "b.mid").write_bytes(midi.encoded(notes._replace(voice=3 - notes.voice), 90, voices.NAMES))
    with pytest.raises(DataError, match="parts in another order"):
        pieces.four(tmp_path / "b.mid")
    with pytest.raises(DataError, match=r"neither MIDI \(.mid\) nor MusicXML"):
        pieces.four(tmp_path / "a.txt")


# ---- sets of chorales ----


def test_a_folder_is_split_by_its_music(tmp_path, capsys):
    for i in range(30):
        own = piece(bars=1 + i % 3, by=i % 11)
        (tmp_path / f"{i}.mid").write_bytes(midi.encoded(voices.notes(own.cells.long(), 90), 90, voices.NAMES))
    (tmp_path / "bad.mid").write_bytes(b"hello")
    (tmp_path / "readme.txt").write_text("no music")
    found = chorales.load(str(tmp_path))
    assert sum(map(len, found[1:])) == 30 and min(map(len, found[1:])) > 0
    assert "left out" in capsys.readouterr().err
    sides = [{p.cells.numpy().tobytes() for p in side} for side in found[1:]]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    with pytest.raises(DataError, match="too few pieces"):
        chorales.load(str(_folder_of_one(tmp_path)))
    with pytest.raises(DataError, match="neither default, jsb nor"):
        chorales.load("handel")


def _folder_of_one(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.mid").write_bytes((tmp_path / "0.mid").read_bytes())
    return tmp_path / "one"


def jsb(path, **more):
    with zipfile.ZipFile(path / chorales.JSB, "w") as archive:
        for side in ("train", "valid", "test"):
            arrays = np.empty(2, dtype=object)
            arrays[:] = [np.full((8, 4), 60, np.float16), np.full((8, 4), np.nan, np.float16)]
            file = io.BytesIO()
            np.save(file, more.get(side, arrays), allow_pickle=True)
            archive.writestr(f"{side}.npy", file.getvalue())


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_jsb_is_read_without_running_anything(tmp_path, capsys):
    jsb(tmp_path)
    found = chorales.load("jsb", tmp_path)
    assert [len(side) for side in found[1:]] == [2, 2, 2]
    assert found.train[0].cells[:2].tolist() == [[26] * 4, [0] * 4] and found.val[1].cells[0].tolist() == [1] * 4
    jsb(tmp_path, test=np.array([Evil()], dtype=object))
    with pytest.raises(DataError, match="it names builtins"):
        chorales.load("jsb", tmp_path)
    assert "run" not in capsys.readouterr().out
    with pytest.raises(DataError, match="no Jsb16thSeparated"):
        chorales.load("jsb")


def wheel(path, names, by):
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            own = piece(bars=3, by=by[i])
            score = musicxml.written(own.cells.long(), own.place, 0, name, 90)
            archive.writestr(f"music21/corpus/bach/{name}.xml", score)
        archive.writestr("music21/corpus/mozart/k155.xml", b"no Bach")


def test_what_repeats_a_listed_chorale_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    listed = [line.split("\t")[0] for line in chorales.SPLIT.read_text().splitlines()]
    assert len(listed) == len(set(listed)) == 331
    other = piece("z", by=0)
    assert chorales._half_bars(other.cells) == chorales._half_bars(piece(by=3).cells)  # in another key too
    monkeypatch.setattr(chorales, "SPLIT", tmp_path / "split.tsv")
    (tmp_path / "split.tsv").write_text("a\ttrain\nb\tvalid\nc\ttest\n")
    path = tmp_path / chorales.CORPUS.file
    wheel(path, ["a", "b", "c", "copy"], [0, 1, 2, 5])
    monkeypatch.setattr(chorales, "fetch", lambda source, data_dir: path)
    found = chorales.load()
    assert [[p.name for p in side] for side in found[1:]] == [["a"], ["b"], ["c"]]
    assert found.test[0].cells.equal(piece(bars=3, by=2).cells)
    path.unlink()  # what was read is kept
    assert chorales.load().train[0].cells.equal(found.train[0].cells)


# ---- excerpts ----


def test_excerpts_score_each_sixteenth_once():
    some = [piece(bars=b) for b in (1, 2, 3, 5)]
    for length in (16, 24, 32, 200):
        found = excerpts.scored_once(some, length)
        assert sum(int(e.counts.sum()) for e in found) == sum(len(p.cells) for p in some)
        assert all(len(e.cells) == length for e in found)
    # every sixteenth but the first ones has half a length before it
    for e in excerpts.scored_once([piece(bars=5)], 32)[1:]:
        assert int(e.counts.nonzero()[0]) >= 16


def test_an_excerpt_begins_with_what_sounds():
    e = excerpts.cut(piece(), 2, 8)
    assert e.cells[0].tolist() == [x - 34 for x in CADENCE[0]] and not e.counts[0] and e.counts[1:].all()
    assert e.left.tolist() == list(range(62, 54, -1)) and e.place[0] == 2
    end = excerpts.cut(piece(bars=1), 0, 20)
    assert end.counts.tolist() == [True] * 16 + [False] * 4 and end.left[15:].tolist() == [1, 0, 0, 0, 0]


def test_nothing_tells_where_a_piece_ends():
    """But `left` and `counts`, which a model need not be shown."""
    whole = excerpts.cut(piece(bars=3), 0, 40)
    short = excerpts.cut(piece(bars=2), 0, 40)
    assert whole.place.equal(short.place) and int(short.counts.sum()) == 32 and bool((short.cells[32:] == 0).all())


def test_batches_are_a_function_of_key_and_number():
    some = [piece(bars=b) for b in (1, 2, 3, 5)]

    def taken(first, n):
        return list(itertools.islice(excerpts.batches(some, random.key(1), 2, 32, first), n))

    assert all(a.cells.equal(b.cells) for a, b in zip(taken(0, 7)[3:], taken(3, 4), strict=True))
    assert not taken(0, 1)[0].cells.equal(taken(1, 1)[0].cells) or not taken(0, 1)[0].left.equal(taken(1, 1)[0].left)
    with pytest.raises(DataError, match="do not fill a batch of 9"):
        next(excerpts.batches(some, random.key(1), 9, 32))


# ---- measures ----


def test_a_cadence_is_music():
    found = music.harmony(torch.cat([cells(), cells()])[None])
    assert found["chord"] == 1 and found["scale"] == 1 and found["crossed"] == found["outside"] == 0
    assert found["onsets"] == 0.25
    assert found["parallels"] == 0


def test_each_fault_is_counted():
    fifths = ((67, 64, 60, 48), (69, 66, 62, 50))  # alto, tenor, bass a tone up: bass and soprano a fifth apart
    found = music.harmony(cells(fifths, 16)[None])
    # soprano over tenor (67-60, 69-62) and over bass (67-48, 69-50) in fifths, tenor over bass in octaves
    assert found["parallels"] == pytest.approx(300)
    crossed = music.harmony(cells(((60, 64, 55, 48),), 32)[None])
    assert crossed["crossed"] == 1 and crossed["outside"] == 0
    assert music.harmony(cells(((84 - 12, 64, 55, 30 + 6),), 32)[None])["outside"] == 0
    assert music.harmony(cells(((59, 57, 50, 45),), 32)[None])["outside"] == 0.25
    assert music.harmony(cells(((61, 60, 59, 58),), 32)[None])["chord"] == 0
    fourths = music.harmony(cells(((60, 65, 50, 43), (62, 67, 53, 43)), 16)[None])  # of voices that cross
    assert fourths["parallels"] == 0 and fourths["crossed"] == 1
    none = music.scores(cells()[None], cells()[None][:0])
    assert np.isnan(none["nearest"]) and np.isnan(none["copied"])
    rests = torch.full((1, 32, 4), voices.REST)
    assert np.isnan(music.harmony(rests)["chord"])


def test_durations_and_pitch_classes_are_shares():
    one = cells()[None]
    assert music.durations(one)[4] == 1 and music.pitch_classes(one).sum() == pytest.approx(1)
    assert music.pitch_classes(one)[7] == pytest.approx(4 / 16)  # G: soprano, tenor twice, bass
    other = torch.cat([one, voices.transposed(one, 1)])
    scores = music.scores(torch.cat([one] * 2), other)
    assert scores["durations"] == 0 and 0 < scores["pitches"] < 1 and scores["nearest"] == scores["copied"] == 1


def test_the_nearest_window_is_found_in_any_key():
    training = torch.stack([cells(), voices.transposed(cells().flip(0).clamp(min=2), 1)])
    assert music.nearest(voices.transposed(cells()[None], 3), training).tolist() == [1]
    changed = cells()[None].clone()
    changed[0, :8] = voices.REST
    assert music.nearest(changed, training[:1])[0] == pytest.approx(0.5)


def test_windows_are_whole_bars_that_begin_with_notes():
    found = music.windows([piece(bars=4), piece(bars=1), piece(bars=3, place=12)])
    assert found.shape == (3 + 1, 32, 4) and bool((found[:, 0] >= 2).all())


@pytest.mark.parametrize(("by", "fifths"), [(0, 0), (2, 2), (7, 1), (5, -1), (3, -3)])
def test_the_signature_is_of_the_key(by, fifths):
    scale = torch.tensor([60, 62, 64, 65, 67, 69, 71])[:, None].expand(7, 4) + (by - 12 if by > 7 else by)
    assert voices.signature(scale) == fifths
