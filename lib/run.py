"""What every run has: a directory, TensorBoard events, metrics.jsonl, checkpoints, progress, resume and Ctrl-C.

runs/<experiment>/<time>-<seed>/
    config.json environment.json experiment.py git.diff metrics.jsonl result.json events.out.*
    checkpoints/step-<n>.safetensors
"""

import dataclasses
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from lib import checkpoint, metrics, random, tree
from lib.random import Key
from lib.transform import jit
from lib.tree import Tree

RUNS = Path("runs")
KEPT_CHECKPOINTS = 2


class RunError(Exception):
    """A run that cannot start or go on, with what to do about it."""


@dataclass(frozen=True)
class Args:
    """Flags that mean the same in every experiment."""

    steps: int = 1000
    """Updates of the optimiser; the learning-rate schedule ends there."""
    seed: int = 0
    """Decides every random number of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward and backward pass; parameters stay fp32. auto: bf16 where the hardware multiplies it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """auto: on for runs long enough to earn the compile time back."""
    data: str = "default"
    """Name of a data set, or a path."""
    data_dir: Path | None = None
    """Where to look for data files before downloading them."""
    run: Path | None = None
    """Run directory; a name of its own under runs/ if not given."""
    resume: bool = False
    """Continue the run given by --run, or the latest one, with its own configuration."""
    log_every: int = 20
    """Steps between log entries."""
    eval_every: int = 250
    """Steps between evaluations on held-out data."""
    save_every: int = 500
    """Steps between checkpoints."""


# A resumed run may change these: they do not enter the function that is trained (but for the end of the schedule).
FREE_FIELDS = {"steps", "device", "compile", "data_dir", "run", "resume", "log_every", "eval_every", "save_every"}


def device(args: Args) -> torch.device:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda: torch finds no CUDA device here")
    return torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")


def dtype(args: Args, device: torch.device) -> torch.dtype:
    """auto: bf16 on GPUs from Ampere on and on CPUs with AVX-512 BF16 or AMX, where it was 2 to 5 times as fast as
    fp32 (LOG.md); emulated bf16 is slower."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if args.precision == "bf16" or (args.precision == "auto" and fast) else torch.float32


def compiles(args: Args) -> bool:
    """auto: where there is a C++ compiler, which torch.compile needs, for runs of 500 steps and more: a cold
    compilation costs as much as some 400 steps gain on two cores (LOG.md)."""
    if args.compile != "auto":
        return args.compile == "on"
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    if not any(shutil.which(name) for name in compilers if name):
        print("no C++ compiler found, so torch.compile is off: steps take about twice as long", file=sys.stderr)
        return False
    return args.steps >= 500


