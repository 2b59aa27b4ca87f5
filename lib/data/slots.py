"""Names, numbers and unknown words are carried over: the model sees a slot in their place, and what stood there is put
into the slot of the translation (Luong et al. 2015, "Addressing the rare word problem").
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from lib.data import files
from lib.metrics import UNSPACED

NAMES = ("\ue010", "\ue011", "\ue012", "\ue013")  # of Unicode's private use, as the marks of casing
NUMBERS = ("\ue014", "\ue015", "\ue016", "\ue017")
SLOTS = NAMES + NUMBERS
_SLOT = re.compile(f"[{''.join(SLOTS)}]")
# Words are cut at apostrophes and hyphens, numbers are whole (1,000 or 7:30). A 1 stays, for nouns agree with it.
_WORD = re.compile(rf"(?:(?!{UNSPACED.pattern})[^\W\d_])+|(?!1(?![.,:/]?\d))\d+(?:[.,:/]\d+)*")


def words(text: str) -> list[str]:
    return _WORD.findall(text)


class Lexicon(NamedTuple):
    """The words of a model's training sources in lower case, and what they begin with (four letters at least)."""

    known: frozenset[str]
    heads: frozenset[str]

    @classmethod
    def of(cls, known: Iterable[str]) -> "Lexicon":
        every = frozenset(known)
        return cls(every, frozenset(word[:n] for word in every for n in range(4, len(word) + 1)))

    def carried(self, word: str, capital: bool) -> bool:
        """Whether a word is one to carry over: a number, or an unknown word that has a `capital` where other words have
        none or that is no other form of a known one (an ending of three letters aside)."""
        low = word.lower()
        if word[0].isdigit():
            return True
        return low not in self.known and (capital or low[: max(4, len(low) - 3)] not in self.heads)


def save(folder: Path, known: Iterable[str]) -> None:
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in known), encoding="utf-8")


def load(folder: Path) -> Lexicon:
    """The words of a run's training sources. Raises DataError."""
    path = folder / "words.txt"
    return Lexicon.of(files.lines(files.decoded(files.content(path), str(path))))


def emptied(text: str, carried: Callable[[str, bool], bool]) -> tuple[str, dict[str, str]]:
    """The text with slots, and what belongs into each. `carried(word, capital)` says of which words: `capital`, whether
    it begins with one in the midst of a sentence that is not all in capitals."""
    text = _SLOT.sub("", text)
    shouted = text == text.upper()
    found: dict[str, str] = {}  # slots by word

    def one(match: re.Match[str]) -> str:
        word = match[0]
        if word not in found:
            inside = bool(re.search(r"[\w,;] $", text[: match.start()]))
            if not carried(word, word[0].isupper() and inside and not shouted):
                return word
            free = [slot for slot in (NUMBERS if word[0].isdigit() else NAMES) if slot not in found.values()]
            if not free:
                return word
            found[word] = free[0]
        return found[word]

    return _WORD.sub(one, text), {slot: word for word, slot in found.items()}


def filled(text: str, content: dict[str, str]) -> str:
    """The text with what belongs into its slots; a slot for which there is nothing is left out."""
    return re.sub(r" +", " ", _SLOT.sub(lambda slot: content.get(slot[0], ""), text)).strip()


def refilled(text: str, content: dict[str, str]) -> str:
    """A text that was `filled`, with its slots."""
    slots = {word: slot for slot, word in content.items()}
    return _WORD.sub(lambda match: slots.get(match[0], match[0]), text)
