"""Piano performances as events, for a model that plays on (Oore et al. 2018, "This time with feeling").

An event strikes a pitch, ends it, lets 10 ms to 1 s pass, or says how hard what follows is struck: the 388 of Huang et
al. 2018, and one more before each piece. Times are rounded to 10 ms first and subtracted then, so that errors do not
add up. Of what happens at one time ends come first, and lower pitches. Axes: n events, b pieces side by side.
"""

import csv
import io
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lib.data import files, midi
from lib.data.sources import Source, fetch
from lib.data.voices import Notes
from lib.faults import DataError

PITCHES, STEPS, LOUD = 128, 100, 32  # kinds of pitches; lengths of a shift, in STEP; kinds of velocities
STRIKE, END, SHIFT, VELOCITY = 0, PITCHES, 2 * PITCHES, 2 * PITCHES + STEPS
START = VELOCITY + LOUD
KINDS = START + 1
STEP = 0.01  # seconds
KEYS = 21, 108  # the lowest and the highest pitch of a piano

TEN = Source(
    file="miditok-3.1.0.tar.gz", package="miditok==3.1.0", size=4_152_905,
    licence="ten performances of MAESTRO, CC BY-NC-SA 4.0, in the tests of miditok",
    sha256="1f905b9be87a57dac28a86c1c7a7565674a5d2e57b2f650bc2fea97792f6bdef",
)  # fmt: skip
MAESTRO = Source(
    file="maestro-v3.0.0-midi.zip", licence="MAESTRO, CC BY-NC-SA 4.0",
    url="https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0-midi.zip",
    sha256="70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c", size=58_416_533,
)  # fmt: skip
VAL, TEST = "Maestro_4", "Maestro_9"  # of the ten
PLACES = {"train": "train", "validation": "val", "test": "test"}  # MAESTRO's names


class Performance(NamedTuple):
    name: str
    notes: Notes


class Performances(NamedTuple):
    name: str
    train: list[Performance]
    val: list[Performance]
    test: list[Performance]


# ---- events ----


def encode(notes: Notes, speed: float = 1.0, until: float | None = None) -> Int[Tensor, "n"]:
    """The events of notes, START first; silence before the first note is left out. What a pitch has when it is struck
    again ends there. `speed`: how many times faster. `until`: a second at which the music goes on: what sounds there
    does not end, and of the time up to there whole seconds pass."""
    begin = (notes.start / speed / STEP).round().long()
    end = torch.maximum(((notes.start + notes.duration) / speed / STEP).round().long(), begin + 1)
    order = begin.argsort(stable=True)
    order = order[notes.pitch[order].argsort(stable=True)]  # pitch by pitch, each in the order of its starts
    begin, end, pitch, loud = begin[order], end[order], notes.pitch[order], notes.velocity[order] * LOUD // 128
    again = torch.cat([pitch[1:] == pitch[:-1], torch.zeros(1, dtype=torch.bool)])
    following = begin.roll(-1)
    end = torch.where(again, torch.minimum(end, following), end)
    kept = end > begin  # of two strikes within one STEP the later stays
    begin, end, pitch, loud = (column[kept] for column in (begin, end, pitch, loud))

    time = torch.cat([end, begin])
    kind = torch.cat([END + pitch, STRIKE + pitch])
    rank = time * 2 * PITCHES + torch.cat([pitch, PITCHES + pitch])
    order = rank.argsort()
    if until is not None:
        order = order[(time[order] < round(until / speed / STEP)) | (order >= len(pitch))]  # or a strike
    time, kind = time[order], kind[order]
    hard = torch.cat([torch.full_like(loud, -1), loud])[order]  # -1: the end of a note, which has no velocity
    strikes = (hard >= 0).nonzero().flatten()
    changes = torch.zeros_like(hard, dtype=torch.bool)
    changes[strikes] = hard[strikes] != torch.cat([hard.new_full((1,), -1), hard[strikes][:-1]])

    passed = torch.diff(time, prepend=time[:1])
    whole, rest = passed // STEPS, passed % STEPS
    count = whole + (rest > 0) + changes + 1  # events for each: shifts, a velocity, itself
    last = count.cumsum(0) - 1
    ids = torch.full((int(count.sum()),), SHIFT + STEPS - 1)
    ids[last] = kind
    ids[(last - 1)[changes]] = VELOCITY + hard[changes]
    ids[(last - count + 1 + whole)[rest > 0]] = SHIFT + rest[rest > 0] - 1
    if until is not None:
        seconds = max(0, round(until / speed / STEP) - int(time[-1])) // STEPS
        ids = torch.cat([ids, torch.full((seconds,), SHIFT + STEPS - 1)])
    return torch.cat([torch.tensor([START]), ids])


