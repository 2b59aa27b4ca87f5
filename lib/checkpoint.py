"""A checkpoint is one safetensors file: `path -> tensor` of one tree, and a JSON record in its metadata."""

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save

from lib import tree
from lib.faults import CheckpointError
from lib.tree import Tree


def save_tree(path: Path, state: Tree, meta: dict[str, Any] | None = None) -> None:
    """Write atomically: to a temporary name, flushed to disk, then renamed. A failure leaves no file behind and
    never touches an older one; OSError (a full disk) is passed on."""
    flat = {name: leaf.detach().cpu().contiguous() for name, leaf in tree.flatten(state).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(save(flat, {"json": json.dumps(meta or {})}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_step(folder: Path, step: int, state: Tree, meta: dict[str, Any]) -> None:
    """`save_tree` under the name of a step; all but the last two are removed. OSError is passed on."""
    save_tree(folder / f"step-{step}.safetensors", state, meta)
    clean(folder, keep=2)


def clean(folder: Path, keep: int) -> None:
    """Remove all steps but the last, and what processes that were killed while they wrote have left."""
    for path in [*folder.glob(".step-*.tmp"), *(path for _, path in steps(folder)[:-keep])]:
        path.unlink(missing_ok=True)


def last_good(folder: Path) -> str:
    """The newest checkpoint's path, or "none", for messages."""
    return next((str(path) for _, path in reversed(steps(folder))), "none")


def load_meta(path: Path) -> dict[str, Any]:
    """The JSON record. Raises CheckpointError where the file is not a whole safetensors file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("json", "{}"))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a checkpoint: {error}") from error


def load_tree(path: Path, like: Tree, device: torch.device | str = "cpu", prefix: str = "") -> Tree:
    """The tree of the structure, shapes and dtypes of `like`; with `prefix`, the subtree that is stored under it.

    Raises CheckpointError naming every missing, unexpected or mis-shaped leaf.
    """
    load_meta(path)
    stored = load_file(path, device=str(device))
    if prefix:
        stored = {name[len(prefix) + 1 :]: x for name, x in stored.items() if name.startswith(prefix + ".")}
    wanted = tree.flatten(like)
    faults = [f"missing: {name}" for name in wanted.keys() - stored.keys()]
    faults += [f"unexpected: {name}" for name in stored.keys() - wanted.keys()]
    for name in wanted.keys() & stored.keys():
        a, b = stored[name], wanted[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            faults.append(f"{name}: {tuple(a.shape)} {a.dtype} in the file, {tuple(b.shape)} {b.dtype} in the model")
    if faults:
        raise CheckpointError(f"{path} holds another tree:\n  " + "\n  ".join(sorted(faults)))
    return tree.map_with_path(lambda name, _: stored[name], like)


def steps(folder: Path) -> list[tuple[int, Path]]:
    """(n, path) of the `step-<n>.safetensors` files in a folder, oldest first."""
    found = [(int(p.stem.split("-")[1]), p) for p in folder.glob("step-*.safetensors") if p.stem[5:].isdigit()]
    return sorted(found)


def latest(folder: Path) -> Path:
    """The newest whole checkpoint: a truncated one is passed over. Raises CheckpointError where there is none."""
    for _, path in reversed(steps(folder)):
        try:
            load_meta(path)
            return path
        except CheckpointError:
            continue
    raise CheckpointError(f"no checkpoint in {folder}")
