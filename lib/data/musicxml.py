"""Scores in MusicXML (score-partwise, https://www.w3.org/2021/06/musicxml40), read as notes in time and written from
cells. Times that are read are in quarters. Axis: t sixteenths.
"""

import io
import zipfile
from fractions import Fraction
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from jaxtyping import Int
from torch import Tensor

from lib.data import voices
from lib.faults import DataError

LARGEST = 50_000_000  # bytes of an archive's score
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}  # semitones above C


class Note(NamedTuple):
    """`tied`: it goes on with the same pitch before it and is not struck."""

    start: Fraction
    duration: Fraction
    pitch: int
    tied: bool
    fermata: bool


class Part(NamedTuple):
    """`bars`: where they start; `keys` and `times`: from where on which key (sharps, or flats below 0) and which time
    (3/4 is (3, 4)) holds; `length`: of the whole part, rests and all."""

    name: str
    notes: list[Note]
    bars: list[Fraction]
    keys: list[tuple[Fraction, int]]
    times: list[tuple[Fraction, tuple[int, int]]]
    length: Fraction


def read(data: bytes, name: str) -> list[Part]:
    """The parts of a score, in a file of text (.xml, .musicxml) or a packed one (.mxl). Notes are in the order of the
    file, as they sound where a part is written for a transposing instrument; grace and cue notes are left out. Raises
    DataError naming the file."""
    try:
        root = ElementTree.fromstring(_unpacked(data) if data[:2] == b"PK" else data)
        if root.tag != "score-partwise":
            raise ValueError(f"it is a {root.tag}, not a score-partwise")
        names = {part.get("id"): part.findtext("part-name") or "" for part in root.iter("score-part")}
        return [_part(part, names.get(part.get("id"), "")) for part in root.iterfind("part")]
    except (ElementTree.ParseError, ValueError, TypeError, ArithmeticError, LookupError, zipfile.BadZipFile) as error:
        raise DataError(f"{name} is no MusicXML that can be read ({error}): export it again as MusicXML") from error


