"""lib/models/dcgan.py: shapes at every size, the paper's counts, normalisations that keep examples apart."""

import pytest
import torch
from torch.func import vmap

from lib import conv, random, tree
from lib.models import dcgan
from lib.transform import value_and_grad

NORMS = ("batch", "instance", "group")


@pytest.mark.parametrize("size", dcgan.SIZES)
def test_pictures_of_every_size_come_out_and_go_in(key, size):
    g, s_g = dcgan.generator_init(key, 5, 8, size)
    x, after = dcgan.generate(g, s_g, random.normal(key, (2, 5)), train=True)
    assert x.shape == (2, 3, size, size) and x.abs().max() <= 1
    assert tree.flatten(after).keys() == tree.flatten(s_g).keys()
    for norm in NORMS:
        d, s_d = dcgan.discriminator_init(key, 3, 8, size, norm)
        score, after = dcgan.discriminate(d, s_d, x, norm=norm)
        assert score.shape == (2,) and tree.flatten(after).keys() == tree.flatten(s_d).keys()
        assert bool(s_d) == (norm == "batch")


@pytest.mark.parametrize("size", [0, 8, 48, 65, 512])
def test_other_sizes_are_refused_with_those_that_are_possible(size):
    with pytest.raises(ValueError, match=f"no pictures of {size} pixels: a side can be 16, 32, 64, 128, 256"):
        dcgan.widths(size, 8)


def test_the_books_networks_have_the_books_numbers_of_parameters(key):
    """Chapter 4's, and the biases of first and last layers, which it has not; chapter 5's exactly."""
    count = lambda pair: tree.size(pair[0])  # noqa: E731
    assert count(dcgan.generator_init(key, 100, 64, 64)) == 3_576_704 + 3
    assert count(dcgan.discriminator_init(key, 3, 64, 64, "batch")) == 2_765_568 + 64 + 1
    assert count(dcgan.generator_init(key, 102, 32, 256)) == 12_850_627
    assert count(dcgan.discriminator_init(key, 5, 16, 256, "instance")) == 2_804_945


@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_normalisation_ties_pictures_together(key, norm):
    d, state = dcgan.discriminator_init(key, 3, 8, 16, norm)
    x = random.normal(key, (3, 3, 16, 16))
    together, _ = dcgan.discriminate(d, state, x, norm=norm)
    alone, _ = dcgan.discriminate(d, state, x[:1], norm=norm)
    assert torch.allclose(together[0], alone[0], atol=1e-5) == (norm != "batch")


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_matters_and_inputs_stay(key, norm):
    g, s_g = dcgan.generator_init(key, 5, 8, 16)
    d, s_d = dcgan.discriminator_init(key, 3, 8, 16, norm)
    z = random.normal(key, (4, 5))
    before = tree.map(torch.clone, (g, s_g, d, s_d))

    def loss(params):
        x, _ = dcgan.generate(params["g"], s_g, z, train=True)
        return dcgan.discriminate(params["d"], s_d, x, norm=norm)[0].square().sum()

    _, grads = value_and_grad(loss)({"g": g, "d": d})
    assert not [path for path, x in tree.flatten(grads).items() if not x.abs().sum() > 0]
    assert all(map(torch.equal, tree.leaves(before), tree.leaves((g, s_g, d, s_d))))


def test_a_label_scales_and_shifts_each_normalised_map(key):
    """At first not at all; the last one is followed here through what is left of the network."""
    g, state = dcgan.generator_init(key, 5, 8, 16, labels=3)
    z, label = random.normal(key, (4, 5)), torch.tensor([[0.2, 0.0, 0.8]]).expand(4, 3)
    plain, _ = dcgan.generate(g, state, z, train=True)
    assert torch.equal(dcgan.generate(g, state, z, label, train=True)[0], plain)
    g["label"][1] = {
        name: random.normal(random.fold_in(key, i), x.shape) for i, (name, x) in enumerate(g["label"][1].items())
    }
    h = (z @ g["in"]).view(4, -1, 4, 4)
    h = conv.batch_norm(g["norm"][0], state["norm"][0], h, train=True)[0].relu()
    h = conv.conv_transpose(g["up"][0], h, stride=2, padding=1)
    h = conv.batch_norm(g["norm"][1], state["norm"][1], h, train=True)[0]
    scale, bias = (dcgan.LABEL * (0.2 * w[0] + 0.8 * w[2])[:, None, None] for w in g["label"][1].values())
    expected = conv.conv_transpose(g["out"], (h * (1 + scale) + bias).relu(), stride=2, padding=1).tanh()
    found, _ = dcgan.generate(g, state, z, label, train=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_evaluation_takes_running_statistics(key):
    g, state = dcgan.generator_init(key, 5, 8, 16)
    z = random.normal(key, (6, 5))
    for _ in range(100):
        _, state = dcgan.generate(g, state, z, train=True)
    trained, _ = dcgan.generate(g, state, z, train=True)
    x, after = dcgan.generate(g, state, z, train=False)
    assert after["norm"][0] is not None and all(map(torch.equal, tree.leaves(after), tree.leaves(state)))
    assert torch.allclose(x, trained, atol=0.02)
    alone, _ = dcgan.generate(g, state, z[:1], train=False)
    assert torch.allclose(alone, x[:1], atol=1e-5)


def test_replicas_are_what_each_is_alone(key):
    keys = torch.stack(random.split(key, 2))
    stacked = vmap(lambda k: dcgan.discriminator_init(k, 3, 8, 16, "instance")[0])(keys)
    x = random.normal(key, (2, 3, 3, 16, 16))
    together = vmap(lambda p, x: dcgan.discriminate(p, {}, x, norm="instance")[0])(stacked, x)
    for i in range(2):
        alone, _ = dcgan.discriminate(tree.index(stacked, i), {}, x[i], norm="instance")
        assert torch.allclose(together[i], alone, atol=1e-5)
