"""experiments/exp_bert_entities.py as a user runs it, on made-up sentences: both starts, its step, bad input."""

import io
import json
import re
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters

from experiments import exp_bert_entities as exp
from lib import random, tree
from lib.data import tokens
from lib.data.entities import Sentence, Tagged
from lib.models import bert, minilm
from lib.transform import jit
from tests.flags import flags

TINY = {
    "width": 16, "heads": 2, "ff": 24, "layers": 1, "rows": 8, "length": 12, "vocabulary": 120, "start": "scratch",
    "compile": "off", "precision": "fp32", "device": "cpu", "log_every": 1,
}  # fmt: skip


@pytest.fixture
def fit(call, tagged, tmp_path):
    """A run of a few steps with flags of one's own: its directory and what it printed."""

    def make(name="run", steps=4, **values):
        path = tmp_path / name
        status, out, told = call(exp, *flags(**{"data": tagged, "steps": steps, "run": path, **TINY, **values}))
        assert status == 0, told
        return path, out + told

    return make


@pytest.mark.device
def test_a_run_its_resumption_and_its_use(fit, call, device, monkeypatch):
    path, out = fit(eval_every=20, steps=40, lr=0.02, save_every=20)
    assert re.search(rf"^\d+ sentences to learn from; {device}, torch.float32$", out, re.MULTILINE)
    assert re.search(r"^test entities +n +precision +recall +F1$", out, re.MULTILINE)
    for kind in ("all", "person", "place"):
        assert re.search(rf"^{kind} +\d+ +[\d.]+ +[\d.]+ +[\d.]+$", out, re.MULTILINE), kind
    assert re.search(r"^always O: F1 0.0; each word's commonest tag in training: F1 100.0$", out, re.MULTILINE)
    result = json.loads((path / "result.json").read_text())
    assert set(result) == {"test/f1", "test/precision", "test/recall", "test/memory_f1"} and result["test/f1"] > 0.9
    found = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    assert [e.step for e in found.Scalars("val/f1")] == [20, 40]
    assert {"train/loss", "train/lr", "grad/norm", "val/loss"} <= set(found.Tags()["scalars"])
    assert found.Tags()["images"] == ["samples/confusion"] and "samples/tagged/text_summary" in found.Tags()["tensors"]

    status, out, told = call(exp, "sample", *flags(run=path, text="day3 Tom Hanks sees New York"))
    assert status == 0 and out == "day3 [Tom Hanks](person) sees [New York](place)\n" and not told
    status, out, told = call(exp, "sample", *flags(run=path, text="Ann leaves Rome " * 9))
    assert status == 0 and "only the first 12 tokens are read" in told and out.count("Ann") == 9
    for text, message in ((" ", "nothing to mark: the text is empty"), ("caf\udce9", "not UTF-8: character 3 of")):
        status, _, told = call(exp, "sample", *flags(run=path), text)
        assert status == 1 and told.startswith(f"error: {message}")
    monkeypatch.setattr(sys, "stdin", io.StringIO("day1 Ann sees Rome\nday2 Bo Li sees Paris\n\nnot read\n"))
    status, out, told = call(exp, "sample", *flags(run=path))
    assert status == 0 and out == "day1 [Ann](person) sees [Rome](place)\nday2 [Bo Li](person) sees [Paris](place)\n"
    assert told == "One text a line; an empty line ends.\n"


def test_resumed_is_the_same_run(fit, call, monkeypatch):
    words = {"dropout": 0.2, "save_every": 2, "eval_every": 0}
    whole, _ = fit("whole", **words)
    with monkeypatch.context() as patch:
        patch.setattr(exp.optim, "linear", lambda lr, steps, warmup: linear(lr, 4, warmup))
        parts, _ = fit("parts", **{**words, "steps": 2})
    assert call(exp, *flags(run=parts, steps=4), "--resume")[0] == 0
    states = [load_file(path / "checkpoints" / "step-4.safetensors") for path in (whole, parts)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())


linear = exp.optim.linear


@pytest.mark.device
def test_a_run_from_released_weights_replicas_and_a_diagnosis(fit, monkeypatch):
    tokenizer = tokens.train_wordpiece(["tom hanks sees new york in paris day0 day1"] * 3, 90)
    cfg = bert.Config(tokenizer.get_vocab_size(), 20, 1, bert.block_config(16, 2, 24))
    params = bert.init(random.key(9), cfg)
    monkeypatch.setattr(minilm, "MINILM", cfg)
    monkeypatch.setattr(minilm, "load", lambda data_dir: (params, tokenizer))
    path, _ = fit(start="minilm", lr=0.0, diagnose=4)
    state = load_file(path / "checkpoints" / "step-4.safetensors")
    assert all(torch.equal(x, state[f"params.bert.{name}"]) for name, x in tree.flatten(params).items())
    assert "diagnose/params/hessian/trace" in (path / "metrics.jsonl").read_text()
    _, out = fit("several", start="minilm", replicas=2)
    assert "best of 2 by val/loss" in out


