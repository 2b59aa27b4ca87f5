"""lib/tasks/judge.py: what it learns of coloured squares, what it keeps of it, and what it says of pictures."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lib import random, threefry
from lib.data import drawn
from lib.data.albums import Part, Pictures
from lib.tasks import judge

NAMES = {"framed": ["no frame", "frame"], "colour": ["red", "green", "blue"]}
SHORT = judge.OTHERS._replace(steps=60, batch=32)
COLOURS = torch.tensor([[200, 30, 30], [30, 200, 30], [30, 30, 200]], dtype=torch.uint8)


def squares(seed, n, side=16):
    """A square of one of three colours on white, some with a black frame around the picture, and noise."""
    k_colour, k_frame, k_noise = random.split(random.key(seed), 3)
    colour, framed = random.randint(k_colour, (n,), 0, 3).long(), random.bernoulli(k_frame, 0.5, (n,))
    pixels = torch.full((n, 3, side, side), 235, dtype=torch.uint8)
    pixels[:, :, 4:-4, 4:-4] = COLOURS[colour][:, :, None, None]
    edge = torch.ones(side, side, dtype=torch.bool)
    edge[2:-2, 2:-2] = False
    pixels = torch.where(framed[:, None, None, None] & edge, 20, pixels)
    noise = random.randint(k_noise, (n, 3, side, side), 0, 20).to(torch.uint8)
    return Part(pixels + noise, {"framed": framed, "colour": colour})


@pytest.fixture(scope="module")
def toy():
    return Pictures("squares", squares(0, 96), squares(1, 20), squares(2, 60), NAMES)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("judges")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and training that takes a second."""
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(judge, "OTHERS", judge.OTHERS._replace(steps=2, batch=8))
    return tmp_path / "judges"


@pytest.fixture(scope="module")
def learnt(toy, kept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUREGEN_CACHE", str(kept))
        patch.setattr(judge, "OTHERS", SHORT)
        patch.setattr(threefry, "_kernel", lambda fn: fn)
        return judge.load(toy, torch.device("cpu"))


def centred(part):
    return part.pixels / 127.5 - 1


def never(*_):
    raise AssertionError("trained again")


def test_it_learns(toy, learnt):
    assert learnt.sizes == {"framed": 2, "colour": 3}
    found = learnt.accuracy(toy.test)
    assert found.keys() == NAMES.keys() and min(found.values()) > 0.9
    # The share of a part whose labels are turned round is what is left.
    wrong = {**toy.test.attributes, "framed": ~toy.test.attributes["framed"]}
    assert_close(learnt.accuracy(Part(toy.test.pixels, wrong))["framed"], 1 - found["framed"])


def test_what_is_learnt_is_kept(toy, learnt, kept, monkeypatch):
    monkeypatch.setenv("PUREGEN_CACHE", str(kept))
    monkeypatch.setattr(judge, "OTHERS", SHORT)
    monkeypatch.setattr(judge, "fit", never)
    again = judge.load(toy, torch.device("cpu"))
    assert (kept / "judges" / f"{learnt.name}.safetensors").exists() and learnt.name.startswith("squares-")
    assert (again.name, again.sizes) == (learnt.name, learnt.sizes)
    assert_close((again.params, again.state), (learnt.params, learnt.state), rtol=0, atol=0)
    others = toy._replace(val=squares(7, 5), test=squares(8, 5))  # it has not seen them
    assert judge.load(others, torch.device("cpu")).name == learnt.name


def changed(toy, what):
    """The set, one thing of which is different."""
    pixels, attributes = toy.train.pixels.clone(), {name: x.clone() for name, x in toy.train.attributes.items()}
    if what == "pixel":
        pixels[-1, 2, -1, -1] ^= 1
    if what == "label":
        attributes["colour"][-1] = (attributes["colour"][-1] + 1) % 3
    if what == "yes":
        attributes["framed"][0] = ~attributes["framed"][0]
    if what == "fewer":
        del attributes["framed"]
    names = {**NAMES, "colour": [*NAMES["colour"], "grey"]} if what == "values" else NAMES
    name = "others" if what == "name" else toy.name
    return toy._replace(name=name, train=Part(pixels, attributes), names=names)


def test_the_same_set_is_judged_by_the_same_judge(toy, cache):
    first = judge.load(toy, torch.device("cpu"))
    (cache / f"{first.name}.safetensors").unlink()
    second = judge.load(changed(toy, "nothing"), torch.device("cpu"))
    assert second.name == first.name
    assert_close((first.params, first.state), (second.params, second.state), rtol=0, atol=0)


def test_another_set_has_another_judge(toy, cache, monkeypatch):
    trained = []
    fit = judge.fit
    monkeypatch.setattr(judge, "fit", lambda *words: trained.append(1) or fit(*words))
    names = [judge.load(toy, torch.device("cpu")).name]
    for what in ("pixel", "label", "yes", "fewer", "values", "name"):
        names.append(judge.load(changed(toy, what), torch.device("cpu")).name)
    for change in ({"steps": 3}, {"batch": 4}, {"lr": 1e-3}, {"reach": 1}, {"edge": False}, {"half": False}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(judge, "OTHERS", judge.OTHERS._replace(**change))
            names.append(judge.load(toy, torch.device("cpu")).name)
    assert len(set(names)) == len(names) == len(trained)
    assert {path.stem for path in cache.glob("*.safetensors")} == set(names)


@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16], ids=str)
def test_it_learns_in_the_numbers_the_machine_is_fast_at(toy, cache, monkeypatch, fast):
    seen, apply = set(), judge.cnn.apply
    monkeypatch.setattr(judge.cnn, "apply", lambda p, s, x, **words: seen.add(x.dtype) or apply(p, s, x, **words))
    monkeypatch.setattr(judge.run, "dtype", lambda args, device: fast)
    judge.load(toy, torch.device("cpu"))
    assert seen == {fast}


