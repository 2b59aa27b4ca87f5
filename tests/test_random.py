"""lib/random.py: published constants, JAX's stream, moments, and one result under every transformation."""

import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.func import vmap

from lib import random

VERBS = {
    "split": lambda k: torch.stack(random.split(k, 3)),
    "fold_in": lambda k: random.fold_in(k, 5),
    "bits": lambda k: random.bits(k, (2, 3)),
    "uniform": lambda k: random.uniform(k, (5,), -1.0, 3.0),
    "normal": lambda k: random.normal(k, (4, 2)),
    "bernoulli": lambda k: random.bernoulli(k, 0.3, (9,)),
    "gumbel": lambda k: random.gumbel(k, (6,)),
    "categorical": lambda k: random.categorical(k, torch.linspace(-1, 1, 15).reshape(3, 5)),
    "randint": lambda k: random.randint(k, (7,), -3, 9),
    "permutation": lambda k: random.permutation(k, 11),
}
SEEDS = [0, 42, 2**31 + 7, 2**40 + 3, 0xFEDCBA9876543210, -1]  # with and without sign bits in either word
SHAPES = [(), (7,), (3, 1, 5), (0,), (1000,)]
N = 20_000


def words(x):
    """int32 bit patterns as the unsigned numbers they stand for."""
    return [w & 0xFFFFFFFF for w in x.flatten().tolist()]


def threefry(k0, k1, x0, x1):
    """Threefry-2x32-20 in Python's integers."""
    m = 0xFFFFFFFF
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    x0, x1 = (x0 + k0) & m, (x1 + k1) & m
    for i in range(20):
        r = (13, 15, 26, 6, 17, 29, 16, 24)[i % 8]
        x0 = (x0 + x1) & m
        x1 = ((x1 << r | x1 >> (32 - r)) & m) ^ x0
        if i % 4 == 3:
            s = i // 4 + 1
            x0, x1 = (x0 + keys[s % 3]) & m, (x1 + keys[(s + 1) % 3] + s) & m
    return x0, x1


# ---- the generator ----


def test_design_constants():
    k = random.key(42)
    assert [tuple(words(x)) for x in random.split(k, 3)] == [
        (1832780943, 270669613),
        (64467757, 2916123636),
        (2465931498, 255383827),
    ]
    assert words(random.fold_in(k, 7)) == [2547012911, 1371500959]
    assert words(random.bits(k, (2, 3)))[:3] == [2098992034, 2919706841, 2646866425]


def test_random123_known_answer():
    zero = torch.zeros(2, dtype=torch.int32)
    assert words(random.fold_in(zero, 0)) == [0x6B200159, 0x99BA4EFE]


