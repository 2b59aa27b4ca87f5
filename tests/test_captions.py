"""lib/data/captions.py and captioned.py: sentences tell what they say they tell, and held-out pairs are never shown."""

import difflib
import itertools
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data import captioned, captions, drawing, faces, petals, pixels
from lib.data.scenes import SCENES
from lib.faults import DataError

FLOWERS = SCENES["default"]
ANY = [f"train-{i}" for i in range(400)]
SIGNS = {  # words that tell a value, whatever else a sentence says
    "count": {value: {value, word} for value, word in captions.COUNTS.items()},
    "shape": {value: {ways[0].split()[0], ways[-1].split()[0]} for value, ways in captions.SHAPES.items()},
    "ground": {value: {way.split()[-1] for way in ways} - {"dark"} for value, ways in captions.GROUNDS.items()},
    "double": {"single": {"single", "one"}, "double": {"double", "two"}},
}


def seen(text):
    """The values that its words tell. A colour before the word for the centre, or after "is", is the centre's."""
    said = captions.words(text)
    found = {name: value for name, of in SIGNS.items() for value, signs in of.items() if signs & set(said)}
    if "in the dark" in text:
        found["ground"] = "dark"
    middles = {"centre", "center", "middle"}
    at = next((i for i, word in enumerate(said) if word in middles), None)
    if at is not None:
        found["centre"] = said[at - 1] if said[at - 1] in petals.CENTRES else said[at + 2]
    ground = "green" if "green leaves" in text else "brown" if "brown earth" in text else ""
    colours = [word for word in said if word in petals.PETALS and word not in (ground, found.get("centre"))]
    return found | ({"petals": colours[0]} if colours else {})


@pytest.mark.parametrize("told", [0.3, 0.8, 1.0])
def test_a_sentence_tells_what_it_says_it_tells_and_nothing_else(told):
    counts = dict.fromkeys(petals.NAMES, 0)
    for seed in ANY:
        values = petals.attributes(seed, {})
        text, names = captions.caption(seed, values, told)
        assert seen(text) == {name: values[name] for name in names}, text
        assert text.isprintable() and "  " not in text and " ," not in text and captions.contradictions(text) == []
        assert len(captions.words(text)) < 32
        for name in names:
            counts[name] += 1
    assert all(abs(n / len(ANY) - told) < 0.1 for n in counts.values())


def test_the_same_seed_is_the_same_sentence_and_others_are_others():
    values = petals.attributes("train-0", {})
    made = [captions.caption(f"train-0 {way}", values)[0] for way in range(40)]
    assert made == [captions.caption(f"train-0 {way}", values)[0] for way in range(40)] and len(set(made)) > 25


def test_an_indefinite_article_fits():
    made = [captions.caption(f"{i}", {"petals": "orange", "double": "single"}, 1.0)[0] for i in range(60)]
    assert any("an orange" in text for text in made) and not any("a orange" in text for text in made)


def test_the_plainest_sentences_tell_their_value():
    for name, values in petals.NAMES.items():
        for value in values:
            (text,) = captions.short(name, value)
            assert seen(text) == {name: value}


def test_a_tenth_of_the_pairs_is_held_out_and_no_value_altogether():
    for (one, other), held in captions.UNSEEN.items():
        pairs = [(a, b) for a, b in itertools.product(petals.NAMES[one], petals.NAMES[other]) if a != b]
        assert held <= set(pairs) and 0 <= len(held) - len(pairs) / 10 < 1
        assert all(len(set(side)) == len(held) for side in zip(*held, strict=True))
    red_white = petals.attributes("train-0", {"petals": "red", "centre": "white"})
    assert ("petals", "centre") in captions.unseen(red_white)


def test_what_is_shown_has_no_pair_that_is_held_out():
    found = captioned.shown(FLOWERS, "train", 300)
    assert len(found) == 300 and found[:100] == captioned.shown(FLOWERS, "train", 100)
    assert not any(captions.unseen(petals.attributes(seed, {})) for seed in found)
    assert any(captions.unseen(petals.attributes(seed, {})) for seed in ANY)


