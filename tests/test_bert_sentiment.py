"""experiments/exp_bert_sentiment.py as a user runs it, on made-up texts: both starts, both phases, bad input."""

import io
import json
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters

from experiments import exp_bert_sentiment as exp
from lib import checkpoint, random, tree
from lib.data import batches, tokens
from lib.models import bert, minilm
from lib.transform import jit
from tests.flags import flags

WHO, WHAT = ("film", "story", "actor", "ending", "music", "script"), ("the", "this", "that", "its", "one", "our")
TINY = {
    "width": 16, "heads": 2, "ff": 24, "layers": 1, "rows": 8, "length": 12, "vocabulary": 120,
    "compile": "off", "precision": "fp32", "device": "cpu", "log_every": 1,
}  # fmt: skip
SCRATCH = {"start": "scratch", "pretrain_steps": 3, "steps": 6}


@pytest.fixture
def released(monkeypatch):
    """A tiny model in MiniLM's place."""
    tokenizer = tokens.train_wordpiece([f"{b} {a} number is good bad" for a in WHO for b in WHAT] * 2, 90)
    cfg = bert.Config(tokenizer.get_vocab_size(), 20, 1, bert.block_config(16, 2, 24))
    params = bert.init(random.key(9), cfg)
    monkeypatch.setattr(minilm, "MINILM", cfg)
    monkeypatch.setattr(minilm, "load", lambda data_dir: (params, tokenizer))
    return params


@pytest.fixture
def fit(call, films, tmp_path):
    """A run of a few steps with flags of one's own: its directory and what it printed."""

    def make(name="run", **values):
        path = tmp_path / name
        status, out, told = call(exp, *flags(**{"data": films, "run": path, **TINY, **values}))
        assert status == 0, told
        return path, out + told

    return make


# ---- a whole run ----


@pytest.mark.device
def test_a_run_of_both_phases_and_its_use(fit, call, device, monkeypatch):
    path, out = fit(**SCRATCH, eval_every=3)
    line = rf"^\d+ texts \(down, up\), 0 of them cut to 12 tokens; {device}, torch.float32$"
    assert re.search(line, out, re.MULTILINE)
    assert re.search(r"^scratch +[\d.]+ %$", out, re.MULTILINE)
    assert re.search(r"^test texts: [\d.]+ % of masked words right, perplexity [\d.]+$", out, re.MULTILINE)
    assert re.search(r"^\[MASK\]: (\S+ [\d.]+ %, ){4}\S+ [\d.]+ %$", out, re.MULTILINE)
    assert "step 3: " in out and "masked words right" in out and "step 6: held-out accuracy" in out
    result = json.loads((path / "result.json").read_text())
    assert set(result) == {
        *(f"test/{x}" for x in ("accuracy", "majority", "tfidf")),
        *(f"test/masked_{x}" for x in ("loss", "perplexity", "accuracy")),
    }
    found = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    for tag, steps in {
        "train/masked_loss": [1, 2, 3], "train/masked_accuracy": [1, 2, 3], "train/loss": [4, 5, 6],
        "train/accuracy": [4, 5, 6], "val/masked_perplexity": [3], "val/loss": [6], "val/accuracy": [6],
    }.items():  # fmt: skip
        assert [e.step for e in found.Scalars(tag)] == steps, tag
    assert (
        found.Tags()["images"] == ["samples/confusion"] and "samples/mistakes/text_summary" in found.Tags()["tensors"]
    )
    rates = [e.value for e in found.Scalars("train/lr")]
    assert rates[0] > rates[1] > rates[2] and rates[3] > rates[4] > rates[5]  # from the start again

    status, out, _ = call(exp, "sample", *flags(run=path, text="this [MASK] is a [MASK]"))
    lines = out.splitlines()
    assert status == 0 and len(lines) == 4 and all(line.startswith("[MASK]: ") for line in lines[:2])
    assert all(re.fullmatch(r" *[\d.]+ %  (up|down)", line) for line in lines[2:])
    monkeypatch.setattr(sys, "stdin", io.StringIO("one film\n" + "a story " * 20 + "\n\nnot read\n"))
    status, out, told = call(exp, "sample", *flags(run=path))
    assert status == 0 and len(out.splitlines()) == 4 and told.count("only the first 12 tokens are read") == 1


