"""Pictures with attributes, and the original sets of faces, read from a folder that holds them: CelebA, Kaggle's
glasses, anime, one's own."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped, UInt8
from torch import Tensor

from lib.data import images, texts
from lib.data.drawing import Drawn
from lib.data.files import place, subfolders, visible
from lib.data.pixels import read_all
from lib.faults import DataError

PREFIX = {"train": "train-", "val": "val-", "test": "held-"}  # of the seeds of drawn pictures, by split
GLASSES = ["no glasses", "glasses"]
KNOWN: dict[str, dict[str, list[str]]] = {  # the attributes of each set, and the names of their values
    "celeba": {"glasses": GLASSES, "hair": ["black", "blond", "other"], "male": ["female", "male"]},
    "glasses": {"glasses": GLASSES},
    "anime": {},
}
NEEDED = {
    "celeba": "img_align_celeba.zip (unpacked), list_attr_celeba.txt and list_eval_partition.txt of"
    " https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    "glasses": "train.csv and the pictures face-<id>.png of https://www.kaggle.com/c/glasses-or-no-glasses",
    "anime": "the pictures of https://www.kaggle.com/datasets/splcher/animefacedataset",
}

Names = dict[str, list[str]]
Attributes = dict[str, Shaped[Tensor, "n"]]


class Album(NamedTuple):
    """`attributes`: bool where a face has something or has not, int64 for one of several classes; `names`: of their
    values, in their order; `sides`: 0 for training, 1 for validation, 2 for test."""

    pixels: UInt8[Tensor, "n 3 h w"]
    attributes: Attributes
    names: Names
    sides: Int[Tensor, "n"]


class Part(NamedTuple):
    """`attributes`: bool where a picture has something or has not, int64 for one of several classes."""

    pixels: UInt8[Tensor, "n 3 h w"]
    attributes: Attributes


class Pictures(NamedTuple):
    """`names`: of each attribute's values, in their order."""

    name: str
    train: Part
    val: Part
    test: Part
    names: Names


def split(name: str, album: Album) -> Pictures:
    """Raises DataError where nothing is left for one of the three."""
    pixels, attributes, names, sides = album
    if missing := {0, 1, 2} - set(sides.tolist()):
        part = ("training", "validation", "test")[min(missing)]
        raise DataError(f"{name}: of {len(pixels)} pictures none is left for {part}")
    train, val, test = (kept(Part(pixels, attributes), sides == k) for k in range(3))
    return Pictures(name, train, val, test, names)


def kept(part: Part, which: Bool[Tensor, "n"]) -> Part:
    return Part(part.pixels[which], {name: x[which] for name, x in part.attributes.items()})


def labelled(found: Drawn, names: Names) -> Part:
    """Drawn pictures with the attributes of `names`."""
    attributes = {name: torch.from_numpy(found.labels[name]) for name in names}
    attributes = {name: x.bool() if len(names[name]) == 2 else x for name, x in attributes.items()}
    return Part(torch.from_numpy(found.pixels), attributes)


