"""lib/data/musicxml.py: cells that come back from a score as they were, and what others write."""

import io
import zipfile
from fractions import Fraction
from xml.etree import ElementTree

import pytest
import torch

from lib import random
from lib.data import musicxml, voices
from lib.data.musicxml import Note
from lib.faults import DataError


def some(key, t):
    """Cells with holds of all lengths and with rests."""
    pitch = random.randint(key, (t, 4), 48, 80)
    pitch = torch.where(random.uniform(random.fold_in(key, 1), (t, 4)) < 0.2, 0, pitch)
    struck = random.uniform(random.fold_in(key, 2), (t, 4)) < 0.2
    struck[0] = True
    last = torch.where(struck, torch.arange(t)[:, None], 0).cummax(0).values
    return voices.tokens(pitch.gather(0, last), struck)


def cells_of(parts):
    t = max(int(part.length * 4) for part in parts)
    pitch, struck = torch.zeros(t, 4, dtype=torch.int64), torch.zeros(t, 4, dtype=torch.bool)
    for voice, part in enumerate(parts):
        for note in part.notes:
            begin, end = int(note.start * 4), int((note.start + note.duration) * 4)
            pitch[begin:end, voice] = note.pitch
            struck[begin, voice] = not note.tied
    return voices.tokens(pitch, struck)


