"""lib/models/cnn.py: shapes, gradients, purity, and what each example depends on."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import vmap
from torch.testing import assert_close

from lib import conv, nn, random, tree
from lib.models import cnn
from lib.models.cnn import Config
from lib.transform import value_and_grad

CFG = Config(widths=(4, 6), channels=3, classes=5, dropout=0.5)


@pytest.fixture
def made(key):
    """(params, state) away from the start, and a batch."""
    k_init, k_shake, k_x = random.split(key, 3)
    params, state = cnn.init(k_init, CFG)
    noise = iter(random.split(k_shake, len(tree.leaves(params)) + len(tree.leaves(state))))
    shake = lambda x: x + 0.1 * random.uniform(next(noise), tuple(x.shape))  # noqa: E731
    return tree.map(shake, params), tree.map(shake, state), random.uniform(k_x, (6, 3, 12, 10), -1, 1)


@pytest.mark.parametrize("side", [28, 8, 13])
@pytest.mark.parametrize("cfg", [Config(), Config((4,), 3, 2), Config((2, 3, 4), 1, 7)])
@pytest.mark.parametrize("train", [True, False])
def test_shapes(key, cfg, side, train):
    params, state = cnn.init(key, cfg)
    x = random.normal(key, (3, cfg.channels, side, side))
    logits, after = cnn.apply(params, state, x, cfg=cfg, train=train)
    h, again = cnn.features(params, state, x, cfg=cfg, train=train)
    assert logits.shape == (3, cfg.classes) and h.shape == (3, cfg.widths[-1])
    kind = lambda t: [(name, leaf.shape, leaf.dtype) for name, leaf in tree.flatten(t).items()]  # noqa: E731
    assert kind(after) == kind(again) == kind(state)
    assert all(torch.equal(a, b) != train for a, b in zip(tree.leaves(after), tree.leaves(state), strict=True))


def test_it_is_the_network_that_its_file_describes(made):
    params, state, x = made
    h = x
    for i, (p, s) in enumerate(zip(params["stages"], state, strict=True)):
        h = F.conv2d(h, p["conv"]["w"], padding=1)
        h = F.batch_norm(h, s["mean"].clone(), s["var"].clone(), p["norm"]["scale"], p["norm"]["bias"]).relu()
        h = F.max_pool2d(h, 2) if i == 1 else h  # between the stages
    h = h.mean((2, 3))
    assert len(state) == 4
    assert_close(cnn.features(params, state, x, cfg=CFG, train=False)[0], h)
    logits = F.linear(h, params["head"]["w"].T, params["head"]["b"])
    assert_close(cnn.apply(params, state, x, cfg=CFG, train=False)[0], logits)


def test_logits_are_a_linear_map_of_the_features(made, key):
    params, state, x = made
    h, _ = cnn.features(params, state, x, cfg=CFG, train=True)
    assert_close(cnn.apply(params, state, x, cfg=CFG, train=True)[0], nn.linear(params["head"], h))
    dropped = nn.linear(params["head"], nn.dropout(h, CFG.dropout, key))
    assert_close(cnn.apply(params, state, x, key, cfg=CFG, train=True)[0], dropped)
    assert not torch.allclose(dropped, nn.linear(params["head"], h))


@pytest.mark.parametrize("train", [True, False])
def test_a_gradient_reaches_every_leaf(made, train):
    params, state, x = made
    labels = torch.arange(6) % 5
    loss = lambda p: F.cross_entropy(cnn.apply(p, state, x, cfg=CFG, train=train)[0], labels)  # noqa: E731
    _, grads = value_and_grad(loss)(params)
    assert [name for name, g in tree.flatten(grads).items() if not g.abs().sum() > 0] == []


@pytest.mark.parametrize("train", [True, False])
def test_nothing_it_is_given_changes(made, key, train):
    before = tree.map(torch.clone, made)
    value_and_grad(lambda p: cnn.apply(p, *made[1:], key, cfg=CFG, train=train)[0].sum())(made[0])
    assert_close(made, before, rtol=0, atol=0)


def test_examples_do_not_see_each_other_in_evaluation_only(made):
    params, state, x = made

    def apply(x, train):
        return cnn.apply(params, state, x, cfg=CFG, train=train)[0]

    assert_close(apply(x, False), torch.cat([apply(x[i : i + 1], False) for i in range(6)]))
    jacobian = torch.func.jacrev(lambda x: apply(x, False).sum(-1))(x)
    assert all((jacobian[i, j].abs().sum() > 0) == (i == j) for i in range(6) for j in range(6))
    assert not torch.allclose(apply(x, True)[:3], apply(x[:3], True), atol=1e-2)


def test_the_state_is_of_this_batch_and_no_other_result_depends_on_it(made):
    params, state, x = made
    other = tree.map(lambda s: s + 1, state)
    (a, after), (b, _) = (cnn.apply(params, s, x, cfg=CFG, train=True) for s in (state, other))
    assert_close(a, b)
    first = conv.conv(params["stages"][0]["conv"], x, padding=1)
    assert_close(after[0]["mean"], 0.9 * state[0]["mean"] + 0.1 * first.mean((0, 2, 3)))


@pytest.mark.parametrize("train", [True, False])
def test_equals_vmap_and_compile(key, train):
    keys = random.split(key, 2)
    trees = [(*cnn.init(k, CFG), random.normal(random.fold_in(k, 1), (4, 3, 8, 8)), random.fold_in(k, 2)) for k in keys]

    def apply(*args):
        return cnn.apply(*args, cfg=CFG, train=train)

    expected = [apply(*args) for args in trees]
    assert_close(tree.unstack(vmap(apply)(*tree.stack(trees))), expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
    compiled = torch.compile(apply, fullgraph=True, backend="aot_eager")
    assert_close([compiled(*args) for args in trees], expected)


def test_it_learns_one_batch(key):
    params, state = cnn.init(key, CFG)
    x, labels = random.normal(key, (10, 3, 8, 8)), torch.arange(10) % 5

    def loss(p, state):
        logits, state = cnn.apply(p, state, x, cfg=CFG, train=True)
        return F.cross_entropy(logits, labels), state

    for _ in range(60):
        (_, state), grads = value_and_grad(loss, has_aux=True)(params, state)
        params = tree.map(lambda p, g: p - 0.3 * g, params, grads)
    logits, _ = cnn.apply(params, state, x, cfg=CFG, train=False)  # the running statistics have followed
    assert torch.equal(logits.argmax(-1), labels) and loss(params, state)[0] < 0.1
