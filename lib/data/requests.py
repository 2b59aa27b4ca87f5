"""Requests to an assistant: which tool each is for, and which parts of it are the tool's arguments.

`held` are 323 of them, written by hand before any model was trained, and nothing is trained on them. A line of
requests.tsv is a tool, a tab, and a request whose arguments stand in braces, each with its slot: {5|amount}.
"""

import re
from pathlib import Path
from typing import NamedTuple

from lib.faults import DataError

NONE = "none"  # of a request that no tool can serve
TOOLS: dict[str, tuple[str, ...]] = {
    "calculate": ("expression",), "plot": ("formula", "low", "high"), "convert": ("amount", "from", "to"),
    "clock": ("place",), "lookup": ("subject",), "documents": ("question",), "translate": ("text",),
    "sentiment": ("text",), "entities": ("text",), "draw": ("n", "label"), "edit": ("number", "label"),
    "compose": ("bars", "n"), "picture": ("prompt",), "summarise": ("text",), "chat": (), "speak": ("text",), NONE: (),
}  # fmt: skip
HELD = Path(__file__).with_name("requests.tsv")
_MARKED = re.compile(r"\{([^{}|]*)\|([^{}|]*)\}")


class Span(NamedTuple):
    """Characters begin to end - 1 of a request fill a slot."""

    slot: str
    begin: int
    end: int


class Request(NamedTuple):
    text: str
    tool: str
    spans: tuple[Span, ...]

    def arguments(self) -> list[tuple[str, str]]:
        """Each slot with the words that fill it, in the order of the request."""
        return [(slot, self.text[begin:end]) for slot, begin, end in self.spans]


def marked(tool: str, line: str) -> Request:
    """A request from its marked form. Raises DataError for a tool or a slot that there is not, and for loose braces."""
    if tool not in TOOLS:
        raise DataError(f"no tool {tool!r}: {', '.join(TOOLS)}")
    text, spans, at = "", list[Span](), 0
    for found in _MARKED.finditer(line):
        filler, slot = found.groups()
        if slot not in TOOLS[tool]:
            raise DataError(f"{line!r}: {tool} has no slot {slot!r}")
        text += line[at : found.start()]
        spans.append(Span(slot, len(text), len(text) + len(filler)))
        text, at = text + filler, found.end()
    text += line[at:]
    if set(text) & set("{|}"):
        raise DataError(f"{line!r}: an argument is written {{words|slot}}")
    return Request(text, tool, tuple(spans))


def held() -> list[Request]:
    """Written by hand, to measure with."""
    lines = HELD.read_text(encoding="utf-8").splitlines()
    return [marked(*line.split("\t", 1)) for line in lines]
