"""A text cut into what a translation model can hold: its sentences, and where one is too long, parts of it.

A model that learnt from single sentences may lose the second of two, so each is a piece by itself even where two fit.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

_OPENING, _CLOSING = "\"'(\\[{«“‘„¿¡", "\"')\\]}»”’›」』）】》〉"
# Signs that end a sentence where a space follows (French has one before » too), and Chinese ones, which need none.
_ENDING = "[.!?…؟۔։።။។।॥]"
_STOP = re.compile(
    rf"(?<!{_ENDING})(?P<stop>{_ENDING}(?:\s?{_ENDING})*)(?P<closing>(?:\s?»|[{_CLOSING}“«‹])*)(?=\s|$)"
    rf"|[。！？｡][.!?…。！？｡]*[{_CLOSING}]*"
)
_NEXT = re.compile(rf"\s+[{_OPENING}]*(\w?)")
# Words whose full stop ends no sentence: never, before a number, before a lower-case letter.
_NEVER = re.compile(
    "Mrs?|Ms|Mx|Messrs|Dra?|St|Mt|Prof|Rev|Hon|Gov|Sen|Rep|Gen|Col|Maj|Capt|Lt|Sgt|Sr|Sra|Srta|Mme|Mlle|Mgr|Hr|Fr|vs|cf"
)
_NO_NUMBER = re.compile("nos?|nr|pp?|vol|ch|fig|art|sec", re.IGNORECASE)
_NO_LOWER = re.compile(r"[ap]\.m|etc|al|approx|jr|inc|ltd|co|corp|ph\.d", re.IGNORECASE)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]|[^\W\d_]")
# What begins a sentence behind an initial, where a name would begin as well: "in the U.S. It is".
_BEGINS = re.compile(r"\s+(?:I|It|He|She|We|You|They|The|This|That|There|My|His|Her|Our|What|Why|How|When|But|And)\b")
_CLAUSE = re.compile(rf"(?s:.+?)(?:[;:,،؛–][{_CLOSING}]*\s+|—\s*|[，；：、]|\Z)")
_WORD = re.compile(r"\S+\s*")
_NO_SPACE_BEHIND = re.compile("[\u3001-\u303f\uff01-\uff65]$")  # punctuation of Chinese and Japanese


def sentences(text: str) -> list[str]:
    """The sentences of a text with their closing quotes and brackets, single spaces between words. Titles, initials,
    abbreviations, numbers and what is quoted in the midst of a sentence end none."""
    text, found, start = " ".join(text.split()), [], 0
    for match in _STOP.finditer(text):
        end = match.end()
        if match["stop"] is None and text[end - 1] == '"' and text.count('"', start, end) % 2:
            end -= 1  # it opens the next sentence
        if match["stop"] is None or not _goes_on(text, start, match):
            found.append(text[start:end])
            start = end
    return [part.strip() for part in [*found, text[start:]] if part]


def _goes_on(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the sentence that begins at `start` has not ended yet with the signs of the match."""
    following = _NEXT.match(text, match.end())
    if following is None:
        return False
    if match["closing"]:
        return following[1].islower()  # "No!" he said.
    if match["stop"] != ".":
        return False
    before = text[max(start, match.start() - 20) : match.start()]  # no such word is longer
    word = before.split(" ")[-1].lstrip(_OPENING)
    if _NO_LOWER.fullmatch(word):
        return following[1].islower()
    if _NO_NUMBER.fullmatch(word):
        return following[1].isdigit()
    if _INITIALS.fullmatch(word):
        return ("." in word or word.isupper()) and not _BEGINS.match(text, match.end())  # J. or e.g.
    return bool(_NEVER.fullmatch(word) or re.fullmatch(r"\s*\d{1,3}", before))  # a title, or a list's number


def pieces(sentence: str, fits: Callable[[str], bool]) -> list[str]:
    """The sentence where it fits, otherwise pieces that do, each as long as can be: cut behind ; : , or a dash, where
    that is not enough at spaces, and a word that is too long in halves."""
    return [piece.strip() for piece in _cut(sentence, lambda piece: fits(piece.strip()), (_CLAUSE, _WORD))]


def _cut(text: str, fits: Callable[[str], bool], levels: tuple[re.Pattern[str], ...]) -> list[str]:
    if fits(text) or len(text) == 1:
        return [text]
    if not levels:
        half = len(text) // 2
        while half < len(text) - 1 and unicodedata.category(text[half])[0] == "M":
            half += 1  # a mark stays with its letter
        return _cut(text[:half], fits, ()) + _cut(text[half:], fits, ())
    found, piece = [], ""
    for part in levels[0].findall(text):
        if piece and fits(piece + part):
            piece += part
        else:
            *more, last = _cut(part, fits, levels[1:])
            found += [piece, *more] if piece else more
            piece = last
    return [*found, piece]


def joined(parts: Iterable[str]) -> str:
    """One text of the translations of its pieces, with spaces but behind Chinese and Japanese punctuation."""
    text = ""
    for part in parts:
        text += part if not text or _NO_SPACE_BEHIND.search(text) else f" {part}"
    return text