@pytest.mark.parametrize(
    "k0, k1, x0, x1, answer",
    [
        (0, 0, 0, 0, (0x6B200159, 0x99BA4EFE)),
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, (0x1CB996FC, 0xBB002BE7)),
        (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3, (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_reference_gives_random123_known_answers(k0, k1, x0, x1, answer):
    assert threefry(k0, k1, x0, x1) == answer


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_the_reference(seed):
    k = random.key(seed)
    high, low = words(k)
    assert (high << 32 | low) == seed & 0xFFFFFFFFFFFFFFFF
    blocks = [threefry(high, low, 0, i) for i in range(100)]
    assert [tuple(words(x)) for x in random.split(k, 100)] == blocks
    assert words(random.bits(k, (100,))) == [x0 ^ x1 for x0, x1 in blocks]
    for data in (0, 7, 2**31 + 9, 2**32 - 1):
        assert tuple(words(random.fold_in(k, data))) == threefry(high, low, 0, data)


def test_children_are_distinct(key):
    children = [*random.split(key, 50), *(random.fold_in(random.fold_in(key, 3), i) for i in range(50))]
    assert len({tuple(words(k)) for k in children}) == 100


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("data", [0, 1, 12345])
def test_fold_in_takes_a_tensor(key, data, dtype):
    assert torch.equal(random.fold_in(key, torch.tensor(data, dtype=dtype)), random.fold_in(key, data))


def test_none_stays_none():
    assert random.split(None) == [None, None]
    assert random.split(None, 5) == [None] * 5
    assert random.fold_in(None, 3) is None


# ---- JAX ----


@pytest.mark.parametrize("seed", [0, 42, 2**31 + 7, 2**40 + 3, 2**62 + 2**31 + 1, -5])
def test_key_equals_jax(seed):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        assert words(random.key(seed)) == jax.random.key_data(jax.random.key(seed)).tolist()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_draws_equal_jax(seed, shape):
    jax = pytest.importorskip("jax")
    k = random.key(seed)
    jk = jax.random.wrap_key_data(k.numpy().view("uint32"))

    def check(ours, theirs, **tolerance):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, torch.tensor(theirs.tolist(), dtype=ours.dtype).reshape(shape), **tolerance)

    assert words(random.bits(k, shape)) == jax.random.bits(jk, shape).flatten().tolist()
    check(random.uniform(k, shape), jax.random.uniform(jk, shape), rtol=0, atol=0)
    check(random.uniform(k, shape, -2.0, 3.5), jax.random.uniform(jk, shape, minval=-2.0, maxval=3.5))
    check(random.normal(k, shape), jax.random.normal(jk, shape), rtol=1e-4, atol=1e-4)
    check(random.gumbel(k, shape), jax.random.gumbel(jk, shape), rtol=1e-4, atol=1e-4)
    check(random.bernoulli(k, 0.3, shape), jax.random.bernoulli(jk, 0.3, shape))
    for low, high in [(0, 10), (-5, 70_000), (-(2**31), 2**31 - 1)]:
        check(random.randint(k, shape, low, high), jax.random.randint(jk, shape, low, high))


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 7), (2, 3, 4)])
@pytest.mark.parametrize("seed", SEEDS)
def test_categorical_equals_jax(seed, shape):
    jax = pytest.importorskip("jax")
    k = random.key(seed)
    logits = random.normal(random.fold_in(k, 1), shape) * 3
    jk = jax.random.wrap_key_data(k.numpy().view("uint32"))
    assert random.categorical(k, logits).tolist() == jax.random.categorical(jk, logits.numpy()).tolist()


@pytest.mark.parametrize("n", [0, 1, 2, 10, 1000, 2000])  # up to 1625 one round of sorting, then two
@pytest.mark.parametrize("seed", SEEDS)
def test_permutation_equals_jax(seed, n):
    jax = pytest.importorskip("jax")
    k = random.key(seed)
    jk = jax.random.wrap_key_data(k.numpy().view("uint32"))
    assert random.permutation(k, n).tolist() == jax.random.permutation(jk, n).tolist()


# ---- distributions ----


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-3.0, 2.0), (10.0, 10.5)])
def test_uniform_range_and_moments(key, low, high):
    u = random.uniform(key, (N,), low, high)
    assert u.dtype == torch.float32
    assert low <= u.min() < low + 0.001 * (high - low)
    assert high - 0.001 * (high - low) < u.max() < high
    assert abs(u.mean() - (low + high) / 2) < 0.01 * (high - low)
    assert abs(u.var() - (high - low) ** 2 / 12) < 0.01 * (high - low) ** 2


def test_normal_moments(key):
    z = random.normal(key, (N,)).double()
    assert torch.isfinite(z).all()
    for power, expected in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)]:
        spread = math.sqrt([1, 2, 15, 96][power - 1] / N)
        assert abs((z**power).mean() - expected) < 4 * spread
    assert abs((z.abs() < 1).double().mean() - 0.6827) < 0.015


def test_bernoulli_frequency(key):
    p = torch.tensor([0.0, 0.1, 0.5, 1.0])
    frequency = random.bernoulli(key, p, (N, 4)).float().mean(0)
    torch.testing.assert_close(frequency, p, rtol=0, atol=0.015)


def test_gumbel_moments(key):
    g = random.gumbel(key, (N,))
    assert abs(g.mean() - 0.5772) < 0.04
    assert abs(g.var() - math.pi**2 / 6) < 0.1


def test_categorical_frequency(key):
    logits = torch.tensor([0.0, 1.0, -2.0, -torch.inf])
    draws = random.categorical(key, logits.expand(N, 4))
    frequency = torch.bincount(draws, minlength=4) / N
    torch.testing.assert_close(frequency, logits.softmax(0), rtol=0, atol=0.015)
    assert frequency[3] == 0


