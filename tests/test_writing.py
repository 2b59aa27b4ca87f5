"""lib/tasks/writing.py: what is told of a text, and how a text reaches the terminal."""

import math
from itertools import cycle

import pytest
import torch

from lib.data import texts, tokens
from lib.faults import DataError
from lib.tasks import writing


def writer(says=b"", level="char", nats=lambda ids: 0.0, context=None):
    """One that goes on with these bytes again and again."""
    tokenizer = tokens.train_lossless(level, "abc", 300)
    go_on = lambda prompt, key, **sampling: (torch.tensor([byte]) for byte in cycle(says))  # noqa: E731
    return writing.Writer(tokenizer, go_on, nats, torch.device("cpu"), context)


def test_a_stream_holds_back_half_a_character():
    wanted = "é–a😀\n".encode()
    assert list(writer(wanted).stream("", len(wanted), None)) == ["é", "–", "a", "😀", "\n"]
    assert list(writer(wanted).stream("", 1, None)) == ["\ufffd"]  # cut in the middle
    assert "".join(writer(b"\xff\xff\xff\xffab").stream("", 6, None)).endswith("ab")


@pytest.mark.parametrize("level", ["word", "bpe", "char"])
def test_every_token_of_the_text_is_scored_and_nothing_else(level):
    """A model that finds each byte equally likely: eight bits each."""
    seen = []

    def nats(ids):
        seen.append(ids)
        return (len(ids) - 1) * math.log(256)

    w, text = writer(level=level, nats=nats), "bread – and wine, said the old man by the sea"
    found = w.score(text)
    (ids,) = seen
    assert texts.decode(w.tokenizer, ids[1:]) == text and texts.decode(w.tokenizer, ids[:1]).strip("\n") == ""
    assert len(ids) == 1 + len(text.encode())
    assert found["bits_per_byte"] == pytest.approx(8) and found["perplexity"] == pytest.approx(256)
    assert found["loss"] == pytest.approx(math.log(256))


def test_opening_fits_in_half_a_context():
    w = writer(context=16)
    assert w.opening("On day 1 the old man") == "On day 1"  # eight of sixteen characters
    assert w.opening("Antidisestablishmentarianism") == ""
    assert w.opening("a b c") == "a b c" and writer().opening("a " * 50) == "a a a a a a a a"


def test_copied():
    line = writing.copied("he saw the sea and slept", "They saw the sea again.")
    assert line == "longest run copied word for word: 14 of 24 characters, ' saw the sea a'"


def test_prompts():
    w = writer(context=16)
    assert texts.decode(w.tokenizer, w.ids("")) == writing.BREAK
    with pytest.raises(DataError, match="prompt has 17 tokens, the model's context 16"):
        next(w.stream("a" * 17, 1, None))
    with pytest.raises(DataError, match="not UTF-8"):
        w.ids("\udcff")
    assert w.unknown("漢 a") == ["漢"] and writer(level="word").unknown("a whale") == ["whale"]


def test_a_token_between_texts_is_the_neutral_prompt_and_the_end():
    """No text spells it: a text that has its name is other tokens."""
    made = writer(b"ab\x05cd")
    seen, prompts = [], []

    def go_on(prompt, key, **sampling):
        prompts.append(prompt.tolist())
        return made.go_on(prompt, key)

    nats = lambda ids: float(len(seen.append(ids) or ids) - 1)  # noqa: E731
    w = writing.Writer(made.tokenizer, go_on, nats, made.device, 16, end=5)
    assert list(w.stream("", 9, None)) == ["a", "b"] and list(w.stream("é", 1, None)) == ["a"]
    assert prompts == [[[5]], [list("é".encode())]]
    assert w.score("abc")["loss"] == 1 and seen[0].tolist() == [5, *b"abc"]


def test_writing_may_end_in_half_a_character():
    w = writer("é".encode()[:1] + b"\x05")
    w = writing.Writer(w.tokenizer, w.go_on, w.nats, w.device, end=5)
    assert list(w.stream("", 9, None)) == ["\ufffd"]


def test_an_answer_is_printed_as_it_comes(capsys):
    w, printed = writer(b"ab"), []

    def go_on(prompt, key, **sampling):
        for byte in b"abab":
            yield torch.tensor([byte])
            printed.append(capsys.readouterr().out)

    writing.answer(writing.Use(prompt="see ", n=4), writing.Writer(w.tokenizer, go_on, w.nats, w.device), "none")
    assert printed == ["see a", "b", "a"] and capsys.readouterr().out == "b\n"
