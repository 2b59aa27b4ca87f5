"""Weights that others released: read from their files, and brought into our trees and back by a table. What the files
beside them say of the model: lib/models/facts.

A table has a row for each of their tensors: its name there (with {} for the number of a block), our path or paths, and
an einops pattern from their shape to ours. Several paths share a tensor that has their parts along the axis `n`, which
the pattern brings to the front.
"""

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from einops import rearrange
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from lib import tree
from lib.faults import DataError
from lib.models import facts
from lib.tree import Tree

# ---- files ----

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")  # of a folder, the first there is


def find(path: Path) -> Path:
    """The file of weights that is meant: this one, or the first of FILES in this folder. Raises DataError."""
    file = next((path / name for name in FILES if (path / name).is_file()), None) if path.is_dir() else path
    if file is None or not file.is_file():
        raise DataError(
            f"no weights at {path}: a file of them, or a folder with {', '.join(FILES[:-1])} or {FILES[-1]}"
        )
    return file


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a safetensors file, of an index of several (.safetensors.index.json) or of a file of torch.save,
    which is read without running code (weights_only), and what nanoGPT tells of its model beside them. In a file of
    torch.save they may lie under "model", "state_dict" or "model_state_dict". The tensors are the file's own pages,
    read when they are used (but those of torch before 1.6). Raises DataError."""
    try:
        if path.name.endswith(".index.json"):
            parts = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            return {name: x for part in parts for name, x in load_file(path.parent / part).items()}, {}
        if path.suffix == ".safetensors":
            return load_file(path), {}
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise DataError(f"cannot read the weights {path}: {error}") from error
    except Exception as error:  # torch.load has no narrower type for a file that is no state dict
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is neither safetensors nor weights of torch.save: {reason}") from error
    inner = stored if isinstance(stored, dict) else {}
    for weights in (inner, *(inner.get(name) for name in ("model", "state_dict", "model_state_dict"))):
        if not isinstance(weights, dict) or not weights:
            continue
        if all(isinstance(name, str) and isinstance(x, Tensor) for name, x in weights.items()):
            args = inner.get("model_args") if weights is not inner else {}
            return {name: x.detach() for name, x in weights.items()}, args if isinstance(args, dict) else {}
    raise DataError(f"{path} holds something else than tensors by name")


def unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the names in front of theirs that training in parallel (module.), torch.compile (_orig_mod.) and models
    with a head (model., transformer., bert.) give them. Raises DataError where two names become one."""
    out: dict[str, Tensor] = {}
    for name, x in weights.items():
        short = re.sub(r"^((module|_orig_mod|model|transformer|bert)\.)+", "", name)
        if short in out:
            raise DataError(f"these weights are of more than one model: {short} is there twice, once as {name}")
        out[short] = x
    return out


# ---- tokenizers ----


def tokenizer_file(weights: Path) -> Path | None:
    """The tokenizer.json, or else the vocab.json, in the folder of these weights, a file or the folder itself."""
    folder = weights if weights.is_dir() else weights.parent
    return next((folder / name for name in ("tokenizer.json", "vocab.json") if (folder / name).is_file()), None)


def tokenizer(file: Path) -> Tokenizer:
    """Of a tokenizer.json, or of a vocab.json with merges.txt, which are GPT-2's byte pairs. A text that spells a
    special token is a text, and nothing is cut off or filled up. Raises DataError."""
    folder, byte_pairs = file.parent, file.name != "tokenizer.json"
    if byte_pairs and (folder / "added_tokens.json").exists():
        raise DataError(f"{folder} has more tokens in added_tokens.json, which only a tokenizer.json says whole")
    beside = folder / "tokenizer_config.json"
    spaced = byte_pairs and beside.is_file() and bool(facts.read_config(beside).get("add_prefix_space"))
    try:
        if byte_pairs:
            found = Tokenizer(models.BPE.from_file(str(file), str(folder / "merges.txt")))
            found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(spaced), decoders.ByteLevel()
        else:
            found = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower type
        raise DataError(f"{file} is not a readable tokenizer: {error}") from error
    found.no_truncation()
    found.no_padding()
    found.encode_special_tokens = True
    return found


def check_tokens(tokenizer: Tokenizer, weights: Path, vocabulary: int) -> None:
    """Raises DataError where weights of so many tokens have no row for one of the tokenizer's."""
    if (most := 1 + max(tokenizer.get_vocab().values(), default=-1)) > vocabulary:
        raise DataError(f"{weights} knows {vocabulary:,} tokens, the tokenizer {most:,}: it is that of another model")


# ---- tables ----


class Row(NamedTuple):
    theirs: str
    ours: str | tuple[str, ...]
    pattern: str = ""  # none: the same shape


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

    Raises DataError naming every tensor that is missing, left over, of another shape or not of finite numbers.
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
        if not x.is_floating_point():
            faults.append(f"{row.theirs}: {x.dtype} instead of floating point numbers")
        elif not all(found[path].sum(dtype=torch.float32).isfinite() for path in row.ours):
            faults.append(f"{row.theirs}: not all are finite numbers")
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
