"""lib/data/performances.py: events and back, what may come next, the pedal, and where performances come from."""

import csv
import io
import tarfile
import zipfile

import pytest
import symusic
import torch

from lib import random
from lib.data import midi, performances
from lib.data.performances import END, KINDS, LOUD, SHIFT, START, STEPS, STRIKE, VELOCITY, Hands
from lib.data.voices import Notes
from lib.faults import DataError


def played(*rows):
    """Notes of (start, duration, pitch, velocity)."""
    start, duration, pitch, velocity = zip(*rows, strict=True)
    none = torch.zeros(len(rows), dtype=torch.int64)
    return Notes(torch.tensor(start), torch.tensor(duration), torch.tensor(pitch), torch.tensor(velocity), none)


@pytest.fixture
def wild(key):
    """Many notes, often of one pitch, at once, over each other and seconds apart."""
    k_time, k_length, k_pitch, k_loud = random.split(key, 4)
    start = (random.uniform(k_time, (400,)) ** 3 * 120).sort().values
    duration = random.uniform(k_length, (400,)) ** 4 * 8
    pitch, loud = random.randint(k_pitch, (400,), 60, 72), random.randint(k_loud, (400,), 1, 128)
    return Notes(start, duration, pitch.long(), loud.long(), torch.zeros(400, dtype=torch.int64))


def test_events_of_two_notes():
    ids = performances.encode(played((1.0, 2.5, 60, 64), (1.5, 0.2, 67, 65), (1.5, 0.2, 64, 100)))
    velocity = lambda v: VELOCITY + v * LOUD // 128  # noqa: E731
    assert ids.tolist() == [
        START, velocity(64), STRIKE + 60, SHIFT + 49, velocity(100), STRIKE + 64, velocity(65), STRIKE + 67,
        SHIFT + 19, END + 64, END + 67, SHIFT + STEPS - 1, SHIFT + 79, END + 60,
    ]  # fmt: skip


def test_errors_of_rounding_do_not_add_up():
    starts = [0.0149 * i for i in range(1000)]
    ids = performances.encode(played(*((start, 0.005, 60 + i % 2, 64) for i, start in enumerate(starts))))
    notes = performances.decode(ids)
    torch.testing.assert_close(notes.start, torch.tensor(starts), atol=0.0051, rtol=0)


def test_events_come_back(wild):
    ids = performances.encode(wild)
    assert ids.min() >= 0 and ids.max() < KINDS and len(ids) > 800
    notes = performances.decode(ids)
    assert performances.encode(notes).equal(ids) and len(notes.start) > 350
    for pitch in notes.pitch.unique():  # one after another
        of = notes.pitch == pitch
        assert (notes.start[of][1:] - (notes.start + notes.duration)[of][:-1] > -1e-4).all()


def test_twice_as_fast(wild):
    slow, fast = (performances.decode(performances.encode(wild, speed)) for speed in (1.0, 2.0))
    ends = [float((notes.start + notes.duration).max()) for notes in (slow, fast)]
    assert ends[0] == pytest.approx(2 * ends[1], abs=0.05)


def test_what_people_play_is_allowed(wild):
    hands, seen = Hands(2, torch.device("cpu")), torch.zeros(KINDS)
    for event in performances.encode(wild)[1:]:
        may = hands.allowed()
        assert may[:, event].all()
        seen += may[0]
        hands.play(event.expand(2))
    assert hands.time[0] == (performances.encode(wild)[1:] - SHIFT + 1)[is_shift(performances.encode(wild)[1:])].sum()
    assert seen[START] == 0 and not may[0, SHIFT:VELOCITY].all() | may[0, END : END + 60].any()


def is_shift(ids):
    return (ids >= SHIFT) & (ids < VELOCITY)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_drawn_of_what_is_allowed_comes_back(seed):
    """Random events, then the end of all that sounds: encode finds the same ones again."""
    hands, row, kinds = Hands(1, torch.device("cpu")), [START], torch.arange(KINDS)
    favours = torch.where(kinds < SHIFT, 0.0, 1.0), torch.where((kinds >= END) & (kinds < SHIFT), 9.0, 0.0)
    for i in range(1000):
        if i >= 400 and not hands.sounding.any():
            break
        logits = torch.where(hands.allowed(), favours[i >= 400], -torch.inf)
        assert logits.exp().sum() > 0
        event = random.categorical(random.fold_in(random.key(seed), i), logits)
        hands.play(event)
        row.append(int(event))
    ids = torch.tensor(row)
    ids = ids[: 1 + int(((ids >= END) & (ids < SHIFT)).nonzero().max())]
    assert len(ids) > 300 and performances.encode(performances.decode(ids)).equal(ids)
    strikes = ids[ids < END]
    assert performances.KEYS[0] <= strikes.min() and strikes.max() <= performances.KEYS[1]


