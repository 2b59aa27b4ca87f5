"""experiments/exp_diffusion_flowers.py as a user runs it, on a few drawn flowers; its step; what it is asked for."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments import exp_diffusion_flowers as exp
from lib import diffusion, random, tree
from lib.data import albums
from lib.faults import RunError
from lib.tasks import diffuse, diffuser, generated
from lib.transform import jit

TINY = ["--widths", 8, 8, "--batch", 8, "--steps", 4, "--eval-every", 2, "--save-every", 2, "--log-every", 1]
TINY += ["--samples", 20, "--sample-steps", 2, "--compile", "off", "--precision", "fp32", "--device", "cpu"]
KINDS = [{}, {"objective": "epsilon", "levels": "clipped", "power": 1}, {"objective": "flow", "levels": "uniform"}]
KINDS += [{"objective": "meanflow"}]


def made(**more):
    args = exp.Args(size=16, widths=(8, 8), batch=8, steps=100, warmup=1, device="cpu", **more)
    pixels = random.randint(random.key(1), (20, 3, 16, 16), 0, 256).to(torch.uint8)
    return args, exp.init_state(random.key(0), args), pixels


@pytest.fixture
def few_flowers(few_faces, monkeypatch):
    monkeypatch.setattr(diffuser, "EXACT", 5)
    return ["--size", 16, "--pictures", 60]


@pytest.mark.parametrize("kind", KINDS)
def test_every_leaf_moves_and_the_state_given_stays(kind):
    args, first, pixels = made(**kind)
    more = {"args": args, "dtype": torch.float32, "of_chain": exp.chain(args, torch.device("cpu"))}
    state, before = first, tree.map(torch.clone, first)
    for _ in range(4):  # the last convolutions begin at 0, and what is before them moves one step later
        state, out = exp.step(state, torch.arange(8), pixels, **more)
        assert 0 < out["train/loss"] < 2
    assert all(map(torch.equal, tree.leaves(before), tree.leaves(first)))
    after, given = tree.flatten(state.params), tree.flatten(first.params)
    assert [path for path, x in after.items() if torch.equal(x, given[path])] == []


@pytest.mark.parametrize("kind", [KINDS[1], KINDS[3]])
def test_the_step_is_one_graph_and_equals_eager(kind):
    torch._dynamo.reset()
    args, state, pixels = made(**kind)
    of_chain = exp.chain(args, torch.device("cpu"))
    step, index, eager = partial(exp.step, args=args, dtype=torch.float32, of_chain=of_chain), torch.arange(8), state
    compiled, update = tree.map(torch.clone, state), jit(step, backend="aot_eager")
    for _ in range(2):
        eager, out = step(eager, index, pixels)
        compiled, out_compiled = update(compiled, index, pixels)
    for a, b in zip(tree.leaves((eager, out)), tree.leaves((compiled, out_compiled)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_muon_multiplies_in_the_numbers_of_the_step(monkeypatch, dtype):
    """bf16 where a machine has none is a hundred times slower."""
    seen, orthogonalise = set(), exp.muon.orthogonalise
    monkeypatch.setattr(exp.muon, "orthogonalise", lambda g, dtype: seen.add(dtype) or orthogonalise(g, dtype))
    args, state, pixels = made()
    exp.step(state, torch.arange(8), pixels, args=args, dtype=dtype)
    assert seen == {dtype}


def test_the_loss_of_each_band_is_told():
    """Weighted by how many pictures are in each, they are the whole."""
    args, state, pixels = made(flip=False)
    _, out = exp.step(state, torch.arange(8), pixels, args=args, dtype=torch.float32)
    k_level, k_noise, _ = random.split(random.fold_in(state.key, state.step), 3)
    sigma = diffusion.lognormal(k_level, 8, math.log(args.noise[0]), args.noise[1])
    each = diffusion.loss(
        partial(exp.unet.apply, state.params, cfg=args.network()), diffusion.edm, pixels[:8] / 127.5 - 1, sigma,
        random.normal(k_noise, (8, 3, 16, 16)),
    )  # fmt: skip
    assert out["train/loss"].item() == pytest.approx(each.mean().item(), rel=1e-5)
    edges = [0.0, *exp.BANDS, 1e9]
    for i, name in enumerate(("least", "little", "more", "most")):
        inside = (sigma > edges[i]) & (sigma <= edges[i + 1])
        expected = each[inside].mean().item() if inside.any() else 0.0
        assert out[f"noise/{name}"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.device
def test_train_resume_and_sample(call, few_flowers, tmp_path):
    status, _, err = call(exp, *few_flowers, *TINY, "--run", "r", "--steps", 2, "--diagnose", 2)
    assert status == 0, err
    status, out, err = call(exp, "--run", "r", "--resume", "--steps", 4)
    assert status == 0, err
    assert "60 pictures are few" in out and "judge flowers" in out and "bits per dimension" in out
    result = json.loads(Path("r/result.json").read_text())
    assert 4 < result["test/bits"] < 12 and result["test/inversion_db"] > 5 and "shares/petals_most" in result
    events = EventAccumulator("r", size_guidance={"images": 0})
    events.Reload()
    tags = {"samples/grid", "samples/strip", "samples/animation", "diagnose/surprising"}
    assert tags <= set(events.Tags()["images"]) and {"val/kid", "noise/most"} <= set(events.Tags()["scalars"])
    use = partial(call, exp, "sample")
    sizes = {}
    for words in (
        ["draw", "--n", 3], ["draw", "--n", 3, "--sampler", "ddim", "--eta", 1], ["strip", 0, 1], ["way", 0, 1],
        ["edit", 0, 2, "--strength", 0.5], ["inpaint", 1],
    ):  # fmt: skip
        name = f"{len(sizes)}.png"
        steps = [] if words[0] == "way" else ["--steps", 3]
        status, _, err = use(*words, *steps, "--run", "r", "--out", name)
        assert status == 0, err
        sizes[" ".join(map(str, words))] = Image.open(name).size
    assert len(set(sizes.values())) > 3
    assert use("strip", 0, "--steps", 3, "--run", "r", "--out", "s.gif")[0] == 0
    assert Image.open("s.gif").n_frames == 20  # eight of noise and three of denoising, there and back
    status, out, err = use("likelihood", 0, 1, "--run", "r")
    assert status == 0 and len(out.strip().splitlines()) >= 2, err
    status, out, err = use("compare", 1, 3, "--n", 6, "--run", "r")
    assert status == 0 and [line.split()[:2] for line in out.splitlines()[-9:]] == [
        *([sampler, str(k)] for sampler in ("dpm", "heun", "ddim", "ancestral") for k in (1, 3)), ["training", "0"]
    ], err  # fmt: skip


def test_bad_flags_are_told(call, few_flowers, tmp_path):
    for words, message in [
        (["--size", 18], "2 levels need a size that is a multiple of 4, not 18"),
        (["--widths", 12], "multiples of 8"),
        (["--shard-optimizer"], "--muon-lr 0"),
        (["--attention", 3], "there are 2 levels"),
        (["--sample-steps", 0], "at least 1"),
        (["--data", "nothing"], "neither default"),
        (["--objective", "meanflow", "--levels", "cosine"], "has its own times and loss"),
        (["--objective", "meanflow", "--batch", "30"], "--batch must be a multiple of 4 times the number of processes"),
        (["--levels", "cosine", "--noise", 1, 1], "--noise is of --levels lognormal"),
        (["--noise", 0, 0], "must be above 0"),
        (["--levels", "cosine", "--sample-steps", 1001], "a chain has 1000 at most"),
        (["--least", 0], "--least must be at least 0.001"),
        (["--samples", 1], "--samples must be at least 2"),
        (["--batch", 100], "training examples are fewer than a batch of 100"),
    ]:
        status, _, err = call(exp, *few_flowers, *TINY, *words)
        assert status and message in " ".join(err.split()), err
    for words, message in [
        (["--steps", 0], "at least 1"),
        (["--eta", 0.5], "only --sampler ddim has new noise"),
        (["--eta", 2, "--sampler", "ddim"], "at most 1"),
        (["edit", 0, "--strength", 1.5], "at most 1"),
        ([], "no finished run"),
    ]:
        status, _, err = call(exp, "sample", *words)
        assert status and message in " ".join(err.split()), err


# ---- what it is asked for, of a denoiser that is known ----


def model(x0=0.25, size=8):
    """All pictures are one: whatever the noise, the denoiser says so."""
    levels = lambda n, least: diffusion.karras(n, max(least, 0.01), 20.0)  # noqa: E731
    return diffuser.Diffuser(lambda x, sigma: torch.full_like(x, x0), levels, size, lambda: None)


def test_samples_end_at_the_least_noise_and_what_is_exact_at_the_faintest():
    seen = []
    watched = lambda x, sigma: seen.append(float(sigma)) or torch.zeros_like(x)  # noqa: E731
    one = model()._replace(denoise=watched, levels=lambda n, least: diffusion.karras(n, least, 20.0), least=0.5)
    noise = one.noise([0], 0)
    one.drawn(noise, "dpm", 5)
    assert len(seen) == 5 and seen[-1] == pytest.approx(0.5)
    one.back(noise)
    assert min(seen) == pytest.approx(diffuser.FAINT)
    seen.clear()
    one.inverted(noise)
    assert min(seen) == pytest.approx(diffuser.FAINT)


def test_drawing_and_editing_end_at_the_only_picture():
    one = model()
    noise = one.noise(range(3), 0)
    assert torch.equal(noise[2], one.noise([2], 0)[0]) and not torch.equal(noise, one.noise(range(3), 1))
    for sampler in ("dpm", "heun", "ddim"):
        torch.testing.assert_close(one.drawn(noise, sampler, 10), torch.full_like(noise, 0.25))
    torch.testing.assert_close(one.edited(noise, 0.5, noise, 10), torch.full_like(noise, 0.25))


def test_many_pictures_are_denoised_in_parts(monkeypatch):
    """None differs for it, and each part's likelihood has noise of its own."""
    sizes = []

    def denoise(x, sigma):
        sizes.append(len(x))
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)  # of standard normal pictures

    normal = model()._replace(denoise=denoise)
    monkeypatch.setattr(diffuser, "EXACT", 5)
    noise = normal.noise(range(4), 0)
    pixels = random.randint(random.key(1), (2, 3, 8, 8), 0, 256).to(torch.uint8).repeat(2, 1, 1, 1)
    whole = normal.edited(noise, 0.5, noise, 10)
    monkeypatch.setattr(diffuser, "AT_ONCE", 2)
    sizes.clear()
    torch.testing.assert_close(normal.edited(noise, 0.5, noise, 10), whole)
    bits = normal.bits(pixels, random.key(0))
    assert max(sizes) == 2 and 1e-5 < (bits[:2] - bits[2:]).abs().max() < 0.1


