"""The annotated shapes hold: jaxtyping's import hook checks every call in lib, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOOK = """
from jaxtyping import TypeCheckError, install_import_hook
install_import_hook("lib", "beartype.beartype")
import torch
from lib import attention as attn, nn, random, transformer as tf, tree
from lib.transform import value_and_grad
torch.set_num_threads(1)
key = random.key(0)
"""
RIGHT = """
k1, k2 = random.split(key)
assert random.split(None) == [None, None] and random.fold_in(None, 1) is None
random.fold_in(key, 3), random.fold_in(key, torch.tensor(3)), random.bits(key, (2, 3))
random.uniform(key), random.gumbel(key, (2,)), random.bernoulli(key, torch.tensor(0.5), (3,))
random.categorical(key, random.normal(key, (2, 5))), random.randint(key, (4,), 0, 9), random.permutation(key, 5)

x = random.normal(k1, (2, 6, 8)) + nn.sinusoidal_positions(6, 8)
table = nn.embedding_init(k2, 10, 8)
memory = nn.embedding(table, random.randint(key, (2, 4), 0, 10))
nn.linear(nn.linear_init(key, 8, 3, bias=False), nn.dropout(x[0, 0], 0.5, key))
p = attn.attention_init(key, 8, 2)
segments = torch.tensor([[0, 0, 0, 1, 1, 1]]).expand(2, 6)
for mask in (None, attn.causal_mask(6), attn.segment_mask(segments, segments)):
    for weights in (False, True):
        attn.attention(p, x, attn.keys_values(p, x), mask, key, dropout=0.1, weights=weights)
long = random.normal(key, (1, 130, 8))
attn.attention(p, long, attn.keys_values(p, long))

for norm in ("rms", "layer"):
    cfg = tf.Config(width=8, heads=2, ff=12, dropout=0.1, norm=norm)
    for m in (None, memory):
        p = tf.stack_init(key, 2, cfg, cross=m is not None)
        mask = attn.causal_mask(6)
        loss = lambda p, k: tf.stack(p, x, mask, m if m is None else tf.Cross(m), k, cfg=cfg)[0].square().mean()
        loss(p, None), value_and_grad(loss)(p, key)
        cache = tf.stack_cache(p, 2, 6, m, x)
        for i in range(2):
            mask_i = tf.cache_mask(cache[0]["position"], 1, 6)
            _, cache = tf.stack(p, x[:, i : i + 1], mask_i, tf.Cross(None), cache=cache, cfg=cfg, weights=True)
"""
WRONG = """
def refused(call):
    try:
        call()
    except TypeCheckError:
        return True

x, p = random.normal(key, (2, 6, 8)), attn.attention_init(key, 8, 2)
segments = torch.zeros(2, 6, dtype=torch.int64)
assert attn.segment_mask(segments, segments).shape == (2, 1, 6, 6)
assert refused(lambda: attn.segment_mask(segments[:1], segments))  # would broadcast without a word
assert refused(lambda: attn.attention(p, x, attn.keys_values(p, x[:1])))
assert refused(lambda: attn.attention(p, x, attn.keys_values(p, x), torch.zeros(6, 6)))
assert refused(lambda: random.uniform(torch.zeros(3, dtype=torch.int32), (2,)))
"""
PARTS = {"right shapes pass": RIGHT, "wrong shapes are refused": WRONG}


@pytest.fixture(scope="module")
def process():
    """All parts in one process, each saying when it is through: most of the time goes into imports."""
    code = HOOK + "".join(f"{part}\nprint({name!r})\n" for name, part in PARTS.items())
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", PARTS)
def test_shapes(process, name):
    assert name in process.stdout.splitlines(), process.stderr


def test_the_process_ends_well(process):
    assert process.returncode == 0, process.stderr
