"""A model that answers requests: one JSON object a line on standard input, its answers as lines on standard output.

    <- {"kind": "ready"}
    -> {"id": 1, "text": "How are you?"}
    <- {"id": 1, "kind": "text", "text": "Comment allez-vous ?\n"}
    <- {"id": 1, "kind": "end"}

A request has the fields of the experiment's `Use` (where that has several verbs, `verb` says which) and an `id` of any
kind. The model is loaded at the first one, and again where one names another `run`. Answers are text (in pieces),
table, steps (how probable each token of a text was), call (of a tool, by an assistant), picture, sound (a WAV file),
document and note, with null for a number that is not finite; `end` or `error` closes them. An `end` has under `next`
what a conversation carries on: fields of the next request. {"about": true} is answered, before any model is loaded,
with what can be asked (lib/run/described.py), of kind about.
One request is worked on at a time. The end of the input ends the worker, and to kill it does no harm.
"""

import base64
import dataclasses
import json
import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from lib import plot, sound
from lib.answers import Answer, Call, Document, Note, Picture, Sound, Steps, Table, Text
from lib.faults import Fault, RunError
from lib.run.described import described
from lib.run.fields import from_json
from lib.run.use import Typed, Use, verbs


class _Gone(Exception):  # noqa: N818 (it never leaves this file)
    """Nobody reads the answers any more."""


def serve(use: Any, answers: Callable[[Any], Iterator[Answer]], requests: Iterable[bytes], out: TextIO) -> None:
    """Answers requests until they end, or nobody reads the answers. What `answers(use)` raises is told as an error, and
    the next request is read."""
    with suppress(_Gone):
        _send(out, kind="ready")
        for line in filter(bytes.strip, requests):
            mark: dict[str, Any] = {}
            try:
                request = json.loads(line)
                if not isinstance(request, dict):
                    raise ValueError("a request is a JSON object")
                mark = {"id": request.pop("id", None)}
                if request.pop("about", False) is True:
                    _send(out, **mark, kind="about", verbs=described(use))
                    _send(out, **mark, kind="end")
                    continue
                wanted, said = asked(use, request), ""
                for answer in answers(wanted):
                    _send(out, **mark, **as_data(answer))
                    said += answer.text if isinstance(answer, Text) else ""
                _send(out, **mark, kind="end", **_carried(wanted, said))
            except _Gone:
                raise
            except Exception as error:  # whatever it was, the model can answer the next one
                if not isinstance(error, Fault | ValueError):
                    traceback.print_exc()
                _send(out, **mark, kind="error", message=str(error) or type(error).__name__)


def _carried(use: Use, said: str) -> dict[str, Any]:
    if not isinstance(use, Typed):
        return {}
    after = use.after(said)
    names = [f.name for f in dataclasses.fields(use) if getattr(use, f.name) != getattr(after, f.name)]
    return {"next": {name: getattr(after, name) for name in names}} if names else {}


def asked(use: Any, request: dict[str, Any]) -> Use:
    """The request as a `Use`. Raises ValueError."""
    known = verbs(use)
    verb = request.pop("verb", next(iter(known)))
    if not isinstance(verb, str) or verb not in known:
        raise ValueError(f"no verb {verb!r}: {', '.join(known)}")
    wanted = from_json(known[verb], request)
    if isinstance(wanted, Typed) and wanted.open():
        raise ValueError("text: nothing to work on")
    return wanted


def as_data(answer: Answer) -> dict[str, Any]:
    match answer:
        case Text(text):
            return {"kind": "text", "text": text}
        case Note(text):
            return {"kind": "note", "text": text}
        case Call(tool, arguments):
            return {"kind": "call", "tool": tool, "arguments": arguments}
        case Table(columns, rows, form, head):
            return {"kind": "table", "columns": columns, "rows": _finite(rows), "form": form, "head": head}
        case Steps():
            parts = {f.name: _finite(getattr(answer, f.name)) for f in dataclasses.fields(answer)}
            return {"kind": "steps"} | parts
        case Picture(content, file, caption, scale):
            sheet = {"frames": answer.frames, "versions": answer.versions, "gap": plot.GAP * scale}
            return _file("picture", plot.encoded(content, file.suffix, scale), file, caption) | sheet
        case Sound(samples, rate, file, caption):
            return _file("sound", sound.wav(samples, rate), file, caption)
        case Document(content, file, caption):
            return _file("document", content, file, caption)


def from_data(data: dict[str, Any]) -> Answer:
    """What a worker sent, as the answer that it was. Raises RunError for an error, and ValueError for what closes
    answers, and for what no tool of an assistant answers: calls and steps."""
    file, caption = Path(data.get("name", "")), data.get("caption")
    content = base64.b64decode(data.get("base64", ""))
    match data["kind"]:
        case "error":
            raise RunError(data["message"])
        case "text":
            return Text(data["text"])
        case "note":
            return Note(data["text"])
        case "table":
            rows = [tuple(math.nan if x is None else x for x in row) for row in data["rows"]]
            return Table(tuple(data["columns"]), rows, data["form"], data["head"])
        case "picture":
            return Picture(content, file, caption, data["gap"] // plot.GAP, data["frames"], data["versions"])
        case "sound":
            return Sound(*sound.samples(content), file, caption)
        case "document":
            return Document(content, file, caption)
    raise ValueError(f"{data['kind']} is no answer")


def _finite(x: Any) -> Any:
    """Lists of lists with None for what JSON cannot say."""
    if isinstance(x, list | tuple):
        return [_finite(part) for part in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _file(kind: str, content: bytes, file: Path, caption: str | None) -> dict[str, Any]:
    encoded = base64.b64encode(content).decode()
    return {"kind": kind, "name": file.name, "caption": caption or "", "base64": encoded}


def _send(out: TextIO, **values: Any) -> None:
    try:
        print(json.dumps(values), file=out, flush=True)
    except OSError as error:
        raise _Gone from error