class Run:
    """An open run directory. `step` is where the loop starts (0, or the checkpoint's step on resume), `device` and
    `dtype` where and in what it computes, `data_key` decides the order of the data."""

    def __init__(self, args: Args, experiment: str, source: Path, unit: str = "examples") -> None:
        """`unit`: what throughput counts."""
        self.args, self.experiment, self.started, self.stopped = args, experiment, time.time(), False
        self.device = device(args)
        self.dtype = dtype(args, self.device)
        self.throughput = metrics.Throughput(unit, metrics.peak_flops(self.device, self.dtype))
        self._init_key, self.data_key = random.split(random.key(args.seed))
        self.path = args.run or _fresh(RUNS / experiment, args.seed)
        if not args.resume:
            if (self.path / "config.json").exists():
                raise RunError(f"{self.path} already holds a run: continue it with --resume, or choose another --run")
            self.path.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, self.path / "experiment.py")
            self._describe_environment()
        self.checkpoints, log = self.path / "checkpoints", self.path / "metrics.jsonl"
        self.step = checkpoint.load_meta(checkpoint.latest(self.checkpoints))["step"] if args.resume else 0
        _write_json(self.path / "config.json", config(args))
        # What was logged after the checkpoint is done again: it leaves TensorBoard and metrics.jsonl.
        log.write_text("".join(f"{line}\n" for line in _lines_up_to(log, self.step)))
        self.writer = SummaryWriter(str(self.path), purge_step=self.step + 1 if args.resume else None)
        self.metrics = open(log, "a", buffering=1)  # noqa: SIM115 (open as long as the run)
        self._unchecked: list[tuple[int, list[Tensor]]] = []

    def start(self, init: Callable[[Key], Tree]) -> Tree:
        """The state before the first step, `init(key)`; on resume the latest checkpoint's."""
        state = init(tree.to(self._init_key, self.device))
        if self.args.resume:
            state = checkpoint.load_tree(checkpoint.latest(self.checkpoints), state, self.device)
        return state

    def compile(self, step: Callable) -> Callable[..., tuple[Tree, dict[str, Tensor]]]:
        """`step(state, ...) -> (state, out)`, compiled with donated state where --compile says so."""
        return jit(step, enabled=compiles(self.args))

    def record(self, n: int, state: Tree, out: dict[str, Tensor], units: int = 0) -> None:
        """After update number n (from 0): counts what it worked on, logs `out` every `log_every` steps and saves the
        state every `save_every`. Every value of `out` is checked to be finite, not at once, but before anything is
        logged or saved, so that no step waits for the device."""
        self._unchecked.append((n + 1, [x.detach() for x in out.values()]))
        pause = any(self.due(n, every) for every in (self.args.log_every, self.args.eval_every, self.args.save_every))
        self.throughput.end(units, next(iter(out.values())) if pause or not self.throughput.first else None)
        if self.due(n, self.args.log_every):
            self.log(n + 1, {name: float(x) for name, x in out.items()} | self.throughput.read())
        if self.due(n, self.args.save_every):
            self.save(n + 1, state)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Scalars to TensorBoard and metrics.jsonl, after `all_finite`."""
        self.all_finite()
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self.metrics.write(json.dumps({"step": step, "seconds": round(self.seconds(), 2), **values}) + "\n")

    def write(self, line: str) -> None:
        """A line to the terminal, above the progress bar."""
        self.bar.write(line, file=sys.stderr)

    def due(self, step: int, every: int) -> bool:
        """Whether something done every so many steps is to be done after this one; at the last step always."""
        return every > 0 and ((step + 1) % every == 0 or step + 1 == self.args.steps)

    def seconds(self) -> float:
        return time.time() - self.started

    def all_finite(self) -> None:
        """Raises RunError naming the first step since the last call that gave a value that was not finite."""
        if not self._unchecked:
            return
        finite = torch.stack([torch.isfinite(torch.stack(values)).all() for _, values in self._unchecked]).tolist()
        if not all(finite):
            step, values = self._unchecked[finite.index(False)]
            value = next(float(x) for x in values if not math.isfinite(x))
            raise RunError(
                f"the loss or its gradient is {value} at step {step}; last good checkpoint: {self._last_good()}"
            )
        self._unchecked.clear()

    def _last_good(self) -> str:
        return next((str(path) for _, path in reversed(checkpoint.steps(self.checkpoints))), "none")

    def save(self, step: int, state: Tree) -> None:
        """A checkpoint of the whole state, if all losses up to here are finite. Older ones but one are removed."""
        self.all_finite()
        path = self.checkpoints / f"step-{step}.safetensors"
        try:
            checkpoint.save_tree(path, state, {"step": step, "config": config(self.args)})
        except OSError as error:
            raise RunError(f"cannot save {path}: {error}; last good checkpoint: {self._last_good()}") from error
        for _, old in checkpoint.steps(self.checkpoints)[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def progress(self) -> Iterator[int]:
        """Step numbers from `self.step` to the last, behind a progress bar with ETA. Ctrl-C ends the loop after the
        step it is in and sets `self.stopped`; a second one ends at once."""

        def stop(*_: Any) -> None:
            self.stopped = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = signal.signal(signal.SIGINT, stop)
        often = 0.1 if sys.stderr.isatty() else 10.0  # seconds; a log file needs fewer lines
        bar = tqdm(total=self.args.steps, initial=self.step, unit="step", dynamic_ncols=True, mininterval=often)
        self.bar = bar
        try:
            for step in range(self.step, self.args.steps):
                self.throughput.begin()
                yield step
                self.step = step + 1
                bar.update()
                if self.stopped:
                    break
        finally:
            bar.close()
            signal.signal(signal.SIGINT, before)

    def interrupted(self, state: Tree) -> bool:
        """After the loop: saves the state. True where Ctrl-C ended the loop; the run is then closed."""
        self.save(self.step, state)
        if self.stopped:
            self.close()
            print(f"stopped at step {self.step}; go on with: just run {self.experiment} --resume --run {self.path}")
        return self.stopped

    def finish(self, result: dict[str, float], lines: list[str], sample: str = "") -> None:
        """The final metrics: result.json marks the run as finished, and the HParams tab shows them in this run. Prints
        `lines` and what to type next, `just sample` with the words `sample`."""
        flat = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in config(self.args).items()}
        # SummaryWriter.add_hparams would start a second run (pytorch #37738): write its summaries into this one.
        for summary in hparams(flat, {f"final/{k}": v for k, v in result.items()}):
            self.writer._get_file_writer().add_summary(summary)
        self.log(self.step, {f"final/{k}": v for k, v in result.items()})
        self.writer.add_text("samples/final", "    " + "\n    ".join(lines), self.step)
        self.close()
        _write_json(self.path / "result.json", result)
        first = f"first step (with compilation): {self.throughput.first:.1f} s; " if self.throughput.first else ""
        print(*lines, f"\nrun: {self.path}", f"{first}all: {self.seconds():.0f} s", sep="\n")
        print(f"next: just sample {self.experiment} {sample}".rstrip(), "      just tb", sep="\n")

    def close(self) -> None:
        self.writer.close()
        self.metrics.close()

    def _describe_environment(self) -> None:
        git = lambda *words: subprocess.run(["git", *words], capture_output=True, text=True).stdout  # noqa: E731
        try:
            commit, diff = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
        except OSError:  # no git on this machine
            commit, diff = "", ""
        (self.path / "git.diff").write_text(diff)
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        facts: dict[str, Any] = {
            "command": sys.argv,
            "commit": commit,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        facts |= {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "gpu": gpu}
        _write_json(self.path / "environment.json", facts)


def _lines_up_to(log: Path, step: int) -> list[str]:
    """The whole lines of a metrics.jsonl up to a step; a killed run may have left half of one."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [line.rstrip() for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]


