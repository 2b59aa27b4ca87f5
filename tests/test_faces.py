"""lib/data/faces.py: drawn faces with exact labels and pairs, kept in the cache; small folders laid out like the
original sets."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from dicebear import Avatar
from PIL import Image

from lib import random
from lib.data import albums, drawing, drawn, faces
from lib.data.drawn import HAIR, SKIN
from lib.faults import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and one core: starting processes takes longer than drawing a few faces."""
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(drawing, "_cores", lambda: 1)
    monkeypatch.setattr(drawing, "CHUNK", 4)
    return tmp_path / "cache" / "data" / "faces"


@pytest.fixture
def counted(monkeypatch):
    """Seeds of the faces drawn, not read from the cache; stops before face number `stop`, as Ctrl-C would."""
    seeds, stop, draw = [], [], drawn.face

    def face(seed, options):
        if len(seeds) in stop:
            raise KeyboardInterrupt
        seeds.append(seed)
        return draw(seed, options)

    monkeypatch.setattr(drawn, "face", face)
    return seeds, stop


def rgb(code):
    return torch.tensor(list(bytes.fromhex(code[1:])), dtype=torch.uint8)[:, None, None]


def count(pixels, code):
    """How many pixels of one picture have this very colour."""
    return (pixels == rgb(code)).all(0).sum().item()


# ---- drawn: labels ----


def test_faces_and_their_labels():
    part = faces.draw("train", 12, 64)
    assert part.pixels.shape == (12, 3, 64, 64) and part.pixels.dtype == torch.uint8
    assert (part.pixels[:, :, -1, 0] == 255).all() and part.attributes.keys() == faces.DRAWN.keys()
    for name, values in part.attributes.items():
        assert values.shape == (12,) and values.min() >= 0 and values.max() < len(faces.DRAWN[name])
        assert values.dtype == (torch.int64 if name in ("hair", "skin") else torch.bool)
    hair = faces.mask("hair", "train", 12)
    for i, pixels in enumerate(part.pixels):
        filled = [count(pixels * hair[i], code) for code in HAIR.values()]
        assert filled.index(max(filled)) == part.attributes["hair"][i] and max(filled) > 20
        shown = [count(pixels * ~hair[i], code) for code in SKIN.values()]
        assert shown.index(max(shown)) == part.attributes["skin"][i] and max(shown) > 100


def test_labels_say_what_is_in_the_drawing():
    options = drawn.options(16, list(HAIR.values()), 0.5)
    seeds = [f"train-{i}" for i in range(150)]
    svgs = [Avatar(drawn._style(), {**options, "seed": seed}).to_string() for seed in seeds]
    labels = faces.draw("train", seeds, 16).attributes
    signs = {"glasses": 'id="glasses-', "long": 'id="hair-long', "earrings": 'id="earrings-', "mustache": "-mustache-"}
    for name, sign in signs.items():
        assert labels[name].tolist() == [sign in svg for svg in svgs] and 0 < labels[name].sum() < 150


def test_every_hair_style_has_a_colour():
    options = drawn.options(32, ["#000000"], 0.0)
    for name in drawn._style().components()["hair"].variants():
        dark = drawn.face("val-0", {**options, "hairVariant": [name]})[0]
        light = drawn.face("val-0", {**options, "hairVariant": [name], "hairColor": ["#ffffff"]})[0]
        assert (dark != light).any(0).sum() > 15, name


def test_the_seed_chooses():
    """A face of which hair and glasses are left to the seed is the one drawn with that choice."""
    some = faces.draw("val", 10, 16, hair=("blond", "black"))
    forced = {
        (colour, glasses): faces.draw("val", 10, 16, colour, glasses)
        for colour in ("blond", "black")
        for glasses in (True, False)
    }
    chosen = [
        (("blond", "black")[hair], glasses)
        for hair, glasses in zip(some.attributes["hair"].tolist(), some.attributes["glasses"].tolist(), strict=True)
    ]
    assert set(chosen) == set(forced)
    for i, choice in enumerate(chosen):
        assert torch.equal(some.pixels[i], forced[choice].pixels[i])
        assert all(not torch.equal(some.pixels[i], forced[other].pixels[i]) for other in forced if other != choice)


