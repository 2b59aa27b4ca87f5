"""lib/metrics.py: scores against sacrebleu itself, throughput against a made-up clock."""

import time

import pytest
import sacrebleu
import torch

from lib import metrics

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


@pytest.fixture
def clock(monkeypatch):
    """time.perf_counter as a list of one number."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_throughput_leaves_out_the_first_step_and_pauses(clock):
    meter, loss = metrics.Throughput(10, 1e4), torch.tensor(1.0)
    clock[0] += 60  # compiles
    meter.count(1000, loss)
    assert meter.first == 60
    assert meter.read() == {}  # nothing but the first step so far
    for _ in range(4):
        clock[0] += 0.5
        meter.count(100, loss)
    with meter.paused():
        clock[0] += 30
    assert meter.read() == {"perf/tokens_per_second": 200.0, "perf/mfu": 200.0 * 10 / 1e4}
    clock[0] += 2
    meter.count(100, loss)
    assert meter.read()["perf/tokens_per_second"] == 50.0  # since the last reading
    assert meter.first == 60


def test_throughput_without_a_known_peak(clock):
    meter = metrics.Throughput(10, None)
    for _ in range(3):
        clock[0] += 1
        meter.count(70, torch.tensor(1.0))
    assert meter.read() == {"perf/tokens_per_second": 70.0}


def test_peaks(monkeypatch):
    assert metrics.peak_flops(torch.device("cpu"), torch.float32) is None
    for name, peaks in {
        "NVIDIA H200": (989e12, 67e12),
        "NVIDIA L4": (121e12, 30e12),
        "Tesla K80": (None, None),
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        found = [metrics.peak_flops(torch.device("cuda"), d) for d in (torch.bfloat16, torch.float32)]
        assert tuple(found) == peaks
