"""What files of text have in common: their decoding, what makes two texts the same, and a place in a split."""

import codecs
import hashlib
import re

from lib.faults import DataError


def decoded(raw: bytes, name: str) -> str:
    """UTF-8, without a byte-order mark. Raises DataError naming file and line."""
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        number = len(re.split(b"\r\n|\r|\n", raw[: error.start]))
        raise DataError(f"{name}, line {number}: not UTF-8 ({error.reason})") from error


def normalise(source: str) -> str:
    """What makes two texts the same: case, spaces and punctuation aside."""
    return re.sub(r"[\W_]+", " ", source.casefold()).strip() or source


def place(content: bytes, purpose: str = "", size: int = 8) -> float:
    """A number in [0, 1) by the hash of the content (of `size` bytes), another one for each purpose: what falls below a
    share is held out, so that splits do not move when data is added."""
    digest = hashlib.blake2b(content, digest_size=size, key=purpose.encode()).digest()
    return int.from_bytes(digest) / 2 ** (8 * size)
