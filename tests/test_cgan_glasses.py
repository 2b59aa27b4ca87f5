"""experiments/exp_cgan_glasses.py as a user runs it, on a few drawn faces; its losses, its step, its labels."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments import exp_cgan_glasses as exp
from lib import random, tree
from lib.tasks import pictures
from lib.transform import jit

TINY = ["--width", 4, "--critic-width", 8, "--latent", 6, "--critic-steps", 2, "--batch", 8, "--steps", 4]
TINY += ["--eval-every", 2, "--save-every", 2, "--log-every", 1, "--compile", "off", "--precision", "fp32"]
TINY += ["--device", "cpu"]
NAMES = {"glasses": ["no glasses", "glasses"], "hair": ["black", "blond", "red"]}


def made(**more):
    args = exp.Args(**{"size": 16, "width": 4, "critic_width": 8, "latent": 6, "critic_steps": 2, **more})
    pixels = random.randint(random.key(1), (20, 3, 16, 16), 0, 256).to(torch.uint8)
    label = pictures.one_hot({"glasses": torch.arange(20) % 2, "hair": torch.arange(20) % 3}, NAMES)
    return args, exp.init_state(random.key(0), args, 5), exp.Labelled(pixels, label)


INDEX = torch.arange(16).view(8, 2)
CONDITIONS = pytest.mark.parametrize("condition", ["auxiliary", "planes"])


def test_the_step_is_one_graph_and_equals_eager():
    torch._dynamo.reset()
    args, state, data = made(critic_steps=1)
    step, eager = partial(exp.step, args=args, dtype=torch.float32), state
    compiled, update = tree.map(torch.clone, state), jit(step, backend="aot_eager")
    for _ in range(2):
        eager, out = step(eager, INDEX[:, :1], data)
        compiled, out_compiled = update(compiled, INDEX[:, :1], data)
    for a, b in zip(tree.leaves((eager, out)), tree.leaves((compiled, out_compiled)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@CONDITIONS
def test_both_networks_move_and_the_state_given_stays(condition):
    args, state, data = made(condition=condition)
    before = tree.map(torch.clone, state)
    after, _ = exp.step(state, INDEX, data, args=args, dtype=torch.float32)
    assert all(map(torch.equal, tree.leaves(before), tree.leaves(state)))
    new, old = tree.flatten(after.params), tree.flatten(state.params)
    still = {path for path in old if torch.equal(new[path], old[path])}
    assert still == {"d.out.b"}  # a constant moves no distance


def test_a_step_is_so_many_of_the_critic_and_one_of_the_generator():
    args, state, data = made(critic_steps=3)
    after, _ = exp.step(state, torch.arange(18).view(6, 3), data, args=args, dtype=torch.float32)
    assert (int(after.opt.d.step), int(after.opt.g.step), int(after.step)) == (3, 1, 1)


@CONDITIONS
def test_the_critics_loss_is_written_out(key, condition):
    args, state, data = made(penalty=7.0, condition=condition, reading=3.0)
    d, real, label = state.params.d, data.pixels[:4] / 127.5 - 1, data.label[:4]
    fake = random.normal(random.key(5), tuple(real.shape)).tanh()
    loss, distance = exp.critic_loss(d, real, fake, label, key, args=args, dtype=torch.float32)
    score = lambda x: torch.cat([exp.criticise(d, x[i : i + 1], label[i : i + 1], args)[0] for i in range(len(x))])  # noqa: E731
    gap = score(real).mean() - score(fake).mean()
    k_score, k_read = random.split(key)

    def slope(read, key):
        x = torch.lerp(real, fake, random.uniform(key, (4, 1, 1, 1))).requires_grad_()
        return torch.autograd.grad(read(x).sum(), x)[0].square().sum((1, 2, 3)).sqrt()

    expected = 7 * ((slope(score, k_score) - 1) ** 2).mean() - gap
    torch.testing.assert_close(distance, gap, atol=1e-5, rtol=1e-4)
    if condition == "auxiliary":
        d["label"]["w"] *= 3  # so that some slopes are above one

        def logits(x):
            h = exp.dcgan.features(d, {}, x, norm=args.norm)[0].flatten(1)
            return h @ d["label"]["w"] + d["label"]["b"]

        loss, _ = exp.critic_loss(d, real, fake, label, key, args=args, dtype=torch.float32)
        steep = slope(lambda x: logits(x)[label == 1], k_read)
        assert (steep > 1).any()
        sure = logits(real)
        right = (label * F.logsigmoid(sure) + (1 - label) * F.logsigmoid(-sure)).sum(1)
        none = F.logsigmoid(-logits(fake)).sum(1)  # generated pictures have no label
        expected = expected + 7 * ((steep - 1).clamp(min=0) ** 2).mean() - 3 * torch.cat([right, none]).mean()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)


@CONDITIONS
def test_a_label_is_read_or_given(condition):
    args, state, data = made(condition=condition, reading=2.0)
    label = data.label[:8]
    other = label.roll(1, 1)
    x = random.normal(random.key(5), (8, 3, 16, 16))
    (score, logits), (score_2, logits_2) = (exp.criticise(state.params.d, x, y, args) for y in (label, other))
    assert torch.equal(score, score_2) == (condition == "auxiliary")
    assert (logits is None) == (condition == "planes")
    if logits is not None:
        assert torch.equal(logits, logits_2)
        chance = logits.sigmoid()
        expected = -(label * chance.log() + (1 - label) * (1 - chance).log()).sum(1).mean()
        torch.testing.assert_close(exp.misread(logits, label), expected)


def test_the_critic_learns_real_from_generated_and_labels_matter():
    args, state, data = made(lr=2e-3)
    data = exp.Labelled(data.pixels // 8, data.label)
    for _ in range(30):
        state, out = exp.step(state, INDEX, data, args=args, dtype=torch.float32)
    assert out["train/distance"] > 0.1
    z = random.normal(random.key(3), (2, args.latent))
    faces = [exp.draw(state.ema, z, data.label[i : i + 1].expand(2, -1)) for i in (0, 1)]
    assert (faces[0] - faces[1]).abs().max() > 1e-3


@pytest.mark.device
def test_train_resume_and_sample(call, few_faces):
    status, _, err = call(exp, *few_faces, *TINY, "--run", "r", "--steps", 2, "--diagnose", 2)
    assert status == 0, err
    status, out, err = call(exp, "--run", "r", "--resume", "--steps", 4)
    assert status == 0 and "agreement/glasses" in out, err
    result = json.loads(Path("r/result.json").read_text())
    assert {"test/kid", "test/agreement/glasses", "test/agreement/hair"} <= result.keys()
    events = EventAccumulator("r")
    events.Reload()
    assert {"samples/grid", "samples/arithmetic", "diagnose/surprising"} <= set(events.Tags()["images"])
    assert "val/agreement/glasses" in events.Tags()["scalars"]
    sizes = {}
    for name, words in {
        "plain": ["--n", 4],
        "asked": ["--n", 4, "--label", "glasses", "blond"],
        "label": ["--n", 2, "--label", "blond", "--to", "glasses"],
        "way": ["way", 0, 3, "--label", "glasses", "black"],
        "both": ["way", 0, 3, "--to", "glasses", "black"],
        "vector": ["combine", "--plus", 0, 2, "--minus", 1],
        "stay": ["move", "--number", 2, "--label", "glasses"],
        "move": ["move", "--number", 2, "--label", "glasses", "--by", 3, 0, 0, 0, 0, 0, 0, 0],
    }.items():
        status, _, err = call(exp, "sample", *words, "--run", "r", "--out", f"{name}.png")
        assert status == 0, err
        with Image.open(f"{name}.png") as image:
            sizes[name] = tuple((side - 4) // 36 for side in image.size)  # of columns and rows
    assert [sizes.pop(name) for name in ("stay", "move")] == [(2, 2)] * 2  # one picture, of larger pixels
    assert sizes == {"plain": (4, 1), "asked": (4, 1), "label": (6, 2), "way": (6, 1), "both": (6, 6), "vector": (4, 1)}
    assert Path("stay.png").read_bytes() != Path("move.png").read_bytes()
    assert Path("plain.png").read_bytes() != Path("asked.png").read_bytes()
    for words, message in [
        (["--label", "bald"], "'bald' is not the value"),
        (["--to", "hair=bald"], "'hair=bald' is not the value"),
        (["--label", "red", "blond"], "two values of one label"),
        (["way", 0], "Expected 2 values"),
        (["way", 0, 1, "--plus", 2], "--plus"),
        (["combine"], "--plus or --minus needs the number of a face"),
        (["combine", "--plus", -1], "faces are numbered from 0"),
        (["way", 0, -1], "faces are numbered from 0"),
        (["--n", 0], "at least 1"),
    ]:
        status, _, err = call(exp, "sample", *words, "--run", "r")
        assert status and message in " ".join(err.split()), err
    Path("r/labels.json").write_text('{"glasses": ["without", "with"]}')
    status, _, err = call(exp, "--run", "r", "--resume", "--steps", 6)
    assert status == 1 and 'r was begun with {"glasses": ["without", "with"]}, and --data default has' in err


def test_bad_flags_are_told(call, few_faces):
    for words, message in [
        (["--size", 20], "a side can be 16, 32, 64, 128, 256"),
        (["--labels", "hat"], "has no attribute hat: it has glasses, hair"),
        (["--critic-steps", 0], "--critic-steps must be at least 1, not 0"),
        (["--data", "celeba"], "needs --data-dir"),
        (["--batch", 40], "fewer than a batch of 80"),
    ]:
        status, _, err = call(exp, *few_faces, *TINY, *words)
        assert status and message in " ".join(err.split()), err
