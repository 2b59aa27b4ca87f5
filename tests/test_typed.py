"""Capitals as marks, words in slots, and pairs as people type them (lib/data/casing.py, slots.py, typed.py)."""

import re
from collections import Counter

import pytest

from lib import random
from lib.data import casing, slots, typed
from lib.data.casing import CAPITAL, CAPITALS, SMALL
from lib.data.pairs import Pair
from lib.faults import DataError

# ---- capitals ----

MARKED = {
    "Je t'aime.": " je t'aime.",
    "Tom est à Paris.": f" tom est à{CAPITAL} paris.",
    "Oui ! Non.": " oui ! non.",
    "Il a dit : \"Non.\"": f' il a dit : "{CAPITAL}non."',
    "« Viens ! » dit-il.": " « viens ! » dit-il.",
    "Les USA, l'Italie": f" les{CAPITALS} usa, l'{CAPITAL}italie",
    "je": f"{SMALL} je",
    "Mon iPhone": " mon iPhone",
    "A": " a",
    "élan": f"{SMALL} élan",
    "Élan": " élan",
    "12 Août": f" 12{CAPITAL} août",
    "今天": " 今天",
    "": " ",
}  # fmt: skip


@pytest.mark.parametrize("text", MARKED)
def test_marks_stand_where_capitals_are_not_expected(text):
    assert casing.marked(text) == MARKED[text]
    assert casing.restored(MARKED[text]) == text


def test_every_text_comes_back(key):
    letters = "aAbBéÉßİıǅ .?!\"'()«» 1-ΣσSs\u0301中\n" + "".join(casing.MARKS)
    draws = random.randint(key, (3000, 9), 0, len(letters)).tolist()
    for row in draws:
        text = "".join(letters[i] for i in row[: 1 + row[0] % 9])
        plain = text.translate(dict.fromkeys(map(ord, casing.MARKS)))
        assert casing.restored(casing.marked(text)) == plain.strip(), repr(text)


def test_marks_before_no_word_are_left_out():
    assert casing.restored(f" a{CAPITAL}, b{CAPITALS}{SMALL} c{CAPITAL}") == "A, b c"


def test_case_makes_no_difference_to_a_source():
    assert casing.lower("CAN you Help ME, Été?") == casing.lower("can you help me, été?") == " can you help me, été?"


# ---- slots ----

N, M = slots.NAMES[:2]
D, E = slots.NUMBERS[:2]
KNOWN = (
    "my name is and i am a doctor he lives in station stations the at have cats kings books know or mr walk walked king"
)
LEXICON = slots.Lexicon.of(KNOWN.split())
EMPTIED = {
    "My name is Okafor.": f"My name is {N}.",
    "my name is okafor and i am a doctor": f"my name is {N} and i am a doctor",
    "MY NAME IS OKAFOR": f"MY NAME IS {N}",
    "Okafor lives in Kingston.": f"{N} lives in {M}.",  # a capital in the midst of a sentence
    "he lives in kingston": f"he lives in {N}",  # no word has such an ending
    "Okafor, Okafor and Petrov": f"{N}, {N} and {M}",
    "I have 12 books, 3 cats.": f"I have {D} books, {E} cats.",
    "I have 1 book at 7:30, 1,000 or 3.5.": "I have 1 book at 7:30, 1,000 or 3.5.",
    "Mr. Kingston is in (Dayton).": f"Mr. {N} is in ({M}).",
    "The stationed doctor": "The stationed doctor",  # may be a form of station
    "the kings. Walks": "the kings. Walks",  # a sentence begins
    "the kings Walks": f"the kings {N}",
    "3 4 5 6 7": f"{D} {E} {slots.NUMBERS[2]} {slots.NUMBERS[3]} 7",  # there are four
    "我叫Okafor，今年25岁": f"我叫{N}，今年{D}岁",
    f"{N}?": "?",
    "": "",
}  # fmt: skip


