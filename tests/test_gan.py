"""lib/gan.py: the losses against torch's, and their values where neither side can win; penalties; the buffer."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lib import random, tree
from lib.gan import LOSSES, buffer, exchange, gradient_penalty, r1
from lib.transform import value_and_grad

TORCH = {
    "bce": F.binary_cross_entropy_with_logits,
    "least_squares": lambda x, target: 0.5 * F.mse_loss(x, target),
    "wasserstein": lambda x, target: (torch.where(target == 1, -x, x)).mean(),
}


@pytest.mark.parametrize("shape", [(7,), (5, 1), (2, 1, 3, 3)])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_equal_torch(key, name, shape):
    k_real, k_fake = random.split(key)
    ours, theirs = LOSSES[name], TORCH[name]
    real, fake = 3 * random.normal(k_real, shape), 3 * random.normal(k_fake, (4, *shape[1:]))  # of unequal number
    ones, zeros = torch.ones_like, torch.zeros_like
    pairs = [
        (lambda x: ours.discriminator(*x), lambda x: theirs(x[0], ones(x[0])) + theirs(x[1], zeros(x[1]))),
        (lambda x: ours.generator(x[1]), lambda x: theirs(x[1], ones(x[1]))),
    ]
    for loss, expected in pairs:
        assert_close(value_and_grad(loss)((real, fake)), value_and_grad(expected)((real, fake)))


def test_the_equilibrium():
    """A discriminator that cannot tell says one half: a logit of 0, and of least squares 1/2."""
    zeros, halves = torch.zeros(3), torch.full((3,), 0.5)
    assert_close(LOSSES["bce"].discriminator(zeros, zeros), torch.tensor(2 * math.log(2)))
    assert_close(LOSSES["bce"].generator(zeros), torch.tensor(math.log(2)))
    assert_close(LOSSES["least_squares"].discriminator(halves, halves), torch.tensor(0.25))
    assert_close(LOSSES["least_squares"].generator(halves), torch.tensor(0.125))
    assert LOSSES["wasserstein"].discriminator(halves, halves) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_the_two_pull_in_opposite_directions(name):
    fake = torch.tensor([-2.0, 0.1])
    _, up = value_and_grad(LOSSES[name].generator)(fake)
    _, down = value_and_grad(lambda x: LOSSES[name].discriminator(torch.ones(2), x))(fake)
    assert (up < 0).all() and down[1] > 0
    assert torch.equal(down.sign(), fake.sign() if name == "least_squares" else torch.ones(2))


def test_the_wasserstein_losses_in_numbers():
    real, fake = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0, 6.0])
    assert LOSSES["wasserstein"].discriminator(real, fake) == -1  # the more they are told apart, the lower
    assert LOSSES["wasserstein"].generator(fake) == -3


def test_bce_of_sure_discriminators_is_finite():
    """log(sigmoid(x)) is -inf below -104 in fp32; the generator learns most there."""
    sure = torch.full((2,), -1e4)
    value, grad = value_and_grad(LOSSES["bce"].generator)(sure)
    assert value == 1e4 and grad.tolist() == [-0.5, -0.5]
    assert LOSSES["bce"].discriminator(-sure, sure) == 0


@pytest.mark.parametrize("shape", [(7, 3), (5, 1, 2, 2)])
def test_r1_of_a_linear_discriminator_is_the_square_of_its_slope(key, shape):
    k_w, k_x = random.split(key)
    w, x = random.normal(k_w, shape[1:]), random.normal(k_x, shape)
    discriminate = lambda x: (x * w).flatten(1).sum(1) + 3  # noqa: E731
    logits, penalty = r1(discriminate, x, 0.3)
    assert_close(logits, discriminate(x))
    assert_close(penalty, 0.15 * w.square().sum())


def test_r1_is_the_mean_over_examples_and_can_be_learnt_from(key):
    """Of a sum of a x_i^2 the slope is 2 a x: the penalty is 2 weight a^2 E|x|^2."""
    x, a = random.normal(key, (6, 4)), torch.tensor(0.7)
    expected = 2 * 0.1 * x.square().sum(1).mean()
    penalty = lambda a: r1(lambda x: a * x.square().sum(1), x, 0.1)[1]  # noqa: E731
    assert_close(value_and_grad(penalty)(a), (a**2 * expected, 2 * a * expected))


def test_r1_of_weight_0_is_the_discriminator_alone(key):
    x, calls = random.normal(key, (6, 4)), []
    logits, penalty = r1(lambda x: calls.append(x) or x.sum(1), x, 0.0)
    assert penalty == 0 and len(calls) == 1 and torch.equal(logits, x.sum(1))


# ---- the gradient penalty ----


def critic(p, x):
    """Smooth, of pictures or vectors; each logit of its own example."""
    h = torch.tanh(torch.einsum("ki,bi->bk", p["w"], x.flatten(1)) + p["b"])
    return (h.square() * p["v"]).sum(1)


def critic_of(key, *shape):
    k_w, k_b, k_v, k_real, k_fake = random.split(key, 5)
    d = math.prod(shape[1:])
    p = {"w": random.normal(k_w, (5, d)), "b": random.normal(k_b, (5,)), "v": random.normal(k_v, (5,))}
    return p, random.normal(k_real, shape), random.normal(k_fake, shape)


def penalty_by_hand(p, real, fake, share, weight):
    """Gulrajani et al. 2017, equation 3, as others write it, and its gradients by the critic's parameters."""
    p = {name: x.clone().requires_grad_() for name, x in p.items()}
    x = (real + share * (fake - real)).requires_grad_()
    (slope,) = torch.autograd.grad(critic(p, x).sum(), x, create_graph=True)
    penalty = weight * ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
    grads = torch.autograd.grad(penalty, list(p.values()))
    return penalty.detach(), dict(zip(p, grads, strict=True))


