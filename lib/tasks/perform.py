"""What is asked of a model that plays the piano: play, play on, say how likely a performance is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import Positional, arg

from lib import random, run
from lib.answers import Answer, Note, Table
from lib.data import midi, performances
from lib.data.performances import Performance
from lib.data.voices import Notes
from lib.faults import RunError
from lib.tasks import heard, pianist, playing
from lib.tasks.heard import Heard
from lib.tasks.pianist import Pianist

Seconds = Annotated[float, run.Range(0.1, 600)]
TEMPO = 120.0  # of the files, which have no bars


@dataclass(frozen=True)
class Played(Heard):
    out: run.NewFolder = Path("piano")
    """Folder for the files: MIDI, sound, and a picture of the notes."""
    seconds: Seconds = 20.0
    """How long to play."""
    temperature: run.Amount = 1.0
    """Above 1 the music is bolder, below 1 safer; 0: the likeliest event each time."""
    top_p: run.Share = 0.98
    """Sample among the likeliest events that together have this probability."""


@dataclass(frozen=True)
class Play(Played):
    """Play from nothing with the latest finished run."""

    n: run.Count = 4
    """How many pieces."""


@dataclass(frozen=True)
class Continue(Played):
    """Play on behind the beginning of a performance."""

    piece: Positional[Annotated[run.Example, arg(metavar="NUMBER|FILE")]] = "0"
    """A MIDI file, or the number of a test performance."""
    start: Annotated[float, run.Range(0, 3600)] = 0.0
    """Where in it what is given begins, in seconds."""
    given: Seconds = pianist.GIVEN
    """Seconds that are given."""
    n: run.Count = 1
    """In how many ways."""


@dataclass(frozen=True)
class Likelihood(run.Use):
    """Say how likely performances are, in nats for each event, note and second."""

    pieces: Positional[tuple[run.Example, ...]] = ("0",)
    """MIDI files, or numbers of test performances."""


Use = Play | Continue | Likelihood


def answers(use: Use, model: Pianist) -> Iterator[Answer]:
    """For each piece its files. Raises DataError, RunError."""
    if isinstance(use, Likelihood):
        found = [model.nats([_piece(name, model)]) for name in use.pieces]
        rows = [(name, *x.values()) for name, x in zip(use.pieces, found, strict=True)]
        yield Table(
            ("piece", "nats an event", "a note", "a second"), rows, "{:<24}{:>14.3f}{:>10.2f}{:>10.1f}",
            f"{'piece':<24}{'nats an event':>14}{'a note':>10}{'a second':>10}",
        )  # fmt: skip
        return
    prompt, until = _NOTHING, 0.0
    if isinstance(use, Continue):
        prompt, until = pianist.goes_on(_given(use, model), use.given)
    if len(prompt) > model.cfg.context:
        seen = f"the last {model.cfg.context // 2} of them"
        yield Note(f"what is given has {len(prompt)} events: the model hears {seen}")
    key = random.key(use.seed, model.device) if use.temperature > 0 else None
    sampling = {"temperature": use.temperature or 1.0, "top_p": use.top_p}
    played, reached = model.play(prompt, use.seconds, key, use.n, until, **sampling)
    if reached < use.seconds - performances.STEP:
        yield Note(
            f"{reached:.1f} seconds took as many events as {use.seconds:g} may: take another --temperature or --seed"
        )
    for i, notes in enumerate(played):
        if not (notes.voice == 1).any():
            yield Note(f"{i}: nothing was played in this time: let it play longer, or take another --seed")
        if len(notes.start):
            yield from heard.files(use, i, notes, pianist.VOICES, TEMPO, midi.PIANO)
        if use.copy_check:
            yield copied(notes, model)


_NOTHING = torch.tensor([performances.START])


def _given(use: Continue, model: Pianist) -> Notes:
    """Raises DataError, RunError."""
    whole = _piece(use.piece, model).notes
    given = playing.cut(whole, use.start, use.start + use.given)
    if not len(given.start):
        raise RunError(
            f"{use.piece} has no notes from second {use.start:g} to {use.start + use.given:g}: it goes from "
            f"{float(whole.start.min()):.1f} to {float((whole.start + whole.duration).max()):.1f}"
        )
    return given


def copied(notes: Notes, model: Pianist) -> Note:
    training = "\0".join(playing.intervals(piece.notes) for piece in model.data().train)
    played = pianist.behind(notes)
    run_of = playing.copied(played, training)
    return Note(f"longest run of notes that training performances have in some key: {run_of} of {len(played.start)}")


def _piece(name: str, model: Pianist) -> Performance:
    return heard.chosen(name, lambda: model.data().test, performances.read, "performances")
