"""lib/tree.py: paths, mapping, stacking, casting and the overview."""

from typing import NamedTuple

import pytest
import torch

from lib import random, tree


class Point(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor | None


def make(key):
    """Every kind of node: dict, list, tuple, NamedTuple, an empty subtree, and an integer leaf."""
    k1, k2, k3 = random.split(key, 3)
    return {
        "blocks": [{"w": random.normal(k1, (2, 3))}, {"w": random.normal(k2, (2, 3))}],
        "point": Point(random.normal(k3, (4,)), None),
        "pair": (torch.tensor(7, dtype=torch.int32), torch.ones(1)),
    }


PATHS = ["blocks.0.w", "blocks.1.w", "point.x", "pair.0", "pair.1"]


def equal(a, b):
    a, b = tree.flatten(a), tree.flatten(b)
    return list(a) == list(b) and all(torch.equal(a[path], b[path]) for path in a)


def test_flatten_names_every_leaf(key):
    t = make(key)
    flat = tree.flatten(t)
    assert list(flat) == PATHS
    assert flat["blocks.1.w"] is t["blocks"][1]["w"]
    assert flat["point.x"] is t["point"].x
    assert flat["pair.0"] is t["pair"][0]


def test_leaves_come_in_the_order_of_flatten(key):
    t = make(key)
    assert [id(x) for x in tree.leaves(t)] == [id(x) for x in tree.flatten(t).values()]


def test_unflatten_inverts_leaves(key):
    t = make(key)
    doubled = tree.unflatten(t, [2 * leaf for leaf in tree.leaves(t)])
    assert type(doubled["point"]) is Point and doubled["point"].y is None
    assert equal(doubled, tree.map(lambda leaf: 2 * leaf, t))


def test_map_keeps_structure_and_none(key):
    t = make(key)
    doubled = tree.map(lambda a, b: a + b, t, t)
    assert isinstance(doubled["point"], Point)
    assert doubled["point"].y is None
    assert isinstance(doubled["pair"], tuple) and isinstance(doubled["blocks"], list)
    for path, leaf in tree.flatten(doubled).items():
        assert torch.equal(leaf, 2 * tree.flatten(t)[path])


def test_map_pairs_leaves_by_name():
    a, b = {"x": torch.tensor(1), "y": torch.tensor(2)}, {"y": torch.tensor(20), "x": torch.tensor(10)}
    assert tree.map(lambda p, q: int(p + q), a, b) == {"x": 11, "y": 22}


@pytest.mark.parametrize("other", [{"a": 1}, {"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}, [1, 2]])
def test_map_refuses_another_structure(other):
    with pytest.raises(ValueError):
        tree.map(lambda x, y: x, {"a": torch.zeros(1), "b": torch.zeros(1)}, other)


def test_map_with_path(key):
    t = make(key)
    named = tree.map_with_path(lambda path, x, y: (path, x is y), t, t)
    assert named["blocks"][1]["w"] == ("blocks.1.w", True)
    assert named["point"] == Point(("point.x", True), None)


@pytest.mark.parametrize(
    "pattern, expected",
    [
        (r"w$", [True, True, False, False, False]),
        (r"^blocks\.1", [False, True, False, False, False]),
        (r"x|pair", [False, False, True, True, True]),
        (r"nothing", [False] * 5),
    ],
)
def test_match(key, pattern, expected):
    assert list(tree.flatten(tree.match(pattern, make(key))).values()) == expected


def test_unstack_inverts_stack(key):
    trees = [make(k) for k in random.split(key, 3)]
    stacked = tree.stack(trees)
    assert stacked["blocks"][0]["w"].shape == (3, 2, 3)
    assert stacked["pair"][0].shape == (3,)
    assert stacked["point"].y is None
    back = tree.unstack(stacked)
    assert len(back) == 3
    assert all(equal(a, b) for a, b in zip(back, trees, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_cast_leaves_integers_alone(key, dtype):
    cast = tree.cast(make(key), dtype)
    assert cast["pair"][0].dtype == torch.int32
    assert {leaf.dtype for path, leaf in tree.flatten(cast).items() if path != "pair.0"} == {dtype}


def test_to(key):
    assert {leaf.device.type for leaf in tree.leaves(tree.to(make(key), "meta"))} == {"meta"}


def test_size(key):
    assert tree.size(make(key)) == 6 + 6 + 4 + 1 + 1


def test_global_norm(key):
    t = make(key)
    vector = torch.cat([leaf.flatten().float() for leaf in tree.leaves(t)])
    torch.testing.assert_close(tree.global_norm(t), torch.linalg.vector_norm(vector))


def test_global_norm_is_taken_in_fp32():
    norm = tree.global_norm({"a": torch.ones(1001, dtype=torch.bfloat16)})
    torch.testing.assert_close(norm, torch.tensor(1001.0).sqrt())


@pytest.mark.parametrize("depth, rows", [(1, 3), (2, 5), (9, 5)])
def test_table_groups_by_prefix_and_totals(key, depth, rows):
    t = make(key)
    *lines, total = tree.table(t, depth).splitlines()
    assert len(lines) == rows
    assert total.split() == ["total", "18"]
    assert sum(int(line.split()[-1]) for line in lines) == tree.size(t)


def test_table_shows_shapes_of_single_leaves(key):
    lines = tree.table(make(key)["blocks"] + [{"v": [torch.ones(1), torch.ones(2)]}], depth=2).splitlines()
    assert [line.split()[:-1] for line in lines] == [["0.w", "2x3"], ["1.w", "2x3"], ["2.v", "2", "leaves"], ["total"]]