def test_prompts():
    plain = captioned.prompts(FLOWERS, 30)
    assert len(plain.texts) == 30 and all(told.all() for told in plain.told.values())
    for pair, held in captions.UNSEEN.items():
        asked = captioned.prompts(FLOWERS, 12, pair=pair)
        values = [tuple(petals.NAMES[name][int(asked.wanted[name][i])] for name in pair) for i in range(12)]
        assert set(values) == held
        for text, (one, other) in zip(asked.texts, values, strict=True):
            assert {pair[0]: one, pair[1]: other}.items() <= seen(text).items()
    some = captioned.prompts(FLOWERS, 50, 0.5, "val")
    assert 0.3 < torch.stack(list(some.told.values())).float().mean() < 0.7 and some.texts != plain.texts


def test_pictures_and_their_sentences_belong_together(tmp_path, monkeypatch):
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(drawing, "_cores", lambda: 1)
    for data in SCENES:
        found = captioned.load(data, None, 16, 20)
        names = found.pictures.names
        for split, part in (
            ("train", found.pictures.train),
            ("val", found.pictures.val),
            ("test", found.pictures.test),
        ):
            texts = found.texts[split]
            assert len(part.pixels) == len(texts) == (20 if split == "train" else 2)
            assert {len(ways) for ways in texts} == {captioned.WAYS}
            for i, ways in enumerate(texts):
                true = {name: names[name][int(x[i])] for name, x in part.attributes.items()}
                assert all(READ[data](text).items() <= true.items() for text in ways)
        assert torch.equal(captioned.held_out(data, None, 16, 20), found.pictures.test.pixels)


# ---- other scenes ----


def of_two(text):
    """By its words. The first flower that is spoken of stands "left of" the other or above it, or else is the other."""
    said = captions.words(text)
    relation = next(word for word in ("left", "right", "above", "below") if word in said)
    at = said.index(relation)
    first, second = said[:at], said[at:]
    found = {"placed": "beside" if relation in ("left", "right") else "above"}
    one, other = (first, second) if relation in ("left", "above") else (second, first)
    for who, words in (("one", one), ("other", other)):
        of = {word: name for name in (who, f"{who} shape") for word in SCENES["pairs"].names[name]}
        found |= {of[word]: word for word in words if word in of}
    bigger, smaller = ({"bigger", "larger", "large", "big"}, {"smaller", "small"})
    told = [word in bigger for word in first if word in bigger | smaller]
    told += [word in bigger for word in second if word in ("larger", "smaller")]
    if told:
        found["larger"] = "one" if told[0] == (relation in ("left", "above")) else "other"
    return found


def of_a_face(text):
    found, worn = {}, {value: name for name in ("glasses", "earrings", "mustache") for value in faces.DRAWN[name]}
    for part in re.split(r", | and ", re.split(r" (?:with|has) ", text)[1]):
        if part.removeprefix("a ") in worn:
            found[worn[part.removeprefix("a ")]] = part.removeprefix("a ")
        elif part.endswith(" skin"):
            found["skin"] = part.removesuffix(" skin")
        else:
            words = part.removesuffix(" hair").split()
            if words[0] in ("long", "short"):
                found["long"] = f"{words.pop(0)} hair"
            found |= {"hair": " ".join(words)} if words else {}
    return found


READ = {"default": seen, "pairs": of_two, "faces": of_a_face}


