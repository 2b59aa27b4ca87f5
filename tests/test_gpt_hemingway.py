"""experiments/exp_gpt_hemingway.py as a user runs it, on a made-up text; its step, its figures and bad input."""

import dataclasses
import io
import json
import math
import re
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from experiments import exp_gpt_hemingway as exp
from lib import checkpoint, random, run, tree
from lib.data import tokens
from lib.models import gpt
from lib.tasks import writing
from lib.transform import jit
from tests.flags import flags

TINY = {
    "width": 16, "heads": 2, "ff": 24, "layers": 1, "rows": 4, "length": 16, "vocabulary": 320, "warmup": 2,
    "compile": "off", "precision": "fp32", "device": "cpu", "log_every": 1,
}  # fmt: skip
BOOK = {
    "norm": "layer", "position": "learned", "activation": "gelu", "bias": "all", "head": "untied", "optimizer": "adamw"
}  # fmt: skip


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    monkeypatch.setattr(writing, "SHOWN", 20)


@pytest.fixture
def fit(call, story, tmp_path):
    """A run of a few steps with flags of one's own: its directory and what it printed."""

    def make(name="run", steps=2, **values):
        path = tmp_path / name
        status, out, told = call(exp, *flags(**{"data": story, "steps": steps, "run": path, **TINY, **values}))
        assert status == 0, told
        return path, out

    return make


# ---- a whole run ----


@pytest.mark.device
def test_a_run_its_resumption_and_its_use(fit, call, device, monkeypatch):
    whole, out = fit("whole", steps=4, eval_every=2)
    assert re.search(rf"^story: [\d,]+ tokens of [\d,]+ kinds; {device}, torch.float32$", out, flags=re.MULTILINE)
    assert re.search(r"^test text +nats per token +perplexity +bits per byte$", out, flags=re.MULTILINE)
    test = re.search(r"^story +(\S+) +(\S+) +(\S+)$", out, flags=re.MULTILINE)
    assert float(test[2]) == pytest.approx(math.exp(float(test[1])), rel=0.01)
    assert len(re.findall(r"; longest run copied word for word: \d+ of \d+", out)) == 5
    assert ", behind '" in out and "---- the test text itself: longest run copied" in out
    result = json.loads((whole / "result.json").read_text())
    assert set(result) == {"loss", "perplexity", "bits_per_byte"}
    logged = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "val/bits_per_byte" in line] == [2, 4]
    assert result["bits_per_byte"] == pytest.approx(float(test[3]), abs=1e-3)

    fit("parts", steps=2, eval_every=2)
    # the learning rate of a longer run falls later: only the constant one is the same run
    status, _, told = call(exp, *flags(run=whole.parent / "parts", steps=4), "--resume")
    assert status == 0, told
    assert checkpoint.latest(whole.parent / "parts" / "checkpoints").name == "step-4.safetensors"

    answers = [call(exp, "sample", *flags(run=whole, prompt="On day", n=30, seed=seed)) for seed in (0, 0, 1)]
    assert all(status == 0 and out.startswith("On day") and len(out) > 20 for status, out, _ in answers)
    assert answers[0][1] == answers[1][1] != answers[2][1]
    assert call(exp, "sample", *flags(run=whole, prompt="On day", n=30, top_k=1))[1] == call(
        exp, "sample", *flags(run=whole, prompt="On day", n=30, temperature=0)
    )[1]  # fmt: skip
    assert call(exp, "sample", "On day", *flags(run=whole, n=30, seed=0))[1] == answers[0][1]
    status, out, told = call(exp, "sample", "", *flags(run=whole, n=3), "--copy-check")
    assert status == 0 and re.fullmatch(
        rf"longest run copied word for word: \d+ of {len(out) - 1} characters, .*\n", told
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("On day 3\nthe boy\n\nnot read\n"))
    status, out, _ = call(exp, "sample", *flags(run=whole, n=3))
    assert status == 0 and "On day 3" in out and "the boy" in out and "not read" not in out


@pytest.mark.device
def test_resumed_is_the_same_run(fit, call):
    words = {"schedule": "constant", "dropout": 0.2, "save_every": 2, "eval_every": 0}
    for name, steps in (("whole", 4), ("parts", 2)):
        path, _ = fit(name, steps=steps, **words)
    assert call(exp, *flags(run=path, steps=4), "--resume")[0] == 0
    states = [load_file(path.parent / name / "checkpoints" / "step-4.safetensors") for name in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())
    assert "opt.0.momentum.decoder.blocks.0.attn.w_q" in states[0] and "opt.1.mu.embed.tokens" in states[0]


@pytest.mark.device
@pytest.mark.parametrize("level", ["word", "char"])
def test_the_books_shape_at_each_level(fit, level):
    path, out = fit(tokens=level, diagnose=2, **BOOK)
    assert "embed" in out and (path / "result.json").exists()
    state = load_file(path / "checkpoints" / "step-2.safetensors")
    assert {"params.embed.head", "params.embed.positions", "params.decoder.blocks.0.attn.b_q"} <= state.keys()
    text = (path / "metrics.jsonl").read_text()
    assert "diagnose/params/noise_scale" in text and "diagnose/params/hessian/trace" in text


