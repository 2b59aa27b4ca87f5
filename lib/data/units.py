"""Amounts of one unit in another, exactly: `5 km` in miles, by pint's table of units.

A unit's name is read here and handed to pint as one or several of its own names: pint would also read arithmetic, and
calculates what does not end (9**9**9).
"""

import functools
import re
from fractions import Fraction
from typing import Any

from lib.data.calculation import calculate, written
from lib.faults import DataError

AMERICAN = ("pint", "gallon", "quart", "cup", "fluid_ounce", "ton", "tablespoon", "teaspoon", "bushel")
_SAME = {  # what people write, and pint's name
    "c": "degC", "f": "degF", "k": "kelvin", "celsius": "degC", "centigrade": "degC", "fahrenheit": "degF",
    "kmh": "km/hour", "kph": "km/hour", "kmph": "km/hour", "mph": "mile/hour", "mps": "meter/second",
    "knots": "knot", "lbs": "pound", "ozs": "ounce", "feet": "foot", "ft": "foot", "inches": "inch", "in": "inch",
    "stones": "stone", "tonne": "metric_ton", "tonnes": "metric_ton", "mins": "minute", "min": "minute",
    "secs": "second", "sec": "second", "s": "second", "hrs": "hour", "hr": "hour", "h": "hour", "l": "liter",
    "ml": "milliliter", "cl": "centiliter", "dl": "deciliter", "g": "gram", "m": "meter", "kcal": "kilocalorie",
    "kwh": "kilowatt_hour", "hp": "horsepower", "ps": "metric_horsepower", "kb": "kilobyte", "mb": "megabyte",
    "gb": "gigabyte", "tb": "terabyte", "tsp": "teaspoon", "tbsp": "tablespoon", "ly": "light_year",
    "nmi": "nautical_mile", "yds": "yard", "yd": "yard", "micron": "micrometer", "microns": "micrometer",
    "hundredweight": "US_hundredweight", "barrel": "oil_barrel", "barrels": "oil_barrel", "bbl": "oil_barrel",
    "mmhg": "mmHg",
}  # fmt: skip
_EXACTLY = {  # what small and large letters tell apart
    "Kb": "kilobit", "Mb": "megabit", "Gb": "gigabit", "Tb": "terabit", "kbit": "kilobit", "Mbit": "megabit",
    "Gbit": "gigabit", "mbit": "megabit", "gbit": "gigabit", "mbps": "megabit/second", "Mbps": "megabit/second",
    "kbps": "kilobit/second", "Gbps": "gigabit/second", "NM": "nautical_mile", "L": "liter", "C": "degC", "F": "degF",
    "K": "kelvin", "W": "watt", "J": "joule", "N": "newton", "V": "volt", "A": "ampere", "B": "byte", "Å": "angstrom",
}  # fmt: skip


@functools.cache
def _registry() -> Any:
    import pint  # two seconds, which nothing else should wait for

    return pint.UnitRegistry(non_int_type=Fraction)


def name(text: str) -> str:
    """pint's name of a unit as people write it. Raises DataError."""
    found = re.sub(r"[°º]|\b(?:degrees?|deg)\s+(?=\w)", " ", text.strip().rstrip("."))
    if len(found) > 60 or re.search(r"[^\w\s/²³^.µ-]|__|\d(?<![23])", found):
        raise DataError(f"{text[:60]!r} is no unit: write one such as km/h, square feet or celsius")
    top, *below = re.split(r"\s*/\s*|\s+per\s+", found.strip())
    return "/".join(_one(part, text) for part in (top, *below))


def _one(part: str, text: str) -> str:
    """Of a unit without "per"."""
    power = 1
    for n, before, after in ((2, r"square|sq\.?", r"squared|\^?2|²"), (3, r"cubic|cu\.?", r"cubed|\^?3|³")):
        bare = re.sub(rf"^(?:{before})\s+|\s*(?:{after})$", "", part, flags=re.IGNORECASE)
        part, power = (bare, n) if bare != part and bare else (part, power)
    part = re.sub(r"^(?:imperial|uk|british)\s+", "imperial_", part, flags=re.IGNORECASE)
    part = re.sub(r"^(?:us|american|u\.s\.)\s+", "", part, flags=re.IGNORECASE).replace("-", " ")
    joined = "_".join(part.split())
    units, lower = _registry(), joined.lower()
    tries = [_EXACTLY.get(joined, ""), "" if joined in ("M", "G", "S", "H") else _SAME.get(lower, "")]
    if len(joined) > 1:
        tries += [joined, lower, lower.removesuffix("s"), lower.removesuffix("es"), lower.capitalize()]
    for found in filter(None, tries):
        if "/" in found or _known(units, found):
            return found if power == 1 else f"({found})**{power}"
    words = [_SAME.get(word, word) for word in lower.split("_")]
    if 1 < len(words) < 4 and all(word and _known(units, word) for word in words):  # kilowatt hours, newton metres
        return "*".join(words)
    raise DataError(
        f"no unit {text!r} is known: length, mass, volume, time, speed, temperature, energy and the like are"
    )


def _known(units: Any, name: str) -> bool:
    try:
        return len(name.strip("_")) > 0 and name in units and bool(units.parse_units(name))
    except Exception:  # pint's own, of whatever kind, for what is no name
        return False


def convert(amount: str, source: str, target: str) -> str:
    """The amount in both units: `5 km ≈ 3.106856 miles`. Raises DataError."""
    number = Fraction(1) if amount.lower().strip() in ("", "a", "an") else calculate(amount)
    exact = Fraction(number)
    names, units = (name(source), name(target)), _registry()
    if exact.numerator.bit_length() + exact.denominator.bit_length() > 1000:
        raise DataError(f"{amount!r} is too large or too fine an amount")
    try:
        found = Fraction(units.Quantity(exact, names[0]).to(names[1]).magnitude)
    except Exception as error:  # pint's own, of whatever kind
        kinds = [_kind(units, each) for each in names]
        raise DataError(f"{source} ({kinds[0]}) cannot be given in {target} ({kinds[1]})") from error
    value = found
    short = written(value)
    ended = "≈" not in short and "/" not in short and len(short.partition(".")[2]) <= 6 and isinstance(number, Fraction)
    american = any(units.get_name(each) in AMERICAN for n in names for each in re.findall(r"[^\W\d]+", n))
    note = " (as in the United States; say imperial for others)" if american else ""
    shown = f"{written(number)} {source}".strip()
    return f"{shown} {'=' if ended else '≈'} {short if ended else _rounded(value)} {target}{note}"


def _kind(units: Any, name: str) -> str:
    """What it measures, as length^2."""
    parts = units.parse_units(name).dimensionality.items()
    return (
        " ".join(f"{what.strip('[]')}^{float(n):g}" if n != 1 else what.strip("[]") for what, n in parts) or "a number"
    )


def _rounded(value: Fraction) -> str:
    """To seven digits."""
    text = f"{float(value):.7g}"
    return text if "e" not in text else f"{float(value):.6e}"
