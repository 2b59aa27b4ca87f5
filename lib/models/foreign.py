"""Weights that others released: read from their files, and brought into our trees and back by a table.

A table has a row for each of their tensors: its name there (with {} for the number of a block), our path or paths, and
an einops pattern from their shape to ours. Several paths share a tensor that has their parts along the axis `n`, which
the pattern brings to the front.
"""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from lib import tree
from lib.faults import DataError
from lib.tree import Tree


class Row(NamedTuple):
    theirs: str
    ours: str | tuple[str, ...]
    pattern: str = ""  # none: the same shape


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, of an index of several (.safetensors.index.json) or of a file of torch.save,
    which is read without running code (weights_only). The tensors are the file's own pages, read when they are used
    (but those of torch before 1.6). Raises DataError."""
    try:
        if path.name.endswith(".index.json"):
            parts = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            return {name: x for part in parts for name, x in load_file(path.parent / part).items()}
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, KeyError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        raise DataError(f"cannot read the weights {path}: {error}") from error
    except Exception as error:  # torch.load has no narrower type for a file that is no state dict
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is neither safetensors nor weights of torch.save: {reason}") from error
    if not isinstance(weights, dict) or not all(isinstance(x, Tensor) for x in weights.values()):
        raise DataError(f"{path} holds something else than tensors by name")
    return weights


def rows(table: Sequence[Row], blocks: int) -> list[Row]:
    """The table written out: a row with {} once for each block."""
    out = []
    for row in table:
        ours = (row.ours,) if isinstance(row.ours, str) else row.ours
        times = range(blocks) if "{}" in row.theirs else [0]
        out += [Row(row.theirs.format(i), tuple(path.format(i) for path in ours), row.pattern) for i in times]
    return out


def to_ours(weights: dict[str, Tensor], table: Sequence[Row], like: Tree, blocks: int, **sizes: int) -> Tree:
    """Our tree of the structure, shapes and dtypes of `like`. `sizes`: lengths of axes that a pattern cannot know.

    Raises DataError naming every tensor that is missing, left over or of another shape.
    """
    wanted, found, left = tree.flatten(like), {}, dict(weights)
    faults = []
    for row in rows(table, blocks):
        if (x := left.pop(row.theirs, None)) is None:
            faults.append(f"missing: {row.theirs}")
            continue
        try:
            shaped = _shaped(x, row.pattern, sizes)
        except Exception as error:  # of einops, which has no type of its own for it
            faults.append(f"{row.theirs}: shape {tuple(x.shape)} does not fit {row.pattern!r} ({type(error).__name__})")
            continue
        parts = shaped.unbind(0) if len(row.ours) > 1 else (shaped,)
        for path, part in zip(row.ours, parts, strict=True):
            if part.shape != wanted[path].shape:
                faults.append(f"{row.theirs}: {tuple(part.shape)} for {path}, which has {tuple(wanted[path].shape)}")
            found[path] = part.to(wanted[path].dtype).contiguous()
    faults += [f"left over: {name}" for name in left]
    if faults:
        raise DataError("these weights are not of this model:\n  " + "\n  ".join(faults[:20]))
    return tree.map_with_path(lambda path, _: found[path], like)


def to_theirs(params: Tree, table: Sequence[Row], blocks: int, **sizes: int) -> dict[str, Tensor]:
    """Our tree under their names and in their shapes."""
    ours, out = tree.flatten(params), {}
    for row in rows(table, blocks):
        x = torch.stack([ours[path] for path in row.ours]) if len(row.ours) > 1 else ours[row.ours[0]]
        left, _, right = row.pattern.partition("->")
        out[row.theirs] = _shaped(x, f"{right} -> {left}" if row.pattern else "", sizes).contiguous()
    return out


def _shaped(x: Tensor, pattern: str, sizes: dict[str, int]) -> Tensor:
    named = {name: size for name, size in sizes.items() if name in pattern.replace("(", " ").replace(")", " ").split()}
    return rearrange(x, pattern, **named) if pattern else x
