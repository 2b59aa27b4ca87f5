"""experiments/exp_dcgan_faces.py as a user runs it, on a few drawn faces; its step."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments import exp_dcgan_faces as exp
from lib import random, tree
from lib.transform import jit

TINY = ["--width", 4, "--latent", 6, "--batch", 8, "--steps", 4, "--eval-every", 2, "--save-every", 2, "--log-every", 1]
TINY += ["--compile", "off", "--precision", "fp32", "--device", "cpu"]
KINDS = [{}, {"norm": "group", "r1": 1.0}, {"norm": "group", "loss": "least_squares"}]


def made(**more):
    args = exp.Args(size=16, width=4, latent=6, batch=8, device="cpu", **more)
    pixels = random.randint(random.key(1), (20, 3, 16, 16), 0, 256).to(torch.uint8)
    return args, exp.init_state(random.key(0), args), pixels


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_one_graph_and_equals_eager(kind):
    torch._dynamo.reset()
    args, state, pixels = made(**kind)
    step, index, eager = partial(exp.step, args=args, dtype=torch.float32), torch.arange(8), state
    compiled, update = tree.map(torch.clone, state), jit(step, backend="aot_eager")
    for _ in range(2):
        eager, out = step(eager, index, pixels)
        compiled, out_compiled = update(compiled, index, pixels)
    for a, b in zip(tree.leaves((eager, out)), tree.leaves((compiled, out_compiled)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert all(out.values())  # none is zero


@pytest.mark.parametrize("kind", KINDS)
def test_both_networks_move_and_the_state_given_stays(kind):
    args, state, pixels = made(**kind)
    before = tree.map(torch.clone, state)
    after, _ = exp.step(state, torch.arange(8), pixels, args=args, dtype=torch.float32)
    assert all(map(torch.equal, tree.leaves(before), tree.leaves(state)))
    moved = {
        path for path, x in tree.flatten(after.params).items() if not torch.equal(x, tree.flatten(state.params)[path])
    }
    assert moved == set(tree.flatten(state.params))


def test_the_discriminator_learns_real_from_generated():
    args, state, pixels = made(lr=2e-3)
    for _ in range(40):
        state, out = exp.step(state, torch.arange(8), pixels // 8, args=args, dtype=torch.float32)
    assert out["train/real_right"] > 0.8 and out["train/fake_right"] > 0.8


def test_the_penalty_holds_the_slopes_down():
    args, state, pixels = made(norm="group", r1=100.0, lr=2e-3)
    free, *_ = made(norm="group", lr=2e-3)
    steep = flat = state
    for _ in range(20):
        steep, _ = exp.step(steep, torch.arange(8), pixels, args=free, dtype=torch.float32)
        flat, _ = exp.step(flat, torch.arange(8), pixels, args=args, dtype=torch.float32)

    def slope(s):
        x = (pixels[:8] / 127.5 - 1).requires_grad_()
        score, _ = exp.dcgan.discriminate(s.params.d, {}, x, norm="group")
        return float(torch.autograd.grad(score.sum(), x)[0].square().sum())

    assert slope(flat) < 0.2 * slope(steep)


@pytest.mark.device
def test_train_resume_and_sample(call, few_faces):
    status, _, err = call(exp, *few_faces, *TINY, "--run", "r", "--steps", 2, "--diagnose", 2)
    assert status == 0, err
    status, out, err = call(exp, "--run", "r", "--resume", "--steps", 4)
    assert status == 0, err
    assert "KID of training faces" in out and "generated faces" in out
    assert json.loads(Path("r/result.json").read_text())["test/kid"] > 0
    events = EventAccumulator("r", size_guidance={"images": 0})
    events.Reload()
    tags = {"samples/grid", "samples/interpolation", "samples/animation", "diagnose/surprising"}
    assert tags <= set(events.Tags()["images"]) and "val/kid" in events.Tags()["scalars"]
    assert events.Images("samples/animation")[-1].encoded_image_string[:3] == b"GIF"
    with Image.open("r/samples.png") as sheet, Image.open("r/interpolation.gif") as moving:
        assert sheet.size[0] > 8 * 2 * 16 and moving.n_frames > 40
    assert call(exp, "sample", "--n", 5, "--run", "r", "--out", "a.png")[0] == 0
    assert call(exp, "sample", "--n", 3, "--run", "r", "--out", "b.png")[0] == 0
    a, b = (torch.frombuffer(bytearray(Image.open(x).tobytes()), dtype=torch.uint8) for x in ("a.png", "b.png"))
    assert len(a) == len(b) and not torch.equal(a, b)  # one row each, of five and of three
    assert call(exp, "sample", "way", 0, 3, 1, "--run", "r", "--out", "c.GIF")[0] == 0
    assert Image.open("c.GIF").n_frames > 40  # there and back


def test_bad_flags_are_told(call, few_faces, tmp_path):
    for words, message in [
        (["--size", 48], "a side can be 16, 32, 64, 128, 256"),
        (["--norm", "batch"], "--r1 needs --norm group"),
        (["--data", "nothing"], "neither default"),
        (["--data", "anime"], "needs --data-dir"),
        (["--batch", 100], "training examples are fewer than a batch of 100"),
    ]:
        status, _, err = call(exp, *few_faces, *TINY, *words)
        assert status and message in " ".join(err.split()), err
    assert "at least 1" in call(exp, "sample", "--n", 0)[2]
    for numbers in ([4], [], [1, -1]):
        status, _, err = call(exp, "sample", "way", *numbers)
        assert status == 2, err
    assert "two faces" in call(exp, "sample", "way", 4)[2]
    assert "no finished run" in call(exp, "sample")[2]


def test_faces_without_attributes_are_judged_by_the_drawn_ones(call, few_faces, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    for i in range(120):
        pixels = random.randint(random.key(i), (20, 20, 3), 0, 256).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "mine" / f"{i}.png")
    status, out, err = call(exp, *few_faces, *TINY, "--data", tmp_path / "mine", "--run", "m")
    assert status == 0 and "judge adventurer" in out, err
