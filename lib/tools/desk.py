"""Where requests are served: a request with its tool and arguments goes in, answers come out."""

import datetime
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lib.answers import Answer, Call, Document, Note, Picture, Sound, Text
from lib.data import atlas, dictionary
from lib.data.requests import NONE, Request
from lib.faults import DataError
from lib.tools import documents, exact, lookup, online, voice, zoo
from lib.tools.lookup import Books
from lib.workers import Pool

ABOUT = {  # what a person may ask for
    "calculate": "arithmetic, exactly", "plot": "the curve of a function of x", "convert": "units",
    "clock": "time and date anywhere", "lookup": "words, countries, cities, elements",
    "documents": "passages of your own texts (--documents)", "translate": "English into French",
    "sentiment": "whether a review is good or bad", "entities": "names in a text", "draw": "faces of nobody",
    "edit": "change a face by its number", "compose": "chorales in four voices", "picture": "flowers by a sentence",
    "summarise": "the gist of a text", "chat": "talk, with a small model", "speak": "read aloud",
}  # fmt: skip
UNSURE = "I am not sure what you want. Say a number, or ask in other words:\n"
# What is asked of the world, not of a small model that would make an answer up.
FACT = re.compile(
    r"^(?!.*\b(?:i|me|my|we|us|our|you|your|cares|knows)\b)(?:(?:so|and|but|please|hey)[, ]+)*"
    r"(?:who(?:se|m)?|when|where|which|how (?:many|much|tall|old|far|long|big|high|deep|fast))\b",
    re.IGNORECASE | re.DOTALL,
)
# Of the clock only now is known.
NOT_NOW = re.compile(
    r"\b(?:was|were|did|will|would|going to|won|wins?|record|weather|rain\w*|snow\w*|sunny|sunrise|sunset|warm|cold|"
    r"hot|temperature|degrees|last|next|ago|arrives?|leaves?|departs?|trains?|flights?|bus|opens?|closes?|starts?|ends?|begins?)\b",
    re.IGNORECASE,
)


