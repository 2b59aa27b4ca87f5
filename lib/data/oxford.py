"""Photographs of flowers by species: Oxford's 102 (8,189 pictures), and 960 of 12 of its 17, 64 pixels a side.

Nilsback & Zisserman 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers/; for research. The official split of the 102
has six test pictures to one for training: all are merged, and split by the hash of their pixels.
"""

import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from filelock import FileLock
from PIL import Image
from scipy.io import loadmat

from lib.cache import cache_dir
from lib.data.albums import Album, by_pixels
from lib.data.files import visible
from lib.data.pixels import read_all
from lib.data.sources import Source, fetch
from lib.faults import DataError

HOST = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
PICTURES = Source(
    file="102flowers.tgz",
    licence="for research",
    url=f"{HOST}/102flowers.tgz",
    size=344862509,
    sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
)
SPECIES = Source(
    file="imagelabels.mat",
    licence="for research",
    url=f"{HOST}/imagelabels.mat",
    size=502,
    sha256="4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
)
SUBSET = "flowers17_subset_64.npz"


def flowers102(data_dir: Path | None, size: int) -> Album:
    """Each picture's middle square, and its species as the attribute "class", by its number. The files are those of
    torchvision's Flowers102, packed or unpacked, under `data_dir`, or are fetched (345 MB). Raises DataError."""
    path = fetch(SPECIES, data_dir)
    try:
        species = loadmat(path)["labels"].flatten().astype(np.int64) - 1
    except (KeyError, NotImplementedError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not hold the species of Oxford's flowers: {error}") from error
    folder = _unpacked(data_dir)
    pixels, kept = read_all([folder / f"image_{i + 1:05d}.jpg" for i in range(len(species))], size, 3, folder)
    names = [str(i + 1) for i in range(int(species.max()) + 1)]
    return Album(pixels, {"class": torch.from_numpy(species[kept])}, {"class": names}, by_pixels(pixels))


def photographs(data_dir: Path | None) -> dict[str, Path]:
    """The files of the 102 species' pictures by their names (image_00001 and so on), as `flowers102` finds them."""
    return {file.stem: file for file in sorted(_unpacked(data_dir).glob("image_*.jpg"))}


def _unpacked(data_dir: Path | None) -> Path:
    """The folder of the pictures: under `data_dir`, or in the cache, where they are unpacked."""
    files = visible(data_dir) if data_dir is not None and data_dir.is_dir() else []
    if found := next((file.parent for file in files if file.name == "image_00001.jpg"), None):
        return found
    kept = cache_dir() / "data" / "flowers102"
    if not kept.is_dir():
        packed = fetch(PICTURES, data_dir)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with (  # of a run's processes one unpacks
                FileLock(kept.with_suffix(".lock")),
                tempfile.TemporaryDirectory(dir=kept.parent) as folder,
                tarfile.open(packed) as archive,
            ):
                archive.extractall(folder, filter="data")
                if not kept.is_dir():
                    (Path(folder) / "jpg").rename(kept)
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"cannot unpack {packed}: {error}") from error
    return kept


def flowers17(data_dir: Path | None, size: int) -> Album:
    """The pictures of flowers17_subset_64.npz under `data_dir` and their species as the attribute "class"; 64 pixels
    scaled to `size`. Raises DataError."""
    found = sorted(data_dir.rglob(SUBSET)) if data_dir is not None else []
    if not found:
        where = "" if data_dir is None else f"; {data_dir} has none"
        raise DataError(f"--data flowers17 needs --data-dir, a folder with {SUBSET}{where}")
    try:
        with np.load(found[0]) as file:
            pixels, species = (np.concatenate([file[f"{part}{what}"] for part in ("train", "test")])
                               for what in ("", "_labels"))  # fmt: skip
            names = [str(name) for name in file["names"]]
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{found[0]} does not hold pictures of flowers: {error}") from error
    if pixels.shape[1] != size:
        pixels = np.stack([np.asarray(Image.fromarray(one).resize((size, size))) for one in pixels])
    x = torch.from_numpy(rearrange(pixels, "n h w c -> n c h w").copy())
    return Album(x, {"class": torch.from_numpy(species)}, {"class": names}, by_pixels(x))