@pytest.mark.parametrize("data", ["pairs", "faces"])
@pytest.mark.parametrize("told", [0.4, 1.0])
def test_sentences_of_other_scenes_tell_what_they_say_they_tell(data, told):
    scene = SCENES[data]
    for i in range(200):
        values = scene.attributes(f"train-{i}")
        text, names = scene.caption(f"{i}", values, told)
        assert READ[data](text) == {name: values[name] for name in names}, text
        assert text.isprintable() and "  " not in text and len(captions.words(text)) < 32
        assert told < 1 or names == set(scene.names)
        assert scene.can_be(values) and scene.contradictions(text) == []
    for name, values in scene.names.items():
        for value in values:
            every = [READ[data](text) for text in scene.short(name, value)]
            assert all(found.pop(name) == value for found in every)
            stand = [] if name == "placed" or data == "faces" else [{"placed": "beside"}, {"placed": "above"}]
            assert [found for found in every if found] == stand  # once for each way to stand


@pytest.mark.parametrize("data", list(SCENES))
def test_every_word_that_is_asked_for_is_known(data):
    scene = SCENES[data]
    known = captioned.vocabulary(captioned.Captioned(None, {}, scene))
    shorts = [text for name, values in scene.names.items() for value in values for text in scene.short(name, value)]
    captions.encode([*captioned.prompts(scene, 200).texts, *shorts, scene.example, ""], known, 32)
    for pair in scene.unseen:
        asked = captioned.prompts(scene, 20, pair=pair)
        captions.encode(asked.texts, known, 32)
        assert all(asked.told[name].all() for name in pair)
        values = [{name: scene.names[name][int(x[i])] for name, x in asked.wanted.items()} for i in range(20)]
        assert all(pair in captions.unseen(one, scene.unseen) and scene.can_be(one) for one in values)


def test_faces_are_what_is_said_before_they_are_drawn():
    part = faces.draw("test", 20, 16)
    for i in range(20):
        told = faces.attributes(f"held-{i}")
        assert told == {name: values[int(part.attributes[name][i])] for name, values in faces.DRAWN.items()}


# ---- sentences in files ----


def folder(path, lines):
    rng = np.random.default_rng(0)
    for i in range(90):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(path / f"{i}.png")
    (path / "captions.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_folder_with_sentences(tmp_path):
    lines = [f"{i}.png\tpicture {i}" for i in range(90)] + ["3.png\tanother of 3", ""]
    found = captioned.load(str(folder(tmp_path, lines)), None, 16)
    assert found.scene is None and found.pictures.names == {}
    texts = [text for split in found.texts.values() for text in split]
    assert len(texts) == 90 and ["picture 3", "another of 3"] in texts
    every = torch.cat([part.pixels for part in found.pictures[1:4]])
    for text, x in zip(texts, every, strict=True):
        assert torch.equal(x, pixels.read(tmp_path / f"{text[0].split()[1]}.png", 16, 3))
    known = captioned.vocabulary(found)
    read = partial(captions.encode, known=known, length=8)
    ids = captioned.encoded(found, read, lambda text: " ".join(w for w in text.split() if w in known), 4)
    assert ids.shape == (len(found.texts["train"]), 1 + any(len(ways) > 1 for ways in found.texts["train"]), 8)
    numbers = [int(text.split()[1]) for text in texts_of(found)]
    assert sorted(numbers) != numbers  # neighbours in the file are not neighbours here


def texts_of(found):
    return [ways[0] for ways in found.texts["train"]]


def test_no_double_of_a_held_out_face_is_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(drawing, "_cores", lambda: 1)
    alike = SCENES["faces"]._replace(same=lambda seed: int(seed.split("-")[1]) % 31)
    monkeypatch.setitem(SCENES, "faces", alike)
    found = captioned.load("faces", None, 16, 60)
    held = {alike.same(seed) for split in ("val", "test") for seed in captioned.shown(alike, split, 6)}
    left = [seed for seed in captioned.shown(alike, "train", 60) if alike.same(seed) not in held]
    assert 0 < len(left) < 60 and len(found.texts["train"]) == len(found.pictures.train.pixels) == len(left)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0.png picture"], "captions.tsv, line 1: no tab"),
        (["0.png\ta picture", "1.png\t "], "captions.tsv, line 2: nothing is said about 1.png"),
        (["0.png\ta picture", "", "no.png\tb"], "captions.tsv, line 3: there is no file .*no.png"),
        ([], "is empty"),
    ],
)
def test_faults_of_a_folder_are_told_with_their_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        captioned.load(str(folder(tmp_path, lines)), None, 16)