def split_sizes(n: int) -> dict[str, int]:
    """Of `n` drawn pictures to train on: a tenth as many each for validation and test."""
    return {"train": max(1, n), "val": max(2, n // 10), "test": max(2, n // 10)}


def seeds_of(split: str, seeds: int | Sequence[str]) -> list[str]:
    """The seeds of a split: these, or the first so many. Raises ValueError for none and for those of another."""
    prefix = PREFIX[split]
    found = [f"{prefix}{i}" for i in range(seeds)] if isinstance(seeds, int) else list(seeds)
    if not found:
        raise ValueError("nothing to draw")
    if strange := [seed for seed in found if not seed.startswith(prefix)]:
        raise ValueError(f"{strange[0]} is not drawn for {split}, whose seeds begin with {prefix}")
    return found


def celeba(data_dir: Path, size: int, hair: Sequence[str] = ("black", "blond", "other")) -> Album:
    """CelebA's aligned faces (202,599 of 178 x 218 pixels; their middle square) with the attributes glasses, hair and
    male. Hair is "other" where neither Black_Hair nor Blond_Hair is given, or both. Liu et al. 2015,
    https://arxiv.org/abs/1411.7766; for research. Reads Kaggle's .csv files too. Raises DataError."""
    files = visible(data_dir)
    source = _find(files, data_dir, "celeba", "list_attr_celeba.txt", "list_attr_celeba.csv")
    table = _table(source, ["Eyeglasses", "Black_Hair", "Blond_Hair", "Male"], {-1, 1})
    folders = sorted({p.parent for p in files if p.parent.name == "img_align_celeba" and p.suffix == ".jpg"})
    if not folders:
        raise DataError(f"{data_dir}: no folder img_align_celeba with pictures. Needed: {NEEDED['celeba']}")
    colours = {name: "other" if a == b else "black" if a > b else "blond" for name, (_, a, b, _) in table.items()}
    chosen = [name for name in table if colours[name] in hair]
    partition = _first(files, "list_eval_partition.txt", "list_eval_partition.csv")
    given = {name: [_by_name(name)] for name in chosen}
    if partition is not None:
        given = _table(partition, ["partition"], {0, 1, 2})
        if strange := [name for name in chosen if name not in given]:
            raise DataError(f"{partition} does not say where {strange[0]} belongs ({len(strange)} such pictures)")
    pixels, kept = read_all([folders[-1] / name for name in chosen], size, 3, folders[-1])
    names = [chosen[i] for i in kept]
    attributes = {
        "glasses": torch.tensor([table[name][0] > 0 for name in names]),
        "hair": torch.tensor([hair.index(colours[name]) for name in names]),
        "male": torch.tensor([table[name][3] > 0 for name in names]),
    }
    sides = torch.tensor([given[name][0] for name in names])
    return Album(pixels, attributes, {**KNOWN["celeba"], "hair": list(hair)}, sides)


def kaggle(data_dir: Path, size: int) -> Album:
    """The labelled faces of Kaggle's "glasses or no glasses" (4,500, made by a GAN): train.csv, whose columns include
    id and glasses, and face-<id>.png. About a tenth of the labels are wrong. Raises DataError."""
    files = visible(data_dir)
    source = _find(files, data_dir, "glasses", "train.csv")
    table = _table(source, ["glasses"], {0, 1})
    folder = _find(files, data_dir, "glasses", "face-*.png").parent
    labels = [bool(label) for (label,) in table.values()]
    pixels, kept = read_all([folder / f"face-{name}.png" for name in table], size, 3, folder)
    attributes = {"glasses": torch.tensor([labels[i] for i in kept])}
    return Album(pixels, attributes, KNOWN["glasses"], by_pixels(pixels))


def folder(path: Path, size: int) -> Album:
    """A folder of one's own: its subfolders are the values of the attribute "class"; without any it is a flat one.
    Raises DataError."""
    if not subfolders(path):
        return flat(path, size)
    (pixels, labels), classes = images.folder(path, size, 3)
    return Album(pixels, {"class": labels}, {"class": classes}, by_pixels(pixels))


def flat(path: Path, size: int) -> Album:
    """All pictures of a folder and its subfolders, of which nothing else is known: anime faces (63,632 in Kaggle's
    animefacedataset). Raises DataError."""
    pixels, _ = read_all(visible(path), size, 3, path)
    return Album(pixels, {}, {}, by_pixels(pixels))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, fields) of each row of a .csv file, or of CelebA's text files. Raises DataError."""
    text = texts.read(path)
    if path.suffix.lower() != ".csv":
        lines = re.split("\r\n|\r|\n", text)
        yield from ((i, re.split(r"\s*,\s*|\s+", line.strip())) for i, line in enumerate(lines, 1) if line.strip())
        return
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        yield from (
            (reader.line_num, [x.strip() for x in row]) for row in reader if len(row) > 1 or "".join(row).strip()
        )
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _table(path: Path, wanted: Sequence[str], allowed: set[int]) -> dict[str, list[int]]:
    """{a row's first field: its fields in the `wanted` columns}, of a .csv file or of CelebA's text files: a header of
    the attributes after the number of rows, or none where there is one column. Raises DataError naming the line."""
    lines = _rows(path)
    columns = _header(lines, path, wanted)
    if missing := [name for name in wanted if name not in columns]:
        raise DataError(f"{path} has no attribute {', '.join(missing)}: it has {', '.join(columns[:40]) or 'none'}")
    places, table = [1 + columns.index(name) for name in wanted], dict[str, list[int]]()
    for number, row in lines:
        if len(row) != 1 + len(columns):
            raise DataError(f"{path}, line {number}: {len(row)} fields, expected {1 + len(columns)}")
        if not row[0]:
            raise DataError(f"{path}, line {number}: no name of a picture")
        try:
            values = [float(row[i]) for i in places]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        if not allowed.issuperset(values):
            raise DataError(f"{path}, line {number}: {values}, expected {' or '.join(map(str, sorted(allowed)))}")
        if table.setdefault(row[0], [int(x) for x in values]) != values:
            raise DataError(f"{path}, line {number}: {row[0]} a second time, with other values")
    if not table:
        raise DataError(f"{path}: no rows")
    return table


def _header(lines: Iterator[tuple[int, list[str]]], path: Path, wanted: Sequence[str]) -> list[str]:
    if path.suffix.lower() == ".csv":
        return next(lines, (0, []))[1][1:]
    if len(wanted) == 1:
        return list(wanted)
    next(lines, None)
    return next(lines, (0, []))[1]


def _first(files: Sequence[Path], *patterns: str) -> Path | None:
    return next((file for pattern in patterns for file in files if fnmatch(file.name, pattern)), None)


def _find(files: Sequence[Path], data_dir: Path, data: str, *patterns: str) -> Path:
    if found := _first(files, *patterns):
        return found
    raise DataError(f"{data_dir} has no {patterns[0]}. Needed: {NEEDED[data]}")


def by_pixels(pixels: UInt8[Tensor, "n 3 h w"]) -> Int[Tensor, "n"]:
    """0 for training, 1 for validation, 2 for test: the same picture is never on two sides."""
    val, test = images.held_out(pixels, "val"), images.held_out(pixels, "test")
    return torch.where(val, 1, torch.where(test, 2, 0))


def _by_name(name: str) -> int:
    at = place(name.encode())
    return 1 if at < images.HELD_OUT else 2 if at < 2 * images.HELD_OUT else 0
