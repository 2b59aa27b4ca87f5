"""What is asked of a model that draws what a sentence says: draw, change a word, show where words are heeded, edit a
picture, describe one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tyro.conf import Positional

from lib import plot, run
from lib.answers import Answer, Note, Picture, Table
from lib.data import captions
from lib.faults import RunError
from lib.tasks import pictures
from lib.tasks.painter import Painter

SWEEP = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)  # guidances of a sweep, beside each other
IN_A_ROW = 6  # maps of words


@dataclass(frozen=True)
class Asked(run.Use):
    out: run.NewFile = Path("samples.png")
    """Where to save the picture."""
    guidance: run.Amount = 2.0
    """How many times the difference that the words make is taken: 1 is no guidance, 0 leaves them out."""
    steps: run.Count = 20
    """Steps from noise to the small picture."""


@dataclass(frozen=True)
class Drawn(Asked):
    seed: run.Seed = 0
    """Decides what is drawn."""


@dataclass(frozen=True)
class Draw(Drawn):
    """Draw what sentences say with the latest finished run: a row for each, from the same noise in each column."""

    text: tuple[str, ...] = ()
    """Sentences; an example if not given. One of no words asks for nothing."""
    n: run.Count = 8
    """Pictures of each sentence; they are numbered from 0."""
    sweep: bool = False
    """Draw the first picture of each sentence with guidance of 0, 1, 1.5, 2, 3, 5 and 8 instead."""


@dataclass(frozen=True)
class Words(Drawn):
    """Show where in a picture each word of the sentence that it was drawn for is heeded."""

    text: str | None = None
    """The sentence; an example if not given."""


@dataclass(frozen=True)
class Edit(Asked):
    """Change pictures by words: they are turned into noise as what they are and drawn again as what they are to be."""

    pictures: Positional[tuple[run.Example, ...]] = ("0", "1", "2", "3")
    """Numbers of test pictures or files."""
    before: str = ""
    """What is true of the pictures; nothing is said if not given."""
    after: str | None = None
    """What is to be true of them."""
    steps: run.Count = 40
    """Steps from the picture to noise, and as many back."""


@dataclass(frozen=True)
class Describe(run.Use):
    """Say what is in pictures: how probable the denoiser finds each value of each attribute."""

    pictures: Positional[tuple[run.Example, ...]] = ("0", "1", "2", "3")
    """Numbers of test pictures or files."""


Use = Draw | Words | Edit | Describe


def answers(use: Use, painter: Painter) -> Iterator[Answer]:
    """One picture or table, after what is to be said of the sentences. Raises DataError and RunError."""
    shown = lambda asked: pictures.picked(asked, painter.held_out, 2 * painter.small)[0]  # noqa: E731
    scaled = lambda asked: shown(asked).to(painter.device) / 127.5 - 1  # noqa: E731
    match use:
        case Describe():
            if painter.scene is None:
                raise RunError("nothing is known of what these pictures show: describe needs drawn ones")
            found = painter.described(scaled(use.pictures), painter.scene)
            rows = [
                (name, attribute, painter.scene.names[attribute][int(p[i].argmax())], 100 * float(p[i].max()))
                for i, name in enumerate(use.pictures)
                for attribute, p in found.items()
            ]
            yield Table(("picture", "attribute", "value", "probability in %"), rows, "{:<12} {:<11} {:<11} {:5.1f} %")
            return
        case Draw():
            texts = use.text or (painter.example,)
            for text in texts:
                yield from _notes(text, painter)
            x, columns = (_swept if use.sweep else _rows)(use, texts, painter)
        case Words():
            text = painter.example if use.text is None else use.text
            yield from _notes(text, painter)
            x = painter.drawn([text], [0], use.seed, use.guidance, use.steps)
            said, heeded = painter.words(x, text)
            x = _over(x, heeded)
            yield Note("left to right, row by row: " + ", ".join(["the picture", *said]))
            columns = IN_A_ROW
        case Edit():
            if use.after is None:
                raise RunError("say what is to be true of the pictures: --after SENTENCE")
            for text in (use.before, use.after):
                yield from _contradictions(text, painter)
            x = scaled(use.pictures)
            n = len(x)
            x = torch.cat([x, painter.edited(x, [use.before] * n, [use.after] * n, use.guidance, use.steps)])
            columns = n
    swept, edited = isinstance(use, Draw) and use.sweep, isinstance(use, Edit)
    content = plot.tile(x.cpu() / 2 + 0.5, columns)
    yield Picture(content, use.out, f"{len(x)} pictures", frames=columns * swept, versions=2 * edited)


def _rows(use: Draw, texts: Sequence[str], painter: Painter) -> tuple[Float[Tensor, "n 3 h w"], int]:
    each, numbers = [text for text in texts for _ in range(use.n)], [*range(use.n)] * len(texts)
    return painter.drawn(each, numbers, use.seed, use.guidance, use.steps), use.n


def _swept(use: Draw, texts: Sequence[str], painter: Painter) -> tuple[Float[Tensor, "n 3 h w"], int]:
    """A column for each guidance, a row for each sentence."""
    columns = [painter.drawn(texts, [0] * len(texts), use.seed, weight, use.steps) for weight in SWEEP]
    return torch.stack(columns, 1).flatten(0, 1), len(SWEEP)


def _over(x: Float[Tensor, "1 3 h w"], heeded: Float[Tensor, "l h w"]) -> Float[Tensor, "n 3 h w"]:
    """The picture, and for each word the picture, dark where the word is not heeded."""
    share = heeded / heeded.flatten(1).amax(1)[:, None, None]
    return torch.cat([x, (x + 1) * (0.15 + 0.85 * share[:, None]) - 1])


def _notes(text: str, painter: Painter) -> Iterator[Note]:
    if not captions.words(text):
        yield Note("a text of no words: anything may be drawn")
    yield from _contradictions(text, painter)


def _contradictions(text: str, painter: Painter) -> Iterator[Note]:
    for one, other in painter.scene.contradictions(text) if painter.scene else ():
        yield Note(f"warning: {one!r} and {other!r} cannot both be")
