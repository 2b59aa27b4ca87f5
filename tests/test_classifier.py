"""experiments/exp_classifier_fashion.py as a user runs it, on a folder of made-up pictures; its step and its parts."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters

from experiments import exp_classifier_fashion as exp
from lib import checkpoint, random, tree
from lib.data import images
from lib.data.images import Images
from lib.faults import RunError
from lib.transform import jit
from tests.flags import flags

ROOT = Path(__file__).parent.parent
NAMES = ["down", "left", "up"]
TINY = {
    "widths": (4, 6), "hidden": (12, 8), "batch": 16, "compile": "off", "precision": "fp32", "device": "cpu",
    "log_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """80 pictures for each label, which is where the picture is bright."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    dim = random.randint(random.key(0), (3, 80, 28, 28), 0, 90).numpy().astype(np.uint8)
    bright = {"down": np.s_[:, 14:], "left": np.s_[:, :, :14], "up": np.s_[:, :14]}
    for (name, place), pictures in zip(bright.items(), dim, strict=True):
        pictures[place] += 120
        (folder / name).mkdir(parents=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def finished(data, device, tmp_path_factory):
    """The directory and the output of a run of twelve steps, made by a command."""
    folder = tmp_path_factory.mktemp("finished")
    words = flags(data=data, steps=12, run=folder / "run", eval_every=6, lr=0.03, **{**TINY, "device": device.type})
    command = [sys.executable, "-m", "experiments", exp.NAME, "small", *words, "--model", "mlp"]
    environment = {**os.environ, "PUREGEN_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "run", done


# ---- a whole run ----


@pytest.mark.device
def test_what_a_run_prints_and_leaves(finished, data, device):
    path, done = finished
    train, _, test = (len(part.labels) for part in images.load(str(data))[1:4])
    assert f"{train} training pictures of down, left, up; {device}, torch.float32\n" in done.stdout
    accuracy = json.loads((path / "result.json").read_text())["test/accuracy"]
    assert f"test accuracy {100 * accuracy:.2f} % of {test}\n" in done.stdout and accuracy > 0.6  # a third by chance
    assert all(re.search(rf"^  {name} +[\d.]+ %$", done.stdout, flags=re.MULTILINE) for name in NAMES)
    assert f"next: just sample {exp.NAME} PICTURE\n" in done.stdout
    assert re.search(r"step 6: held-out accuracy [\d.]+ %", done.stderr) and "Traceback" not in done.stderr
    assert (path / "experiment.py").read_text() == Path(exp.__file__).read_text()
    state = load_file(path / "checkpoints" / "step-12.safetensors")
    assert state["step"] == 12 and state["params.0.w"].shape == (784, 12)


def test_what_tensorboard_shows(finished):
    found = EventAccumulator(str(finished[0]), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    assert set(found.Tags()["scalars"]) == {
        "train/loss", "train/accuracy", "grad/norm", "val/loss", "val/accuracy", "perf/images_per_second",
        "final/test/accuracy",
    }  # fmt: skip
    losses = [e.value for e in found.Scalars("train/loss")]
    assert len(losses) == 12 and losses[-1] < losses[0]
    assert [e.step for e in found.Scalars("val/accuracy")] == [6, 12]
    assert set(found.Tags()["images"]) == {"samples/confusion", "samples/mistakes"}
    assert {"samples/mistakes/text_summary", "samples/final/text_summary"} <= set(found.Tags()["tensors"])


def test_only_some_labels(call, data):
    status, out, _ = call(
        exp, *flags(data=data, steps=2, run="two", **TINY), "--labels", "up", "down", "--model", "mlp"
    )
    assert status == 0 and re.search(r"^1[1-5]\d training pictures of up, down;", out)
    assert "left" not in out and load_file(checkpoint.latest(Path("two/checkpoints")))["params.2.w"].shape == (8, 2)
    status, out, _ = call(exp, "sample", "--run", "two", 0)
    assert status == 0 and re.match(r" +0  (up|down) +taken for (up|down) \([\d.]+ %\)$", out.splitlines()[0])
    status, _, err = call(exp, *flags(data=data, steps=2, run="none", **TINY), "--labels", "up", "right")
    assert status == 1 and err.splitlines()[-1] == "error: no label 'right' in this data: down, left, up"


def test_more_in_a_batch_than_there_is(call, data):
    status, _, err = call(exp, *flags(data=data, steps=2, run="here", **TINY | {"batch": 500}))
    assert status == 1 and re.search(r"error: \d+ training examples are fewer than a batch of 500$", err)


# ---- using a run ----


@pytest.mark.device
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_a_picture_of_ones_own(finished, call, mode):
    """The middle square of a wide photo, bright above."""
    picture = random.randint(random.key(9), (28, 28), 0, 90).numpy().astype(np.uint8)
    picture[:14] += 120
    photo = np.pad(picture.repeat(4, 0).repeat(4, 1), ((0, 0), (34, 34)), constant_values=255)
    Image.fromarray(photo).convert(mode).save("photo.png")
    status, out, _ = call(exp, "sample", "--run", finished[0], "photo.png")
    found = [re.fullmatch(r" *([\d.]+) %  (\w+)", line) for line in out.splitlines()]
    assert status == 0 and {m[2] for m in found} == set(NAMES) and found[0][2] == "up"
    p = [float(m[1]) for m in found]
    assert p == sorted(p, reverse=True) and sum(p) == pytest.approx(100, abs=0.02)


@pytest.mark.device
def test_test_pictures(finished, call, data):
    test = images.load(str(data)).test
    status, out, _ = call(exp, "sample", "--run", finished[0], 3, 0)
    found = [re.fullmatch(r" +(\d)  (\w+) +taken for (\w+) \([\d.]+ %\)", line) for line in out.splitlines()]
    assert status == 0 and [(int(m[1]), m[2]) for m in found] == [(i, NAMES[test.labels[i]]) for i in (3, 0)]


def test_the_first_ten_if_none_is_asked_for(finished, call):
    status, out, _ = call(exp, "sample", "--run", finished[0])
    assert status == 0 and [int(line.split()[0]) for line in out.splitlines()] == list(range(10))


def test_files_need_no_data_and_stand_under_their_names(finished, call, data, monkeypatch):
    files = [data / "up" / "0.png", data / "down" / "0.png"]
    monkeypatch.setattr(exp.images, "load", None)
    status, out, err = call(exp, "sample", "--run", finished[0], *files)
    assert status == 0 and [line for line in out.splitlines() if " %  " not in line] == [str(f) for f in files], err
    monkeypatch.undo()


def test_the_names_of_labels_are_the_runs(finished, call, data, tmp_path):
    """Whatever becomes of its data's folders: what is missing there is said where a test picture is asked for."""
    photos = shutil.copytree(data, tmp_path / "photos")
    path = shutil.copytree(finished[0], tmp_path / "mine")
    stored = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(stored | {"data": str(photos)}))
    ask = partial(call, exp, "sample", "--run", path)
    file, numbers = ask(data / "down" / "0.png"), ask(3, 0)
    assert file[0] == numbers[0] == 0 and {line.split()[-1] for line in file[1].splitlines()} == set(NAMES)
    shutil.copytree(photos / "up", photos / "also")
    assert ask(data / "down" / "0.png") == file and ask(3, 0)[:2] == numbers[:2]
    shutil.rmtree(photos / "also")
    (photos / "down").rename(photos / "under")
    assert ask(data / "down" / "0.png") == file
    status, _, err = ask(3)
    assert status == 1 and err.splitlines()[-1] == "error: no label 'down' in this data: left, under, up"
    status, _, err = call(exp, "--resume", "--run", path, "--steps", 14)
    told = f'{path} was begun with ["down", "left", "up"], and --data {photos} has ["left", "under", "up"]'
    assert status == 1 and told in err and (path / "result.json").exists()
    (path / "labels.json").unlink()  # as of a run of before
    status, _, err = ask(data / "down" / "0.png")
    assert status == 1 and f"write {path / 'labels.json'}, a JSON list of them in the order" in err
    (path / "labels.json").write_text(json.dumps(NAMES))
    assert ask(data / "down" / "0.png") == file


def test_the_names_of_runs_that_kept_none(tmp_path):
    """Of sets whose labels never change, and of chosen ones, which the configuration has."""
    for args, names in (
        (exp.Args(model="mlp"), images.FASHION_NAMES),
        (exp.Args(model="mlp", data="digits"), images.DIGIT_NAMES),
        (exp.Args(model="mlp", data="gone", labels=("b", "a")), ["b", "a"]),
    ):
        state = exp.init_state(random.key(0), args, len(names))
        checkpoint.save_step(tmp_path / args.data / "checkpoints", 1, state, {"step": 1})
        assert exp.load(tmp_path / args.data, args).names == names


def test_numbers_and_files_together(finished, call, data):
    status, out, _ = call(exp, "sample", "--run", finished[0], data / "up" / "0.png", 2)
    first, second, *rest = out.splitlines()
    assert status == 0 and first.split()[0] == "2" and second.endswith("0.png") and len(rest) == len(NAMES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.png"], "cannot read missing.png"),
        (["text.png"], "cannot read text.png"),
        ([0, 9999], "picture 9999: the held-out pictures are 0 to"),
        ([-1], "cannot read -1"),
    ],
)
def test_what_cannot_be_done_is_said(finished, call, words, message):
    Path("text.png").write_text("no picture")
    status, _, err = call(exp, "sample", "--run", finished[0], *words)
    assert status == 1 and message in err


# ---- the step and its parts ----


def batch_of(args, n=64):
    pixels = random.randint(random.key(5), (n, 1, 28, 28), 0, 256).to(torch.uint8)
    return Images(pixels, torch.arange(n) % 3), [torch.arange(i, i + args.batch) for i in (0, 16, 32)]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_step_is_one_graph_and_equals_eager(model):
    args = exp.Args(steps=40, model=model, augment=True, dropout=0.3, smoothing=0.1, **TINY)
    step = partial(exp.step, args=args, dtype=torch.float32)
    compiled = jit(step, backend="aot_eager")
    (state, same), (data, batches) = ([exp.init_state(random.key(1), args, 3) for _ in range(2)], batch_of(args))
    torch._dynamo.reset()
    counters.clear()
    for index in batches:
        state, out = step(state, index, data)
        same, again = compiled(same, index, data)
        torch.testing.assert_close([*again.values()], [*out.values()], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(tree.leaves(same), tree.leaves(state), atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1 and counters["graph_break"] == {}
    assert same.step == 3
    torch._dynamo.reset()


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_step_is_pure_and_its_randomness_follows_the_step(model):
    args = exp.Args(model=model, augment=True, dropout=0.5, **TINY)
    state, (data, (index, *_)) = exp.init_state(random.key(1), args, 3), batch_of(args)
    before, generator = tree.map(torch.clone, (state, data)), torch.get_rng_state()

    def at(n):
        here = state._replace(step=torch.tensor(n, dtype=torch.int32))
        return exp.step(here, index, data, args=args, dtype=torch.float32)[1]["train/loss"]

    assert at(0) == at(0) != at(1)
    torch.testing.assert_close((state, data), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_loss_is_cross_entropy_and_the_accuracy_that_of_the_batch():
    args = exp.Args(model="mlp", augment=False, smoothing=0.2, **TINY)
    state, (data, _) = exp.init_state(random.key(1), args, 3), batch_of(args)
    value, (_, accuracy) = exp.loss(state.params, [], data, random.key(2), args=args, dtype=torch.float32)
    logits, _ = exp.apply(state.params, [], data.pixels, args=args)
    torch.testing.assert_close(value, F.cross_entropy(logits, data.labels, label_smoothing=0.2))
    assert accuracy == (logits.argmax(-1) == data.labels).float().mean()
    logp = exp.predict(state, data.pixels, args, torch.float32)
    torch.testing.assert_close(logp, logits.log_softmax(-1))


def test_augment_shifts_and_mirrors(key):
    x = random.randint(key, (400, 1, 6, 5), 1, 256).to(torch.uint8)
    y, padded = exp.augment(x, random.key(1)), F.pad(x, (2, 2, 2, 2))
    shifts = torch.stack([padded[:, :, i : i + 6, j : j + 5] for i in range(5) for j in range(5)])
    same = (torch.cat([shifts, shifts.flip(-1)]) == y).flatten(2).all(-1)  # each way, each picture
    assert same.any(0).all()  # every picture is one of its 50 forms
    counts = same.float().sum(1)
    assert (counts > 0).all() and abs(counts[:25].sum() - 200) < 60  # and every form is seen
    assert torch.equal(exp.augment(x, random.key(1)), y) and not torch.equal(exp.augment(x, random.key(2)), y)


def test_mistakes_are_the_surest_first():
    logp = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.05, 0.95], [0.7, 0.3]]).log()
    assert exp.mistakes(logp, torch.tensor([0, 0, 0, 1, 1])).tolist() == [2, 4, 1]
    assert exp.mistakes(logp, torch.tensor([0, 1, 1, 1, 0])).tolist() == []


def test_chosen_labels_are_numbered_anew():
    data = Images(torch.arange(5).view(5, 1, 1, 1).to(torch.uint8), torch.tensor([2, 0, 1, 2, 0]))
    found = exp.chosen(data, ["a", "b", "c"], ("c", "a"))
    assert found.pixels.flatten().tolist() == [0, 1, 3, 4] and found.labels.tolist() == [0, 1, 0, 1]
    assert exp.chosen(data, ["a", "b", "c"], ()) is data
    with pytest.raises(RunError, match=r"a label is given twice: a, a$"):
        exp.chosen(data, ["a", "b", "c"], ("a", "a"))
    with pytest.raises(RunError, match="no label 'd' in this data: a, b, c"):
        exp.chosen(data, ["a", "b", "c"], ("a", "d"))


@pytest.mark.parametrize("name", exp.PRESETS)
def test_presets_construct(name):
    args = exp.PRESETS[name]
    state = exp.init_state(random.key(0), args, 10)
    assert 3e4 < tree.size(state.params) < 2e6 and args.save_every <= args.steps
    if name == "book":
        assert tree.size(state.params) == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
