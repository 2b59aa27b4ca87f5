"""Fields of dataclasses as people give them: numbers with bounds, files to write, and what JSON can say."""

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

    def fault(self, x: Any) -> str:
        """What is wrong with x, if anything is. A number that is a tensor, which a sweep varies, was checked before."""
        if not isinstance(x, int | float):
            return ""
        ends = (self.above and x == self.low) or (self.below and x == self.high)
        fine = self.low <= x <= self.high and not ends and math.isfinite(x)
        return "" if fine else f"must be {self}, not {x}"

    def __str__(self) -> str:
        lower = f"{'above' if self.above else 'at least'} {self.low}"
        return lower + (f" and {'below' if self.below else 'at most'} {self.high}" if self.high < math.inf else "")


@dataclass(frozen=True)
class Written:
    """Marks the path of a file that is to be written, whose ending says of what kind, or of a folder."""

    folder: bool = False

    def fault(self, path: Path | None) -> str:
        if path is None:
            return ""
        if self.folder:
            return "" if path.parent.is_dir() and not path.is_file() else f"{path} cannot be a folder"
        if path.suffix and path.parent.is_dir() and not path.is_dir():
            return ""
        if path.is_dir():
            return f"{path} is a folder: give a file's name, such as {path / 'out.png'}"
        return f"{path}: there is no folder {path.parent}" if path.suffix else f"{path} needs an ending, such as .png"


@dataclass(frozen=True)
class Given:
    """Marks a word that is the number of a held-out example, a file, or one of `names`."""

    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Carries:
    """Marks what a conversation carries on from one request to the next."""


@dataclass(frozen=True)
class Plane:
    """Marks two numbers as a point, of which a page shows this part of the plane."""

    left: float
    right: float
    bottom: float
    top: float


@dataclass(frozen=True)
class OfRun:
    """Marks words that are among those a run keeps (`runs.words`)."""


@dataclass(frozen=True)
class Shown:
    """Marks a flag that is set on a page unless a person clears it there."""


@dataclass(frozen=True)
class InTerminal:
    """Marks a flag that a page does not have."""


@dataclass(frozen=True)
class _Free:
    """Marks a field that a resumed run may change: see `Free`."""


_COUNT, _NATURAL, _SHARE, _FRACTION = Range(1), Range(0), Range(0, 1, above=True), Range(0, 1, below=True)
_VOCABULARY = Range(256)  # of bytes, which spell what is not in it
Count = Annotated[int, _COUNT, arg(metavar=f"INT, {_COUNT}")]
Natural = Annotated[int, _NATURAL, arg(metavar=f"INT, {_NATURAL}")]
Vocabulary = Annotated[int, _VOCABULARY, arg(metavar=f"INT, {_VOCABULARY}")]
Seed = Annotated[int, Range(-(2**63), 2**63 - 1)]  # others are another seed's numbers
Amount = Annotated[float, _NATURAL, arg(metavar=f"FLOAT, {_NATURAL}")]
Share = Annotated[float, _SHARE, arg(metavar=f"FLOAT, {_SHARE}")]
Fraction = Annotated[float, _FRACTION, arg(metavar=f"FLOAT, {_FRACTION}")]
NewFile = Annotated[Path, Written()]
NewFolder = Annotated[Path, Written(folder=True)]
Example = Annotated[str, Given()]
T = TypeVar("T")
Carried = Annotated[T, Carries()]
Named = Annotated[T, OfRun()]
OnTerminal = Annotated[T, InTerminal()]
OnPage = Annotated[T, Shown()]
Free = Annotated[T, _Free()]
"""What a resumed run may change, as it does not enter the state that is trained: `beams: Free[Count] = 4`."""


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(kind, include_extras=True)


def free(kind: Any) -> set[str]:
    """Names of the fields of a dataclass that are `Free`."""
    return {name for name, hint in _hints(kind).items() if _Free() in getattr(hint, "__metadata__", ())}


def check(values: Any) -> None:
    """Raises ValueError naming a field of the dataclass `values` whose value, or one of them, is out of its bounds or a
    file that cannot be written."""
    if torch.compiler.is_compiling():
        return
    kind: Any = type(values)
    for name, hint in _hints(kind).items():
        for fault in _faults(hint, getattr(values, name)):
            raise ValueError(f"--{name.replace('_', '-')} {fault}")


def _faults(hint: Any, value: Any) -> Iterator[str]:
    if typing.get_origin(hint) is Annotated:
        marks = [mark for mark in hint.__metadata__ if isinstance(mark, Range | Written)]
        yield from filter(None, (mark.fault(value) for mark in marks))
        hint = hint.__origin__
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and value is not None:
        for part, x in zip(parts[:1] * len(value) if parts[-1:] == (...,) else parts, value, strict=True):
            yield from _faults(part, x)
    elif origin in (typing.Union, types.UnionType):
        for part in parts:
            yield from _faults(part, value)


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
