"""lib/gan.py: the losses against torch's, and their values where neither side can win."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lib import random
from lib.gan import LOSSES
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
