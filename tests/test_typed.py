"""Capitals as marks, and pairs as people type them (lib/data/casing.py, typed.py)."""

import itertools
import re

import pytest

from lib import random
from lib.data import casing, typed
from lib.data.casing import CAPITAL, CAPITALS, SMALL
from lib.data.pairs import Pair

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


# ---- as people type ----

PAIRS = [
    Pair("I saw Tom and Mary.", "J'ai vu Tom et Mary.", "x", "a"),
    Pair("Tom left.", "Tom est parti.", "x", "b"),
    Pair("He is 27, and I'm 9.", "Il a 27 ans et j'en ai 9.", "x", "c"),
    Pair("It's Alice's book.", "C'est le livre d'Alice.", "x", "d"),
    Pair("Excuse me, I see Alice.", "Excuse-moi, je vois Alice.", "x", "e"),
    Pair("He was born in 1994.", "Il est né en 1994.", "x", "f"),
    Pair("Yes.", "Oui.", "x", "g"),
    Pair("He must leave at seven.", "Il faut qu'il parte à sept heures.", "x", "h"),
    Pair("She left, and he left.", "Elle est partie, et il est parti.", "x", "i"),
]


@pytest.fixture
def corpus():
    return typed.corpus(PAIRS, typed.names(PAIRS))


def test_what_both_sides_share(corpus):
    assert typed.names(PAIRS) == {"Tom", "Mary", "Alice"}
    tom, alice, he = ("Tom", "Tom"), ("Alice", "Alice"), ("He", "Il")
    assert corpus.shared == {  # Excuse is no name, "Il faut" nobody
        0: [tom, ("Mary", "Mary")], 1: [tom], 2: [("27", "27"), he], 3: [alice], 4: [alice], 5: [("1994", "1994"), he],
        7: [("seven", "sept")], 8: [("She", "Elle")],
    }  # fmt: skip


def test_an_epoch_is_a_function_of_its_key(corpus):
    assert typed.varied(corpus, random.key(1)) == typed.varied(corpus, random.key(1))
    assert typed.varied(corpus, random.key(1)) != typed.varied(corpus, random.key(2))
    assert corpus.pairs == PAIRS


def epochs(corpus, n=300):
    return [list(zip(*typed.varied(corpus, random.fold_in(random.key(0), i)), strict=True)) for i in range(n)]


def test_names_and_numbers_are_the_same_on_both_sides(corpus):
    found = epochs(corpus)
    assert {row[6][1] for row in found} == {"Oui."}
    names = [re.fullmatch(r"J'ai vu (\w+) et (\w+)\.", row[0][1]).groups() for row in found]
    assert [re.fullmatch(r"I saw (\w+) and (\w+)\.?", row[0][0]).groups() for row in found] == names
    assert len({first for first, _ in names}) > 80
    assert 0.15 < sum(pair == ("Tom", "Mary") for pair in names) / 300 < 0.35  # half of the time each
    ages = [re.fullmatch(r"(\w+) a (\d\d) ans et j'en ai 9\.", row[2][1]).groups() for row in found]
    for (who, age), row in zip(ages, found, strict=True):
        assert row[2][0].startswith(f"{who.replace('Il', 'He')} is {age}")
    assert len({age for _, age in ages}) > 40
    assert 0.15 < sum(who != "Il" for who, _ in ages) / 300 < 0.45
    years = {re.fullmatch(r"\w+ est né en (\d{4})\.", row[5][1])[1] for row in found}
    assert len(years) > 100


def test_names_and_numbers_stand_in_for_words(corpus):
    found = epochs(corpus)
    hours = {re.fullmatch(r"Il faut qu'il parte à (\w+) heures\.", row[7][1])[1] for row in found}
    assert len(hours) > 40 and {hour for hour in hours if not re.fullmatch(r"\d\d", hour)} == {"sept"}
    who = {re.fullmatch(r"(\w+) est partie, et il est parti\.", row[8][1])[1] for row in found}
    assert len(who) > 60 and "Elle" in who and not who & set(typed.NAMES["his"])


def test_a_name_that_elides_is_one_that_elides(corpus):
    found = {re.fullmatch(r"C'est le livre d'(\w+)\.", row[3][1])[1] for row in epochs(corpus)}
    assert len(found) > 50 and all(name[0] in "AEIOU" for name in found)


def test_a_woman_is_a_woman_or_nobody(corpus):
    found = {re.search(r" et (\w+)\.", row[0][1])[1] for row in epochs(corpus)}
    assert not found & set(typed.NAMES["his"]) and len(found & set(typed.NAMES["hers"])) > 30


def test_the_evaluations_names_and_numbers_are_never_drawn(corpus):
    drawn = {word for row in epochs(corpus) for pair in row for word in typed.words(pair[1])} - {"1994"}
    assert not drawn & set(typed.NAMES["kept"])
    assert not [word for word in drawn if word.isdigit() and int(word) > 9 and int(word) % 7 == 3]


def test_unseen(corpus):
    seen = {"otis", "yusuf"}
    cases = [case for i in range(50) for case in typed.unseen(corpus, seen, random.key(i))]
    assert len(cases) == 400
    for pair, new in cases:
        assert all(word in typed.words(side) for word in new for side in (pair.source, pair.target))
        assert all(int(word) % 7 == 3 if word.isdigit() else word in typed.NAMES["kept"] for word in new)
    drawn = set(itertools.chain.from_iterable(new for _, new in cases))
    assert len(drawn) > 80 and not {word.lower() for word in drawn} & seen
    assert {len(word) for word in drawn if word.isdigit()} == {2, 4}


def test_some_sources_are_hasty_and_no_target(corpus):
    found = epochs(corpus)
    plain = [row[4][0] for row in found if "Alice" in row[4][0]]
    ends = sum(not text.endswith(".") for text in plain) / len(plain)
    assert 0.2 < ends < 0.4
    assert {"Excuse me, I see Alice", "Excuse me I see Alice"} <= set(plain)
    assert any("Im 9" in row[2][0] for row in found)
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
