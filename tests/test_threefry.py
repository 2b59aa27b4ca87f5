"""lib/threefry.py: the operations, and the GPU's kernels by Triton's interpreter, against the formula written out."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lib import random, threefry

KEYS = torch.stack(random.split(random.key(-5), 3))
KERNELS = """
import torch
from lib import random, threefry, threefry_cuda
keys, first = torch.stack(random.split(random.key(-5), 3)), torch.tensor(2**31 - 3, dtype=torch.int32)
p = torch.tensor([0.1, 0.5, 0.9])
for n in (0, 1, 5, 1024, 2500):
    place = torch.arange(n, dtype=torch.int32) + first
    words = torch.stack([threefry.word(key, place) for key in keys])
    assert torch.equal(threefry_cuda.draw(keys, first, n, torch.int32), words), n
    assert torch.equal(threefry_cuda.draw(keys, first, n, torch.bool, p), threefry.unit(words) < p[:, None]), n
counters = torch.tensor([3, -1, 2**31 - 1], dtype=torch.int32)
assert torch.equal(threefry_cuda.blocks(keys, counters), torch.stack(threefry.block(keys, counters), -1))
assert threefry_cuda.blocks(keys[:0], counters[:0]).shape == (0, 2)
"""


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
def test_operations_equal_the_formula(n):
    first, p = torch.tensor(4, dtype=torch.int32), torch.tensor([0.2, 0.5, 0.7])
    expected = torch.stack([threefry.word(key, torch.arange(n, dtype=torch.int32) + 4) for key in KEYS])
    assert torch.equal(threefry.words(KEYS, first, n), expected)
    assert torch.equal(threefry.below(KEYS, first, n, p), threefry.unit(expected) < p[:, None])
    keys, counters = KEYS[:1].expand(n, 2), torch.arange(n, dtype=torch.int32)
    assert torch.equal(threefry.blocks(keys, counters), torch.stack(threefry.block(keys, counters), dim=-1))


def test_operations_batch():
    keys, first, p = torch.stack([KEYS, KEYS.flip(0)]), torch.tensor(0, dtype=torch.int32), torch.rand(2, 3)
    both = torch.func.vmap(lambda k, p: threefry.below(k, first, 4, p))(keys, p)
    assert torch.equal(both, torch.stack([threefry.below(k, first, 4, q) for k, q in zip(keys, p, strict=True)]))
    firsts = torch.tensor([0, 9], dtype=torch.int32)
    both = torch.func.vmap(lambda k, f: threefry.words(k, f, 4))(keys, firsts)
    assert torch.equal(both, torch.stack([threefry.words(k, f, 4) for k, f in zip(keys, firsts, strict=True)]))
    counters = torch.tensor([1, 2, 3], dtype=torch.int32)
    both = torch.func.vmap(threefry.blocks, (0, None))(keys, counters)
    assert torch.equal(both, torch.stack([threefry.blocks(k, counters) for k in keys]))


@pytest.mark.skipif(not find_spec("triton"), reason="no Triton here")
def test_the_kernels_of_a_gpu():
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KERNELS], cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
