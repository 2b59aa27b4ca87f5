"""experiments/exp_gpt2_classify.py as a user runs it, on made-up sentences and tiny weights; its step; and
lib/tasks/classify."""

import dataclasses
import io
import json
import math
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters

from experiments import exp_gpt2_classify as exp
from lib import random, transformer, tree
from lib.data import labelled, tokens
from lib.data.labelled import Example
from lib.faults import DataError
from lib.models import gpt, gpt2, smollm
from lib.tasks import classify
from lib.tasks.classify import Encoded
from lib.transform import jit, value_and_grad
from tests.flags import flags

TUNES = ["full", "last", "lora", "head"]
COMMON = {
    "length": 12, "batch": 8, "blocks": 1, "rank": 2, "compile": "off", "precision": "fp32", "device": "cpu",
    "log_every": 1, "eval_every": 2,
}  # fmt: skip


@pytest.fixture
def fit(call, films, tiny_llama, tmp_path):
    """A run of a few steps with flags of one's own: its directory and what it printed."""

    def make(name="run", steps=2, **values):
        path = tmp_path / name
        status, out, told = call(
            exp, *flags(**{"data": films, "weights": tiny_llama, "steps": steps, "run": path, **COMMON, **values})
        )
        assert status == 0, told
        return path, out + told

    return make


# ---- a whole run ----


@pytest.mark.device
def test_a_run_its_figures_and_its_use(fit, call, device, films, monkeypatch):
    path, out = fit(steps=60, tune="last", lr=1e-2, eval_every=30, blocks=2)
    corpus = labelled.load(str(films))
    assert f"films: {len(corpus.train)} training texts of down, up; {device}, torch.float32\n" in out
    state, result = (
        load_file(path / "checkpoints" / "step-60.safetensors"),
        json.loads((path / "result.json").read_text()),
    )
    trained = {name: x for name, x in state.items() if name.startswith("params.")}
    assert {name.split(".")[1] for name in trained} == {"head", "blocks", "norm"}
    assert "params.blocks.1.attn.w_q" in trained and not any("embed" in name or "blocks.2" in name for name in state)
    n, all_ = re.search(r"^([\d,]+) parameters are trained, of ([\d,]+)$", out, flags=re.MULTILINE).groups()
    assert int(n.replace(",", "")) == sum(x.numel() for x in trained.values()) < int(all_.replace(",", "")) / 2
    assert result["test/accuracy"] > 0.9 and result["test/tfidf"] > 0.9  # a half by chance
    assert result["test/majority"] == pytest.approx(0.5, abs=0.2)
    for line in ("always the most common label", "tf-idf, logistic regression", ".*tiny: the last 2 blocks trained"):
        assert re.search(rf"^{line} +[\d.]+ %$", out, flags=re.MULTILINE)
    assert re.search(r"^  down +[\d.]+ %\n  up +[\d.]+ %$", out, flags=re.MULTILINE)

    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    assert {"train/loss", "train/accuracy", "train/lr", "grad/norm", "val/loss", "val/accuracy", "final/test/accuracy",
            "final/test/tfidf", "final/test/majority"} <= set(events.Tags()["scalars"])  # fmt: skip
    assert [e.step for e in events.Scalars("val/loss")] == [30, 60]
    losses = [e.value for e in events.Scalars("train/loss")]
    assert losses[0] == pytest.approx(math.log(2), abs=0.1) and losses[-1] < 0.2
    assert "samples/confusion" in events.Tags()["images"]
    assert "samples/mistakes/text_summary" in events.Tags()["tensors"]

    for word, label in (("great", "up"), ("awful", "down")):
        status, out, _ = call(exp, "sample", f" The story of part 2 is {word}. ", *flags(run=path))
        found = [re.fullmatch(r" *([\d.]+) %  (\w+)", line) for line in out.splitlines()]
        assert status == 0 and [m[2] for m in found] == [label, "down" if label == "up" else "up"]
        assert float(found[0][1]) > 50 and sum(float(m[1]) for m in found) == pytest.approx(100, abs=0.02)
    monkeypatch.setattr(sys, "stdin", io.StringIO("The film is fine.\nThe cast is poor.\n\nnot read\n"))
    status, out, told = call(exp, "sample", *flags(run=path))
    assert status == 0 and len(out.splitlines()) == 4 and "One text a line" in told
    assert "only the first 12 tokens are read" in call(exp, "sample", *flags(run=path, text="film " * 30))[2]


