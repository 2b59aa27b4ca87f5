"""experiments/exp_gpt2.py as a user runs it, with weights of its own and a small tokenizer; its step and bad input."""

import dataclasses
import json
import math
import re
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer
from torch._dynamo.utils import counters

from experiments import exp_gpt2 as exp
from lib import checkpoint, machine, random, tree
from lib.data import sources, tokens
from lib.models import gpt, gpt2
from lib.tasks import writing
from lib.transform import jit, value_and_grad
from tests.flags import flags

V, CONTEXT = 301, 64
TINY = {
    "scored": 90, "rows": 4, "length": 16, "compile": "off", "precision": "fp32", "device": "cpu", "log_every": 1,
}  # fmt: skip
CFG = gpt2._config(1, 16, 2, 24, V, CONTEXT, 1e-5, 0.0)


def small_tokenizer(data_dir=None):
    """Bytes, some characters and the token between texts."""
    described = json.loads(tokens.train_lossless("bpe", "the sea by the old man " * 9, V - 1).to_str())
    vocabulary = described["model"]["vocab"]
    spare = (f"spare {i}" for i in range(V))
    while len(vocabulary) < V - 1:
        vocabulary[next(spare)] = len(vocabulary)
    vocabulary[gpt2.END] = V - 1
    return Tokenizer.from_str(json.dumps(described))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", small_tokenizer)
    monkeypatch.setattr(gpt2, "VOCABULARY", V)
    monkeypatch.setattr(gpt2, "CONTEXT", CONTEXT)
    monkeypatch.setattr(gpt2, "SIZES", {"small": gpt2.Size(1, 16, 2, 9_000), "medium": gpt2.Size(2, 16, 2, 12_000)})
    monkeypatch.setattr(writing, "SHOWN", 12)
    monkeypatch.setattr(exp, "TIMED", 3)


@pytest.fixture
def weights(tmp_path):
    params = tree.map(lambda x: 5 * x, gpt.init(random.key(1), CFG))
    gpt2.export(tmp_path / "weights", params, CFG)
    return tmp_path / "weights"


@pytest.fixture
def fit(call, story, tmp_path):
    """A run with flags of one's own: its directory and what it printed."""

    def make(name="run", **values):
        status, out, told = call(exp, *flags(**{"data": story, "run": tmp_path / name, **TINY, **values}))
        assert status == 0, told
        return tmp_path / name, out, told

    return make


def events(path):
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()


# ---- as released ----


@pytest.mark.device
def test_a_run_that_trains_nothing_measures_and_writes(fit, call, device, weights, monkeypatch):
    path, out, told = fit(weights="weights")  # from here, and found from elsewhere
    assert "NOISE" not in told and f"story: 90 tokens are scored; {device}, torch.float32" in out
    assert re.search(r"^GPT-2 of another size: 7,832 parameters; [\d.]+ tokens a second written", out, re.MULTILINE)
    assert "no knowledge: ln 301 = 5.707 nats per token" in out
    found = json.loads((path / "result.json").read_text())
    assert found.keys() == {"loss", "perplexity", "bits_per_byte"}
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    for prompt in exp.PROMPTS:
        assert f"behind {prompt!r}" in out
    assert not (path / "checkpoints").exists()  # the weights stay where they are
    assert sum(file.stat().st_size for file in path.iterdir()) < 200_000
    tags = events(path).Tags()
    assert {"perf/generated_tokens_per_second", "final/loss", "final/perplexity"} <= set(tags["scalars"])
    assert sum(tag.startswith("samples/") for tag in tags["tensors"]) == 8  # four ways, three prompts, all lines

    monkeypatch.chdir(path)  # another folder
    ask = ["sample", *flags(run=path, prompt="On day", n=20)]
    first = call(exp, *ask)
    assert first[0] == 0 and first[1].startswith("On day") and call(exp, *ask) == first
    assert call(exp, *ask, "--seed", 1)[1] != first[1]
    words = [call(exp, *ask, *more)[1] for more in (["--top-k", 1], ["--temperature", 0], ["--top-p", 1e-6])]
    assert len(set(words)) == 1
    assert call(exp, "sample", "", *flags(run=path, n=3))[0] == 0
    status, _, error = call(exp, "--resume", "--run", path)
    assert status == 1 and "is at step 0 already: go on with more --steps" in error
    shutil.rmtree(weights)
    status, _, error = call(exp, *ask)
    assert status == 1 and f"error: no weights at {weights}" in error


