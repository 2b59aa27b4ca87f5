"""lib/data/captions.py and captioned.py: sentences tell what they say they tell, and held-out pairs are never shown."""

import difflib
import itertools

import pytest
import torch

from lib.data import captioned, captions, drawing, petals
from lib.faults import DataError

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
            assert seen(captions.short(name, value)) == {name: value}


def test_a_tenth_of_the_pairs_is_held_out_and_no_value_altogether():
    for (one, other), held in captions.UNSEEN.items():
        pairs = [(a, b) for a, b in itertools.product(petals.NAMES[one], petals.NAMES[other]) if a != b]
        assert held <= set(pairs) and 0 <= len(held) - len(pairs) / 10 < 1
        assert all(len(set(side)) == len(held) for side in zip(*held, strict=True))
    red_white = petals.attributes("train-0", {"petals": "red", "centre": "white"})
    assert ("petals", "centre") in captions.unseen(red_white)


def test_what_is_shown_has_no_pair_that_is_held_out():
    found = captioned.shown("train", 300)
    assert len(found) == 300 and found[:100] == captioned.shown("train", 100)
    assert not any(captions.unseen(petals.attributes(seed, {})) for seed in found)
    assert any(captions.unseen(petals.attributes(seed, {})) for seed in ANY)


def test_prompts():
    plain = captioned.prompts(30)
    assert len(plain.texts) == 30 and all(told.all() for told in plain.told.values())
    for pair, held in captions.UNSEEN.items():
        asked = captioned.prompts(12, pair=pair)
        values = [tuple(petals.NAMES[name][int(asked.wanted[name][i])] for name in pair) for i in range(12)]
        assert set(values) == held
        for text, (one, other) in zip(asked.texts, values, strict=True):
            assert {pair[0]: one, pair[1]: other}.items() <= seen(text).items()
    some = captioned.prompts(50, 0.5, "val")
    assert 0.3 < torch.stack(list(some.told.values())).float().mean() < 0.7 and some.texts != plain.texts


def test_pictures_and_their_sentences_belong_together(tmp_path, monkeypatch):
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(drawing, "_cores", lambda: 1)
    found = captioned.load(16, 20)
    train = found.pictures.train
    assert len(train.pixels) == len(found.texts) == 20 and {len(ways) for ways in found.texts} == {captioned.WAYS}
    for i, ways in enumerate(found.texts):
        true = {name: petals.NAMES[name][int(x[i])] for name, x in train.attributes.items()}
        assert all(seen(text).items() <= true.items() for text in ways)


# ---- words ----


def test_words_and_their_numbers():
    known = captions.vocabulary(["A red flower.", "A heart-shaped petal, it's red"])
    assert captions.words("a 'red' flower's") == ["a", "red", "flower's"] and len(captioned.vocabulary()) == 75
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
    before, after = captioned.changed(60)
    assert before.texts == captioned.prompts(60).texts
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