def _unpacked(data: bytes) -> bytes:
    """The score of an archive: the first file that its table of contents names."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = ElementTree.fromstring(archive.read("META-INF/container.xml"))
        first = next((file.get("full-path") for file in contents.iter() if file.tag.endswith("rootfile")), None)
        name = first or "a rootfile in META-INF/container.xml"
        if (size := archive.getinfo(name).file_size) > LARGEST:
            raise ValueError(f"{name} would have {size:,} bytes")
        return archive.read(name)


def _part(part: Element, name: str) -> Part:
    made = Part(name, [], [], [], [], Fraction(0))
    unit, shift = Fraction(0), 0  # unit: quarters of a division
    for measure in part.iterfind("measure"):
        now = made.length  # a voice that is short does not shorten the bar
        made.bars.append(now)
        begin = now  # of the note that was read last
        for item in measure:
            if item.tag == "attributes":
                if (divisions := item.findtext("divisions")) is not None:
                    unit = 1 / Fraction(divisions)
                if (steps := item.findtext("transpose/chromatic")) is not None:
                    shift = int(steps) + 12 * int(item.findtext("transpose/octave-change") or 0)
                if (fifths := item.findtext("key/fifths")) is not None:
                    if abs(int(fifths)) > 7:
                        raise ValueError(f"a key of {fifths} fifths")
                    made.keys.append((now, int(fifths)))
                if (beats := item.findtext("time/beats")) is not None:
                    made.times.append((now, (sum(map(int, beats.split("+"))), int(_text(item, "time/beat-type")))))
                    if min(made.times[-1][1]) < 1:
                        raise ValueError("a time of no beats")
            elif item.tag == "backup":
                now -= Fraction(_text(item, "duration")) * unit
            elif item.tag == "forward":
                now += Fraction(_text(item, "duration")) * unit
            elif item.tag == "note" and item.find("grace") is None:
                duration = Fraction(_text(item, "duration")) * unit
                if duration < 0 or not unit:
                    raise ValueError("a note of no duration")
                if item.find("chord") is None:
                    begin, now = now, now + duration
                if item.find("cue") is None and item.find("pitch") is not None:
                    made.notes.append(_note(item, begin, duration, shift))
            made = made._replace(length=max(made.length, now))
    return made


def _note(item: Element, start: Fraction, duration: Fraction, shift: int) -> Note:
    step, octave = STEPS[_text(item, "pitch/step")], int(_text(item, "pitch/octave"))
    pitch = 12 * (octave + 1) + step + round(float(item.findtext("pitch/alter") or 0)) + shift
    ties = [*item.iterfind("tie"), *item.iterfind("notations/tied")]
    tied = any(tie.get("type") == "stop" for tie in ties)
    return Note(start, duration, pitch, tied, item.find("notations/fermata") is not None)


def _text(item: Element, path: str) -> str:
    if (text := item.findtext(path)) is None:
        raise ValueError(f"a {item.tag} without {path}")
    return text.strip()


# ---- written ----

CLEFS = (("G", 2, 0), ("G", 2, 0), ("G", 2, -1), ("F", 4, 0))  # sign, line and octaves higher, of each voice
VALUES = {  # of sixteenths, the note's name and its dots
    16: ("whole", 0), 12: ("half", 1), 8: ("half", 0), 6: ("quarter", 1), 4: ("quarter", 0), 3: ("eighth", 1),
    2: ("eighth", 0), 1: ("16th", 0),
}  # fmt: skip
ACCIDENTALS = {-2: "flat-flat", -1: "flat", 0: "natural", 1: "sharp", 2: "double-sharp"}
FIFTHS = "FCGDAEB"  # each a fifth above the one before; seven fifths further is the same one, sharpened


def written(
    cells: Int[Tensor, "t 4"], place: Int[Tensor, "t"], fifths: int, title: str, tempo: float, bar: int = voices.BAR
) -> bytes:
    """A score of the four voices. `place`: how many sixteenths into its bar each is: a bar starts at every 0, and is
    short where that comes early; `fifths`: sharps of the key, or flats below 0; `tempo`: quarters a minute; `bar`:
    sixteenths of a full bar."""
    score = Element("score-partwise", version="3.1")
    _add(_add(score, "work"), "work-title", title)
    listed = _add(score, "part-list")
    group = _add(listed, "part-group", type="start", number="1")
    _add(group, "group-symbol", "bracket")
    _add(group, "group-barline", "yes")
    for name in voices.NAMES:
        _add(_add(listed, "score-part", id=name), "part-name", name.capitalize())
    _add(listed, "part-group", type="stop", number="1")
    starts = [i for i, at in enumerate(place.tolist()) if at == 0 or i == 0]
    pickup, high, tokens = bool(len(place)) and int(place[0]) > 0, voices.sounding(cells).tolist(), cells.tolist()
    for voice, name in enumerate(voices.NAMES):
        part = _add(score, "part", id=name)
        for number, (begin, end) in enumerate(zip(starts, [*starts[1:], len(cells)], strict=True), 0 if pickup else 1):
            measure = _add(part, "measure", number=str(number), **({} if number else {"implicit": "yes"}))
            if begin == 0:
                _head(measure, fifths, bar, voice, tempo)
            strikes = [i for i in range(begin, end) if i == begin or tokens[i][voice] != voices.HOLD]
            shown = dict[tuple[str, int], int]()  # what accidentals are in force, of a step and octave
            for first, after in zip(strikes, [*strikes[1:], end], strict=True):
                on = after < len(cells) and after == end and tokens[after][voice] == voices.HOLD
                tied = first > 0 and tokens[first][voice] == voices.HOLD
                _sing(measure, high[first][voice], _lengths(int(place[first]), after - first), tied, on, fifths, shown)
            if end == len(cells):
                _add(_add(measure, "barline", location="right"), "bar-style", "light-heavy")
    ElementTree.indent(score)
    return ElementTree.tostring(score, "utf-8", xml_declaration=True)


def _add(parent: Element, tag: str, text: str | int | None = None, **attributes: str) -> Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = None if text is None else str(text)
    return child


def _head(measure: Element, fifths: int, bar: int, voice: int, tempo: float) -> None:
    """What stands at the beginning of a part, for the first one the tempo too."""
    attributes = _add(measure, "attributes")
    _add(attributes, "divisions", 4)
    _add(_add(attributes, "key"), "fifths", fifths)
    time, unit = _add(attributes, "time"), 4 if bar % 4 == 0 else 16
    _add(time, "beats", bar * unit // 16)
    _add(time, "beat-type", unit)
    sign, line, octaves = CLEFS[voice]
    clef = _add(attributes, "clef")
    _add(clef, "sign", sign)
    _add(clef, "line", line)
    if octaves:
        _add(clef, "clef-octave-change", octaves)
    if voice == 0:
        direction = _add(measure, "direction", placement="above")
        metronome = _add(_add(direction, "direction-type"), "metronome")
        _add(metronome, "beat-unit", "quarter")
        _add(metronome, "per-minute", f"{tempo:g}")
        _add(direction, "sound", tempo=f"{tempo:g}")


def _lengths(place: int, length: int) -> list[int]:
    """So many sixteenths as the values of notes: one if there is one, else up to the next quarter first."""
    found = list[int]()
    while length:
        room = length if length in VALUES or place % 4 == 0 else min(length, 4 - place % 4)
        found.append(next(value for value in VALUES if value <= room))
        place, length = place + found[-1], length - found[-1]
    return found


def _sing(
    measure: Element,
    pitch: int,
    lengths: list[int],
    tied: bool,
    on: bool,
    fifths: int,
    shown: dict[tuple[str, int], int],
) -> None:
    """Notes of these lengths that are one, or rests for pitch 0. `tied`: to what was before; `on`: to what follows."""
    for i, length in enumerate(lengths):
        note, before, after = _add(measure, "note"), tied or i > 0, on or i + 1 < len(lengths)
        step, alter, octave = _spelt(pitch, fifths)
        if pitch:
            high = _add(note, "pitch")
            _add(high, "step", step)
            _add(high, "alter", alter)
            _add(high, "octave", octave)
        else:
            _add(note, "rest")
        ties = [kind for kind, is_ in (("stop", before), ("start", after)) if is_ and pitch]
        _add(note, "duration", length)
        for kind in ties:
            _add(note, "tie", type=kind)
        name, dots = VALUES[length]
        _add(note, "type", name)
        for _ in range(dots):
            _add(note, "dot")
        if pitch and not before and shown.get((step, octave), _of_key(step, fifths)) != alter:
            _add(note, "accidental", ACCIDENTALS[alter])
            shown[step, octave] = alter
        notations = _add(note, "notations") if ties else note
        for kind in ties:
            _add(notations, "tied", type=kind)


def _spelt(pitch: int, fifths: int) -> tuple[str, int, int]:
    """Step, alteration and octave of a pitch. Of the line of fifths a key takes what lies from two below its tonic (in
    C: Bb) to nine above it (D#; G# is its minor's leading note): so does Bach for 799 of 800 notes of his chorales."""
    place = (pitch * 7 - (fifths - 2)) % 12 + fifths - 2  # a semitone is seven fifths; C's place is 0
    step, alter = FIFTHS[(place + 1) % 7], (place + 1) // 7
    return step, alter, (pitch - alter) // 12 - 1


def _of_key(step: str, fifths: int) -> int:
    """How the key alters a step."""
    return (fifths - FIFTHS.index(step) + 6) // 7
