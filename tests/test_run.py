"""lib/run: what a run leaves on disk, how it stops, and that it says what a person can do."""

import dataclasses
import errno
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lib import checkpoint, random, run, runs
from lib.faults import CheckpointError, RunError
from lib.run import background, directory, settings
from tests import pretend


@dataclass(frozen=True)
class Args(run.Args):
    width: int = 8
    betas: tuple[float, float] = (0.9, 0.98)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Opens runs of a made-up experiment below tmp_path, and closes them in the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp_toy.py").write_text("# the toy experiment\n")
    opened = []

    def make(unit="examples", **flags):
        opened.append(run.Run(Args(**flags), "exp_toy", tmp_path / "exp_toy.py", unit=unit))
        return opened[-1]

    yield make
    for here in opened:
        here.close()


def events(path):
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def newest(here):
    return checkpoint.load_tree(checkpoint.latest(here.checkpoints), {"w": torch.zeros(2)})["w"].tolist()


def logged(here, *tags):
    """(step, values of these tags) of the lines of metrics.jsonl that have them."""
    lines = [json.loads(line) for line in (here.path / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], *(line[tag] for tag in tags)) for line in lines if all(tag in line for tag in tags)]


# ---- the directory ----


def test_contents_of_a_run_directory(start, tmp_path):
    here = start(run=tmp_path / "here", seed=3, data_dir=Path("some") / "where")
    here.save(1, {"w": torch.ones(2)})
    files = names(here.path)
    assert [f for f in files if not f.startswith("events.out.tfevents.")] == [
        ".lock", "checkpoints", "config.json", "environment.json", "experiment.py", "git.diff", "metrics.jsonl",
    ]  # fmt: skip
    assert names(here.path / "checkpoints") == ["step-1.safetensors"]
    assert (here.path / "experiment.py").read_text() == "# the toy experiment\n"
    config = json.loads((here.path / "config.json").read_text())
    assert config["seed"] == 3 and config["data_dir"] == "some/where" and config["betas"] == [0.9, 0.98]
    assert config.keys() == {f.name for f in dataclasses.fields(Args)}
    environment = json.loads((here.path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment.keys() >= {"command", "commit", "python", "cpu"}
    assert checkpoint.load_meta(here.path / "checkpoints" / "step-1.safetensors") == {
        "step": 1,
        "replicas": 1,
        "lost": {},
        "config": config,
    }


def test_a_run_names_itself_and_never_twice(start):
    a, b = start(seed=5), start(seed=5)
    assert a.path != b.path
    for here in (a, b):
        assert re.fullmatch(r"runs/exp_toy/\d{8}-\d{6}-5(-\d)?", here.path.as_posix())


def test_runs_of_the_same_second(tmp_path, monkeypatch):
    """Each directory is made when it is named, so that no two processes can take the same one."""
    monkeypatch.setattr(time, "strftime", lambda _: "now")
    found = [directory.fresh(tmp_path / "runs", 5) for _ in range(3)]
    assert [path.name for path in found] == ["now-5", "now-5-2", "now-5-3"] and all(path.is_dir() for path in found)


def test_where_runs_are_kept(tmp_path, monkeypatch):
    """In the checkout, also for who is in a folder below it."""
    monkeypatch.chdir(runs.ROOT / "tests")
    assert runs.folder() == Path("..", "runs")
    monkeypatch.chdir(tmp_path)
    assert runs.folder() == Path("runs")


@pytest.mark.parametrize(
    "where, message",
    [
        ("", "holds other files: choose a new folder as --run"),  # the current folder
        ("exp_toy.py", "no run can be kept in exp_toy.py: "),
        ("exp_toy.py/x", "no run can be kept in exp_toy.py/x: "),
        ("/proc/x", "no run can be kept in /proc/x: "),
        ("x" * 300, "no run can be kept in xxx.*File name too long"),
        ("a\0b", "no run can be kept in "),
    ],
)
def test_where_no_run_can_begin(start, tmp_path, where, message):
    before = names(tmp_path)
    with pytest.raises(RunError, match=message):
        start(run=Path(where))
    assert names(tmp_path) == ["exp_toy.py"] and before == ["exp_toy.py"]


def test_a_place_for_new_runs_that_is_none(start, tmp_path):
    Path("runs").write_text("")
    with pytest.raises(RunError, match=r"no run can be kept in runs/exp_toy: .*runs"):
        start()


def test_a_refused_run_leaves_no_folder(tmp_path):
    directory.check_new(tmp_path / "a" / "b", tmp_path)
    directory.check_new(None, tmp_path / "runs" / "exp_toy")
    assert names(tmp_path) == []


def test_a_tracked_file_in_another_encoding(start, tmp_path, monkeypatch):
    """git.diff has its bytes, so that it can be applied."""
    real = subprocess.run
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        if words[0] == "add":
            (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
        real(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(directory, "ROOT", tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"th\xe9\n")
    here = start(run=tmp_path / "here")
    assert b"-caf\xe9\n+th\xe9\n" in (here.path / "git.diff").read_bytes()
    assert re.fullmatch("[0-9a-f]{40}", json.loads((here.path / "environment.json").read_text())["commit"])


def test_a_machine_without_git(start, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    here = start(run=tmp_path / "here")
    assert json.loads((here.path / "environment.json").read_text())["commit"] == ""


def test_a_run_is_not_started_over_another(start, tmp_path):
    start(run=tmp_path / "here", seed=1)
    before = {p: p.read_bytes() for p in (tmp_path / "here").iterdir()}
    with pytest.raises(RunError, match=r"here already holds a run.*--resume.*--run"):
        start(run=tmp_path / "here", seed=2)
    assert {p: p.read_bytes() for p in (tmp_path / "here").iterdir()} == before


def test_a_run_may_start_in_an_empty_folder_or_where_one_was_killed_as_it_began(start, tmp_path):
    (tmp_path / "here").mkdir()
    begun = start(run=tmp_path / "there")
    begun.close()
    for file in ("config.json", "metrics.jsonl", next((tmp_path / "there").glob("events*")).name):
        (tmp_path / "there" / file).unlink()
    assert start(run=tmp_path / "there").step == 0
    assert start(run=tmp_path / "here").step == 0


# ---- what it logs ----


def test_finish_puts_everything_into_one_tensorboard_run(start, tmp_path, capsys):
    here = start(run=tmp_path / "here", steps=2, seed=4)
    for n in here.progress():
        here.log(n + 1, {"train/loss": 2.0 - n, "train/lr": 0.5})
    here.throughput.first = 1.0
    here.writer.add_image("attention/cross", np.zeros((3, 4, 4)))
    here.finish([({"toy/bleu": 31.5}, ["bonjour", "salut"])], '--text "How are you?"')
    told = capsys.readouterr().out
    assert told.startswith(f"bonjour\nsalut\n\nrun: {here.path}\nfirst step: 1.0 s; all: ")
    assert told.endswith('next: just sample exp_toy --text "How are you?"\n      just tb\n')

    assert json.loads((here.path / "result.json").read_text()) == {"toy/bleu": 31.5}
    files = list(tmp_path.rglob("*tfevents*"))
    assert files and {p.parent for p in files} == {here.path}  # add_hparams would have made a run of its own
    found = events(here.path)
    assert set(found.Tags()["scalars"]) == {"train/loss", "train/lr", "final/toy/bleu"}
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]
    assert [(e.step, e.value) for e in found.Scalars("final/toy/bleu")] == [(2, 31.5)]
    assert found.Tags()["images"] == ["attention/cross"]
    assert found.Tensors("samples/final/text_summary")[0].tensor_proto.string_val == [b"    bonjour\n    salut"]

    content = {k: HParamsPluginData.FromString(v) for k, v in found.PluginTagToContent("hparams").items()}
    told = content["_hparams_/session_start_info"].session_start_info.hparams
    assert told["seed"].number_value == 4 and told["data"].string_value == "default"
    assert told.keys() == {f.name for f in dataclasses.fields(Args)}
    metrics = [m.name.tag for m in content["_hparams_/experiment"].experiment.metric_infos]
    assert metrics == ["final/toy/bleu"]  # a scalar of this run: the HParams tab shows its value
    assert "_hparams_/session_end_info" in content


def test_metrics_are_lines_of_json(start, tmp_path):
    here = start(run=tmp_path / "here")
    here.log(1, {"train/loss": 2.5})
    here.log(2, {"val/loss": 1.0, "train/lr": 0.1})
    lines = [json.loads(line) for line in (here.path / "metrics.jsonl").read_text().splitlines()]  # not closed yet
    assert [{k: v for k, v in line.items() if k != "seconds"} for line in lines] == [
        {"step": 1, "train/loss": 2.5},
        {"step": 2, "val/loss": 1.0, "train/lr": 0.1},
    ]
    assert all(0 <= line["seconds"] < 600 for line in lines)


def test_due():
    here = run.Run.__new__(run.Run)
    here.args = Args(steps=10)
    assert [n for n in range(10) if here.due(n, 4)] == [3, 7, 9]  # and at the last step
    assert [n for n in range(10) if here.due(n, 5)] == [4, 9]
    assert [n for n in range(10) if here.due(n, 1000)] == [9]
    assert not any(here.due(n, 0) for n in range(10))


# ---- what each step leaves behind ----


@pytest.fixture
def clock(monkeypatch):
    """time.perf_counter as a list of one number."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def out_of(n):
    return {"train/loss": torch.tensor(float(n)), "grad/norm": torch.tensor(n / 2, dtype=torch.bfloat16)}


def test_record_logs_and_saves_when_they_are_due(start, tmp_path):
    here = start(run=tmp_path / "here", steps=7, log_every=2, save_every=3)
    for n in here.progress():
        here.record(n, {"w": torch.full((2,), float(n))}, out_of(n))
    assert logged(here, "train/loss", "grad/norm") == [(2, 1.0, 0.5), (4, 3.0, 1.5), (6, 5.0, 2.5), (7, 6.0, 3.0)]
    assert names(here.checkpoints) == ["step-6.safetensors", "step-7.safetensors"]
    assert newest(here) == [6, 6]
    here.close()
    assert [(e.step, e.value) for e in events(here.path).Scalars("train/loss")] == [(2, 1), (4, 3), (6, 5), (7, 6)]


def test_throughput_counts_the_steps_and_nothing_between_them(start, tmp_path, clock):
    here = start(unit="pictures", run=tmp_path / "here", steps=6, log_every=2, save_every=0)
    for n in here.progress():
        clock[0] += 0.5 if n else 60  # the first compiles
        here.record(n, {}, out_of(n), units=100)
        clock[0] += 30  # an evaluation
    assert logged(here, "perf/pictures_per_second") == [(2, 200.0), (4, 200.0), (6, 200.0)]
    assert here.throughput.first == 60


def test_a_value_that_is_not_finite_is_named_with_its_step(start, tmp_path):
    """It is looked for before something is logged or saved and not in each step, which would wait for the device."""
    here = start(run=tmp_path / "here", steps=20, log_every=5, save_every=3)
    with pytest.raises(RunError, match=r"is inf at step 4; last good checkpoint: \S+step-3\.safetensors"):
        for n in here.progress():
            here.record(n, {"w": torch.ones(2)}, out_of(n) | {"grad/norm": torch.tensor(1.0 if n != 3 else math.inf)})
    assert n == 4  # found when step 5 was to be logged
    assert (here.path / "metrics.jsonl").read_text() == "" and names(here.checkpoints) == ["step-3.safetensors"]


def test_no_step_waits_for_the_device(start, tmp_path, monkeypatch):
    here, waited = start(run=tmp_path / "here", steps=20, log_every=10), []
    end = here.throughput.end
    monkeypatch.setattr(here.throughput, "end", lambda units, x: waited.append(x is not None) or end(units, x))
    for n in range(9):
        here.record(n, {}, out_of(n))
    monkeypatch.setattr(here, "log", lambda *_: None)
    here.record(9, {}, out_of(9))
    assert waited == [True] + [False] * 8 + [True]  # the first compiles; before a pause


def test_interrupted_saves_in_any_case(start, tmp_path, capsys):
    here = start(run=tmp_path / "here", steps=2)
    here.step = 2
    assert here.evaluates({"w": torch.ones(2)}) and names(here.checkpoints) == ["step-2.safetensors"]
    assert capsys.readouterr().out == "" and not here.events._lines.closed
    here.step, here.stopped = 1, True
    assert not here.evaluates({"w": torch.ones(2)}) and "step-1.safetensors" in names(here.checkpoints)
    told = capsys.readouterr().out
    assert told == f"stopped at step 1; go on with: just run exp_toy --resume --run {here.path}\n"
    assert here.events._lines.closed


def test_lines_are_written_above_the_bar(start, tmp_path, capsys):
    here = start(run=tmp_path / "here", steps=1)
    for _ in here.progress():
        here.write("step 1: bonjour")
    told = capsys.readouterr()
    assert "step 1: bonjour\n" in told.err and told.out == ""


@pytest.mark.parametrize("mode", ["on", "off"])
def test_compile(start, tmp_path, mode, capsys):
    here, state = start(run=tmp_path / mode, compile=mode), {"w": torch.ones(2)}

    def step(state, x, args):
        return {"w": state["w"] + x}, {"train/loss": state["w"].sum()}

    update = here.compile(step)
    with torch.compiler.set_stance("force_eager"):
        after, out = update(state, torch.tensor(2.0))
    assert after["w"].tolist() == [3, 3] and out["train/loss"] == 2
    assert (after is state) == (mode == "on")  # donated
    with torch.compiler.set_stance("force_eager"):
        update(after, torch.tensor(2.0))
    assert capsys.readouterr().err.count("compiling the step") == (mode == "on")  # what the wait is for, once


def test_auto_compiles_beside_the_first_steps_and_not_after_the_last(start, tmp_path, monkeypatch):
    made = []

    class Compiling:
        def __init__(self, step, tell, changed):
            self.step, self.tell, self.changed, self.stopped = step, tell, changed, 0
            made.append(self)

        def __call__(self, state, x):
            return self.step(state, x)

        def stop(self):
            self.stopped += 1

    def step(state, x, *, scale, args):
        return {"w": state["w"] + scale * x * args.width}, {"train/loss": state["w"].sum()}

    monkeypatch.setattr(background, "Compiling", Compiling)
    monkeypatch.setattr(background, "possible", lambda device: device.type == "cpu")
    monkeypatch.setattr(settings, "compiles", lambda args: args.compile != "off")
    for mode, flags in (("on", {}), ("off", {}), ("auto", {"replicas": 2})):
        start(run=tmp_path / f"{mode}{len(flags)}{flags.get('replicas')}", compile=mode, **flags).compile(step, scale=2)
    assert not made
    here, state = start(run=tmp_path / "here", compile="auto", steps=3), {"w": torch.ones(2)}
    update = here.compile(step, scale=2)
    for n in here.progress():
        assert not made[0].stopped
        state, out = update(state, torch.tensor(1.0))
        here.record(n, state, out)
        here.stopped = n == 1
    assert state["w"].tolist() == [33, 33]
    assert [(one.stopped, one.tell, one.changed) for one in made] == [(1, here.write, here.throughput.begin)]


# ---- losses that are not finite, disks that are full ----


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_stops_the_run(start, tmp_path, bad):
    here = start(run=tmp_path / "here", log_every=0, eval_every=0, save_every=7)
    for n, loss in ((5, 1.0), (6, 1.0), (7, 1.0), (8, bad), (9, float("nan"))):
        here.record(n, {"w": torch.ones(2)}, {"train/lr": torch.tensor(0.1), "train/loss": torch.tensor(loss)})
        if n == 6:
            here.save(7, {"w": torch.ones(2)})
    good = here.path / "checkpoints" / "step-7.safetensors"
    for act in (lambda: here.log(10, {"train/loss": bad}), lambda: here.save(10, {"w": torch.zeros(2)})):
        with pytest.raises(
            RunError, match=f"the loss or its gradient is {bad} at step 9; last good checkpoint: {good}"
        ):
            act()
    assert names(here.path / "checkpoints") == ["step-7.safetensors"]
    assert (here.path / "metrics.jsonl").read_text() == ""
    assert newest(here) == [1, 1]


def test_not_finite_before_any_checkpoint(start, tmp_path):
    here = start(run=tmp_path / "here")
    here.record(0, {}, {"train/loss": torch.tensor(float("nan"))})
    with pytest.raises(RunError, match="at step 1; last good checkpoint: none"):
        here.save(1, {"w": torch.ones(1)})


def test_a_full_disk_while_saving(start, tmp_path, monkeypatch):
    here = start(run=tmp_path / "here")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"step-1\.safetensors.*No space left.*last good checkpoint: none"):
            here.save(1, {"w": torch.zeros(2)})
    here.save(2, {"w": torch.ones(2)})
    monkeypatch.setattr(os, "fsync", full)
    good = here.path / "checkpoints" / "step-2.safetensors"
    with pytest.raises(RunError, match=rf"cannot save .*step-3.*No space left.*last good checkpoint: {good}"):
        here.save(3, {"w": torch.zeros(2)})
    assert names(here.path / "checkpoints") == ["step-2.safetensors"]
    assert newest(here) == [1, 1]


def test_only_the_last_two_checkpoints_are_kept(start, tmp_path):
    here = start(run=tmp_path / "here")
    for n in (8, 9, 10, 11, 11):
        here.save(n, {"w": torch.full((2,), float(n))})
    assert names(here.path / "checkpoints") == ["step-10.safetensors", "step-11.safetensors"]
    assert newest(here) == [11, 11]


# ---- Ctrl-C ----


def test_ctrl_c_finishes_the_step(start, tmp_path):
    here, before, whole = start(run=tmp_path / "here", steps=10), signal.getsignal(signal.SIGINT), []
    for n in here.progress():
        if n == 3:
            os.kill(os.getpid(), signal.SIGINT)
        whole.append(n)
    assert whole == [0, 1, 2, 3] and here.step == 4 and here.stopped
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_at_once(start, tmp_path):
    here, before, whole = start(run=tmp_path / "here", steps=10), signal.getsignal(signal.SIGINT), []
    loop = here.progress()
    with pytest.raises(KeyboardInterrupt):
        for n in loop:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            whole.append(n)
    loop.close()
    assert whole == [] and signal.getsignal(signal.SIGINT) is before


def test_a_whole_loop(start, tmp_path):
    here, before = start(run=tmp_path / "here", steps=3), signal.getsignal(signal.SIGINT)
    assert list(here.progress()) == [0, 1, 2]
    assert here.step == 3 and not here.stopped and signal.getsignal(signal.SIGINT) is before


# ---- resume ----


def test_the_port_of_tensorboard_is_taken(tmp_path):
    """`just tb` takes the next one, and says so; a port that was asked for is missed with a sentence."""
    with socket.create_server(("localhost", 0)) as taken:
        words = ["--logdir", str(tmp_path), "--host", "localhost", "--port", str(taken.getsockname()[1])]
        done = subprocess.run([sys.executable, "-m", "tensorboard.main", *words], capture_output=True, text=True)
    assert done.returncode and "could not bind to port" in done.stderr and "Traceback" not in done.stderr


def test_resume_goes_on_where_the_last_checkpoint_is(start, tmp_path):
    path = tmp_path / "here"
    first = start(run=path, steps=6)
    for n in range(5):  # killed after step 5: what came after the checkpoint is done again
        first.log(n + 1, {"train/loss": float(n)})
        if n == 2:
            first.save(3, {"w": torch.ones(2)})
    first.events._lines.write('{"step": 5, "sec')  # half a line
    first.close()

    second = start(run=path, steps=6, resume=True)
    assert second.step == 3
    for n in second.progress():
        second.log(n + 1, {"train/loss": 10.0 + n})
    second.close()
    # Every step once: what was logged up to the checkpoint stays, what was done again is replaced.
    found = events(path).Scalars("train/loss")
    assert [(e.step, e.value) for e in found] == [(1, 0), (2, 1), (3, 2), (4, 13), (5, 14), (6, 15)]
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["train/loss"]) for line in lines] == [(e.step, e.value) for e in found]


def test_the_state_before_the_first_step(start, tmp_path):
    """It and the order of the data follow from the seed alone; a resumed run has its checkpoint's."""

    def init(key, args):
        return {"w": random.normal(key, (2,))}

    a, b, c = (start(run=tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    states = [here.start(init)["w"].tolist() for here in (a, b, c)]
    assert states[0] == states[1] != states[2]
    assert torch.equal(a.show_key, b.show_key) and not torch.equal(a.show_key, c.show_key)
    assert init(a.show_key, a.args)["w"].tolist() != states[0]
    a.save(3, {"w": torch.full((2,), 7.0)})
    a.close()
    again = start(run=tmp_path / "a", seed=1, resume=True)
    assert again.start(init)["w"].tolist() == [7, 7] and again.step == 3
    assert torch.equal(again.show_key, a.show_key)
    with pytest.raises(CheckpointError, match="missing: v"):
        again.start(lambda key, args: init(key, args) | {"v": torch.ones(1)})


def test_a_resumed_run_remembers_its_new_length(start, tmp_path):
    first = start(run=tmp_path / "here", steps=10, seed=3)
    first.save(10, {"w": torch.ones(2)})
    first.close()
    start(run=tmp_path / "here", steps=20, seed=3, resume=True)
    stored = run.load_config(tmp_path / "here", Args)
    assert (stored.steps, stored.seed) == (20, 3)  # otherwise the next --resume would think it has arrived


def test_a_run_killed_before_its_first_checkpoint_begins_anew(start, tmp_path):
    first = start(run=tmp_path / "here")
    first.log(1, {"train/loss": 1.0})
    first.close()
    again = start(run=tmp_path / "here", resume=True)
    assert again.step == 0 and logged(again, "train/loss") == []
    again.save(1, {"w": torch.ones(2)})
    again.close()
    (again.checkpoints / "step-1.safetensors").write_bytes(b"half of it")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*here"):  # there was one
        start(run=tmp_path / "here", resume=True)


def test_a_run_that_was_moved_and_renamed(start, tmp_path):
    first = start(seed=3)
    first.save(3, {"w": torch.ones(2)})
    first.close()
    (tmp_path / "other" / "runs" / "exp_toy").mkdir(parents=True)
    moved = shutil.move(first.path, tmp_path / "other" / "runs" / "exp_toy" / "my best")
    again = start(run=moved, seed=3, resume=True)
    assert again.step == 3 and run.load_config(moved, Args).run == moved
    os.chdir(tmp_path / "other")
    assert runs.latest("exp_toy").name == "my best"


def test_a_run_that_another_process_writes_is_left_alone(start, tmp_path):
    first = start(run=tmp_path / "here")
    first.save(1, {"w": torch.ones(2)})
    with pytest.raises(RunError, match="here is being written by another run that is still alive"):
        start(run=tmp_path / "here", resume=True)
    first.close()
    start(run=tmp_path / "here", resume=True)


def test_a_run_that_has_arrived(start, tmp_path):
    first = start(run=tmp_path / "here", steps=4)
    first.step = 4
    first.evaluates({"w": torch.ones(2)})
    first.finish([({"loss": 1.0}, ["done"])])
    for steps in (2, 4):
        with pytest.raises(RunError, match="at step 4 already: go on with more --steps"):
            start(run=tmp_path / "here", steps=steps, resume=True)
    longer = start(run=tmp_path / "here", steps=6, resume=True)
    with pytest.raises(CheckpointError, match="missing: v"):
        longer.start(lambda key, args: {"v": torch.ones(2)})
    assert longer.step == 4 and (longer.path / "result.json").exists()
    longer.start(lambda key, args: {"w": torch.zeros(2)})
    assert not (longer.path / "result.json").exists()  # it is not finished any more


def test_a_step_is_saved_with_what_was_measured_after_it(start, tmp_path):
    here, state = start(run=tmp_path / "here", steps=2, save_every=1), {"w": torch.ones(2)}
    for n in here.progress():
        here.record(n, state, {"train/loss": torch.tensor(1.0)})
        assert f"step-{n + 1}.safetensors" not in (names(here.checkpoints) if here.checkpoints.exists() else [])
    assert names(here.checkpoints) == ["step-1.safetensors", "step-2.safetensors"]


CHANGES = {
    "shard_optimizer": True, "diagnose": 7, "steps": 7, "seed": 1, "replicas": 2, "sweep": ("width=1",), "keep": "best",
    "device": "cpu", "deterministic": True, "precision": "bf16", "compile": "on", "data": "x.tsv",
    "data_dir": Path("d"), "run": Path("r"), "resume": True, "log_every": 7, "eval_every": 7, "save_every": 7,
    "width": 16, "betas": (0.9, 0.99),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_resumed_run_may_change(name):
    changed = settings.changed_fields(Args(), dataclasses.replace(Args(), **{name: CHANGES[name]}))
    assert (name in settings.fields.free(Args)) == (changed == [])
    if name in ("seed", "replicas", "sweep", "keep", "precision", "data", "width", "betas"):
        assert changed == [f"{name}: {getattr(Args(), name)} -> {CHANGES[name]}"]
    else:
        assert changed == []


def test_all_changes_are_named():
    assert len(settings.changed_fields(Args(), dataclasses.replace(Args(), seed=1, width=16))) == 2
    assert CHANGES.keys() == {f.name for f in dataclasses.fields(Args)}


def test_a_configuration_comes_back_as_it_was(start, tmp_path):
    flags = {"run": tmp_path / "here", "data_dir": Path("a b"), "betas": (0.5, 0.6), "seed": 9}
    assert run.load_config(start(**flags).path, Args) == Args(**flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a run directory"),
        ('{"steps": 4', "is not a run directory"),
        ('{"steps": 4, "depth": 3, "colour": 1}', r"another experiment or version: no field colour, depth"),
    ],
)
def test_what_is_not_a_run_of_this_experiment(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=f"{tmp_path}.*{message}"):
        run.load_config(tmp_path, Args)


def test_a_run_made_by_older_code(tmp_path, capsys):
    """What it lacks gets its default, and is named; so is what it has and nobody knows any more."""
    (tmp_path / "config.json").write_text('{"steps": 4}')
    assert run.load_config(tmp_path, Args) == Args(steps=4)
    told = capsys.readouterr().err
    assert told.startswith(f"{tmp_path} was made before these fields were there; it is taken with ")
    assert "seed 0, replicas 1" in told and told.endswith("width 8, betas (0.9, 0.98)\n") and "steps" not in told
    (tmp_path / "config.json").write_text('{"steps": -4}')
    with pytest.raises(RunError, match="another experiment or version: --steps must be at least 0, not -4"):
        run.load_config(tmp_path, Args)


def test_the_latest_run(start):
    with pytest.raises(RunError, match=r"no run of exp_toy.*just run exp_toy.*--run"):
        runs.latest("exp_toy")
    old, new = start(seed=1), start(seed=2)
    os.utime(old.path / "config.json", (1, 1))
    assert runs.latest("exp_toy").resolve() == new.path.resolve()
    with pytest.raises(RunError, match="no finished run of exp_toy"):
        runs.latest("exp_toy", finished=True)
    old.finish([({"bleu": 1.0}, [])])
    assert runs.latest("exp_toy", finished=True).resolve() == old.path.resolve()
    assert runs.latest("exp_toy").resolve() == new.path.resolve()


# ---- where and how ----


def test_device_and_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.device(Args()) == run.device(Args(device="cpu")) == torch.device("cpu")
    with pytest.raises(RunError, match="--device cuda"):
        run.device(Args(device="cuda"))
    cpu = torch.device("cpu")
    assert run.dtype(Args(precision="fp32"), cpu) == torch.float32
    assert run.dtype(Args(precision="bf16"), cpu) == torch.bfloat16
    assert run.dtype(Args(), cpu) in (torch.float32, torch.bfloat16)


def test_compile_auto_is_for_long_runs_where_there_is_a_compiler(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert settings.compiles(Args(compile="on", steps=1)) and not settings.compiles(Args(compile="off", steps=10**6))
    assert settings.compiles(Args(steps=100_000)) and not settings.compiles(Args(steps=1))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert settings.compiles(Args(compile="on")) and not settings.compiles(Args(compile="off"))
    assert capsys.readouterr().err == ""
    assert not settings.compiles(Args(steps=100_000)) and "compiler" in capsys.readouterr().err


def test_a_gpu_needs_a_compiler_of_c_only(monkeypatch, capsys):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    with pretend.cuda():
        assert settings.compiles(Args(steps=100_000))
    assert capsys.readouterr().err == ""
    assert not settings.compiles(Args(steps=100_000, device="cpu")) and "no C++ compiler" in capsys.readouterr().err


def test_how_a_gpu_is_to_compute(monkeypatch):
    """fp32 is fp32, and the same bits every time where that is asked for."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        settings.device(Args(deterministic=True))
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not (cudnn.benchmark or cudnn.allow_tf32 or matmul.allow_tf32)
        settings.device(Args())  # of something that is loaded on the way
        assert torch.are_deterministic_algorithms_enabled() and not cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
    settings.device(Args())
    assert cudnn.benchmark
