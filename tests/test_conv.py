"""lib/conv.py: torch.nn with the same weights, outputs, gradients and running statistics."""

import math

import pytest
import torch
from torch.func import vmap
from torch.testing import assert_close

from lib import conv, random, tree
from lib.transform import value_and_grad

SHAPES = [(6, 3, 4, 5), (7, 3)]  # pictures and vectors


def module_of(kind, p, stride, padding):
    """The torch.nn module with these weights."""
    w = p["w"]
    c, f = (w.shape[1], w.shape[0]) if kind is torch.nn.Conv2d else w.shape[:2]
    module = kind(c, f, w.shape[2], stride, padding, bias="b" in p)
    module.load_state_dict({"weight": w} | ({"bias": p["b"]} if "b" in p else {}))
    return module


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("k, stride, padding", [(3, 1, 1), (4, 2, 1), (1, 1, 0), (5, 3, 2)])
@pytest.mark.parametrize(
    "kind, init, apply",
    [
        (torch.nn.Conv2d, conv.conv_init, conv.conv),
        (torch.nn.ConvTranspose2d, conv.conv_transpose_init, conv.conv_transpose),
    ],
)
def test_convolutions_equal_torch(key, kind, init, apply, k, stride, padding, bias):
    k_init, k_bias, k_x, k_y = random.split(key, 4)
    p, x = init(k_init, 3, 5, k, bias), random.normal(k_x, (2, 3, 9, 8))
    if bias:
        assert torch.equal(p["b"], torch.zeros(5))
        p["b"] = random.normal(k_bias, (5,))
    module = module_of(kind, p, stride, padding)
    x_there = x.clone().requires_grad_()
    y = module(x_there)
    weight = random.normal(k_y, tuple(y.shape))  # so that every output has a gradient of its own
    (y * weight).sum().backward()

    _, grads = value_and_grad(lambda both: (apply(both[0], both[1], stride, padding) * weight).sum())((p, x))
    assert_close(apply(p, x, stride, padding), y.detach())
    assert_close(grads[0], {"w": module.weight.grad} | ({"b": module.bias.grad} if bias else {}))
    assert_close(grads[1], x_there.grad)


def test_conv_transpose_is_the_adjoint_of_conv(key):
    k_w, k_x, k_y = random.split(key, 3)
    p, x, y = (
        conv.conv_init(k_w, 3, 5, 4, bias=False),
        random.normal(k_x, (2, 3, 8, 6)),
        random.normal(k_y, (2, 5, 4, 3)),
    )
    assert_close((conv.conv(p, x, 2, 1) * y).sum(), (x * conv.conv_transpose(p, y, 2, 1)).sum())


def test_initial_scale(key):
    """He et al.: a ReLU layer keeps the mean square of what it reads."""
    w = conv.conv_init(key, 64, 128, 3)["w"]
    assert w.shape == (128, 64, 3, 3) and abs(w.std() / math.sqrt(2 / (64 * 9)) - 1) < 0.01
    assert abs(w.mean()) < 4 * w.std() / math.sqrt(w.numel())
    x = random.normal(random.fold_in(key, 1), (8, 64, 10, 10)).relu()
    assert abs(conv.conv({"w": w}, x).relu().square().mean() / x.square().mean() - 1) < 0.1
    w = conv.conv_transpose_init(key, 64, 128, 4)["w"]
    assert w.shape == (64, 128, 4, 4) and abs(w.std() / math.sqrt(2 / (64 * 16)) - 1) < 0.01
    for init in (conv.conv_init, conv.conv_transpose_init):
        assert abs(init(key, 64, 128, 3, std=0.02)["w"].std() / 0.02 - 1) < 0.01


def test_max_pool(key):
    x = random.normal(key, (2, 3, 7, 6))
    expected = torch.stack([x[:, :, i : i + 2, j : j + 2].amax((2, 3)) for i in (0, 2, 4) for j in (0, 2, 4)], -1)
    assert torch.equal(conv.max_pool(x, 2), expected.view(2, 3, 3, 3))


# ---- batch normalisation ----


