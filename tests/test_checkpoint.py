"""lib/checkpoint.py: exact round trips, errors that name the leaves, and files that no fault can spoil."""

import errno
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lib import checkpoint, tree
from lib.faults import CheckpointError

ROOT = Path(__file__).parent.parent


class Moments(NamedTuple):
    mean: Any
    count: Any


class State(NamedTuple):
    params: Any
    opt: Any
    ema: Any
    step: Any


def make():
    """Every kind of leaf: the odd floats, half precision, integers, bools, scalars, empty, transposed and shared."""
    odd = torch.tensor([[float("nan"), -0.0, float("inf")], [1e-45, -1.5, float("-inf")]])
    rows = torch.arange(6.0).reshape(2, 3)
    params = {"w": odd, "list": [{"b": rows[0]}, {"b": rows[1]}], "half": torch.linspace(-3, 3, 7).bfloat16()}
    moments = Moments(odd.t(), torch.tensor(2**40 + 1))
    ints = [torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32), torch.tensor([True, False]), torch.zeros(0, 3)]
    return State(params, (moments, None, ints), None, torch.tensor(7, dtype=torch.int32))


def raw(x):
    return x.dtype, tuple(x.shape), x.contiguous().reshape(-1).view(torch.uint8).tolist()


def same(a, b):
    return {k: raw(x) for k, x in tree.flatten(a).items()} == {k: raw(x) for k, x in tree.flatten(b).items()}


def test_round_trip_is_exact(tmp_path):
    path, state = tmp_path / "new" / "folder" / "step-7.safetensors", make()
    checkpoint.save_tree(path, state, {"step": 7, "config": {"name": "é", "betas": [0.9, 0.98]}})
    loaded = checkpoint.load_tree(path, tree.map(torch.zeros_like, state))
    assert same(loaded, state)
    assert type(loaded) is State and type(loaded.opt[0]) is Moments
    assert loaded.ema is None and loaded.opt[1] is None
    assert checkpoint.load_meta(path) == {"step": 7, "config": {"name": "é", "betas": [0.9, 0.98]}}
    assert os.listdir(path.parent) == [path.name]


def test_the_loaded_tree_is_not_the_model_it_was_made_like(tmp_path):
    path, like = tmp_path / "a.safetensors", {"w": torch.zeros(3)}
    checkpoint.save_tree(path, {"w": torch.ones(3)})
    assert checkpoint.load_tree(path, like)["w"].tolist() == [1, 1, 1] and like["w"].tolist() == [0, 0, 0]


def test_prefix_picks_a_subtree(tmp_path):
    path, state = tmp_path / "a.safetensors", make()
    checkpoint.save_tree(path, state)
    assert same(checkpoint.load_tree(path, state.params, prefix="params"), state.params)
    assert same(checkpoint.load_tree(path, state.params["list"], prefix="params.list"), state.params["list"])
    with pytest.raises(CheckpointError, match=r"missing: half"):
        checkpoint.load_tree(path, state.params, prefix="param")
    checkpoint.save_tree(path, {"a": {"w": torch.ones(1)}, "ab": {"w": torch.ones(2), "v": torch.ones(3)}})
    assert checkpoint.load_tree(path, {"w": torch.zeros(1)}, prefix="a")["w"].tolist() == [1]  # a whole name


def test_every_fault_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save_tree(
        path, {"same": torch.ones(2), "old": [torch.ones(1)], "w": torch.ones(2, 3), "n": torch.ones(1)}
    )
    like = {"same": torch.ones(2), "new": {"a": torch.ones(1), "b": torch.ones(1)}, "w": torch.ones(3, 2)}
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_tree(path, like | {"n": torch.ones(1, dtype=torch.int32)})
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert str(path) in lines[0]
    assert set(lines[1:]) == {
        "missing: new.a",
        "missing: new.b",
        "unexpected: old.0",
        "w: (2, 3) torch.float32 in the file, (3, 2) torch.float32 in the model",
        "n: (1,) torch.float32 in the file, (1,) torch.int32 in the model",
    }


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -4, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "step-1.safetensors"
    checkpoint.save_tree(path, make())
    path.write_bytes(path.read_bytes()[:keep])
    for read in (lambda: checkpoint.load_meta(path), lambda: checkpoint.load_tree(path, make())):
        with pytest.raises(CheckpointError, match=r"step-1\.safetensors is not a checkpoint"):
            read()


