"""What a run writes: its directory, TensorBoard events, metrics.jsonl, checkpoints and results.

runs/<experiment>/<time>-<seed>/
    config.json environment.json experiment.py git.diff metrics.jsonl result.json events.out.*
    checkpoints/step-<n>.safetensors
"""

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib import checkpoint, machine, parallel, random, runs, tree
from lib.faults import RunError
from lib.place import Place
from lib.run import background, directory, replicas, settings
from lib.run.log import Log
from lib.run.replicas import View
from lib.tree import Tree


class Journal:
    """An open run directory. `step` is where the loop starts (0, or the checkpoint's step on resume), `device` and
    `dtype` where and in what it computes, `show_key` the key of whatever is drawn to be looked at or measured. Of
    several processes (lib/parallel.py) the one that `leads` writes and evaluates."""

    def __init__(
        self, args: settings.Args, experiment: str, source: Path, unit: str = "examples", minimise: str = "val/loss"
    ) -> None:
        """`unit`: what throughput counts. `minimise`: the tag of the held-out value by which replicas are ranked."""
        self.args, self.experiment, self.started, self.stopped = args, experiment, time.time(), False
        self.minimise, self.members = minimise, replicas.replicas(args)
        self.device = settings.device(args)
        self.dtype = settings.dtype(args, self.device)
        self.show_key = tree.to(random.fold_in(random.key(args.seed), 2), self.device)  # 0 and 1: parameters, data
        self.throughput = machine.Throughput(unit, machine.peak_flops(self.device, self.dtype))
        self.leads = parallel.rank() == 0
        self.path = Path(parallel.agree(self._chosen() if self.leads else ""))
        self.checkpoints = self.path / "checkpoints"
        # A run that was killed before its first checkpoint begins anew.
        saved = args.resume and checkpoint.steps(self.checkpoints)
        self._from = checkpoint.latest(self.checkpoints) if saved else None
        meta: dict[str, Any] = checkpoint.load_meta(self._from) if self._from else {"step": 0}
        self.step: int = meta["step"]
        self.health = replicas.Health({int(i): why for i, why in meta.get("lost", {}).items()})
        self._to_save: Tree = None
        self._final: Tree = None
        self._whole: Tree = None  # with --shard-optimizer: shapes of what is saved
        self._compiling: list[background.Compiling] = []
        self.views: list[Any] = []
        if self.leads:
            self._open(source)
        parallel.agree("the directory is there")

    def _chosen(self) -> str:
        if not self.args.resume:
            directory.check_new(self.args.run, runs.folder() / self.experiment)
        return str(self.args.run or directory.fresh(runs.folder() / self.experiment, self.args.seed))

    def _open(self, source: Path) -> None:
        """The directory and the files that are written as long as the run lives."""
        args = self.args
        result = self.path / "result.json"
        if self.step > args.steps or (self.step == args.steps and result.exists()):
            raise RunError(f"{self.path} is at step {self.step} already: go on with more --steps than that")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = directory.claim(self.path)
        checkpoint.clean(self.checkpoints, keep=2)
        if not args.resume:
            shutil.copy(source, self.path / "experiment.py")
            directory.describe_environment(self.path)
        directory.write_json(self.path / "config.json", settings.config(args))
        self.events = Log(self.path, self.step, args.resume)
        self.writer = self.events.writer
        self.views = [View(self, i) for i in range(len(self.members))] if len(self.members) > 1 else [self]

    def once(self, write: Callable[[], None]) -> None:
        """What is written when a run begins, by the process that leads; the others wait for it."""
        if self.leads and self.step == 0:
            write()
        parallel.agree("it is written")

    def each(self, state: Tree) -> Iterator[tuple[Place, Tree]]:
        """(run, state) of each replica that is finite, in the process that leads. What several replicas log is logged
        with its mean and standard deviation when the last of them is done."""
        if len(self.views) == 1:
            yield self, state
            return
        for i in self._alive():
            yield self.views[i], tree.index(state, i)
        self._log_spread()

    def _log_spread(self) -> None:
        if len(self.views) > 1:
            self.events.spread([view.take() for view in self.views])

    def _alive(self) -> list[int]:
        """Numbers of the replicas to look at."""
        self.all_finite()
        return [i for i in range(len(self.views)) if i not in self.health.lost]

    def log(self, step: int, values: dict[str, float]) -> None:
        """Scalars to TensorBoard and metrics.jsonl, after `all_finite`."""
        self.all_finite()
        if self.leads:
            self.events.scalars(step, values)

    def write(self, line: str) -> None:
        """A line to the terminal, above the progress bar."""
        if self.leads:
            tqdm.write(line, file=sys.stderr)

    def due(self, step: int, every: int) -> bool:
        """Whether something done every so many steps is to be done after this one; at the last step always."""
        return every > 0 and ((step + 1) % every == 0 or step + 1 == self.args.steps)

    def seconds(self) -> float:
        return time.time() - self.started

    def all_finite(self) -> None:
        """Looks for values since the last call that were not finite. A replica that gave one is lost: it is named with
        its step and left out from then on. Raises RunError when none is left."""
        for i in self.health.look():
            if len(self.members) > 1:
                self.write(f"replica {i} ({self.members[i]}) is left out from here on: {self.health.lost[i]}")
        if len(lost := self.health.lost) == len(self.members):
            raise RunError(
                f"{next(iter(lost.values()))}; last good checkpoint: {checkpoint.last_good(self.checkpoints)}"
            )

    def save(self, step: int, state: Tree) -> None:
        """A checkpoint of the whole state, if all losses up to here are finite. Older ones but one are removed."""
        self.all_finite()
        state = self._joined(state)
        if not parallel.same(state):
            raise RunError(f"the ranks' states differ at step {step}: gradients must go through parallel.mean")
        if self.leads:
            self._write_checkpoint(step, state)

    def _joined(self, state: Tree) -> Tree:
        """The state as one process has it."""
        return state if self._whole is None else parallel.gathered(state, self._whole, len(self.members))

    def _write_checkpoint(self, step: int, state: Tree) -> None:
        meta = {
            "step": step,
            "replicas": len(self.members),
            "lost": self.health.lost,
            "config": settings.config(self.args),
        }
        try:
            checkpoint.save_step(self.checkpoints, step, state, meta)
        except OSError as error:
            good = checkpoint.last_good(self.checkpoints)
            raise RunError(f"cannot save step-{step}.safetensors: {error}; last good checkpoint: {good}") from error

    def finish(self, results: list[tuple[dict[str, float], list[str]]], sample: str = "") -> None:
        """The final metrics and the lines to print, of each replica that `each` gave. result.json marks the run as
        finished, and the HParams tab shows the metrics in this run. Prints what to type next, `just sample` with the
        words `sample`."""
        several, alive = len(self.members) > 1, self._alive()
        measured = self.events.last(self.minimise)
        best = min(alive, key=lambda i: measured.get(i, math.inf))
        result, lines = results[alive.index(best)]
        if several:
            found = dict(zip(alive, results, strict=True))
            table = replicas.table(self.members, {i: values for i, (values, _) in found.items()}, self.health.lost)
            lines = [f"best of {len(found)} by {self.minimise}: {self.members[best]}", *lines, "", *table]
        self.events.result(self.step, settings.config(self.args), result, lines)
        self.close()
        facts: dict[str, Any] = dict(result)
        if several and self.args.keep == "best":
            self._keep(best)
        elif several:
            facts |= {"best": best, "all": [found[i][0] if i in found else None for i in range(len(self.members))]}
        directory.write_json(self.path / "result.json", facts)
        first = f"first step: {self.throughput.first:.1f} s; " if self.throughput.first else ""
        print(*lines, f"\nrun: {self.path}", f"{first}all: {self.seconds():.0f} s", sep="\n")
        print(f"next: just sample {self.experiment} {sample}".rstrip(), "      just tb", sep="\n")

    def _keep(self, best: int) -> None:
        """Turn the run into the one that the best replica would have made alone."""
        values: dict[str, Any] = {**self.members[best].values, "seed": self.members[best].seed}
        self.args = replace(self.args, **values, replicas=1, sweep=(), keep="all")
        self.members, self.health = [self.members[best]], replicas.Health({})
        self._write_checkpoint(self.step, tree.index(self._final, best))
        checkpoint.clean(self.checkpoints, keep=1)
        directory.write_json(self.path / "config.json", settings.config(self.args))

    def close(self) -> None:
        for view in self.views:
            view.writer.close()
        self.events.close()
        self._lock.release()
