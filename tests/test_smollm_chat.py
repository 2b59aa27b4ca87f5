"""experiments/exp_smollm_chat.py on a random model of Llama's shape: its figures, its talk, and what it refuses."""

import dataclasses
import io
import json
import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer

from experiments import exp_smollm_chat as exp
from lib import random
from lib.answers import Text
from lib.data import texts
from lib.faults import RunError
from lib.models import gpt, smollm
from lib.tasks import chat
from tests.test_smollm import byte_pairs


@pytest.fixture(scope="module")
def model():
    tokenizer = byte_pairs()
    tokenizer.encode_special_tokens = True
    block = {"width": 16, "heads": 4, "kv_heads": 2, "ff": 24, "eps": 1e-5, "rotary_base": 1e4}
    cfg = smollm.config(vocabulary=tokenizer.get_vocab_size(), context=256, layers=2, **block)
    return smollm.Released(gpt.init(random.key(0), cfg), cfg, tokenizer)


@pytest.fixture
def weights(model, tmp_path, monkeypatch):
    """Where `smollm.load` finds the model, by the name "tiny"; "default" is told apart."""
    load = lambda weights, data_dir=None, device="cpu": {"tiny": model}[weights]  # noqa: E731
    monkeypatch.setattr(smollm, "load", load)
    return ["--weights", "tiny"]


SMALL = ["--scored", 60, "--precision", "fp32", "--device", "cpu"]


@pytest.mark.device
def test_a_run_measures_and_shows(call, weights, story, tmp_path):
    status, out, err = call(exp, *SMALL, *weights, "--data", story, "--run", tmp_path / "r")
    assert status == 0, err
    result = json.loads((tmp_path / "r/result.json").read_text())
    assert result.keys() == {"test/capitals", "test/bits_per_byte", "test/perplexity", "perf/tokens_per_second"}
    assert result["test/capitals"] == 0.0 and result["perf/tokens_per_second"] > 0
    events = EventAccumulator(str(tmp_path / "r")).Reload()
    assert "test/bits_per_byte" in events.Tags()["scalars"]
    shown = [tag.removesuffix("/text_summary") for tag in events.Tags()["tensors"]]
    assert {f"samples/{question}" for question in exp.QUESTIONS} <= set(shown)
    assert "capitals not known: Argentina" in out and "just sample exp_smollm_chat --plain" in out
    assert not list((tmp_path / "r").glob("checkpoints/*"))


def test_how_probable_each_token_of_an_answer_was(call, weights, model, story, tmp_path):
    """The likeliest ones, of which each is the first of its list."""
    prompt = chat.remembered(model, [("user", "Where?")], 12)
    made: list[int] = []
    said = "".join(chat.speak(model, prompt, 12, made=made))
    found = chat.steps(model, prompt, made)
    assert len(found.tokens) == len(made) > 3 and not found.begins
    assert all(best[0][1] == pytest.approx(p) for best, p in zip(found.likeliest, found.p, strict=True))
    assert said.replace("\ufffd", "")[:1] in "".join(found.tokens)
    call(exp, *SMALL, *weights, "--data", story, "--run", tmp_path / "r")
    status, out, _ = call(exp, "sample", "Where?", "--run", tmp_path / "r", "--n", 5, "--likely", "--temperature", 0)
    assert status == 0 and len(re.findall(r"^'.*' +0\.\d{4} ", out, flags=re.MULTILINE)) == 5


def test_bits_per_byte_by_hand(call, model, weights, story, tmp_path):
    call(exp, *SMALL, *weights, "--data", story, "--run", tmp_path / "r")
    text = texts.load(str(story)).test.encode()[:60].decode(errors="ignore")
    ids = torch.cat([torch.zeros(1, dtype=torch.int64), texts.encode(model.tokenizer, text)])
    logp = gpt.apply(model.params, ids[None, :-1], cfg=model.cfg)[0].log_softmax(-1)
    bits = -float(logp[torch.arange(len(ids) - 1), ids[1:]].sum()) / torch.log(torch.tensor(2.0)) / len(text.encode())
    result = json.loads((tmp_path / "r/result.json").read_text())
    assert result["test/bits_per_byte"] == pytest.approx(float(bits), rel=1e-4)


def speaking(model, monkeypatch, said):
    """The model's greedy answers become the tokens of `said`, each followed by the end of the turn and more."""
    prompts = []

    def generate(params, prompt, key=None, *, cfg, **sampling):
        prompts.append(model.tokenizer.decode(prompt[0].tolist(), skip_special_tokens=False))
        ids = [*texts.encode(model.tokenizer, said[len(prompts) - 1]).tolist(), model.special("<|im_end|>"), 5, 5]
        yield from (torch.tensor([i]) for i in ids)

    monkeypatch.setattr(gpt, "generate", generate)
    return prompts