def test_randint_is_uniform(key):
    draws = random.randint(key, (N,), -3, 4)
    assert draws.dtype == torch.int32
    frequency = torch.bincount(draws + 3) / N
    torch.testing.assert_close(frequency, torch.full((7,), 1 / 7), rtol=0, atol=0.015)


@pytest.mark.parametrize("span", [3, 10, 100])
def test_randint_is_two_words_modulo_the_span(key, span):
    upper, lower = (words(random.bits(k, (1000,))) for k in random.split(key))
    expected = [(u << 32 | w) % span - 7 for u, w in zip(upper, lower, strict=True)]
    assert random.randint(key, (1000,), -7, span - 7).tolist() == expected


@pytest.mark.parametrize("low, high", [(3, 3), (4, -1)])
def test_randint_refuses_an_empty_range(key, low, high):
    with pytest.raises(ValueError, match=f"{low} and {high}"):
        random.randint(key, (2,), low, high)


def test_permutations_are_uniform(key):
    keys = torch.stack(random.split(key, 6000))
    orders = vmap(lambda k: random.permutation(k, 3))(keys)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(3).expand(6000, 3))
    counts = torch.unique(orders, dim=0, return_counts=True)[1]
    torch.testing.assert_close(counts / 6000, torch.full((6,), 1 / 6), rtol=0, atol=0.03)


# ---- transformations ----


@pytest.mark.parametrize("name", VERBS)
def test_verb_equals_vmap_and_compile(key, name):
    verb, keys = VERBS[name], random.split(key, 3)
    expected = torch.stack([verb(k) for k in keys])
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(vmap(verb)(torch.stack(keys)), expected)
    torch._dynamo.reset()
    compiled = torch.compile(lambda k, ks: (verb(k), vmap(verb)(ks)), fullgraph=True, backend="aot_eager")
    alone, together = zip(*(compiled(k, torch.stack(keys)) for k in keys), strict=True)
    assert torch.equal(torch.stack(alone), expected) and torch.equal(together[0], expected)


def test_inductor_gives_the_same_numbers(key):
    def draw(k):
        return [verb(k, (n,)) for verb in (random.bits, random.uniform, random.normal) for n in (33, 1 << 14)]

    torch._dynamo.reset()
    for ours, theirs in zip(torch.compile(draw, fullgraph=True)(key), draw(key), strict=True):
        check = torch.equal if ours.dtype == torch.int32 else partial(torch.allclose, rtol=1e-6, atol=1e-6)
        assert check(ours, theirs)


def test_inductor_gives_the_same_masks(key):
    """bernoulli has an operation of its own there, which keeps bytes for the backward pass."""

    def draw(k, p):
        return [random.bernoulli(k, q, shape) for q in (0.3, p) for shape in ((2, 3), (1 << 14,))]

    p, keys = torch.tensor([0.1, 0.5, 0.9]), torch.stack(random.split(key, 3))
    expected = [draw(k, each) for k, each in zip(keys, p, strict=True)]
    assert all(abs(masks[3].float().mean() - each) < 0.02 for masks, each in zip(expected, p, strict=True))
    torch._dynamo.reset()
    compiled, both = torch.compile(draw, fullgraph=True), torch.compile(vmap(draw), fullgraph=True)
    for i, masks in enumerate(expected):
        for ours, batched, theirs in zip(compiled(keys[i], p[i]), both(keys, p), masks, strict=True):
            assert ours.dtype == torch.bool and torch.equal(ours, theirs) and torch.equal(batched[i], theirs)


def test_a_compiled_mask_of_a_probability_for_each_element(key):
    p = torch.tensor([[0.0, 0.2], [0.7, 1.0]])
    torch._dynamo.reset()
    compiled = torch.compile(random.bernoulli, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(key, p, (50, 2, 2)), random.bernoulli(key, p, (50, 2, 2)))


def test_import_does_not_load_the_compiler():
    """Loading it takes twice as long as torch itself, also for those who only ask for --help."""
    code = "import sys, lib.random; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_global_generator_is_untouched(key):
    before = torch.get_rng_state()
    for verb in VERBS.values():
        verb(key)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_of_more_than_64_bits():
    for seed in (2**64, -(2**63) - 1, 2**70):
        with pytest.raises(ValueError, match="a seed has 64 bits"):
            random.key(seed)
    assert random.key(2**64 - 1).tolist() == random.key(-1).tolist() == [-1, -1]
