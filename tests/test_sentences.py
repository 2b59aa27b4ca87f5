"""lib/data/sentences.py: a text cut into sentences, a sentence into pieces, and translations put together again."""

import pytest

from lib.data.sentences import joined, pieces, sentences

WHOLE = [  # each is one sentence
    "Mr. and Mrs. Smith met Dr. Watson, Prof. Moriarty and St. Nicholas.",
    "J. K. Rowling, J.R.R. Tolkien and George W. Bush were there.",
    "We met at 5 p.m. and left at 3 a.m. or so.",
    "Apples, pears, etc. are fruit.",
    "Take a city, e.g. Paris, i.e. Lyon.",
    "See No. 5, no. 6 and p. 7.",
    "It is 3.14, or 1,000.50, at example.com, no?",
    "Apple Inc. is old, as Martin Luther King Jr. knew.",
    '"No!" he said.',
    "« Oui ! » dit-il.",
    "(See above.) and so on",
    "1. Buy milk.",
    "word without an end",
    "你吃了吗？！",
    "他说，你好",
    "यह किताब है।",
    "هل أنت بخير؟",
]
SEVERAL = [
    ["It ended at 5 p.m.", "He left."],
    ["Apples, pears, etc.", "They are fruit."],
    ["No.", "I am not."],
    ['He said "no!"', "Why?!"],
    ['"Go."', '"Come!"', "(Both.)", "Well?"],
    ["Il dit « non ! »", "Puis il part."],
    ["Ein Wort.", "»Komm!«", "So?"],
    ["Wait...", "what"],
    ["Wait . . .", "what"],
    ["Hi.", ".NET is good."],
    ["?"],
    ["..."],
    ["Ça va ?", "Oui !"],
    ["„Halt!“", "So?"],
    ["I live in the U.S.", "It is big.", "Take vitamin C.", "The rest is up to J. Smith."],
    ["मैं ठीक हूँ।", "तुम कैसे हो?", "अच्छा॥", "हाँ"],
    ["هل أنت بخير؟", "نعم."],
    ["کیا حال ہے؟", "ٹھیک ہوں۔", "شکریہ"],
    ["ሰላም።", "ደህና"],
    ["မင်္ဂလာပါ။", "ဟုတ်"],
    ["Բարև։", "Այո"],
]


@pytest.mark.parametrize("text", WHOLE)
def test_one_sentence(text):
    assert sentences(text) == [text]
    assert sentences(f"  So it is.\n{text} ") == ["So it is.", text]


@pytest.mark.parametrize("expected", SEVERAL, ids=lambda expected: expected[0])
def test_several_sentences(expected):
    assert sentences("  ".join(expected)) == expected


@pytest.mark.parametrize(
    "expected",
    [
        ["你好。", "你吃了吗？", "我很好！", "再见｡"],
        ['他说:"好。"', "然后走了。", '"你好。"', "他说。"],
        ["「はい。」", "（そう！）", "行こう"],
    ],
)
def test_chinese_and_japanese_need_no_space(expected):
    assert sentences("".join(expected)) == expected


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_no_sentence(text):
    assert sentences(text) == []


def test_long_texts_are_cut_in_no_time():
    assert len(sentences("Mr. A. Smith " * 20_000)) == 1 and len(sentences("." * 20_000 + "x")) == 1


def words(n):
    return lambda text: len(text.split()) <= n


@pytest.mark.parametrize(
    "sentence, fits, expected",
    [
        ("one two three", words(3), ["one two three"]),
        ("one, two three, four", words(3), ["one, two three,", "four"]),  # first at commas, and as far as it fits
        ("a b c d e, f; g: h", words(3), ["a b c", "d e, f;", "g: h"]),
        ('"a b," c d', words(2), ['"a b,"', "c d"]),
        ("a b — c d—e f", lambda text: len(text) <= 6, ["a b —", "c d—", "e f"]),
        ("at 12:30 or 1,000 of 3", words(3), ["at 12:30 or", "1,000 of 3"]),
        ("今天很好，我们去公园，散步吧", lambda text: len(text) <= 6, ["今天很好，", "我们去公园，", "散步吧"]),
        ("abcdefgh", lambda text: len(text) <= 3, ["ab", "cd", "ef", "gh"]),
        ("กี่กี่", lambda text: len(text) <= 3, ["กี่", "กี่"]),
        ("กกี่กก", lambda text: len(text) <= 4, ["กกี่", "กก"]),  # marks stay with their letter
        ("abc", lambda text: False, ["a", "b", "c"]),
    ],
)
def test_pieces(sentence, fits, expected):
    assert pieces(sentence, fits) == expected


def test_joined():
    assert joined(["One.", "Two!"]) == "One. Two!"
    assert joined(["你好。", "再见！", "「好」", "Yes.", "No."]) == "你好。再见！「好」Yes. No."
    assert joined([]) == ""
