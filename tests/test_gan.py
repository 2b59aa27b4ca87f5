"""lib/gan.py: the losses against torch's, and their values where neither side can win."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lib import random
from lib.gan import LOSSES, r1
from lib.transform import value_and_grad

TORCH = {"bce": F.binary_cross_entropy_with_logits, "least_squares": lambda x, target: 0.5 * F.mse_loss(x, target)}


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


@pytest.mark.parametrize("name", LOSSES)
def test_the_two_pull_in_opposite_directions(name):
    fake = torch.tensor([-2.0, 0.1])
    _, up = value_and_grad(LOSSES[name].generator)(fake)
    _, down = value_and_grad(lambda x: LOSSES[name].discriminator(torch.ones(2), x))(fake)
    assert (
        (up < 0).all() and (down[1] > 0) and torch.equal(down.sign(), fake.sign() if name != "bce" else torch.ones(2))
    )


def test_bce_of_sure_discriminators_is_finite():
    """log(sigmoid(x)) is -inf below -104 in fp32; the generator learns most there."""
    sure = torch.full((2,), -1e4)
    value, grad = value_and_grad(LOSSES["bce"].generator)(sure)
    assert value == 1e4 and grad.tolist() == [-0.5, -0.5]
    assert LOSSES["bce"].discriminator(-sure, sure) == 0


@pytest.mark.parametrize("shape", [(7, 3), (5, 1, 2, 2)])
def test_r1_of_a_linear_judge_is_the_square_of_its_slope(key, shape):
    k_w, k_x = random.split(key)
    w, x = random.normal(k_w, shape[1:]), random.normal(k_x, shape)
    judge = lambda x: (x * w).flatten(1).sum(1) + 3  # noqa: E731
    logits, penalty = r1(judge, x, 0.3)
    assert_close(logits, judge(x))
    assert_close(penalty, 0.15 * w.square().sum())


def test_r1_is_the_mean_over_examples_and_can_be_learnt_from(key):
    """Of a sum of a x_i^2 the slope is 2 a x: the penalty is 2 weight a^2 E|x|^2."""
    x, a = random.normal(key, (6, 4)), torch.tensor(0.7)
    expected = 2 * 0.1 * x.square().sum(1).mean()
    penalty = lambda a: r1(lambda x: a * x.square().sum(1), x, 0.1)[1]  # noqa: E731
    assert_close(value_and_grad(penalty)(a), (a**2 * expected, 2 * a * expected))


def test_r1_of_weight_0_is_the_judge_alone(key):
    x, calls = random.normal(key, (6, 4)), []
    logits, penalty = r1(lambda x: calls.append(x) or x.sum(1), x, 0.0)
    assert penalty == 0 and len(calls) == 1 and torch.equal(logits, x.sum(1))