# ---- drawn: pairs ----


@pytest.mark.parametrize("glasses", [None, True])
def test_pairs_of_two_hair_colours(glasses):
    blond, black = (faces.draw("test", 16, 32, colour, glasses) for colour in ("blond", "black"))
    hair = faces.mask("hair", "test", 16, 32, glasses=glasses)
    assert hair.shape == (16, 1, 32, 32) and hair.dtype == torch.bool
    differs = (blond.pixels != black.pixels).any(1, keepdim=True)
    assert not (differs & ~hair).any() and (differs & hair).sum() > 0.95 * hair.sum()
    assert all(15 < x.sum() < 700 for x in hair)
    for name in ("glasses", "skin", "long", "earrings", "mustache"):
        assert torch.equal(blond.attributes[name], black.attributes[name])
    assert not blond.attributes["hair"].any() and not black.attributes["hair"].any()  # the only one asked for


def test_pairs_with_and_without_glasses():
    with_, without = (faces.draw("test", 16, 32, glasses=glasses) for glasses in (True, False))
    assert with_.attributes["glasses"].all() and not without.attributes["glasses"].any()
    found = faces.mask("glasses", "test", 16, 32)
    assert torch.equal(found, (with_.pixels != without.pixels).any(1, keepdim=True))
    assert all(5 < x.sum() < 200 for x in found)
    assert all(torch.equal(with_.attributes[k], without.attributes[k]) for k in with_.attributes if k != "glasses")


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="a mask of skin: only of hair or glasses"):
        faces.mask("skin", "test", 1)
    with pytest.raises(ValueError, match="no hair is blonde: the colours are black, blond, "):
        faces.draw("test", 1, hair="blonde")
    with pytest.raises(ValueError, match="nothing to draw"):
        faces.draw("test", [])


@pytest.mark.parametrize("split, seed", [("train", "held-3"), ("val", "held-3"), ("test", "train-3"), ("train", "3")])
def test_no_face_is_drawn_for_another_split(cache, counted, split, seed):
    own = albums.PREFIX[split]
    for attempt in (faces.draw, lambda *words: faces.mask("hair", *words)):
        with pytest.raises(ValueError, match=f"{seed} is not drawn for {split}, whose seeds begin with {own}"):
            attempt(split, [f"{own}0", seed])
    assert not counted[0] and not cache.exists()


# ---- drawn: the cache ----


def test_an_interrupted_drawing_goes_on_where_it_stopped(cache, counted):
    seeds, stop = counted
    stop.append(10)
    with pytest.raises(KeyboardInterrupt):
        faces.draw("train", 14, 16)
    assert len(list(cache.glob("*.npz"))) == 2
    stop.clear()
    seeds.clear()
    part = faces.draw("train", 14, 16)
    assert seeds == [f"train-{i}" for i in range(8, 14)]
    again = faces.draw("train", 14, 16)
    assert len(seeds) == 6 and torch.equal(part.pixels, again.pixels)
    assert all(torch.equal(x, again.attributes[name]) for name, x in part.attributes.items())
    faces.draw("train", 20, 16)  # more of them: the chunk that was not full, and new ones
    assert seeds[6:] == [f"train-{i}" for i in range(12, 20)]
    assert torch.equal(faces.draw("train", ["train-9"], 16).pixels[0], part.pixels[9])


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_chunk_is_drawn_again(cache, counted, damage):
    before = faces.draw("train", 12, 16)
    counted[0].clear()
    path = sorted(cache.glob("*.npz"))[1]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes({"cut": raw[:-9], "changed": raw, "empty": b""}[damage])
    after = faces.draw("train", 12, 16)
    assert len(counted[0]) == 4 and torch.equal(before.pixels, after.pixels)
    assert not list(cache.glob("*.part"))


