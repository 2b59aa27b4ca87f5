"""lib/tasks/writing.py: what is told of a text, and how a text is written piece by piece."""

import math
from dataclasses import replace
from itertools import cycle

import pytest
import torch

from lib.answers import Note, Steps, Text
from lib.data import texts, tokens
from lib.faults import DataError
from lib.tasks import writing


def writer(says=b"", level="char", nats=lambda ids: 0.0, training=lambda: pytest.fail("loaded"), **more):
    """One that goes on with these bytes again and again."""
    tokenizer = tokens.train_lossless(level, "abc", 300)
    go_on = lambda prompt, key, *, room, **sampling: (torch.tensor([byte]) for byte in cycle(says))  # noqa: E731
    size = tokenizer.get_vocab_size()
    logits = lambda ids, behind: (torch.arange(size).float()[None] for _ in ids[behind:])  # noqa: E731
    return writing.Writer(tokenizer, go_on, nats, logits, torch.device("cpu"), training, **more)


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
    with pytest.raises(DataError, match="not UTF-8"):
        next(writing.answers(writing.Use(text="caf\udce9"), w))
    assert w.unknown("漢 a") == ["漢"] and writer(level="word").unknown("a whale") == ["whale"]


def test_a_token_between_texts_is_the_neutral_prompt_and_the_end():
    """No text spells it: a text that has its name is other tokens."""
    made = writer(b"ab\x05cd")
    seen, prompts = [], []

    def go_on(prompt, key, *, room, **sampling):
        prompts.append(prompt.tolist())
        return made.go_on(prompt, key, room=room)

    nats = lambda ids: float(len(seen.append(ids) or ids) - 1)  # noqa: E731
    w = replace(made, go_on=go_on, nats=nats, context=16, end=5)
    assert list(w.stream("", 9, None)) == ["a", "b"] and list(w.stream("é", 1, None)) == ["a"]
    assert prompts == [[[5]], [list("é".encode())]]
    assert w.score("abc")["loss"] == 1 and seen[0].tolist() == [5, *b"abc"]


def test_writing_may_end_in_half_a_character():
    w = writer("é".encode()[:1] + b"\x05", end=5)
    assert list(w.stream("", 9, None)) == ["\ufffd"]


def test_an_answer_comes_piece_by_piece():
    """Each before the next token is asked for."""
    w, asked = writer(b"ab"), []

    def go_on(prompt, key, *, room, **sampling):
        for n, byte in enumerate(b"abab"):
            asked.append((n, room))
            yield torch.tensor([byte])

    answers = writing.answers(writing.Use(text="see ", n=4), replace(w, go_on=go_on))
    assert next(answers) == Text("see a") and asked == [(0, 4)]
    assert [*answers] == [Text("b"), Text("a"), Text("b"), Text("\n")] and asked[-1] == (3, 4)


@pytest.mark.parametrize("prompt", ["see ", ""])
def test_how_probable_each_token_was(prompt):
    """A model whose next token is the last one's successor with three times the odds of any other."""
    made = writer(b"abdd")
    size = made.tokenizer.get_vocab_size()
    odds = lambda ids: torch.log(1 + 2.0 * (torch.arange(size) == ids[:-1, None] + 1))  # noqa: E731
    seen = []
    w = replace(made, logits=lambda ids, behind: odds(seen.append(ids) or ids)[behind - 1 :].split(3))
    *_, found = writing.answers(writing.Use(text=prompt, n=3, likely=True), w)
    assert "".join(found.tokens) == prompt[1:] + "abd"
    assert seen[0].tolist() == [*w.ids(prompt).tolist(), *b"abd"]
    share = 1 / (size + 2)
    assert found.p[-3:] == pytest.approx((share, 3 * share, share))
    assert all(len(best) == 10 for best in found.likeliest) and found.likeliest[-1][0] == (
        "c",
        pytest.approx(3 * share),
    )
    assert found.likeliest[-2][0][0] == "b" and (found.read, found.looked) == ((), ())
    assert found.table().lines().splitlines()[-2].startswith("'b'")


def test_tokens_begin_where_their_characters_do():
    """Half a character begins where it does whole, so that a text can be cut in front of any token."""
    w = writer("é–a".encode())
    *said, _, found = writing.answers(writing.Use(text="x 漢", n=6, likely=True), w)
    text = "".join(x.text for x in said if isinstance(x, Text))
    assert text == "x 漢é–a" and found.begins == (1, 2, 2, 2, 3, 3, 4, 4, 4, 5)
    *_, found = writing.answers(writing.Use(text="", n=3, likely=True), writer(b"abc"))
    assert found.begins == (0, 1, 2)


def test_of_a_long_text_only_its_end_is_told(monkeypatch):
    monkeypatch.setattr(writing, "TOLD", 4)
    *_, note, found = writing.answers(writing.Use(text="see", n=6, likely=True), writer(b"ab"))
    assert found.tokens == tuple("abab") and found.begins == (5, 6, 7, 8) and "of the last 4" in note.text


def test_steps_are_asked_for():
    assert not any(isinstance(x, Steps) for x in writing.answers(writing.Use(text="a", n=2), writer(b"ab")))


def test_the_training_text_is_loaded_for_a_copy_check_alone():
    w = writer(b"ab", training=lambda: "xabax")
    *written, note = writing.answers(writing.Use(text="", n=4, copy_check=True), w)
    assert written == [Text("a"), Text("b"), Text("a"), Text("b"), Text("\n")]
    assert note == Note("longest run copied word for word: 3 of 4 characters, 'aba'")
    assert [*writing.answers(writing.Use(text="", n=1), writer(b"ab"))] == [Text("a"), Text("\n")]


def test_words_that_are_spelled_in_bytes_are_noted():
    assert next(writing.answers(writing.Use(text="漢 a", n=1), writer(b"ab"))) == Note(
        "warning: not in the vocabulary, so spelled in bytes: 漢"
    )


@pytest.mark.parametrize(
    "values, message",
    [
        ({"n": 0}, "--n must be at least 1"),
        ({"temperature": -0.1}, "--temperature must be at least 0"),
        ({"top_k": -1}, "--top-k must be at least 0"),
        ({"top_p": 0.0}, "--top-p must be above 0 and at most 1"),
    ],
)
def test_numbers_out_of_their_bounds(values, message):
    with pytest.raises(ValueError, match=message):
        writing.Use(**values)
