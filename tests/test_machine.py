"""lib/machine.py: throughput by a made-up clock, peaks and memory."""

import time

import pytest
import torch

from lib import machine
from tests import pretend


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
