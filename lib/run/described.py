"""What can be asked of a run, as data: its verbs, their fields, and what each field may be. A page makes forms of it.

A verb has a name, what it is `about`, its fields, whether it works on a text (`typed`), and the names of what a
conversation has `carried` on. A field has a name, its help, whether it is `positional` on a command line, a default
(null where there is none), `many` (false for one value, true for any number, n for n of them), and a `kind` with what
belongs to it: number (whole, low, high, above, below; of a point the `plane` that it is on), flag (shown: set on a page
at first), choice (choices), text (named: of the words that a run keeps), source (a number of a held-out example, one of
`names`, or an uploaded file), file (an uploaded one), drawing (whether one is made as well). Where answers are saved,
which run it is and where its data are is not asked.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import docstring_parser
from tyro.conf import Positional, Suppress

from lib.run import fields
from lib.run.use import Typed, Use, verbs

ELSEWHERE = {f.name for f in dataclasses.fields(Use)}
HIDDEN, POSITIONAL = typing.get_args(Suppress[bool])[1], typing.get_args(Positional[bool])[1]


def described(use: Any) -> list[dict[str, Any]]:
    """Of a `Use`, or a union of several, each verb with what it does and its fields."""
    return [
        {
            "verb": verb, "about": _line(kind.__doc__), "typed": issubclass(kind, Typed), "fields": list(_fields(kind)),
            "carried": [name for name, hint in _hints(kind).items() if _marked(hint, fields.Carries)],
        }
        for verb, kind in verbs(use).items()
    ]  # fmt: skip


def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _marked(hint: Any, by: type) -> bool:
    return any(isinstance(mark, by) for mark in getattr(hint, "__metadata__", ()))


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _fields(kind: Any) -> Iterator[dict[str, Any]]:
    helps: dict[str, str] = {}
    for of in reversed(kind.__mro__):
        if dataclasses.is_dataclass(of):
            helps |= {p.arg_name: _line(p.description) for p in docstring_parser.parse_from_object(of).params}
    hints = _hints(kind)
    for field in dataclasses.fields(kind):
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.name not in ELSEWHERE and (found := _kind(hints[field.name], default)):
            found = {"many": False} | found | {"default": found.get("default", default)}
            placed = POSITIONAL in getattr(hints[field.name], "__metadata__", ())
            yield {"name": field.name, "help": helps.get(field.name, ""), "positional": placed} | found


def _kind(hint: Any, default: Any) -> dict[str, Any]:
    """Empty for what is not asked."""
    marks: tuple[Any, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, marks = hint.__origin__, hint.__metadata__
    if any(isinstance(mark, fields.OfRun) for mark in marks):
        return _kind(hint, default) | {"named": True}
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        part = next(part for part in parts if part is not types.NoneType)
        return _kind(Annotated[part, *marks] if marks else part, default)
    if any(isinstance(mark, fields.Written) for mark in marks):
        return {"kind": "drawing", "default": False} if default is None else {}
    if any(isinstance(mark, fields.Shown) for mark in marks):
        return {"kind": "flag", "shown": True}
    if HIDDEN in marks or any(isinstance(mark, fields.Carries | fields.InTerminal) for mark in marks):
        return {}
    if origin is tuple:
        many: bool | int = True if parts[-1:] == (...,) else len(parts)
        plane = next((dataclasses.astuple(mark) for mark in marks if isinstance(mark, fields.Plane)), None)
        return _kind(parts[0], ()) | {"many": many} | ({"plane": plane} if plane else {})
    if source := next((mark for mark in marks if isinstance(mark, fields.Given)), None):
        return {"kind": "source", "names": source.names}
    bounds = next((mark for mark in marks if isinstance(mark, fields.Range)), fields.Range(-math.inf))
    ends: dict[str, Any] = {"above": bounds.above, "below": bounds.below}
    ends |= {name: x if math.isfinite(x) else None for name, x in (("low", bounds.low), ("high", bounds.high))}
    if origin is Literal:
        return {"kind": "choice", "choices": parts}
    kinds: dict[Any, dict[str, Any]] = {
        bool: {"kind": "flag"}, int: {"kind": "number", "whole": True} | ends, str: {"kind": "text"},
        float: {"kind": "number", "whole": False} | ends, Path: {"kind": "file"},
    }  # fmt: skip
    return kinds[hint]
