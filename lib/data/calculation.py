"""Arithmetic as people write it, calculated exactly: `23*55+123`, `12.5 % of 640`, `five hundred minus sixty three`.

Numbers are fractions, so that .1 + .2 is .3; only roots and powers that no fraction has are floats. Nothing is
executed: a text is cut into numbers and signs and read by a parser of this file. What would take long is refused
beforehand.
"""

import math
import re
from fractions import Fraction
from typing import NoReturn, TypeAlias

from lib.faults import DataError

Value: TypeAlias = Fraction | float  # float: rounded
LONGEST, DEEPEST, BITS = 300, 40, 10_000  # characters; brackets and signs in each other; of a result
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: i for i, word in enumerate(_UNITS)} | {word: 10 * i for i, word in enumerate(_TENS, start=2)}
_LARGE = {"hundred": 100, "dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fifth": 5, "tenth": 10}
_SIGNS = {
    "plus": "+", "add": "+", "added to": "+", "minus": "-", "less": "-", "−": "-", "–": "-", "times": "*", "x": "*",
    "×": "*", "·": "*", "multiplied by": "*", "divided by": "/", "over": "/", "÷": "/", ":": "/", "**": "^",
    "to the power of": "^", "percent": "%", "per cent": "%", "pct": "%", "modulo": "mod", "²": "squared", "³": "cubed",
    "square root of": "sqrt",
    "cube root of": "cbrt", "the": "", "a": "", "an": "", "and": ",",
}  # fmt: skip
_PHRASE = "|".join(re.escape(phrase) for phrase in sorted(_SIGNS, key=len, reverse=True) if " " in phrase)
_HYPHEN = re.compile(rf"\b({'|'.join(_TENS)})-(?=(?:{'|'.join(_UNITS[1:10])})\b)")  # twenty-five
_TOKEN = re.compile(
    rf"\s*(\d+(?:,\d{{3}})+(?!,?\d)(?:\.\d+)?|\d+\.?\d*|\.\d+|(?:{_PHRASE})\b|[a-z]+|\*\*|,(?=\s)|,\S*|\S)"
)


def calculate(text: str) -> Value:
    """Raises DataError for what is no arithmetic, and for what has no value or one that is too large."""
    if len(text) > LONGEST:
        raise DataError(f"{len(text)} characters of arithmetic: at most {LONGEST}")
    reader = _Reader(text)
    try:
        value = reader.whole()
        if reader.at < len(reader.tokens):
            reader.refuse()
        return _small(value)
    except (OverflowError, ZeroDivisionError) as error:  # of rounded numbers
        raise DataError(f"{text!r}: {error.args[-1]}") from error


def written(value: Value) -> str:
    """In decimals where they end, else as a fraction and rounded."""
    if isinstance(value, float):
        return f"≈ {value:.10g}"
    two = (value.denominator & -value.denominator).bit_length() - 1
    five, rest = 0, value.denominator >> two
    while rest % 5 == 0:
        rest, five = rest // 5, five + 1
    if rest > 1 or max(two, five) > 50:
        return f"{value} ≈ {float(value):.10g}" if _bits(value) < 900 else str(value)
    places = max(two, five)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    whole, end = digits[: len(digits) - places], digits[len(digits) - places :].rstrip("0")
    return "-" * (value < 0) + whole + ("." + end if end else "")


