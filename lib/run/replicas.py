"""Replicas: one run for several seeds and hyper-parameters, whose step is one vmapped function.

Replica i of a run is the run that its seed and its values would make alone. A hyper-parameter that is swept enters the
step as a tensor, so every replica shares one graph.
"""

import contextlib
import dataclasses
import difflib
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lib import machine, parallel, tree
from lib.cache import cache_dir, keep
from lib.cudagraph import WARM
from lib.faults import RunError
from lib.transform import jit
from lib.tree import Tree


class Replica(NamedTuple):
    seed: int
    values: dict[str, float]

    def __str__(self) -> str:
        return ", ".join([f"seed {self.seed}", *(f"{name} {value:g}" for name, value in self.values.items())])


def replicas(args: Any) -> list[Replica]:
    """Every combination of the sweeps' values, each with the seeds `args.seed` to `args.seed + args.replicas - 1`."""
    sweeps = [_sweep(args, text) for text in args.sweep]
    return [Replica(args.seed + i, dict(values)) for values in itertools.product(*sweeps) for i in range(args.replicas)]


def _sweep(args: Any, text: str) -> list[tuple[str, float]]:
    """`lr=1e-4,3e-4` as pairs. Raises RunError."""
    name, _, values = text.partition("=")
    name = name.replace("-", "_")
    fields = {f.name for f in dataclasses.fields(args)}
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
        raise RunError(f"--sweep {text}: no field {name!r}; did you mean {near[0]}?")
    if not isinstance(getattr(args, name), float):
        raise RunError(
            f"--sweep {text}: {name} is {getattr(args, name)!r}; only real-valued fields can vary in one graph"
        )
    try:
        found = [(name, float(value)) for value in values.split(",")]
        for pair in found:
            with_values(args, dict([pair]))
    except ValueError as error:
        raise RunError(f"--sweep {text}: {values!r} is not a list of numbers that it can be ({error})") from error
    return found


class Health:
    """Which replicas have given a value that was not finite: `lost`, {number: what and when}. Values are looked at when
    somebody asks, many steps at once, so that no step waits for the device."""

    def __init__(self, lost: dict[int, str]) -> None:
        self.lost = lost
        self._unseen: list[tuple[int, list[Tensor]]] = []

    def add(self, step: int, out: dict[str, Tensor]) -> None:
        self._unseen.append((step, [x.detach() for x in out.values()]))

    def look(self) -> list[int]:
        """The replicas that were lost since the last look."""
        if not self._unseen:
            return []
        steps = [step for step, _ in self._unseen]
        table = torch.stack([torch.stack(values).view(len(values), -1) for _, values in self._unseen])
        self._unseen.clear()
        new = []
        for i, fine in enumerate(table.isfinite().all(1).T.tolist()):  # of each replica, for each step
            if all(fine) or i in self.lost:
                continue
            at = fine.index(False)
            value = next(x for x in table[at, :, i].tolist() if not math.isfinite(x))
            self.lost[i] = f"the loss or its gradient is {value} at step {steps[at]}"
            new.append(i)
        return new


class View:
    """One of several replicas, as an experiment sees it: a place for its events and a voice of its own."""

    def __init__(self, run: Any, i: int) -> None:
        self.run, self.path, self.device, self.dtype = run, run.path / f"replica-{i}", run.device, run.dtype
        self.name = f"replica {i} ({run.members[i]})"
        self.writer = SummaryWriter(str(self.path), purge_step=run.step + 1 if run.args.resume else None)
        self.logged: dict[int, dict[str, float]] = {}  # by step, since the last `take`

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.all_finite()
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self.logged.setdefault(step, {}).update(values)

    def take(self) -> dict[int, dict[str, float]]:
        taken, self.logged = self.logged, {}
        return taken

    def write(self, line: str) -> None:
        self.run.write(f"{self.name}: {line}")


def with_values(args: Any, values: dict[str, Any]) -> Any:
    """The configuration of one replica."""
    return dataclasses.replace(args, **values) if values else args