def test_no_such_set(tmp_path):
    with pytest.raises(DataError, match="neither default, pairs, faces, flowers102 nor a folder"):
        captioned.load("nothing")
    with pytest.raises(DataError, match=r"cannot read .*captions\.tsv"):
        captioned.load(str(tmp_path))


def test_flowers102_with_sentences(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "jpg").mkdir()
    for i in range(1, 41):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(tmp_path / "jpg" / f"image_{i:05d}.jpg")
        text = tmp_path / "text_c10" / f"class_{i % 4:05d}" / f"image_{i:05d}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"flower {i}\nsort {i % 4}\n")
    with pytest.raises(DataError, match="lacks text_c10"):
        captioned.load("flowers102", tmp_path, 16)
    (tmp_path / "testclasses.txt").write_text("class_00002\n")
    found = captioned.load("flowers102", tmp_path, 16)
    assert {text[1] for text in found.texts["test"]} == {"sort 2"} and len(found.texts["test"]) == 10
    assert "sort 2" not in {text[1] for text in found.texts["train"] + found.texts["val"]}
    with pytest.raises(DataError, match="needs --data-dir, a folder with text_c10"):
        captioned.load("flowers102", None, 16)


# ---- words ----


def test_words_and_their_numbers():
    known = captions.vocabulary(["A red flower.", "A heart-shaped petal, it's red"])
    assert (
        captions.words("a 'red' flower's") == ["a", "red", "flower's"]
        and len(captioned.vocabulary(captioned.Captioned(None, {}, FLOWERS))) == 75
    )
    assert known == ["<pad>", "<s>", "a", "flower", "heart", "it's", "petal", "red", "shaped"]
    ids = captions.encode(["a RED, flower!", "", "Heart-shaped"], known, 5)
    assert ids.tolist() == [[1, 2, 7, 3, 0], [1, 0, 0, 0, 0], [1, 4, 8, 0, 0]]
    with pytest.raises(DataError, match="'flowers' was in no caption; like it: flower"):
        captions.encode(["a red flowers"], known, 5)
    with pytest.raises(DataError, match="'xyzzy' was in no caption; known: a, flower"):
        captions.encode(["xyzzy"], known, 5)
    with pytest.raises(DataError, match="5 words are too many: at most 4"):
        captions.encode(["a red red red flower"], known, 5)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("red blue petals", [("red", "blue")]),
        ("a red and blue flower", [("red", "blue")]),
        ("a red flower with a yellow centre", []),
        ("a single double flower", [("single", "double")]),
        ("three round pointed petals", [("round", "pointed")]),
        ("five 5 red red petals in the dark", []),
        ("three petals, five of them", [("three", "five")]),
        ("the petals are red, yellow centre", []),
        ("petals of red and green leaves behind", []),
    ],
)
def test_contradictions(text, pairs):
    assert captions.contradictions(text) == pairs


def test_another_value_of_one_attribute_changes_its_words_alone():
    before, after = captioned.changed(FLOWERS, 60)
    assert before.texts == captioned.prompts(FLOWERS, 60).texts
    for i, (one, other) in enumerate(zip(before.texts, after.texts, strict=True)):
        name = list(petals.NAMES)[i % 6]
        was, now = seen(one), seen(other)
        assert {key for key in was if was[key] != now[key]} == {name} and not captions.unseen(now)
        assert now[name] == petals.NAMES[name][after.wanted[name][i]]
        assert [key for key in petals.NAMES if after.told[key][i]] == [name]
        apart = difflib.SequenceMatcher(None, captions.words(one), captions.words(other), autojunk=False)
        changes = [
            words for words in apart.get_opcodes() if words[0] != "equal" and one.split()[words[1]] not in ("a", "an")
        ]
        assert len(changes) <= 2, (one, other)