class Desk:
    """`folder`: where pictures and sounds are saved. `online`: whether services of others are asked (lib/tools/online),
    those whose models or keys the environment names."""

    def __init__(self, pool: Pool, data_dir: Path | None = None) -> None:
        self.pool, self.data_dir = pool, data_dir
        self.folder, self.online, self.documents = Path(), False, None  # type: tuple[Path, bool, Path | None]

    @functools.cached_property
    def atlas(self) -> atlas.Atlas:
        return atlas.load(self.data_dir)

    @functools.cached_property
    def books(self) -> Books:
        return Books(dictionary.load(self.data_dir), self.atlas)

    @functools.cached_property
    def encode(self) -> documents.Encode:
        return documents.encoder(self.data_dir)

    def answers(self, request: Request, seed: int = 0, earlier: Sequence[str] = ()) -> Iterator[Answer]:
        """Which tool is used, then what it answers. Raises Fault for what the tool cannot do."""
        tool, text = request.tool, request.text
        asked = dict[str, str]()
        for slot, words in request.arguments():
            asked[slot] = f"{asked[slot]}\n{words}" if slot in asked else words
        if (tool == "chat" and FACT.search(text)) or (tool == "clock" and NOT_NOW.search(text)):
            tool = "lookup"  # which says what it does not have
        if tool == NONE:
            yield Text("None of my tools can do that. They are: " + "; ".join(ABOUT.values()) + ".\n")
            return
        yield Call(tool, tuple(asked.items()))
        yield from self.use(tool, asked, text, seed, earlier)

    def use(
        self, tool: str, asked: Mapping[str, str], text: str, seed: int = 0, earlier: Sequence[str] = ()
    ) -> Iterator[Answer]:
        """What the tool answers. Values of a slot that has several are lines of one text."""
        match tool:
            case "calculate" | "convert":
                yield from self.exactly(tool, asked, text)
            case "plot":
                yield from exact.plot(asked, text, self.folder / "plot.png")
            case "clock":
                yield from exact.clock(asked, lambda: self.atlas, datetime.datetime.now().astimezone())
            case "lookup":
                yield from self.looked_up(text, asked.get("subject", text))
            case "documents":
                yield from self.read(asked.get("question", text))
            case "chat" | "summarise" if self.served("OPENAI_BASE_URL"):
                yield from self.endpoint(text, earlier, [text] * (tool == "summarise"))
            case "summarise":
                yield from documents.summary(asked.get("text", ""), self.encode)
            case "picture" if self.served("OPENAI_IMAGE_MODEL"):
                yield from online.Endpoint().picture(asked.get("prompt", text), self.folder / "picture.png")
            case "speak" if self.served("OPENAI_SPEECH_MODEL"):
                yield from online.Endpoint().speech(asked.get("text", text), self.folder / "speech.wav")
            case "speak":
                yield from voice.speak(asked.get("text", ""), self.folder / "speech.wav")
            case _:
                for answer in zoo.answers(self.pool, tool, asked, text, seed, earlier):
                    yield self.placed(answer)

    def served(self, name: str) -> bool:
        return self.online and bool(os.environ.get(name))

    def placed(self, answer: Answer) -> Answer:
        """In the folder, if it is a file."""
        if isinstance(answer, Picture | Sound | Document):
            return replace(answer, file=self.folder / answer.file.name)
        return answer

    def exactly(self, tool: str, asked: Mapping[str, str], text: str) -> Iterator[Answer]:
        try:
            yield from (exact.calculate if tool == "calculate" else exact.convert)(asked, text)
        except DataError:
            if not self.served("WOLFRAM_APPID"):
                raise
            yield from online.wolfram(text)

    def looked_up(self, text: str, subject: str) -> Iterator[Answer]:
        try:
            yield from lookup.lookup(text, subject, self.books)
        except lookup.Missing as error:
            if self.online:
                yield from online.wikipedia(text, self.encode)
                return
            yield Text(f"{error}\n")
            yield Note("looked in WordNet, GeoNames and the table of elements; --online asks Wikipedia too")

    def read(self, question: str) -> Iterator[Answer]:
        if self.documents is None:
            raise DataError("which documents? Give a folder of texts: --documents FOLDER")
        yield from documents.Library(self.documents, self.encode).answers(question)

    def endpoint(self, text: str, earlier: Sequence[str], seen: Sequence[str] = ()) -> Iterator[Answer]:
        """The endpoint may use what only reads; when it has words of others before it (those `seen`, a document's, what
        was said before), nothing that asks another host: they may be meant to make it send something there."""
        others = [*seen, *earlier]

        def said(found: Iterator[Answer]) -> str:
            return "".join(answer.text for answer in found if isinstance(answer, Text | Note))

        def once(answers: Callable[[str], Iterator[Answer]]) -> online.Tool:
            def use(asked: Mapping[str, str]) -> str:
                others.append(asked.get("question", ""))
                return said(answers(others[-1]))

            return use

        def wikipedia(question: str) -> Iterator[Answer]:
            if len(others) > 1:
                raise DataError("no other host is asked behind words of others")
            yield from online.wikipedia(question, self.encode)

        clock = lambda asked: said(exact.clock(asked, lambda: self.atlas, datetime.datetime.now().astimezone()))  # noqa: E731
        fact = lambda asked: said(lookup.lookup(asked.get("question", ""), asked.get("subject", ""), self.books))  # noqa: E731
        tools: dict[str, tuple[str, list[str], online.Tool]] = {
            "calculate": (ABOUT["calculate"], ["expression"], lambda asked: said(exact.calculate(asked, ""))),
            "convert": (ABOUT["convert"], ["amount", "from", "to"], lambda asked: said(exact.convert(asked, ""))),
            "clock": (ABOUT["clock"], ["place"], clock),
            "lookup": (ABOUT["lookup"], ["question", "subject"], fact),
            "wikipedia": ("a sentence of Wikipedia", ["question"], once(wikipedia)),
        }
        if self.documents:
            tools["documents"] = (ABOUT["documents"], ["question"], once(self.read))
        offered = {name: (online.schema(name, about, slots), use) for name, (about, slots, use) in tools.items()}
        turns = list(zip(itertools.cycle(("user", "assistant")), (*earlier, text), strict=False))
        yield from online.Endpoint().chat([("system", online.SYSTEM), *turns], offered)


def asks_back(options: Sequence[Request]) -> Iterator[Answer]:
    """What is said where it is not sure enough which tool is meant."""
    yield Text(UNSURE)
    for i, request in enumerate(options, start=1):
        what = "something that none of my tools can do" if request.tool == NONE else ABOUT[request.tool]
        yield Text(f"{i}. {request.tool}: {what}\n")