@pytest.mark.device
def test_a_run_from_released_weights(fit, call, released):
    path, out = fit(steps=2, lr=0.0)
    state = load_file(path / "checkpoints" / "step-2.safetensors")
    assert all(torch.equal(x, state[f"params.bert.{name}"]) for name, x in tree.flatten(released).items())
    assert not any(name.startswith("filler") for name in state) and "masked words" not in out
    status, out, _ = call(exp, "sample", "a [MASK]", *flags(run=path))
    assert status == 0 and out.splitlines()[0].startswith("[MASK] is filled in by runs with --pretrain-steps only")


def same(a, b, step):
    a, b = (load_file(path / "checkpoints" / f"step-{step}.safetensors") for path in (a, b))
    return a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())


def test_resumed_on_either_side_of_the_border_is_the_same_run(fit, call, monkeypatch):
    """The border itself: test_exact.py."""
    words = {**SCRATCH, "dropout": 0.2, "eval_every": 0}
    whole, _ = fit("whole", **words)
    expected, save = load_file(whole / "checkpoints" / "step-6.safetensors"), checkpoint.save_tree

    def save_and_interrupt(path, *rest):
        first = not path.exists()
        save(path, *rest)
        if first:
            os.kill(os.getpid(), signal.SIGINT)

    for stop in (2, 4):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_tree", save_and_interrupt)
            parts, out = fit(f"parts-{stop}", **words, save_every=stop)
        assert f"stopped at step {stop}; " in out
        assert call(exp, "--resume", "--run", parts)[0] == 0
        found = load_file(parts / "checkpoints" / "step-6.safetensors")
        assert found.keys() == expected.keys() and all(torch.equal(x, expected[name]) for name, x in found.items())
        assert (whole / "result.json").read_text() == (parts / "result.json").read_text()


def test_the_baselines_come_before_the_training(fit, monkeypatch):
    monkeypatch.setattr(exp.classify, "baselines", lambda corpus, write: {}["baseline"])
    with pytest.raises(KeyError, match="baseline"):
        fit(**SCRATCH, save_every=1)
    assert not list(Path("run").glob("checkpoints/*"))


def test_other_texts_to_pretrain_on(fit, tmp_path):
    (tmp_path / "more.csv").write_text(
        "text,label\n" + "".join(f"text {n} is long {'so ' * 30},{'ab'[n % 2]}\n" for n in range(90))
    )
    alone, more = (re.search(r"^([\d,]+) rows to pretrain on", fit(name, **SCRATCH, **words)[1], re.MULTILINE)
                   for name, words in (("a", {}), ("b", {"pretrain_data": tmp_path / "more.csv"})))  # fmt: skip
    assert int(more[1].replace(",", "")) > int(alone[1].replace(",", "")) + 3 * 60  # long ones are not cut


@pytest.mark.device
def test_replicas_and_a_diagnosis(fit):
    words = {"start": "scratch", "pretrain_steps": 1, "steps": 2}
    path, out = fit(**words, replicas=2)
    assert "best of 2 by val/loss" in out and len(json.loads((path / "result.json").read_text())["all"]) == 2
    path, _ = fit("diagnosed", **words, diagnose=1)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "diagnose/params/hessian/trace" in line] == [1, 2]


# ---- the step ----


