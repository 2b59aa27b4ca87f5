"""The LSTM against nn.LSTM, in one call and step by step, eager, compiled and vmapped."""

import pytest
import torch
from einops import rearrange
from torch._dynamo.utils import counters

from lib import random, tree
from lib.lstm import State, cell, fused, lstm, lstm_init, unrolled, zero_state
from lib.transform import value_and_grad

B, T, D, H = 3, 5, 4, 6


def module(p, d=D, h=H):
    """nn.LSTM with the weights of the tree."""
    net = torch.nn.LSTM(d, h, len(p), batch_first=True)
    with torch.no_grad():
        for i, q in enumerate(p):
            getattr(net, f"weight_ih_l{i}").copy_(rearrange(q["w_x"], "d g h -> (g h) d"))
            getattr(net, f"weight_hh_l{i}").copy_(rearrange(q["w_h"], "d g h -> (g h) d"))
            getattr(net, f"bias_ih_l{i}").copy_(rearrange(q["b"], "g h -> (g h)"))
            getattr(net, f"bias_hh_l{i}").zero_()
    return net


def case(layers, key=0):
    ks = random.split(random.key(key), 4)
    p = lstm_init(ks[0], D, H, layers)
    return p, random.normal(ks[1], (B, T, D)), State(*(random.normal(k, (B, layers, H)) for k in ks[2:]))


def loss(p, x, state, **options):
    y, end = lstm(p, x, state, **options)
    return y.square().sum() + (end.h * end.c).sum()


@pytest.mark.parametrize("layers", [1, 3])
def test_equals_nn_lstm(layers):
    p, x, state = case(layers)
    net = module(p)
    y, end = lstm(p, x, state)
    y2, (h, c) = net(x, tuple(rearrange(s, "b l h -> l b h").contiguous() for s in state))
    torch.testing.assert_close((y, *(rearrange(s, "b l h -> l b h") for s in end)), (y2, h, c))

    (y2.square().sum() + (h * c).sum()).backward()
    _, grads = value_and_grad(loss)(p, x, state)
    for i, q in enumerate(grads):
        torch.testing.assert_close(rearrange(q["w_x"], "d g h -> (g h) d"), getattr(net, f"weight_ih_l{i}").grad)
        torch.testing.assert_close(rearrange(q["w_h"], "d g h -> (g h) d"), getattr(net, f"weight_hh_l{i}").grad)
        torch.testing.assert_close(q["b"].flatten(), getattr(net, f"bias_ih_l{i}").grad)
    assert all((g != 0).all() for g in tree.leaves(grads))


def test_initialised():
    p = lstm_init(random.key(0), 50, 64, 2)
    net = torch.nn.LSTM(50, 64, 2)
    assert tree.size(p) == sum(w.numel() for w in net.parameters()) - 2 * 4 * 64
    for layer, d in zip(p, (50, 64), strict=True):
        for name, fan in (("w_x", d + 64), ("w_h", 128)):
            assert layer[name].abs().max() <= (6 / fan) ** 0.5 and layer[name].std() == pytest.approx(
                (2 / fan) ** 0.5, rel=0.1
            )
        assert torch.equal(layer["b"].sum(1), torch.tensor([0.0, 64.0, 0.0, 0.0]))  # forget: the second, as in torch


def test_one_call_equals_many_steps():
    p, x, state = case(1)
    args = p[0], x, state.h[:, 0], state.c[:, 0]
    torch.testing.assert_close(fused(*args), unrolled(*args))
    torch.testing.assert_close(unrolled(*args)[0][:, 0], cell(p[0], x[:, 0], *args[2:])[0])
    one = lambda layer: torch.func.grad(lambda q: layer(q, *args[1:])[0].square().sum())(p[0])  # noqa: E731
    torch.testing.assert_close(one(fused), one(unrolled))


def test_windows_with_the_state_carried_are_one_long_window():
    p, x, state = case(2)
    y, end = lstm(p, x, state)
    first, between = lstm(p, x[:, :2], state)
    second, last = lstm(p, x[:, 2:], between)
    torch.testing.assert_close((torch.cat([first, second], 1), last), (y, end))
    assert not torch.allclose(lstm(p, x[:, 2:], zero_state(p, B))[0], second, atol=1e-3)


def test_causal_and_rows_apart():
    p, x, state = case(2)
    grad = torch.func.grad(lambda x: lstm(p, x, state)[0][1, 2].sum())(x)
    assert (grad[1, :3] != 0).any(-1).all() and (grad[1, 3:] == 0).all() and (grad[[0, 2]] == 0).all()


def test_dropout_between_layers_by_key():
    (p, x, state), key = case(2), random.key(5)
    y = lstm(p, x, state, key, dropout=0.5)[0]
    assert torch.equal(y, lstm(p, x, state, key, dropout=0.5)[0])
    assert not torch.allclose(y, lstm(p, x, state, random.key(6), dropout=0.5)[0])
    assert torch.equal(lstm(p, x, state, dropout=0.5)[0], lstm(p, x, state)[0])
    alone = State(state.h[:, :1], state.c[:, :1])
    assert torch.equal(lstm(p[:1], x, alone, key, dropout=0.5)[0], lstm(p[:1], x, alone)[0])


def test_compiled_as_one_graph_and_vmapped():
    p, x, state = case(2)
    value, grads = value_and_grad(loss)(p, x, state)
    torch._dynamo.reset()
    counters.clear()
    nodes = []

    def count(graph, _):
        nodes.append(len(graph.graph.nodes))
        return graph

    both = torch.compile(value_and_grad(loss), backend="aot_eager", fullgraph=True)(p, x, state)
    torch.testing.assert_close(both, (value, grads), atol=1e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    torch.compile(lambda: lstm(p, x.repeat(1, 9, 1), state), backend=count, fullgraph=True)()
    assert nodes[0] < 100  # and not 45 steps of it
    others = case(2, key=1)
    leaves = [torch.stack(pair) for pair in zip(tree.leaves(p), tree.leaves(others[0]), strict=True)]

    def one(leaves):
        return value_and_grad(loss)(tree.unflatten(p, leaves), x, state)[0]

    found = torch.func.vmap(one)(leaves)
    torch.testing.assert_close(found, torch.stack([value, loss(others[0], x, state)]), atol=1e-5, rtol=1e-5)
    compiled = torch.compile(torch.func.vmap(one), backend="aot_eager", fullgraph=True)(leaves)
    torch.testing.assert_close(compiled, found, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


def test_second_derivatives():
    p, x, state = case(1)
    leaves = tree.leaves(p)
    gradient = lambda leaves: tree.leaves(value_and_grad(loss)(tree.unflatten(p, leaves), x, state)[1])  # noqa: E731
    _, product = torch.func.jvp(gradient, (leaves,), (leaves,))
    plus, minus = (gradient([w * (1 + e) for w in leaves]) for e in (1e-3, -1e-3))
    finite = [(a - b) / 2e-3 for a, b in zip(plus, minus, strict=True)]
    torch.testing.assert_close(list(product), finite, atol=2e-2, rtol=2e-2)
