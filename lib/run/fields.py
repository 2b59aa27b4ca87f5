"""Fields of dataclasses as people give them: numbers with bounds, and what JSON can say."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both allowed; `above`: the lower one is not."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, x: float) -> bool:
        return self.low <= x <= self.high and not (self.above and x == self.low)

    def __str__(self) -> str:
        lower = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return lower + (f" and at most {self.high:g}" if self.high < math.inf else "")


_COUNT, _NATURAL, _SHARE = Range(1), Range(0), Range(0, 1, above=True)
Count = Annotated[int, _COUNT, arg(metavar=f"INT, {_COUNT}")]
Natural = Annotated[int, _NATURAL, arg(metavar=f"INT, {_NATURAL}")]
Amount = Annotated[float, _NATURAL, arg(metavar=f"FLOAT, {_NATURAL}")]
Share = Annotated[float, _SHARE, arg(metavar=f"FLOAT, {_SHARE}")]


def check_bounds(values: Any) -> None:
    """Raises ValueError where a number of the dataclass `values` is out of its bounds."""
    for name, hint in typing.get_type_hints(type(values), include_extras=True).items():
        for bounds in getattr(hint, "__metadata__", ()):
            if isinstance(bounds, Range) and getattr(values, name) not in bounds:
                raise ValueError(f"--{name.replace('_', '-')} must be {bounds}")


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
