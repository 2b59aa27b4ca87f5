"""lib/tasks/pictures.py: straight ways and great circles, labels by name, pictures by number and file."""

import math

import pytest
import torch
from PIL import Image

from lib import random
from lib.faults import DataError, RunError
from lib.tasks import pictures

NAMES = {"glasses": ["no glasses", "glasses"], "hair": ["black", "blond", "red"]}


def test_the_way_between_two_vectors_is_a_great_circle(key):
    a, b = random.normal(key, (2, 50))
    b = b * a.norm() / b.norm()
    way = pictures.between(a, b, 7, circle=True)
    assert torch.allclose(way[0], a, atol=1e-5) and torch.allclose(way[-1], b, atol=1e-5)
    assert torch.allclose(way.norm(dim=1), a.norm().expand(7), rtol=1e-5)
    steps = torch.nn.functional.cosine_similarity(way[1:], way[:-1]).arccos()
    assert torch.allclose(steps, steps[0].expand(6), atol=1e-4)
    assert math.isclose(float(steps.sum()), float((a @ b / a.norm() / b.norm()).arccos()), rel_tol=1e-3)
    assert torch.allclose(pictures.between(a, a, 3, circle=True), a.expand(3, -1))


def test_the_straight_way_between_two_labels():
    a, b = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0])
    assert pictures.between(a, b, 5)[:, 0].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert (pictures.between(a, b, 6)[:, 2] == 1).all()


def test_labels_by_name_and_in_turn():
    assert pictures.chosen(NAMES, ["glasses", "hair=red"]) == {"glasses": 1, "hair": 2}
    turns = pictures.in_turn(7, NAMES, {})
    assert turns["glasses"].tolist() == [0, 0, 0, 1, 1, 1, 0] and turns["hair"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    turns = pictures.in_turn(3, NAMES, {"hair": 1})
    assert turns["glasses"].tolist() == [0, 1, 0] and turns["hair"].tolist() == [1, 1, 1]
    assert pictures.one_hot(turns, NAMES).tolist() == [[1, 0, 0, 1, 0], [0, 1, 0, 1, 0], [1, 0, 0, 1, 0]]
    apart = pictures.one_hot(turns, NAMES, 1.5).tolist()  # of two values only
    assert apart == [[1.25, -0.25, 0, 1, 0], [-0.25, 1.25, 0, 1, 0], [1.25, -0.25, 0, 1, 0]]
    assert pictures.in_turn(2, {"glasses": NAMES["glasses"]}, {})["glasses"].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"'green' is not the value of one attribute; there are.*hair=blond"):
        pictures.chosen(NAMES, ["green"])
    with pytest.raises(RunError, match="two values of one label: red, blond"):
        pictures.chosen(NAMES, ["red", "blond"])
    with pytest.raises(DataError, match="'brown' is not the value of one"):  # but of skin and of hair
        pictures.chosen({"hair": ["black", "brown"], "skin": ["light", "brown"]}, ["brown"])


def test_pictures_by_number_and_file(tmp_path):
    held = (torch.arange(3)[:, None, None, None] * 10).expand(3, 1, 16, 16).to(torch.uint8)
    Image.new("L", (20, 20), 77).save(tmp_path / "mine.png")
    found, numbers = pictures.picked(["2", str(tmp_path / "mine.png"), "0"], lambda: held, 16, 1)
    assert found.shape == (3, 1, 16, 16) and found[:, 0, 8, 8].tolist() == [20, 77, 0] and numbers == [2, None, 0]
    with pytest.raises(RunError, match="picture 3: the held-out pictures are 0 to 2"):
        pictures.picked(["3"], lambda: held, 16, 1)
    with pytest.raises(DataError, match="cannot read"):
        pictures.picked(["none.png"], lambda: pytest.fail("they are not asked for"), 16, 1)
