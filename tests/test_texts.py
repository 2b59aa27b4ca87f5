"""lib/data/texts and the lossless tokenizers: where texts come from, splits, batches and scores. Made-up files only."""

import dataclasses
import hashlib
import io
import math
import re
import subprocess
import tarfile
import urllib.error
import urllib.request
import zipfile
from itertools import islice, pairwise

import pytest
import torch

from lib import random
from lib.data import batches, texts, tokens
from lib.faults import DataError
from lib.tasks import writing

LEVELS = ("word", "bpe", "char")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""

    def unplugged(*_, **__):
        raise urllib.error.URLError("unplugged")

    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", unplugged)
    monkeypatch.setattr(subprocess, "run", unplugged)


def prose(paragraphs=5000, seed=0):
    """Made-up paragraphs of very different lengths, no two alike."""
    words = ["sea", "ship", "whale", "the", "of", "captain", "rain", "river", "and", "he", "said", "drank", "war"]
    keys = random.split(random.key(seed), 2)
    lengths = (random.uniform(keys[0], (paragraphs,)) ** 3 * 120).int().tolist()
    picks = iter(random.randint(keys[1], (sum(lengths),), 0, len(words)).tolist())
    return "\n\n".join(
        " ".join([f"{seed}-{i}", *(words[p] for p in islice(picks, n))]) + "." for i, n in enumerate(lengths)
    )


@pytest.fixture(scope="module")
def novel():
    return prose()


# ---- where texts come from ----


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"one\r\n\r\ntwo\r\n", "one\n\ntwo\n"),
        (b"\xef\xbb\xbfone", "one"),
        ("  A\tb  \u00a0“c”\n\n\n d\u2028 e\u0301 é".encode(), "  A\tb  \u00a0“c”\n\n\n d\u2028 e\u0301 é"),
    ],
    ids=["line ends", "byte order mark", "all else as it is"],
)
def test_read(tmp_path, raw, expected):
    (tmp_path / "a.txt").write_bytes(raw)
    assert texts.read(tmp_path / "a.txt") == expected


@pytest.mark.parametrize(
    ("raw", "line"),
    [(b"a\r\nb\ncaf\xe9 x", 3), (b"\xef\xbb\xbfab\xff", 1), ("é\néé".encode()[:-1], 2)],
    ids=["Latin-1", "after a byte order mark", "cut off"],
)
def test_what_is_not_utf8_is_named_with_its_place(tmp_path, raw, line):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "my bad.txt").write_bytes(raw)
    with pytest.raises(DataError, match=rf"my bad\.txt, line {line}: not UTF-8"):
        texts.load(str(tmp_path / "my bad.txt"))
    with pytest.raises(DataError, match=rf"my bad\.txt, line {line}: not UTF-8"):
        texts.load(str(tmp_path))


@pytest.mark.parametrize("raw", [b"", b" \n\n\t\r\n", b"\xef\xbb\xbf"])
def test_an_empty_corpus_is_named(tmp_path, raw):
    (tmp_path / "nothing.txt").write_bytes(raw)
    with pytest.raises(DataError, match=r"nothing\.txt: no text"):
        texts.load(str(tmp_path / "nothing.txt"))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no text")):
        texts.load(str(tmp_path))


def test_what_is_no_corpus(tmp_path):
    (tmp_path / "notes.md").write_text("no text file")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no .txt file")):
        texts.load(str(tmp_path))
    with pytest.raises(DataError, match=r"--data anan\.txt: neither default, anna, hemingway, a file nor a folder"):
        texts.load("anan.txt")


