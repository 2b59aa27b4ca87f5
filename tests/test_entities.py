"""lib/data/entities.py: files, splits, pieces with labels, and the score by hand and as seqeval has it."""

import zipfile

import pytest
import torch

from lib.data import entities, tokens
from lib.data.entities import Sentence
from lib.data.sources import at_hand
from lib.faults import DataError

LINES = "Tom\tB-person\nHanks\tI-person\nsmiles\tO\n\t\nR&amp;D\tO\nin\tO\nParis\tB-place\n"


def test_a_file_is_read():
    first, second = entities.read(LINES.encode(), "x")
    assert first == Sentence(("Tom", "Hanks", "smiles"), ("B-person", "I-person", "O"))
    assert second.words == ("R&D", "in", "Paris")
    conll = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\n"
    assert list(entities.read(b"\xef\xbb\xbf" + conll.encode(), "x")) == [Sentence(("EU", "rejects"), ("B-ORG", "O"))]
    for end in ("\r\n", "\r"):
        assert list(entities.read(LINES.replace("\n", end).encode(), "x")) == [first, second]


@pytest.mark.parametrize(
    "raw, words",
    [
        ("New York\tB-place\n10\u00a0000\tNUM\tO\n a\u2009b \t O \n", ("New York", "10\u00a0000", "a\u2009b")),
        ("10\u00a0000 NUM O\na\u2028b  O\n\u3000\n\n", ("10\u00a0000", "a\u2028b")),
        ("c\x0cd\t\tO\t\n\u00a0\n", ("c\x0cd",)),
    ],
)
def test_columns_are_separated_by_tabs_or_else_by_spaces(raw, words):
    assert [sentence.words for sentence in entities.read(raw.encode(), "x")] == [words]


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"", "x: no sentences"),
        (b"\n\t\n", "x: no sentences"),
        (b"a\tO\nb\n", "x, line 2: a word and a tag"),
        (b"a\tO\nb\tS-person\n", "x, line 2: a word and a tag"),
        (b"a\tO\n\xff\tO\n", "x, line 2: not UTF-8"),
        ("a\tO\n".encode("utf-16-le"), "x, line 1: a NUL"),
        ("\u00a0\tO\n".encode(), "x, line 1: a word and a tag"),
    ],
)
def test_a_bad_file(raw, message):
    with pytest.raises(DataError, match=message):
        list(entities.read(raw, "x"))


def test_a_missing_file():
    with pytest.raises(DataError, match="--data nowhere: neither tweets nor a file"):
        entities.load("nowhere")


def test_words_that_differ_in_marks_are_other_sentences():
    vowels = [chr(0x93E + i) for i in range(15)]
    words = [(f"क{a}", f"म{b}") for a in vowels for b in vowels]
    found = entities.split("x", [Sentence(pair, ("O", "B-place")) for pair in words])
    assert sum(map(len, found[1:4])) == 225
    assert len(entities.split("x", many(300), same=str.upper).test) == len(entities.split("x", many(300)).test)


def many(n):
    return [Sentence((f"word{i}", "Paris"), ("O", "B-place")) for i in range(n)]


def test_splits_are_by_content(tmp_path):
    found = entities.split("x", [*many(300), *many(300), Sentence(("WORD7", "paris!"), ("O", "O"))])
    assert found.names == ["O", "B-place", "I-place"]
    parts = [{s.words for s in part} for part in found[1:4]]
    assert sum(map(len, parts)) == sum(len(part) for part in found[1:4]) == 300 and not parts[0] & parts[2]
    assert 40 < len(parts[2]) < 80 and 5 < len(parts[1]) < 30
    more = entities.split("x", many(600))
    assert all(part <= {s.words for s in bigger} for part, bigger in zip(parts, more[1:4], strict=True))
    with pytest.raises(DataError, match="1 sentences are too few, none falls into the"):
        entities.split("x", many(1))
    path = tmp_path / "made.txt"
    path.write_text("".join(f"{a}\t{x}\n{b}\t{y}\n\n" for (a, b), (x, y) in many(300)))
    assert entities.load(str(path)) == found._replace(name="made")


