"""experiments/exp_vae_faces.py: its bound against other formulas, its step, and what a user does with it."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributions import Normal, kl_divergence

from experiments import exp_vae_faces as exp
from lib import random, tree
from lib.data import faces
from lib.data.albums import Part
from lib.faults import DataError, RunError
from lib.run.use import verbs
from lib.tasks import arithmetic, codes
from lib.transform import jit

TINY = {"size": 16, "faces": 60, "width": 4, "code": 6, "batch": 8, "steps": 4, "eval_every": 2, "save_every": 2}
WORDS = [w for k, v in TINY.items() for w in (f"--{k.replace('_', '-')}", v)]
WORDS += ["--device", "cpu", "--precision", "fp32", "--compile", "off", "--log-every", 1]
NAMES = {"glasses": ["no glasses", "glasses"], "hair": ["black", "blond", "red"], "skin": ["red", "tan"]}


def made(**change):
    args = exp.Args(**{**TINY, **change})
    return args, exp.init_state(random.key(0), args)


def pixels(n=16):
    return random.randint(random.key(3), (n, 3, 16, 16), 0, 256).to(torch.uint8)


@pytest.mark.parametrize(
    "change", [{}, {"likelihood": "gaussian", "hidden": 5, "coarsest": 8, "kl_warmup": 3, "beta": 2.0}]
)
def test_the_step_is_one_graph_and_moves_every_parameter(change):
    torch._dynamo.reset()
    args, state = made(**change)
    before, step = tree.map(torch.clone, state), partial(exp.step, args=args, dtype=torch.float32)
    index, data = torch.arange(8), pixels()
    eager, out = step(state, index, data)
    torch.testing.assert_close(state, before, rtol=0, atol=0)
    again, same = jit(step, backend="aot_eager")(tree.map(torch.clone, state), index, data)
    torch.testing.assert_close(tree.leaves((again, same)), tree.leaves((eager, out)), atol=1e-5, rtol=1e-4)
    new, old = tree.flatten(eager.params), tree.flatten(state.params)
    assert [name for name in new if torch.equal(new[name], old[name])] == []
    weight = change.get("beta", 1.0) / change.get("kl_warmup", 1)
    torch.testing.assert_close(out["train/loss"], out["train/reconstruction"] + weight * out["train/kl"])


def test_the_masses_of_all_values_sum_to_one():
    """Of one pixel, whatever its middle and scale; and inside they are differences of the logistic function."""
    x = (torch.arange(256.0) / 255)[:, None, None, None]
    for middle, log_scale in ((0.4, -3.0), (1.2, -2.0), (-0.3, -1.0), (0.5, -6.0)):
        of = exp.Pixels(torch.full_like(x, middle), torch.full_like(x, log_scale))
        mass = exp.log_likelihood(x, of).double().exp()
        assert abs(float(mass.sum()) - 1) < 1e-3
        upper, lower = ((x.double().flatten() + s / 510 - middle) / math.exp(log_scale) for s in (1, -1))
        expected = upper.sigmoid() - lower.sigmoid()
        torch.testing.assert_close(mass[1:-1], expected[1:-1], rtol=2e-2, atol=1e-6)


def test_without_a_scale_it_is_the_squared_error():
    x, middle = random.uniform(random.key(1), (2, 5, 3, 4, 4)).unbind()
    found = exp.log_likelihood(x, exp.Pixels(middle, None))
    density = Normal(middle, math.sqrt(0.5)).log_prob(x) - math.log(255)
    torch.testing.assert_close(found, density.sum((1, 2, 3)))


def test_divergence():
    mean, log_var = random.normal(random.key(1), (2, 5, 7)).unbind()
    expected = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(exp.divergence(exp.Code(mean, log_var)), expected)


def test_the_bound_is_of_a_code_drawn_with_its_key():
    args, state = made()
    bound = partial(exp.bound, state.params, pixels(), args=args, dtype=torch.float32)
    one, same, other, mean = (bound(key) for key in (random.key(1), random.key(1), random.key(2), None))
    assert torch.equal(one[0], same[0]) and not torch.equal(one[0], other[0]) and not torch.equal(one[0], mean[0])
    assert torch.equal(one[1], other[1])
    found = exp.held_out(state.params, pixels(), random.key(1), args)
    assert found["loss"] == pytest.approx(found["reconstruction"] + found["kl"])
    bits = 1 / (math.log(2) * 3 * 16 * 16)
    code = exp.encode(state.params, pixels() / 255)
    torch.testing.assert_close(one[1], bits * exp.divergence(code))


def test_it_learns_a_few_pictures():
    args, state = made(steps=60, lr=5e-3)
    data = faces.draw("train", 8, 16).pixels
    values = []
    for _ in range(60):
        state, out = exp.step(state, torch.arange(8), data, args=args, dtype=torch.float32)
        values.append(float(out["train/loss"]))
    assert values[-1] < 0.6 * values[0]


def test_means(monkeypatch):
    monkeypatch.setattr(arithmetic, "ENOUGH", 2)
    code = torch.arange(10.0)[:, None]
    hair = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 2])
    part = Part(torch.zeros(10), {"hair": hair, "glasses": hair > 0, "skin": hair * 0})
    found = arithmetic.means(code, part, NAMES)
    torch.testing.assert_close(found.of["hair"][:2], torch.tensor([[2.0], [6.5]]))
    torch.testing.assert_close(found.but["hair"][0], torch.tensor([7.0]))
    assert found.of["hair"][2].isnan() and found.but["skin"][0].isnan()
    torch.testing.assert_close(found.of["glasses"], torch.tensor([[2.0], [7.0]]))


def test_shifts(monkeypatch):
    """Of faces with black, blond, red (which is rare) and unknown hair."""
    monkeypatch.setattr(arithmetic, "ENOUGH", 2)
    hair = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 2])
    part = Part(torch.zeros(10), {"hair": hair, "glasses": hair > 0, "skin": hair * 0})
    mean = arithmetic.means(torch.arange(10.0)[:, None], part, NAMES)
    black, blond, others = 2.0, 6.5, 19 / 6  # mean codes; the last of all that are not blond
    own = {"hair": [0, 1, 2, None]}.__getitem__
    found = arithmetic.shift(mean, NAMES, "blond", own).flatten().tolist()
    assert found == pytest.approx([blond - black, 0, blond - others, blond - others])
    found = arithmetic.shift_away(mean, NAMES, "blond", own).flatten().tolist()
    assert found == pytest.approx([0, others - blond, 0, others - blond])
    for shift in (arithmetic.shift, arithmetic.shift_away):
        with pytest.raises(RunError, match="red: fewer than 2 training faces"):
            shift(mean, NAMES, "hair=red", own)
        with pytest.raises(DataError, match="'hat' is not the value"):
            shift(mean, NAMES, "hat", own)


def test_names_of_values():
    assert faces.value("glasses", NAMES) == ("glasses", 1)
    assert faces.value("no glasses", NAMES) == ("glasses", 0)
    assert faces.value("hair=red", NAMES) == ("hair", 2) and faces.value("skin=red", NAMES) == ("skin", 0)
    with pytest.raises(DataError, match=r"'hat' is not the value.*glasses=glasses, hair=black"):
        faces.value("hat", NAMES)
    with pytest.raises(DataError, match="there are none"):
        faces.value("hat", {})


def test_data_is_loaded_for_numbers_only(tmp_path):
    args, state = made()
    coder = exp.coder(state.params, args)._replace(faces=lambda: pytest.fail("loaded"))
    file = str(tmp_path / "face.png")
    Image.new("RGB", (16, 16)).save(file)
    uses = codes.Reconstruct((file,)), codes.Way((file, file)), codes.Combine((file,), (file,), (file,)), codes.Draw(3)
    for use in uses:
        (answer,) = exp.answers(use, coder)
        assert answer.file == use.out
    with pytest.raises(RunError, match="no picture: give numbers"):
        list(exp.answers(codes.Reconstruct(()), coder))


@pytest.mark.device
def test_as_a_user(call, few_faces):
    status, out, err = call(exp, *WORDS, "--run", "whole")
    assert status == 0, err
    assert (
        "by judge adventurer-" in out
        and "200 faces with glasses added" in out
        and "other attributes as they were" in out
    )
    result = json.loads(Path("whole/result.json").read_text())
    assert result["test/loss"] == pytest.approx(result["test/reconstruction"] + result["test/kl"])
    assert {
        "glasses/before",
        "glasses/once",
        "glasses/twice",
        "glasses/by_threes",
        "glasses/twice/others",
    } <= result.keys()
    tags = EventAccumulator("whole").Reload().Tags()
    assert {"val/loss", "val/reconstruction", "val/kl", "train/kl"} <= set(tags["scalars"])
    shown = {f"samples/{x}" for x in ("reconstruction", "grid", "interpolation", "animation")}
    assert shown <= set(tags["images"])
    for name in ("samples.png", "interpolation.gif", "arithmetic.png"):
        Image.open(Path("whole", name)).verify()

    def use(*words):  # the verb is the first word
        verb = words[:1] if words[0] in verbs(exp.Use) else []
        return call(exp, "sample", *verb, "--run", "whole", *words[len(verb) :])

    Image.new("RGBA", (20, 30), (0, 0, 0, 0)).save("clear.png")
    Image.new("L", (5, 30)).save("tiny.png")
    for words in (
        ["--n", 3], ["reconstruct", 0, 1], ["way", 0, 1], ["way", 0, "clear.png", "--out", "way.GIF"],
        ["change", 0, 1, "--add", "glasses"], ["change", "clear.png", 0, "--remove", "glasses"],
        ["combine", "--plus", 0, 1, 2, "--minus", 3, "clear.png", 5, "--base", 1], ["reconstruct", "clear.png"],
    ):  # fmt: skip
        status, out, err = use(*words)
        assert status == 0 and Path(out.strip()).exists(), err
    assert Image.open("way.GIF").n_frames > 20
    white = Image.open("reconstruction.png").convert("RGB").getpixel((20, 20))
    assert white == (255, 255, 255)
    for words, told in (
        (["reconstruct", 99], "picture 99: the held-out pictures are 0 to "),
        (["reconstruct", -1], "cannot read -1"),
        (["change", 1, "--add", "hat"], "'hat' is not the value"),
        (["change", 1, "--add", "blond"], "blond: fewer than 20"),
        (["reconstruct", "none.png"], "cannot read none.png"),
        (["reconstruct", "tiny.png"], "tiny.png: 5 x 30 pixels, fewer than 8 x 8"),
        (["change", 1], "a change needs --add or --remove"),
        (["combine", "--plus", 1], "go together"),
        (["--n", 0], "at least 1"),
        (["way", 0, 1, "--out", "no/where.gif"], "no/where.gif: there is no folder no"),
    ):
        status, _, err = use(*words)
        assert status != 0 and told in " ".join(err.replace("│", " ").split()), err
        assert "Traceback" not in err


def test_faces_without_attributes(call, few_faces, tmp_path):
    """Anime's: no judge, no arithmetic."""
    for i, x in enumerate(random.randint(random.key(0), (60, 16, 16, 3), 0, 256).to(torch.uint8).numpy()):
        path = tmp_path / "anime" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(x).save(path)
    status, out, err = call(exp, *WORDS, "--data", "anime", "--data-dir", tmp_path / "anime", "--run", "anime-run")
    assert status == 0 and "no attributes: no arithmetic" in out and "kid" not in out, err
    status, _, err = call(exp, "sample", "change", "--run", "anime-run", 0, "--add", "glasses")
    assert status == 1 and "there are none" in err


@pytest.mark.parametrize("words", [["--size", 60], ["--size", 4], ["--size", 32, "--coarsest", 32]])
def test_impossible_sizes(call, words):
    status, _, err = call(exp, *words)
    assert status != 0 and "possible are [" in " ".join(err.split()) and "Traceback" not in err