class _Reader:
    """From the loosest sign to the tightest; each method reads what binds tighter than its own signs first."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0
        found = _TOKEN.findall(_HYPHEN.sub(r"\1 ", text.lower().strip().rstrip("=?. ")))
        self.tokens = [sign for word in found if (sign := _SIGNS.get(word, word))]

    def refuse(self) -> NoReturn:
        what = repr(self.tokens[self.at]) if self.at < len(self.tokens) else "its end"
        raise DataError(f"{self.text!r}: {what} was not expected, numbers and + - * / ^ % ! sqrt ( ) are known")

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def takes(self, *signs: str) -> str:
        """The next token if it is one of these, else nothing."""
        if (token := self.next()) in signs:
            self.at += 1
            return token
        return ""

    def whole(self) -> Value:
        value = self.sum()
        return self.sum() - value if self.takes("from") else value

    def sum(self) -> Value:
        self.takes("+")
        value = self.product()
        while sign := self.takes("+", "-", ","):
            self.takes(*"," * (sign == ","))  # 48, 17, and 9
            other = self.product()
            value = _small(value - other if sign == "-" else value + other)
        return value

    def product(self) -> Value:
        value = self.signed()
        # % before a number is a sign; behind one it was read there, and on and off follow that
        while sign := self.takes("*", "/", "mod", "of", "%", *("on", "off") * (self.tokens[self.at - 1] == "%")):
            other = self.signed()
            if sign in ("on", "off"):  # 18 % on 54, 17 % off 239
                sign, value = "*", 1 - value if sign == "off" else value
            if sign in ("/", "mod", "%") and not other:
                raise DataError(f"{self.text!r} divides by 0")
            before = value
            value = _small(value * other if sign in ("*", "of") else value / other if sign == "/" else value % other)
            if isinstance(value, float) and not value and before and other and sign not in ("mod", "%"):
                raise DataError(f"{self.text!r}: a number too small on the way")
        return value

    def signed(self) -> Value:
        self.depth += 1
        if self.depth > DEEPEST:
            raise DataError(f"more than {DEEPEST} brackets and signs in each other")
        try:
            return -self.signed() if self.takes("-") else self.power()
        finally:
            self.depth -= 1

    def power(self) -> Value:
        base = self.postfixed()
        return _power(base, self.signed()) if self.takes("^") else base

    def postfixed(self) -> Value:
        value = self.atom()
        while True:
            if self.takes("!"):
                value = _factorial(value)
            elif self.next() == "%" and not self.begins(self.at + 1):
                self.at += 1
                value = value / 100
            elif sign := self.takes("squared", "cubed"):
                value = _power(value, Fraction(2 if sign == "squared" else 3))
            else:
                return value

    def begins(self, at: int) -> bool:
        """Whether a number begins there, a negative one not counted."""
        token = self.tokens[at] if at < len(self.tokens) else ""
        return token in ("(", "sqrt", "cbrt") or token in _SMALL or token[:1] in tuple(".0123456789")

    def atom(self) -> Value:
        if self.takes("("):
            value = self.whole()
            return value if self.takes(")") else self.refuse()
        if root := self.takes("sqrt", "cbrt"):
            return _power(self.signed(), Fraction(1, 2 if root == "sqrt" else 3))
        if self.begins(self.at):
            if not self.next()[0].isalpha():
                self.at += 1
                value = Fraction(self.tokens[self.at - 1].replace(",", "").rstrip("."))
                while large := self.takes(*_LARGE):  # 2 million
                    value = _small(value * _LARGE[large])  # type: ignore[assignment]
                return value
            return self.words()
        if self.next() in _LARGE:
            return self.words()
        if self.next() in _PARTS:
            self.at += 1
            return Fraction(1, _PARTS[self.tokens[self.at - 1]])
        return self.refuse()

    def words(self) -> Fraction:
        """A number in words: five hundred and sixty three. Each part must be smaller than what stands before it leaves
        room for: twenty twenty is none."""
        total, current, room, last = 0, 0, 1000, math.inf
        begun = False
        while True:
            word = self.next()
            if word in _SMALL and room >= (100 if _SMALL[word] > 9 else 10):
                current, room = current + _SMALL[word], 10 if _SMALL[word] > 19 else 1
            elif word == "hundred" and current < 100:
                current, room = max(current, 1) * 100, 100
            elif word == "dozen":
                current, room = max(current, 1) * 12, 1
            elif _LARGE.get(word, 0) >= 1000 and _LARGE[word] < last:
                last = _LARGE[word]
                total, current, room = total + max(current, 1) * last, 0, 1000
            elif word == "," and begun and room >= 100 and not _SMALL.keys().isdisjoint(self.tokens[self.at + 1 :][:1]):
                pass  # the "and" of hundreds and what is smaller
            elif begun and word not in _SMALL and word not in _LARGE:
                return Fraction(total + current)
            else:
                self.refuse()
            self.at, begun = self.at + 1, True


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _small(value: Value) -> Value:
    """Raises DataError for what is too large to go on with."""
    large = _bits(value) > BITS if isinstance(value, Fraction) else not math.isfinite(value)
    if large:
        raise DataError(f"a number of more than {BITS:,} bits on the way: take smaller ones")
    return value


def _power(base: Value, exponent: Value) -> Value:
    """Raises DataError for 0 to a negative power, for roots of negative numbers, and before what is too large."""
    if not base and exponent < 0:
        raise DataError("0 has no negative powers: it would divide by 0")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            if abs(exponent) * _bits(base) > BITS and abs(base) != 1:
                raise DataError(f"{base} to the power of {exponent}: more than {BITS:,} bits, take smaller numbers")
            return base**exponent.numerator
        if base >= 0 and (root := _root(base, exponent.denominator)) is not None:
            return _power(root, Fraction(exponent.numerator))
    if base < 0:
        raise DataError(f"{written(base)} has no real power {written(exponent)}")
    return _small(float(base) ** float(exponent))


def _root(x: Fraction, n: int) -> Fraction | None:
    """The square or cube root that is a fraction, if it is one."""
    if n > 3:
        return None
    found = Fraction(*(math.isqrt(part) if n == 2 else _cube_root(part) for part in (x.numerator, x.denominator)))
    return found if found**n == x else None


def _cube_root(x: int) -> int:
    """Rounded down, by Newton's way."""
    y = 1 << -(-x.bit_length() // 3) if x else 0
    while x and (better := (2 * y + x // (y * y)) // 3) < y:
        y = better
    return y


def _factorial(x: Value) -> Fraction:
    if isinstance(x, float) or x.denominator > 1 or not 0 <= x <= 1000:
        raise DataError(f"{written(x)}!: factorials are of whole numbers from 0 to 1000")
    return Fraction(math.factorial(x.numerator))
