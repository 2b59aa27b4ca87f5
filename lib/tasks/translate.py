"""Translation as a person asks for it: a text, a file line by line, or what is typed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from tyro.conf import Suppress

from lib import plot, random, run
from lib.answers import Answer, Note, Picture, Table, Text
from lib.data import files, pairs
from lib.faults import RunError
from lib.tasks import doubt
from lib.tasks.translator import Hypothesis, Translator, joined


@dataclass(frozen=True)
class Use(run.Typed):
    """Translate a text, a file line by line, or what is typed, with the latest finished run."""

    file: Path | None = None
    """A file to translate, line by line."""
    beam: run.Count = 1
    """Beams of the search; 1 is greedy. With more, all hypotheses of a text are shown with their scores."""
    temperature: run.Amount = 0.0
    """With more than 0 the model samples instead of searching."""
    top_k: run.Natural = 0
    """Sample among the k likeliest tokens; 0: among all."""
    top_p: run.Share = 1.0
    """Sample among the likeliest tokens that together have this probability."""
    seed: run.Seed = 0
    """Decides what is generated."""
    attention: run.NewFile | None = None
    """Where to draw the cross-attention of the text."""
    likely: run.OnPage[bool] = False
    """Also tell how probable each piece of the text's translation was, and the ten likeliest in its place."""
    best: Suppress[bool] = False
    """Whether only the best translation is shown, whatever the number of beams: of lines that are typed."""

    hint: ClassVar[str] = "One sentence a line; an empty line ends."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature > 0 and self.beam > 1:
            raise ValueError("--beam searches and --temperature samples: give one of them")
        if self.text is not None and self.file:
            raise ValueError("a text and --file: give one of them")

    def open(self) -> bool:
        return super().open() and self.file is None

    def line(self, text: str) -> Self:
        return replace(self, text=text, best=True, attention=None)


def answers(use: Use, translator: Translator) -> Iterator[Answer]:
    """The translation of the text, or of each line of the file: line n of the answer is that of line n. Raises
    DataError and RunError."""
    if use.file:
        given = files.lines(files.decoded(files.content(use.file), str(use.file)))
    else:
        given = [files.encodable(use.text or "")]
    lines = [pairs.clean(line) for line in given]
    if not any(lines):
        raise RunError(f"nothing to translate: {use.file or 'the text'} is empty")
    strange = [translator.strange(line) for line in lines]
    if any(strange):
        where = f"{_numbers(strange)} of {use.file} " if use.file else ""
        yield Note(f"warning: {where}not translated: the model has hardly seen this script")
    if all(strange) and not use.file:
        return
    options: dict[str, Any] = {}
    if use.temperature > 0:
        key = random.key(use.seed, translator.device)
        options = {"key": key, "temperature": use.temperature, "top_k": use.top_k, "top_p": use.top_p}
    parts = translator.by_sentence(
        ["" if odd else line for line, odd in zip(lines, strange, strict=True)], use.beam, **options
    )
    found = list(map(joined, parts))
    if use.text is not None and use.beam > 1 and not use.best:
        yield Table(("score", "translation"), [(score, text) for text, score in found[0]], "{:8.3f}  {}")
    else:
        yield Text("".join(f"{hypotheses[0][0]}\n" for hypotheses in found))
    yield from _doubtful(translator, parts, use.file)
    if use.text is not None and use.likely:
        said = [(sentence, hypotheses) for sentence, hypotheses in parts[0] if translator.says(sentence)]
        yield from (translator.steps(sentence, hypotheses[0][0]) for sentence, hypotheses in said)
    if use.text is not None and use.attention:
        weights = translator.attention_map(lines[0], found[0][0][0])
        yield Picture(plot.heatmap(*weights), use.attention, caption=None)


def _doubtful(
    translator: Translator, parts: list[list[tuple[str, list[Hypothesis]]]], file: Path | None
) -> Iterator[Note]:
    """A note on each doubtful sentence of a text, or one on all of a file's lines."""
    flat = [(sentence, hypotheses[0][0]) for of_text in parts for sentence, hypotheses in of_text]
    reasons = iter(doubt.reasons(translator, [s for s, _ in flat], [t for _, t in flat]))
    of_line = [[(sentence, next(reasons)) for sentence, _ in of_text] for of_text in parts]
    if file:
        if any(doubtful := [any(reason for _, reason in line) for line in of_line]):
            yield Note(f"doubtful: {_numbers(doubtful)} of {file}")
        return
    for sentence, reason in of_line[0]:
        if reason:
            yield Note(f"doubtful{f', {sentence!r}' if len(of_line[0]) > 1 else ''}: {reason}")


def _numbers(chosen: list[bool]) -> str:
    numbers = [str(n) for n, yes in enumerate(chosen, start=1) if yes]
    return f"line{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
