"""lib/data/midi.py: notes that come back as they were, and files that are not taken at their word."""

import struct

import pytest
import symusic
import torch

from lib import random
from lib.data import midi, voices
from lib.data.voices import HOLD, KINDS, NAMES
from lib.faults import DataError


def chunk(content, name=b"MTrk", size=None):
    return name + struct.pack(">I", len(content) if size is None else size) + content


def song(*tracks, kind=1, division=480):
    return chunk(struct.pack(">HHH", kind, len(tracks), division), b"MThd") + b"".join(map(chunk, tracks))


END = b"\x00\xff\x2f\x00"
LATE = b"\x83\x60"  # 480 ticks: half a second
HALF = b"\x81\x70"
ON, OFF = b"\x90\x3c\x40", b"\x80\x3c\x40"
NOTE = b"\x00" + ON + LATE + OFF
NAME = b"\x00\xff\x03\x01a"
LONG = b"\xff\xff\xff\x7f"


@pytest.fixture
def read(tmp_path):
    def of(raw):
        (tmp_path / "song.mid").write_bytes(raw)
        return midi.read(tmp_path / "song.mid")

    return of


def rows(notes):
    return [tuple(row) for row in zip(*(column.tolist() for column in notes), strict=True)]


@pytest.mark.parametrize("tempo", [60.0, 72.0, 90.0, 133.7])
def test_cells_come_back(key, read, tempo):
    """Every cell of a grid, through a file's ticks."""
    cells = random.randint(key, (64, 4), 2, KINDS)
    cells = torch.where(random.uniform(random.fold_in(key, 1), (64, 4)) < 0.6, HOLD, cells)
    notes = voices.notes(cells, tempo)
    raw = midi.encoded(notes, tempo, NAMES)
    ticks = [note.time for track in symusic.Score.from_midi(raw).tracks for note in track.notes]
    assert len(ticks) == len(notes.start) > 50 and all(tick % 120 == 0 for tick in ticks)
    back = read(raw)
    for name in ("pitch", "velocity", "voice"):
        assert torch.equal(getattr(back, name), getattr(notes, name)), name
    torch.testing.assert_close(back.start, notes.start, atol=1e-3, rtol=0)
    torch.testing.assert_close(back.duration, notes.duration, atol=1e-3, rtol=0)


def test_a_file_says_who_sings():
    score = symusic.Score.from_midi(midi.encoded(voices.notes(torch.tensor([[30, 20, 10, 5]]), 80.0), 80.0, NAMES))
    assert [track.name for track in score.tracks] == list(NAMES)
    assert [len(track.notes) for track in score.tracks] == [1, 1, 1, 1]
    assert abs(score.tempos[0].qpm - 80) < 1e-3


def test_times_follow_the_tempo(read):
    slow = b"\x00\xff\x51\x03\x0f\x42\x40"  # a second each quarter
    assert rows(read(song(slow + NOTE + NOTE + END))) == [(0.0, 1.0, 60, 64, 0), (1.0, 1.0, 60, 64, 0)]


def test_voices_are_the_tracks_that_sound(read):
    drum, other = b"\x00\x99\x24\x40" + LATE + b"\x89\x24\x40", b"\x00\x91\x40\x50" + HALF + b"\x81\x40\x40"
    raw = song(NAME + END, NAME + drum + END, NAME + NOTE + END, NAME + other + END)
    assert rows(read(raw)) == [(0.0, 0.5, 60, 64, 0), (0.0, 0.25, 64, 80, 1)]


def test_a_note_ends_where_it_is_struck_again(read):
    again = b"\x00" + ON + HALF + ON + HALF + OFF + HALF + OFF
    assert rows(read(song(again + END))) == [(0.0, 0.25, 60, 64, 0), (0.25, 0.5, 60, 64, 0)]
    twice = b"\x00" + ON + b"\x00" + ON + HALF + OFF + HALF + OFF
    assert rows(read(song(twice + END))) == [(0.0, 0.5, 60, 64, 0)]
    assert len(read(song(again + END, again + END)).start) == 4  # two tracks may have the same pitch


