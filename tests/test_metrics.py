"""lib/metrics.py: scores against sacrebleu, distances against their formula."""

import pytest
import sacrebleu
import torch

from lib import metrics, random
from lib.faults import DataError

FOUND = ["le chat est sur le tapis .", "il fait très beau aujourd'hui", "bonjour tout le monde"]
REFERENCES = [
    ["le chat est assis sur le tapis .", "un chat se trouve sur le tapis .", "le chat est sur le tapis ."],
    ["il fait beau aujourd'hui"],
    ["bonjour à tous", "bonjour tout le monde"],
]


def test_one_reference():
    first = [r[0] for r in REFERENCES]
    score = metrics.bleu_chrf(FOUND, [[r] for r in first])
    assert score["bleu"] == sacrebleu.corpus_bleu(FOUND, [first]).score
    assert score["chrf"] == sacrebleu.corpus_chrf(FOUND, [first]).score
    assert 0 < score["bleu"] < 100
    assert metrics.bleu_chrf(first, [[r] for r in first])["bleu"] == pytest.approx(100)


def test_as_many_references_as_each_sentence_has():
    columns = [["le chat est assis sur le tapis .", "il fait beau aujourd'hui", "bonjour à tous"]]
    columns += [["un chat se trouve sur le tapis .", None, "bonjour tout le monde"]]
    columns += [["le chat est sur le tapis .", None, None]]
    score = metrics.bleu_chrf(FOUND, REFERENCES)
    assert score["bleu"] == sacrebleu.corpus_bleu(FOUND, columns).score
    assert score["chrf"] == sacrebleu.corpus_chrf(FOUND, columns).score
    assert score["bleu"] > metrics.bleu_chrf(FOUND, [r[:1] for r in REFERENCES])["bleu"]


def test_a_second_reference_counts_wherever_it_stands():
    swapped = [r[::-1] for r in REFERENCES]
    assert metrics.bleu_chrf(FOUND, swapped)["bleu"] == metrics.bleu_chrf(FOUND, REFERENCES)["bleu"]


def test_signatures_say_how_it_was_scored():
    score = metrics.bleu_chrf(FOUND, [r[:1] for r in REFERENCES])
    assert score["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert score["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert "nrefs:var" in metrics.bleu_chrf(FOUND, REFERENCES)["bleu_signature"]


@pytest.mark.parametrize(
    "texts, expected",
    [
        (["今天天气很好。", "OK"], True),
        (["ありがとう、トム"], True),
        (["ขอบคุณครับ"], True),
        (["ກະລຸນາ", "សួស្តី", "မင်္ဂလာပါ"], True),
        (["감사합니다 여러분", "مرحبا", "Спасибо", "धन्यवाद", "Merci !"], False),
        (["He said 你好 to them."], False),
        (["123", "?"], False),
        ([], False),
    ],
)
def test_scripts_without_spaces_between_words(texts, expected):
    assert metrics.unspaced(texts) == expected


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("Il fait beau, allons-y.", "13a"), ("今天天气很好，我们去公园。", "zh"), ("今日は天気がいいです。", "char"),
        ("วันนี้อากาศดี", "char"), ("", "13a"),
    ],
)  # fmt: skip
def test_bleu_takes_the_words_of_the_references_language(text, tokenizer):
    score = metrics.bleu_chrf([text], [[text]])
    assert f"|tok:{tokenizer}|" in score["bleu_signature"]
    assert score["bleu"] == pytest.approx(100 if text else 0)


def test_case_may_be_left_out():
    assert metrics.bleu_chrf(["LE CHAT DORT BIEN."], [["Le chat dort bien."]])["bleu"] < 20
    assert metrics.bleu_chrf(["LE CHAT DORT BIEN."], [["Le chat dort bien."]], lowercase=True)["bleu"] == pytest.approx(
        100
    )


def test_a_sentence_is_compared_with_its_best_reference():
    assert metrics.sentence_chrf("abc", ["xyz", "abc"]) == pytest.approx(100)
    assert metrics.sentence_chrf("abc", ["xyz"]) == 0


def mmd(x, y):
    """The unbiased estimate of the squared distance (Gretton et al. 2012, lemma 6), written out."""
    kernel = lambda a, b: (a.double() @ b.double().T / a.shape[1] + 1) ** 3  # noqa: E731
    inside = sum((kernel(a, a).sum() - kernel(a, a).diagonal().sum()) / (len(a) * (len(a) - 1)) for a in (x, y))
    return float(inside - 2 * kernel(x, y).mean())


@pytest.fixture
def features(key):
    return list(random.normal(key, (4, 300, 16)).unbind())


def test_kid_of_everything_is_the_unbiased_distance(features):
    for x, y in ((features[0], features[1]), (features[0], 1.5 * features[1] + 0.3)):
        mean, deviation = metrics.kid(x, y, subsets=2)
        assert mean == pytest.approx(mmd(x, y), abs=1e-4) and deviation == pytest.approx(0, abs=1e-4)
    smaller = metrics.kid(features[0][:20], features[1][:20] + 1, subsets=1)[0]
    assert smaller == pytest.approx(mmd(features[0][:20], features[1][:20] + 1), rel=1e-4)


def test_kid_is_about_zero_for_equal_distributions_only(features):
    equal = metrics.kid(features[0], features[1], size=100)
    assert abs(equal[0]) < 2 * equal[1] and equal[1] > 0
    shifted = [metrics.kid(features[0], features[1] + shift, size=100)[0] for shift in (0.2, 0.4, 0.8)]
    assert equal[0] < shifted[0] < shifted[1] < shifted[2] and shifted[0] > 0.05
    assert metrics.kid(features[0], 2 * features[1], size=100)[0] > 0.05


def test_kid_is_the_mean_over_subsets(features):
    mean, deviation = metrics.kid(features[0], features[1] + 0.5, subsets=100, size=60)
    assert mean == pytest.approx(mmd(features[0], features[1] + 0.5), abs=3 * deviation / 10)


def test_kid_is_the_same_every_time_and_draws_from_no_other_generator(features):
    before = torch.get_rng_state()
    first = metrics.kid(features[0], features[2], subsets=5, size=50)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert metrics.kid(features[0], features[2], subsets=5, size=50) == first


def test_too_few_pictures_are_told_before_the_training():
    metrics.check_kid("mine", torch.zeros(2, 1), torch.zeros(3, 1))
    with pytest.raises(DataError, match="mine: fewer than two pictures are held out for validation or test"):
        metrics.check_kid("mine", torch.zeros(9, 1), torch.zeros(1, 1))