@pytest.mark.parametrize("tune", TUNES)
def test_resumed_is_the_same_run(fit, call, tune):
    whole, _ = fit("whole", steps=4, tune=tune, save_every=2)
    # the learning rate of a longer run falls later: a run that was stopped is one that lost its last checkpoint
    for file in ("result.json", "checkpoints/step-4.safetensors"):
        (whole / file).rename(whole / f"{Path(file).name}.first")
    status, _, told = call(exp, "--resume", *flags(run=whole))
    assert status == 0, told
    first, again = (load_file(whole / name) for name in ("step-4.safetensors.first", "checkpoints/step-4.safetensors"))
    assert first.keys() == again.keys() and all(torch.equal(x, again[name]) for name, x in first.items())
    assert (whole / "result.json").read_text() == (whole / "result.json.first").read_text()
    status, out, told = call(exp, "sample", *flags(run=whole, text="The film is good."))
    assert status == 0 and len(out.splitlines()) == 2, told


@pytest.mark.device
def test_replicas_of_a_sweep(fit):
    path, out = fit(tune="lora", replicas=2, sweep="lr=1e-3,1e-2")
    assert "best of 4 by val/loss" in out and len(json.loads((path / "result.json").read_text())["all"]) == 4
    assert load_file(path / "checkpoints" / "step-2.safetensors")["params.head.w"].shape == (4, 24, 2)


@pytest.mark.device
def test_diagnosed(fit):
    path, _ = fit(tune="last", diagnose=2)
    text = (path / "metrics.jsonl").read_text()
    assert "diagnose/params/noise_scale" in text and "diagnose/params/update/head.w" in text


def test_weights_of_gpt2s_shape_and_none(fit, tiny_llama, tmp_path, monkeypatch):
    tiny = smollm.load(str(tiny_llama))
    monkeypatch.setattr(gpt2, "tokenizer", lambda _: pytest.fail("OpenAI's"))
    block = transformer.Config(
        width=24, heads=3, ff=48, norm="layer",
        activation="gelu_tanh", position="learned", bias="all", eps=1e-5,
    )  # fmt: skip
    cfg = gpt.Config(tiny.cfg.vocabulary, 32, 2, block, "tied")
    gpt2.export(tmp_path / "gpt2", gpt.init(random.key(1), cfg), cfg)
    shutil.copy(tiny_llama / "tokenizer.json", tmp_path / "gpt2")
    path, out = fit("of_gpt2", weights=tmp_path / "gpt2", tune="full")
    assert "params.trunk.embed.positions" in load_file(path / "checkpoints" / "step-2.safetensors")
    assert re.search(r"gpt2: all trained +[\d.]+ %", out)

    load = smollm.load
    monkeypatch.setattr(smollm, "load", lambda *_, **__: load(str(tiny_llama)))
    path, out = fit("new", weights="new", tune="full", layers=1, width=192)
    state = load_file(path / "checkpoints" / "step-2.safetensors")
    assert state["params.trunk.decoder.blocks.0.attn.w_k"].shape == (192, 1, 64)
    assert "params.trunk.decoder.blocks.1.attn.w_k" not in state
    assert re.search(r"from nothing: 1 layers of width 192 +[\d.]+ %", out)


# ---- the step ----


def case(tune, layers=3, **values):
    """(args, cfg, trunk, frozen, data, state) of a tiny decoder."""
    args = exp.Args(**{**COMMON, "tune": tune, "steps": 40, "length": 6, "dropout": 0.1, **values})
    block = transformer.Config(
        width=16, heads=4, ff=24, norm="rms",
        activation="swiglu", position="rotary", bias="none", kv_heads=2,
    )  # fmt: skip
    cfg = gpt.Config(40, 8, layers, block)
    trunk, ids = gpt.init(random.key(1), cfg), random.randint(random.key(2), (12, 6), 0, 40).long()
    data = Encoded(ids, random.randint(random.key(3), (12,), 0, 6).long(), torch.arange(12) % 3)
    frozen, _ = exp.divided(trunk, args)
    return args, cfg, trunk, frozen, data, exp.init_state(random.key(0), trunk, cfg, 3, args)