def test_what_it_finds_is_what_the_weights_say(fit, weights, story):
    """The loss of the first 90 tokens of the test text behind the token between texts, all in one window or two."""
    path, _, _ = fit(weights=weights / "model.safetensors", scored=CONTEXT)
    params, cfg = gpt2.load(weights)
    tokenizer, corpus = small_tokenizer(), exp.texts.load(str(story))
    ids = torch.tensor([V - 1, *tokenizer.encode(corpus.test).ids[:CONTEXT]])
    logits = gpt.apply(params, ids[None, :-1], cfg=cfg)[0]
    wanted = torch.nn.functional.cross_entropy(logits, ids[1:])
    assert json.loads((path / "result.json").read_text())["loss"] == pytest.approx(float(wanted), rel=1e-5)


def test_new_weights_write_noise_and_say_so(fit, call):
    path, out, told = fit()
    assert "NOTE: --weights new is a GPT-2 that has learned nothing and writes NOISE" in told
    assert re.search(r"^GPT-2 small: \d,\d\d\d parameters \(published: 9,000\)", out, re.MULTILINE)
    assert json.loads((path / "result.json").read_text())["loss"] == pytest.approx(math.log(V), abs=0.05)
    answers = [call(exp, "sample", *flags(run=path, prompt="On day", n=9, seed=seed)) for seed in (0, 0, 1)]
    assert answers[0] == answers[1] != answers[2] and "NOISE" in answers[0][2]


def test_a_prompt_of_the_book_that_does_not_fit_is_left_out(fit, tmp_path):
    cfg = dataclasses.replace(CFG, context=32)
    gpt2.export(tmp_path / "short", gpt.init(random.key(0), cfg), cfg)
    _, out, _ = fit(weights=tmp_path / "short")
    assert [f"behind {prompt!r}" in out for prompt in exp.PROMPTS] == [True, False]


def test_writing_stops_at_the_end_of_a_text(weights):
    """Weights that say END after anything, once the scale of the last norm is 0."""
    params, cfg = gpt2.load(weights)
    norm = {"scale": torch.zeros(16), "bias": params["embed"]["tokens"][V - 1]}
    params = {**params, "decoder": {**params["decoder"], "norm": norm}}
    w = exp.writer(params, small_tokenizer(), cfg, tiny_args(), torch.float32)
    assert w.end == V - 1 and w.write("On day", None) == "" and exp.speed(w) > 0


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_beginning_of_a_text(n):
    tokenizer, text = small_tokenizer(), "é–漢 the sea 😀😀 by the old man"
    part = exp.beginning(tokenizer, text, n)
    assert text.startswith(part) and exp.beginning(tokenizer, text, 0) == text
    whole = tokenizer.encode(text).ids
    cut = tokenizer.decode(whole[:n])
    assert part == cut or (cut.endswith("\ufffd") and n > len(tokenizer.encode(part).ids)) or n == 1


# ---- fine-tuned ----


@pytest.mark.device
def test_fine_tuning_its_resumption_and_its_use(fit, call, weights):
    words = {"weights": weights, "dropout": 0.2, "save_every": 2, "eval_every": 2, "lr": 1e-3}
    whole, out, _ = fit("whole", steps=4, **words)
    assert "embed" in out and "perplexity" in out
    logged = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    held_out = {line["step"]: line["val/loss"] for line in logged if "val/loss" in line}
    assert [*held_out] == [0, 2, 4] and held_out[4] < held_out[0]
    parts, _, _ = fit("parts", steps=2, **words)
    status, _, told = call(exp, "--resume", "--run", parts, "--steps", 4)
    assert status == 0, told
    states = [load_file(path / "checkpoints" / "step-4.safetensors") for path in (whole, parts)]
    assert (
        states[0].keys() == states[1].keys() and {"params.embed.positions", "opt.mu.embed.tokens"} <= states[0].keys()
    )
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())
    shutil.rmtree(weights)  # the checkpoint has what it needs
    status, out, told = call(exp, "sample", *flags(run=whole, prompt="On day", n=9))
    assert status == 0 and out.startswith("On day"), told


def test_a_measured_run_goes_on_as_a_fine_tuned_one(fit, call, weights):
    path, _, _ = fit(weights=weights)
    status, _, told = call(exp, "--resume", "--run", path, "--steps", 2)
    assert status == 0, told
    assert checkpoint.latest(path / "checkpoints").name == "step-2.safetensors"


