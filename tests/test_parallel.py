"""lib/parallel.py and lib/run/launch.py: two processes on gloo do what one does, and end together."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from experiments import exp_gan_curve as exp
from lib import checkpoint, parallel, tree
from lib.run import launch as launcher
from tests import ranks

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two ranks found (tests/ranks.py)."""
    out = tmp_path_factory.mktemp("ranks") / "found.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=localhost"]
    torchrun += ["--nproc-per-node=2"]
    words = [*torchrun, "-m", "tests.ranks", out]
    done = subprocess.run(words, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", ranks.CASES)
def test_two_ranks_are_one_process_with_the_whole_batch(found, name):
    """Six steps; dropout, augmentation, latents and batch statistics included."""
    for rank in found:
        result = rank[f"equals {name}"]
        assert result["moved"] > 1e-4
        assert max(result["state"], result["out"]) < 1e-6


@pytest.mark.parametrize("name", ["transformer", "classifier", "fashion"])
def test_a_sharded_optimizer_is_the_whole_one(found, name):
    for rank in found:
        result = rank[f"sharded {name}"]
        assert (result["state"], result["back"]) == (0.0, 0.0)
        assert result["share"] < 0.8  # parameters are whole, two moments of each are halved


def test_the_step_of_several_ranks_is_one_graph(found):
    assert all(rank["compiled"]["graphs"] == 1 and rank["compiled"]["state"] < 1e-6 for rank in found)
    assert all(rank["compiled"]["classifier"] < 1e-6 for rank in found)


def test_replicas_on_several_ranks(found):
    assert all(rank["vmapped"]["state"] < 1e-6 for rank in found)


def test_draws_are_rows_of_the_global_draw(found):
    assert all(all(rank["masks"].values()) for rank in found)


@pytest.mark.parametrize("check", ["outside", "eager", "compiled", "replicas", "turned", "counts"])
def test_rows_of_all_ranks_and_of_one(found, check):
    assert all(rank["rows"][check] for rank in found)


def test_what_ranks_tell_each_other(found):
    for i, rank in enumerate(found):
        said = rank["agreement"]
        assert (said["said"], said["any"], said["none"]) == ("rank 0", True, False)
        assert said["missing"] == [[[1], []][i], []]
        assert (said["same"], said["different"]) == (True, False)
        assert said["told"] == [i == 1, False]  # what all find rank 0 tells; what rank 1 alone finds it tells itself
        assert said["refused"] == "a batch of 3 cannot be divided among 2 processes"


def test_one_process_needs_no_group():
    x = {"a": torch.ones(3), "b": torch.zeros(())}
    with parallel.together():
        assert parallel.mean(x) is x
        assert parallel.shard(x) is x
        assert (parallel.rows(5), parallel.size(), parallel.rank()) == (5, 1, 0)
        assert parallel.joined(x["a"]) is x["a"] and parallel.mine(x["a"]) is x["a"]
        assert parallel.weighted(x["b"], torch.tensor(3)) is x["b"]
    assert parallel.same(x)
    assert tree.leaves(parallel.gathered(x, x, 1)) == tree.leaves(x)


# ---- as a user ----

TINY = ["--generator", 4, "--discriminator", 4, "--batch", 8, "--log-every", 5, "--eval-every", 1000, "--device", "cpu"]


def launch(folder, n, *words, **more):
    words = [sys.executable, "-m", "lib.run.launch", n, "exp_gan_curve", *TINY, *words]
    return subprocess.Popen(
        [str(word) for word in words], env=ENVIRONMENT, cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def leaves(run):
    return checkpoint.load_file(checkpoint.latest(run / "checkpoints"))


def test_a_run_of_two_processes_resumed_by_one_is_the_run_of_one(tmp_path, call):
    two = ["--run", tmp_path / "two", "--steps", 20, "--save-every", 10, "--shard-optimizer"]
    out, error = launch(tmp_path, 2, *two).communicate()
    assert "run: " in out, error
    assert out.count("median squared error") == 1  # one process prints and writes
    assert len(list((tmp_path / "two").glob("events*"))) == 1
    assert [json.loads(line)["step"] for line in (tmp_path / "two/metrics.jsonl").open()].count(5) == 2
    (tmp_path / "two/checkpoints/step-20.safetensors").unlink()
    (tmp_path / "two/result.json").unlink()
    status, _, error = call(exp, "--resume", "--run", tmp_path / "two")  # from step 10, with a whole optimiser
    assert status == 0, error
    status, _, error = call(exp, *TINY, "--run", tmp_path / "one", "--steps", 20)
    assert status == 0, error
    one, both = leaves(tmp_path / "one"), leaves(tmp_path / "two")
    assert one.keys() == both.keys()
    for name in one:
        torch.testing.assert_close(one[name], both[name], atol=1e-6, rtol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of child processes")
def test_a_rank_that_dies_is_named_and_the_last_checkpoint_loads(tmp_path):
    process = launch(tmp_path, 2, "--run", tmp_path / "run", "--steps", 100_000, "--save-every", 5)
    try:
        while not list(tmp_path.glob("run/checkpoints/step-*")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        os.kill(rank_1(process.pid), signal.SIGKILL)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "error: rank 1 was killed by SIGKILL" in error
    assert leaves(tmp_path / "run")["step"] % 5 == 0


def rank_1(pid):
    for child in children(pid):
        if b"RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
            return child
    raise AssertionError("no rank 1")


def test_ctrl_c_stops_all_ranks_at_one_step(tmp_path):
    process = launch(tmp_path, 2, "--run", tmp_path / "run", "--steps", 100_000, "--save-every", 1000)
    while not (tmp_path / "run/metrics.jsonl").exists() or not (tmp_path / "run/metrics.jsonl").read_text():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    step = int(re.search(r"stopped at step (\d+)", out)[1])
    assert step % 10 == 0
    assert leaves(tmp_path / "run")["step"] == step


@pytest.mark.parametrize("words", [[], ["0", "exp_gan_curve"], ["two", "exp_gan_curve"], ["2"]])
def test_the_launcher_says_how_it_is_used(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["launch", *words])
    with pytest.raises(SystemExit, match="2"):
        launcher.main()
    assert "just run-multi 2" in capsys.readouterr().err
