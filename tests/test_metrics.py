"""lib/metrics.py: scores against sacrebleu, distances against their formula, throughput by a made-up clock."""

import time

import pytest
import sacrebleu
import torch

from lib import metrics, random
from tests import pretend

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


@pytest.fixture
def step(clock):
    """Makes a step of so many seconds and units for a meter."""

    def make(meter, seconds, units, wait_for=None):
        meter.begin()
        clock[0] += seconds
        meter.end(units, wait_for)

    return make


def test_throughput_leaves_out_the_first_step_and_pauses(clock, step):
    meter = machine.Throughput("tokens", 1e4)
    meter.flops_per_unit = 10
    clock[0] += 7  # before the first step
    step(meter, 60, 1000, torch.tensor(1.0))  # compiles
    assert meter.first == 60
    assert meter.read() == {}  # nothing but the first step so far
    for _ in range(4):
        step(meter, 0.5, 100)
        clock[0] += 30  # a pause
    assert meter.read() == {"perf/tokens_per_second": 200.0, "perf/mfu": 200.0 * 10 / 1e4}
    assert meter.read() == {}
    step(meter, 2, 100)
    assert meter.read()["perf/tokens_per_second"] == 50.0  # since the last reading
    assert meter.first == 60


@pytest.mark.parametrize(("peak", "flops"), [(None, 10), (1e4, 0)])
def test_throughput_without_a_known_peak_or_cost(step, peak, flops):
    meter = machine.Throughput("tokens", peak)
    meter.flops_per_unit = flops
    for _ in range(3):
        step(meter, 1, 70, torch.tensor([1.0, 2.0]))  # a value for each replica
    assert meter.read() == {"perf/tokens_per_second": 70.0}


def test_throughput_waits_for_what_it_is_given(clock):
    """The device's work counts although it goes on after the step has returned."""

    class Slow:
        def sum(self):
            clock[0] += 5
            return torch.tensor(1.0)

    meter = machine.Throughput("images")
    for units in (0, 60):
        meter.begin()
        meter.end(units, Slow())
    assert meter.first == 5 and meter.read() == {"perf/images_per_second": 12.0}


# ---- kernel inception distance ----


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


def test_peaks(monkeypatch):
    assert machine.peak_flops(torch.device("cpu"), torch.float32) is None
    for name, peaks in {
        "NVIDIA H200": (989e12, 67e12),
        "NVIDIA H200 NVL": (835e12, 60e12),
        "NVIDIA H100 80GB HBM3": (989e12, 67e12),
        "NVIDIA H100 NVL": (835e12, 60e12),
        "NVIDIA H100 PCIe": (756e12, 51e12),
        "NVIDIA L40S": (362e12, 91.6e12),
        "NVIDIA L4": (121e12, 30e12),
        "Tesla K80": (None, None),
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        found = [machine.peak_flops(torch.device("cuda"), d) for d in (torch.bfloat16, torch.float32)]
        assert tuple(found) == peaks


def test_free_memory_of_a_gpu_counts_what_torch_has_kept():
    with pretend.cuda(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "memory_reserved", lambda device=None: 5 << 30)  # of which 1 GiB is in use
        assert machine.free_memory(torch.device("cuda", 0)) == (70 + 4) << 30