def test_all_that_the_pictures_depend_on_is_in_the_key(monkeypatch, counted):
    faces.draw("train", 4, 16)
    for options in ({"size": 17}, {"hair": "black"}, {"glasses": True}, {"split": "val"}):
        faces.draw(**{"split": "train", "seeds": 4, "size": 16, **options})
    assert len(counted[0]) == 20
    for package in drawn.PACKAGES:
        monkeypatch.setattr(drawing.metadata, "version", lambda name, other=package: "0" if name == other else "1")
        faces.draw("train", 4, 16)
    assert len(counted[0]) == 32
    monkeypatch.setattr(drawing.inspect, "getfile", lambda one: drawing.__file__)  # another module draws
    faces.draw("train", 4, 16)
    assert len(counted[0]) == 36
    monkeypatch.setattr(drawing, "__file__", __file__)  # and another one keeps the pictures
    faces.draw("train", 4, 16)
    assert len(counted[0]) == 40


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot keep drawn faces in .*file"):
        faces.draw("train", 1, 16)


def test_several_processes_draw_the_same(monkeypatch, tmp_path, capfd):
    one = faces.draw("train", 12, 16)
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(drawing, "_cores", lambda: 2)
    pools, pool = [], drawing.ProcessPoolExecutor
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", lambda *args: pools.append(args) or pool(*args))
    two = faces.draw("train", 12, 16)
    assert torch.equal(one.pixels, two.pixels) and capfd.readouterr().out == "" and len(pools) == 1


class Killed:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_killed_process_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "_cores", lambda: 2)
    kind = drawing.Kind("faces", drawn.face, drawn.PACKAGES)
    with pytest.raises(DataError, match=r"a process that drew faces was killed. Run again"):
        drawing._draw_all(kind, [(tmp_path / f"{i}.npz", ["train-0"], Killed()) for i in range(2)])


def test_processes_that_draw_do_without_torch():
    code = "import sys, lib.data.drawn, lib.data.petals; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- load ----


def test_the_default():
    found = faces.load("default", size=16, n=30)
    assert found.name == "adventurer" and found.names["hair"] == list(HAIR)
    assert [len(part.pixels) for part in found[1:4]] == [30, 3, 3]
    assert torch.equal(found.test.pixels, faces.draw("test", ["held-0", "held-1", "held-2"], 16).pixels)
    assert torch.equal(found.val.pixels, faces.draw("val", 3, 16).pixels)
    assert all(values.keys() == found.names.keys() for values in (part.attributes for part in found[1:4]))


def test_doubles_of_held_out_faces_are_left_out(monkeypatch):
    """Of 30 for training the three for validation and test, whatever their hair and glasses; of the validation's, the
    test's."""
    monkeypatch.setattr(albums, "PREFIX", dict.fromkeys(albums.PREFIX, "held-"))
    found = faces.load("default", size=16, n=30)
    assert [len(part.pixels) for part in found[1:4]] == [27, 0, 3]
    assert torch.equal(found.train.pixels, faces.draw("test", 30, 16).pixels[3:])
    assert all(len(values) == 27 for values in found.train.attributes.values())
    seeds = [f"held-{i}" for i in range(9)]
    who = [
        drawn.draw(seeds, drawn.options(16, [code], x)).labels["who"] for code, x in (("#000000", 0), ("#ffffff", 1))
    ]
    assert who[0].tolist() == who[1].tolist() and len(set(who[0].tolist())) == 9


def test_hair_of_two_colours():
    found = faces.load("default", size=16, n=20, hair=["blond", "black"], needs=["glasses", "long"])
    assert found.names["hair"] == ["blond", "black"] and set(found.train.attributes["hair"].tolist()) == {0, 1}
    black = found.train.attributes["hair"] == 1
    bare = black & ~found.train.attributes["glasses"]
    assert bare.any() and not bare.all()
    assert torch.equal(found.train.pixels[bare], faces.draw("train", 20, 16, "black", False).pixels[bare])


