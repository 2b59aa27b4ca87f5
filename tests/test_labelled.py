"""lib/data/labelled.py: texts with labels from packages, folders and CSV files, and how they are split."""

import csv
import itertools

import pytest

from lib.data import labelled, sources
from lib.data.labelled import Example
from lib.faults import DataError

WHO, WHAT = ["cat", "dog", "boy", "man", "horse", "king"], ["good", "fine", "great", "bad", "poor", "awful"]
ROWS = [
    (f"The {a} of {n} is {b}.", "up" if i < 3 else "down")
    for a, n, (i, b) in itertools.product(WHO, range(4), enumerate(WHAT))
]


def write_csv(path, rows, columns=("text", "label")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(path)


def everything(found):
    return {(example.text, found.names[example.label]) for part in found[1:4] for example in part}


def test_a_csv_file_and_a_folder_with_the_same_texts(tmp_path):
    of_csv = labelled.load(write_csv(tmp_path / "rows.csv", ROWS))
    for i, (text, label) in enumerate(ROWS):
        path = tmp_path / "texts" / label / str(i % 2) / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    (tmp_path / "texts" / "empty").mkdir()
    of_folder = labelled.load(str(tmp_path / "texts"))
    assert of_csv.name == "rows" and of_folder.name == "texts"
    assert of_csv.names == of_folder.names == ["down", "up"]
    for a, b in zip(of_csv[1:4], of_folder[1:4], strict=True):
        assert set(a) == set(b)
    assert everything(of_csv) == set(ROWS)


def test_a_folder_is_read_whatever_the_case_and_without_hidden_files(tmp_path):
    for i, (text, label) in enumerate(ROWS):
        for name, content in {f"{i}.TXT": text, f"._{i}.txt": "\0"}.items():
            (tmp_path / "texts" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "texts" / label / name).write_text(content)
    (tmp_path / "texts" / ".git").mkdir()
    (tmp_path / "texts" / ".git" / "a.txt").write_text("no label")
    assert everything(labelled.load(str(tmp_path / "texts"))) == set(ROWS)


def test_what_a_csv_file_may_hold(tmp_path):
    """Other columns, in any order; quotes, commas and line ends in a text; a byte order mark."""
    hard = [('"Well", he said,\nand left é', "up"), ("  spaces  ", " down ")]
    rows = [(i, label, text) for i, (text, label) in enumerate([*hard, *ROWS])]
    path = write_csv(tmp_path / "hard.csv", rows, ("number", "label", "text"))
    content = (tmp_path / "hard.csv").read_bytes()
    (tmp_path / "hard.csv").write_bytes(b"\xef\xbb\xbf" + content)
    assert everything(labelled.load(path)) == {*ROWS, ('"Well", he said,\nand left é', "up"), ("spaces", "down")}


def test_splits_are_shares_and_do_not_move():
    rows = [(f"Text number {i}.", "ab"[i % 2]) for i in range(4000)]
    few, all_ = labelled.split("few", rows[:2000]), labelled.split("all", rows)
    for a, b in zip(few[1:4], all_[1:4], strict=True):
        assert set(a) <= set(b)
    assert len(all_.test) / 4000 == pytest.approx(0.10, abs=0.015)
    assert len(all_.val) / 4000 == pytest.approx(0.05, abs=0.010)
    assert labelled.split("others", reversed(rows)).test == all_.test[::-1]


def test_copies():
    """Case, spaces and punctuation aside; contradicting ones are dropped."""
    rows = [*ROWS, *((text.upper().replace(" ", "  ") + "!", label) for text, label in ROWS)]
    assert labelled.split("again", rows) == labelled.split("again", ROWS)
    shouted = labelled.split("shouted", [(text.upper(), label) for text, label in ROWS])
    assert [text for text, _ in shouted.test] == [text.upper() for text, _ in labelled.split("said", ROWS).test]
    text, label = ROWS[0]
    found = labelled.split("contradicted", [*ROWS, (text.upper(), {"up": "down", "down": "up"}[label])])
    assert everything(found) == set(ROWS[1:])


def test_a_long_text_in_a_csv_file(tmp_path):
    long = "word " * 30_000
    assert (long.strip(), "up") in everything(labelled.load(write_csv(tmp_path / "x.csv", [*ROWS, (long, "up")])))


EMOJI = [chr(0x1F600 + i) for i in range(20)]
VOWELS = [chr(0x93E + i) for i in range(15)]


@pytest.mark.parametrize(
    "texts",
    [
        [f"good {a}{b}" for a in EMOJI for b in EMOJI],
        [f"क{a} म{b} न{c}" for a in VOWELS[:2] for b in VOWELS for c in VOWELS],
    ],
    ids=["emoji", "Hindi"],
)
def test_texts_that_differ_in_symbols_or_marks_are_no_copies(texts):
    found = labelled.split("x", [(text, "ab"[i % 2]) for i, text in enumerate(texts)])
    assert sum(map(len, found[1:4])) == len(texts) >= 400
    assert len(found.test) / len(texts) == pytest.approx(0.10, abs=0.04)


def test_latin_texts_that_differ_in_symbols_are_no_copies_and_stay_on_one_side():
    rows = [(f"x{i} {sign} y{i}", label) for i in range(200) for sign, label in ((">", "up"), ("<", "down"))]
    found = labelled.split("x", rows)
    assert everything(found) == set(rows)
    sides = [{text.split()[0] for text, _ in part} for part in found[1:4]]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_clean():
    text = "Bad.<br /><br />Worse <br/> &lt;sic&gt; it\x92s"
    assert labelled.clean(text) == "Bad.\nWorse\n<sic> it’s"


# ---- bad input ----


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "line 1: no column 'text' among $"),
        (b"text;label\ngood;up\n", "line 1: no column 'text' among text;label: separate the columns by commas$"),
        (b"text,kind\ngood,up\n", "line 1: no column 'label' among text, kind$"),
        (b"text,label\n", "rows: no texts$"),
        (b"text,label\ngood,up\nfine,up\n", "rows: all texts have the label 'up'$"),
        (b"text,label\ngood,up\nbad\n", "line 3: not 2 columns$"),
        (b"text,label\ngood,up,more\n", "line 2: not 2 columns$"),
        (b"text,label\ngood,\n", "line 2: no label$"),
        (b"text,label\n ,up\n", "line 2: no text$"),
        (b'text,label\ngood,up\n"bad,down\n', "line 3: unexpected end of data$"),
        (b'text,label\n"bad"ly,down\n', "line 2: .* expected after"),
        ("text,label\n".encode("utf-16-le"), "line 1: a NUL"),
        (b"text,label\ngood,up\n\xff,down\n", r"line 3: not UTF-8 \(invalid start byte\)$"),
        (b"text,label\ngood,up\nbad,down\n", "2 texts are too few, none falls into the"),
    ],
)
def test_bad_csv_files(tmp_path, content, message):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        labelled.load(str(path))


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "texts: no texts$"),
        ({"loose.txt": b"good"}, "texts: no texts$"),
        ({"up/1.txt": b"good"}, "texts: all texts have the label 'up'$"),
        ({"up/1.txt": b"good", "down/1.txt": b" \n"}, "1.txt: no text$"),
        ({"up/1.txt": b"good\nbetter \xff"}, "1.txt, line 2: not UTF-8"),
    ],
)
def test_bad_folders(tmp_path, files, message):
    (tmp_path / "texts").mkdir()
    for name, content in files.items():
        (tmp_path / "texts" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        labelled.load(str(tmp_path / "texts"))


def test_an_unknown_name_and_a_label_that_is_only_held_out():
    with pytest.raises(DataError, match="--data nowhere: neither rotten, imdb, bbc, a folder nor a CSV file"):
        labelled.load("nowhere")
    held = labelled.split("all", ROWS).test[0].text
    rows = [(text, "rare" if text == held else label) for text, label in ROWS]
    with pytest.raises(DataError, match="no training text has the label 'rare'"):
        labelled.split("all", rows)


# ---- the packages, where they are at hand ----


@pytest.mark.parametrize(
    "data, names, sizes",
    [
        ("rotten", ["negative", "positive"], (7305, 391, 832)),
        ("bbc", ["business", "entertainment", "politics", "sports", "tech"], (1828, 87, 207)),
    ],
)
def test_the_packages(data, names, sizes):
    if sources.at_hand(labelled.NEWS if data == "bbc" else labelled.MOVIES) is None:
        pytest.skip("the package is not at hand")
    found = labelled.load(data)
    assert found.names == names and tuple(map(len, found[1:4])) == sizes
    texts = [example.text for part in found[1:4] for example in part]
    assert not any("<br" in text or "\ufffd" in text or "\x96" in text for text in texts)
    assert isinstance(found.train[0], Example)