def batch_norm_of(key, shape):
    """Parameters and a state that are not the initial ones, the module with the same, and three batches."""
    k_scale, k_bias, k_mean, k_var, k_x = random.split(key, 5)
    p = {"scale": random.normal(k_scale, (3,)), "bias": random.normal(k_bias, (3,))}
    state = {"mean": random.normal(k_mean, (3,)), "var": random.uniform(k_var, (3,), 0.5, 2.0)}
    module = (torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d)(3)
    names = {"weight": p["scale"], "bias": p["bias"], "running_mean": state["mean"], "running_var": state["var"]}
    module.load_state_dict({name: x.clone() for name, x in names.items()} | {"num_batches_tracked": torch.tensor(0)})
    return p, state, module, list(random.normal(k_x, (3, *shape)) * 3 + 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_batch_norm_equals_torch(key, shape, momentum):
    p, state, module, batches = batch_norm_of(key, shape)
    module.momentum = momentum
    weight = random.normal(random.fold_in(key, 1), shape)

    for n, x in enumerate([*batches, batches[0]]):
        train = n < 3  # then by the running statistics
        module.train(train).zero_grad()
        x_there = x.clone().requires_grad_()
        y_there = module(x_there)
        (y_there * weight).sum().backward()

        def loss(both, state=state, train=train):
            y, after = conv.batch_norm(both[0], state, both[1], train=train, momentum=momentum)
            return (y * weight).sum(), (y, after)

        (_, (y, after)), (grads, grad_x) = value_and_grad(loss, has_aux=True)((p, x))
        assert_close(y, y_there.detach(), rtol=1e-5, atol=1e-5)
        assert_close(grads, {"scale": module.weight.grad, "bias": module.bias.grad}, rtol=1e-4, atol=1e-4)
        assert_close(grad_x, x_there.grad, rtol=1e-4, atol=1e-4)
        assert_close(after, {"mean": module.running_mean, "var": module.running_var})
        state = after


def test_batch_norm_starts_as_the_plain_norm(key):
    p, state = conv.batch_norm_init(3)
    assert tree.map(torch.Tensor.tolist, state) == {"mean": [0, 0, 0], "var": [1, 1, 1]}
    leaves = [*p.values(), *state.values()]
    assert len({x.data_ptr() for x in leaves}) == 4  # none is another's storage
    x = random.normal(key, (5, 3, 4, 4)) * 5 + 3
    y, _ = conv.batch_norm(p, state, x, train=True)
    assert_close(y.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert_close(y.var((0, 2, 3), correction=0), torch.ones(3))
    assert_close(conv.batch_norm(p, state, x, train=False)[0], x / math.sqrt(1 + 1e-5))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_touches_nothing_it_is_given(key, shape, train):
    p, state, _, (x, *_) = batch_norm_of(key, shape)
    before = tree.map(torch.clone, (p, state, x))
    loss = lambda p: conv.batch_norm(p, state, x, train=train)[0].square().sum()  # noqa: E731
    loss(p), value_and_grad(loss)(p), torch.func.grad(loss)(p)
    assert_close((p, state, x), before, rtol=0, atol=0)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_in_bf16_keeps_its_statistics_in_fp32(key, train):
    p, state, module, (x, *_) = batch_norm_of(key, (64, 3, 4, 4))
    x = x.bfloat16()
    y, after = conv.batch_norm(tree.cast(p, torch.bfloat16), state, x, train=train)
    expected = module.train(train)(x.float())
    assert y.dtype == torch.bfloat16 and {s.dtype for s in after.values()} == {torch.float32}
    assert_close(y.float(), expected.detach(), rtol=2e-2, atol=5e-2)
    assert_close(after, {"mean": module.running_mean, "var": module.running_var})


def test_no_gradient_goes_through_the_running_statistics(key):
    p, state, _, (x, *_) = batch_norm_of(key, (6, 3, 4, 5))
    x = x.requires_grad_()
    _, after = conv.batch_norm(p, state, x, train=True)
    assert not any(s.requires_grad for s in after.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_vmap_and_compile(key, shape, train):
    made = [batch_norm_of(random.fold_in(key, i), shape) for i in range(3)]
    trees = [(p, state, batches[0]) for p, state, _, batches in made]

    def apply(p, state, x):
        return conv.batch_norm(p, state, x, train=train)

    expected = [apply(*args) for args in trees]
    assert_close(tree.unstack(vmap(apply)(*tree.stack(trees))), expected)
    torch._dynamo.reset()
    compiled = torch.compile(apply, fullgraph=True, backend="aot_eager")
    assert_close([compiled(*args) for args in trees], expected)
    assert_close(
        tree.unstack(torch.compile(vmap(apply), fullgraph=True, backend="aot_eager")(*tree.stack(trees))), expected
    )


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_per_channel_has_no_variance(shape):
    p, state = conv.batch_norm_init(3)
    with pytest.raises(ValueError, match="at least two values per channel"):
        conv.batch_norm(p, state, torch.ones(shape), train=True)
    conv.batch_norm(p, state, torch.ones(shape), train=False)
    conv.batch_norm(p, state, torch.ones(1, 3, 1, 2), train=True)


# ---- normalisation of each example ----


def normalised_by_torch(p, x, groups):
    """By the module with the same numbers; `groups` None: an instance norm."""
    affine = bool(p)
    module = (
        torch.nn.InstanceNorm2d(x.shape[1], affine=affine)
        if groups is None
        else torch.nn.GroupNorm(groups, x.shape[1], affine=affine)
    )
    module.load_state_dict({"weight": p["scale"], "bias": p["bias"]} if affine else {})
    return module, module(x)


def normalised(p, x, groups):
    return conv.instance_norm(p, x) if groups is None else conv.group_norm(p, x, groups)


@pytest.fixture(params=[True, False], ids=["affine", "plain"])
def norm_of(request, key):
    """Parameters that are not the initial ones, or none, and a batch of pictures."""
    k_scale, k_bias, k_x = random.split(key, 3)
    p = {"scale": random.normal(k_scale, (6,)), "bias": random.normal(k_bias, (6,))} if request.param else {}
    return p, random.normal(k_x, (4, 6, 4, 5)) * 3 + 2


GROUPS = [None, 1, 2, 3, 6]


@pytest.mark.parametrize("groups", GROUPS)
def test_group_and_instance_norm_equal_torch(key, norm_of, groups):
    p, x = norm_of
    weight = random.normal(random.fold_in(key, 1), tuple(x.shape))
    x_there = x.clone().requires_grad_()
    module, y = normalised_by_torch(p, x_there, groups)
    (y * weight).sum().backward()
    _, (grads, grad_x) = value_and_grad(lambda both: (normalised(*both, groups) * weight).sum())((p, x))
    assert_close(normalised(p, x, groups), y.detach())
    assert_close(grads, {"scale": module.weight.grad, "bias": module.bias.grad} if p else {}, rtol=1e-4, atol=1e-4)
    assert_close(grad_x, x_there.grad, rtol=1e-4, atol=1e-4)


def test_instance_norm_is_by_hand_the_plain_norm_of_each_channel(key):
    p = conv.group_norm_init(6)
    assert tree.map(torch.Tensor.tolist, p) == {"scale": [1.0] * 6, "bias": [0.0] * 6}
    x = random.normal(key, (4, 6, 4, 5)) * 3 + 2
    var, mean = torch.var_mean(x, (2, 3), keepdim=True, correction=0)
    for params in (p, {}):
        assert_close(conv.instance_norm(params, x, eps=0.5), (x - mean) / (var + 0.5).sqrt(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", GROUPS)
def test_group_norm_of_replicas_and_compiled(key, norm_of, groups):
    p, x = norm_of
    trees = [(tree.map(lambda v, i=i: v + i, p), x * (i + 1) - i) for i in range(3)]
    expected = [normalised(*one, groups) for one in trees]
    leaves = [tree.leaves(one) for one in trees]
    apply = lambda leaves: normalised(*tree.unflatten(trees[0], leaves), groups)  # noqa: E731
    stacked = [torch.stack(found) for found in zip(*leaves, strict=True)]
    assert_close(list(vmap(apply)(stacked).unbind()), expected)
    torch._dynamo.reset()
    compiled = torch.compile(apply, fullgraph=True, backend="aot_eager")
    assert_close([compiled(one) for one in leaves], expected)


@pytest.mark.parametrize("groups", GROUPS)
def test_group_norm_in_bf16(norm_of, groups):
    p, x = norm_of
    y = normalised(tree.cast(p, torch.bfloat16), x.bfloat16(), groups)
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), normalised(p, x, groups), rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("groups", GROUPS)
def test_group_norm_touches_neither_another_example_nor_what_it_is_given(norm_of, groups):
    p, x = norm_of
    before = tree.map(torch.clone, (p, x))
    alone = torch.cat([normalised(p, one[None], groups) for one in x])
    assert_close(normalised(p, x, groups), alone)
    assert_close((p, x), before, rtol=0, atol=0)
