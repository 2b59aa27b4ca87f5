"""Tools that calculate: arithmetic, functions of x as curves, units, and the time anywhere. Nothing of a request is
executed, and what would take long is refused before it is begun."""

import datetime
import math
import re
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure

from lib.answers import Answer, Note, Picture, Text
from lib.data import atlas, formula, units
from lib.data.calculation import LONGEST, written
from lib.data.calculation import calculate as calculated
from lib.faults import DataError

NAMED = {"sine": "sin(x)", "sinus": "sin(x)", "cosine": "cos(x)", "parabola": "x**2", "exponential": "exp(x)",
         "logarithm": "log(x)", "hyperbola": "1/x", "square root": "sqrt(x)", "straight line": "x"}  # fmt: skip
POINTS = 400
_SIGNS = {
    "²": "**2", "³": "**3", "÷": "/", "−": "-", r"\bsquared\b": "**2", r"\bcubed\b": "**3", r"\bplus\b": "+",
    r"\bminus\b": "-", r"\btimes\b": "*", r"\b(?:divided by|over)\b": "/", r"\bto the power of\b": "**",
}  # fmt: skip


def calculate(asked: Mapping[str, str], text: str) -> Iterator[Answer]:
    yield Text(written(calculated(asked.get("expression", text))) + "\n")
    yield Note("calculated exactly (lib/data/calculation.py)")


def convert(asked: Mapping[str, str], text: str) -> Iterator[Answer]:
    if not (asked.get("from") and asked.get("to")):
        raise DataError("from which unit to which? For instance: 5 km in miles")
    yield Text(units.convert(asked.get("amount", ""), asked["from"], asked["to"]) + "\n")
    yield Note("calculated exactly, by pint's table of units")


def plot(asked: Mapping[str, str], text: str, out: Path) -> Iterator[Answer]:
    """Raises DataError for what is no function of x, and for a range that is none."""
    wanted = asked.get("formula", "")
    if not wanted or wanted.lower() in NAMED:
        wanted = next(
            (known for name, known in NAMED.items() if re.search(rf"\b{name}\b", (wanted or text).lower())), ""
        )
    if not wanted:
        raise DataError("of which function? For instance: plot sin(x) / x from -10 to 10")
    if len(wanted) > LONGEST:
        raise DataError(f"a formula of {len(wanted):,} characters: at most {LONGEST}")
    try:
        function = formula.parse(_python(wanted))
    except DataError as error:
        raise DataError(str(error).removeprefix("--formula ")) from error
    positive = re.search(r"log|sqrt", wanted)
    low = _end(asked.get("low"), 0.0 if positive else min(-10.0, _end(asked.get("high"), 10.0) - 20))
    high = _end(asked.get("high"), low + 20)
    if not low < high:
        raise DataError(f"a range goes from a smaller to a larger number, not from {low:g} to {high:g}")
    x = torch.linspace(low, high, POINTS, dtype=torch.float64)
    y = function(x)
    seen = y.isfinite()
    if not seen.any():
        raise DataError(f"{wanted} has no value between {low:g} and {high:g}")
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    shown = torch.where(seen, y, torch.nan)
    axes.plot(x.tolist(), shown.tolist())
    axes.set_title(f"{wanted}, x from {low:g} to {high:g}", parse_math=False, fontsize=9)
    axes.grid(alpha=0.3)
    yield Picture(figure, out, f"{wanted} for x from {low:g} to {high:g}")
    yield Note(f"{POINTS} points, calculated (lib/data/formula.py)")


def _python(text: str) -> str:
    """The formula in the signs of `formula.parse`: 3x^2 is 3*x**2."""
    found = re.sub(r"^\s*(?:y|f\s*\(x\))\s*=", "", text.lower()).replace("^", "**").replace("×", "*").replace("·", "*")
    for words, sign in _SIGNS.items():
        found = re.sub(words, f" {sign} ", found)
    return re.sub(r"(\d|\))\s*(?=x|\(|[a-z]+\()", r"\1*", found).strip()


def _end(text: str | None, otherwise: float) -> float:
    """An end of a range, as -2, minus two or 2pi."""
    if not text:
        return otherwise
    found = text.lower().strip()
    bare = found.removeprefix("minus ").lstrip("-+ ")
    times = math.pi if bare.endswith("pi") else 1.0
    size = calculated(bare.removesuffix("pi").rstrip("* ") or "1")
    try:
        return (-times if found.startswith(("-", "minus ")) else times) * float(size)
    except OverflowError as error:
        raise DataError(f"{text} is too far away to be drawn") from error


def clock(asked: Mapping[str, str], places: Callable[[], atlas.Atlas], now: datetime.datetime) -> Iterator[Answer]:
    """`places`: is asked where a place is; `now`: with a time zone, that of here."""
    place = asked.get("place", "")
    if not place:
        yield Text(f"Here: {now:%A}, {now.day} {now:%B %Y, %H:%M}\n")
        yield Note("this machine's clock")
        return
    zones = places().zones(place)
    if not zones:
        raise DataError(f"{place} is no city or country that I know")
    for name, zone in {zone: name for name, zone in zones.items()}.items():
        there = now.astimezone(_zone(name))
        yield Text(f"{zone}: {there:%A}, {there.day} {there:%B %Y, %H:%M} ({name})\n")
    yield Note("this machine's clock, GeoNames' time zones")


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except zoneinfo.ZoneInfoNotFoundError as error:
        raise DataError(f"this machine has no time zone {name}: pip install tzdata") from error
