"""lib/run/background.py: steps before, at and after the change, and that no child outlives its run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from lib import tree
from lib.run import background
from lib.transform import value_and_grad

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def step(state, x):
    value, grads = value_and_grad(lambda p: (x @ p["w"]).tanh().square().mean())(state["p"])
    return {"p": tree.map(lambda p, g: p - 0.1 * g, state["p"], grads), "n": state["n"] + 1}, {"train/loss": value}


def first():
    return {"p": {"w": torch.linspace(-1, 1, 12).view(3, 4)}, "n": torch.zeros((), dtype=torch.int32)}


X = torch.linspace(0, 1, 15).view(5, 3)


@pytest.fixture
def begin():
    """`(update, lines)` of a step that is compiled in the background. What is left of it is stopped in the end."""
    made, before = [], torch.get_num_threads()
    torch.set_num_threads(2)

    def make(step, changed=lambda: None):
        lines = []
        made.append(background.Compiling(step, lines.append, changed, backend="aot_eager"))
        return made[-1], lines

    yield make
    for update in made:
        update.stop()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def finished(update):
    """Waits for the child."""
    update._child.join(120)
    assert update._child.exitcode is not None


def slow(*_, **__):
    subprocess.run(["sleep", "300"])


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition):
    since = time.monotonic()
    while not condition():
        assert time.monotonic() - since < 60
        time.sleep(0.02)


def test_steps_are_eager_then_compiled_and_give_the_same(begin):
    counters.clear()
    changes = []

    def told(state, x):
        new, out = step(state, x)
        return new, out if torch.compiler.is_compiling() else out | {"n": new["n"]}

    update, lines = begin(told, lambda: changes.append(update._calls))
    state, expected, outs, expected_outs = first(), first(), [], []
    for n in range(6):
        if n == 3:
            finished(update)
        old = state["p"]["w"].data_ptr()
        state, out = update(state, X)
        outs.append(out)
        expected, expected_out = told(expected, X) if n < 3 else step(expected, X)
        expected_outs.append(expected_out)
        assert (state["p"]["w"].data_ptr() == old) == (n > 3)  # donated: the first compiled step's state is a copy
        assert torch.get_num_threads() == (1 if n < 3 else 2)
    assert changes == [3] and not counters["stats"]  # this process traced nothing
    torch.testing.assert_close(state, expected)
    torch.testing.assert_close(outs, expected_outs)  # what eager steps gave of their states is not written to later
    assert lines[0].startswith("compiling in the background") and lines[1].endswith("in which 3 steps were done")
    assert len(lines) == 2


def test_other_shapes_are_compiled_when_they_come(begin):
    update, _ = begin(step)
    state, _ = update(first(), X)
    finished(update)
    state, _ = update(state, X)
    torch.testing.assert_close(update(tree.map(torch.clone, state), X[:2]), step(state, X[:2]))


def after_tracing_and_threads():
    """In a process of its own, where nothing was differentiated before: what the second line says."""
    torch.compile(torch.sin, backend="aot_eager")(torch.ones(2))
    w = torch.ones(500, 500, requires_grad=True)
    (w @ w).relu().sum().backward()
    lines = []
    update = background.Compiling(step, lines.append, lambda: None, backend="aot_eager")
    state, _ = update(first(), X)
    finished(update)
    update(state, X)
    print(lines[1])


def test_the_run_may_have_traced_and_used_autograd_and_threads():
    code = "import lib, torch; torch.set_num_threads(2); from tests import test_background as this; {}"
    code = code.format("this.after_tracing_and_threads()")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.stdout.startswith("compiled in "), done.stdout + done.stderr


def test_the_next_run_finds_what_this_one_compiled(begin, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    kept = []
    for _ in range(2):
        update, _ = begin(step)
        update(first(), X)
        finished(update)
        update.stop()
        kept.append(sorted(path.name for path in (tmp_path / "aotautograd").iterdir()))
    assert len(kept[0]) == 1 and kept[1] == kept[0]


def test_a_step_that_cannot_be_compiled_says_why(begin):
    def bad(state, x):
        new, out = step(state, x)
        print("told", float(out["train/loss"]))  # a graph break
        return new, out

    update, lines = begin(bad)
    state, _ = update(first(), X)
    finished(update)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        update(state, X)
    assert lines[1].startswith("compiling in the background failed (Unsupported: ")
    assert lines[1].endswith("): the next step compiles")


def test_an_artefact_that_cannot_be_loaded_is_made_here(begin):
    update, lines = begin(step)
    state, _ = update(first(), X)
    finished(update)
    update._path.write_bytes(b"half an artefact")
    torch.testing.assert_close(update(tree.map(torch.clone, state), X), step(state, X))
    assert lines[1].startswith("compiling in the background failed (")


def test_a_child_that_is_killed_leaves_eager_steps(begin, monkeypatch):
    monkeypatch.setattr(torch, "compile", slow)
    update, lines = begin(step)
    state, _ = update(first(), X)
    os.kill(update._child.pid, signal.SIGKILL)
    finished(update)
    torch.testing.assert_close(update(state, X), step(state, X))
    assert lines[1] == "the compiling process was killed by SIGKILL: going on uncompiled"


def test_stop_ends_the_child_and_its_compilers(begin, monkeypatch):
    monkeypatch.setattr(torch, "compile", slow)
    update, lines = begin(step)
    state, _ = update(first(), X)
    child = update._child.pid
    children = Path(f"/proc/{child}/task/{child}/children")
    until(children.read_text)
    compiler = int(children.read_text())
    update.stop()
    assert not alive(child) and not update._path.parent.exists()
    until(lambda: not alive(compiler))
    torch.testing.assert_close(update(state, X), step(state, X))
    assert len(lines) == 1


def test_no_child_outlives_its_run():
    """Three runs, forks of one process that has loaded torch, each ended by another signal."""
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    code = """
import os, time, torch
from tests.test_background import X, background, first, step
torch.compile = lambda *_, **__: time.sleep(300)
for _ in range(3):
    if not os.fork():
        update = background.Compiling(step, lambda line: None, lambda: None)
        update(first(), X)
        os.write(1, f"{os.getpid()} {update._child.pid}\\n".encode())  # in one piece, also unbuffered
        time.sleep(300)
for _ in range(3):
    os.wait()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    runs = []
    try:
        runs = [tuple(map(int, parent.stdout.readline().split())) for _ in signals]
        assert all(alive(pid) for pair in runs for pid in pair)
        for (run, child), number in zip(runs, signals, strict=True):
            os.kill(run, number)
            until(lambda run=run: not alive(run))
            until(lambda child=child: not alive(child))
    finally:
        parent.kill()
        parent.wait()
        for pid in (pid for pair in runs for pid in pair if alive(pid)):
            os.kill(pid, signal.SIGKILL)


def test_where_it_is_possible(monkeypatch):
    torch.set_num_threads(2)
    assert background.possible(torch.device("cpu")) and not background.possible(torch.device("cuda"))
    torch.set_num_threads(1)
    assert not background.possible(torch.device("cpu"))
    torch.set_num_threads(2)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not background.possible(torch.device("cpu"))