def test_what_is_copied_is_found():
    train = random.randint(random.key(0), (60, 3, 8, 8), 0, 256).to(torch.uint8)
    real = train[:20] / 127.5 - 1
    fresh = random.uniform(random.key(1), (20, 3, 8, 8), -1, 1)
    near = real + 0.01 * random.normal(random.key(2), (20, 3, 8, 8))
    copied = lambda x, flip: generated.nearest(x, train, flip).copied  # noqa: E731
    assert copied(near, False) == 1 and copied(fresh, False) == 0
    assert copied(near.flip(-1), False) == 0 and copied(near.flip(-1), True) == 1
    both = torch.cat([fresh, near])
    found = generated.nearest(both, train, flip=False)
    assert found.which[20:].tolist() == list(range(20)) and found.copied == 0.5
    sheet = generated.beside(both, train, found, 20)
    assert sheet.shape == (40, 3, 8, 8) and (sheet[::2] - sheet[1::2]).abs().max() < 0.1


def test_shares_of_attributes():
    seen = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    part = albums.Part(torch.zeros(4, 3, 8, 8), {"colour": torch.tensor([0, 0, 0, 1])})
    data = albums.Pictures("some", part, part, part, {"colour": ["red", "blue", "never"]})

    class Seeing:
        def probabilities(self, x):
            return {"colour": torch.nn.functional.one_hot(seen, 3).float()}

    assert generated.shares(Seeing(), torch.zeros(8, 3, 8, 8), data) == {"colour": {"red": 0.5, "blue": 2.5}}