@pytest.mark.skipif(at_hand(entities.TWEETS) is None, reason="the package with the tweets is not at hand")
def test_the_tweets():
    found = entities.load("tweets")
    assert sum(len(part) for part in found[1:4]) == 2280 and len(found.names) == 21
    with zipfile.ZipFile(at_hand(entities.TWEETS)) as archive:
        assert len(list(entities.read(archive.read(entities.TWEETS_FILE), "x"))) == 2394


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.train_wordpiece(["tom hanks smiles in paris"] * 9, 60)


def test_labels_stand_at_first_pieces(tokenizer):
    tags = ["O", "B-person", "I-person"]
    sentence = Sentence(
        ("Tom", "hanksmiles", "\u200b", "[SEP]", "smiles"), ("B-person", "I-person", "O", "O", "B-person")
    )
    for _ in range(2):  # the same with a tokenizer that has been used
        ids, labels = entities.rows(tokenizer, [sentence], tags, 20)
    row = [tokenizer.id_to_token(i) for i in ids[0].tolist()]
    assert row[:2] == ["[CLS]", "tom"] and row[2] == "hanks" and row[3].startswith("##")
    marked = [(row[i], int(x)) for i, x in enumerate(labels[0]) if x != tokens.NOTHING]
    assert [x for _, x in marked] == [1, 2, 0, 0, 1] and marked[0][0] == "tom" and marked[-1][0] == "smiles"
    assert marked[2][0] == "[UNK]" and row.count("[SEP]") == 1  # a word without pieces; a word that spells a token
    short, its = entities.rows(tokenizer, [sentence], tags, 4)
    assert short[0].tolist() == [*ids[0, :3].tolist(), tokenizer.token_to_id("[SEP]")]
    assert its[0].tolist() == [tokens.NOTHING, 1, 2, tokens.NOTHING]
    guess = torch.full((1, 4), 1)
    assert entities.tags_of(guess, its, [sentence], tags) == [["B-person", "B-person", "O", "O", "O"]]


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("O O", set()),
        ("", set()),
        ("B-a", {("a", 0, 1)}),
        ("B-a I-a O", {("a", 0, 2)}),
        ("O B-a B-a I-a", {("a", 1, 2), ("a", 2, 4)}),
        ("B-a I-b I-b", {("a", 0, 1), ("b", 1, 3)}),
        ("O I-a I-a O I-b", {("a", 1, 3), ("b", 4, 5)}),
    ],
)
def test_spans(tags, expected):
    assert entities.spans(tags.split()) == expected


def test_a_score_by_hand():
    truth = [["B-a", "I-a", "O", "B-b"], ["B-b", "O"]]
    guess = [["B-a", "I-a", "O", "B-a"], ["B-b", "B-a"]]
    found = entities.score(truth, guess)
    assert found[""] == entities.Score(2 / 4, 2 / 3, 4 / 7, 3)
    assert found["a"] == entities.Score(1 / 3, 1, 1 / 2, 1) and found["b"] == entities.Score(1, 1 / 2, 2 / 3, 2)
    assert entities.score([["O"]], [["O"]]) == {"": entities.Score(0, 0, 0, 0)}
    shifted = entities.score([["B-a", "I-a", "O"]], [["O", "B-a", "I-a"]])
    assert shifted[""].f1 == 0  # not the same words


def test_seqeval_scores_the_same():
    metrics = pytest.importorskip("seqeval.metrics")
    generator = torch.Generator().manual_seed(0)
    tags = ["O", "B-a", "I-a", "B-b", "I-b"]
    draw = lambda: [  # noqa: E731
        [tags[i] for i in torch.randint(0, 5, (8,), generator=generator).tolist()] for _ in range(30)
    ]
    truth, guess = draw(), draw()
    whole = entities.score(truth, guess)[""]
    assert whole.f1 > 0 and whole.f1 == pytest.approx(metrics.f1_score(truth, guess))
    assert whole.precision == pytest.approx(metrics.precision_score(truth, guess))
    assert whole.recall == pytest.approx(metrics.recall_score(truth, guess))