def test_a_note_of_no_length_gets_one(read):
    [(start, duration, *_)] = rows(read(song(b"\x00" + ON + b"\x00" + OFF + END)))
    assert start == 0 and duration == pytest.approx(midi.LEAST)


@pytest.mark.parametrize(
    "raw",
    [
        song(NOTE + END),
        song(b"\x00" + ON + LATE + b"\x3c\x00" + END),  # the status is not said again
        song(b"\x00" + ON + b"\x00\xff\x01\x01a" + LATE + b"\x3c\x00" + END),
        song(NOTE),  # no end of the track
        song(NOTE + END)[:10] + b"\x00\x05" + song(NOTE + END)[12:],  # another number of tracks
        song(b"\x00\xb0\x07\xff" + NOTE + END),  # a value beyond 127
        song(b"\x00\xff\x59\x02\x12\x01" + NOTE + END),  # a key of 18 sharps
        song(NOTE + END) + b"\n left by a mail program",
        song(NOTE + END, kind=0),
        chunk(b"\0" * 9, b"XTRA").join([song(NOTE + END)[:14], song(NOTE + END)[14:]]),
    ],
)
def test_what_others_write_is_read(read, raw):
    assert rows(read(raw)) == [(0.0, 0.5, 60, 64, 0)]


FRAMES = 0x10000 - (25 << 8) + 40  # 25 a second, of 40 ticks


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is not a MIDI file"),
        (b"hello this is not midi\n" * 10, "is not a MIDI file"),
        (b"RIFF\x64\0\0\0RMIDdata\x50\0\0\0" + song(NOTE + END), "is not a MIDI file"),
        (b"MThd\0\0\0\x06", "is not a MIDI file"),
        (song(), "has no notes"),
        (song(END), "has no notes"),
        (song(b"\x00" + ON + LATE + b"\xb0\x07\x40" + END), "has no notes"),  # one that never ends
        (song(b"\x00\x99\x24\x40" + LATE + b"\x89\x24\x40" + END), "has no notes"),  # a drum
        (song(NOTE * 50 + END)[:90], "ends within a track"),
        (song() + chunk(NOTE + END, size=2**31 + 40), "has no notes"),  # the header says no tracks
        (song(END)[:14] + chunk(NOTE + END, size=2**31 + 40), "ends within a track"),
        (song(END)[:14] + chunk(b"\x00\xff\x01\x7f" + END), "is damaged"),
        (song(NOTE + END, division=FRAMES), "frames of a film"),
        (song(NOTE + END, division=0), "not in quarters"),
        (song(NOTE + END, NOTE + END, kind=2), "of type 2"),
        (song(b"\x00\xff\x51\x03\0\0\0" + NOTE + END), "a tempo of no time"),
        (song(LONG + ON + LONG + OFF + END), "155.3 hours"),
        (song(NOTE + LONG + ON + LATE + OFF + END), "lasts 77.7 hours"),
    ],
)
def test_what_cannot_be_read_is_said(read, raw, message):
    with pytest.raises(DataError, match=rf"song\.mid.*{message}"):
        read(raw)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none\.mid"):
        midi.read(tmp_path / "none.mid")


def test_damaged_files_are_refused_or_read(key, read):
    """Whatever becomes of some bytes: notes that make sense, or one sentence."""
    raw = midi.encoded(voices.notes(torch.tensor([[30, 20, 10, 5], [31, 0, 11, 6]]), 80.0), 80.0, NAMES)
    places, values = (
        random.randint(key, (300, 3), 0, len(raw)),
        random.randint(random.fold_in(key, 1), (300, 3), 0, 256),
    )
    taken = 0
    for where, what in zip(places.tolist(), values.tolist(), strict=True):
        damaged = bytearray(raw)
        for place, value in zip(where, what, strict=True):
            damaged[place] = value
        try:
            notes = read(bytes(damaged))
        except DataError:
            continue
        taken += 1
        assert (notes.duration > 0).all() and (notes.start >= 0).all() and notes.start.isfinite().all()
        assert (notes.pitch >= 0).all() and ((notes.velocity >= 1) & (notes.velocity <= 127)).all()
    assert 30 < taken < 270