@pytest.mark.parametrize(
    "words, told",
    [
        ({"needs": ["male"]}, "--data default has no attribute male: it has glasses, hair, skin, long, "),
        ({"hair": ["black", "other"]}, "--data default has no other hair: it has black, blond, "),
        ({"size": 4}, "faces of 4 pixels are too small: at least 8"),
        ({"data": "celeba", "needs": ["skin"]}, "--data celeba has no attribute skin: it has glasses, hair, male"),
        ({"data": "celeba", "hair": ["red"], "data_dir": True}, "no red hair: it has black, blond, other"),
        ({"data": "glasses", "hair": ["black"]}, "--data glasses has no attribute hair: it has glasses"),
        ({"data": "anime", "needs": ["glasses"]}, "--data anime has no attribute glasses: it has none"),
        ({"data": "celeba"}, "--data celeba needs --data-dir, a folder with img_align_celeba.zip"),
        ({"data": "anime"}, "--data anime needs --data-dir, a folder with .*animefacedataset"),
        ({"data": "celeb"}, "--data celeb: neither default, celeba, glasses, anime nor a folder"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    words = {"data": "default", **words}
    if words.get("data_dir"):
        words["data_dir"] = tmp_path
    with pytest.raises(DataError, match=told):
        faces.load(**words)


# ---- small sets laid out like the original ones ----


def put(path, colour, size=(12, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, quality=95)


def grey(i):
    return (4 * i, 4 * i, 4 * i)


def which(part):
    """The numbers of the pictures, from their grey; JPEG changes it a little."""
    return [round(x) for x in (part.pixels.float().mean((1, 2, 3)) / 4).tolist()]


COLUMNS = ["5_o_Clock_Shadow", "Black_Hair", "Blond_Hair", "Eyeglasses", "Male", "Young"]


def marks(i):
    """Black for i % 4 = 0, blond for 1, both for 2, neither for 3; glasses in the first half; every fifth male."""
    return [1, i % 4 in (0, 2), i % 4 in (1, 2), i < 30, i % 5 == 0, 1]


@pytest.fixture
def celeb(tmp_path):
    """60 pictures as CelebA's files lie once unpacked: the first 40 for training, then ten and ten."""
    folder = tmp_path / "CelebA"
    (folder / "Anno").mkdir(parents=True)
    names = [f"{i:06}.jpg" for i in range(60)]
    for i, name in enumerate(names):
        put(folder / "Img" / "img_align_celeba" / name, grey(i))
        put(folder / "Img" / "img_celeba" / name, (255, 0, 0))  # in the wild, under the same names
    rows = [f"{name}  " + " ".join(f"{2 * bool(x) - 1:2}" for x in marks(i)) for i, name in enumerate(names)]
    (folder / "Anno" / "list_attr_celeba.txt").write_text("\n".join(["60", " ".join(COLUMNS), *rows]) + "\n")
    sides = [f"{name} {(i >= 40) + (i >= 50)}" for i, name in enumerate(names)]
    (folder / "Anno" / "list_eval_partition.txt").write_text("\n".join(sides) + "\n")
    return folder


def test_celeba(celeb, capsys):
    found = faces.load("celeba", celeb, 12, needs=["glasses", "male"])
    assert found.name == "celeba" and found.names["hair"] == ["black", "blond", "other"]
    assert [which(part) for part in found[1:4]] == [[*range(40)], [*range(40, 50)], [*range(50, 60)]]
    assert found.train.pixels.shape == (40, 3, 12, 12) and found.train.pixels.dtype == torch.uint8
    for part in found[1:4]:
        assert part.attributes["glasses"].tolist() == [i < 30 for i in which(part)]
        assert part.attributes["male"].tolist() == [i % 5 == 0 for i in which(part)]
        assert part.attributes["hair"].tolist() == [(0, 1, 2, 2)[i % 4] for i in which(part)]
    assert capsys.readouterr().err == ""


def test_celeba_of_two_hair_colours(celeb):
    found = faces.load("celeba", celeb, 12, hair=["blond", "black"])
    assert which(found.val) == [40, 41, 44, 45, 48, 49] and found.names["hair"] == ["blond", "black"]
    assert found.val.attributes["hair"].tolist() == [1, 0, 1, 0, 1, 0]


def test_celeba_as_kaggle_has_it(celeb, tmp_path):
    before = faces.load("celeba", celeb, 12)
    folder = tmp_path / "kaggle"
    (celeb / "Img").rename(folder)
    (folder / "img_align_celeba").rename(folder / "deep")
    (folder / "img_align_celeba").mkdir()
    (folder / "deep").rename(folder / "img_align_celeba" / "img_align_celeba")
    rows = (celeb / "Anno" / "list_attr_celeba.txt").read_text().splitlines()[1:]
    text = "\r\n".join(",".join(["image_id"] * (i == 0) + row.split()) for i, row in enumerate(rows))
    (folder / "list_attr_celeba.csv").write_text(text)
    sides = (celeb / "Anno" / "list_eval_partition.txt").read_text().replace(" ", ",")
    (folder / "list_eval_partition.csv").write_text("image_id,partition\n" + sides)
    after = faces.load("celeba", folder, 12)
    assert all(torch.equal(x.pixels, y.pixels) for x, y in zip(before[1:4], after[1:4], strict=True))
    assert torch.equal(before.train.attributes["hair"], after.train.attributes["hair"])


def test_celeba_without_its_split(celeb):
    """By name: a picture stays where it is when others come or go."""
    (celeb / "Anno" / "list_eval_partition.txt").unlink()
    before = [which(part) for part in faces.load("celeba", celeb, 12)[1:4]]
    assert sorted(itertools.chain(*before)) == [*range(60)] and all(1 <= len(x) < 20 for x in before[1:])
    after = [which(part) for part in faces.load("celeba", celeb, 12, hair=["other"])[1:4]]
    assert after == [[i for i in part if i % 4 > 1] for part in before]


def test_bad_pictures_of_celeba(celeb, capsys):
    folder = celeb / "Img" / "img_align_celeba"
    (folder / "000003.jpg").unlink()
    (folder / "000004.jpg").write_bytes(b"no picture")
    (folder / "000005.jpg").write_bytes((folder / "000006.jpg").read_bytes()[:300])
    put(folder / "000007.jpg", grey(7), (5, 30))
    put(folder / "000008.jpg", grey(8), mode="L")
    put(folder / "000009.png", grey(9), mode="RGBA")
    (folder / "000009.png").rename(folder / "000009.jpg")
    found = faces.load("celeba", celeb, 12)
    assert which(found.train) == [0, 1, 2, 6, *range(9, 40)]
    assert found.train.attributes["glasses"].tolist() == [i < 30 for i in which(found.train)]
    told = capsys.readouterr().err
    left_out = "1 missing, 2 unreadable, 1 smaller than 8 pixels, 1 grey"
    assert told == f"{folder}: 55 pictures; left out: {left_out}\n"
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"img_align_celeba has no pictures \(left out: 59 unreadable, 1 missing\)"):
        faces.load("celeba", celeb, 12)


@pytest.mark.parametrize(
    "file, change, told",
    [
        ("list_attr_celeba.txt", ("Eyeglasses", "Specs"), "no attribute Eyeglasses: it has 5_o_Clock_Shadow, Black_Ha"),
        (
            "list_attr_celeba.txt",
            ("000002.jpg   1  1", "000002.jpg 1"),
            "list_attr_celeba.txt, line 5: 6 fields, expected 7",
        ),
        ("list_attr_celeba.txt", ("000002.jpg   1  1", "000002.jpg 1 x"), r"list_attr_celeba.txt, line 5: .*'x'"),
        ("list_attr_celeba.txt", ("000002.jpg   1  1", "000002.jpg 1 7"), r"line 5: .*7.*, expected -1 or 1"),
        ("list_attr_celeba.txt", None, "no attribute Eyeglasses, Black_Hair, Blond_Hair, Male: it has none"),
        ("list_eval_partition.txt", ("000002.jpg 0", "000002.jpg 3"), r"line 3: .*3.*, expected 0 or 1 or 2"),
        ("list_eval_partition.txt", ("000002.jpg 0\n", ""), "does not say where 000002.jpg belongs .1 such"),
        ("list_eval_partition.txt", None, "list_eval_partition.txt: no rows"),
    ],
)
def test_bad_label_files(celeb, file, change, told):
    path = celeb / "Anno" / file
    text = path.read_text()
    assert change is None or change[0] in text
    path.write_text(text.replace(*change) if change else "")
    with pytest.raises(DataError, match=told):
        faces.load("celeba", celeb, 12)


def test_housekeeping_is_not_celeba(celeb):
    """An archive that a Mac packed has folders of the same names, after others in their order."""
    before = faces.load("celeba", celeb, 12)
    put(celeb / "__MACOSX" / "img_align_celeba" / "._000001.jpg", grey(1))
    (celeb / "Anno" / ".old").mkdir()
    (celeb / "Anno" / ".old" / "list_attr_celeba.txt").write_text("spoilt")
    after = faces.load("celeba", celeb, 12)
    assert all(torch.equal(x.pixels, y.pixels) for x, y in zip(before[1:4], after[1:4], strict=True))


def test_an_incomplete_celeba(celeb, tmp_path):
    (celeb / "Img" / "img_align_celeba").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"no folder img_align_celeba with pictures. Needed: img_align_celeba.zip"):
        faces.load("celeba", celeb)
    (celeb / "Anno" / "list_attr_celeba.txt").unlink()
    with pytest.raises(DataError, match=r"has no list_attr_celeba.txt. Needed: img_align_celeba.zip"):
        faces.load("celeba", celeb)
    with pytest.raises(DataError, match="is not a folder"):
        faces.load("celeba", celeb / "nowhere")


@pytest.fixture
def kaggle(tmp_path):
    """60 pictures, of which the first 50 have labels; picture 7 is missing."""
    folder = tmp_path / "kaggle"
    for i in (i for i in range(1, 61) if i != 7):
        put(folder / "faces-spring-2020" / "faces-spring-2020" / f"face-{i}.png", grey(i))
    rows = [f"{i},0.17,-1.5,{i % 2}{'.0' * (i > 20)}" for i in range(1, 51)]
    (folder / "train.csv").write_text("\n".join(["id,v1,v2,glasses", *rows]))
    (folder / "test.csv").write_text("id,v1,v2\n51,0,0\n")
    return folder


def test_glasses(kaggle, capsys):
    found = faces.load("glasses", kaggle, 12)
    assert found.names == {"glasses": ["no glasses", "glasses"]}
    numbers = [which(part) for part in found[1:4]]
    assert sorted(itertools.chain(*numbers)) == [i for i in range(1, 51) if i != 7] and all(numbers)
    for part in found[1:4]:
        assert part.attributes["glasses"].dtype == torch.bool
        assert part.attributes["glasses"].tolist() == [i % 2 == 1 for i in which(part)]
    assert "49 pictures; left out: 1 missing\n" in capsys.readouterr().err


def test_glasses_without_labels_or_pictures(kaggle):
    (kaggle / "train.csv").write_text("id,v1\n1,0.5\n")
    with pytest.raises(DataError, match=r"train.csv has no attribute glasses: it has v1$"):
        faces.load("glasses", kaggle)
    (kaggle / "train.csv").unlink()
    with pytest.raises(DataError, match=r"has no train.csv. Needed: train.csv and the pictures"):
        faces.load("glasses", kaggle)


def test_housekeeping_is_not_kaggle(kaggle):
    """A network disk keeps a folder for each picture, of its name."""
    (kaggle / "@eaDir" / "face-1.png").mkdir(parents=True)
    put(kaggle / "@eaDir" / "face-2.png" / "small.png", grey(2))
    assert sorted(itertools.chain(*map(which, faces.load("glasses", kaggle, 12)[1:4])))[:3] == [1, 2, 3]


@pytest.mark.parametrize(
    "written",
    [
        'id, note, glasses\r\n"face, one", "a, ""b""", 0\r\nface 2,,1.0\r\n \r\n"x\x85y",c\x1cd, 1\r\n',
        'id,note,glasses\r"face, one","two\nlines",0\rface 2,3 4,1\rx\x85y,"",1',
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "T.CSV"])
def test_a_table_of_commas(tmp_path, written, name):
    (tmp_path / name).write_bytes(written.encode())
    assert albums._table(tmp_path / name, ["glasses"], {0, 1}) == {"face, one": [0], "face 2": [1], "x\x85y": [1]}


@pytest.mark.parametrize(
    "rows, told",
    [
        ("a.jpg,0\n,1\n", "line 3: no name of a picture"),
        ("a.jpg,0\n b.jpg,\n", "line 3: could not convert string to float: ''"),
        ("a.jpg,0.5\n", r"line 2: \[0.5\], expected 0 or 1"),
        ("a.jpg,nan\n", r"line 2: \[nan\], expected 0 or 1"),
        ("a.jpg,0\nb.jpg,1\nb.jpg,1\na.jpg,1\n", "line 5: a.jpg a second time, with other values"),
        ('a.jpg,"0\n1"\nb.jpg\n', "line 3: could not convert string to float"),
        ('a.jpg,0\nb.jpg,"1\n', "line 3: unexpected end of data"),
    ],
)
def test_bad_tables_of_commas(tmp_path, rows, told):
    (tmp_path / "t.csv").write_text(f"id,glasses\n{rows}")
    with pytest.raises(DataError, match=rf"{tmp_path}/t.csv, {told}"):
        albums._table(tmp_path / "t.csv", ["glasses"], {0, 1})


def noise(seed, n):
    return random.randint(random.key(seed), (n, 12, 12, 3), 0, 256).numpy().astype(np.uint8)


def test_anime(tmp_path, capsys):
    """All pictures of the folder, whatever subfolder they are in; each on one side, whatever others there are."""
    for i, picture in enumerate(noise(0, 60)):
        path = tmp_path / "anime" / ("images" if i % 2 else "more") / f"{i}_2000.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (tmp_path / "anime" / "readme.txt").write_text("no picture")
    found = faces.load("anime", tmp_path / "anime", 12)
    sides = [{x.tobytes() for x in part.pixels.numpy()} for part in found[1:4]]
    assert sum(map(len, sides)) == 60 and all(sides) and found.train.attributes == {} == found.names
    assert set.union(*sides) == {x.transpose(2, 0, 1).tobytes() for x in noise(0, 60)}
    for path in sorted((tmp_path / "anime" / "more").iterdir())[::2]:
        path.unlink()
    fewer = [{x.tobytes() for x in part.pixels.numpy()} for part in faces.load("anime", tmp_path / "anime", 12)[1:4]]
    assert all(small <= large for small, large in zip(fewer, sides, strict=True)) and sum(map(len, fewer)) == 45
    told = [f"{tmp_path / 'anime'}: {n} pictures; left out: 1 unreadable\n" for n in (60, 45)]
    assert capsys.readouterr().err == "".join(told)


def test_a_folder_of_ones_own(tmp_path):
    for i, picture in enumerate(noise(1, 60)):
        path = tmp_path / "mine" / ("round" if i < 20 else "square") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    found = faces.load(str(tmp_path / "mine"), size=12, needs=["class"])
    assert found.name == "mine" and found.names == {"class": ["round", "square"]}
    assert sum(int(part.attributes["class"].sum()) for part in found[1:4]) == 40
    first = {x.transpose(2, 0, 1).tobytes() for x in noise(1, 60)[:20]}
    for part in found[1:4]:
        assert [x.tobytes() not in first for x in part.pixels.numpy()] == part.attributes["class"].tolist()
    with pytest.raises(DataError, match="has no attribute hair: it has class"):
        faces.load(str(tmp_path / "mine"), size=12, hair=["black"])
    (tmp_path / "mine" / "square" / ".thumbnails").mkdir()
    (tmp_path / "mine" / "square" / "59.png").rename(tmp_path / "mine" / "square" / "59.PNG")
    flat = faces.load(str(tmp_path / "mine" / "square"), size=12)
    assert sum(len(part.pixels) for part in flat[1:4]) == 40 and flat.names == {}


def test_too_few_pictures(tmp_path):
    put(tmp_path / "one" / "a.png", (1, 2, 3))
    with pytest.raises(DataError, match="one: of 1 pictures none is left for "):
        faces.load(str(tmp_path / "one"))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none has no pictures$"):
        faces.load(str(tmp_path / "none"))