def vmapped(step: Callable, args: Any, values: dict[str, Tensor]) -> Callable:
    """`step(state, batch, *shared, args=...)` for stacked states and batches and the same shared arguments."""

    def call(state: Tree, *rest: Tree) -> tuple[Tree, dict[str, Tensor]]:
        batch, shared = rest[:1], rest[1:]

        def one(leaves: list[Tensor], values: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
            state_i, batch_i = tree.unflatten((state, batch), leaves)
            new, out = step(state_i, *batch_i, *shared, args=with_values(args, values))
            return tree.leaves(new), out

        leaves, out = torch.func.vmap(one)(tree.leaves((state, batch)), values)
        return tree.unflatten(state, leaves), out

    return call


def looped(updates: list[Callable]) -> Callable:
    """The same one after another, each replica by its own `update(state, batch, *shared)`. The state given is spent."""

    def call(state: Tree, *rest: Tree) -> tuple[Tree, dict[str, Tensor]]:
        outs = []
        for i, update in enumerate(updates):
            mine = tree.index(state, i)  # views: what is written to them is written to the stack
            new, out = update(mine, *tree.index(rest[:1], i), *rest[1:])
            tree.map(lambda old, x: old if old is x else old.copy_(x), mine, new)
            outs.append(out)
        return state, tree.stack(outs)

    return call


def updates(
    members: list[Replica], step: Callable, args: Any, enabled: bool, device: torch.device, name: str, tell: Callable
) -> Callable[..., tuple[Tree, dict[str, Tensor]]]:
    """`update(state, batch, *shared)` of all replicas, for `step(state, batch, *shared, args=...)`, compiled where
    `enabled`. The faster of two ways is found at the first update, under this `name` and `tell`s which it is."""
    alone: dict[tuple, Callable] = {}  # seeds of one combination of values share a graph
    for member in members:
        one = partial(step, args=with_values(args, member.values))
        alone.setdefault(tuple(member.values.values()), jit(one, enabled=enabled))
    each = [alone[tuple(member.values.values())] for member in members]
    if len(each) == 1:
        return each[0]
    swept = members[0].values
    values = {name: torch.tensor([m.values[name] for m in members], device=device) for name in swept}
    ways = {"one after another": looped(each), "one vmapped step": jit(vmapped(step, args, values), enabled=enabled)}
    chosen: list[Callable] = []

    def update(state: Tree, *rest: Tree) -> tuple[Tree, dict[str, Tensor]]:
        if not chosen:
            numbers = sum(x.numel() for x in tree.leaves((state, rest[:1])))
            facts = [name, len(members), parallel.size(), numbers, *swept]
            way = faster(" ".join(map(str, facts)), ways, device, state, *rest)
            tell(f"{len(members)} replicas: {way}")
            chosen.append(ways[way])
        return chosen[0](state, *rest)

    return update


def check_memory(n: int, state: Tree, device: torch.device) -> None:
    """Raises RunError where n states like this one cannot fit, with the largest number that does. A step needs room
    for two more: gradients, and the new state beside the old."""
    free, each = machine.free_memory(device), sum(x.nbytes for x in tree.leaves(state))
    most = (free or 0) // each - 2
    if free is not None and n > most:
        raise RunError(
            f"{n} replicas of {each / 2**20:,.1f} MiB do not fit in the {free / 2**20:,.0f} MiB that are free: "
            f"{f'at most {most} do' if most > 0 else 'not even one does'}"
        )


def faster(name: str, ways: dict[str, Callable], device: torch.device, state: Tree, *rest: Tree) -> str:
    """The quicker of two ways to do a step of several replicas, by three steps of each on a copy of the state. Measured
    once for each `name`, then remembered in the cache. The first goes through the replicas one after another; the
    second, which does them at once, is not tried where it would need more memory than there is, and may fail: not every
    hyper-parameter can be a tensor."""
    record = cache_dir() / "replicas.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    seconds: dict[str, float] = json.loads(parallel.agree(json.dumps(known.get(name, {}))))
    if not seconds:
        one_by_one, at_once = ways
        seconds[one_by_one], grown = _seconds(ways[one_by_one], device, state, *rest)
        free, n = machine.free_memory(device), len(tree.leaves(state)[0])
        if not parallel.any_rank(free is not None and n * grown > free):
            with contextlib.suppress(RuntimeError, TypeError):
                seconds[at_once], _ = _seconds(ways[at_once], device, state, *rest)
        known[name] = seconds
        keep(record, json.dumps(known, indent=2).encode())
    return parallel.agree(min(seconds, key=seconds.__getitem__))


def _seconds(update: Callable, device: torch.device, state: Tree, *rest: Tree) -> tuple[float, int]:
    """Seconds of a step, and the bytes by which the peak memory grows in it."""
    copy, times = tree.map(torch.clone, state), []
    before = machine.forget_peak(device)
    for _ in range(4 if device.type == "cpu" else WARM + 4):  # a GPU's step becomes one CUDA graph first
        since = time.perf_counter()
        copy, out = update(copy, *rest)
        float(next(iter(out.values())).sum())  # waits for the device
        times.append(time.perf_counter() - since)
    return min(times[1:]), max(0, machine.peak_memory(device) - before)  # the first step compiles


def table(members: list[Replica], results: dict[int, dict[str, float]], lost: dict[int, str]) -> list[str]:
    """Every replica's metrics or why it was lost, and per combination of swept values mean and standard deviation over
    seeds."""
    tags = list(next(iter(results.values())))
    rows = [["replica", *tags]]
    groups: dict[str, list[dict[str, float]]] = {}
    for i, member in enumerate(members):
        if i in lost:
            rows.append([f"{member}: {lost[i]}", *[""] * len(tags)])
            continue
        values = results[i]
        rows.append([str(member), *(f"{values[tag]:.4g}" for tag in tags)])
        groups.setdefault(", ".join(f"{k} {v:g}" for k, v in member.values.items()), []).append(values)
    for name, found in groups.items():
        if len(found) > 1:
            spread = [[values[tag] for values in found] for tag in tags]
            cells = [f"{statistics.fmean(column):.4g} ± {statistics.stdev(column):.2g}" for column in spread]
            rows.append([f"{name} mean ± sd, n = {len(found)}".strip(), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
