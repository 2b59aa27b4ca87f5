"""Stages of `just gpu` in processes of their own, which take turns on one GPU.

What is timed holds an exclusive lock on OUT/lock from its first kernel on, and stops the trainings meanwhile; what only
uses the GPU shares the lock; what compiles needs none. A result is a line of OUT/gpu.jsonl.
"""

import atexit
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTED = float(os.environ.setdefault("GPU_STARTED", str(time.time())))
HELD: list[Any] = []  # files whose locks this process keeps: a file that is forgotten is closed, and its lock lost
STAGE = "--stage"  # before one stage and its arguments, for a process of its own


@dataclass(frozen=True)
class Flags:
    """What every stage is told."""

    budget: float = 560.0
    """Seconds in all."""
    data_dir: Path | None = None
    """Where to look for data files before downloading them."""
    out: Path = Path("runs/gpu")
    """Where gpu.jsonl, logs and the runs go."""
    dry: bool = False
    """Tiny sizes on a CPU, one stage after another, nothing compiled."""


def now() -> float:
    """Seconds since all of it began."""
    return time.time() - STARTED


def emit(args: Flags, stage: str, **row: Any) -> None:
    """A result, at once: a line of gpu.jsonl and of the terminal."""
    line = json.dumps({"stage": stage, "t": round(now(), 1), **row}, default=str)
    with open(args.out / "gpu.jsonl", "a") as file:
        file.write(line + "\n")
    print(line[:400], flush=True)


def failed(args: Flags, words: list[str], error: BaseException) -> None:
    emit(args, "failed", child=" ".join(words), error=f"{type(error).__name__}: {str(error)[:500]}")


def signal_all(out: Path, number: signal.Signals) -> int:
    """Stops the trainings, or lets them go on. How many there are."""
    trainings = [int(path.suffix[1:]) for path in out.glob("training.*")]
    for pid in trainings:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(trainings)


class Turn:
    """The lock on the GPU. `take` it when what is compiled is about to run; it is held as long as the process lives."""

    def __init__(self, args: Flags, exclusive: bool = True) -> None:
        self.file, self.held = open(args.out / "lock", "a"), args.dry  # noqa: SIM115
        self.kind, self.out, self.dry = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, args.out, args.dry

    def take(self) -> None:
        if self.held:
            return
        fcntl.flock(self.file, self.kind)
        HELD.append(self.file)
        self.held = True
        if self.kind == fcntl.LOCK_EX and signal_all(self.out, signal.SIGSTOP):
            atexit.register(signal_all, self.out, signal.SIGCONT)
            time.sleep(0.5)  # what they have asked of the GPU is done by then

    def backend(self, options: dict | None = None) -> Callable:
        """inductor, whose compiled function waits for its turn before it runs."""

        def compiled(graph: Any, inputs: list, **_: Any) -> Callable:
            from torch._inductor.compile_fx import compile_fx  # loads the compiler

            fn = compile_fx(graph, inputs, config_patches=options or {})

            def call(*args: Any) -> Any:
                self.take()
                return fn(*args)

            return call

        return compiled


def pass_by(args: Flags) -> None:
    """Waits until nobody has the GPU to himself."""
    with open(args.out / "lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)


class Child:
    """A stage in a process of its own, and its children's."""

    def __init__(self, args: Flags, words: list[str], nice: int) -> None:
        self.args, self.words = args, words
        name = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower())[:60]
        given = ["--budget", str(args.budget), "--out", str(args.out)]
        given += ["--data-dir", str(args.data_dir)] if args.data_dir else []
        command = ["nice", "-n", str(nice), sys.executable, "-m", "tests.bench.gpu", *given, STAGE, json.dumps(words)]
        env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "PYTHONUNBUFFERED": "1"}
        # A compile cache of its own: processes that share one wait for one another.
        env |= {"TORCHINDUCTOR_CACHE_DIR": str(args.out / "inductor" / name), "TORCHINDUCTOR_COMPILE_THREADS": "6"}
        self.log = args.out / f"{name}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )

    def over(self) -> bool:
        if self.process.poll() is None:
            return False
        if self.process.returncode:
            signal_all(self.args.out, signal.SIGCONT)  # what it stopped, if it could not let it go on
            last = [line[:300] for line in self.log.read_text().strip().splitlines()[-6:]]
            emit(self.args, "failed", child=" ".join(self.words), rc=self.process.returncode, last=last)
        return True

    def kill(self) -> None:
        emit(self.args, "out of time", child=" ".join(self.words))
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait(children: list[Child], until: float) -> None:
    """Until all are over; at the time `until` those that are not are ended."""
    left = list(children)
    while left and now() < until:
        left = [child for child in left if not child.over()]
        time.sleep(0.1)
    for child in left:
        child.kill()
