"""Processes that answer for experiments (lib/run/worker.py): started when they are asked, kept warm, killed to stop."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from lib.runs import ROOT

MOST = 2  # processes at a time: each holds a model
LIMIT = 900.0  # seconds that one request may take


def serving(experiment: str) -> list[str]:
    return [sys.executable, "-P", "-m", "experiments", experiment, "serve"]


class Worker:
    """`alone`: in a group of its own, which Ctrl-C does not reach, and which is killed as a whole."""

    def __init__(self, command: list[str], alone: bool = True) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.killed = self.late = False
        self.alone = alone and os.name == "posix"
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path},
            start_new_session=alone,
        )  # fmt: skip

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.killed = True
        if self.alone and self.alive():
            os.killpg(self.process.pid, signal.SIGKILL)  # with the processes that it asks
        self.process.kill()
        self.process.wait()

    def expire(self) -> None:
        self.late = True
        self.kill()

    def ask(self, request: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The answers, `end` or `error` last. Whoever leaves before the last one kills the process."""
        assert self.process.stdin and self.process.stdout
        clock, done = threading.Timer(LIMIT, self.expire), False
        clock.daemon = True
        clock.start()
        try:
            with suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.stdin.flush()
            for line in self.process.stdout:
                if not line.endswith(b"\n"):  # it was killed while it wrote
                    break
                answer = json.loads(line)
                if answer["kind"] == "ready":
                    continue
                done = answer["kind"] in ("end", "error")
                yield answer
                if done:
                    return
            done = True
            yield {"kind": "error", "message": self._ended()}
        finally:
            clock.cancel()
            if not done:
                self.kill()

    def _ended(self) -> str:
        code = self.process.wait()
        if self.late:
            return f"the model took more than {LIMIT:g} seconds and was stopped: ask for less"
        if self.killed:
            return "stopped"
        if code == -signal.SIGKILL:
            return "the system ended the model's process, perhaps for lack of memory: ask for less"
        return f"the model's process ended with status {code}: the terminal says why"


class Pool:
    """Of at most MOST workers, the one that was asked last stays longest. `command`: what starts an experiment's;
    `alone`: as of a worker."""

    def __init__(self, command: Callable[[str], list[str]] = serving, alone: bool = True) -> None:
        self.command, self.alone = command, alone
        self.workers: dict[str, Worker] = {}
        self.lock = threading.Lock()

    def get(self, experiment: str) -> Worker:
        """Raises OSError where no process can be started."""
        with self.lock:
            worker = self.workers.pop(experiment, None)
            if worker is None or not worker.alive():
                while len(self.workers) >= MOST:
                    self.workers.pop(next(iter(self.workers))).kill()
                worker = Worker(self.command(experiment), self.alone)
            self.workers[experiment] = worker
            return worker

    def stop(self) -> None:
        """Kill them all: what is worked on ends with an error that says so."""
        with self.lock:
            while self.workers:
                self.workers.popitem()[1].kill()