@pytest.mark.parametrize("text", EMPTIED)
def test_names_numbers_and_unknown_words_are_carried_over(text):
    found, content = slots.emptied(text, LEXICON.carried(text))
    assert found == EMPTIED[text]
    assert slots.filled(found, content) == text.replace(N, "")
    assert slots.refilled(text.replace(N, ""), content) == found


def test_a_capital_says_nothing_where_nouns_have_one():
    german = slots.Lexicon.of(["das", "der", "die", "heißt", "in", "ist", "Haus", "Hunde", "Leine", "Mann"])
    assert german.nouns and not LEXICON.nouns and "hunde" in german.known
    text = "Der Mann heißt Kowalski, die Hundeleine ist in Cottbus."
    assert german.carried(text) == {"Kowalski", "Cottbus"}  # which begin as no word that it knows


def test_slots_without_content_are_left_out():
    assert slots.filled(f"Je suis {N} ici {M}.", {M: "Tom"}) == "Je suis ici Tom."


def test_a_lexicon_is_kept_with_its_run(tmp_path):
    slots.save(tmp_path, sorted(LEXICON.known))
    assert slots.load(tmp_path) == LEXICON
    with pytest.raises(DataError, match=r"words\.txt"):
        slots.load(tmp_path / "nowhere")


# ---- as people type ----

PAIRS = [
    Pair("I saw Tom and Mary.", "J'ai vu Tom et Mary.", "x", "a"),
    Pair("Tom left.", "Tom est parti.", "x", "b"),
    Pair("He is 27, and I'm 1.", "Il a 27 ans et j'en ai 1.", "x", "c"),
    Pair("It's Alice's book.", "C'est le livre d'Alice.", "x", "d"),
    Pair("Excuse me, I see Alice.", "Excuse-moi, je vois Alice.", "x", "e"),
    Pair("Yes.", "Oui.", "x", "f"),
    Pair("It is 7:30.", "Il est 7 h 30.", "x", "g"),
]


@pytest.fixture
def corpus():
    return typed.corpus(PAIRS, typed.names(PAIRS))


def test_what_both_sides_share(corpus):
    assert typed.names(PAIRS) == {"Tom", "Mary", "Alice"}
    # Excuse is no name, what stands for Alice might not elide, and a 1 decides the form of nouns.
    assert corpus.shared == {0: ["Tom", "Mary"], 1: ["Tom"], 2: ["27"], 4: ["Alice"]}


def test_the_words_that_a_model_knows():
    def lexicon(pairs):
        return typed.lexicon(pairs, typed.names(pairs))

    found = lexicon(PAIRS)
    assert found == sorted(found) and {"I", "saw", "Excuse", "m", "Im", "Its"} <= set(found)  # as they are written
    assert not {"Tom", "Alice", "27", "i", "30"} & set(found)  # rare names and numbers
    often = [Pair(f"I {verb} Tom.", f"Je {verb} Tom.", "x", verb) for verb in "abcde"]
    assert "Tom" in lexicon(often) and "Tom" not in lexicon(often[:4])
    noah = [Pair("I see Noah.", "Je vois Noah.", "x", "n"), *(Pair(f"{x} Noah.", f"{x} Noé.", "x", x) for x in "abcd")]
    assert "Noah" in lexicon(noah)  # which has another form as well
    twice = [Pair(text, "", "x", text) for text in ("Cats sleep.", "I like cats.", "My cats eat.")]
    assert {"cats", "Cats"} & set(lexicon(twice)) == {"cats"}


def test_an_epoch_is_a_function_of_its_key(corpus):
    assert typed.varied(corpus, random.key(1)) == typed.varied(corpus, random.key(1))
    assert typed.varied(corpus, random.key(1)) != typed.varied(corpus, random.key(2))
    assert corpus.pairs == PAIRS


def epochs(corpus, n=300):
    return [list(zip(*typed.varied(corpus, random.fold_in(random.key(0), i)), strict=True)) for i in range(n)]