@pytest.mark.parametrize("shape", [(6, 2, 3, 3), (6, 4)])
@pytest.mark.parametrize("how", ["eager", "compiled", "vmap"])
def test_the_gradient_penalty_equals_torchs(key, shape, how):
    p, real, fake = critic_of(key, *shape)
    k_share = random.key(5)
    share = random.uniform(k_share, (6, *[1] * (len(shape) - 1)))
    assert len(share.unique()) == 6  # an own one for each example
    expected = penalty_by_hand(p, real, fake, share, 10.0)

    def loss(p, real, fake, k_share):
        return gradient_penalty(lambda x: critic(p, x), real, fake, k_share, 10.0)

    found = value_and_grad(loss)
    if how == "compiled":
        torch._dynamo.reset()
        found = torch.compile(found, fullgraph=True, backend="aot_eager")
    if how == "vmap":
        trees = [(p, real, fake, k_share), (p, fake, real, random.key(6))]
        value, grads = torch.func.vmap(found)(*tree.stack(trees))
        assert_close(value_and_grad(loss)(*trees[1])[0], value[1])
        value, grads = value[0], tree.map(lambda x: x[0], grads)
    else:
        value, grads = found(p, real, fake, k_share)
    assert_close(value, expected[0])
    assert_close(grads, expected[1], rtol=1e-4, atol=1e-4)
    assert all(x.abs().sum() > 0 for x in grads.values())


