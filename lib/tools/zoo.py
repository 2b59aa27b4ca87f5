"""Tools that are finished runs of this zoo's own models, asked through their workers (lib/run/worker.py)."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from lib import runs
from lib.answers import Answer, Note, Text
from lib.data import faces, files
from lib.data.calculation import calculate
from lib.faults import DataError, RunError
from lib.run import worker
from lib.workers import Pool

EXPERIMENTS = {
    "translate": "exp_transformer_fr", "sentiment": "exp_bert_sentiment", "entities": "exp_bert_entities",
    "draw": "exp_cgan_glasses", "edit": "exp_vae_faces", "compose": "exp_transformer_music",
    "picture": "exp_text2image_flowers", "chat": "exp_smollm_chat",
}  # fmt: skip
NEEDS_NO_RUN = {"exp_smollm_chat"}  # released weights
MOST = {"draw": 64, "compose": 8, "bars": 64}  # faces, pieces, bars
CHAT = "You are a friendly assistant. Answer in one to three short sentences."
OTHER = re.compile(
    r"\b(?:German|Spanish|Italian|Portuguese|Dutch|Polish|Russian|Chinese|Mandarin|Japanese|Korean|Arabic|Hindi|Turkish|"
    r"Swedish|Danish|Norwegian|Finnish|Greek|Latin|Hebrew|Czech|Ukrainian|Vietnamese|Thai|Persian)\b", re.IGNORECASE,
)  # fmt: skip
_WORDS = {"gray": "grey", "blonde": "blond", "moustache": "mustache", "ginger": "red", "long": "long hair",
          "short": "short hair"}  # fmt: skip
_ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_AWAY = r"\b(?:without|remove|lose|delete|take)\W+(?:\w+\W+){{0,4}}?{0}|{0}\W+(?:off|away)\b"


def answers(
    pool: Pool, tool: str, asked: Mapping[str, str], text: str, seed: int = 0, earlier: Sequence[str] = ()
) -> Iterator[Answer]:
    """What the tool's model answers. `earlier`: of a conversation, what was said in turn. Raises DataError for what it
    cannot be asked, and RunError where there is no finished run."""
    experiment = EXPERIMENTS[tool]
    found = runs.of(experiment, finished=True)
    if not found and experiment not in NEEDS_NO_RUN:
        raise RunError(f"there is no finished run for this yet: `just run {experiment}` makes one")
    words = runs.words(found[-1]) if found else []
    request = fields(tool, asked, text, words or [value for of in faces.DRAWN.values() for value in of])
    if tool == "chat":
        request |= {"earlier": list(earlier), "seed": seed}
    elif tool in ("draw", "compose", "picture"):
        request |= {"seed": seed}
    where = {"run": str(found[-1])} if found else {}
    try:
        with closing(pool.get(experiment).ask(request | where)) as said:
            replies = (_printable(worker.from_data(data)) for data in said if data["kind"] not in ("end", "steps"))
            yield from without_numbers(replies, text) if tool == "chat" else replies
    except OSError as error:
        raise RunError(f"no process can be started: {error}") from error
    of = found[-1] if found else f"{experiment}, released weights"
    yield Note(
        "a small model's words: they may be wrong, and its numbers are left out" if tool == "chat" else f"by {of}"
    )


def _printable(answer: Answer) -> Answer:
    return replace(answer, text=files.printable(answer.text)) if isinstance(answer, Text | Note) else answer


def fields(tool: str, asked: Mapping[str, str], text: str, words: Sequence[str]) -> dict[str, Any]:
    """A request to the tool's worker. `words`: the values of labels that its run knows."""
    labels = [word for word in asked.get("label", "").split("\n") if word]
    match tool:
        case "chat":
            return {"text": text, "system": CHAT, "n": 160, "temperature": 0.2}
        case "draw":
            wanted = [value(word, words) for word in labels]
            return {"verb": "draw", "n": number(asked.get("n"), 8, MOST["draw"]), "label": wanted}
        case "edit":
            if len(labels) != 1 or "number" not in asked:
                raise DataError("one change of one face by its number, for instance: put glasses on face 3")
            bare = re.sub(r"^(?:without|no) ", "", labels[0], flags=re.IGNORECASE)
            change = "remove" if bare != labels[0] or re.search(_AWAY.format(re.escape(bare)), text, re.I) else "add"
            return {"verb": "change", "pictures": [str(number(asked["number"], 0, 10**6))], change: value(bare, words)}
        case "compose":
            n, bars = number(asked.get("n"), 1, MOST["compose"]), number(asked.get("bars"), 8, MOST["bars"])
            return {"verb": "compose", "n": n, "bars": bars}
        case "picture":
            return {"verb": "draw", "text": [asked.get("prompt", text)], "n": 4}
    if tool == "translate" and (other := OTHER.search(text.replace(asked.get("text", ""), ""))):
        raise DataError(f"into French only, not {other[0]}")
    if not asked.get("text"):
        raise DataError(f"{tool} what? Put the text behind a colon or in quotation marks")
    return {"text": asked["text"]}


def value(word: str, words: Sequence[str]) -> str:
    """The value that a word means: "blonde" is "blond", "without glasses" "no glasses". Raises DataError."""
    found = re.sub(r"^(?:a|an|the|pair of|some) |\b ?hair(?:ed)?$", "", word.lower().strip())
    found = re.sub(r"^(?:without|no) (?:a |an |any )?", "no ", found)
    if (found := _WORDS.get(found, found)) in words:
        return found
    raise DataError(f"{word!r} is not one of this model's words: {', '.join(words)}")


def number(text: str | None, otherwise: int, most: int) -> int:
    """A whole number in digits or words, also as 3rd or third. Raises DataError for one that is too large."""
    word = re.sub(r"(?<=\d)(?:st|nd|rd|th)$", "", (text or "").lower())
    if word in ("", "some", "a few"):
        return otherwise
    one = word in ("a", "an", "another", "single", "a single")
    found = _ORDINALS.index(word) if word in _ORDINALS else 1 if one else calculate(word)
    if found != int(found) or not 0 <= found <= most:
        raise DataError(f"{text}: a whole number from 0 to {most:,}")
    return int(found)


def without_numbers(said: Iterator[Answer], text: str) -> Iterator[Answer]:
    """What a small model says without numbers that the request does not have, which it makes up; a program's stay, and
    those of a list."""
    known, before, held, code = set(re.findall(r"\d+", text)), "\n", "", False
    for answer in itertools.chain(said, [Text("")]):
        if not isinstance(answer, Text):
            yield answer
            continue
        whole, held, shown = held + answer.text, "", ""
        if answer.text and (end := re.search(r"(?:\d+|`+)$", whole)):  # it may go on in the next piece
            whole, held = whole[: end.start()], end[0]
        for piece in re.finditer(r"\d+|```|\D", whole):
            word = piece[0]
            code ^= word == "```"
            listed = before == "\n" and whole[piece.end() : piece.end() + 1] in (".", ")")
            shown += "…" if word.isdigit() and not (code or listed or word in known) else word
            before = word
        if shown:
            yield Text(shown)