def decode(ids: Int[Tensor, "n"]) -> Notes:
    """The notes of events. A pitch that is struck again ends there, one that never ends does so with the last event;
    ends of what does not sound, and notes that take no time, are nothing."""
    time, loud, sounding = 0, LOUD // 2, dict[int, tuple[int, int]]()
    rows = list[tuple[int, int, int, int]]()

    def finish(pitch: int) -> None:
        begin, hard = sounding.pop(pitch, (time, loud))
        if time > begin:
            rows.append((begin, pitch, time - begin, hard))

    for event in ids.tolist():
        if event < END:
            finish(event)
            sounding[event] = time, loud
        elif event < SHIFT:
            finish(event - END)
        elif event < VELOCITY:
            time += event - SHIFT + 1
        elif event < START:
            loud = event - VELOCITY
    for pitch in list(sounding):
        finish(pitch)
    start, high, length, touch = torch.tensor(sorted(rows), dtype=torch.int64).view(-1, 4).unbind(1)
    velocity = touch * 128 // LOUD + 64 // LOUD
    return Notes(start * STEP, length * STEP, high, velocity, torch.zeros_like(high))


class Hands:
    """What may come next in each of b pieces: only a sounding pitch ends and only a silent key is struck, in the order
    of `encode`; a velocity is a new one, before a strike; shorter shifts than a second are not divided."""

    def __init__(self, b: int, device: torch.device) -> None:
        self.sounding = torch.zeros(b, PITCHES, dtype=torch.bool, device=device)
        self.loud = torch.full((b,), -1, device=device)
        self.rank = torch.full((b,), -1, device=device)  # of what came last at this time
        self.last = torch.full((b,), START, device=device)
        self.time = torch.zeros(b, dtype=torch.int64, device=device)  # in STEP

    def play(self, event: Int[Tensor, "b"]) -> None:
        strike, end = event < END, (event >= END) & (event < SHIFT)
        shift, velocity = (event >= SHIFT) & (event < VELOCITY), (event >= VELOCITY) & (event < START)
        this = torch.arange(PITCHES, device=event.device) == (event % PITCHES)[:, None]
        self.sounding = (self.sounding | (this & strike[:, None])) & ~(this & end[:, None])
        self.loud = torch.where(velocity, event - VELOCITY, self.loud)
        rank = torch.where(end, event - END, event + PITCHES)
        self.rank = torch.where(strike | end, rank, torch.where(shift, -1, self.rank))
        self.time = self.time + torch.where(shift, event - SHIFT + 1, 0)
        self.last = event

    def allowed(self) -> Bool[Tensor, "b v"]:
        pitch = torch.arange(PITCHES, device=self.rank.device)
        start, told = self.last == START, (self.last >= VELOCITY) & (self.last < START)
        short = (self.last >= SHIFT) & (self.last < SHIFT + STEPS - 1)
        keys = (pitch >= KEYS[0]) & (pitch <= KEYS[1])
        free = keys & ~self.sounding & (PITCHES + pitch > self.rank[:, None])
        strike = free & (self.loud >= 0)[:, None]
        end = self.sounding & (pitch > self.rank[:, None]) & ~told[:, None]
        shift = (~start & ~told & ~short)[:, None].expand(-1, STEPS)
        new = torch.arange(LOUD, device=self.rank.device) != self.loud[:, None]
        velocity = new & (~told & free.any(1))[:, None]
        return torch.cat([strike, end, shift, velocity, torch.zeros_like(start)[:, None]], 1)