@pytest.mark.parametrize("tune", TUNES)
def test_what_is_trained_and_what_gets_a_gradient(tune):
    args, cfg, trunk, frozen, data, state = case(tune)
    whole = exp.assembled(frozen, state.params, args)
    assert tree.flatten(whole).keys() == tree.flatten(trunk).keys()
    assert all(torch.equal(x, tree.at(trunk, path)) for path, x in tree.flatten(whole).items())
    assert not {x.data_ptr() for x in tree.leaves(state.params)} & {x.data_ptr() for x in tree.leaves(trunk)}
    held = {"full": 0, "last": tree.size(trunk) - tree.size([trunk["decoder"]["blocks"][0], trunk["decoder"]["norm"]])}
    assert tree.size(frozen) == held.get(tune, tree.size(trunk))
    before = [tree.map(torch.clone, part) for part in (state, frozen, trunk)]
    if tune == "lora":  # whose a has no gradient as long as b is zero
        b = {path: {"a": p["a"], "b": p["b"] + 0.1} for path, p in state.params["lora"].items()}
        state = state._replace(params={**state.params, "lora": b})
    how = {"cfg": cfg, "args": args, "dtype": torch.float32}
    grads = value_and_grad(partial(exp.loss, **how), has_aux=True)(state.params, data, frozen)[1]
    assert all(g.any() for g in tree.leaves(grads))
    after, _ = exp.step(state, torch.arange(8), data, frozen, **how)
    moved = {
        path for path, x in tree.flatten(state.params).items() if not torch.equal(x, tree.flatten(after.params)[path])
    }
    assert moved == tree.flatten(state.params).keys()
    if tune != "lora":
        assert all(
            torch.equal(a, b) for a, b in zip(tree.leaves(before), tree.leaves([state, frozen, trunk]), strict=True)
        )


def test_the_backward_pass_ends_at_the_frozen_blocks(monkeypatch):
    """No frozen block computes anything that autograd keeps track of."""
    tracked, block = [], transformer.block

    def watched(*args, **kwargs):
        out = block(*args, **kwargs)
        tracked.append(out[0].requires_grad)
        return out

    monkeypatch.setattr(transformer, "block", watched)
    for tune, expected in (("head", [False] * 3), ("last", [False, False, True]), ("full", [True] * 3)):
        args, cfg, _, frozen, data, state = case(tune)
        tracked.clear()
        exp.step(state, torch.arange(8), data, frozen, cfg=cfg, args=args, dtype=torch.float32)
        assert tracked == expected, tune


def test_the_step_is_one_graph():
    args, cfg, _, frozen, data, state = case("last", layers=2)
    step = partial(exp.step, cfg=cfg, args=args, dtype=torch.float32)
    torch._dynamo.reset()
    counters.clear()
    compiled = jit(step, backend="aot_eager")
    a, b = tree.map(torch.clone, state), state
    for i in range(3):
        index = torch.arange(i, i + 8)
        a, b = compiled(a, index, data, frozen)[0], step(b, index, data, frozen)[0]
    assert counters["stats"]["unique_graphs"] == 1
    for (path, x), y in zip(tree.flatten(a.params).items(), tree.leaves(b.params), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4, msg=path)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_overfits_one_batch(tune):
    args, cfg, _, frozen, data, state = case(tune, lr=0.02, dropout=0.0)
    for _ in range(40):
        state, out = exp.step(state, torch.arange(12), data, frozen, cfg=cfg, args=args, dtype=torch.float32)
    assert out["train/loss"] < 0.2 and out["train/accuracy"] > 0.9