def test_slots_are_the_same_on_both_sides(corpus, monkeypatch):
    monkeypatch.setattr(typed, "RUN_ON", 0)
    found = epochs(corpus)
    of = [Counter(row[i][1] for row in found) for i in range(len(PAIRS))]
    tom, mary, both, none = (f"J'ai vu {a} et {b}." for a, b in ((N, "Mary"), ("Tom", N), (N, M), ("Tom", "Mary")))
    assert of[0].keys() == {tom, mary, both, none} and all(45 < n < 105 for n in of[0].values())
    for row in found:
        source, target = row[0]
        assert (source.rstrip("."), target) in {
            (f"I saw {N} and Mary", tom), (f"I saw Tom and {N}", mary), (f"I saw {N} and {M}", both),
            ("I saw Tom and Mary", none),
        }  # fmt: skip
        assert row[2][0].startswith(f"He is {D}") and row[2][1] == f"Il a {D} ans et j'en ai 1."
    assert of[3].keys() == {PAIRS[3].target} and of[5].keys() == {"Oui."} and of[6].keys() == {"Il est 7 h 30."}


def test_some_sentences_run_on_into_another(corpus, monkeypatch):
    monkeypatch.setattr(typed, "HASTY", 0)
    monkeypatch.setattr(typed, "EMPTIED", 0)
    rows = [row[6] for row in epochs(corpus)]
    joined = [(source, target) for source, target in rows if target != "Il est 7 h 30."]
    assert 0.05 < len(joined) / len(rows) < 0.15
    others = [(p.source, p.target) for p in (PAIRS[3], PAIRS[5], PAIRS[6])]  # those without a name or a number
    assert set(joined) == {(f"It is 7:30 {source}", f"Il est 7 h 30. {target}") for source, target in others}
    monkeypatch.setattr(typed, "SHORT", 5)
    assert {row[6] for row in epochs(corpus, 50)} == {("It is 7:30.", "Il est 7 h 30.")}  # too long to run on


def test_what_a_translator_sees():
    sources, targets = typed.emptied(PAIRS[:1], slots.Lexicon.of(["i", "saw", "and", "tom"]))
    assert (sources, targets) == ([f"I saw Tom and {N}."], [f"J'ai vu Tom et {N}."])


def test_unseen(corpus):
    seen = {"otis", "yusuf", "44"}
    cases = [case for i in range(50) for case in typed.unseen(corpus, seen, random.key(i))]
    assert 190 < len(cases) <= 200
    for source, new in cases:
        assert all(word in slots.words(source) for word in new)
        assert all(re.fullmatch(r"\d\d", word) or word in typed.UNSEEN for word in new)
    drawn = {word for _, new in cases for word in new}
    assert len(drawn) > 60 and not {word.lower() for word in drawn} & seen


def test_some_sources_are_hasty_and_no_target(corpus):
    found = epochs(corpus)
    plain = [row[4][0] for row in found if "Alice" in row[4][0]]
    ends = sum(not text.endswith(".") for text in plain) / len(plain)
    assert 0.2 < ends < 0.4
    assert {"Excuse me, I see Alice", "Excuse me I see Alice"} <= set(plain)
    assert any("Im 1" in row[2][0] for row in found)
    assert all(row[4][1].endswith(".") and "Excuse-moi, je" in row[4][1] for row in found)


HASTY = {
    "What time is it?": "What time is it", "Wait...": "Wait", 'He said "no!"': 'He said "no"', "Ça va ?": "Ça va",
    "Really?!": "Really", "你好吗？": "你好吗", "no": "no", "It is 3.14": "It is 3.14", "?": "?", "Mr. Li": "Mr. Li",
}  # fmt: skip


@pytest.mark.parametrize("text", HASTY)
def test_hasty(text):
    assert typed.hasty(text) == HASTY[text]


def test_hasty_without_commas_and_apostrophes():
    assert typed.hasty("No, I don't have 1,000.", commas=False, apostrophes=False) == "No I dont have 1,000"
