"""The files of a run directory: what is written once, read again, or looked up after the run."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import filelock
import torch

from lib import checkpoint, tree
from lib.faults import RunError
from lib.runs import ROOT
from lib.tree import Tree


def describe_environment(path: Path) -> None:
    """git.diff and environment.json: what a run was made with."""
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True).stdout  # noqa: E731
    try:
        commit, diff = git("rev-parse", "HEAD").decode().strip(), git("diff", "HEAD")
    except OSError:  # no git on this machine
        commit, diff = "", b""
    (path / "git.diff").write_bytes(diff)  # files may be in any encoding
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    facts: dict[str, Any] = {
        "command": sys.argv,
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    facts |= {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "gpu": gpu}
    write_json(path / "environment.json", facts)


def claim(path: Path) -> filelock.FileLock:
    """Make the directory this process's own until the lock is released, which the system does however a process ends.
    Raises RunError where another one writes there."""
    lock = filelock.FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"{path} is being written by another run that is still alive") from None
    return lock


def load(path: Path, like: Tree, prefix: str = "", device: torch.device | str = "cpu") -> Tree:
    """The latest checkpoint's subtree `prefix` in the structure of `like`; of several replicas the best one's, or of an
    unfinished run the first one's."""
    newest, result = checkpoint.latest(path / "checkpoints"), path / "result.json"
    n = checkpoint.load_meta(newest).get("replicas", 1)
    if n == 1:
        return checkpoint.load_tree(newest, like, device, prefix)
    stacked = checkpoint.load_tree(newest, tree.stack([like] * n), device, prefix)
    return tree.index(stacked, json.loads(result.read_text(encoding="utf-8"))["best"] if result.exists() else 0)


def fresh(folder: Path, seed: int) -> Path:
    """A new directory, made here, so that two runs that begin in the same second have two."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}"
    for end in ("", *(f"-{i}" for i in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            (folder / (name + end)).mkdir(parents=True)
            return folder / (name + end)
    raise RunError(f"{folder} has a thousand runs of this second: choose another --run")


# What a run leaves that was killed before it had a configuration: another one may begin there. And beside a log.
BEGUN = {".lock", "experiment.py", "git.diff", "environment.json", "environment.part", "config.part"}
LOGS = (".log", ".out", ".txt")


def check_new(path: Path | None, folder: Path) -> None:
    """Raises RunError where no run can begin at `path`, or where that is None at any new one in `folder`: it holds
    something already, or cannot be written. Nothing is made."""
    where = path or folder
    try:
        if path and (path / "config.json").exists():
            raise RunError(f"{path} already holds a run: continue it with --resume, or choose another --run")
        if path and path.is_dir() and any(p.name not in BEGUN and p.suffix not in LOGS for p in path.iterdir()):
            raise RunError(f"{path} holds other files: choose a new folder as --run")
        with contextlib.suppress(FileNotFoundError):
            os.lstat(where)  # whether it can be a name at all
        nearest = next(part for part in (where, *where.parents) if part.exists())
        tempfile.TemporaryFile(dir=nearest).close()
    except (OSError, ValueError) as error:
        raise RunError(f"no run can be kept in {where}: {error}") from error


def write_json(path: Path, value: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_json(path: Path) -> Any:
    """Raises RunError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
