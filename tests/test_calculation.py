"""lib/data/calculation.py: arithmetic of any kind against fractions, in words, and what is refused in time."""

import time
from fractions import Fraction
from random import Random

import pytest

from lib.data import requests
from lib.data.calculation import LONGEST, calculate, written
from lib.faults import DataError

# Of the requests that were written by hand, in their order.
ANSWERS = [
    "1388", "56", "80", "16.5", "1024", "0.5", "12", "74", "81", "6.85", "9801", "32", "24.84", "144", "720", "2",
    "9.756", "28", "437", "38.5", "65535", "0.3",
]  # fmt: skip


def test_the_requests_that_people_wrote():
    asked = [one.arguments()[0][1] for one in requests.held() if one.tool == "calculate"]
    assert [written(calculate(text)) for text in asked] == ANSWERS


def made(pick, depth):
    """A random expression as text, and its value by fractions."""
    if depth == 0 or pick.random() < 0.25:
        hundredths = pick.choice((100, 1)) * pick.randrange(1, 9999)
        return f"{hundredths // 100}.{hundredths % 100:02}", Fraction(hundredths, 100)
    (a, x), (b, y) = made(pick, depth - 1), made(pick, depth - 1)
    sign, word = pick.choice((("+", "plus"), ("-", "minus"), ("*", "times"), ("/", "divided by")))
    if sign == "/" and y == 0:
        return "1", Fraction(1)
    value = {"+": x + y, "-": x - y, "*": x * y}[sign] if sign != "/" else x / y
    return f"({a}) {pick.choice((sign, word))} ({b})", value


def test_random_expressions_are_exact():
    pick, done = Random(0), 0
    while done < 10_000:
        text, value = made(pick, 3)
        if len(text) <= LONGEST:
            assert calculate(text) == value, text
            done += 1


def test_signs_bind_as_python_binds_them():
    """Without brackets: Python's own operators on the same fractions."""
    pick = Random(1)
    for _ in range(2000):
        numbers, signs = [pick.randint(1, 9) for _ in range(5)], [pick.choice("+-*/") for _ in range(4)]
        text = str(numbers[0]) + "".join(f" {s} {n}" for s, n in zip(signs, numbers[1:], strict=True))
        total, term = Fraction(0), Fraction(numbers[0])
        for sign, n in zip(signs, numbers[1:], strict=True):
            if sign in "*/":
                term = term * n if sign == "*" else term / n
            else:
                total, term = total + term, Fraction(n if sign == "+" else -n)
        assert calculate(text) == total + term, text


@pytest.mark.parametrize(
    "text, answer",
    [
        ("-2^2", "-4"), ("2^3^2", "512"), ("2^-1", "0.5"), ("(-2)^2", "4"), ("5 squared plus 1", "26"),
        ("sqrt(2)", "≈ 1.414213562"), ("sqrt(9/4)", "1.5"), ("cube root of 27", "3"), ("8^(1/3)", "2"),
        ("1/3", "1/3 ≈ 0.3333333333"), ("1,000,000 / 8", "125000"), ("50%", "0.5"), ("17 % 5", "2"),
        ("200 + 10 %", "200.1"), ("sqrt(10^40)", "100000000000000000000"),
        ("a quarter of a dozen", "3"), ("two hundred and five times three", "615"),
        ("one thousand two hundred", "1200"),
        ("two million minus one", "1999999"), ("half of half of 8", "2"), ("-7 mod 3", "2"), ("3 × 4 ÷ 2 =", "6"),
        ("0!", "1"), (".5 + .5", "1"), ("1 − 2", "-1"), ("two and two", "4"), ("10 : 4", "2.5"), ("1e", None),
        ("twenty-five times four", "100"), ("17 percent off 239", "198.37"), ("2 million", "2000000"),
        ("1,000, 2,000", "3000"), ("3²", "9"), ("cbrt(10^270)", str(10**90)), ("8^(2/3)", "4"), ("4^-0.5", "0.5"),
        ("cbrt(0)", "0"),
        ("two hundred and five thousand and six", "205006"),
    ],
)  # fmt: skip
def test_answers(text, answer):
    if answer is None:
        with pytest.raises(DataError):
            calculate(text)
    else:
        assert written(calculate(text)) == answer


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "its end was not expected"), ("1/0", "divides by 0"), ("5 mod 0", "divides by 0"),
        ("0^-1", "divide by 0"),
        ("9**9**9", "more than 10,000 bits"), ("9^99999", "more than 10,000 bits"), ("99!!", "whole numbers from 0"),
        ("1001!", "0 to 1000"), ("().__class__", "was not expected"), ("__import__('os')", "was not expected"),
        ("(" * 100 + "1" + ")" * 100, "more than 40"), ("(" * 400, "at most 300"), ("1" * 301, "at most 300"),
        ("sqrt(-1)", "has no real power"), ("2 + ", "its end"), ("(1 + 2", "its end"), ("1 2", "'2' was not"),
        ("the answer", "'answer'"), ("x", "was not expected"), ("-" * 100 + "1", "more than 40"),
        ("0.5!", "whole numbers"),
        ("9" * 290 + "^99", "more than 10,000 bits"), ("1;2", "';'"), ("(10^401)^.5", "too large"),
        ("\x00", "not expected"), ("10,5", "',5' was not"), ("1,000,00", "not expected"), ("12 on 3", "'on'"),
        ("twenty twenty", "'twenty'"), ("nineteen ninety nine", "'ninety'"), ("one two three", "'two'"),
        ("one million million", "'million'"), ("①", "not expected"), ("2^4000 + 2^0.5", "too large"),
        ("2^0.5/2^-4000", "division by zero"), ("1/2^5000*1.5^0.5", "too small"),
    ],
)  # fmt: skip
def test_what_is_refused_at_once(text, message):
    start = time.perf_counter()
    with pytest.raises(DataError, match=message):
        calculate(text)
    assert time.perf_counter() - start < 0.5


def test_numbers_that_are_large_are_written():
    assert written(calculate("2^3000")) == str(2**3000) and written(calculate("2^1000 / 3")).endswith("/3")
    assert written(calculate("-1/8")) == "-0.125" and written(Fraction(0)) == "0"