def tiny(key, phase="pretrain", **values):
    args = exp.Args(data="x", **{**TINY, **SCRATCH, "steps": 200, **values})
    cfg = bert.Config(60, 12, 1, bert.block_config(16, 2, 24, args.dropout))
    ids = random.randint(key, (16, 12), 5, 60).long()
    ids[:, 9:] = tokens.PAD
    data = exp.Rows(ids, torch.arange(16) % 2)
    step = partial(exp.step, phase=phase, cfg=cfg, args=args, dtype=torch.float32)
    return exp.init_state(key, cfg, args, 2), step, data


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_overfits_one_batch(key, phase):
    state, step, data = tiny(key, phase, pretrain_steps=40, pretrain_lr=0.03, lr=0.01, clip=0.0)
    values = []
    for _ in range(40):
        state, out = step(state, torch.arange(8), data)
        values.append(float(out["train/masked_loss" if phase == "pretrain" else "train/loss"]))
    assert sum(values[-10:]) < sum(values[:10]) * (0.85 if phase == "pretrain" else 0.5)


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_the_step_is_one_graph_that_leaves_its_inputs(key, phase):
    state, step, data = tiny(key, phase, dropout=0.1 * (phase == "finetune"))
    torch._dynamo.reset()
    counters.clear()
    compiled = jit(step, backend="aot_eager")
    a, b = tree.map(torch.clone, state), state
    before = tree.map(torch.clone, (state, data))
    for i in range(2):
        (a, found), (b, expected) = compiled(a, torch.arange(8) + i, data), step(b, torch.arange(8) + i, data)
        torch.testing.assert_close([*found.values()], [*expected.values()], rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1 and counters["graph_break"] == {}
    torch.testing.assert_close(tree.leaves(a), tree.leaves(b), rtol=1e-3, atol=1e-4)
    assert all(map(torch.equal, tree.leaves((state, data)), tree.leaves(before)))
    torch._dynamo.reset()


def test_what_each_phase_trains(key):
    """Each moves its own head and the encoder; what pretraining left stays as it was."""
    for phase, own, other in (("pretrain", "language", "head"), ("finetune", "head", "language")):
        state, step, data = tiny(key, phase, weight_decay=0.0, pretrain_steps=100)
        after = step(state, torch.arange(8), data)[0]
        changed = tree.map(lambda x, y: not torch.equal(x, y), state.params, after.params)
        moved = {name: list(tree.flatten(part).values()) for name, part in changed.items()}
        assert all(moved[own]) and not any(moved[other]) and sum(moved["bert"]) >= len(moved["bert"]) - 1
        assert all(map(torch.equal, tree.leaves(state.filler), tree.leaves(after.filler)))


def test_between_the_phases(key):
    state, step, data = tiny(key, "pretrain")
    state = step(state, torch.arange(8), data)[0]
    after = exp.fine_tuning(state)
    assert all(
        map(torch.equal, tree.leaves(after.filler), tree.leaves({k: state.params[k] for k in ("bert", "language")}))
    )
    assert all(not x.any() for x in tree.leaves(after.opt)) and after.step == 1
    assert not {x.data_ptr() for x in tree.leaves(after.filler)} & {x.data_ptr() for x in tree.leaves(after.params)}


def test_batches_are_those_of_the_phases_wherever_one_begins(key):
    args = exp.Args(start="scratch", pretrain_steps=3, steps=9, rows=2)
    make = partial(exp.in_phases, args=args, sizes={"pretrain": 20, "finetune": 5})
    take = lambda first, n: [x.tolist() for _, x in zip(range(n), make(key, first), strict=False)]  # noqa: E731
    whole = take(0, 9)
    assert all(take(first, 9 - first) == whole[first:] for first in range(9))
    k_pretrain, k_finetune = random.split(key)
    assert whole[2] == next(batches.numbers(k_pretrain, 20, 2, 2)).tolist()
    assert whole[3] == next(batches.numbers(k_finetune, 5, 2)).tolist()


@pytest.mark.parametrize("name", exp.PRESETS)
def test_presets_construct(name):
    args = exp.PRESETS[name]
    for phase in ("pretrain", "finetune") if args.pretrain_steps else ("finetune",):
        steps = args.pretrain_steps if phase == "pretrain" else args.steps - args.pretrain_steps
        rate = exp.optimizer(args, phase)[1]
        values = [float(rate(torch.tensor(n))) for n in (0, steps // 10, steps - 1, steps)]
        assert 0 < values[0] < values[1] > values[2] > values[3] == 0


# ---- bad input ----


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "nowhere.csv"], "--data nowhere.csv: neither"),
        (["--pretrain-steps", "9"], "for --start scratch: MiniLM is pretrained"),
        (["scratch", "--steps", "700"], "--pretrain-steps 772 leaves nothing of --steps 700"),
        (["scratch", "--width", "10"], "width 10 is not a multiple of heads 4"),
        (["--length", "513"], "--length 513: from 3 to 512 tokens"),
        (["--length", "2"], "--length 2: from 3 to 512 tokens"),
    ],
)
def test_bad_flags(call, words, message):
    status, out, told = call(exp, *words)
    assert status in (1, 2) and message in " ".join(re.sub("[│╭╮╰╯─]", " ", out + told).split())


def test_bad_texts(fit, call, films, tmp_path):
    status, _, told = call(exp, *flags(data=films, run=tmp_path / "x", **{**TINY, **SCRATCH, "rows": 900}))
    assert status == 1 and "training examples are fewer than a batch of 900" in told
    path, _ = fit(**SCRATCH)
    status, _, told = call(exp, "sample", *flags(run=path, text=" "))
    assert status == 1 and told == "error: no text"
