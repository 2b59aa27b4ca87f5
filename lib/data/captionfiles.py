"""Pictures with sentences that people wrote: a folder with captions.tsv, and Oxford's 102 flowers with ten each."""

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from lib.data import albums, files, oxford
from lib.data.albums import Album, Pictures
from lib.data.pixels import read_all
from lib.faults import DataError

TABLE = "captions.tsv"
SENTENCES = (
    "text_c10 (a folder per class, ten lines a picture) and testclasses.txt of Reed et al. 2016,"
    " https://github.com/reedscot/cvpr2016"
)
Texts = dict[str, list[list[str]]]


def folder(path: Path, size: int) -> tuple[Pictures, Texts]:
    """Pictures of a folder that captions.tsv names, one of two columns a line: the file, relative to the folder, and a
    sentence about it; a file may stand in several lines. Split by the hash of the pixels. Raises DataError naming the
    line of what is not so."""
    table = path / TABLE
    said: dict[str, list[str]] = {}
    for number, line in enumerate(files.lines(files.decoded(files.content(table), str(table))), 1):
        name, tab, text = line.partition("\t")
        if not line.strip():
            continue
        if not tab:
            raise DataError(f"{table}, line {number}: no tab between the file and the sentence")
        if not text.strip():
            raise DataError(f"{table}, line {number}: nothing is said about {name}")
        if name not in said and not (path / name).is_file():
            raise DataError(f"{table}, line {number}: there is no file {path / name}")
        said.setdefault(name, []).append(text.strip())
    if not said:
        raise DataError(f"{table} is empty")
    pixels, kept = read_all([path / name for name in said], size, 3, path)
    texts = list(said.values())
    return _split(path.resolve().name, pixels, [texts[i] for i in kept], albums.by_pixels(pixels))


def flowers102(data_dir: Path | None, size: int) -> tuple[Pictures, Texts]:
    """Oxford's 102 flowers (lib/data/oxford.py) with ten sentences each, split by species as Reed et al. 2016 do: all
    pictures of twenty of them are held out for the test, and some of the others for validation. Raises DataError."""
    if data_dir is None or not data_dir.is_dir():
        raise DataError(f"--data flowers102 needs --data-dir, a folder with {SENTENCES}")
    there = files.visible(data_dir)
    found = {file.stem: file for file in there if file.match("class_*/image_*.txt")}
    listed = next((file for file in there if file.name == "testclasses.txt"), None)
    if not found or listed is None:
        raise DataError(f"{data_dir} lacks {SENTENCES}")
    held = set(files.decoded(files.content(listed), str(listed)).split())
    pictures = oxford.photographs(data_dir)
    names = sorted(found.keys() & pictures.keys())
    if not names:
        raise DataError(f"{data_dir}: no picture has a sentence")
    pixels, kept = read_all([pictures[name] for name in names], size, 3, data_dir)
    names = [names[i] for i in kept]
    texts = []
    for name in names:
        text = files.decoded(files.content(found[name]), str(found[name]))
        texts.append([line.strip() for line in files.lines(text) if line.strip()])
        if not texts[-1]:
            raise DataError(f"{found[name]} is empty")
    test = torch.tensor([found[name].parent.name in held for name in names])
    sides = torch.where(test, 2, (albums.by_pixels(pixels) > 0).long())
    return _split("flowers102", pixels, texts, sides)


def _split(name: str, pixels: Tensor, texts: list[list[str]], sides: Int[Tensor, "n"]) -> tuple[Pictures, Texts]:
    """In no order, so that the first of a split are of all sorts, and neighbours are not alike."""
    order = [files.place(x.numpy().tobytes(), "order") for x in pixels]
    mixed = sorted(range(len(order)), key=order.__getitem__)
    pictures = albums.split(name, Album(pixels[mixed], {}, {}, sides[mixed]))
    if min(len(pictures.val.pixels), len(pictures.test.pixels)) < 2:
        raise DataError(f"{name}: of {len(mixed)} pictures fewer than two are held out for validation or test")
    return pictures, {
        split: [texts[i] for i in mixed if sides[i] == number] for number, split in enumerate(albums.PREFIX)
    }
