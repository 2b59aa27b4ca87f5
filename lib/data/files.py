"""What files of text have in common: how they are found, read and cut into lines, what makes two texts the same, and a
place in a split."""

import codecs
import hashlib
import re
import unicodedata
from pathlib import Path

from lib.faults import DataError

_MARKS = {  # the longer ones first: one of UTF-32 begins as one of UTF-16
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_LINE_END = "\r\n|\r|\n"
_TONES = range(0x1F3FB, 0x1F400)  # of an emoji's skin
_FLAGS = range(0xE0020, 0xE0080)  # letters of an emoji flag: England's is not Scotland's
_OTHER_SCRIPT = re.compile("[^\0-\u036f\u1d00-\u1eff\u2000-\u2bff\u2c60-\u2c7f\ua720-\ua7ff]")
_EMOJI = re.compile("[\U0001f000-\U0001faff]")


def content(path: Path) -> bytes:
    """Raises DataError naming the file that cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def decoded(raw: bytes, name: str) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 that begins with a byte-order mark, without the mark. Raises DataError
    naming file and line for bytes that are no such text, and for a NUL, as all other UTF-16 is full of them."""
    raw = raw.removeprefix(codecs.BOM_UTF8)
    encoding = next((encoding for encoding, marks in _MARKS.items() if raw.startswith(marks)), "UTF-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        number = _line(raw[: error.start].decode(encoding))
        raise DataError(f"{name}, line {number}: not {encoding} ({error.reason})") from error
    if "\0" in text:
        number = _line(text[: text.index("\0")])
        raise DataError(f"{name}, line {number}: a NUL, as in UTF-16 without a byte-order mark: save it as UTF-8")
    return text


def _line(before: str) -> int:
    """The number of the line that follows so much text."""
    return len(re.split(_LINE_END, before))


def lines(text: str) -> list[str]:
    """The lines without their ends, those of Unix, Windows and old Macs; what else `str.splitlines` cuts at (form
    feeds, U+2028) stands inside a line. Behind the last end there is no further line."""
    found = re.split(_LINE_END, text)
    return found if found[-1] else found[:-1]


def encodable(text: str) -> str:
    """The text. Raises DataError for what no UTF-8 text can hold (something typed in another encoding)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"not UTF-8: character {error.start} of {text[:40]!r}") from error
    return text


class _Counted(dict[int, str]):
    """For `str.translate`: what stands for a character in `normalise`, found once."""

    def __missing__(self, code: int) -> str:
        char, kind = chr(code), unicodedata.category(chr(code))
        if char == "\u200c" or 0xFE00 <= code < 0xFE10:
            self[code] = ""  # non-joiners and variation selectors change how a letter looks, not which it is
        elif char.isalnum() or kind[0] == "M" or char == "\u200d" or code in _FLAGS:
            self[code] = char
        # Modifier symbols are quotes and accents by themselves (` ^ ´), but for tones; bars and tildes separate.
        elif (kind[0] == "S" and kind != "Sk" and char not in "~|～｜¦") or code in _TONES or char == "#":
            self[code] = f" {char} "  # a word by itself: "x>y" is "x > y"
        else:
            self[code] = " "
        return self[code]


_counted = _Counted()


def printable(text: str) -> str:
    """Text of others without what a terminal would obey or a reader not see: control characters, marks of direction,
    joiners; line ends and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))


def normalise(text: str) -> str:
    """What makes two texts the same: case, spaces and punctuation aside. Letters, digits, marks and symbols count, of
    the signs # at a word's end (C#)."""
    found = unicodedata.normalize("NFC", text).casefold()
    # A joiner between emoji makes one of them (a family, not three people); between letters it changes their look only.
    found = re.sub("\u200d(?<![\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]\u200d)", "", found)
    found = re.sub(r"#(?:(?=\w)|(?<!\w#))", " ", found)
    return " ".join(found.translate(_counted).split()) or text


def side(text: str) -> str:
    """What decides a text's side in a split, by its hash: of text in Latin letters the letters and digits alone, as
    since the first splits; of text with emoji or mostly in other letters all that `normalise` keeps."""
    text = unicodedata.normalize("NFC", text)
    letters = "".join(filter(str.isalpha, text))
    if _EMOJI.search(text) or 2 * len(_OTHER_SCRIPT.findall(letters)) > len(letters):
        return normalise(text)
    return re.sub(r"[\W_]+", " ", text.casefold()).strip() or text


def place(content: bytes, purpose: str = "", size: int = 8) -> float:
    """A number in [0, 1) by the hash of the content (of `size` bytes), another one for each purpose: what falls below a
    share is held out, so that splits do not move when data is added."""
    digest = hashlib.blake2b(content, digest_size=size, key=purpose.encode()).digest()
    return int.from_bytes(digest) / 2 ** (8 * size)


HOUSEKEEPING = {"__MACOSX", "__pycache__", "@eaDir"}  # folders; and all that begin with a full stop


def _shown(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if not p.name.startswith(".")]


def subfolders(folder: Path) -> list[Path]:
    """Sorted, without housekeeping."""
    return sorted(p for p in _shown(folder) if p.is_dir() and p.name not in HOUSEKEEPING)


def visible(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """All files below a folder, sorted, without housekeeping. Links to folders are followed, but none to a folder
    `above`, which would have no end."""
    here, folders = (*above, folder.resolve()), subfolders(folder)
    own = [p for p in _shown(folder) if not p.is_dir()]
    deeper = [file for p in folders if p.resolve() not in here for file in visible(p, here)]
    return sorted([*own, *deeper])
