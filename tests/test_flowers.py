"""lib/data/petals.py and flowers.py: what a label says is in the picture, and only that changes with it."""

import numpy as np
import pytest
import torch

from lib.data import drawing, flowers, petals


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and one core: starting processes takes longer than drawing a few flowers."""
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(drawing, "_cores", lambda: 1)


def colour(code):
    return np.array(list(bytes.fromhex(code[1:])), float)[:, None, None]


def test_labels_are_what_the_seed_chooses():
    found = flowers.load(size=16, n=40)
    assert [len(part.pixels) for part in found[1:4]] == [40, 4, 4] and found.names == petals.NAMES
    assert found.train.pixels.shape == (40, 3, 16, 16) and found.train.pixels.dtype == torch.uint8
    for name, values in petals.NAMES.items():
        label = found.train.attributes[name]
        assert label.dtype == (torch.bool if name == "double" else torch.int64)
        assert label.min() >= 0 and label.max() < len(values)
        chosen = [values.index(petals.attributes(f"train-{i}", {})[name]) for i in range(40)]
        assert label.int().tolist() == chosen


def test_every_value_is_as_frequent_as_it_should_be():
    many = [petals.attributes(f"train-{i}", {}) for i in range(6000)]
    for name, values in petals.NAMES.items():
        shares = [sum(a[name] == value for a in many) / 6000 for value in values]
        expected = [2 / 3, 1 / 3] if name == "double" else [1 / len(values)] * len(values)
        if name == "centre":  # a yellow or white one in petals of that colour becomes another
            expected = [0.18125 if value in petals.PETALS else 0.2125 for value in values]
        assert shares == pytest.approx(expected, abs=0.02), name
    assert all(a["centre"] != a["petals"] for a in many)


@pytest.mark.parametrize("name", petals.NAMES)
def test_what_is_fixed_changes_nothing_else(name):
    for i in range(50):
        free = petals.attributes(f"val-{i}", {})
        for value in petals.NAMES[name]:
            fixed = petals.attributes(f"val-{i}", {name: value})
            other = {"petals": "centre", "centre": "petals"}.get(name)
            same = [k for k in free if k not in (name, other if value == free.get(other) else None)]
            assert fixed[name] == value and all(fixed[k] == free[k] for k in same)


def test_petals_and_centres_have_their_colours():
    """Where two versions of a flower differ, each has its own colour, as far as the light leaves it."""
    for name, values in (("petals", petals.PETALS), ("centre", petals.CENTRES)):
        for value in values:
            other = "red" if name == "petals" else "brown"
            other = other if value != other else next(iter(values))
            rest = {"shape": "round", "count": "8", "double": "single"}
            rest["centre" if name == "petals" else "petals"] = "green" if name == "petals" else "blue"
            seeds = [f"train-{i}" for i in range(4)]
            one, two = (flowers.draw("train", seeds, 96, **{name: v}, **rest).pixels.numpy() for v in (value, other))
            where = (one != two).any(1)
            found = np.percentile(one.transpose(1, 0, 2, 3)[:, where], 85, axis=1)[:, None, None]
            near = {known: np.abs(found - colour(c)).sum() for known, c in values.items()}
            assert min(near, key=near.get) == value, (name, value, near)


def test_more_petals_and_double_ones_are_more_paths():
    for count in petals.COUNTS:
        for double in ("single", "double"):
            chosen = {**petals.attributes("test", {}), "count": str(count), "double": double}
            drawn = petals.svg("test", chosen, 16)
            of_petals = drawn.count('fill="url(#petal)"') + drawn.count('fill="url(#inner)"')
            assert of_petals == count * (2 if double == "double" else 1)


def test_outlines_differ_and_are_symmetric():
    outlines = {shape: petals.petal(shape, 30, 10) for shape in petals.SHAPES}
    assert len(set(outlines.values())) == 4
    for outline in outlines.values():
        numbers = [float(x) for x in outline.replace("M", " ").replace("C", " ").replace("Z", " ").split()]
        xs = numbers[::2]
        assert sum(xs) == pytest.approx(0, abs=0.2) and numbers[1::2][-1] == 0  # back where it began


def test_one_flower_in_two_versions():
    blue, red = (flowers.draw("test", 3, 32, petals=colour, ground="dark") for colour in ("blue", "red"))
    changed = (blue.pixels != red.pixels).any(1)
    assert changed.float().mean() > 0.1 and not changed[:, 0, 0].any()
    assert all(torch.equal(x, red.attributes[name]) for name, x in blue.attributes.items() if name != "petals")


def parts(**fixed):
    """The pieces of a flower's SVG: its ground, stem and leaves; its head's place; its petals; its centre."""
    drawn = petals.svg("test-5", {**petals.attributes("test-5", {"centre": "green"}), **fixed}, 16)
    behind, _, head = drawn.partition('opacity=".35">')
    before, _, centre = head.partition('<circle r="')[2].partition('<circle r="')
    place, *of_petals = before.split("<g transform=")[1:]
    return behind.partition("</defs>")[2], place, of_petals, centre


@pytest.mark.parametrize(
    "name, value, same",
    [
        ("count", "12", (0, 1, 3)), ("double", "double", (0, 1, 3)), ("shape", "heart", (0, 1, 3)),
        ("petals", "red", (0, 1, 3)), ("centre", "dark", (0, 1, 2)), ("ground", "soil", (1, 2, 3)),
    ],
)  # fmt: skip
def test_an_attribute_changes_its_own_part_alone(name, value, same):
    plain = {"count": "5", "double": "single", "shape": "round", "petals": "blue", "ground": "sky"}
    one, two = parts(**plain), parts(**{**plain, name: value})
    assert one != two or name == "centre"
    assert [i for i in same if one[i] != two[i]] == []


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="no flower has petals=green: petals is white or yellow"):
        flowers.draw("test", 1, petals="green")
    with pytest.raises(ValueError, match="no flower has thorns=many"):
        flowers.draw("test", 1, thorns="many")
    with pytest.raises(ValueError, match="a white centre in white petals is not to be seen"):
        flowers.draw("test", 1, petals="white", centre="white")
    with pytest.raises(ValueError, match="is not drawn for test"):
        flowers.draw("test", ["train-1"])
