"""What a run does: it starts or resumes a state, compiles its step, feeds it batches, and counts, saves and stops."""

import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lib import checkpoint, parallel, random, tree
from lib.faults import RunError
from lib.place import Place
from lib.run import background, prefetch, replicas, settings
from lib.run.journal import Journal
from lib.run.log import Lines
from lib.tree import Tree

RANKS_AGREE_EVERY = 10  # steps between which several processes ask each other whether to stop


class Run(Journal):
    """A run and its loop, which an experiment writes out itself (`progress`)."""

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
        if self.leads:  # a finished run that is to go on, as it can, is not finished
            (self.path / "result.json").unlink(missing_ok=True)
        return state

    def compile(self, step: Callable, **fixed: Any) -> Callable[..., tuple[Tree, dict[str, Tensor]]]:
        """`update(state, batch, *shared) -> (state, out)` of `step(state, batch, *shared, args=..., **fixed)`, compiled
        with donated state where --compile says so, with `auto` on a CPU beside the first, eager steps. With several
        replicas state and batch are stacked, and the faster of one vmapped step and one step after another is chosen.
        With several processes it is one step of all."""
        args, step, enabled = self.args, partial(step, **fixed), settings.compiles(self.args)
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

    def diagnosed(self, n: int, state: Tree, examples: Tree) -> Iterator[tuple[Place, Tree, Tree, Tree]]:
        """Where a diagnosis is due after update number n: (run, state before it, state after it, examples) of each
        replica, for `diagnose.report`. `examples`: what it is made on, stacked as the state is."""
        if self.due(n, self.args.diagnose):
            for one, (before, after, mine) in self.each((self._before, state, examples)):
                yield one, before, after, mine

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

    def progress(self) -> Iterator[int]:
        """Step numbers from `self.step` to the last, behind a progress bar with ETA. Ctrl-C ends the loop after the
        step it is in and sets `self.stopped`; a second one ends at once."""

        def stop(*_: Any) -> None:
            self.stopped = True
            self.write("stopping after this step; Ctrl-C once more: at once")
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

    def evaluates(self, state: Tree) -> bool:
        """After the loop: saves the state. Whether this process is to evaluate it: the one that leads, unless Ctrl-C
        ended the loop, which it then tells."""
        self._final = self._joined(state)
        if self._to_save is None:  # otherwise that was done when the step was over
            self.save(self.step, state)
        if self.stopped and self.leads:
            self.close()
            print(f"stopped at step {self.step}; go on with: just run {self.experiment} --resume --run {self.path}")
        return self.leads and not self.stopped
