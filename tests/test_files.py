"""lib/data/files.py: how texts are found, read and cut into lines, when two are the same, and where they are placed."""

import re
import unicodedata
from pathlib import Path

import pytest

from lib.data import files
from lib.faults import DataError

# ---- reading ----


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a\nb\r\nc\rd", ["a", "b", "c", "d"]),
        ("a\n", ["a"]),
        ("a\r\n\r\nb\n\n", ["a", "", "b", ""]),
        ("a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g", ["a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g"]),
        ("", []),
        ("\n", [""]),
    ],
)
def test_lines(text, expected):
    assert files.lines(text) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_with_a_byte_order_mark(encoding):
    text = "One é\r\n两 🎉\n"
    assert files.decoded(text.encode(encoding), "x") == text
    big = {"utf-16": "utf-16-be", "utf-32": "utf-32-be"}.get(encoding, encoding)
    assert files.decoded(("\ufeff" * (big != encoding) + text).encode(big), "x") == text


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"a\r\nb\ncaf\xe9 x", "x.txt, line 3: not UTF-8 (invalid continuation byte)"),
        (b"\xef\xbb\xbfa\n\xff", "x.txt, line 2: not UTF-8 (invalid start byte)"),
        ("a\nb".encode("utf-16")[:-1], "x.txt, line 2: not UTF-16 (truncated data)"),
        (
            "a\r\nb".encode("utf-16-le"),
            "x.txt, line 1: a NUL, as in UTF-16 without a byte-order mark: save it as UTF-8",
        ),
        ("你\n好".encode("utf-16-be"), "x.txt, line 1: "),
        (b"a\rb\r\nc\0\n", "x.txt, line 3: a NUL"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(raw, message):
    with pytest.raises(DataError, match="^" + re.escape(message)):
        files.decoded(raw, "x.txt")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=rf"^cannot read {tmp_path}: Is a directory$"):
        files.content(tmp_path)

    def locked(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", locked)
    with pytest.raises(DataError, match=r"^cannot read a\.txt: Permission denied$"):
        files.content(Path("a.txt"))


def test_visible_files(tmp_path):
    seen = ["@home/__0.txt", "B.TXT", "a.txt", "sub/deep/c.md"]
    for name in [*seen, ".hidden.txt", "sub/.git/d.txt", "__MACOSX/e.txt", "sub/@eaDir/f.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert files.visible(tmp_path) == [tmp_path / name for name in seen]
    hidden = tmp_path / ".cache" / "mine"  # what stands above the folder does not count
    hidden.mkdir(parents=True)
    (hidden / "a.txt").write_text("x")
    assert files.visible(hidden) == [hidden / "a.txt"]


# ---- what two texts are ----

DIFFERENT = [
    ["क", "कि", "की", "कु", "के"],  # vowel signs of Hindi
    ["কর", "করি", "করে", "কোর"],  # of Bengali
    ["ขาว", "ข้าว", "ข่าว", "เข้า"],  # tones of Thai
    ["علم", "عِلم", "عَلَم", "عُلِم"],  # vowels of Arabic
    ["ok", "ok 👍", "ok 👎", "ok 👍🏽", "ok 👍🏿"],
    ["👨\u200d👩\u200d👧", "👨👩👧", "👨👧"],
    ["❤️\u200d🔥", "❤️ 🔥", "🔥"],
    ["🏴", "🏴\U000e0067\U000e0062\U000e0065\U000e007f", "🏴\U000e0067\U000e0062\U000e0073\U000e007f"],
    ["1", "1️⃣"],
    ["C", "C#", "C++", "C+"],
    ["x > y", "x < y", "x = y", "x ≥ y"],
    ["5 $", "5 €", "5 £", "5"],
]  # fmt: skip
SAME = [
    ["x>y", "x > y", "X  >  Y."],
    ["C++ is fast.", "c++, is fast", "c ++ is fast"],
    ["I use C#.", "I use c#!", "i use C#"],
    ["#1 of #all", "1 of all", "1. of (all)"],
    ["don`t ~ stop | now ^", "don't stop now", "don´t stop: now"],
    ["I ❤️ it", "I ❤ it!", "i❤it"],
    ["می‌خواهم", "میخواهم"],
    ["क्\u200dष", "क्ष"],
    ["été", "E\u0301TE\u0301", "ÉTÉ!"],
    ["कि क़", unicodedata.normalize("NFD", "कि क़"), unicodedata.normalize("NFC", "कि क़")],
    ["안녕하세요", unicodedata.normalize("NFD", "안녕하세요")],
    ["Tiếng Việt", unicodedata.normalize("NFD", "Tiếng Việt")],
    ["有人吗？", "有人吗", "「有人吗」"],
]


@pytest.mark.parametrize("texts", DIFFERENT, ids=lambda texts: texts[0])
def test_other_marks_and_symbols_make_another_text(texts):
    assert len({files.normalise(text) for text in texts}) == len(texts)


@pytest.mark.parametrize("texts", SAME, ids=lambda texts: texts[0])
def test_the_same_text(texts):
    assert len({files.normalise(text) for text in texts}) == len({files.side(text) for text in texts}) == 1


# Made when case, spaces and every sign counted for nothing: the splits of Latin text stay where they were.
PLACES = [
    ("How are you?", "how are you", 0.233348),
    ("C++ costs 5 $, not 5 €.", "c costs 5 not 5", 0.498851),
    ("x > y ~ 3 ^ 2 | z", "x y 3 2 z", 0.706211),
    ("L’ÉTÉ, c'est_ça\xa0!", "l été c est ça", 0.874284),
    ("I ♥ Straße №5 → «Zoë»", "i strasse 5 zoë", 0.785870),
    ("?!", "?!", 0.624940),
    ("don`t   stop…", "don t stop", 0.655502),
    ("Tiếng Việt", "tiếng việt", 0.487607),
    ("„Ĝi“ ǰ İ x̂y", "ĝi j i x y", 0.487762),
    ("3 × 4 = 12 ½", "3 4 12 ½", 0.879612),
    ("AT&T’s #1 & C#", "at t s 1 c", 0.556875),
]


@pytest.mark.parametrize("text, side, place", PLACES)
def test_the_side_of_latin_text(text, side, place):
    assert files.side(text) == side
    assert files.place(side.encode()) == pytest.approx(place, abs=1e-6)


@pytest.mark.parametrize("texts", DIFFERENT[:6], ids=lambda texts: texts[0])
def test_the_sides_of_other_text_are_by_marks_and_emoji_too(texts):
    assert len({files.side(text) for text in texts}) == len(texts)
    assert files.side("Привет, мир!") == "привет мир" and files.side("你好。") == "你好"