@pytest.mark.device
def test_replicas_and_diagnoses(fit, weights):
    path, out, _ = fit(weights=weights, steps=2, replicas=2, diagnose=2)
    assert "best of 2 by val/bits_per_byte" in out and len(json.loads((path / "result.json").read_text())["all"]) == 2
    assert "diagnose/params/noise_scale" in (path / "metrics.jsonl").read_text()


# ---- the step ----


def tiny_args(**values):
    return dataclasses.replace(exp.PRESETS["small"], **{**TINY, "steps": 200, **values})


def batch(key, i=0):
    return random.randint(random.fold_in(key, i), (4, 17), 0, 256).long()


def test_a_gradient_reaches_every_leaf(key):
    params = tree.map(lambda x: 5 * x, gpt.init(key, CFG))
    _, grads = value_and_grad(partial(exp.loss, cfg=CFG, dtype=torch.float32))(params, batch(key))
    for path, g in tree.flatten(grads).items():
        if path.endswith("b_k"):  # adds the same to every score of a query
            torch.testing.assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-5)
        elif path.endswith("positions"):
            assert (g[:16] != 0).any(1).all() and not g[16:].any()
        else:
            assert g.isfinite().all() and g.any(), path


def test_overfits_one_batch(key):
    args, first = tiny_args(lr=0.02, weight_decay=0.0), None
    state = exp.init_state(key, CFG, args)
    for _ in range(120):
        state, out = exp.step(state, batch(key), cfg=CFG, args=args, dtype=torch.float32)
        first = first or float(out["train/loss"])
    assert first == pytest.approx(math.log(V), abs=0.1) and out["train/loss"] < 0.3


def test_the_step_is_one_graph_and_released_weights_stay_as_they_are(key):
    args, cfg = tiny_args(lr=1e-3), CFG
    released = gpt.init(key, cfg)
    before = tree.map(torch.clone, released)
    torch._dynamo.reset()
    counters.clear()
    step = partial(exp.step, cfg=cfg, args=args, dtype=torch.float32)
    compiled = jit(step, backend="aot_eager")
    a, b = (exp.init_state(key, cfg, args, released) for _ in range(2))
    for i in range(3):
        a, b = compiled(a, batch(key, i))[0], step(b, batch(key, i))[0]
    assert counters["stats"]["unique_graphs"] == 1
    for path, x in tree.flatten(a.params).items():
        torch.testing.assert_close(x, tree.at(b.params, path), rtol=1e-3, atol=1e-4, msg=path)
        assert torch.equal(tree.at(before, path), tree.at(released, path)) and not torch.equal(x, tree.at(before, path))


# ---- bad input ----


@pytest.mark.parametrize(
    "words, message",
    [
        (["--replicas", "2"], "--replicas and --sweep need --steps"),
        (["--sweep", "lr=1e-3,1e-4"], "--replicas and --sweep need --steps"),
        (["--weights", "nowhere"], "error: no weights at "),
        (["--steps", "2", "--length", "65"], "error: --length 65: the model's context is 64"),
        (["--steps", "2", "--rows", "4000"], "do not fill one batch of 4000 rows of 16 tokens"),
        (["--data", "nowhere.txt"], "neither default, anna, hemingway, a file nor a folder"),
        (["--size", "huge"], "invalid choice"),
        (["--scored", "-1"], "--scored must be at least 0, not -1"),
        (["sample", "--top-p", "0"], "--top-p must be above 0 and at most 1"),
        (["sample"], "no finished run of exp_gpt2"),
    ],
)
def test_bad_flags(call, story, words, message):
    data = [] if "sample" in words or "--data" in words else flags(data=story)
    status, out, told = call(exp, *(flags(**TINY) if data else []), *data, *words)
    assert status in (1, 2) and message in " ".join(re.sub("[│╭╮╰╯─]", " ", out + told).split())
    assert "Traceback" not in told


def test_weights_of_another_size_or_vocabulary(call, story, weights, tmp_path):
    status, _, told = call(exp, *flags(data=story, weights=weights, size="medium", **TINY))
    assert status == 1 and "is a GPT-2 of another size, not --size medium" in told
    cfg = dataclasses.replace(CFG, vocabulary=300)
    gpt2.export(tmp_path / "few", gpt.init(random.key(0), cfg), cfg)
    status, _, told = call(exp, *flags(data=story, weights=tmp_path / "few", **TINY))
    assert status == 1 and "few knows 300 tokens, and OpenAI's tokenizer has 301: put its own beside it" in told


