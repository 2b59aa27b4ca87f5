"""lib/data/oxford.py on made pictures in the files' own form."""

import dataclasses
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from lib.data import flowers, oxford
from lib.data.sources import sha256
from lib.faults import DataError


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder as torchvision leaves it: 40 pictures of three species, one of them unreadable."""
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    folder, rng = tmp_path / "flowers-102", np.random.default_rng(0)
    (folder / "jpg").mkdir(parents=True)
    for i in range(40):
        pixels = rng.integers(0, 256, (30, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "jpg" / f"image_{i + 1:05d}.jpg")
    (folder / "jpg" / "image_00005.jpg").write_bytes(b"no picture")
    savemat(folder / "imagelabels.mat", {"labels": np.arange(40)[None] % 3 + 1})
    own(monkeypatch, "SPECIES", folder / "imagelabels.mat")
    return folder


def own(monkeypatch, name, path):
    """The file that the source asks for is this one."""
    source = getattr(oxford, name)
    monkeypatch.setattr(
        oxford, name, dataclasses.replace(source, size=path.stat().st_size, sha256=sha256(path), url="http://0.0.0.0/")
    )


def test_unpacked_flowers_are_read_and_merged(made, capsys):
    found = flowers.load("flowers102", made.parent, 16)
    parts = found.train, found.val, found.test
    assert sum(len(part.pixels) for part in parts) == 39 and found.names == {"class": ["1", "2", "3"]}
    assert all(part.pixels.shape[1:] == (3, 16, 16) for part in parts) and "1 unreadable" in capsys.readouterr().err
    album = oxford.flowers102(made.parent, 16)
    assert album.attributes["class"].tolist() == [i % 3 for i in range(40) if i != 4]


def test_packed_flowers_are_unpacked_once(made, monkeypatch):
    with tarfile.open(made / "102flowers.tgz", "w:gz") as file:
        file.add(made / "jpg", "jpg")
    own(monkeypatch, "PICTURES", made / "102flowers.tgz")
    unpacked = oxford.flowers102(made, 16)
    for file in (made / "jpg").iterdir():
        file.unlink()
    packed = oxford.flowers102(made, 16)
    (made / "102flowers.tgz").unlink()
    again = oxford.flowers102(made, 16)
    assert torch.equal(unpacked.pixels, packed.pixels) and torch.equal(packed.pixels, again.pixels)


def test_without_its_files(made, monkeypatch):
    (made / "imagelabels.mat").unlink()
    with pytest.raises(DataError, match=r"cannot download imagelabels\.mat[^$]*by hand"):
        oxford.flowers102(made, 16)
    savemat(made / "imagelabels.mat", {"other": np.zeros(3)})
    own(monkeypatch, "SPECIES", made / "imagelabels.mat")
    with pytest.raises(DataError, match="does not hold the species"):
        oxford.flowers102(made, 16)
    with pytest.raises(DataError, match=r"flowers17 needs --data-dir, a folder with flowers17_subset_64\.npz"):
        flowers.load("flowers17")
    (made / oxford.SUBSET).write_bytes(b"nothing")
    with pytest.raises(DataError, match="does not hold pictures"):
        flowers.load("flowers17", made)


@pytest.mark.parametrize("size", [64, 32])
def test_the_subset_of_17(tmp_path, size):
    rng = np.random.default_rng(0)
    both = {
        "train": rng.integers(0, 256, (30, 64, 64, 3), np.uint8),
        "test": rng.integers(0, 256, (10, 64, 64, 3), np.uint8),
    }
    labels = {f"{part}_labels": np.arange(len(x)) % 2 for part, x in both.items()}
    np.savez(tmp_path / oxford.SUBSET, **both, **labels, names=np.array(["daisy", "iris"]))
    album = oxford.flowers17(tmp_path, size)
    assert album.pixels.shape == (40, 3, size, size) and album.names == {"class": ["daisy", "iris"]}
    assert album.attributes["class"].tolist() == [*[0, 1] * 15, *[0, 1] * 5]
    if size == 64:
        assert (album.pixels[31].permute(1, 2, 0).numpy() == both["test"][1]).all()