def test_a_folder_is_its_text_files_in_order(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, text in {"b.txt": "bbb\n", "a.txt": "aaa\n", "sub/c.txt": "ccc", "d.md": "ddd", "empty.txt": ""}.items():
        (tmp_path / name).write_text(text)
    found = texts.load(str(tmp_path))
    assert re.findall(r"\w+", "".join(found[1:])) == ["aaa", "bbb", "ccc"]
    assert found.name == tmp_path.name


def test_a_folder_is_read_whatever_the_case_and_without_hidden_files(tmp_path):
    for name, text in {"B.TXT": "bbb\n", "a.Txt": "aaa\n", "._a.txt": "no", "__MACOSX/a.txt": "no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert re.findall(r"\w+", "".join(texts.load(str(tmp_path))[1:])) == ["bbb", "aaa"]


def test_a_file_of_ones_own(tmp_path, novel):
    (tmp_path / "my novel.txt").write_text(novel)
    found = texts.load(str(tmp_path / "my novel.txt"))
    assert found == ("my novel", *texts.split([novel]))


def test_moby_dick_is_unwrapped_but_for_its_verse(tmp_path, monkeypatch):
    text = "CHAPTER 1. Loomings.\n\nCall me\nIshmael.\nYes.\n\n     O whale,\n     O sea!\n\nThe end."
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as files:
        info = tarfile.TarInfo("package/data/data.txt")
        info.size = len(text)
        files.addfile(info, io.BytesIO(text.encode()))
    content = buffer.getvalue()
    (tmp_path / texts.MOBY_DICK.file).write_bytes(content)
    with pytest.raises(DataError, match=f"{len(content)} bytes, expected 1489533"):
        texts.load("default", tmp_path)
    made = dataclasses.replace(texts.MOBY_DICK, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(texts, "MOBY_DICK", made)
    found = texts.load("default", tmp_path)
    assert found.name == "moby-dick"
    assert "".join(found[1:]) == (
        "CHAPTER 1. Loomings.\n\nCall me Ishmael. Yes.\n\n     O whale,\n     O sea!\n\nThe end."
    )


def test_books_as_text_files(tmp_path):
    (tmp_path / "novels").mkdir()
    for file in texts.BOOKS["hemingway"]:
        (tmp_path / "novels" / file).write_text(f"<{file}>")
    found = texts.load("hemingway", tmp_path)
    assert found.name == "hemingway"
    assert re.findall("<(.*?)>", "".join(found[1:])) == list(texts.BOOKS["hemingway"])


PAGE = '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"><body epub:type="{}">{}</body></html>'  # noqa: E501
PAGES = {
    "titlepage.xhtml": PAGE.format("frontmatter", "<h1>Title</h1>"),
    "chapter-2.xhtml": PAGE.format(
        "bodymatter z3998:fiction",
        "<section><h2>\n\t<span>Part</span>\n\t<span>II</span>\n</h2><p>A<i>nn</i>a\u2060—she\n\tsaid “\u200a‘Yes.</p>"
        "<blockquote><p>\n\t<span>One line,</span>\n\t<br/>\n\t<span>the next.</span>\n</p></blockquote></section>",
    ),
    "chapter-10.xhtml": PAGE.format(
        "bodymatter z3998:fiction",
        "<table><tr><td>Prince</td><td>Mr.\u00a0X!</td></tr><tr><td><p>Once.</p></td></tr></table>",
    ),
    "colophon.xhtml": PAGE.format("backmatter", "<p>Made by hand.</p>"),
}


def archive(pages, spine=("titlepage", "chapter-2", "chapter-10", "colophon")):
    buffer = io.BytesIO()
    items = "".join(f'<itemref idref="{name}.xhtml"/>' for name in spine)
    with zipfile.ZipFile(buffer, "w") as out:
        for name, page in pages.items():
            out.writestr(f"anna-main/src/epub/text/{name}", page)
        opf = f'<package xmlns="http://www.idpf.org/2007/opf"><spine>{items}</spine></package>'
        out.writestr("anna-main/src/epub/content.opf", opf)
    return buffer.getvalue()


def test_a_book_as_its_repository(tmp_path):
    path = tmp_path / "leo-tolstoy_anna-karenina_constance-garnett.zip"
    path.write_bytes(archive(PAGES))
    assert "".join(texts.load("anna", tmp_path)[1:]) == (
        "Part II\n\nAnna—she said “‘Yes.\n\nOne line,\nthe next.\n\nPrince\n\nMr. X!\n\nOnce."
    )


@pytest.mark.parametrize(
    "content",
    [b"<html>rate limit</html>", archive(PAGES, ["chapter-3"]), archive({"chapter-2.xhtml": "<p>"}, ["chapter-2"])],
    ids=["no archive", "a page is missing", "no XML"],
)
def test_another_archive(tmp_path, content):
    (tmp_path / "leo-tolstoy_anna-karenina_constance-garnett.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"garnett\.zip is not the archive it should be .* Delete it"):
        texts.load("anna", tmp_path)


def test_a_failed_download_says_what_to_put_where(tmp_path):
    with pytest.raises(DataError) as caught:
        texts.load("hemingway")
    for part in (
        "unplugged", "https://github.com/standardebooks/ernest-hemingway_the-sun-also-rises",
        "ernest-hemingway_the-sun-also-rises.zip", "hemingway_the_sun_also_rises.txt", str(tmp_path / "cache" / "data"),
    ):  # fmt: skip
        assert part in str(caught.value)


# ---- splits ----


def paragraphs(text):
    return [p for p in text.split("\n\n") if p]


def test_every_paragraph_is_on_one_side_in_the_order_of_the_book(novel):
    parts = [paragraphs(part) for part in texts.split([novel])]
    whole = paragraphs(novel)
    assert sorted(p for part in parts for p in part) == sorted(whole)
    place = {p: i for i, p in enumerate(whole)}
    for part in parts:
        assert [place[p] for p in part] == sorted(place[p] for p in part)


def test_shares_of_a_long_text():
    long = "\n\n".join(f"{i} " + "x" * (texts.SECTION // 2) for i in range(6000))  # sections of one paragraph or two
    for text, most in ((long, 0.01), (prose(10_000), 0.03)):
        train, val, test = (len(part) / len(text) for part in texts.split([text]))
        assert abs(train - 0.9) < most and abs(val - 0.05) < most and abs(test - 0.05) < most


def test_sections_have_the_length_they_should(novel):
    found = list(texts.sections(novel))
    assert "".join(found).strip() == novel
    assert 0.7 < len(novel) / len(found) / texts.SECTION < 1.4


def test_held_out_parts_come_from_all_over_the_text():
    text = prose(5000)
    place = {p: i / 5000 for i, p in enumerate(paragraphs(text))}
    for part in texts.split([text])[1:]:
        assert {int(place[p] * 4) for p in paragraphs(part)} == {0, 1, 2, 3}


def test_sides_do_not_move_when_a_text_is_added(novel):
    before, after = texts.split([novel]), texts.split([prose(1500, seed=1), novel, prose(100, seed=2)])
    for old, new in zip(before, after, strict=True):
        assert set(paragraphs(old)) <= set(paragraphs(new))


def test_an_edit_moves_its_own_section_only(novel):
    before, after = texts.split([novel]), texts.split(["A preface.\n\n" + novel.replace(" whale", " fish", 1)])
    moved = [set(paragraphs(old)) - set(paragraphs(new)) for old, new in zip(before, after, strict=True)]
    first = {p for section in list(texts.sections(novel))[:2] for p in paragraphs(section)}
    assert set().union(*moved) <= first


def test_a_copy_is_on_the_side_of_its_original(novel):
    once, twice = texts.split([novel]), texts.split([novel, novel + "\n"])
    for a, b in zip(once, twice, strict=True):
        assert set(paragraphs(a)) == set(paragraphs(b)) and len(paragraphs(b)) == 2 * len(paragraphs(a))


@pytest.mark.parametrize("text", ["word " * 2000, prose(10), "x" * 50], ids=["one paragraph", "few", "tiny"])
def test_a_short_text_is_held_out_by_its_last_tenths(text):
    text = text.strip()
    train, val, test = texts.split([text])
    assert train + val + test == text
    assert len(train) == len(text) * 8 // 10 and abs(len(val) - len(test)) <= 1


# ---- tokenizers ----

TEXTS = [
    "Hello, world!", " leading and trailing ", "  two  spaces\t\ttabs \n\n\n lines\r\n",
    "C’est l’été — “n’est-ce pas”?",
    "e\u0301 is not é", "你好，世界", "Привет", "👩‍👩‍👧 🎉", "nbsp\u00a0\u2028\u200b", "UPPER lower Title",
    "<0x0A>", "<0x0A> <0xE4> <pad> <s></s> <unk>",
    "Ġword Ċ ## ▁under _", "\x00\x01\x7f\x85", "\ufeffbom", "\U0010ffff", "a", "",
]  # fmt: skip
CORPUS = (
    "The captain said: “The ship sails!” The Captain’s ship sailed.\n\nThe sea, the sea. 12 men; 12 more <unk> ##.\n\n"
)


@pytest.fixture(scope="module", params=LEVELS)
def tokenizer(request):
    return tokens.train_lossless(request.param, CORPUS * 2 + "Zanzibar é", 400)


@pytest.mark.parametrize("text", [*TEXTS, "\n".join(TEXTS), CORPUS])
def test_any_text_comes_back(tokenizer, tmp_path, text):
    tokens.save(tmp_path, tokenizer)
    for each in (tokenizer, tokens.load(tmp_path)):
        ids = texts.encode(each, text)
        assert ids.dtype == torch.int64 and ids.tolist() == texts.encode(tokenizer, text).tolist()
        assert not len(ids) or 0 <= int(ids.min()) <= int(ids.max()) < each.get_vocab_size()
        assert texts.decode(each, ids) == text


@pytest.mark.parametrize("level", LEVELS)
def test_the_vocabulary_has_the_bytes_and_what_is_common(level):
    for vocabulary in (256, 258, 100_000):
        made = tokens.train_lossless(level, CORPUS, vocabulary)
        size = made.get_vocab_size()
        assert sorted(made.get_vocab().values()) == list(range(size))
        assert size == vocabulary or (256 < size < 300 and vocabulary > 300)
        assert texts.decode(made, texts.encode(made, CORPUS)) == CORPUS
    assert made.to_str() == tokens.train_lossless(level, CORPUS, 100_000).to_str()


def test_words():
    made = tokens.train_lossless("word", "The sea, the sea.\nThe sea, the Sea", 300)
    count = lambda text: len(texts.encode(made, text))  # noqa: E731
    assert set(made.get_vocab()) >= {"The", "Ġsea", "Ġthe"} and made.get_vocab_size() == 259
    assert count("The sea the sea, sea") == 6
    assert count(" The") == count(" Sea") == 4  # seen once: in bytes
    assert count(" été") == 1 + 5


def test_byte_pairs():
    made = tokens.train_lossless("bpe", "ab ab cd", 300)
    assert made.get_vocab_size() == 257 and len(texts.encode(made, "ab cd")) == 1 + 3


def test_characters():
    made = tokens.train_lossless("char", "ééaa b", 300)
    assert made.get_vocab_size() == 258 and {"é", "a"} <= set(made.get_vocab())
    assert len(texts.encode(made, "éa")) == 2
    assert len(texts.encode(made, "èb")) == 2 + 1  # bytes


def test_a_level_that_there_is_not():
    with pytest.raises(ValueError, match="syllable is neither word, bpe nor char"):
        tokens.train_lossless("syllable", "text", 300)
    with pytest.raises(DataError, match="a vocabulary of 255: at least 256"):
        tokens.train_lossless("word", "text", 255)


def test_ids_that_spell_no_text(tokenizer):
    half = texts.encode(tokenizer, "\U0010ffff")[:2]
    assert set(texts.decode(tokenizer, half)) == {"\ufffd"}


def test_a_prompt_in_another_encoding(tokenizer):
    with pytest.raises(DataError, match="not UTF-8: character 3"):
        texts.encode(tokenizer, b"caf\xe9".decode(errors="surrogateescape"))


@pytest.mark.parametrize("content", [None, "{"])
def test_a_run_without_a_tokenizer(tmp_path, content):
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=rf"{tmp_path} has no readable tokenizers \(tokenizer\.json\)"):
        tokens.load(tmp_path)


# ---- batches ----


def take(stream, n):
    return list(islice(stream, n))


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_windows_of_an_epoch_share_only_their_ends():
    ids = torch.arange(1000) + 7
    made = take(batches.windows(ids, random.key(0), rows=4, length=16), 61 // 4)
    assert {tuple(batch.shape) for batch in made} == {(4, 17)} and made[0].dtype == ids.dtype
    rows = torch.cat(made)
    assert torch.equal(rows, rows[:, :1] + torch.arange(17))  # text as it stands
    read = rows[:, :-1].flatten().tolist()
    assert len(set(read)) == len(read) == 60 * 16
    starts = rows[:, 0].tolist()
    assert len({start % 16 for start in starts}) == 1 and starts != sorted(starts)


def test_each_epoch_cuts_anew_and_the_whole_text_is_used():
    made = take(batches.windows(torch.arange(50), random.key(0), rows=2, length=4), 100 * 5)
    epochs = [torch.cat(made[i : i + 5]) for i in range(0, len(made), 5)]
    assert {int(epoch[0, 0]) % 4 for epoch in epochs} == set(range(4))
    assert torch.cat(epochs).unique().tolist() == list(range(50))


@pytest.mark.parametrize("length", [1, 7, 8])
def test_a_run_goes_on_with_the_window_it_stopped_at(length):
    ids = torch.arange(100)
    straight = take(batches.windows(ids, random.key(3), 5, length), 40)
    assert len({str(batch.tolist()) for batch in straight}) == 40
    for first in (0, 1, 2, 3, 11, 38):
        assert equal(take(batches.windows(ids, random.key(3), 5, length, first), 2), straight[first : first + 2])
    assert not equal(straight, take(batches.windows(ids, random.key(4), 5, length), 40))


def test_streams_go_on_where_the_batch_before_ended():
    ids = torch.arange(103)
    made = take(batches.streams(ids, rows=3, length=8), 12)  # three epochs of four batches
    assert [bool(batch.fresh.all()) for batch in made] == [True, False, False, False] * 3
    assert {(tuple(batch.tokens.shape), batch.fresh.dtype, batch.fresh.shape) for batch in made} == {
        ((3, 9), torch.bool, (3,))
    }
    for before, after in pairwise(made):
        if not after.fresh.any():
            assert torch.equal(before.tokens[:, -1], after.tokens[:, 0])
    for epoch in range(3):
        rows = torch.cat([batch.tokens[:, :-1] for batch in made[4 * epoch : 4 * epoch + 4]], dim=1)
        assert rows.flatten().tolist() == list(range(6 * (epoch % 2), 6 * (epoch % 2) + 96))
    assert int(made[7].tokens.max()) == 102  # the end of the text, in odd epochs


def test_a_run_goes_on_with_the_stream_it_stopped_at():
    ids = torch.arange(103)
    straight = take(batches.streams(ids, 3, 8), 20)
    for first in range(18):
        for a, b in zip(take(batches.streams(ids, 3, 8, first), 2), straight[first : first + 2], strict=True):
            assert equal(a, b)


def test_a_text_smaller_than_a_batch():
    least = torch.arange(5 * 8)
    assert len(next(batches.windows(least, random.key(0), 4, 8))) == 4
    message = r"39 tokens do not fill one batch of 4 rows of 8 tokens: 40 are needed"
    with pytest.raises(DataError, match=message):
        next(batches.windows(least[:-1], random.key(0), 4, 8))
    least = torch.arange(4 * 8 + 1)
    assert next(batches.streams(least, 4, 8)).tokens.flatten()[-1] == 32
    with pytest.raises(DataError, match=r"32 tokens do not fill one batch of 4 rows of 8 tokens: 33 are needed"):
        next(batches.streams(least[:-1], 4, 8))
    for empty in (batches.windows(least[:0], random.key(0), 1, 1), batches.streams(least[:0], 1, 1)):
        with pytest.raises(DataError, match="0 tokens do not fill"):
            next(empty)


# ---- scores ----


def test_bits_per_byte():
    text = "né" * 100  # 300 bytes
    assert writing.bits_per_byte(300 * math.log(256), text) == pytest.approx(8)
    assert writing.bits_per_byte(200 * math.log(2), text) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("sample", "training", "expected"),
    [
        ("he saw the sea again", "once the sea was calm", " the sea "),
        ("abc", "xabcx", "abc"),
        ("abcx", "zabcy", "abc"),
        ("xab cd", "cd ab", "ab"),
        ("The", "the", "he"),
        ("abc", "xyz", ""),
        ("", "xyz", ""),
        ("abc", "", ""),
    ],
)
def test_longest_overlap(sample, training, expected):
    assert writing.longest_overlap(sample, training) == expected


def test_longest_overlap_as_by_its_definition():
    for seed in range(20):
        words = ["".join("ab "[i] for i in random.randint(k, (30,), 0, 3)) for k in random.split(random.key(seed))]
        sample, training = words
        parts = {sample[i:j] for i in range(31) for j in range(i, 31)}
        found = writing.longest_overlap(sample, training)
        assert found in training and len(found) == max(len(part) for part in parts if part in training)
