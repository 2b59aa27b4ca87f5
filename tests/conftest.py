"""Fixtures shared by all tests."""

import pytest
import torch

from lib import random

torch.set_num_threads(2)


@pytest.fixture
def key():
    return random.key(0)


@pytest.fixture(autouse=True)
def plain_draws(request, monkeypatch):
    """Draws inside compiled steps run eagerly, but in test_random: their kernels are graphs of their own, which take
    seconds to compile and which tests that count graphs would count."""
    if not request.module.__name__.endswith("test_random"):
        monkeypatch.setattr(random, "_kernel", lambda fn: fn)