def test_the_step_is_one_graph_that_leaves_its_inputs(key):
    args = exp.Args(steps=9, dropout=0.1)
    cfg = bert.Config(60, 12, 1, bert.block_config(16, 2, 24, args.dropout))
    ids = random.randint(key, (16, 12), 5, 60).long()
    labels = torch.where(torch.arange(12) % 2 == 1, ids % 3, tokens.NOTHING)
    data, state = exp.Rows(ids, labels), exp.init_state(key, cfg, args, 3)
    step = partial(exp.step, cfg=cfg, args=args, dtype=torch.float32)
    torch._dynamo.reset()
    counters.clear()
    compiled = jit(step, backend="aot_eager")
    a, b, before = tree.map(torch.clone, state), state, tree.map(torch.clone, (state, data))
    for i in range(3):
        (a, found), (b, expected) = compiled(a, torch.arange(8) + i, data), step(b, torch.arange(8) + i, data)
        torch.testing.assert_close([*found.values()], [*expected.values()], rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1 and counters["graph_break"] == {}
    torch.testing.assert_close(tree.leaves(a), tree.leaves(b), rtol=1e-3, atol=1e-4)
    assert all(map(torch.equal, tree.leaves((state, data)), tree.leaves(before)))
    torch._dynamo.reset()


def test_words_alone_count(key):
    """The loss is the mean over labelled pieces, by hand."""
    args, cfg = exp.Args(), bert.Config(60, 6, 1, bert.block_config(16, 2, 24))
    params = exp.init_state(key, cfg, args, 3).params
    ids = torch.tensor([[2, 9, 8, 7, 3, 0]])
    labels = torch.tensor([[tokens.NOTHING, 1, tokens.NOTHING, 2, tokens.NOTHING, tokens.NOTHING]])
    logp = exp.apply(params, ids, cfg=cfg).log_softmax(-1)
    found = exp.loss(params, exp.Rows(ids, labels), cfg=cfg, dtype=torch.float32)
    torch.testing.assert_close(found, -(logp[0, 1, 1] + logp[0, 3, 2]) / 2)


def test_memory_alone():
    train = [Sentence(("Paris", "is", "on"), ("B-a", "O", "O")), Sentence(("paris", "it"), ("B-b", "O"))]
    train += [Sentence(("PARIS",), ("B-b",))]
    assert exp.commonest(train, [Sentence(("Paris", "unknown"), ("O", "O"))]) == [["B-b", "O"]]
    corpus = Tagged("x", train, [], [Sentence(("Paris", "x"), ("B-b", "O"))], ["O", "B-b", "I-b"])
    figures, _ = exp.report([["O", "O"]], corpus)
    assert figures == {"test/f1": 0, "test/precision": 0, "test/recall": 0, "test/memory_f1": 1}


@pytest.mark.parametrize("name", exp.PRESETS)
def test_presets_construct(name):
    args = exp.PRESETS[name]
    rate = exp.optimizer(args)[1]
    values = [float(rate(torch.tensor(n))) for n in (0, args.steps // 10, args.steps - 1)]
    assert 0 < values[0] < values[1] > values[2] > 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "nowhere.txt"], "--data nowhere.txt: neither tweets nor a file"),
        (["--width", "10", "--heads", "4"], "width 10 is not a multiple of heads 4"),
        (["--length", "2"], "--length 2: from 3 to 512 tokens"),
        (["--start", "bert"], "bert"),
    ],
)
def test_bad_flags(call, words, message):
    status, out, told = call(exp, *words)
    assert status in (1, 2) and message in " ".join(re.sub("[│╭╮╰╯─]", " ", out + told).split())


def test_bad_sentences(call, tagged, tmp_path):
    words = flags(**{**TINY, "data": tagged, "run": tmp_path / "run", "steps": 2, "rows": 900})
    status, _, told = call(exp, *words)
    assert status == 1 and "training examples are fewer than a batch of 900" in told
    (tmp_path / "bad.txt").write_text("one\ttwo\n")
    status, _, told = call(exp, *flags(**{**TINY, "data": tmp_path / "bad.txt", "run": tmp_path / "other"}))
    assert status == 1 and "bad.txt, line 1: a word and a tag" in told and "Traceback" not in told
