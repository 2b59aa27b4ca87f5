"""MIDI files to notes and back. symusic reads and writes them; what it takes without a word, or dies of, is checked
here.
"""

import bisect
import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import symusic
import torch

from lib.data.files import content
from lib.data.musicxml import Note, Part
from lib.data.voices import Notes
from lib.faults import DataError

QUARTER = 480  # ticks
PIANO, CHOIR = 0, 52  # General MIDI's "choir aahs": it holds a long note, which a piano does not
ENDINGS = (".mid", ".midi")
LONGEST = 3600.0  # seconds of a piece
LEAST = 0.03  # seconds of a note that a file ends where it begins
SUSTAIN = 64  # the pedal among controls


def read(path: Path) -> Notes:
    """The notes of a file of type 0 or 1, without drums. `voice`: which of the tracks that sound it is of. A note that
    ends while its track's sustain pedal is down lasts until that is up, and any where its track strikes the same pitch
    again; one that never ends is not there. Raises DataError."""
    return notes(content(path), path)


def notes(raw: bytes, path: Path) -> Notes:
    """`read` of a file's content."""
    tracks = _sounding(_score(raw, path).to("second"))
    rows = [row for number, track in enumerate(tracks) for row in _cut(track, number)]
    if not rows:
        raise DataError(f"{path} has no notes (drums are left out): choose another file")
    start, voice, pitch, duration, velocity = zip(*sorted(rows), strict=True)
    if (end := max(map(sum, zip(start, duration, strict=True)))) > LONGEST:
        raise DataError(f"{path} lasts {end / 3600:.1f} hours, more than one: cut it, or mend the pause that is in it")
    return Notes(torch.tensor(start), torch.tensor(duration), *map(torch.tensor, (pitch, velocity, voice)))


def parts(path: Path) -> list[Part]:
    """The tracks that sound, in quarters, with bars by the first time signature (four quarters if there is none).
    Raises DataError as `read` does."""
    read(path)  # what is wrong is told as for any file
    score = _score(content(path), path)
    unit, first = score.ticks_per_quarter, score.time_signatures[0] if score.time_signatures else None
    time = (first.numerator, first.denominator) if first else (4, 4)
    end, bar = Fraction(score.end(), unit), Fraction(4 * time[0], time[1])
    if not bar:
        raise DataError(f"{path}: bars of no time at all. {_AGAIN}")
    bars = [bar * i for i in range(math.ceil(end / bar))]
    made = []
    for track in _sounding(score):
        found = [
            Note(Fraction(n.time, unit), Fraction(max(n.duration, 1), unit), n.pitch, False, False)
            for n in sorted(track.notes, key=lambda n: (n.time, n.pitch))
        ]
        made.append(Part("", found, bars, [], [(Fraction(0), time)], end))
    return made


def _score(raw: bytes, path: Path) -> Any:  # its types are those of all units of time at once
    """What symusic reads, checked. Raises DataError."""
    _check(raw, path)
    try:
        score: Any = symusic.Score.from_midi(raw)
    except RuntimeError as error:
        raise DataError(f"{path} is damaged: {str(error).removesuffix(': iostream error')}. {_AGAIN}") from error
    if not all(tempo.mspq for tempo in score.tempos):
        raise DataError(f"{path}: a tempo of no time at all. {_AGAIN}")
    return score


def _sounding(score: Any) -> list[Any]:
    return [track for track in score.tracks if track.notes and not track.is_drum]


_AGAIN = "Save it again as a standard MIDI file of type 1"


def _check(raw: bytes, path: Path) -> None:
    """Raises DataError for what cannot be a MIDI file, or is one of a kind that is not read."""
    if raw[:4] != b"MThd" or len(raw) < 14:
        raise DataError(f"{path} is not a MIDI file: it does not begin as one. {_AGAIN}")
    length, kind, tracks, division = struct.unpack(">IHHH", raw[4:14])
    if kind > 1:
        raise DataError(f"{path} is of type {kind}, pieces that do not sound together. {_AGAIN}")
    if not 0 < division < 0x8000:
        raise DataError(f"{path} counts time in frames of a film or not at all, not in quarters. {_AGAIN}")
    at = 8 + length
    while tracks and at + 8 <= len(raw):  # symusic crashes where a length is beyond 2 GB
        tracks -= raw[at : at + 4] == b"MTrk"
        at += 8 + struct.unpack(">I", raw[at + 4 : at + 8])[0]
    if at > len(raw):
        raise DataError(f"{path} is damaged: it ends within a track. {_AGAIN}")


def _cut(track: Any, voice: int) -> list[tuple[float, int, int, float, int]]:
    """The notes of a track, of the ones that strike the same pitch at once the longest."""
    pedals = list(_pedals(track))
    downs = [down for down, _ in pedals]

    def held(n: Any) -> float:
        """How long it sounds, with the pedal."""
        end, i = n.time + (n.duration or LEAST), bisect.bisect_right(downs, n.time + n.duration) - 1
        return (max(end, pedals[i][1]) if i >= 0 else end) - n.time

    notes = sorted((n.pitch, n.time, held(n), min(max(n.velocity, 1), 127)) for n in track.notes)
    rows = list[tuple[float, int, int, float, int]]()
    for (pitch, start, duration, velocity), after in itertools.zip_longest(notes, notes[1:], fillvalue=(-1, 0, 0, 0)):
        room = after[1] - start if after[0] == pitch else math.inf
        if room > 0:
            rows.append((start, voice, pitch, min(duration, room), velocity))
    return rows


def _pedals(track: Any) -> Iterator[tuple[float, float]]:
    """From when to when the sustain pedal is down; one that stays down is so to the end of the last note."""
    down: float | None = None
    for control in sorted(track.controls, key=lambda control: control.time):
        if control.number == SUSTAIN and control.value >= 64 and down is None:
            down = control.time
        elif control.number == SUSTAIN and control.value < 64 and down is not None:
            yield down, control.time
            down = None
    if down is not None:
        yield down, max(n.time + n.duration for n in track.notes)


def encoded(notes: Notes, tempo: float, names: Sequence[str], program: int = CHOIR) -> bytes:
    """A MIDI file with a track for each name, that of a voice. `tempo`: quarters a minute, of which the file holds
    4 to some thousands. `program`: General MIDI's number of the instrument, from 0."""
    made: Any = symusic.Score(QUARTER)
    made.tempos.append(symusic.Tempo(0, tempo))
    tracks: list[Any] = [symusic.Track(name, program, False) for name in names]
    ticks = tempo / 60 * QUARTER
    for start, duration, pitch, velocity, voice in zip(*(column.tolist() for column in notes), strict=True):
        begin, end = round(start * ticks), round((start + duration) * ticks)
        tracks[voice].notes.append(symusic.Note(begin, max(end - begin, 1), pitch, velocity))
    made.tracks.extend(tracks)
    return made.dumps_midi()
