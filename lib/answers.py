"""What a model answers with. A command line prints and saves it, a worker sends it on as data (lib/run)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """A piece of text. Pieces follow each other without a space or a line break."""

    text: str


@dataclass(frozen=True)
class Note:
    """Something to know about the answer that is not part of it."""

    text: str


@dataclass(frozen=True)
class Call:
    """A tool that is used for the answer that follows, with its arguments by name."""

    tool: str
    arguments: tuple[tuple[str, str], ...]

    def line(self) -> str:
        return f"[{self.tool}]" + "".join(f" {name}: {value};" for name, value in self.arguments).rstrip(";")


@dataclass(frozen=True)
class Table:
    """Rows of values under names. `form` writes a row as a line (`str.format`), below the line `head` if that is not
    empty; `file`: where the lines are to be saved instead of being printed."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    form: str
    head: str = ""
    file: Path | None = None

    def lines(self) -> str:
        return "".join(
            f"{line}\n" for line in [*[self.head] * bool(self.head), *(self.form.format(*r) for r in self.rows)]
        )


@dataclass(frozen=True)
class Steps:
    """How a text came about, token by token: how probable each was, and the likeliest tokens there with their
    probabilities. Of a text that can be written on `begins` has the number of the character with which each token
    begins. Of a model that reads another text `read` has the tokens of that, and `looked` for each token how
    much of the model's attention each of them had."""

    tokens: tuple[str, ...]
    p: tuple[float, ...]
    likeliest: tuple[tuple[tuple[str, float], ...], ...]
    begins: tuple[int, ...] = ()
    read: tuple[str, ...] = ()
    looked: tuple[tuple[float, ...], ...] = ()

    def table(self) -> Table:
        rows = [
            (token, p, ", ".join(f"{word!r} {share:.3f}" for word, share in best))
            for token, p, best in zip(self.tokens, self.p, self.likeliest, strict=True)
        ]
        return Table(("token", "probability", "likeliest"), rows, "{!r:<18}{:8.4f}   {}")


@dataclass(frozen=True)
class Picture:
    """Pixels, a figure or the bytes of a GIF, to be saved as `file` with each pixel `scale` pixels wide. `caption`:
    what it is; None: saved without a word. Of a sheet of `plot.tile` `frames` says that its columns follow one another,
    `versions` that its rows show the same things changed, and how many there are."""

    content: UInt8[Tensor, "c h w"] | Figure | bytes
    file: Path
    caption: str | None = ""
    scale: int = 2
    frames: int = 0
    versions: int = 0


@dataclass(frozen=True)
class Sound:
    """Samples in [-1, 1], `rate` of them a second, to be saved as `file` in WAV. `caption`: as of a picture."""

    samples: Float[Tensor, "n"]
    rate: int
    file: Path
    caption: str | None = ""


@dataclass(frozen=True)
class Document:
    """Bytes of whatever kind, to be saved as `file`. `caption`: as of a picture."""

    content: bytes
    file: Path
    caption: str | None = ""


Answer: TypeAlias = Text | Note | Call | Table | Steps | Picture | Sound | Document
