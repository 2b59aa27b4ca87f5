"""Names, numbers and unknown words are carried over: the model sees a slot in their place, and what stood there is put
into the slot of the translation (Luong et al. 2015, "Addressing the rare word problem").
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from lib.data import casing, files
from lib.metrics import UNSPACED

NAMES = ("\ue010", "\ue011", "\ue012", "\ue013")  # of Unicode's private use, as the marks of casing
NUMBERS = ("\ue014", "\ue015", "\ue016", "\ue017")
SLOTS = NAMES + NUMBERS
_SLOT = re.compile(f"[{''.join(SLOTS)}]")
# Words are cut at apostrophes and hyphens. Numbers with signs (1,000, 3.5, 7:30), which other languages write in other
# ways, are left to the model, and so is a 1, with which nouns agree.
_WORD = re.compile(rf"(?:(?!{UNSPACED.pattern})[^\W\d_])+|(?<![\d.,:/])(?!1(?!\d))\d+(?![.,:/]?\d)")
ENDINGS = (1, 2, 3)  # letters of one
COMMON = 300  # one in so many words is known with an ending and without
_TITLE = re.compile(r"\b(?:Mrs?|Ms|Dr|St)\. $")


def words(text: str) -> list[str]:
    return _WORD.findall(text)


class Lexicon(NamedTuple):
    """The words of a model's training sources in lower case; the endings by which many of them differ; what is left of
    the words without one; and whether nouns have a capital in their language, as in German."""

    known: frozenset[str]
    endings: frozenset[str]
    stems: frozenset[str]
    nouns: bool

    @classmethod
    def of(cls, known: Iterable[str]) -> "Lexicon":
        """`known`: the words as they are mostly written. A third of them have a capital only where nouns do (English
        .06, French .05, German .63)."""
        written = frozenset(known)
        every = frozenset(map(str.lower, written))
        counts = Counter(word[-n:] for word in every for n in ENDINGS if word[:-n] in every)
        endings = frozenset(ending for ending, count in counts.items() if count >= len(every) / COMMON)
        nouns = 3 * sum(word[0].isupper() for word in written) > len(written)
        stems = {stem for word in every for stem in ([word[:5]] if nouns else _stems(word, endings))}
        return cls(every, endings, frozenset(stems), nouns)

    def carried(self, text: str) -> set[str]:
        """The words of a text to carry over: numbers, and unknown words that have a capital where other words have none
        or that are no other form of a known one. Where nouns have capitals these say nothing, and a word that begins as
        a known one does may be put together with it (Hundeleine)."""
        shouted = text == text.upper()
        found = set()
        for match in _WORD.finditer(text):
            word, low = match[0], match[0].lower()
            first = casing.starts(text, match.start()) and not _TITLE.search(text, 0, match.start())
            capital = word[0].isupper() and not shouted and not first and not self.nouns
            form = low[:5] in self.stems if self.nouns else not self.stems.isdisjoint(_stems(low, self.endings))
            if word[0].isdigit() or (low not in self.known and (capital or not form)):
                found.add(word)
        return found


def _stems(word: str, endings: Collection[str]) -> set[str]:
    """The word, and what is left of it without an ending, of three letters at least."""
    return {word, *(word[:-n] for n in ENDINGS if word[-n:] in endings and len(word) - n >= 3)}


def save(folder: Path, known: Iterable[str]) -> None:
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in known), encoding="utf-8")


def load(folder: Path) -> Lexicon:
    """The words of a run's training sources. Raises DataError."""
    path = folder / "words.txt"
    return Lexicon.of(files.lines(files.decoded(files.content(path), str(path))))


def emptied(text: str, carried: Collection[str]) -> tuple[str, dict[str, str]]:
    """The text with slots in place of the words `carried`, the first four names and four numbers of them, and what
    belongs into each slot."""
    text = _SLOT.sub("", text)
    chosen = [word for word in dict.fromkeys(words(text)) if word in carried]
    numbers = [word for word in chosen if word[0].isdigit()]
    others = [word for word in chosen if not word[0].isdigit()]
    content = dict(zip(NAMES, others, strict=False)) | dict(zip(NUMBERS, numbers, strict=False))
    return refilled(text, content), content


def filled(text: str, content: dict[str, str]) -> str:
    """The text with what belongs into its slots; a slot for which there is nothing is left out."""
    return re.sub(r" +", " ", _SLOT.sub(lambda slot: content.get(slot[0], ""), text)).strip()


def refilled(text: str, content: dict[str, str]) -> str:
    """A text that was `filled`, with its slots."""
    return replaced(text, {word: slot for slot, word in content.items()})


def replaced(text: str, new: dict[str, str]) -> str:
    """The text with other words."""
    return _WORD.sub(lambda match: new.get(match[0], match[0]), text)