@pytest.mark.parametrize("shape", [(7, 3), (5, 3, 2, 2)])
@pytest.mark.parametrize("norm, weight, expected", [(1.0, 10.0, 0.0), (3.0, 0.7, 2.8), (0.0, 2.0, 2.0)])
def test_the_gradient_penalty_of_a_linear_critic(key, shape, norm, weight, expected):
    """weight (|slope| - 1)^2, wherever it is measured; a slope of 0 has a gradient too."""
    w = random.normal(key, shape[1:])
    w = w / w.norm() * norm
    real, fake = random.normal(random.fold_in(key, 1), (2, *shape))
    penalty = lambda w: gradient_penalty(lambda x: (x * w).flatten(1).sum(1) + 3, real, fake, key, weight)  # noqa: E731
    value, slope = value_and_grad(penalty)(w)
    assert_close(value, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    towards = 2 * weight * (norm - 1) * w / max(norm, 1e-6)
    assert_close(slope, towards, rtol=1e-4, atol=1e-4)


def test_the_gradient_penalty_is_measured_between_real_and_fake(key):
    """Of the critic sum of x^2 / 2 the slope is x: real are 0 and fake 4 e_1, so the slope's norm is 4 share."""
    real, fake = torch.zeros(9, 2, 1, 1), torch.tensor([4.0, 0.0]).view(1, 2, 1, 1).expand(9, 2, 1, 1)
    criticise = lambda x: x.square().flatten(1).sum(1) / 2  # noqa: E731
    excess = 4 * random.uniform(key, (9, 1, 1, 1)) - 1
    assert excess.min() < 0 < excess.max()
    assert_close(gradient_penalty(criticise, real, fake, key, 1.0), excess.square().mean())
    assert_close(gradient_penalty(criticise, real, fake, key, 1.0, above=True), excess.clamp(min=0).square().mean())


# ---- the buffer ----


def numbered(first, b, shape=(1, 2, 2)):
    """Examples that are told from each other, and from an empty place, by their number, from 1."""
    return (torch.arange(b) + first).float().view(b, *[1] * len(shape)).expand(b, *shape).contiguous()


def numbers(x):
    assert (x.flatten(1) == x.flatten(1)[:, :1]).all()  # whole examples move
    return x.flatten(1)[:, 0].long().tolist()


def filled(n, b, shape=(1, 2, 2)):
    """A full buffer, which holds the examples 1, 2, ..."""
    held = buffer(n, shape)
    for i in range(n // b):
        _, held = exchange(held, numbered(1 + i * b, b, shape), random.key(i))
    return held


@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 2)])
@pytest.mark.parametrize("n, b", [(8, 4), (10, 4), (5, 5), (3, 1)])
def test_until_the_buffer_is_full_the_new_ones_are_kept_and_shown(n, b, shape):
    held = buffer(n, shape)
    assert held.examples.shape == (n, *shape) and held.filled == 0
    for i in range(n // b):
        new = numbered(1 + i * b, b, shape)
        shown, held = exchange(held, new, random.key(i))
        assert torch.equal(shown, new) and held.filled == (i + 1) * b and held.filled.dtype == torch.int32
        if shape:
            assert numbers(held.examples) == [*range(1, (i + 1) * b + 1), *[0] * (n - (i + 1) * b)]


@pytest.mark.parametrize("n, b", [(8, 4), (11, 4), (5, 5), (3, 1), (40, 8)])
def test_what_a_full_buffer_gives_back(n, b):
    """One in two is old; each old one was held, and the very new one that was not shown is at its place."""
    held, old_ones, places, draws, next_ = filled(n, b), 0, set(), 400 // b, n + 1
    for i in range(draws):
        before, new = numbers(held.examples), list(range(next_, next_ + b))
        shown, after = exchange(held, numbered(next_, b), random.fold_in(random.key(9), i))
        expected = list(before)
        for mine, seen in zip(new, numbers(shown), strict=True):
            assert seen > 0  # never an empty place
            if seen != mine:
                expected[before.index(seen)] = mine  # fails where `seen` was not there
                places.add(before.index(seen))
                old_ones += 1
        assert numbers(after.examples) == expected and after.filled == held.filled
        assert len(set(numbers(shown))) == b  # no example twice
        held, next_ = after, next_ + b
    share, n_drawn = old_ones / (draws * b), draws * b
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(n_drawn)
    assert places == set(range(n // b * b))  # all of what is held comes back some time


def test_the_buffer_keeps_nothing_for_ever():
    """How long an example stays: n / b / (1/2) steps in the mean, geometrically."""
    held, next_ = filled(8, 4), 100
    for i in range(60):
        _, held = exchange(held, numbered(next_, 4), random.fold_in(random.key(3), i))
        next_ += 4
    assert min(numbers(held.examples)) >= 100


def test_exchange_leaves_its_inputs_alone():
    held, new, key = filled(8, 4), numbered(50, 4), random.key(3)
    for first in (buffer(8, (1, 2, 2)), held):
        before = tree.map(torch.clone, (first, new, key))
        exchange(first, new, key)
        assert_close((first, new, key), before, rtol=0, atol=0)


def buffers():
    """An empty buffer, one that is not full and a full one, each with a batch and a key."""
    _, half = exchange(buffer(8, (1, 2, 2)), numbered(1, 4), random.key(0))
    helds = [buffer(8, (1, 2, 2)), half, filled(8, 4), filled(8, 4)]
    return [(held, numbered(50 + 4 * i, 4), random.key(20 + i)) for i, held in enumerate(helds)]


def test_exchange_of_replicas_and_compiled():
    trees = buffers()
    expected = [exchange(*one) for one in trees]
    assert any(numbers(shown) != numbers(new) for (shown, _), (_, new, _) in zip(expected, trees, strict=True))
    assert_close(tree.unstack(torch.func.vmap(exchange)(*tree.stack(trees))), expected, rtol=0, atol=0)
    torch._dynamo.reset()
    graphs = []
    count = lambda graph, _: graphs.append(graph) or graph  # noqa: E731
    torch.compile(exchange, fullgraph=True, dynamic=False, backend=count)(*trees[0])
    compiled = torch.compile(exchange, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_close([compiled(*one) for one in trees], expected, rtol=0, atol=0)
    assert len(graphs) == 1


def test_a_batch_larger_than_the_buffer():
    with pytest.raises(ValueError, match="a buffer of 3 examples is smaller than a batch of 4"):
        exchange(buffer(3, (1, 2, 2)), numbered(1, 4), random.key(0))
