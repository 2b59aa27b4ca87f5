"""What every run has: a directory, TensorBoard events, metrics.jsonl, checkpoints, progress, resume and Ctrl-C.

runs/<experiment>/<time>-<seed>/
    config.json environment.json experiment.py git.diff metrics.jsonl result.json events.out.*
    checkpoints/step-<n>.safetensors
"""

import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lib import background, checkpoint, metrics, parallel, prefetch, random, replicas, rundir, tree
from lib.log import Lines, Log
from lib.replicas import View
from lib.rundir import load
from lib.settings import RUNS, Args, RunError, compiles, config, device, dtype, latest_run, load_config
from lib.tree import Tree

__all__ = ["Args", "Run", "RunError", "View", "device", "dtype", "latest_run", "load", "load_config"]
RANKS_AGREE_EVERY = 10  # steps between which several processes ask each other whether to stop


class Run:
    """An open run directory. `step` is where the loop starts (0, or the checkpoint's step on resume), `device` and
    `dtype` where and in what it computes, `show_key` the key of whatever is drawn to be looked at or measured. Of
    several processes (lib/parallel.py) the one that `leads` writes and evaluates."""

    def __init__(
        self, args: Args, experiment: str, source: Path, unit: str = "examples", minimise: str = "val/loss"
    ) -> None:
        """`unit`: what throughput counts. `minimise`: the tag of the held-out value by which replicas are ranked."""
        self.args, self.experiment, self.started, self.stopped = args, experiment, time.time(), False
        self.minimise, self.members = minimise, replicas.replicas(args)
        self.device = device(args)
        self.dtype = dtype(args, self.device)
        self.show_key = tree.to(random.fold_in(random.key(args.seed), 2), self.device)  # 0 and 1: parameters, data
        self.throughput = metrics.Throughput(unit, metrics.peak_flops(self.device, self.dtype))
        self.leads = parallel.rank() == 0
        self.path = Path(parallel.agree(str(args.run or rundir.fresh(RUNS / experiment, args.seed))))
        self.checkpoints = self.path / "checkpoints"
        # A run that was killed before its first checkpoint begins anew.
        saved = args.resume and checkpoint.steps(self.checkpoints)
        self._from = checkpoint.latest(self.checkpoints) if saved else None
        meta: dict[str, Any] = checkpoint.load_meta(self._from) if self._from else {"step": 0}
        self.step: int = meta["step"]
        self.health = replicas.Health({int(i): why for i, why in meta.get("lost", {}).items()})
        self._to_save: Tree = None
        self._whole: Tree = None  # with --shard-optimizer: shapes of what is saved
        self._compiling: list[background.Compiling] = []
        self.views: list[Any] = []
        if self.leads:
            self._open(source)
        parallel.agree("the directory is there")

    def _open(self, source: Path) -> None:
        """The directory and the files that are written as long as the run lives."""
        args = self.args
        result = self.path / "result.json"
        if not args.resume and (self.path / "config.json").exists():
            raise RunError(f"{self.path} already holds a run: continue it with --resume, or choose another --run")
        if self.step > args.steps or (self.step == args.steps and result.exists()):
            raise RunError(f"{self.path} is at step {self.step} already: go on with more --steps than that")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = rundir.claim(self.path)
        result.unlink(missing_ok=True)  # a finished run that is to go on is not finished
        checkpoint.clean(self.checkpoints, keep=2)
        if not args.resume:
            shutil.copy(source, self.path / "experiment.py")
            rundir.describe_environment(self.path)
        rundir.write_json(self.path / "config.json", config(args))
        self.events = Log(self.path, self.step, args.resume)
        self.writer = self.events.writer
        self.views = [View(self, i) for i in range(len(self.members))] if len(self.members) > 1 else [self]

    def start(self, init: Callable[..., Tree], **fixed: Any) -> Tree:
        """The state before the first step, `init(key, args=..., **fixed)`, stacked over replicas where there are
        several; on resume the latest checkpoint's. Raises RunError where there is no memory for so many."""

        def one(member: replicas.Replica, **values: Any) -> Tree:
            key, _ = random.split(random.key(member.seed))
            args = replicas.with_values(self.args, {**member.values, **values})
            return init(tree.to(key, self.device), args=args, **fixed)

        n, state = len(self.members), one(self.members[0])
        if n > 1:
            replicas.check_memory(n, state, self.device)
            first, state = state, tree.map(lambda x: x.new_empty(n, *x.shape), state)
            for i, member in enumerate(self.members):
                tree.map(lambda stack, x, i=i: stack[i].copy_(x), state, one(member) if i else first)
        if self.args.shard_optimizer:
            whole = tree.to(one(self.members[0], shard_optimizer=False), "meta")
            self._whole = tree.map(lambda x: x.expand(n, *x.shape), whole) if n > 1 else whole
        if self._from:
            like = state if self._whole is None else self._whole
            saved = checkpoint.load_tree(self._from, like, self.device)
            state = parallel.scattered(saved, state, n)
        return state

    def compile(self, step: Callable, **fixed: Any) -> Callable[..., tuple[Tree, dict[str, Tensor]]]:
        """`update(state, batch, *shared) -> (state, out)` of `step(state, batch, *shared, args=..., **fixed)`, compiled
        with donated state where --compile says so, with `auto` on a CPU beside the first, eager steps. With several
        replicas state and batch are stacked, and the faster of one vmapped step and one step after another is chosen.
        With several processes it is one step of all."""
        args, step, enabled = self.args, partial(step, **fixed), compiles(self.args)
        alone = len(self.members) * parallel.size() == 1
        update: Callable[..., tuple[Tree, dict[str, Tensor]]]
        unsaid = []  # before the first step
        if alone and enabled and args.compile == "auto" and background.possible(self.device):
            step = partial(step, args=replicas.with_values(args, self.members[0].values))
            update = background.Compiling(step, self.write, self.throughput.begin)
            self._compiling.append(update)
        else:
            name = f"{self.experiment} {self.device} {self.dtype} {enabled} {torch.__version__}"
            update = replicas.updates(self.members, step, args, enabled, self.device, name, self.write)
            unsaid += ["compiling the step: a minute or more, once; the next run finds it done"] if enabled else []

        def call(state: Tree, *rest: Tree) -> tuple[Tree, dict[str, Tensor]]:
            if unsaid:
                self.write(unsaid.pop())
            if self.due(self.step, args.diagnose):
                self._before = tree.map(torch.clone, state)
            try:
                with parallel.together(self.device):
                    return update(state, *rest)
            except RuntimeError as error:
                if lost := parallel.missing():
                    ranks = ", ".join(map(str, lost))
                    message = (
                        f"no answer from rank {ranks}; last good checkpoint: {checkpoint.last_good(self.checkpoints)}"
                    )
                    raise RunError(message) from error
                raise

        return call

    def batches(self, make: Callable[..., Iterator[Tree]]) -> Iterator[Tree]:
        """`make(key, first=step)`, batches in the order that a key decides, from the run's step on, on the run's
        device; of several replicas stacked. Of several processes each gets its share of the rows."""
        each = [make(random.split(random.key(member.seed))[1], first=self.step) for member in self.members]

        def stacked() -> Iterator[Tree]:
            for batches in zip(*each, strict=True):
                mine = [parallel.shard(batch) for batch in batches]
                yield mine[0] if len(mine) == 1 else tree.stack(mine)

        return prefetch.to_device(stacked(), self.device)

    def each(self, state: Tree) -> Iterator[tuple[Any, Tree]]:
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

    def diagnosed(self, n: int, state: Tree, examples: Tree) -> Iterator[tuple[Any, Tree, Tree, Tree]]:
        """Where a diagnosis is due after update number n: (run, state before it, state after it, examples) of each
        replica, for `diagnose.report`. `examples`: what it is made on, stacked as the state is."""
        if self.due(n, self.args.diagnose):
            for one, (before, after, mine) in self.each((self._before, state, examples)):
                yield one, before, after, mine

    def _alive(self) -> list[int]:
        """Numbers of the replicas to look at."""
        self.all_finite()
        return [i for i in range(len(self.views)) if i not in self.health.lost]

    def record(self, n: int, state: Tree, out: dict[str, Tensor], units: int | Tensor = 0) -> None:
        """After update number n (from 0): counts the `units` that this process worked on (a 0-d tensor where only the
        device knows how many), logs `out` every `log_every` steps and has the state saved every `save_every`, when the
        step is over: with what was measured after it. Every value of `out` is checked to be finite, not at once, but
        before anything is logged or saved, so that no step waits for the device."""
        self.health.add(n + 1, out)
        pause = any(self.due(n, every) for every in (self.args.log_every, self.args.eval_every, self.args.save_every))
        wait_for = next(iter(out.values())) if pause or not self.throughput.first else None
        self.throughput.end(units * parallel.size(), wait_for)
        if self.due(n, self.args.log_every):
            for i in self._alive():
                values = {name: float(x if len(self.views) == 1 else x[i]) for name, x in out.items()}
                self.views[i].log(n + 1, values)
            self._log_spread()
            self.log(n + 1, self.throughput.read())
        self._to_save = state if self.due(n, self.args.save_every) else None

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
        meta = {"step": step, "replicas": len(self.members), "lost": self.health.lost, "config": config(self.args)}
        try:
            checkpoint.save_step(self.checkpoints, step, state, meta)
        except OSError as error:
            good = checkpoint.last_good(self.checkpoints)
            raise RunError(f"cannot save step-{step}.safetensors: {error}; last good checkpoint: {good}") from error

    def progress(self) -> Iterator[int]:
        """Step numbers from `self.step` to the last, behind a progress bar with ETA. Ctrl-C ends the loop after the
        step it is in and sets `self.stopped`; a second one ends at once."""

        def stop(*_: Any) -> None:
            self.stopped = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = signal.signal(signal.SIGINT, stop)
        often = 0.1 if sys.stderr.isatty() else 10.0  # seconds; a log file needs fewer lines
        bar = tqdm(
            total=self.args.steps, initial=self.step, unit="step", dynamic_ncols=True, mininterval=often,
            disable=not self.leads, file=sys.stderr if sys.stderr.isatty() else Lines(sys.stderr),
        )  # fmt: skip
        try:
            for step in range(self.step, self.args.steps):
                self.throughput.begin()
                yield step
                self.step = step + 1
                if self._to_save is not None:
                    self.save(self.step, self._to_save)
                bar.update()
                if parallel.size() > 1:
                    if not self.due(step, RANKS_AGREE_EVERY):
                        continue
                    self.stopped = parallel.any_rank(self.stopped)
                if self.stopped:
                    break
        finally:
            bar.close()
            for update in self._compiling:
                update.stop()
            signal.signal(signal.SIGINT, before)

    def interrupted(self, state: Tree) -> bool:
        """After the loop: saves the state. True where Ctrl-C ended the loop; the run is then closed. True also in the
        processes that do not lead: what is left is evaluation."""
        self._final = self._joined(state)
        if self._to_save is None:  # otherwise that was done when the step was over
            self.save(self.step, state)
        if self.stopped and self.leads:
            self.close()
            print(f"stopped at step {self.step}; go on with: just run {self.experiment} --resume --run {self.path}")
        return self.stopped or not self.leads

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
        self.events.result(self.step, config(self.args), result, lines)
        self.close()
        facts: dict[str, Any] = dict(result)
        if several and self.args.keep == "best":
            self._keep(best)
        elif several:
            facts |= {"best": best, "all": [found[i][0] if i in found else None for i in range(len(self.members))]}
        rundir.write_json(self.path / "result.json", facts)
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
        rundir.write_json(self.path / "config.json", config(self.args))

    def close(self) -> None:
        for view in self.views:
            view.writer.close()
        self.events.close()
        self._lock.release()