@pytest.mark.device
def test_replicas_of_a_sweep(fit):
    path, out = fit(replicas=2)
    assert "best of 2 by val/bits_per_byte" in out and len(json.loads((path / "result.json").read_text())["all"]) == 2


# ---- the step ----


def tiny(**values):
    args = dataclasses.replace(exp.PRESETS["small"], **{**TINY, "steps": 200, **values})
    tokenizer = tokens.train_lossless("char", "abc", 300)
    return args, tokenizer, exp.model_config(args, tokenizer)


@pytest.mark.parametrize("names", [{}, {"optimizer": "adamw"}, BOOK], ids=["muon", "adamw", "book"])
def test_overfits_one_batch(key, names):
    args, _, cfg = tiny(lr=0.02, weight_decay=0.0, **names)
    window = random.randint(key, (4, 17), 0, 256).long()
    state, first = exp.init_state(key, cfg, args), None
    for _ in range(120):
        state, out = exp.step(state, window, cfg=cfg, args=args, dtype=torch.float32)
        first = first or float(out["train/loss"])
    # 256 tokens are equally likely at first; the first of a row cannot be known
    assert first == pytest.approx(math.log(256), abs=0.1) and out["train/loss"] < 0.3


@pytest.mark.parametrize("names", [{"dropout": 0.1}, BOOK], ids=["muon", "book"])
def test_the_step_is_one_graph(key, names):
    args, _, cfg = tiny(**names)
    windows = [random.randint(random.fold_in(key, i), (4, 17), 0, 256).long() for i in range(3)]
    step = partial(exp.step, cfg=cfg, args=args, dtype=torch.float32)
    torch._dynamo.reset()
    counters.clear()
    compiled = jit(step, backend="aot_eager")
    a = b = exp.init_state(key, cfg, args)
    a = tree.map(torch.clone, a)
    for window in windows:
        a, b = compiled(a, window)[0], step(b, window)[0]
    assert counters["stats"]["unique_graphs"] == 1
    for path, x in tree.flatten(a.params).items():
        torch.testing.assert_close(x, tree.at(b.params, path), rtol=1e-3, atol=1e-4, msg=path)


def test_muon_trains_the_matrices_of_blocks_and_nothing_else(key):
    args, _, cfg = tiny(bias="all", position="learned", head="untied", norm="layer")
    state = exp.init_state(key, cfg, args)
    of_muon = {path.removeprefix("momentum.") for path in tree.flatten(state.opt[0]) if path != "step"}
    block = {"attn.w_q", "attn.w_k", "attn.w_v", "attn.w_o", "ff.in.w", "ff.gate.w", "ff.out.w"}
    assert of_muon == {f"decoder.blocks.0.{name}" for name in block}
    of_adam = {path.removeprefix("mu.") for path in tree.flatten(state.opt[1]) if path.startswith("mu")}
    assert of_muon | of_adam == set(tree.flatten(state.params)) and not of_muon & of_adam


def test_the_books_preset_has_the_books_size():
    class Words:
        def get_vocab_size(self):
            return 10_600

    args = exp.PRESETS["book"]
    params = gpt.init(random.key(0, "meta"), exp.model_config(args, Words()))
    assert tree.size(params) == 7_829_760


@pytest.mark.device
def test_a_text_is_the_beginning_of_a_longer_one(fit):
    """Whatever is said of how many tokens are wanted, the same bits are computed."""
    path, _ = fit()
    w = exp.load(path, run.load_config(path, exp.Args))
    key = random.key(0, w.device)
    short, long = ("".join(w.stream("On day", n, key)) for n in (5, 30))
    assert long.startswith(short.removesuffix("\ufffd"))


# ---- bad input ----


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "no text"),
        (b" \n", "no text"),
        (b"too short for a batch", "do not fill one batch of 4 rows of 16 tokens"),
        (b"good\n\xff bad" * 99, "line 2: not UTF-8"),
    ],
)
def test_bad_texts(call, tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    status, _, told = call(exp, *flags(data=path, steps=2, run=tmp_path / "run", **TINY))
    assert status == 1 and message in told and "Traceback" not in told


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "nowhere.txt"], "neither default, anna, hemingway, a file nor a folder"),
        (["--shard-optimizer"], "which Muon needs whole"),
        (["--width", "10", "--heads", "4"], "not a multiple"),
        (["--width", "12", "--heads", "4"], "rotary positions need an even width / heads, not 3"),
        (["--optimizer", "sgd"], "sgd"),
        (["sample", "--top-p", "0"], "--top-p must be above 0 and at most 1"),
        (["sample", "--n", "0"], "--n must be at least 1"),
    ],
)
def test_bad_flags(call, words, message):
    status, out, told = call(exp, *words)
    assert status in (1, 2) and message in " ".join(re.sub("[│╭╮╰╯─]", " ", out + told).split())


def test_a_prompt_longer_than_the_context(fit, call):
    path, _ = fit()
    status, _, told = call(exp, "sample", *flags(run=path, prompt="On day 3 the boy saw the sea. " * 9))
    assert status == 1 and re.search(r"error: the prompt has \d+ tokens, the model's context 16: shorten it", told)
