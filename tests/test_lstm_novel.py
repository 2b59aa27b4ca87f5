"""The LSTM on a novel as a user runs it, and what it measures and carries."""

import io
import itertools
import math
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters

from experiments import exp_lstm_novel as exp
from lib import random, tree
from lib.data import batches
from lib.lstm import zero_state
from lib.transform import jit

TINY = {
    "vocabulary": 300, "layers": 2, "embedding": 6, "hidden": 8, "rows": 2, "length": 7, "compile": "off",
    "precision": "fp32", "device": "cpu", "log_every": 1, "eval_every": 2, "save_every": 2, "steps": 4,
}  # fmt: skip
V = 300


def tiny(**changes):
    return exp.Args(**{**TINY, **changes})


def words(**values):
    return [word for k, v in values.items() for word in (f"--{k.replace('_', '-')}", v)]


def windows(n, args, first=0):
    ids = random.randint(random.key(7), (2 * args.rows * args.length * 3,), 0, V).long()
    stream = batches.streams(ids, args.rows, args.length, first)
    return [next(stream) for _ in range(n)]


# ---- a whole run ----


@pytest.mark.parametrize("level", ["word", "bpe", "char"])
def test_train_and_measure_at_each_level(level, call, story):
    status, out, err = call(exp, *words(run="run", data=story, **TINY), "--tokens", level)
    assert status == 0 and "run: run\n" in out and re.search(r"story +[\d.]+ +[\d.]+ +[\d.]+\n", out), err
    assert "step 2: held out " in err and "step 4: held out " in err
    assert [f"temperature {x}; longest" in out for x in (0.5, 1, 1.5)] == [True] * 3 and "top-k 20; longest" in out
    found = EventAccumulator("run", size_guidance={"tensors": 0}).Reload()
    tags = {f"{when}/{name}" for when in ("val", "final") for name in ("loss", "perplexity", "bits_per_byte")}
    assert tags <= set(found.Tags()["scalars"])
    assert "samples/temperature 0.5/text_summary" in found.Tags()["tensors"]
    loss, perplexity = (found.Scalars(f"val/{name}")[-1].value for name in ("loss", "perplexity"))
    assert perplexity == pytest.approx(math.exp(loss), rel=1e-4)


@pytest.mark.device
def test_resume_goes_on_with_the_carried_state(call, story):
    assert call(exp, *words(run="run", data=story, dropout=0.2, **TINY))[0] == 0
    newest = Path("run", "checkpoints", "step-4.safetensors")
    straight = load_file(newest)
    newest.unlink()  # as if it had been killed
    assert call(exp, "--resume", "--run", "run")[0] == 0
    again = load_file(newest)
    assert again.keys() == straight.keys() and all(torch.equal(again[k], straight[k]) for k in again)
    assert straight["carry.h"].shape == (2, 2, 8) and straight["carry.h"].abs().min() > 0


@pytest.mark.device
def test_sample_as_a_user(call, story, monkeypatch):
    assert call(exp, *words(run="run", data=story, **TINY), "--tokens", "word")[0] == 0
    ask = partial(call, exp, "sample", "--run", "run", "--prompt", "On day", "--n", "9")
    status, out, err = ask()
    assert status == 0 and out.startswith("On day") and err == ""
    assert out == ask("--seed", "0")[1] != ask("--seed", "1")[1]
    likeliest = ask("--temperature", "0")[1]
    assert likeliest == ask("--top-k", "1")[1] == ask("--top-p", "1e-9")[1] != out
    _, out, err = ask("--prompt", "On Mars the old man", "--copy-check")
    assert "not in the vocabulary" in err and "bytes: Mars\n" in err
    assert "longest run copied word for word" in err and out.startswith("On Mars the old man")
    assert call(exp, "sample", "", "--run", "run", "--n", "3")[0] == 0
    long = "On day 3 " * 500  # an LSTM has no longest context
    assert call(exp, "sample", long, "--run", "run", "--n", "3")[1].startswith(long)
    monkeypatch.setattr(sys, "stdin", io.StringIO("On day\na boy\n\nnever read\n"))
    status, out, _ = call(exp, "sample", "--run", "run", "--n", "1")
    assert status == 0 and "On day" in out and "a boy" in out and "never" not in out
    for bad in (("--n", "0"), ("--temperature", "-1"), ("--top-p", "0"), ("--top-k", "-1")):
        assert ask(*bad)[0] == 2


# ---- bad input ----


def test_bad_texts_are_told(call, tmp_path):
    for name, content, said in (
        ("empty", b"", "no text"),
        ("latin", b"caf\xe9 au lait" * 50, "line 1: not UTF-8"),
        ("short", b"Call me Ishmael. " * 2, "do not fill one batch of 2 rows of 7 tokens"),
    ):
        path = tmp_path / f"{name}.txt"
        path.write_bytes(content)
        status, _, err = call(exp, *words(run=name, data=path, **TINY))
        assert status == 1 and said in err and (name in err or name == "short"), err
    status, _, err = call(exp, *words(run="here", data="missing.txt", **TINY))
    assert status == 1 and "missing.txt" in err


# ---- the step ----