def test_music_that_goes_on():
    """What sounds where it is cut does not end, and whole seconds pass up to there."""
    ids = performances.encode(played((0.0, 9.0, 60, 64), (1.0, 0.5, 67, 64)), until=3.25).tolist()
    assert ids[-2:] == [END + 67, SHIFT + STEPS - 1] and END + 60 not in ids
    late = performances.encode(played((0.097, 1.0, 60, 64)), until=0.095).tolist()  # rounded, the strike is behind it
    assert late[-1] == STRIKE + 60


def test_strange_events():
    notes = performances.decode(torch.tensor([END + 60, STRIKE + 60, SHIFT + 9, STRIKE + 60, SHIFT + 9, START]))
    assert notes.start.tolist() == pytest.approx([0, 0.1]) and notes.duration.tolist() == pytest.approx([0.1, 0.1])
    assert len(performances.decode(torch.tensor([START])).start) == 0
    assert len(performances.decode(torch.tensor([START, STRIKE + 60])).start) == 0
    at_once = torch.tensor([STRIKE + 60, END + 60, SHIFT + 99, STRIKE + 62, SHIFT + 9, END + 62])
    assert performances.decode(at_once).pitch.tolist() == [62]


def test_the_pedal_holds(tmp_path):
    score = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, 60))
    track = symusic.Track("piano", 0, False)
    for time, pitch in ((0, 60), (480, 64), (960, 60), (1920, 67)):
        track.notes.append(symusic.Note(time, 120, pitch, 80))
    for time, value in ((240, 127), (1440, 0)):  # down behind the first note's end, up after three seconds
        track.controls.append(symusic.ControlChange(time, 64, value))
    score.tracks.append(track)
    (tmp_path / "pedal.mid").write_bytes(score.dumps_midi())
    notes = midi.read(tmp_path / "pedal.mid")
    assert notes.pitch.tolist() == [60, 64, 60, 67]
    assert notes.duration.tolist() == pytest.approx([0.25, 2.0, 1.0, 0.25], abs=1e-3)
    track.controls.pop()  # it stays down
    score.tracks[0] = track
    (tmp_path / "down.mid").write_bytes(score.dumps_midi())
    assert midi.read(tmp_path / "down.mid").duration.tolist() == pytest.approx([0.25, 3.25, 2.25, 0.25], abs=1e-3)


# ---- data ----


def test_a_folder(recital, capsys):
    (recital / "bad.mid").write_bytes(b"hello")
    low = performances.decode(torch.tensor([START, VELOCITY + 9, STRIKE + 12, SHIFT + 9, END + 12]))
    (recital / "low.mid").write_bytes(midi.encoded(low, 120, ["piano"]))
    found = performances.load(str(recital))
    told = capsys.readouterr().err
    assert "bad.mid is not a MIDI file" in told and "from pitch 12 to 12, a piano from 21 to 108" in told
    assert found.val and found.test and len(found.train) > 15
    names = [piece.name for piece in found.train]
    (recital / f"{names[0]} again.mid").write_bytes((recital / f"{names[0]}.mid").read_bytes())
    again = midi.encoded(found.train[1].notes, 120, ["saved by another program"], 5)
    (recital / f"{names[1]} again.mid").write_bytes(again)
    found = performances.load(str(recital))
    assert len(found.train) == len(names) and found.test[0].name == performances.load(str(recital)).test[0].name


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(DataError, match="neither default nor maestro nor a folder"):
        performances.load(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="too few performances"):
        performances.load(str(tmp_path))


def test_the_ten(recital, tmp_path, monkeypatch):
    path = tmp_path / "miditok.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for i, file in enumerate(sorted(recital.iterdir())[:10], 1):
            archive.add(file, f"miditok-3.1.0/tests/MIDIs_one_track/Maestro_{i}.mid")
    monkeypatch.setattr(performances, "fetch", lambda source, data_dir: path)
    found = performances.load()
    assert [piece.name for piece in found.val + found.test] == ["Maestro_4", "Maestro_9"] and len(found.train) == 8
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="not a package's archive"):
        performances.load()


def test_maestro(recital, tmp_path, monkeypatch):
    path, table = tmp_path / "maestro.zip", io.StringIO()
    rows = csv.DictWriter(table, ["canonical_composer", "split", "year", "midi_filename"])
    rows.writeheader()
    with zipfile.ZipFile(path, "w") as archive:
        for file, split in zip(sorted(recital.iterdir()), ["train", "test", "validation", "train"], strict=False):
            rows.writerow({"canonical_composer": "A, B", "split": split, "midi_filename": f"2004/{file.name}"})
            archive.write(file, f"maestro-v3.0.0/2004/{file.name}")
        archive.writestr("maestro-v3.0.0/maestro-v3.0.0.csv", table.getvalue())
    monkeypatch.setattr(performances, "fetch", lambda source, data_dir: path)
    found = performances.load("maestro")
    assert [len(side) for side in (found.train, found.val, found.test)] == [2, 1, 1]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nothing", "")
    with pytest.raises(DataError, match="not MAESTRO's archive"):
        performances.load("maestro")
