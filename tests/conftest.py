"""Fixtures shared by all tests."""

import pytest
import torch

from lib import random

torch.set_num_threads(2)


@pytest.fixture
def key():
    return random.key(0)
