"""What every run has: a directory, TensorBoard events, metrics.jsonl, checkpoints, progress, resume and Ctrl-C.

runs/<experiment>/<time>-<seed>/
    config.json environment.json experiment.py git.diff metrics.jsonl result.json events.out.*
    checkpoints/step-<n>.safetensors
"""

import json
import math
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from lib import checkpoint, metrics, random, replicas, rundir, tree
from lib.replicas import View
from lib.rundir import load
from lib.settings import RUNS, Args, RunError, compiles, config, device, dtype, latest_run, load_config
from lib.transform import jit
from lib.tree import Tree

__all__ = ["Args", "Run", "RunError", "View", "device", "dtype", "latest_run", "load", "load_config"]
KEPT_CHECKPOINTS = 2


class Run:
    """An open run directory. `step` is where the loop starts (0, or the checkpoint's step on resume), `device` and
    `dtype` where and in what it computes, `show_key` the key of whatever is drawn to be looked at or measured."""

    def __init__(
        self, args: Args, experiment: str, source: Path, unit: str = "examples", minimise: str = "val/loss"
    ) -> None:
        """`unit`: what throughput counts. `minimise`: the tag of the held-out value by which replicas are ranked."""
        self.args, self.experiment, self.started, self.stopped = args, experiment, time.time(), False
        self.minimise = minimise
        try:
            self.members = replicas.replicas(args)
        except replicas.SweepError as error:
            raise RunError(str(error)) from error
        self.device = device(args)
        self.dtype = dtype(args, self.device)
        self.show_key = tree.to(random.fold_in(random.key(args.seed), 2), self.device)  # 0 and 1: parameters, data
        self.throughput = metrics.Throughput(unit, metrics.peak_flops(self.device, self.dtype))
        self.path = args.run or rundir.fresh(RUNS / experiment, args.seed)
        if not args.resume:
            if (self.path / "config.json").exists():
                raise RunError(f"{self.path} already holds a run: continue it with --resume, or choose another --run")
            self.path.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, self.path / "experiment.py")
            rundir.describe_environment(self.path)
        self.checkpoints, log = self.path / "checkpoints", self.path / "metrics.jsonl"
        self.step = checkpoint.load_meta(checkpoint.latest(self.checkpoints))["step"] if args.resume else 0
        rundir.write_json(self.path / "config.json", config(args))
        # What was logged after the checkpoint is done again: it leaves TensorBoard and metrics.jsonl.
        log.write_text("".join(f"{line}\n" for line in rundir.lines_up_to(log, self.step)))
        self.writer = SummaryWriter(str(self.path), purge_step=self.step + 1 if args.resume else None)
        self.metrics = open(log, "a", buffering=1)  # noqa: SIM115 (open as long as the run)
        self._unchecked: list[tuple[int, list[Tensor]]] = []
        self.views: list[Any] = [View(self, i) for i in range(len(self.members))] if len(self.members) > 1 else [self]

    def start(self, init: Callable[..., Tree], **fixed: Any) -> Tree:
        """The state before the first step, `init(key, args=..., **fixed)`, stacked over replicas where there are
        several; on resume the latest checkpoint's."""
        states = []
        for member in self.members:
            key, _ = random.split(random.key(member.seed))
            args = replicas.with_values(self.args, member.values)
            states.append(init(tree.to(key, self.device), args=args, **fixed))
        state = tree.stack(states) if len(states) > 1 else states[0]
        if self.args.resume:
            state = checkpoint.load_tree(checkpoint.latest(self.checkpoints), state, self.device)
        return state

    def compile(self, step: Callable, **fixed: Any) -> Callable[..., tuple[Tree, dict[str, Tensor]]]:
        """`update(state, batch, *shared) -> (state, out)` of `step(state, batch, *shared, args=..., **fixed)`, compiled
        with donated state where --compile says so. With several replicas state and batch are stacked, and the faster
        of one vmapped step and one step after another is chosen."""
        step, enabled = partial(step, **fixed), compiles(self.args)
        alone: dict[tuple, Callable] = {}  # seeds of one combination of values share a graph
        for member in self.members:
            args = replicas.with_values(self.args, member.values)
            alone.setdefault(tuple(member.values.values()), jit(partial(step, args=args), enabled=enabled))
        updates = [alone[tuple(member.values.values())] for member in self.members]
        if len(updates) == 1:
            return updates[0]
        swept = self.members[0].values
        values = {name: torch.tensor([m.values[name] for m in self.members], device=self.device) for name in swept}
        ways = {
            "one vmapped step": jit(replicas.vmapped(step, self.args, values), enabled=enabled),
            "one after another": replicas.looped(updates),
        }
        chosen: list[Callable] = []

        def update(state: Tree, *rest: Tree) -> tuple[Tree, dict[str, Tensor]]:
            if not chosen:
                name = f"{self.experiment} {len(self.members)} {self.device} {self.dtype} {enabled} {torch.__version__}"
                name += f" {' '.join(swept)} {sum(x.numel() for x in tree.leaves((state, rest[:1])))}"
                way = replicas.faster(name, ways, state, *rest)
                self.write(f"{len(self.members)} replicas: {way}")
                chosen.append(ways[way])
            return chosen[0](state, *rest)

        return update

    def batches(self, make: Callable[..., Iterator[Tree]]) -> Iterator[Tree]:
        """`make(key, first=step)`, batches in the order that a key decides, from the run's step on; of several replicas
        stacked."""
        each = [make(random.split(random.key(member.seed))[1], first=self.step) for member in self.members]
        return each[0] if len(each) == 1 else (tree.stack(list(batches)) for batches in zip(*each, strict=True))

    def each(self, state: Tree) -> Iterator[tuple[Any, Tree]]:
        """(run, state) of each replica. What several replicas log is logged with its mean and standard deviation when
        the last of them is done."""
        if len(self.members) == 1:
            yield self, state
            return
        for i, view in enumerate(self.views):
            yield view, tree.index(state, i)
        self._log_spread()

    def _log_spread(self) -> None:
        logged = [view.take() for view in self.views]
        for step in logged[0]:
            columns = {tag: [values[step][tag] for values in logged] for tag in logged[0][step]}
            for tag, column in columns.items():
                self.writer.add_scalar(tag, statistics.fmean(column), step)
                self.writer.add_scalar(f"{tag}_sd", statistics.stdev(column), step)
            self._to_file(step, {**{tag: statistics.fmean(c) for tag, c in columns.items()}, "replicas": columns})

    def record(self, n: int, state: Tree, out: dict[str, Tensor], units: int = 0) -> None:
        """After update number n (from 0): counts what it worked on, logs `out` every `log_every` steps and saves the
        state every `save_every`. Every value of `out` is checked to be finite, not at once, but before anything is
        logged or saved, so that no step waits for the device."""
        self._unchecked.append((n + 1, [x.detach() for x in out.values()]))
        pause = any(self.due(n, every) for every in (self.args.log_every, self.args.eval_every, self.args.save_every))
        self.throughput.end(units, next(iter(out.values())) if pause or not self.throughput.first else None)
        if self.due(n, self.args.log_every):
            for i, view in enumerate(self.views):
                view.log(n + 1, {name: float(x if len(self.views) == 1 else x[i]) for name, x in out.items()})
            if len(self.views) > 1:
                self._log_spread()
            self.log(n + 1, self.throughput.read())
        if self.due(n, self.args.save_every):
            self.save(n + 1, state)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Scalars to TensorBoard and metrics.jsonl, after `all_finite`."""
        self.all_finite()
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self._to_file(step, values)

    def _to_file(self, step: int, values: dict[str, Any]) -> None:
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
            lost = torch.stack(values).flatten(1) if len(self.members) > 1 else torch.stack(values)[:, None]
            i = (~lost.isfinite()).any(0).tolist().index(True)
            value = f"{next(x for x in lost[:, i].tolist() if not math.isfinite(x))}"
            value += f" in replica {i} ({self.members[i]})" if len(self.members) > 1 else ""
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
            checkpoint.save_tree(
                path, state, {"step": step, "replicas": len(self.members), "config": config(self.args)}
            )
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
        self._final = state
        self.save(self.step, state)
        if self.stopped:
            self.close()
            print(f"stopped at step {self.step}; go on with: just run {self.experiment} --resume --run {self.path}")
        return self.stopped

    def finish(self, results: list[tuple[dict[str, float], list[str]]], sample: str = "") -> None:
        """The final metrics and the lines to print, of each replica. result.json marks the run as finished, and the
        HParams tab shows the metrics in this run. Prints what to type next, `just sample` with the words `sample`."""
        best = self._best() if len(results) > 1 else 0
        result, lines = results[best]
        if len(results) > 1:
            lines = [
                f"best of {len(results)} by {self.minimise}: {self.members[best]}",
                *lines,
                "",
                *replicas.table(self.members, results),
            ]
        flat = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in config(self.args).items()}
        # SummaryWriter.add_hparams would start a second run (pytorch #37738): write its summaries into this one.
        for summary in hparams(flat, {f"final/{k}": v for k, v in result.items()}):
            self.writer._get_file_writer().add_summary(summary)
        self.log(self.step, {f"final/{k}": v for k, v in result.items()})
        self.writer.add_text("samples/final", "    " + "\n    ".join(lines), self.step)
        self.close()
        facts: dict[str, Any] = dict(result)
        if len(results) > 1 and self.args.keep == "best":
            self._keep(best)
        elif len(results) > 1:
            facts |= {"best": best, "all": [values for values, _ in results]}
        rundir.write_json(self.path / "result.json", facts)
        first = f"first step (with compilation): {self.throughput.first:.1f} s; " if self.throughput.first else ""
        print(*lines, f"\nrun: {self.path}", f"{first}all: {self.seconds():.0f} s", sep="\n")
        print(f"next: just sample {self.experiment} {sample}".rstrip(), "      just tb", sep="\n")

    def _best(self) -> int:
        """The replica with the lowest value under `minimise` when it was last measured; 0 where it never was."""
        for line in reversed((self.path / "metrics.jsonl").read_text().splitlines()):
            column = json.loads(line).get("replicas", {}).get(self.minimise)
            if column:
                return min(range(len(column)), key=column.__getitem__)
        return 0

    def _keep(self, best: int) -> None:
        """Turn the run into the one that the best replica would have made alone."""
        values: dict[str, Any] = {**self.members[best].values, "seed": self.members[best].seed}
        self.args = replace(self.args, **values, replicas=1, sweep=(), keep="all")
        self.members = [self.members[best]]
        self.save(self.step, tree.index(self._final, best))
        for _, old in checkpoint.steps(self.checkpoints)[:-1]:
            old.unlink()
        rundir.write_json(self.path / "config.json", config(self.args))

    def close(self) -> None:
        for view in self.views:
            view.writer.close()
        self.writer.close()
        self.metrics.close()
