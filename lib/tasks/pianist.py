"""A model that plays the piano: how likely it finds performances, how it plays on, and how far that is from people's.

Axes: n events (lib/data/performances.py).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lib import random, run, sound
from lib.data import performances, sheet, synthesis
from lib.data.performances import Hands, Performance, Performances
from lib.data.voices import Notes
from lib.models import gpt
from lib.random import Key
from lib.tasks import playing
from lib.tree import Tree

DENSEST = 200  # events a second at which writing ends before its time; people's have 41
GIVEN, PLAYED = 10.0, 10.0  # seconds of a prompt that is played on, and of what is played
PROMPTS = 8
VOICES = "given", "played"


class Pianist(NamedTuple):
    """`data`: what it learnt from, which is not always at hand."""

    params: Tree
    cfg: gpt.Config
    device: torch.device
    data: Callable[[], Performances]

    def play(
        self,
        prompt: Int[Tensor, "n"],
        seconds: float,
        key: Key | None,
        copies: int = 1,
        until: float = 0.0,
        **sampling: float,
    ) -> tuple[list[Notes], float]:
        """What is played behind a prompt, which it comes with as voice 0; and how many seconds each at least has come
        to, fewer than asked for where it took more than DENSEST events a second. Of a prompt longer than the context
        the last half of that is heard. `until`: seconds from the prompt's first strike in which nothing else is played,
        less than one of them behind its last event."""
        hands, prompt = Hands(copies, self.device), prompt.to(self.device)
        for event in prompt:
            hands.play(event.expand(copies))
        rest = max(0, round(until / performances.STEP) - int(hands.time[0]))
        began = hands.time + rest

        def allowed(event: Int[Tensor, "b"] | None) -> Bool[Tensor, "b v"]:
            if event is not None:
                hands.play(event)
            elif rest:
                shift = torch.arange(performances.KINDS, device=self.device) - performances.SHIFT + 1
                return hands.allowed() & (shift >= rest) & (shift <= performances.STEPS)
            return hands.allowed()

        if len(shown := prompt) > self.cfg.context:
            shown = prompt[-max(1, self.cfg.context // 2) :]  # as much as where it slides
        ticks, found = round(seconds / performances.STEP), list[Tensor]()
        go_on = gpt.generate(self.params, shown.expand(copies, -1), key, cfg=self.cfg, allowed=allowed, **sampling)  # type: ignore[arg-type]
        for event in itertools.islice(go_on, int(seconds * DENSEST)):
            found.append(event)
            if (hands.time - began >= ticks).all():
                break
        given = float(began[0]) * performances.STEP
        rows = torch.cat([prompt.expand(copies, -1), torch.stack(found, 1)], 1).cpu()
        reached = float((hands.time - began).min()) * performances.STEP
        return [_marked(playing.cut(performances.decode(row), 0, given + seconds), given) for row in rows], reached

    def nats(self, pieces: Sequence[Performance]) -> dict[str, float]:
        """Negative log-likelihood per event, note and second."""
        ids = [performances.encode(piece.notes) for piece in pieces]
        total = sum(gpt.nats(self.params, one, cfg=self.cfg) for one in ids)
        notes = sum(int((one < performances.END).sum()) for one in ids)
        seconds = sum(playing.length(piece.notes) for piece in pieces)
        return {"event": total / sum(len(one) - 1 for one in ids), "note": total / notes, "second": total / seconds}


def goes_on(given: Notes, until: float) -> tuple[Int[Tensor, "n"], float]:
    """The events of what is given up to a second, and how far that is behind their first strike, for `play`."""
    return performances.encode(given, until=until), until - float(given.start.min())


def _marked(notes: Notes, given: float) -> Notes:
    """Voice 0 until `given`, behind it 1."""
    return notes._replace(voice=(notes.start > given - performances.STEP / 2).long())


# ---- while and after training ----


def watch(here: run.Place, step: int, model: Pianist, corpus: Performances, key: Key) -> None:
    """Figures on validation performances, and ten seconds from nothing to hear and see."""
    found = model.nats(corpus.val)
    here.log(step, {"val/loss": found["event"], "val/loss_note": found["note"]})
    (played,), reached = model.play(torch.tensor([performances.START]), PLAYED, key)
    show(here, step, played, "samples")
    here.write(
        f"step {step}: held out {found['event']:.3f} nats an event, {found['note']:.2f} a note; "
        f"{len(played.start) / max(reached, performances.STEP):.1f} notes a second (people's {density(corpus.val):.1f})"
    )


def density(pieces: Sequence[Performance]) -> float:
    """Notes a second."""
    return sum(len(piece.notes.start) for piece in pieces) / sum(playing.length(piece.notes) for piece in pieces)


def show(here: run.Place, step: int, notes: Notes, name: str) -> None:
    here.writer.add_figure(f"{name}/notes", sheet.pianoroll(notes, VOICES), step)
    sound.add_sound(here.writer, f"{name}/sound", synthesis.synthesise(notes), synthesis.RATE, step)


def evaluate(here: run.Place, step: int, model: Pianist, corpus: Performances) -> tuple[dict[str, float], list[str]]:
    """Likelihood of test performances, beside trigrams; and continuations of their beginnings beside what people
    played there, with the lines to print."""
    found, key = model.nats(corpus.test), random.key(3, model.device)
    ids = lambda pieces: [performances.encode(piece.notes) for piece in pieces]  # noqa: E731
    counts = playing.trigrams(ids(corpus.train), ids(corpus.test))
    lines = [
        f"{'nats on test performances':<46}{'an event':>10}{'a note':>10}{'a second':>10}",
        f"{'':<46}{found['event']:10.3f}{found['note']:10.2f}{found['second']:10.1f}",
        f"{'trigrams':<46}{counts:10.3f}",
    ]
    results = {f"test/{name}": value for name, value in (("loss", found["event"]), ("loss_note", found["note"]))}
    results |= {"test/loss_second": found["second"], "test/trigrams": counts}
    asked, others = prompts(corpus.test), [true for _, true in prompts(corpus.val)]
    if not asked or not others:
        side = "validation" if asked else "test"
        return results, [*lines, f"no {side} performance is longer than {GIVEN + PLAYED:g} seconds: none was played on"]
    own, theirs = list[Notes](), [true for _, true in asked]
    for i, (given, _) in enumerate(asked):
        prompt, until = goes_on(given, GIVEN)
        (whole,), _ = model.play(prompt, PLAYED, random.fold_in(key, i), until=until)
        own.append(behind(whole))
        if i == 0:
            show(here, step, whole, "continuation")
    training = "\0".join(playing.intervals(piece.notes) for piece in corpus.train)
    mine, floor = (playing.variation(playing.joined(notes), playing.joined(theirs)) for notes in (own, others))
    rows = {name.replace("_", " ") + ", total variation": (mine[name], floor[name]) for name in mine}
    rate = lambda pieces: sum(len(notes.start) for notes in pieces) / (len(pieces) * PLAYED)  # noqa: E731
    longest = lambda pieces: float(max(playing.copied(notes, training) for notes in pieces))  # noqa: E731
    rows["notes a second"] = rate(own), rate(theirs)
    rows["longest run in training performances, notes"] = longest(own), longest(theirs)
    lines += ["", f"{f'{len(own)} continuations of {PLAYED:g} seconds':<46}{'played':>10}{'people':>10}"]
    lines += [f"{name:<46}{a:10.3f}{b:10.3f}" for name, (a, b) in rows.items()]
    lines.append("(total variation: to what people played there; of people: what they play in validation performances)")
    return results | {f"test/{name}": value for name, value in mine.items()}, lines


def behind(notes: Notes) -> Notes:
    """What was played, without what was given."""
    return Notes(*(column[notes.voice == 1] for column in notes))


def prompts(pieces: Sequence[Performance]) -> list[tuple[Notes, Notes]]:
    """(what is given, what people played behind it, as events have it), evenly spread over those performances that are
    long enough."""
    long = [piece.notes for piece in pieces if playing.length(piece.notes) > GIVEN + PLAYED]
    n = min(PROMPTS, len(long))
    long = [long[i * len(long) // n] for i in range(n)]
    each = -(-PROMPTS // max(1, len(long)))
    found = []
    for notes in long:
        room = playing.length(notes) - GIVEN - PLAYED
        for i in range(each):
            at = float(notes.start.min()) + room * (i + 0.5) / each
            given, true = playing.cut(notes, at, at + GIVEN), playing.cut(notes, at + GIVEN, at + GIVEN + PLAYED)
            if len(given.start) and len(true.start):
                found.append((given, performances.decode(performances.encode(true))))
    return found
