"""Requests to an assistant: which tool each is for, and which parts of it are the tool's arguments.

`held` are 323 of them, written by hand before any model was trained, and nothing is trained on them. A line of
requests.tsv is a tool, a tab, and a request whose arguments stand in braces, each with its slot: {5|amount}.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from lib.data import tokens
from lib.faults import DataError

NONE = "none"  # of a request that no tool can serve
TOOLS: dict[str, tuple[str, ...]] = {
    "calculate": ("expression",), "plot": ("formula", "low", "high"), "convert": ("amount", "from", "to"),
    "clock": ("place",), "lookup": ("subject",), "documents": ("question",), "translate": ("text",),
    "sentiment": ("text",), "entities": ("text",), "draw": ("n", "label"), "edit": ("number", "label"),
    "compose": ("bars", "n"), "picture": ("prompt",), "summarise": ("text",), "chat": (), "speak": ("text",), NONE: (),
}  # fmt: skip
NEEDED = TOOLS | {  # without which a tool cannot answer
    "plot": ("formula",), "convert": ("from", "to"), "clock": (), "draw": (), "compose": (),
}  # fmt: skip
HELD = Path(__file__).with_name("requests.tsv")
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d]+")
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


# ---- as numbers ----

SLOTS = sorted({slot for slots in TOOLS.values() for slot in slots})
TAGS = ["O", *(f"{letter}-{slot}" for slot in SLOTS for letter in "BI")]
SEVERAL = {"label"}  # slots of which a request may fill several


class Rows(NamedTuple):
    """Of a `tokens.wordpiece` tokenizer, cut to a length: `tags` are indices of TAGS, `tokens.NOTHING` where there is
    no piece of the request."""

    ids: Int[Tensor, "n t"]
    tools: Int[Tensor, "n"]  # indices of TOOLS
    tags: Int[Tensor, "n t"]


def rows(tokenizer: Tokenizer, requests: Sequence[Request], length: int) -> Rows:
    ids = torch.full((len(requests), length), tokens.PAD)
    tags = torch.full((len(requests), length), tokens.NOTHING)
    for i, (request, pieces) in enumerate(zip(requests, encoded(tokenizer, requests, length), strict=True)):
        ids[i, : len(pieces)] = torch.tensor([piece for piece, _, _ in pieces])
        for j, (_, begin, end) in enumerate(pieces):
            if end > begin:
                tags[i, j] = TAGS.index(_tag(request, begin, end))
    names = list(TOOLS)
    return Rows(ids, torch.tensor([names.index(request.tool) for request in requests]), tags)


def encoded(tokenizer: Tokenizer, requests: Sequence[Request], length: int) -> list[list[tuple[int, int, int]]]:
    """Of each request its pieces, [CLS] first: (id, begin, end) in characters, none of which [CLS] and [SEP] have."""
    tokenizer.encode_special_tokens = True  # text that spells one is text
    found = []
    for one in tokenizer.encode_batch([request.text for request in requests]):
        pieces = [(id, *place) for id, place in zip(one.ids, one.offsets, strict=True)]
        found.append([*pieces[: length - 1], pieces[-1]] if len(pieces) > length else pieces)
    return found


def _tag(request: Request, begin: int, end: int) -> str:
    for slot, first, last in request.spans:
        if begin < last and end > first:
            return f"{'B' if begin <= first else 'I'}-{slot}"
    return "O"


def spans(logp: Float[Tensor, "t k"], pieces: Sequence[tuple[int, int, int]], tool: str, text: str) -> tuple[Span, ...]:
    """The likeliest spans of the tool's slots, by the log-probabilities of TAGS: an I follows only a B or an I of its
    slot, and no span begins or ends within a word or a number (Viterbi). Of a slot that is filled twice and takes one,
    the likelier stays. A span that goes on to the last piece of a text that was cut goes on to the text's end."""
    allowed = [i for i, tag in enumerate(TAGS) if tag == "O" or tag[2:] in TOOLS[tool]]
    names = [TAGS[i] for i in allowed]
    goes = torch.tensor([[b[0] != "I" or a[2:] == b[2:] != "" for b in names] for a in ["O", *names]])
    step = torch.where(goes, 0.0, -torch.inf)
    within = torch.tensor([[b[0] == "O" == a[0] or (b[0] == "I" and a[2:] == b[2:]) for b in names] for a in names])
    on = torch.where(within, 0.0, -torch.inf)
    inside = [i for i, (_, begin, end) in enumerate(pieces) if end > begin]
    if not inside:
        return ()
    scores = logp[inside][:, allowed].float()
    best, back = step[0] + scores[0], list[Tensor]()  # an I begins no request
    inner = {at for word in _WORD.finditer(text) for at in range(word.start() + 1, word.end())}
    for i, row in zip(inside[1:], scores[1:], strict=True):
        total = best[:, None] + (on if pieces[i][1] in inner else step[1:])
        value, where = total.max(0)
        best, back = value + row, [*back, where]
    path = [int(best.argmax())]
    for where in reversed(back):
        path.append(int(where[path[-1]]))
    found = list[tuple[list[float], Span]]()
    for at, (i, k) in enumerate(zip(inside, reversed(path), strict=True)):
        letter, _, slot = names[k].partition("-")
        if letter == "B":
            found.append(([], Span(slot, pieces[i][1], pieces[i][2])))
        if letter in "BI":
            each, span = found[-1]
            found[-1] = ([*each, float(scores[at, k])], span._replace(end=pieces[i][2]))
    kept = dict[str, tuple[float, Span]]()
    for n, (each, span) in enumerate(found):
        mean = sum(each) / len(each)
        key = f"{span.slot} {n}" if span.slot in SEVERAL else span.slot
        if key not in kept or kept[key][0] < mean:
            kept[key] = (mean, span)
    last = pieces[inside[-1]][2]
    whole = (span._replace(end=len(text)) if span.end == last else span for _, span in kept.values())
    bare = (_bare(span, text) for span in whole)
    return tuple(sorted((span for span in bare if span.end > span.begin), key=lambda span: span.begin))


def _bare(span: Span, text: str) -> Span:
    """Without spaces and quotation marks around it."""
    words = text[span.begin : span.end]
    begin = span.begin + len(words) - len(words.lstrip(" \"'“”‘’«»"))
    return span._replace(begin=begin, end=max(begin, span.begin + len(words.rstrip(" \"'“”‘’«»"))))