def test_the_step_is_one_graph_and_equals_eager():
    args = tiny(dropout=0.2)
    step = partial(exp.step, args=args, dtype=torch.float32)
    torch._dynamo.reset()
    counters.clear()
    compiled, state, same = jit(step, backend="aot_eager"), *(exp.init_state(random.key(1), V, args) for _ in "ab")
    for window in windows(3, args):
        state, out = step(state, window)
        same, again = compiled(same, window)
        torch.testing.assert_close([*again.values()], [*out.values()], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tree.leaves(same), tree.leaves(state), atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1 and counters["graph_break"] == {}
    torch._dynamo.reset()


def test_the_step_trains_every_leaf_and_replicas_are_runs():
    args, (window,) = tiny(dropout=0.2), windows(1, tiny())
    step, keys = partial(exp.step, args=args, dtype=torch.float32), [random.key(1), random.key(2)]
    starts = [exp.init_state(key, V, args) for key in keys]
    both, out = torch.func.vmap(step)(tree.stack(starts), tree.stack([window, window]))
    for i, start in enumerate(starts):
        state, alone = step(start, window)
        torch.testing.assert_close(tree.leaves(tree.unstack(both)[i]), tree.leaves(state), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out["train/loss"][i], alone["train/loss"], atol=1e-5, rtol=1e-5)
        assert not any(torch.equal(a, b) for a, b in zip(*map(tree.leaves, (start.params, state.params)), strict=True))
        assert not any(leaf.requires_grad for leaf in tree.leaves(state))


def test_the_state_is_carried_and_an_epoch_begins_with_zeros():
    args = tiny(lr=0.0, schedule="constant", dropout=0.0)
    state, step = exp.init_state(random.key(1), V, args), partial(exp.step, args=args, dtype=torch.float32)
    first, second = windows(2, args)
    assert torch.equal(first.tokens[:, -1], second.tokens[:, 0]) and first.fresh.all() and not second.fresh.any()
    after, _ = step(state, first)
    after, out = step(after, second)
    both = torch.cat([first.tokens, second.tokens[:, 1:]], 1)
    logits, end = exp.apply(state.params, both[:, :-1], state.carry, args=args)
    torch.testing.assert_close(tuple(after.carry), tuple(end))
    late = F.cross_entropy(logits[:, args.length :].flatten(0, 1), second.tokens[:, 1:].flatten())
    torch.testing.assert_close(out["train/loss"], late)
    _, again = step(after, first)
    torch.testing.assert_close(again["train/loss"], step(state, first)[1]["train/loss"])
    assert exp.step(after, second, args=args, dtype=torch.float32)[1]["train/loss"] != again["train/loss"]


def test_dropout_by_key():
    args, (window,) = tiny(dropout=0.5), windows(1, tiny())
    params = exp.init(random.key(1), V, args)
    state = zero_state(params["lstm"], 2)
    one = lambda key: exp.loss(params, window.tokens, state, key, args=args, dtype=torch.float32)[0]  # noqa: E731
    assert one(random.key(2)) == one(random.key(2)) != one(random.key(3)) and one(None) == one(None)


def test_sizes_of_the_book():
    args = exp.PRESETS["book"]
    assert tree.size(exp.init(random.key(0), 12_778, args)) == 3_680_234 - 3 * 4 * 128  # torch has two biases


# ---- what is measured ----


def test_every_token_but_the_first_is_scored_once():
    args, ids = tiny(), random.randint(random.key(7), (2300,), 0, V).long()  # more than two of the parts that are read
    params = exp.init(random.key(0), V, args)
    logits, _ = exp.apply(params, ids[None, :-1], zero_state(params["lstm"], 1), args=args)
    right = float(F.cross_entropy(logits[0], ids[1:], reduction="sum"))
    assert exp.nats(params, ids, args=args, dtype=torch.float32) == pytest.approx(right, rel=1e-5)
    for behind in (1, 5, len(ids) - 1):
        found = torch.cat([*exp.forced(params, ids, behind, args=args)])
        whole = torch.cat([*exp.forced(params, ids, 1, args=args)])
        torch.testing.assert_close(found, whole[behind - 1 :])
    nats = -whole.log_softmax(-1).gather(1, ids[1:, None]).sum()
    assert float(nats) == pytest.approx(right, rel=1e-5)


def test_writing_equals_reading_everything_again():
    args, key = tiny(hidden=16), random.key(3)
    params = tree.map(lambda x: 5 * x, exp.init(random.key(0), V, args))
    ids = written = torch.tensor([[7, 8], [9, 10]])
    for i in range(12):
        logits, _ = exp.apply(params, written, zero_state(params["lstm"], 2), args=args)
        token = random.categorical(random.fold_in(key, i), logits[:, -1])
        written = torch.cat([written, token[:, None]], 1)
    for room in (1, 12):  # which a state does not need
        found = list(itertools.islice(exp.go_on(params, ids, key, args=args, room=room), 12))
        assert torch.equal(torch.stack(found, 1), written[:, 2:])


@pytest.mark.device
def test_diagnose(call, story):
    status, _, err = call(exp, *words(run="run", data=story, diagnose=4, **TINY))
    assert status == 0 and "params: gradient norm of an example" in err
    tags = EventAccumulator("run").Reload().Tags()
    assert (
        "diagnose/params/hessian/largest" in tags["scalars"] and "diagnose/surprising/text_summary" in tags["tensors"]
    )