def test_padding_and_company_do_not_matter(monkeypatch):
    """A text alone, without padding, and in a batch has the same probabilities, in the order of the texts."""
    args, cfg, _, frozen, data, state = case("last")
    monkeypatch.setattr(exp, "AT_ONCE", 5)
    how = {"cfg": cfg, "args": args, "dtype": torch.float32}
    together = exp.predict(state.params, data, frozen, **how)
    torch.testing.assert_close(together.exp().sum(-1), torch.ones(12))
    for i in range(12):
        n = int(data.last[i]) + 1
        alone = Encoded(data.ids[i : i + 1, :n], data.last[i : i + 1], data.labels[i : i + 1])
        torch.testing.assert_close(exp.predict(state.params, alone, frozen, **how)[0], together[i])
        changed = data.ids.clone()
        changed[i, n:] = 39 - changed[i, n:]
        again = exp.predict(state.params, data._replace(ids=changed), frozen, **how)
        torch.testing.assert_close(again, together)


# ---- lib/tasks/classify ----


def test_encoded(tiny_llama):
    tokenizer = smollm.load(str(tiny_llama)).tokenizer
    found, longer = classify.encoded(tokenizer, [Example("bad", 1), Example("The film is good. " * 9, 0)], 7)
    ids = tokens.encode(tokenizer, ["bad", "The film is good. " * 9])
    n = len(ids[0])
    assert longer == 1 and found.ids.shape == (2, 7) and found.last.tolist() == [n - 1, 6]
    assert found.ids[0].tolist() == ids[0] + [0] * (7 - n) and found.ids[1].tolist() == ids[1][:7]
    assert found.labels.tolist() == [1, 0]
    assert classify.encoded(tokenizer, [Example("bad", 1)], n)[1] == 0


def test_baselines_and_report():
    train = [Example(f"good {i}", 1) for i in range(6)] + [Example(f"bad {i}", 0) for i in range(5)]
    test = [Example("bad a", 0), Example("bad b", 0), Example("good c", 1)]
    corpus = labelled.Labelled("made", train, [], test, ["down", "up", "rare"])
    others = classify.baselines(corpus, pytest.fail)
    assert others == {"majority": pytest.approx(1 / 3), "tfidf": 1.0}
    logp = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.1, 0.9, 0.0]]).log()
    result, lines = classify.report("ours", logp, corpus, others)
    assert result == {"test/accuracy": pytest.approx(2 / 3), "test/majority": pytest.approx(1 / 3), "test/tfidf": 1.0}
    assert [line.split()[-2] for line in lines[1:]] == ["33.3", "100.0", "66.7", "50.0", "100.0"]
    assert not any("rare" in line for line in lines)


def test_a_baseline_that_cannot_be_had_is_left_out():
    """No word of two characters: tf-idf has nothing to count."""
    train = [Example("a b", 1), Example("c", 0), Example("d", 0)]
    corpus = labelled.Labelled("made", train, [], [Example("b", 0)], ["down", "up"])
    told = []
    others = classify.baselines(corpus, told.append)
    assert others == {"majority": 1.0} and [line[:24] for line in told] == ["no baseline by tf-idf: e"]
    result, lines = classify.report("ours", torch.tensor([[0.9, 0.1]]).log(), corpus, others)
    assert result == {"test/accuracy": 1.0, "test/majority": 1.0} and not any("tf-idf" in line for line in lines)


def test_the_baseline_counts_words_with_their_marks():
    """Without the vowel signs these words are the same."""
    train = [Example("किताब मि", 1), Example("किताब मी", 0)] * 5
    corpus = labelled.Labelled("made", train, [], [Example("मि", 1), Example("मी", 0)], ["down", "up"])
    assert classify.baselines(corpus, pytest.fail)["tfidf"] == 1.0
    told = []
    classify.baselines(corpus._replace(train=[Example("你好。", 1), Example("再见。", 0)]), told.append)
    assert "takes whole sentences for words" in told[0]


def test_the_baselines_come_before_the_training(fit, monkeypatch):
    monkeypatch.setattr(classify, "baselines", lambda corpus, write: {}["baseline"])
    with pytest.raises(KeyError, match="baseline"):
        fit(save_every=1)
    assert not list(Path("run").glob("checkpoints/*"))


