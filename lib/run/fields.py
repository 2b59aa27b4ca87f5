"""Fields of dataclasses as people give them: numbers with bounds, and what JSON can say."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from tyro.conf import arg


@dataclass(frozen=True)
class Range:
    """Bounds of a number, which is finite; both are allowed, but for the lower one where it is `above` it and the
    upper one where it is `below` it."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, x: float) -> bool:
        ends = (self.above and x == self.low) or (self.below and x == self.high)
        return self.low <= x <= self.high and not ends and math.isfinite(x)

    def __str__(self) -> str:
        lower = f"{'above' if self.above else 'at least'} {self.low}"
        return lower + (f" and {'below' if self.below else 'at most'} {self.high}" if self.high < math.inf else "")


@dataclass(frozen=True)
class _Free:
    """Marks a field that a resumed run may change: see `Free`."""


_COUNT, _NATURAL, _SHARE, _FRACTION = Range(1), Range(0), Range(0, 1, above=True), Range(0, 1, below=True)
_VOCABULARY = Range(256)  # of bytes, which spell what is not in it
Count = Annotated[int, _COUNT, arg(metavar=f"INT, {_COUNT}")]
Natural = Annotated[int, _NATURAL, arg(metavar=f"INT, {_NATURAL}")]
Vocabulary = Annotated[int, _VOCABULARY, arg(metavar=f"INT, {_VOCABULARY}")]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Amount = Annotated[float, _NATURAL, arg(metavar=f"FLOAT, {_NATURAL}")]
Share = Annotated[float, _SHARE, arg(metavar=f"FLOAT, {_SHARE}")]
Fraction = Annotated[float, _FRACTION, arg(metavar=f"FLOAT, {_FRACTION}")]
T = TypeVar("T")
Free = Annotated[T, _Free()]
"""What a resumed run may change, as it does not enter the state that is trained: `beams: Free[Count] = 4`."""


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(kind, include_extras=True)


def free(kind: Any) -> set[str]:
    """Names of the fields of a dataclass that are `Free`."""
    return {name for name, hint in _hints(kind).items() if _Free() in getattr(hint, "__metadata__", ())}


def check_bounds(values: Any) -> None:
    """Raises ValueError where a number of the dataclass `values`, or one of a tuple of them, is out of its bounds. A
    number that is a tensor, which a sweep has varied, was checked before."""
    if torch.compiler.is_compiling():
        return
    kind: Any = type(values)
    for name, hint in _hints(kind).items():
        for bounds, x in _bounded(hint, getattr(values, name, None)):
            if x not in bounds:
                raise ValueError(f"--{name.replace('_', '-')} must be {bounds}, not {x}")


def _bounded(hint: Any, value: Any) -> Iterator[tuple[Range, float]]:
    """The numbers of a field's value, each with its bounds."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        for part, x in zip(parts[:1] * len(value) if parts[-1:] == (...,) else parts, value, strict=True):
            yield from _bounded(part, x)
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in parts:
            yield from _bounded(part, value)
    elif isinstance(value, int | float):
        yield from ((bounds, value) for bounds in getattr(hint, "__metadata__", ()) if isinstance(bounds, Range))


def from_json(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass `kind` of fields as JSON has them: lists for tuples, strings for paths. Raises ValueError."""
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    if unknown := values.keys() - {f.name for f in fields}:
        raise ValueError(f"no field {', '.join(sorted(unknown))}")
    needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    if missing := needed - values.keys():
        raise ValueError(f"the field {', '.join(sorted(missing))} is missing")
    return kind(**{name: _value(hints[name], value, name) for name, value in values.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in parts:
            return None
        return _value(next(part for part in parts if part is not types.NoneType), value, name)
    if origin is tuple and isinstance(value, list | tuple):
        each = parts[:1] * len(value) if parts[-1:] == (...,) else parts
        if len(each) == len(value):
            values = [str(x) if part is str and type(x) is int else x for part, x in zip(each, value, strict=True)]
            return tuple(_value(part, x, name) for part, x in zip(each, values, strict=True))
    elif origin is Literal and value in parts:
        return value
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint in (bool, int, str) and type(value) is hint:
        return value
    raise ValueError(f"{name}: {value!r} is not {getattr(hint, '__name__', hint) if not parts else hint}")