# ---- data ----


def load(data: str = "default", data_dir: Path | None = None) -> Performances:
    """`data`: default, ten performances of MAESTRO, of which one is for validation and one for tests; maestro, all
    1,276 in its own split; or a folder of MIDI files, split by the hash of their music. Raises DataError."""
    if data == "default":
        return _ten(fetch(TEN, data_dir))
    if data == "maestro":
        return _maestro(fetch(MAESTRO, data_dir))
    return _folder(Path(data))


def read(path: Path) -> Performance:
    """A MIDI file. Raises DataError also for notes that no piano has."""
    return _performance(path.stem, files.content(path), path)


def _performance(name: str, raw: bytes, path: Path) -> Performance:
    notes = midi.notes(raw, path)
    low, high = int(notes.pitch.min()), int(notes.pitch.max())
    if low < KEYS[0] or high > KEYS[1]:
        raise DataError(f"{path} goes from pitch {low} to {high}, a piano from {KEYS[0]} to {KEYS[1]}: transpose it")
    return Performance(name, notes)


def _ten(path: Path) -> Performances:
    try:
        with tarfile.open(path) as archive:
            names = sorted(name for name in archive.getnames() if "/MIDIs_one_track/Maestro_" in name)
            found = [_performance(Path(n).stem, archive.extractfile(n).read(), Path(n)) for n in names]  # type: ignore[union-attr]
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a package's archive: {error}") from error
    held = {piece.name: piece for piece in found if piece.name in (VAL, TEST)}
    rest = [piece for piece in found if piece.name not in held]
    return Performances("ten performances of MAESTRO", rest, [held[VAL]], [held[TEST]])


def _maestro(path: Path) -> Performances:
    sides: dict[str, list[Performance]] = {side: [] for side in PLACES.values()}
    try:
        with zipfile.ZipFile(path) as archive:
            table = next(name for name in archive.namelist() if name.endswith(".csv"))
            folder = table.rpartition("/")[0]
            print(f"reading the performances of {path.name}: a minute or two", file=sys.stderr)
            for row in csv.DictReader(io.StringIO(archive.read(table).decode())):
                name = f"{folder}/{row['midi_filename']}"
                sides[PLACES[row["split"]]].append(_performance(Path(name).stem, archive.read(name), Path(name)))
    except (zipfile.BadZipFile, StopIteration, KeyError) as error:
        raise DataError(f"{path} is not MAESTRO's archive: {error!r}") from error
    return Performances("MAESTRO", **sides)


def _folder(path: Path) -> Performances:
    if not path.is_dir():
        raise DataError(f"--data {path}: neither default nor maestro nor a folder")
    sides: dict[str, dict[bytes, Performance]] = {"train": {}, "val": {}, "test": {}}
    for file in files.visible(path):
        if file.suffix.lower() not in midi.ENDINGS:
            continue
        try:
            found = read(file)
        except DataError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        music = encode(found.notes).numpy().tobytes()  # the same, whatever else a file says of the same times
        at = files.place(music, "performances")
        sides["val" if at < 0.1 else "test" if at < 0.2 else "train"][music] = found
    kept = {side: list(pieces.values()) for side, pieces in sides.items()}
    if not all(kept.values()):
        told = ", ".join(f"{len(pieces)} for {side}" for side, pieces in kept.items())
        raise DataError(f"--data {path} has too few performances (MIDI files): {told}; some twenty are needed")
    return Performances(f"performances of {path.name}", **kept)