def test_a_text_and_the_likeliest_labels():
    assert classify.readable("  a – b \n") == "a – b"
    for text, message in (("", "no text"), (" \n", "no text"), ("caf\udce9", "not UTF-8: character 3 of")):
        with pytest.raises(DataError, match=message):
            classify.readable(text)
    table = classify.likeliest(torch.tensor([0.125, 0.625, 0.25]), ["a", "b", "c"])
    assert table.columns == ("percent", "label") and table.rows == [(62.5, "b"), (25.0, "c"), (12.5, "a")]
    assert table.lines() == " 62.50 %  b\n 25.00 %  c\n 12.50 %  a\n"
    assert classify.likeliest(torch.tensor([0.125, 0.625, 0.25]), ["a", "b", "c"], 1).rows == [(62.5, "b")]


# ---- bad input ----


@pytest.mark.parametrize(
    "words, message",
    [
        ({"data": "nowhere"}, "neither rotten, imdb, bbc, a folder nor a CSV file"),
        ({"weights": "nowhere"}, "nowhere"),
        ({"length": 33}, "--length 33: these weights read at most 32 tokens"),
        ({"blocks": 4}, "--blocks 4: these weights have 3"),
        ({"blocks": 0}, "must be at least 1"),
        ({"width": 100}, "--width 100 is not a multiple of 192"),
        ({"weights": "new"}, "--weights new knows nothing that could stay as it is: give --tune full"),
        ({"batch": 500}, "training examples are fewer than a batch of 500"),
        ({"tune": "some"}, "some"),
    ],
)
def test_bad_flags(call, films, tiny_llama, words, message):
    status, out, told = call(
        exp, *flags(**{"data": films, "weights": tiny_llama, "steps": 2, "run": "run", **COMMON, **words})
    )
    assert status in (1, 2) and message in " ".join(re.sub("[│╭╮╰╯─]", " ", out + told).split())
    assert "Traceback" not in told


def test_the_tokenizer_is_the_runs(fit, films, tiny_llama, tmp_path):
    """Of one that was changed since where the weights are, nothing is read; a run of before that kept none reads it."""
    weights = shutil.copytree(tiny_llama, tmp_path / "weights")
    path, _ = fit(tune="head", weights=weights)
    kept = tokens.load(path).get_vocab()
    tokens.train_lossless("bpe", films.read_text(), 280).save(str(weights / "tokenizer.json"))
    args = exp.Args(**COMMON, weights=str(weights), tune="head")
    assert (
        exp.load(path, args).decoder.tokenizer.get_vocab() == kept == smollm.load(str(tiny_llama)).tokenizer.get_vocab()
    )
    assert exp.load(path, args).decoder.tokenizer.encode_special_tokens  # which the run's file does not say
    (path / "tokenizer.json").unlink()
    assert exp.load(path, args).decoder.tokenizer.get_vocab_size() == 280


def test_gpt2s_of_other_tokens(call, films, tmp_path):
    cfg = gpt2._config(1, 16, 2, 24, 300, 32, 1e-5, 0.0)
    gpt2.export(tmp_path / "gpt2", gpt.init(random.key(1), cfg), cfg)
    made = tokens.train_lossless("bpe", films.read_text(), 300)
    made.add_tokens(["more"])
    made.save(str(tmp_path / "gpt2" / "tokenizer.json"))
    status, _, told = call(exp, *flags(data=films, weights=tmp_path / "gpt2", steps=2, run=tmp_path / "r", **COMMON))
    assert status == 1 and "gpt2 knows 300 tokens, the tokenizer 301: it is that of another model" in told


def test_bad_texts_and_runs(fit, call):
    path, _ = fit(tune="head")
    for text, message in ((" ", "error: no text"), ("caf\udce9", "error: not UTF-8: character 3 of")):
        status, _, told = call(exp, "sample", *flags(run=path, text=text))
        assert status == 1 and told.splitlines()[-1].startswith(message)
    (path / exp.LABELS).unlink()
    status, _, told = call(exp, "sample", *flags(run=path, text="good"))
    assert status == 1 and f"cannot read {path / exp.LABELS}" in told


def test_presets():
    assert set(exp.PRESETS) == {"small", "book", "best"}
    assert dataclasses.replace(exp.PRESETS["book"], lr=1.0).tune == "full"
