"""Capitals as marks: text in lower case with a mark where a word's capitals are not the expected ones, and back.

A model then has one piece for a word however it is written, and a name is the same pieces in both languages.
"""

import re

CAPITAL, CAPITALS, SMALL = MARKS = ("\ue000", "\ue001", "\ue002")  # of Unicode's private use: no text has them
_WORD = re.compile(rf"([{''.join(MARKS)}]?)( ?)([^\W\d_]+)")
_NO_MARKS = str.maketrans("", "", "".join(MARKS))
_START = re.compile(r"(?:^|[.?!…][\"')\]»”]*\s)[\s\"'(\[«“¿¡—–-]*$")  # what stands before a sentence's first word


def lower(text: str) -> str:
    """The text in lower case with a space in front, so that its first word is spelled as any other."""
    return f" {unmarked(text).lower()}"


def unmarked(text: str) -> str:
    return text.translate(_NO_MARKS)


def marked(text: str) -> str:
    """The text in lower case with a space in front. A word that is to be capitalised has CAPITAL before it and its
    space, one in capitals CAPITALS, and one that begins a sentence with a small letter SMALL; the first word of a
    sentence is capitalised without a mark, and a word of both cases (iPhone) stays as it is."""
    text = f" {unmarked(text)}"

    def one(match: re.Match[str]) -> str:
        word, low = match[3], match[3].lower()
        start = starts(text, match.start(3))
        if word == _written("", low, start):
            return match[2] + low
        for mark in MARKS:
            if word == _written(mark, low, start):
                return mark + match[2] + low
        return match[0]

    return _WORD.sub(one, text)


def restored(text: str) -> str:
    """The text that was `marked`, without spaces around it. Marks before no word are left out."""
    found, end = "", 0
    for match in _WORD.finditer(text):
        found += unmarked(text[end : match.start()])
        found += match[2]
        found += _written(match[1], match[3], starts(found, len(found)))
        end = match.end()
    return (found + unmarked(text[end:])).strip()


def starts(text: str, at: int) -> bool:
    """Whether a word that stands there is the first of a sentence."""
    return bool(_START.search(text, max(0, at - 20), at))  # what lies further back does not matter


def _written(mark: str, word: str, start: bool) -> str:
    """A word with its capitals. One of both cases has none to be added."""
    if mark == CAPITALS:
        return word.upper()
    if mark == CAPITAL or (start and mark != SMALL and word == word.lower()):
        return word[0].upper() + word[1:]
    return word
