"""lib/run/prefetch.py: batches come in order, errors where they belong, and the thread ends with the loop."""

import itertools
import threading
import time

import pytest
import torch

from lib.run import prefetch
from tests import pretend

CUDA = torch.device("cuda", 0)


def numbers(made):
    for i in itertools.count():
        made.append(i)
        yield {"i": torch.tensor([i])}


def others():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_on_a_cpu_a_batch_is_made_when_it_is_asked_for():
    batches = prefetch.to_device(numbers(made := []), torch.device("cpu"))
    assert [int(next(batches)["i"]) for _ in range(3)] == made == [0, 1, 2]
    assert not others()


def test_on_a_gpu_batches_are_made_ahead_and_the_thread_ends():
    with pretend.cuda():
        batches = prefetch.to_device(numbers(made := []), CUDA)
        found = [next(batches)["i"] for _ in range(3)]
        assert [int(x) for x in found] == [0, 1, 2] and all(x.is_cuda for x in found)
        for _ in range(100):
            if len(made) == 3 + prefetch.AHEAD + 1:  # those in the queue, and the one that waits for room
                break
            time.sleep(0.02)
        assert len(made) == 3 + prefetch.AHEAD + 1
        batches.close()
        for thread in others():
            thread.join(5)
    assert not others() and len(made) == 3 + prefetch.AHEAD + 1


def test_what_making_a_batch_raises_is_raised_where_it_is_asked_for():
    def fails():
        yield torch.tensor(0)
        raise KeyError("no second")

    with pretend.cuda():
        batches = prefetch.to_device(fails(), CUDA)
        next(batches)
        with pytest.raises(KeyError, match="no second"):
            next(batches)


def test_batches_that_end():
    with pretend.cuda():
        assert [int(x) for x in prefetch.to_device(iter([torch.tensor(1), torch.tensor(2)]), CUDA)] == [1, 2]


def test_no_thread_draws_beside_several_processes(monkeypatch):
    """It would see the rank of the step that is under way."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pretend.cuda():
        batches = prefetch.to_device(numbers(made := []), CUDA)
        assert next(batches)["i"].is_cuda and made == [0] and not others()
