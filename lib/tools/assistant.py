"""What is asked of the assistant: a request in words, which a router sends to a tool, or asks back."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, Self

from tyro.conf import Positional, arg

from lib import run
from lib.answers import Answer, Text
from lib.data import files
from lib.data.requests import NEEDED, NONE, Request
from lib.faults import DataError, RunError
from lib.tools import serving
from lib.tools.desk import UNSURE, Desk, asks_back

LONGEST = 10_000  # characters of a request
CERTAIN = 0.97  # how probable the tool of a part must be, so that it is a request by itself
CUTS = 4  # between arguments, that are tried
PAIRED = {"calculate", "convert", "lookup", "clock"}  # of which two may be asked in one breath
_JOINS = re.compile(r"(?:[.;?!]|,)?\s+(?:(?:and|then|also)\s+)+|[.;?!]\s+", re.IGNORECASE)
KEPT = 12  # of what was said before: questions and answers


@dataclass(frozen=True)
class Use(run.Conversation):
    """Ask the assistant with the latest finished run."""

    text: Positional[Annotated[str | None, arg(metavar="[REQUEST]")]] = None
    """What you want, in words. If it is not given, there is a conversation, line by line; an empty line ends it."""
    documents: Path | None = None
    """A folder of your own texts (or one of them) in which it may search: .txt, .md and .rst."""
    sure: run.Fraction = 0.9
    """How probable a tool must be to be used; below it the assistant asks back."""
    online: bool = False
    """Also ask services of others: Wikipedia, and those that the environment names (README, "An assistant")."""
    seed: run.Seed = 0
    """Decides what models draw, compose and say."""
    out: run.NewFolder = Path(".")
    """The folder where pictures and sounds are saved."""
    serve_mcp: run.OnTerminal[bool] = False
    """Serve the tools to other assistants, by the Model Context Protocol on standard input and output."""

    hint: ClassVar[str] = "One request a line; an empty line ends."

    def open(self) -> bool:
        return super().open() and not self.serve_mcp

    def after(self, said: str) -> Self:
        now = super().after(said)
        return replace(now, earlier=now.earlier[-KEPT:])


class Assistant(NamedTuple):
    """`routed`: of a text the requests that it may be, the likeliest first, with their probabilities."""

    routed: Callable[[str], Sequence[tuple[Request, float]]]
    desk: Desk


def answers(use: Use, assistant: Assistant) -> Iterator[Answer]:
    """What the tool says, behind its name and its arguments, or which tools may be meant. Raises Fault."""
    desk = assistant.desk
    desk.folder, desk.online, desk.documents = use.out, use.online, use.documents
    if use.serve_mcp:
        serving.serve(desk)
        return
    text = checked(use.text or "")
    chosen = _chosen(text, use.earlier, assistant)
    found = assistant.routed(text)
    if chosen is None and (parts := _several(found[0][0], assistant)):
        yield Text("These are several requests; ask one at a time:\n" + "".join(f"- {part}\n" for part in parts))
        return
    if chosen is None and found[0][1] < use.sure:
        yield from asks_back([request for request, _ in found])
        return
    yield from desk.answers(chosen or found[0][0], use.seed, use.earlier)


def checked(text: str) -> str:
    """The request. Raises RunError for none, DataError for one that is too long or not UTF-8."""
    found = files.printable(files.encodable(text)).strip()
    if not found:
        raise RunError("nothing to do: the request is empty")
    if len(found) > LONGEST:
        raise DataError(
            f"a request of {len(found):,} characters: at most {LONGEST:,}; longer texts go into --documents"
        )
    return found


def _several(whole: Request, assistant: Assistant) -> list[str]:
    """The parts of a request that are requests by themselves, if there are two: each has a tool of which it is sure,
    and that tool's arguments."""
    within = lambda cut: any(begin < cut.end() and cut.start() < end for _, begin, end in whole.spans)  # noqa: E731
    for cut in itertools.islice(itertools.filterfalse(within, _JOINS.finditer(whole.text)), CUTS):
        parts = [whole.text[: cut.start()], whole.text[cut.end() :]]
        if any(len(part.split()) < 2 for part in parts):
            continue  # the end of a range
        routed = [assistant.routed(part)[0] for part in parts]
        tools = [request.tool for request, p in routed if p >= CERTAIN and _filled(request)]
        if len(tools) == 2 and (tools[0] != tools[1] or tools[0] in PAIRED):
            return parts
    return []


def _filled(request: Request) -> bool:
    """Whether it has all that its tool needs; small talk needs nothing, and is no request beside another one."""
    slots = {slot for slot, _ in request.arguments()}
    return request.tool not in ("chat", NONE) and slots >= set(NEEDED[request.tool])


def _chosen(text: str, earlier: Sequence[str], assistant: Assistant) -> Request | None:
    """The request that was asked back about, when its number is what is said now."""
    if len(earlier) > 1 and earlier[-1].startswith(UNSURE.strip()) and (number := re.fullmatch(r"([1-9])\W*", text)):
        options = assistant.routed(earlier[-2])
        if int(number[1]) <= len(options):
            return options[int(number[1]) - 1][0]
    return None
