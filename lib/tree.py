"""Trees: nested dicts, lists, tuples and NamedTuples whose leaves are tensors.

The only file that touches `torch.utils._pytree`, which is private to torch. A leaf is addressed by its path,
`encoder.0.attn.w_q`: dict keys, list positions and NamedTuple field names joined by dots. `None` is an empty subtree.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Tree: TypeAlias = Any


def map(fn: Callable, tree: Tree, *rest: Tree) -> Tree:
    """Apply `fn` leaf by leaf to trees of one structure. Raises ValueError where the structures differ."""
    return pytree.tree_map(lambda x, *xs: None if x is None else fn(x, *xs), tree, *rest)


def leaves(tree: Tree) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if leaf is not None]


def unflatten(like: Tree, new: Iterable[Tensor]) -> Tree:
    """The structure of `like` with other leaves, in the order of `leaves`."""
    old, spec = pytree.tree_flatten(like)
    rest = iter(new)
    return pytree.tree_unflatten([None if leaf is None else next(rest) for leaf in old], spec)


def flatten(tree: Tree) -> dict[str, Tensor]:
    """`{path: leaf}` in tree order."""
    pairs, _ = pytree.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in pairs if leaf is not None}


def at(tree: Tree, path: str) -> Tree:
    """The subtree under a path. Raises KeyError, IndexError or AttributeError where there is none."""
    for name in path.split("."):
        if isinstance(tree, dict):
            tree = tree[name]
        else:
            tree = getattr(tree, name) if hasattr(tree, "_fields") else tree[int(name)]
    return tree


def map_with_path(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Like `map`, with the path as the first argument of `fn`."""
    return pytree.tree_map_with_path(lambda path, x, *xs: None if x is None else fn(_name(path), x, *xs), tree, *rest)


def match(pattern: str, tree: Tree) -> Tree:
    """A tree of bools: True where the regular expression `pattern` is found in the leaf's path."""
    return map_with_path(lambda path, _: re.search(pattern, path) is not None, tree)


def stack(trees: list[Tree]) -> Tree:
    """Trees of one structure become one tree whose leaves have a new first axis."""
    return map(lambda *xs: torch.stack(xs), trees[0], *trees[1:])


def index(tree: Tree, i: int | Tensor) -> Tree:
    """Tree number i of a stack, as views into it; of a tensor of numbers a copy of all these."""
    return map(lambda x: x[i], tree)


def unstack(tree: Tree) -> list[Tree]:
    """The inverse of `stack`."""
    return [index(tree, i) for i in range(len(leaves(tree)[0]))]


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """Floating-point leaves in another dtype; the others as they are."""
    return map(lambda x: x.to(dtype) if x.is_floating_point() else x, tree)


def to(tree: Tree, device: torch.device | str) -> Tree:
    return map(lambda x: x.to(device), tree)


def size(tree: Tree) -> int:
    """Number of elements in all leaves."""
    return sum(leaf.numel() for leaf in leaves(tree))


def global_norm(tree: Tree) -> Tensor:
    """Euclidean norm of all leaves taken as one vector, in fp32."""
    return torch.stack([leaf.float().square().sum() for leaf in leaves(tree)]).sum().sqrt()


def table(tree: Tree, depth: int = 2) -> str:
    """A readable overview: one line per path prefix of `depth` parts, with the shape (of single leaves) and count."""
    groups: dict[str, list[Tensor]] = {}
    for path, leaf in flatten(tree).items():
        groups.setdefault(".".join(path.split(".")[:depth]), []).append(leaf)
    rows = [
        (name, "x".join(str(n) for n in group[0].shape) if len(group) == 1 else f"{len(group)} leaves", size(group))
        for name, group in groups.items()
    ]
    rows.append(("total", "", size(tree)))
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:<{width}}  {shape:>14}  {count:>12,}" for name, shape, count in rows)


def _name(path: tuple) -> str:
    parts = []
    for entry in path:
        for field in ("key", "idx", "name"):
            if hasattr(entry, field):
                parts.append(str(getattr(entry, field)))
                break
    return ".".join(parts)
