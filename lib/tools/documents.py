"""Passages of a person's own texts, found by what a question means, and sentences that sum a text up: by the features
of all-MiniLM-L6-v2, which are alike where meanings are (Reimers & Gurevych 2019)."""

import hashlib
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.answers import Answer, Note, Text
from lib.cache import cache_dir, keep
from lib.data import files, sentences, tokens
from lib.faults import DataError
from lib.models import bert, minilm

ENDINGS = (".txt", ".md", ".rst")
FILES, BYTES, PASSAGES = 1000, 2**20, 5000  # at most: files, bytes of each, passages of all
WORDS = 120  # of a passage, at most
SHOWN, LIKELY = 3, 0.25  # passages that are shown; the cosine below which nothing is said to be found
AT_ONCE = 32

Encode = Callable[[Sequence[str]], Float[Tensor, "n d"]]


class Passage(NamedTuple):
    file: str  # below the folder
    line: int  # from 1, where it begins
    heading: str
    text: str


def encoder(data_dir: Path | None = None) -> Encode:
    """Features of length 1. Raises DataError where the weights cannot be had."""
    params, tokenizer = minilm.load(data_dir)

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Float[Tensor, "n d"]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = torch.zeros(len(texts), minilm.MINILM.block.width)
        for i in range(0, len(order), AT_ONCE):
            part = order[i : i + AT_ONCE]
            rows = tokens.encode(tokenizer, [texts[j] for j in part])
            length = min(256, max(map(len, rows)) + 2)
            ids = tokens.framed(tokenizer, [row[: length - 2] for row in rows], length)
            mask = ids != tokens.PAD
            x = bert.features(params, ids, mask, cfg=minilm.MINILM)
            found[part] = F.normalize(bert.mean_features(x, mask), dim=-1)
        return found

    return encode


def passages(folder: Path) -> list[Passage]:
    """The paragraphs of the texts below a folder, or of one file. No link leads out of it. Raises DataError."""
    try:
        root = folder.resolve(strict=True)
        paths = [root] if root.is_file() else list(itertools.islice(_below(root), FILES + 1))
        if large := next((path for path in paths if path.stat().st_size > BYTES), None):
            raise DataError(f"--documents {folder}: {large.name} has more than {BYTES:,} bytes")
        above = root.parent if root.is_file() else root
        every = (p for path in paths for p in _passages(path, path.relative_to(above).as_posix()))
        found = list(itertools.islice(every, PASSAGES + 1))
    except (OSError, RuntimeError, ValueError) as error:  # it is not there, leads in a circle, or is no path at all
        raise DataError(f"--documents {folder}: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise DataError(f"--documents {folder}: no texts there ({', '.join(ENDINGS)})")
    if len(paths) > FILES or len(found) > PASSAGES:
        raise DataError(f"--documents {folder}: at most {FILES} files and {PASSAGES:,} passages")
    return found


def _below(root: Path) -> Iterator[Path]:
    """Texts below a folder, sorted; a link to a folder is not followed, nor one to a file outside."""
    for where, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in files.HOUSEKEEPING)
        for path in (Path(where) / name for name in sorted(names) if not name.startswith(".")):
            if path.suffix.lower() in ENDINGS and path.resolve().is_relative_to(root) and path.is_file():
                yield path


def _passages(path: Path, name: str) -> Iterator[Passage]:
    name = files.printable(name)
    heading, begun, words = "", 0, list[str]()
    lines = files.lines(files.decoded(files.content(path), name))
    for number, line in enumerate([*map(files.printable, lines), ""], start=1):
        title = re.fullmatch(r"#+ +(.+)", line)
        if words and (title or not line.strip() or len(words) + len(line.split()) > WORDS):
            yield Passage(name, begun, heading, " ".join(words))
            words = []
        if title:
            heading = title[1]
        elif line.strip() and not (set(line.strip()) <= set("=-~*") and len(line.strip()) > 2):
            begun = begun if words else number
            words += line.split()
            while len(words) > WORDS:
                yield Passage(name, begun, heading, " ".join(words[:WORDS]))
                words = words[WORDS:]


class Library:
    """Passages with their features, which are kept in the cache: they take a tenth of a second each."""

    def __init__(self, folder: Path, encode: Encode) -> None:
        self.passages, self.encode = passages(folder), encode
        texts = [f"{Path(p.file).stem.replace('-', ' ')}. {p.heading}. {p.text}" for p in self.passages]
        name = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        path = cache_dir() / "documents" / f"{name}.safetensors"
        try:
            self.features = safetensors.torch.load_file(path)["features"]
        except (OSError, KeyError, safetensors.SafetensorError):
            self.features = encode(texts)
            keep(path, safetensors.torch.save({"features": self.features}))

    def search(self, question: str) -> list[tuple[Passage, float]]:
        """The passages that are most alike, with their cosines."""
        cosines = self.features @ self.encode([question])[0]
        best = cosines.topk(min(SHOWN, len(self.passages)))
        return [(self.passages[i], x) for x, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def answers(self, question: str) -> Iterator[Answer]:
        """Quotations with file and line."""
        found = [(passage, x) for passage, x in self.search(question) if x >= LIKELY]
        if not found:
            yield Text("Nothing about that in these documents.\n")
        for passage, _ in found:
            yield Text(f"{passage.file}, line {passage.line}: “{passage.text}”\n")
        yield Note(f"the most alike of {len(self.passages):,} passages, by MiniLM; they are quoted, not understood")


def summary(text: str, encode: Encode) -> Iterator[Answer]:
    """The sentences nearest to the mean of all, a quarter of them, in their order."""
    parts = sentences.sentences(files.printable(text))
    if len(parts) < 2:
        raise DataError("there is nothing to shorten: give several sentences")
    features = encode(parts)
    best = (features @ F.normalize(features.mean(0), dim=0)).topk(math.ceil(len(parts) / 4)).indices
    yield Text(" ".join(parts[i] for i in sorted(best.tolist())) + "\n")
    yield Note(f"{len(best)} of {len(parts)} sentences, word for word: those most like the whole, by MiniLM")