@pytest.mark.device
def test_a_conversation_is_remembered(call, model, weights, monkeypatch, tmp_path, story):
    call(exp, *SMALL, *weights, "--data", story, "--run", tmp_path / "r")
    prompts = speaking(model, monkeypatch, ["Naïve – yes.", "No."])
    monkeypatch.setattr("sys.stdin", io.StringIO("Is it?\nSure?\n\nnot read\n"))
    status, out, err = call(exp, "sample", "--run", tmp_path / "r", "--n", 100, "--system", "Be brief.")
    assert (status, out) == (0, "Naïve – yes.\nNo.\n"), err
    first = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIs it?<|im_end|>\n<|im_start|>assistant\n"
    assert prompts == [
        first,
        first + "Naïve – yes.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n",
    ]


@pytest.mark.device
def test_a_text_goes_on(call, model, weights, monkeypatch, tmp_path, story):
    call(exp, *SMALL, *weights, "--data", story, "--run", tmp_path / "r")
    for words in (["--plain", "--prompt", "The capital is"], ["The capital is", "--plain"]):
        prompts = speaking(model, monkeypatch, [" Paris"])
        status, out, _ = call(exp, "sample", "--run", tmp_path / "r", "--n", 9, *words)
        assert (status, out, prompts) == (0, "The capital is Paris\n", ["The capital is"])


def test_what_was_said_earlier(model, monkeypatch):
    """A use can be told of it instead of the lines that are typed, and the next one is told."""
    use = exp.Use(text="Sure?", earlier=("Is it?", "Yes."), n=100, system="Be brief.")
    prompts = speaking(model, monkeypatch, ["No."])
    said = [*exp.answers(use, model)]
    assert "".join(piece.text for piece in said) == "No.\n" and said[-1] == Text("\n")
    turns = [("system", "Be brief."), ("user", "Is it?"), ("assistant", "Yes."), ("user", "Sure?")]
    assert prompts == [model.tokenizer.decode(model.chat(turns).tolist(), skip_special_tokens=False)]
    assert use.after("No.\n") == dataclasses.replace(use, earlier=("Is it?", "Yes.", "Sure?", "No."))
    with pytest.raises(ValueError, match="the last question has no answer"):
        exp.Use(text="Sure?", earlier=("Is it?",))


def test_each_question_has_a_key_of_its_own(model):
    """In --plain too, where nothing else of earlier ones matters."""
    say = lambda *earlier: [*exp.answers(exp.Use(text="a", earlier=earlier, plain=True, n=9, temperature=9.0), model)]  # noqa: E731
    assert say() == say() != say("x", "y") == say("v", "w")


def test_answers_stream_and_follow_the_seed(model):
    prompt = model.chat([("user", "What?")])
    say = lambda key: list(chat.speak(model, prompt, 12, key, temperature=1.0))  # noqa: E731
    assert say(random.key(3)) == say(random.key(3)) != say(random.key(4))
    greedy = gpt.generate(model.params, prompt[None], cfg=model.cfg)
    ids = [int(next(greedy)) for _ in range(12)]
    if not {0, 2} & set(ids):
        assert "".join(chat.speak(model, prompt, 12)) == model.tokenizer.decode(ids)


def test_old_exchanges_are_forgotten(model):
    said = [(who, f"{n} " + "word " * 6) for n in range(8) for who in ("user", "assistant")]
    turns = [("system", "Be brief."), *said, ("user", "And now?")]
    text = model.tokenizer.decode(chat.remembered(model, turns, 40).tolist(), skip_special_tokens=False)
    assert len(chat.remembered(model, turns, 40)) <= 256 - 40
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert "And now?" in text and "user\n7" in text and "user\n0" not in text
    with pytest.raises(RunError, match="do not fit in 256"):
        chat.remembered(model, [("user", "word " * 300)], 40)


def test_without_a_run_the_default_talks(call, model, monkeypatch):
    monkeypatch.setattr(smollm, "load", lambda weights, *rest: {"default": model}[weights])
    speaking(model, monkeypatch, ["Yes."])
    assert call(exp, "sample", "Is it?", "--n", 9)[:2] == (0, "Yes.\n")


def test_a_model_that_was_not_made_to_talk(call, model, monkeypatch, tmp_path, story):
    """Is told before anything is done with it."""
    plain = Tokenizer.from_str(model.tokenizer.to_str().replace("<|im_end|>", "<|end|>"))
    monkeypatch.setattr(smollm, "load", lambda *_: dataclasses.replace(model, tokenizer=plain))
    monkeypatch.setattr(gpt, "generate", lambda *_, **__: pytest.fail("something was done"))
    status, _, err = call(exp, *SMALL, "--data", story, "--run", tmp_path / "r")
    assert status == 1 and "this model's tokenizer has no <|im_end|>, so it was not made for this" in err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "words, told",
    [
        (["--steps", 5], "nothing is trained"),
        (["--replicas", 2], "nothing is trained"),
        (["--scored", 0], "--scored"),
        (["--weights", "none.gguf"], "neither default, a GGUF file nor a folder"),
        (["sample", "--n", 0], "--n must be at least 1"),
        (["sample", "--run", "none"], "none is not a run directory"),
    ],
)
def test_bad_flags_are_told(call, words, told):
    status, _, err = call(exp, *words)
    assert status in (1, 2) and told in " ".join(err.replace("│", " ").split())
