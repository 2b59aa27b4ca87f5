"""Replicas: one run for several seeds and hyper-parameters, whose step is one vmapped function.

Replica i of a run is the run that its seed and its values would make alone. A hyper-parameter that is swept enters the
step as a tensor, so every replica shares one graph.
"""

import dataclasses
import difflib
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lib import tree
from lib.data.sources import cache_dir
from lib.tree import Tree


class SweepError(ValueError):
    """A sweep that cannot be made."""


class Replica(NamedTuple):
    seed: int
    values: dict[str, float]

    def __str__(self) -> str:
        return ", ".join([f"seed {self.seed}", *(f"{name} {value:g}" for name, value in self.values.items())])


def replicas(args: Any) -> list[Replica]:
    """Every combination of the sweeps' values, each with the seeds `args.seed` to `args.seed + args.replicas - 1`."""
    if args.replicas < 1:
        raise SweepError(f"--replicas {args.replicas}: at least 1")
    sweeps = [_sweep(args, text) for text in args.sweep]
    return [Replica(args.seed + i, dict(values)) for values in itertools.product(*sweeps) for i in range(args.replicas)]


def _sweep(args: Any, text: str) -> list[tuple[str, float]]:
    """`lr=1e-4,3e-4` as pairs. Raises SweepError."""
    name, _, values = text.partition("=")
    name = name.replace("-", "_")
    fields = {f.name for f in dataclasses.fields(args)}
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
        raise SweepError(f"--sweep {text}: no field {name!r}; did you mean {near[0]}?")
    if not isinstance(getattr(args, name), float):
        raise SweepError(
            f"--sweep {text}: {name} is {getattr(args, name)!r}; only real-valued fields can vary in one graph"
        )
    try:
        return [(name, float(value)) for value in values.split(",")]
    except ValueError as error:
        raise SweepError(f"--sweep {text}: {values!r} is not a list of numbers ({error})") from error


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


def faster(name: str, ways: dict[str, Callable], state: Tree, *rest: Tree) -> str:
    """The quicker of several ways to do a step, by three steps of each on a copy of the state. Measured once for each
    `name`, then remembered in the cache. All but the last may fail: not every hyper-parameter can be a tensor."""
    record = cache_dir() / "replicas.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    if name not in known:
        seconds: dict[str, float] = {}
        for way, update in ways.items():
            copy, times = tree.map(torch.clone, state), []
            try:
                for _ in range(4):
                    before = time.perf_counter()
                    copy, out = update(copy, *rest)
                    float(next(iter(out.values())).sum())  # waits for the device
                    times.append(time.perf_counter() - before)
            except (RuntimeError, TypeError):
                if way == list(ways)[-1]:
                    raise
                continue
            seconds[way] = min(times[1:])  # the first compiles
        known[name] = seconds
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(known, indent=2))
    return min(known[name], key=known[name].__getitem__)


def table(members: list[Replica], results: list[tuple[dict[str, float], list[str]]]) -> list[str]:
    """Every replica's metrics, and per combination of swept values their mean and standard deviation over seeds."""
    tags = list(results[0][0])
    rows = [["replica", *tags]]
    groups: dict[str, list[dict[str, float]]] = {}
    for member, (values, _) in zip(members, results, strict=True):
        rows.append([str(member), *(f"{values[tag]:.4g}" for tag in tags)])
        groups.setdefault(", ".join(f"{k} {v:g}" for k, v in member.values.items()), []).append(values)
    for name, found in groups.items():
        if len(found) > 1:
            spread = [[values[tag] for values in found] for tag in tags]
            cells = [f"{statistics.fmean(column):.4g} ± {statistics.stdev(column):.2g}" for column in spread]
            rows.append([f"{name} mean ± sd, n = {len(found)}".strip(), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