def test_a_tokenizer_beside_the_weights(fit, call, story, weights, monkeypatch):
    """It is the run's: another than OpenAI's, and kept where the weights and OpenAI's are gone."""
    made = tokens.train_lossless("bpe", story.read_text(encoding="utf-8"), V - 1)
    made.add_special_tokens([gpt2.END])
    made.save(str(weights / "tokenizer.json"))
    monkeypatch.setattr(gpt2, "tokenizer", lambda data_dir: pytest.fail("OpenAI's"))
    path, _, _ = fit(weights=weights, steps=1)
    loss = json.loads((path / "result.json").read_text())["loss"]
    shutil.rmtree(weights)
    w = exp.load(path, exp.Args(steps=1, device="cpu", precision="fp32"))
    assert w.tokenizer.get_vocab() == made.get_vocab() and w.end == made.token_to_id(gpt2.END)
    assert w.score(exp.beginning(made, exp.texts.load(str(story)).test, 90))["loss"] == pytest.approx(loss, rel=1e-4)
    assert w.end not in w.ids(gpt2.END).tolist()  # a text that spells it
    status, out, told = call(exp, "sample", *flags(run=path, prompt="On day", n=9))
    assert status == 0 and out.startswith("On day"), told


def test_tokenizers_that_will_not_do(call, story, weights):
    made = tokens.train_lossless("bpe", story.read_text(encoding="utf-8"), V - 1)
    made.save(str(weights / "tokenizer.json"))
    words = flags(data=story, weights=weights, **TINY)
    status, _, told = call(exp, *words)
    assert status == 1 and "weights has no <|endoftext|>, the token between two texts" in told
    made.add_special_tokens([gpt2.END])
    described = json.loads(made.to_str())
    described["pre_tokenizer"]["add_prefix_space"] = True
    for change in ({"normalizer": {"type": "Lowercase"}}, {"pre_tokenizer": described["pre_tokenizer"]}):
        (weights / "tokenizer.json").write_text(json.dumps(json.loads(made.to_str()) | change))
        status, _, told = call(exp, *words)
        assert status == 1 and "changes a text, so bits per byte would mean nothing" in told
    made.add_tokens(["one", "more", "token"])
    made.save(str(weights / "tokenizer.json"))
    status, _, told = call(exp, *words)
    assert status == 1 and f"weights knows {V} tokens, the tokenizer {V + 3}: it is that of another model" in told


def test_the_hub(call, story, weights, monkeypatch, tmp_path):
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))

    def down(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(sources, "_from_url", down)
    words = flags(data=story, weights="hub", run=tmp_path / "run", **TINY)
    status, _, told = call(exp, *words)
    assert status == 1 and "cannot download gpt2.safetensors: no route to host\nTo put it there by hand:" in told
    assert not (tmp_path / "run").exists()
    (tmp_path / "by-hand").mkdir()
    cfg = gpt2.config("small")
    cfg = dataclasses.replace(cfg, block=dataclasses.replace(cfg.block, heads=2))
    gpt2.export(tmp_path / "by-hand", gpt.init(random.key(0), cfg), cfg)
    (tmp_path / "by-hand" / "model.safetensors").rename(tmp_path / "by-hand" / "gpt2.safetensors")
    status, out, told = call(exp, *words, "--data-dir", tmp_path / "by-hand")
    assert status == 0 and "GPT-2 small" in out, told
    (tmp_path / "by-hand" / "gpt2.safetensors").rename(tmp_path / "by-hand" / "gpt2-medium.safetensors")
    words = flags(data=story, weights="hub", size="medium", **TINY, data_dir=tmp_path / "by-hand")
    status, _, told = call(exp, *words)
    assert status == 1 and "is a GPT-2 small, not --size medium" in told


@pytest.mark.parametrize("words", [{}, {"weights": "hub"}, {"steps": 1}])
def test_a_model_without_room(call, story, words, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 10_000)
    monkeypatch.setattr(gpt, "init", lambda *_: pytest.fail("something was made"))
    status, _, told = call(exp, *flags(data=story, **TINY, **words))
    assert status == 1 and re.search(r"error: GPT-2 small needs 0\.0 GB .*, this machine has 0\.0 GB free", told)


def test_a_prompt_longer_than_the_context(fit, call, weights):
    path, _, _ = fit(weights=weights)
    status, _, told = call(exp, "sample", *flags(run=path, prompt="On day 3 the boy saw the sea. " * 9))
    assert status == 1 and re.search(r"error: the prompt has \d+ tokens, the model's context 64: shorten it", told)