def test_a_set_smaller_than_a_batch(toy, cache):
    few = toy._replace(train=Part(toy.train.pixels[:5], {k: x[:5] for k, x in toy.train.attributes.items()}))
    assert judge.load(few, torch.device("cpu")).accuracy(few.test).keys() == NAMES.keys()


def test_probabilities_and_features(toy, learnt):
    x = centred(toy.test)
    found = learnt.probabilities(x)
    assert {name: tuple(p.shape) for name, p in found.items()} == {"framed": (60, 2), "colour": (60, 3)}
    for p in found.values():
        assert_close(p.sum(1), torch.ones(60)) and p.min() >= 0
    features = learnt.features(x)
    assert features.shape == (60, judge.OTHERS.widths[-1]) and not features.requires_grad
    head = learnt.params["head"]
    logits = features @ head["w"] + head["b"]
    assert_close(found["framed"], logits[:, :2].softmax(1))
    assert_close(found["colour"], logits[:, 2:].softmax(1))
    # As many as you like, each by itself.
    assert_close(learnt.features(x.repeat(5, 1, 1, 1)), features.repeat(5, 1), rtol=1e-4, atol=1e-5)
    assert_close(learnt.features(x[:1]), features[:1], rtol=1e-4, atol=1e-5)


def test_larger_pictures_are_reduced(key, learnt):
    x = random.uniform(key, (3, 3, 128, 128), -1.0, 1.0)
    assert_close(judge.reduced(x), F.avg_pool2d(x, 2))
    assert_close(learnt.features(x), learnt.features(F.avg_pool2d(x, 2)))
    for side in (16, 64):
        assert judge.reduced(x[..., :side, :side]).shape[-2:] == (side, side)
    assert torch.equal(judge.reduced(x[..., :16, :16]), x[..., :16, :16])


def test_a_judge_of_larger_pictures(toy, cache):
    large = toy._replace(train=squares(0, 8, 96), test=squares(1, 4, 96))
    found = judge.load(large, torch.device("cpu"))
    assert found.probabilities(centred(large.test))["colour"].shape == (4, 3)


def test_drawn_faces_keep_their_recipe(toy, cache, monkeypatch):
    """What RESULTS.md has of faces was scored by it."""
    monkeypatch.setattr(judge, "FACES", judge.FACES._replace(steps=2, batch=8))
    found = judge.load(toy._replace(name=drawn.STYLE), torch.device("cpu"))
    assert found.recipe == judge.FACES and found.features(centred(toy.test)).shape == (60, 128)
    assert found.name == "adventurer-7e1ee274c096a733"


def test_pictures_of_odd_sides(toy, cache):
    odd = toy._replace(train=squares(0, 8, 17), test=squares(1, 4, 17))
    found = judge.load(odd, torch.device("cpu"))
    assert found.recipe.fold == 1 and found.probabilities(centred(odd.test))["colour"].shape == (4, 3)


def test_agreement_by_hand(toy, learnt, monkeypatch):
    p = {
        "framed": torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.1, 0.9]]),
        "colour": torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1], [0.4, 0.3, 0.3]]),
    }
    monkeypatch.setattr(judge.Judge, "probabilities", lambda self, x: p)
    wanted = {"framed": torch.tensor([False, True, True, True]), "colour": torch.tensor([0, 2, 2, 1])}
    found = learnt.agreement(torch.zeros(4, 3, 16, 16), wanted)
    assert found == {"framed": 0.75, "colour": 0.5}
    assert learnt.agreement(torch.zeros(4, 3, 16, 16), {"colour": torch.tensor([0, 2, 1, 0])}) == {"colour": 1.0}
