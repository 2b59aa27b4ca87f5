"""A model that plays the piano: how likely it finds performances, how it plays on, and how far that is from people's.

Axes: n events (lib/data/performances.py).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib import random, run, sound
from lib.data import performances, sheet, synthesis
from lib.data.performances import Hands, Performance, Performances
from lib.data.voices import Notes
from lib.models import gpt
from lib.random import Key
from lib.tasks import writing
from lib.tree import Tree

DENSEST = 200  # events a second at which writing ends before its time; people's have 41
GIVEN, PLAYED = 10.0, 10.0  # seconds of a prompt that is played on, and of what is played
PROMPTS = 8
VOICES = "given", "played"
TOGETHER = 0.04  # seconds between strikes of one chord


class Pianist(NamedTuple):
    """`data`: what it learnt from, which is not always at hand."""

    params: Tree
    cfg: gpt.Config
    device: torch.device
    data: Callable[[], Performances]

    def play(
        self, prompt: Int[Tensor, "n"], seconds: float, key: Key | None, copies: int = 1, **sampling: float
    ) -> tuple[list[Notes], float]:
        """What is played behind a prompt, which it comes with as voice 0; and how many seconds each at least has come
        to, fewer than asked for where it took more than DENSEST events a second. Of a prompt longer than the context
        the last half of that is heard."""
        hands, prompt = Hands(copies, self.device), prompt.to(self.device)
        for event in prompt:
            hands.play(event.expand(copies))
        began = hands.time.clone()

        def allowed(event: Int[Tensor, "b"] | None) -> Bool[Tensor, "b v"]:
            if event is not None:
                hands.play(event)
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
        return [_marked(cut(performances.decode(row), 0, given + seconds), given) for row in rows], reached

    def nats(self, pieces: Sequence[Performance]) -> dict[str, float]:
        """Negative log-likelihood per event, note and second."""
        ids = [performances.encode(piece.notes) for piece in pieces]
        total = sum(gpt.nats(self.params, one, cfg=self.cfg) for one in ids)
        notes = sum(int((one < performances.END).sum()) for one in ids)
        seconds = sum(length(piece.notes) for piece in pieces)
        return {"event": total / sum(len(one) - 1 for one in ids), "note": total / notes, "second": total / seconds}


def _marked(notes: Notes, given: float) -> Notes:
    """Voice 0 until `given`, behind it 1."""
    return notes._replace(voice=(notes.start > given - performances.STEP / 2).long())


def length(notes: Notes) -> float:
    """Seconds from the first strike to the last end."""
    return float((notes.start + notes.duration).max() - notes.start.min()) if len(notes.start) else 0.0


def cut(notes: Notes, begin: float, end: float) -> Notes:
    """What is struck from `begin` on and before `end`, in seconds, where it ends at the latest. Time starts at
    `begin`."""
    some = (notes.start > begin - performances.STEP / 2) & (notes.start < end - performances.STEP / 2)
    start, duration, *rest = (column[some] for column in notes)
    return Notes(start - begin, torch.minimum(duration, end - start), *rest)


# ---- figures ----


def histograms(notes: Notes) -> dict[str, Float[Tensor, "k"]]:
    """Shares of pitch classes, of times between strikes and of durations (by factors of the square root of two from
    10 ms on), and of velocities."""
    steps = lambda x: (2 * (x / performances.STEP).clamp(min=1).log2()).round().long()  # noqa: E731
    gaps = torch.diff(notes.start.sort().values)
    counts = {
        "pitch_classes": torch.bincount(notes.pitch % 12, minlength=12),
        "onsets": torch.bincount(steps(gaps), minlength=32)[:32],
        "durations": torch.bincount(steps(notes.duration), minlength=32)[:32],
        "velocities": torch.bincount(notes.velocity // 4, minlength=32),
    }
    return {name: count / count.sum().clamp(min=1) for name, count in counts.items()}


def variation(some: Notes, others: Notes) -> dict[str, float]:
    """Total variation between the histograms of two, from 0 to 1."""
    a, b = histograms(some), histograms(others)
    return {name: float((a[name] - b[name]).abs().sum() / 2) for name in a}


def joined(pieces: Sequence[Notes]) -> Notes:
    """One behind the other, those that have notes."""
    pieces = [notes for notes in pieces if len(notes.start)] or list(pieces[:1])
    ends = [0.0, *itertools.accumulate(length(notes) for notes in pieces)]
    moved = [n._replace(start=n.start - n.start[:1] + at) for n, at in zip(pieces, ends, strict=False)]
    return Notes(*(torch.cat(columns) for columns in zip(*moved, strict=True)))


def intervals(notes: Notes) -> str:
    """From pitch to pitch in the order of strikes, of a chord from its lowest, as a text: what two pieces share in
    whatever key and at whatever speed."""
    start, order = notes.start.sort(stable=True)
    chord = (torch.diff(start, prepend=start[:1]) > TOGETHER).cumsum(0)
    pitch = notes.pitch[order]
    ordered = pitch[(chord * performances.PITCHES + pitch).argsort()]
    return "".join(chr(0x100 + step) for step in torch.diff(ordered).tolist())


def copied(notes: Notes, training: str) -> int:
    """Notes of the longest run that training pieces (as `intervals`) have in some key."""
    found = writing.longest_overlap(intervals(notes), training)
    return len(found) + 1 if found else 0


def trigrams(train: Sequence[Int[Tensor, "n"]], test: Sequence[Int[Tensor, "n"]]) -> float:
    """Nats per event by counts of three events, each order leaning on the one below where its context is rare (Witten
    and Bell 1991), of all test events but a piece's first two. Training events are counted as they are, in one key."""

    def pairs(ids: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """(context, context and event) as numbers, for all events that have so many before them; none: the first two
        are left out of the sum, as they hardly count."""
        context = torch.zeros(len(ids) - 2, dtype=torch.int64)
        for back in range(order, 0, -1):
            context = context * performances.KINDS + ids[2 - back : len(ids) - back]
        return context, context * performances.KINDS + ids[2:]

    p: Tensor | float = 1 / performances.KINDS
    for order in (0, 1, 2):
        known = [torch.cat(part) for part in zip(*(pairs(ids, order) for ids in train), strict=True)]
        asked = [torch.cat(part) for part in zip(*(pairs(ids, order) for ids in test), strict=True)]
        contexts, seen = known[0].unique(return_counts=True)
        both, times = known[1].unique(return_counts=True)
        kinds = _count(contexts, torch.searchsorted(contexts, both // performances.KINDS).bincount(), asked[0])
        total, hits = _count(contexts, seen, asked[0]), _count(both, times, asked[1])
        p = (hits + kinds * p) / (total + kinds).clamp(min=1) + (total == 0) * p
    return float(-torch.as_tensor(p).log().mean())


def _count(keys: Int[Tensor, "k"], counts: Int[Tensor, "k"], asked: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Of each that is asked for; 0 where it is not among the sorted keys."""
    at = torch.searchsorted(keys, asked).clamp(max=len(keys) - 1)
    return torch.where(keys[at] == asked, counts[at], 0).double()


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
    return sum(len(piece.notes.start) for piece in pieces) / sum(length(piece.notes) for piece in pieces)


def show(here: run.Place, step: int, notes: Notes, name: str) -> None:
    here.writer.add_figure(f"{name}/notes", sheet.pianoroll(notes, VOICES), step)
    sound.add_sound(here.writer, f"{name}/sound", synthesis.synthesise(notes), synthesis.RATE, step)


def evaluate(here: run.Place, step: int, model: Pianist, corpus: Performances) -> tuple[dict[str, float], list[str]]:
    """Likelihood of test performances, beside trigrams; and continuations of their beginnings beside what people
    played there, with the lines to print."""
    found, key = model.nats(corpus.test), random.key(3, model.device)
    ids = lambda pieces: [performances.encode(piece.notes) for piece in pieces]  # noqa: E731
    counts = trigrams(ids(corpus.train), ids(corpus.test))
    lines = [
        f"{'nats on test performances':<46}{'an event':>10}{'a note':>10}{'a second':>10}",
        f"{'':<46}{found['event']:10.3f}{found['note']:10.2f}{found['second']:10.1f}",
        f"{'trigrams':<46}{counts:10.3f}",
    ]
    results = {f"test/{name}": value for name, value in (("loss", found["event"]), ("loss_note", found["note"]))}
    results |= {"test/loss_second": found["second"], "test/trigrams": counts}
    asked, others = prompts(corpus.test), [true for _, true in prompts(corpus.val)]
    if not asked or not others:
        return results, [*lines, f"no performance is longer than {GIVEN + PLAYED:g} seconds: none was played on"]
    own, theirs = list[Notes](), [true for _, true in asked]
    for i, (given, _) in enumerate(asked):
        (whole,), _ = model.play(performances.encode(given, until=GIVEN), PLAYED, random.fold_in(key, i))
        own.append(behind(whole))
        if i == 0:
            show(here, step, whole, "continuation")
    training = "\0".join(intervals(piece.notes) for piece in corpus.train)
    mine, floor = variation(joined(own), joined(theirs)), variation(joined(others), joined(theirs))
    rows = {name.replace("_", " ") + ", total variation": (mine[name], floor[name]) for name in mine}
    rate = lambda pieces: sum(len(notes.start) for notes in pieces) / (len(pieces) * PLAYED)  # noqa: E731
    longest = lambda pieces: float(max(copied(notes, training) for notes in pieces))  # noqa: E731
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
    long = [piece.notes for piece in pieces if length(piece.notes) > GIVEN + PLAYED]
    long = long[:: max(1, len(long) // PROMPTS)][:PROMPTS]
    each = -(-PROMPTS // max(1, len(long)))
    found = []
    for notes in long:
        room = length(notes) - GIVEN - PLAYED
        for i in range(each):
            at = float(notes.start.min()) + room * (i + 0.5) / each
            given, true = cut(notes, at, at + GIVEN), cut(notes, at + GIVEN, at + GIVEN + PLAYED)
            if len(given.start) and len(true.start):
                found.append((given, performances.decode(performances.encode(true))))
    return found