def config(args: Args) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(args).items()}


def load_config(path: Path, kind: type) -> Any:
    """The dataclass `kind` from a run's config.json."""
    try:
        stored = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not a run directory: {error}") from error
    names = {f.name for f in dataclasses.fields(kind)}
    if stored.keys() - names:
        raise RunError(f"{path} is a run of another experiment or version: {sorted(stored.keys() - names)}")
    for name in ("data_dir", "run"):
        stored[name] = Path(stored[name]) if stored.get(name) else None
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()})


def changed_fields(stored: Args, wanted: Args) -> list[str]:
    """`name: old -> new` of every field that a resumed run may not change."""
    pairs = [(f.name, getattr(stored, f.name), getattr(wanted, f.name)) for f in dataclasses.fields(stored)]
    return [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new and name not in FREE_FIELDS]


def latest_run(experiment: str, finished: bool = False) -> Path:
    """The newest run directory of an experiment; `finished`: that has a result. Raises RunError."""
    runs = sorted((RUNS / experiment).glob("*/config.json"), key=lambda p: p.stat().st_mtime)
    chosen = [p.parent for p in runs if not finished or (p.parent / "result.json").exists()]
    if not chosen:
        kind = "finished run" if finished else "run"
        raise RunError(f"no {kind} of {experiment} under {RUNS}/: make one with `just run {experiment}`, or give --run")
    return chosen[-1]


def _fresh(folder: Path, seed: int) -> Path:
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}"
    taken = [folder / name, *(folder / f"{name}-{i}" for i in range(2, 1000))]
    return next(path for path in taken if not path.exists())


def _write_json(path: Path, value: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=2, default=str) + "\n")
    os.replace(part, path)
