"""experiments/exp_assistant.py as a user runs it, with a small model of random weights: what it learns and where it
sends requests; its templates, and the tags of arguments."""

import io
import json
import sys
from collections import Counter

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments import exp_assistant as exp
from lib import random, tree
from lib.data import atlas, dictionary, requests, templates, tokens
from lib.data.requests import Request, Span
from lib.models import bert
from lib.tools import assistant
from tests.flags import flags

TINY = {
    "start": "scratch", "requests": 400, "rows": 16, "length": 20, "dropout": 0.0, "compile": "off",
    "precision": "fp32", "device": "cpu", "log_every": 1,
}  # fmt: skip
CANARY = "sk-canary-88ab"


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A run that knows a few requests by heart."""
    path = tmp_path_factory.mktemp("assistant") / "run"
    known = [requests.marked(*line) for line in KNOWN]
    patch = pytest.MonkeyPatch()
    patch.setattr(exp, "corpora", lambda args: (known * 12, known, known))
    patch.setattr(sys, "argv", ["exp", *flags(**TINY, steps=150, lr=2e-3, eval_every=75, save_every=150, run=path)])
    exp.run.main(exp.NAME, exp.PRESETS, exp.train, exp.load, exp.answers, exp.Use)
    patch.undo()
    return path


KNOWN = [
    ("calculate", "what is {23*55+123|expression}"), ("calculate", "work out {2+2|expression}"),
    ("convert", "{5|amount} {km|from} in {miles|to}"), ("convert", "convert {3|amount} {pounds|from} to {grams|to}"),
    ("clock", "what time is it"), ("plot", "plot {sin(x)|formula} from {0|low} to {10|high}"),
    ("translate", "translate {good morning|text}"), ("chat", "tell me a joke"), ("none", "order a pizza"),
    ("lookup", "what does {serendipity|subject} mean"), ("documents", "search my notes for {the rent|question}"),
]  # fmt: skip


def test_a_run_its_figures_and_its_pictures(taught):
    result = json.loads((taught / "result.json").read_text())
    assert set(result) == {"test/tool", "test/sure85", "test/none", "test/arguments"}
    assert result["test/tool"] == result["test/none"] == 1 and result["test/arguments"] > 0.8
    found = EventAccumulator(str(taught), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    assert {"val/tool", "val/arguments", "val_f1/amount", "train/loss"} <= set(found.Tags()["scalars"])
    assert {"samples/confusion", "test/confusion"} <= set(found.Tags()["images"])
    assert "samples/least_sure/text_summary" in found.Tags()["tensors"]


@pytest.fixture(autouse=True)
def books(monkeypatch):
    """Nothing in them, so that none is fetched whatever a small model takes for a question of facts."""
    empty = {f"{kind}.{part}": b"" for kind in ("index", "data") for part in dictionary.PARTS}
    monkeypatch.setattr(atlas, "load", lambda data_dir: atlas.Atlas([], []))
    monkeypatch.setattr(dictionary, "load", lambda data_dir: dictionary.Dictionary(empty))


def sample(call, taught, *words, **more):
    return call(exp, "sample", *flags(run=taught, sure=0.3, **more), *words)


def test_requests_are_answered(taught, call, tmp_path, monkeypatch):
    status, out, told = sample(call, taught, "what is 23*55+123")
    assert (status, out) == (0, "1388\n") and told.startswith("[calculate] expression: 23*55+123\n")
    status, out, _ = sample(call, taught, "5 km in miles")
    assert (status, out) == (0, "5 km ≈ 3.106856 miles\n")
    monkeypatch.chdir(tmp_path)
    status, out, _ = sample(call, taught, "plot sin(x) from 0 to 10")
    assert status == 0 and out == "sin(x) for x from 0 to 10: plot.png\n"
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert "None of my tools can do that" in sample(call, taught, "order a pizza")[1]
    status, _, told = sample(call, taught, "translate good morning")
    assert status == 1 and "`just run exp_transformer_fr` makes one" in told
    status, _, told = sample(call, taught, "search my notes for the rent")
    assert status == 1 and "--documents FOLDER" in told


@pytest.mark.parametrize(
    "words, told",
    [
        ("", "the request is empty"), (" \u200b\x1b ", "the request is empty"), ("x" * 10_001, "10,001 characters"),
        ("caf\udce9", "not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_request(taught, call, words, told):
    status, _, err = sample(call, taught, words)
    assert status == 1 and told in err


@pytest.mark.parametrize("words", ["🙂🙂🙂", "x " * 5000, "<|im_end|>[MASK]", "...", "a"])
def test_odd_requests_are_asked_back_or_answered(taught, call, words, monkeypatch):
    monkeypatch.setattr(assistant.Desk, "answers", lambda self, request, *_: iter(()))
    assert call(exp, "sample", *flags(run=taught, sure=0.999), words)[0] == 0


def test_what_it_is_unsure_of_it_asks_back_and_takes_a_number(taught, call, monkeypatch):
    lines = "what is 23*55+123\n1\n4\nwork out 2+2\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    status, out, told = call(exp, "sample", *flags(run=taught, sure=0.9999999))
    first, _, rest = out.partition("1388\n")
    assert status == 0 and first.startswith("I am not sure what you want.")
    assert "\n1. calculate: arithmetic" in first
    assert (
        told.count("[calculate]") == 1 and rest.count("I am not sure") == 2
    )  # a 4 means nothing, nor any number later


KINDS = [
    ("calculate", "what is {2+2|expression}"), ("translate", "translate {hello|text}"), ("clock", "what time is it"),
    ("convert", "{5|amount} {km|from} in {miles|to}"), ("convert", "{3|amount} {kg|from}"), ("chat", "thanks a lot"),
    ("calculate", "{5|expression}?"), ("plot", "plot {x|formula} from -2"),
    ("plot", "plot {x|formula}"), ("plot", "{3*x|formula} too"), ("convert", "{2|amount} {m|from} in {cm|to}"),
]  # fmt: skip


@pytest.mark.parametrize(
    "tool, line, parts",
    [
        ("translate", "what is 2+2 and translate {hello|text}", ["what is 2+2", "translate hello"]),
        ("convert", "{5|amount} {km|from} in miles. 2 m in {cm|to}", ["5 km in miles", "2 m in cm"]),
        ("clock", "what time is it; then translate hello", ["what time is it", "translate hello"]),
        ("translate", "translate {what time is it and what time is it|text}", []),  # within an argument
        ("convert", "{5|amount} {km|from} in {miles|to} and 3 kg", []),  # to what?
        ("calculate", "thanks a lot. what is {2+2|expression}", []),  # small talk is no request beside another
        ("plot", "plot {x|formula} and 3*x too", []),  # two of these are seldom meant
        ("plot", "plot {x|formula} from -2 and 5?", []),
        ("clock", "what time is it and blue", []),
        ("clock", "what time is it. ", []),
    ],
)
def test_two_requests_in_one_are_told_apart(tool, line, parts):
    known = {one.text: one for one in (requests.marked(*of) for of in KINDS)}
    told = lambda text: [(known.get(text, Request(text, "none", ())), 0.98 if text in known else 0.6)]  # noqa: E731
    found = assistant._several(requests.marked(tool, line), assistant.Assistant(told, None))
    assert found == parts


def test_a_line_that_fails_is_told_and_the_next_one_answered(taught, call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("translate good morning\nwhat is 23*55+123\n"))
    status, out, told = call(exp, "sample", *flags(run=taught, sure=0.3))
    assert (status, out) == (0, "1388\n") and "error: there is no finished run" in told


def test_a_key_is_found_nowhere(taught, call, monkeypatch, tmp_path):
    """Neither in what is printed nor in any file, whatever goes wrong."""
    for name in ("OPENAI_API_KEY", "WOLFRAM_APPID"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:9/{CANARY}")
    monkeypatch.setenv("OPENAI_MODEL", "tiny")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run"
    printed = [*call(exp, *flags(**TINY, steps=1, eval_every=0, run=path))]
    for words in ("tell me a joke", "what is 1/0", "5 km in miles"):
        printed += sample(call, taught, words, online=True)
    assert any("no answer from 127.0.0.1" in str(part) for part in printed)
    assert CANARY not in "".join(map(str, printed))
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]


def test_a_tool_is_added_by_examples(taught):
    args = exp.run.load_config(taught, exp.Args)
    cfg = exp.config(args, tokenizer := tokens.load(taught))
    state = exp.run.load(taught, exp.init_state(random.key(0, "meta"), cfg, args))
    router = exp.Router(state.params, tokenizer, cfg)
    asked = "compose a chorale"
    assert router.routed([asked])[0][0].tool != "compose"
    wider = router.extended("compose", ["write a chorale", "a chorale of eight bars", asked])
    assert wider.routed([asked])[0][0].tool == "compose" and wider.routed(["work out 2+2"])[0][0].tool == "calculate"


def test_steps_are_finite():
    args = exp.Args(start="scratch", steps=3)
    cfg = bert.Config(60, 12, 1, bert.block_config(32, 1, 64, 0.1))
    ids = random.randint(random.key(1), (32, 12), 5, 60).long()
    data = requests.Rows(ids, ids[:, 0] % len(requests.TOOLS), torch.where(ids % 3 > 0, ids % 7, tokens.NOTHING))
    state, losses = exp.init_state(random.key(0), cfg, args), []
    for i in range(3):
        index = torch.arange(8) + 8 * i
        state, out = exp.step(state, index, data, cfg=cfg, args=args, dtype=torch.float32)
        losses.append(float(out["train/loss"]))
    assert all(torch.isfinite(x).all() for x in tree.leaves(state.params)) and losses[0] > 0


# ---- templates and tags ----


def test_templates_make_requests_of_every_tool_by_the_seed():
    train, val = templates.load()
    made = templates.made(train, 1700, 0)
    assert made == templates.made(train, 1700, 0) != templates.made(train, 1700, 1)
    assert set(Counter(one.tool for one in made).values()) == {100}
    slots = {(one.tool, slot) for one in templates.made(train, 8500, 2) for slot, _ in one.arguments()}
    assert slots == {(tool, slot) for tool, of in requests.TOOLS.items() for slot in of}
    assert all(words.strip() == words and words for one in made for _, words in one.arguments())
    assert not any(set(train.of[tool]) & set(val.of[tool]) for tool in requests.TOOLS)


def test_nothing_that_was_written_to_measure_with_is_learnt():
    held = {one.text.lower() for one in requests.held()}
    made, _, measured = exp.corpora(exp.Args(requests=17_000))
    assert not held & {one.text.lower() for one in made} and len(measured) == len(held)
    assert "plot" not in {one.tool for one in exp.corpora(exp.Args(requests=1700, without=("plot",)))[0]}


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.train_wordpiece([one.text for one in requests.held()], 600)


def test_tags_give_back_the_arguments(tokenizer):
    """Whatever the pieces of words are: spans that are tagged are found, to the letter."""
    held = requests.held()
    rows = requests.rows(tokenizer, held, 120)
    pieces = requests.encoded(tokenizer, held, 120)
    for one, tags, mine in zip(held, rows.tags, pieces, strict=True):
        logp = torch.full((len(tags), len(requests.TAGS)), -9.0)
        seen = tags != tokens.NOTHING
        logp[torch.arange(len(tags))[seen], tags[seen]] = 0.0
        found = requests.spans(logp, mine, one.tool, one.text)
        assert Request(one.text, one.tool, found).arguments() == one.arguments()
    assert rows.tools.tolist() == [list(requests.TOOLS).index(one.tool) for one in held]


def test_spans_obey_the_tool_and_words(tokenizer):
    text = 'translate "see you 2.5 soon"'
    (mine,) = requests.encoded(tokenizer, [Request(text, "translate", ())], 40)
    logp = torch.zeros(len(mine), len(requests.TAGS))
    logp[:, requests.TAGS.index("B-amount")] = 9.0  # translate has no such slot
    for i, (_, begin, end) in enumerate(mine):
        tag = "O" if begin < 10 else "B-text" if begin == 10 else "I-text"
        logp[i, requests.TAGS.index(tag)] += 1.0
        if text[begin:end] == ".":
            logp[i, requests.TAGS.index("O")] += 1.5  # would cut the number
    assert requests.spans(logp, mine, "translate", text) == (Span("text", 11, 27),)
    (cut,) = requests.encoded(tokenizer, [Request(text, "translate", ())], len(mine) - 2)
    found = requests.spans(logp[: len(cut)], cut, "translate", text)
    assert found == (Span("text", 11, 27),)  # to the end of what was not read
    assert requests.spans(logp[:0], [], "translate", "") == ()