class Bomb:
    """A pickle that would write a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (Path(self.path), "boom")


@pytest.mark.parametrize("dump", [pickle.dump, torch.save], ids=["pickle", "torch.save"])
def test_no_pickle_is_loaded(tmp_path, dump):
    path, trace = tmp_path / "step-1.safetensors", tmp_path / "trace"
    with open(path, "wb") as file:
        dump({"w": Bomb(trace)}, file)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load_tree(path, {"w": torch.ones(1)})
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoint.latest(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_previous_checkpoint(tmp_path, monkeypatch, call, fault):
    path = tmp_path / "step-1.safetensors"
    checkpoint.save_tree(path, {"w": torch.ones(3)}, {"step": 1})

    def fail(*_):
        raise fault

    for name in (path.name, "step-2.safetensors"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(type(fault)):
                checkpoint.save_tree(tmp_path / name, {"w": torch.zeros(3)}, {"step": 2})
        assert os.listdir(tmp_path) == [path.name]
    assert checkpoint.load_meta(path) == {"step": 1}
    assert checkpoint.load_tree(path, {"w": torch.zeros(3)})["w"].tolist() == [1, 1, 1]


def test_a_write_that_stops_half_way_leaves_the_previous_checkpoint(tmp_path):
    """A real failing write: the system refuses files above a size, as it would on a full disk."""
    path = tmp_path / "step-1.safetensors"
    checkpoint.save_tree(path, {"w": torch.ones(3)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save_tree(path, {"w": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == [path.name]
    assert checkpoint.load_tree(path, {"w": torch.zeros(3)})["w"].tolist() == [1, 1, 1]


WRITER = """
import os, random, sys, time
from pathlib import Path
import torch
from lib import checkpoint

torch.set_num_threads(1)
for i in range(10):
    folder = Path(sys.argv[1], str(i))
    child = os.fork()
    if child == 0:
        for n in range(1, 1 << 30):
            for _ in range(2):  # the second time over the first
                checkpoint.save_tree(folder / f"step-{n}.safetensors", {"w": torch.full((1 << 20,), n)}, {"step": n})
            for _, old in checkpoint.steps(folder)[:-2]:
                old.unlink()
    while not checkpoint.steps(folder):
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


def test_kill_at_any_moment_leaves_whole_checkpoints(tmp_path):
    subprocess.run([sys.executable, "-c", WRITER, tmp_path], cwd=ROOT, check=True, timeout=600)
    like = {"w": torch.zeros(1 << 20, dtype=torch.int64)}
    for folder in tmp_path.iterdir():
        assert checkpoint.latest(folder) == checkpoint.steps(folder)[-1][1]
        for n, path in checkpoint.steps(folder):
            assert (checkpoint.load_tree(path, like)["w"] == n).all() and checkpoint.load_meta(path) == {"step": n}
    assert len(list(tmp_path.iterdir())) == 10


def test_latest_passes_over_a_truncated_newest(tmp_path):
    for n in (9, 10, 100):
        checkpoint.save_tree(tmp_path / f"step-{n}.safetensors", {"w": torch.ones(3)}, {"step": n})
    (tmp_path / "step-best.safetensors").write_bytes(b"")
    (tmp_path / ".step-200.safetensors.1.tmp").write_bytes(b"")
    assert [n for n, _ in checkpoint.steps(tmp_path)] == [9, 10, 100]
    assert checkpoint.latest(tmp_path).name == "step-100.safetensors"
    newest = tmp_path / "step-100.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert checkpoint.latest(tmp_path).name == "step-10.safetensors"


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}"):
        checkpoint.latest(tmp_path)
    with pytest.raises(CheckpointError, match="nothing"):
        checkpoint.load_tree(tmp_path / "nothing.safetensors", {})