def test_drawn_pictures_are_judged_by_one_that_has_seen_ten_thousand_and_others_by_their_own(monkeypatch):
    part = albums.Part(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), {})
    loaded = lambda kind: lambda *_, **words: (kind, words)  # noqa: E731
    monkeypatch.setattr(generated.flowers, "load", loaded("flowers"))
    monkeypatch.setattr(generated.faces, "load", loaded("faces"))
    monkeypatch.setattr(generated.judge, "load", lambda data, device: data)
    of = lambda name, names: generated.judge_of(albums.Pictures(name, part, part, part, names), None)  # noqa: E731
    many = {"size": 16, "n": 10_000}
    assert of("flowers", generated.petals.NAMES) == ("flowers", many) == of("mine", {})
    assert of("adventurer", {**generated.faces.DRAWN, "hair": ["black"]}) == ("faces", many)
    for folder in ("flowers", "adventurer"):
        assert of(folder, {"class": ["a", "b"]}).names == {"class": ["a", "b"]}


def test_pictures_have_256_values():
    x = torch.tensor([-1.5, -1.0, 0.0034, 1.0, 3.0])
    assert (generated.quantised(x) * 127.5 + 127.5).tolist() == pytest.approx([0, 0, 128, 255, 255], abs=1e-3)
    flat = torch.zeros(1, 3, 8, 8)
    assert generated.detail(flat) == 0 and generated.detail(random.normal(random.key(0), (1, 3, 8, 8))) > 0.5


def test_masks(tmp_path):
    half = diffuse._known(None, 8)
    assert half.shape == (1, 8, 8) and half[0, 0].tolist() == [True] * 4 + [False] * 4
    mask = np.zeros((8, 8), np.uint8)
    Image.fromarray(mask).save(tmp_path / "m.png")
    with pytest.raises(RunError, match="no pixel is white"):
        diffuse._known(tmp_path / "m.png", 8)
    mask[2, 3] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    assert (~diffuse._known(tmp_path / "m.png", 8)).nonzero().tolist() == [[0, 2, 3]]