@pytest.mark.parametrize("fifths", range(-7, 8))
@pytest.mark.parametrize("pickup, bar", [(0, 16), (4, 16), (2, 12), (3, 6)])
def test_cells_come_back(key, fifths, pickup, bar):
    cells = some(random.fold_in(key, fifths + 7), 77)
    place = (torch.arange(77) + bar - pickup) % bar if pickup else torch.arange(77) % bar
    parts = musicxml.read(musicxml.written(cells, place, fifths, 'Two & "three" <ä>', 80.0, bar), "song")
    assert torch.equal(cells_of(parts), cells)
    starts = [Fraction(i, 4) for i in range(77) if i == 0 or place[i] == 0]
    for part, name in zip(parts, voices.NAMES, strict=True):
        assert (part.name, part.bars, part.length) == (name.capitalize(), starts, Fraction(77, 4))
        assert part.keys == [(0, fifths)] and part.times == [(0, (bar // 4, 4) if bar % 4 == 0 else (bar, 16))]


def written(pitches, fifths=0, **more):
    """The elements of the soprano's notes, a quarter each."""
    cells = torch.zeros(4 * len(pitches), 4, dtype=torch.int64)
    cells[::4] = torch.tensor(pitches)[:, None] - voices.LOWEST + 2
    raw = musicxml.written(cells, torch.arange(len(cells)) % 16, fifths, "", 80.0, **more)
    return list(ElementTree.fromstring(raw).find("part").iter("note"))


def spelt(pitches, fifths):
    names = {-2: "bb", -1: "b", 0: "", 1: "#", 2: "x"}
    notes = [note.find("pitch") for note in written(pitches, fifths)]
    return " ".join(n.findtext("step") + names[int(n.findtext("alter"))] + n.findtext("octave") for n in notes)


@pytest.mark.parametrize(
    ("fifths", "pitches", "names"),
    [
        (0, [60, 64, 66, 68, 61, 63, 70], "C4 E4 F#4 G#4 C#4 D#4 Bb4"),  # A minor has G#
        (3, [69, 71, 73, 74, 76, 78, 80, 77], "A4 B4 C#5 D5 E5 F#5 G#5 E#5"),  # F# minor has E#
        (-3, [63, 65, 67, 68, 70, 72, 74, 71, 61, 66], "Eb4 F4 G4 Ab4 Bb4 C5 D5 B4 Db4 F#4"),  # C minor has B
        (-5, [61, 66, 70, 69], "Db4 Gb4 Bb4 A4"),
        (7, [61, 60, 59, 71], "C#4 B#3 B3 B4"),  # an octave ends at B, however it is altered
        (-6, [59, 71, 60], "Cb4 Cb5 C4"),
    ],
)
def test_pitches_are_spelt_by_the_key(fifths, pitches, names):
    assert spelt(pitches, fifths) == names


def test_an_accidental_is_shown_where_it_is_needed():
    shown = [note.findtext("accidental") for note in written([66, 66, 65, 65, 66, 73, 61, 60], 1)]
    assert shown == [None, None, "natural", None, None, "sharp", "sharp", "natural"]  # a bar line ends it


def test_lengths_that_are_no_value_are_tied():
    cells = torch.zeros(40, 4, dtype=torch.int64)
    cells[[0, 5]] = 30
    cells[16:, 1:] = 0
    cells[30] = voices.REST
    notes = list(
        ElementTree.fromstring(musicxml.written(cells, torch.arange(40) % 16, 0, "", 80.0)).find("part").iter("note")
    )
    found = [
        (note.findtext("type") + "." * len(note.findall("dot")), note.find("rest") is not None,
         [tie.get("type") for tie in note.findall("tie")])
        for note in notes
    ]  # fmt: skip
    assert found == [
        ("quarter", False, ["start"]), ("16th", False, ["stop"]), ("eighth.", False, ["start"]),
        ("half", False, ["stop", "start"]), ("half.", False, ["stop", "start"]), ("eighth", False, ["stop"]),
        ("eighth", True, []), ("half", True, []),
    ]  # fmt: skip
    for note in notes:
        assert [tied.get("type") for tied in note.findall("notations/tied")] == [
            t.get("type") for t in note.findall("tie")
        ]


# ---- what others write ----


def score(*measures, divisions=2, head="", root="score-partwise"):
    body = "".join(f"<measure>{measure}</measure>" for measure in measures)
    return (
        f'<{root}><part-list><score-part id="P1"><part-name>One</part-name></score-part></part-list><part id="P1">'
        f"<measure><attributes><divisions>{divisions}</divisions>{head}</attributes></measure>{body}</part></{root}>"
    ).encode()


def note(name="C4", duration=2, more="", after=""):
    alter = {"#": "<alter>1</alter>", "b": "<alter>-1</alter>"}.get(name[1], "")
    pitch = f"<pitch><step>{name[0]}</step>{alter}<octave>{name[-1]}</octave></pitch>"
    length = "" if "grace" in more else f"<duration>{duration}</duration>"
    return f"<note>{more}{pitch}{length}{after}</note>"


def notes(raw):
    [part] = musicxml.read(raw, "song.xml")
    return [(float(n.start), float(n.duration), n.pitch) for n in part.notes]


def test_chords_voices_and_pauses():
    two = "<backup><duration>4</duration></backup>" + note("E3", 1) + "<forward><duration>1</duration></forward>"
    bar = note("C4") + note("E4", more="<chord/>") + note("B#3") + two + note("Bb3", 1)
    rest = "<note><rest/><duration>3</duration></note>"
    assert notes(score(bar, rest + note("D4", 1))) == [
        (0, 1, 60), (0, 1, 64), (1, 1, 60), (0, 0.5, 52), (1, 0.5, 58), (3.5, 0.5, 62),
    ]  # fmt: skip


def test_grace_and_cue_notes_are_left_out():
    assert notes(score(note("D4", more="<grace/>") + note() + note(more="<cue/>") + note())) == [(0, 1, 60), (2, 1, 60)]


def test_ties_and_fermatas():
    fermata = note(after="<notations><fermata/></notations>")
    raw = score(note(after='<tie type="start"/>') + note(after='<tie type="stop"/>') + fermata)
    one = Fraction(1)
    assert musicxml.read(raw, "song.xml")[0].notes == [
        Note(0 * one, one, 60, False, False), Note(one, one, 60, True, False), Note(2 * one, one, 60, False, True),
    ]  # fmt: skip


def test_what_is_written_for_a_clarinet_sounds_lower():
    clarinet = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
    assert notes(score(note(), head=clarinet)) == [(0, 1, 58)]
    low = "<transpose><chromatic>-2</chromatic><octave-change>-1</octave-change></transpose>"
    assert notes(score(note(), head=low)) == [(0, 1, 46)]


def test_divisions_keys_and_times_may_change():
    then = (
        "<attributes><divisions>3</divisions><key><fifths>-2</fifths></key>"
        "<time><beats>3+2</beats><beat-type>8</beat-type></time></attributes>"
    )
    head = "<key><fifths>1</fifths></key><time><beats>4</beats><beat-type>4</beat-type></time>"
    [part] = musicxml.read(score(note(), then + note(duration=1), head=head), "song.xml")
    assert [n.duration for n in part.notes] == [1, Fraction(1, 3)]
    assert part.keys == [(0, 1), (1, -2)] and part.times == [(0, (4, 4)), (1, (5, 8))]
    assert part.bars == [0, 0, 1] and part.length == Fraction(4, 3)


def packed(content, path="a/song.xml", contents=True):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        if contents:
            table = f'<container><rootfiles><rootfile full-path="{path}"/></rootfiles></container>'
            archive.writestr("META-INF/container.xml", table)
        archive.writestr("a/song.xml", content)
    return file.getvalue()


def test_packed_scores_are_read():
    assert notes(packed(score(note()))) == notes(score(note())) == [(0, 1, 60)]


def test_a_packed_score_that_is_too_large_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(musicxml, "LARGEST", 100)
    with pytest.raises(DataError, match=r"a/song.xml would have .* bytes"):
        musicxml.read(packed(score(note())), "song.mxl")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no element found"),
        (b"MThd\0\0\0\x06", "not well-formed"),
        (b"PK\3\4 and so on", "not a zip file"),
        (packed(score(note())).replace(b"song.xml", b"gone.xml", 1), ""),
        (packed(score(note()), contents=False), "container.xml"),
        (packed(score(note()), path="b.xml"), "b.xml"),
        (packed(b"nothing"), "syntax error"),
        (score(note())[:-20], "unclosed token"),
        (score(note(), root="score-timewise"), "score-timewise"),
        (b"<html><body/></html>", "it is a html"),
        (score(note().replace("<duration>2</duration>", "")), "a note without duration"),
        (score(note("H4")), "'H'"),
        (score(note("C?")), "invalid literal"),
        (score(note(duration=-1)), "no duration"),
        (score(note(), divisions=0), "Fraction"),
        (score(note()).replace(b"<divisions>2</divisions>", b""), "no duration"),
        (score(note(), divisions="many"), "many"),
        (score("<backup/>"), "a backup without duration"),
        (score(note(), head="<time><beats>C</beats></time>"), "'C'"),
    ],
)
def test_what_is_no_score_is_said(raw, message):
    with pytest.raises(DataError, match=rf"song\.mxl is no MusicXML that can be read \(.*{message}"):
        musicxml.read(raw, "song.mxl")
