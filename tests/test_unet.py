"""lib/models/unet.py: shapes, a beginning at nothing, and what depends on what."""

import dataclasses
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lib import diffusion as df
from lib import optim, random, tree
from lib.models import unet
from lib.transform import value_and_grad

CFG = unet.Config(size=16, widths=(8, 16), labels=3)


def make(key, cfg=CFG):
    """Parameters with every leaf away from its starting value."""
    p = unet.init(key, cfg)
    keys = iter(random.split(random.fold_in(key, 1), len(tree.leaves(p))))
    return tree.map(lambda x: x + 0.1 * random.normal(next(keys), tuple(x.shape)), p)


def inputs(key, n=3, size=16):
    label = torch.eye(3)[torch.arange(n) % 3]
    return random.normal(key, (n, 3, size, size)), torch.linspace(-1.5, 1, n), label


@pytest.mark.parametrize(
    "cfg",
    [CFG, unet.Config(16, (8, 8, 16), blocks=2, attention=3, patch=1), unet.Config(8, (8,), attention=0, labels=3)],
)
def test_a_new_network_predicts_nothing(key, cfg):
    x, noise, label = inputs(key, size=cfg.size)
    found = unet.apply(unet.init(key, cfg), x, noise, label if cfg.labels else None, cfg=cfg)
    assert found.shape == x.shape and found.dtype == torch.float32 and not found.any()
    assert unet.apply(make(key, cfg), x, noise, cfg=cfg).std() > 0.1


def test_a_filter_of_the_input_has_a_gain_for_each_level(key):
    """What it adds is linear in the input."""
    p, (x, noise, _) = make(key), inputs(key)
    without = {**p, "filter": tree.map(torch.zeros_like, p["filter"])}
    bare = {**p, "filter": {**p["filter"], "b": torch.zeros(12)}}
    added = lambda x, noise: unet.apply(bare, x, noise, cfg=CFG) - unet.apply(without, x, noise, cfg=CFG)  # noqa: E731
    torch.testing.assert_close(added(2 * x, noise), 2 * added(x, noise), atol=1e-4, rtol=1e-4)
    ratio = F.pixel_unshuffle(added(x, noise) / added(x, noise + 0.3), 2)
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio), atol=1e-2, rtol=1e-2)
    assert (ratio - 1).abs().max() > 0.01


def test_what_is_given_beside_the_noisy_picture(key):
    cfg = dataclasses.replace(CFG, given=2)
    p, (x, noise, label) = make(key, cfg), inputs(key)
    given = random.normal(random.fold_in(key, 5), (3, 2, 16, 16))
    found = unet.apply(p, x, noise, label, given, cfg=cfg)
    assert found.shape == x.shape
    other = unet.apply(p, x, noise, label, given.flip(0), cfg=cfg)
    assert [(a - b).abs().max() > 1e-3 for a, b in zip(found, other, strict=True)] == [True, False, True]


def test_a_gradient_reaches_every_leaf(key):
    x, noise, label = inputs(key)
    network = lambda p: unet.apply(p, x, noise, label, cfg=CFG).square().mean()  # noqa: E731
    _, grads = value_and_grad(network)(make(key))
    assert [name for name, g in tree.flatten(grads).items() if not g.abs().sum() > 0] == []


def test_examples_are_apart_and_all_inputs_matter(key):
    p, (x, noise, label) = make(key), inputs(key)
    run = partial(unet.apply, p, cfg=CFG)
    whole = run(x, noise, label)
    torch.testing.assert_close(run(x[1:2], noise[1:2], label[1:2])[0], whole[1], atol=1e-5, rtol=1e-4)
    for changed in (
        run(x, noise + 0.1, label),
        run(x, noise, label.flip(0)),
        run(x, noise),
        run(x + 0.1, noise, label),
    ):
        assert (changed[0] - whole[0]).abs().max() > 1e-3
    first = torch.func.jacrev(lambda x: run(x, noise[:1], label[:1])[0, 0, 0, 0])(x[:1])
    assert (first != 0).all()  # one pixel sees the whole picture


def test_no_two_leaves_begin_alike(key):
    drawn = [x for x in tree.leaves(unet.init(key, unet.Config(16, (8, 8, 8), attention=3))) if x.ndim > 1 and x.any()]
    assert not any(a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_the_derivative_along_a_direction(key):
    """Of the whole network, attention as well: for likelihoods."""
    p, (x, noise, label) = make(key), inputs(key)
    run = lambda x: unet.apply(p, x, noise, label, cfg=CFG)  # noqa: E731
    along = random.normal(random.fold_in(key, 3), tuple(x.shape))
    _, tangent = torch.func.jvp(run, (x,), (along,))
    near = (run(x + 1e-2 * along) - run(x - 1e-2 * along)) / 2e-2
    assert (tangent - near).norm() < 0.02 * near.norm()


def test_bf16_is_near(key):
    p, args = make(key), inputs(key)
    exact, near = (unet.apply(tree.cast(p, dtype), *args, cfg=CFG) for dtype in (torch.float32, torch.bfloat16))
    assert (exact - near).norm() < 0.05 * exact.norm() and near.dtype == torch.float32


def test_it_learns_one_picture(key):
    """From much noise, by the EDM loss, and samples are that picture."""
    cfg = dataclasses.replace(CFG, labels=0)
    x, p = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16), unet.init(key, cfg)
    network = lambda p: partial(unet.apply, p, cfg=cfg)  # noqa: E731

    adam = optim.adam(1e-2)

    def loss(p, key):
        k_level, k_noise = random.split(key)
        many = x.expand(8, -1, -1, -1)
        levels = df.lognormal(k_level, 8, mean=1.0, std=0.5)
        return df.loss(network(p), df.edm, many, levels, random.normal(k_noise, many.shape)).mean()

    opt, losses = adam.init(p), []
    for i in range(30):
        value, grads = value_and_grad(loss)(p, random.fold_in(key, i))
        p, opt = adam.update(grads, opt, p)
        losses.append(value.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    with torch.no_grad():
        levels = df.karras(6, 1.0, 8.0)
        found = df.dpm(df.denoiser(network(p), df.edm), levels[0] * random.normal(key, (2, 3, 16, 16)), levels)
    assert (found - x).square().mean() < 0.5 * x.square().mean()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"size": 20, "widths": (8, 8, 8)}, "3 levels need a size that is a multiple of 8, not 20"),
        ({"widths": (8, 12)}, "multiples of 8"),
        ({"widths": ()}, "multiples of 8"),
        ({"attention": 9}, "there are 4 levels"),
        ({"size": 4, "widths": (8, 8)}, "nothing is left to normalise"),
    ],
)
def test_what_cannot_be(words, message):
    with pytest.raises(ValueError, match=message):
        unet.Config(**words)
