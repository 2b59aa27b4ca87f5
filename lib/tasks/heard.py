"""Music as files: notes as MIDI, as sound, and as a picture."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import arg

from lib import run
from lib.answers import Answer, Document, Note, Picture, Sound
from lib.data import midi, sheet, soundfont, synthesis
from lib.data.voices import Notes
from lib.faults import RunError

Piece = TypeVar("Piece")
_font = functools.lru_cache(1)(soundfont.read)  # for one piece after another


@dataclass(frozen=True)
class Heard(run.Use):
    out: run.NewFolder = Path("music")
    """Folder for the files: MIDI, sound, and pictures; of chorales a score too."""
    soundfont: Annotated[str | None, run.Given(("timgm",)), arg(metavar="{None}|timgm|FILE.sf2")] = None
    """Recorded instruments to hear it on: a soundfont, or timgm, which is fetched (6 MB); None: sums of sines."""
    seed: run.Seed = 0
    """Decides what is written."""
    copy_check: bool = False
    """Also tell how near the nearest of the training pieces is."""


def files(use: Heard, i: int, notes: Notes, names: Sequence[str], tempo: float, program: int) -> Iterator[Answer]:
    """Piece number i; `names` of its voices, `program`: General MIDI's number of the instrument. Raises DataError."""
    name = lambda ending: use.out / f"{i}{ending}"  # noqa: E731
    yield Document(midi.encoded(notes, tempo, names, program), name(".mid"))
    path = soundfont.timgm(use.data_dir) if use.soundfont == "timgm" else Path(use.soundfont or "")
    if path.is_file():
        yield Sound(soundfont.play(_font(path), notes, program, synthesis.RATE), synthesis.RATE, name(".wav"))
    else:
        if use.soundfont and i == 0:
            yield Note(f"--soundfont {path} is no file: sums of sines are heard instead")
        yield Sound(synthesis.synthesise(notes), synthesis.RATE, name(".wav"))
    yield Picture(sheet.pianoroll(notes, names), name("-notes.png"))


def chosen(name: str, held_out: Callable[[], Sequence[Piece]], read: Callable[[Path], Piece], what: str) -> Piece:
    """The held-out piece of that number, or what `read` makes of a file. Raises DataError, RunError."""
    if not name.isdecimal():
        return read(Path(name))
    known = held_out()
    if int(name) >= len(known):
        raise RunError(f"{name}: test {what} have numbers from 0 to {len(known) - 1}")
    return known[int(name)]
