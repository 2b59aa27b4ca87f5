"""experiments/exp_text2image_flowers.py as a user runs it, on a few drawn flowers; its step."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.func import vmap

from experiments import exp_text2image_flowers as exp
from lib import random, tree
from lib.data import captioned, captions, tokens
from lib.data.scenes import SCENES
from lib.models import bert
from lib.transform import jit

TINY = ["--small", 8, "--fine", 8, "--pictures", 60, "--width", 16, "--heads", 2, "--blocks", 1, "--batch", 8]
TINY += ["--widths", 8, 8]
TINY += ["--steps", 4, "--eval-every", 2, "--save-every", 2, "--log-every", 1, "--prompts", 4]
TINY += ["--compile", "off", "--precision", "fp32", "--device", "cpu"]

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", *LETTERS, *map("##{}".format, LETTERS)]
PIECES += [
    word for word in captioned.vocabulary(captioned.Captioned(None, {}, SCENES["default"]))[2:] if word not in LETTERS
]


def made(**more):
    small = {"small": 8, "fine": 8, "width": 16, "heads": 2, "blocks": 1, "widths": (8, 8), "batch": 8}
    args = exp.Args(**{**small, "steps": 100, "warmup": 1, "device": "cpu", **more})
    pixels = random.randint(random.key(1), (20, 3, 16, 16), 0, 256).to(torch.uint8)
    texts = random.randint(random.key(2), (20, 4, args.length), 2, 30).long()
    texts[:, :, 0], texts[:, :, 9:] = captions.START, captions.PAD
    return args, exp.init_state(random.key(0), args, 30), pixels, texts, {}


def test_every_leaf_moves_and_the_state_given_stays():
    args, first, *data = made()
    state, before = first, tree.map(torch.clone, first)
    for _ in range(4):  # what ends a branch begins at 0, and what is before it moves one step later
        state, out = exp.step(state, torch.arange(8), *data, args=args, dtype=torch.float32)
        assert 0 < out["train/base"] < 2 and 0 < out["train/refiner"] < 2
        torch.testing.assert_close(out["train/base"] + out["train/refiner"], out["train/loss"])
    assert all(map(torch.equal, tree.leaves(before), tree.leaves(first)))
    after, given = tree.flatten(state.params), tree.flatten(first.params)
    moved = {path for path, x in after.items() if not torch.equal(x, given[path])}
    assert set(after) - moved == set()


def test_the_step_is_one_graph_and_equals_eager():
    torch._dynamo.reset()
    args, state, *data = made(muon_lr=0.0, widths=(8,))
    step, index, eager = partial(exp.step, args=args, dtype=torch.float32), torch.arange(8), state
    compiled, update = tree.map(torch.clone, state), jit(step, backend="aot_eager")
    for _ in range(2):
        eager, out = step(eager, index, *data)
        compiled, same = update(compiled, index, *data)
    torch.testing.assert_close(tree.leaves((compiled, same)), tree.leaves((eager, out)), atol=1e-4, rtol=1e-3)


def test_the_step_of_replicas_is_each_ones():
    args, _, *data = made(lr=1e-4, muon_lr=0.0)
    states = [exp.init_state(random.key(i), args, 30) for i in range(2)]
    index = torch.stack([torch.arange(8), torch.arange(8, 16)])

    def one(leaves, i):
        return tree.leaves(exp.step(tree.unflatten(states[0], leaves), i, *data, args=args, dtype=torch.float32))

    both = vmap(one)(tree.leaves(tree.stack(states)), index)
    single = [exp.step(s, i, *data, args=args, dtype=torch.float32) for s, i in zip(states, index, strict=True)]
    torch.testing.assert_close(both, tree.leaves(tree.stack(single)), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_muon_has_the_matrices_of_blocks_in_the_numbers_of_the_step(monkeypatch, dtype):
    seen, orthogonalise = set(), exp.muon.orthogonalise
    monkeypatch.setattr(exp.muon, "orthogonalise", lambda g, dtype: seen.add(dtype) or orthogonalise(g, dtype))
    args, state, *data = made()
    exp.step(state, torch.arange(8), *data, args=args, dtype=dtype)
    assert seen == {dtype}
    of_muon = {path.removeprefix("momentum.") for path in tree.flatten(state.opt[0]) if path != "step"}
    assert {"base.blocks.0.cross.w_q", "text.stack.blocks.1.ff.in.w", "refiner.middle.0.conv_in.w"} <= of_muon
    assert not [path for path in of_muon if tree.flatten(state.params)[path].ndim < 2]


def test_a_sentence_is_left_out_as_often_as_asked(monkeypatch):
    """Only START is left of it."""
    seen, text = [], exp.dit.text
    monkeypatch.setattr(
        exp.dit, "text", lambda p, ids, *rest, **words: seen.append(ids) or text(p, ids, *rest, **words)
    )
    for drop, expected in ((0.0, 0), (0.5, 0.5), (0.99, 0.99)):
        args, state, *data = made(drop=drop, batch=200, guidance=1.0)
        seen.clear()
        exp.step(state, torch.arange(200) % 20, *data, args=args, dtype=torch.float32)
        (ids,) = seen
        nothing = (ids[:, 1:] == captions.PAD).all(1)
        assert (ids[:, 0] == captions.START).all() and abs(float(nothing.float().mean()) - expected) < 0.12
        kept = {tuple(row) for row in ids[~nothing].tolist()}
        assert kept <= {tuple(row) for row in data[1].flatten(0, 1).tolist()} and (drop or len(kept) > 50)


@pytest.mark.device
def test_train_resume_and_sample(call, few_faces):
    status, _, err = call(exp, *TINY, "--run", "r", "--steps", 2)
    assert status == 0, err
    status, out, err = call(exp, "--run", "r", "--resume", "--steps", 4)
    assert status == 0, err
    assert "60 training pictures of flowers, read by own" in out
    assert "unseen petals and centre" in out and "without guidance" in out and "the judge flowers" in out
    result = json.loads(Path("r/result.json").read_text())
    assert {
        "test/obeyed/all",
        "test/for_no_sentence/petals",
        "test/unseen_shape_and_count/count",
        "test/of_another_sentence/all",
        "test/paraphrases/petals",
        "test/another_word/kept",
        "test/edited/obeyed",
        "test/by_the_painter/count",
    } <= result.keys()
    assert Image.open("r/samples.png").width > 500
    events = EventAccumulator("r", size_guidance={"images": 0})
    events.Reload()
    assert "samples/grid" in events.Tags()["images"]
    assert {"obeyed/petals", "val/missed", "train/refiner"} <= set(events.Tags()["scalars"])
    sizes = []
    for words in (
        ["--text", "a red flower", "a blue flower", "--n", 3], ["--text", "a red flower", "--sweep"], ["words"],
        ["edit", 0, 1, "--after", "a red flower"],
    ):  # fmt: skip
        status, _, err = call(exp, "sample", *words, "--steps", 2, "--run", "r", "--out", f"{len(sizes)}.png")
        assert status == 0, err
        sizes.append(Image.open(f"{len(sizes)}.png").size)
    assert len(set(sizes)) == 4
    status, out, err = call(exp, "sample", "describe", 0, "--run", "r")
    assert status == 0 and len(out.splitlines()) >= 6, err
    status, _, err = call(exp, "sample", "--text", "a crimson flower", "--run", "r")
    assert status == 1 and "'crimson' was in no caption; like it:" in " ".join(err.split())


def test_minilm_reads(call, few_faces, monkeypatch):
    block = bert.block_config(16, 2, 16)
    monkeypatch.setattr(exp.minilm, "MINILM", bert.Config(len(PIECES), 64, 1, block))
    made = bert.init(random.key(0), exp.minilm.MINILM)
    monkeypatch.setattr(exp.minilm, "load", lambda data_dir: (made, tokens.wordpiece(PIECES)))
    status, out, err = call(exp, *TINY, "--text", "minilm", "--length", 64, "--run", "r")
    assert status == 0 and "read by minilm" in out, err
    kept = tree.flatten(safetensors.torch.load_file(next(Path("r").glob("**/*.safetensors"))))
    assert not any("encoder" in name for name in kept)  # what is frozen is not stored
    status, _, err = call(exp, "sample", "--text", "a crimson flower", "", "--n", 1, "--steps", 2, "--run", "r")
    assert status == 0, err


@pytest.mark.parametrize("data", ["pairs", "faces", "folder"])
def test_other_sets(call, few_faces, tmp_path, data):
    if data == "folder":
        rng = np.random.default_rng(0)
        for i in range(90):
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(tmp_path / f"{i}.png")
        said = "".join(f"{i}.png\tpicture {i % 3}\n" for i in range(90))
        (tmp_path / "captions.tsv").write_text(said, encoding="utf-8")
        data = str(tmp_path)
    status, _, err = call(exp, *TINY, "--data", data, "--run", "r", "--steps", 2)
    assert status == 0, err
    result = json.loads(Path("r/result.json").read_text())
    told = {"pairs": "test/unseen_one_and_other/all", "faces": "test/obeyed/glasses"}.get(data, "test/preferred")
    assert 0 <= result[told] <= 1
    status, _, err = call(exp, "sample", "--n", 1, "--steps", 2, "--run", "r")
    assert status == 0, err
    status, _, err = call(exp, "sample", "describe", 0, "--run", "r")
    assert (status == 0) == (data in ("pairs", "faces")), err


def test_mirrored_pictures_are_not_what_sentences_of_left_and_right_say():
    assert exp.Args().mirrors() and not exp.Args(data="pairs").mirrors() and not exp.Args(flip=False).mirrors()


def test_bad_flags_are_told(call, few_faces):
    for words, message in [
        (["--small", 10], "multiple of 4"),
        (["--heads", 3], "of heads 3"),
        (["--widths", 12], "multiples of 8"),
        (["--small", 2, "--widths", 16], "multiple of 4"),
        (["--drop", 0], "--guidance 1 goes with it"),
        (["--prompts", 1], "each is compared with another"),
        (["--noise", 0, 1], "must be above 0"),
        (["--refined", 3], "--batch 8 must be a multiple of --refined"),
        (["--shard-optimizer"], "--muon-lr 0"),
        (["--batch", 100], "training examples are fewer than a batch of 100"),
        (["--text", "minilm", "--length", 600], "600 is more than the 512 of MiniLM"),
        (["--length", 4], "words are too many"),
    ]:
        status, _, err = call(exp, *TINY, *words)
        assert status and message in " ".join(err.split()), err
    status, _, err = call(exp, "sample", "--guidance", -1)
    assert status and "at least 0" in " ".join(err.split()), err
