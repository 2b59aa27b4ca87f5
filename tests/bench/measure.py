"""The bench's tools, which know no model: peers side by side, clocks, fresh processes, and the table of it all.

The peers of a step take turns in one process; two rounds before do not count. A ratio is the median over rounds of the
ratio within a round. First steps and peaks are of fresh processes. A first step includes compilation: torch's with an
empty compile cache of the peer's own, then, in a second process, with what the first one left there; JAX's with none.
Peaks are from the third step on, torch's with the graphs in the cache. On CUDA a peak is the most that the framework
had allocated, state included (JAX's since the process began: it forgets no peak); on a CPU the largest resident set of
the process, libraries, data and what tracing left behind too; nothing is subtracted, and JAX's process holds torch's
libraries besides its own.

torch and JAX share the process in which they take turns, and JAX is given as many threads as torch has (jaxes.py). A
step of JAX leaves no thread spinning (below 1 ms of CPU time in the second after it); one of torch leaves OpenMP's, for
8 ms. Hence the pause before each timing, so that no peer shares the cores with the one before it.
"""

import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from lib import machine
from lib.transform import jit
from lib.tree import Tree

USUAL = {"nn.Module, eager": False, "nn.Module, compiled": True}  # and whether compiled
OURS = {"ours, eager": False, "ours, compiled": True}
JAX = "JAX, jitted"
PEERS = ["nn.Module, eager", "ours, eager", "nn.Module, compiled", "ours, compiled", JAX]
EXTRA = ["jax", "equinox", "optax"]
HEAD = ["step", "peer", "ms a step, median (min-max)", "time / compiled nn.Module", "time / JAX", "peak MiB"]
HEAD += ["first step, s", "first step warm, s"]
PAUSE = 0.05  # seconds

Train = Callable[[int], object]  # trains on batch n; whoever measures waits for the arrays it returns


class Step(NamedTuple):
    """What the peers are compared at. `make(peer)` can be sent to another process."""

    name: str
    make: Callable[[str], Train]
    inner: int  # steps in one timing


class Measured(NamedTuple):
    seconds: list[float]  # of a step, one a round
    first: float  # seconds of the first step
    warm: float | None  # the same with the graphs in the compile cache
    peak: float  # MiB


def peers(compile: bool, device: torch.device) -> list[str]:
    """Those that can be measured here; without `compile` the eager ones."""
    gpu = device.type == "cpu" or any(map(find_spec, ["jax_cuda12_plugin", "jax_cuda13_plugin"]))
    there = PEERS if gpu and all(map(find_spec, EXTRA)) else [name for name in PEERS if name != JAX]
    return there if compile else [name for name in there if "eager" in name]


def ours(step: Callable, state: Tree, compiled: bool, *shared: Tree) -> Callable:
    """Applies our `step(state, *batch, *shared) -> (state, out)` again and again."""
    update = jit(step, enabled=compiled)

    def train(*batch: Tree) -> None:
        nonlocal state
        state, _ = update(state, *batch, *shared)

    return train


def measure(step: Step, peers: Iterable[str], rounds: int, device: torch.device) -> dict[str, Measured]:
    found, works = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {peer: str(Path(folder, str(i))) for i, peer in enumerate(peers)}
        for peer, cache in caches.items():
            print(f"{step.name}: first step and memory of {peer} ...", file=sys.stderr)
            starts = 2 if "compiled" in peer else 1
            found[peer] = [alone(probe, step.make, peer, device, cache, device=device) for _ in range(starts)]
        for peer, cache in caches.items():
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            train = step.make(peer)
            train(0)
            works[peer] = partial(several, train, step.inner)
        seconds = take_turns(works, rounds, device)
    measured = {}
    for peer, probes in found.items():
        firsts, peaks = zip(*probes, strict=True)
        warm = firsts[1] if len(firsts) > 1 else None
        measured[peer] = Measured([t / step.inner for t in seconds[peer]], firsts[0], warm, peaks[-1])
    return measured


def probe(make: Callable[[str], Train], peer: str, device: torch.device, cache: str) -> tuple[float, float]:
    """Seconds of the first step, and the peak memory in MiB after the second; for a process that does only this."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    train = make(peer)
    first = timed(lambda: train(-1), device)  # from the last batch on: the longest of the book's
    wait(train(0), device)
    machine.forget_peak(device)
    for n in range(-1, 9):
        wait(train(n), device)
    return first, peak(peer, device)


def several(train: Train, inner: int, r: int) -> object:
    return [train(n) for n in range(r * inner, (r + 1) * inner)][-1]


def wait(result: object, device: torch.device) -> None:
    """Until the device has done what was asked of it, and JAX's arrays in `result` are there."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    if "jax" in sys.modules:
        sys.modules["jax"].block_until_ready(result)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of wall time, the device's work included."""
    wait(None, device)
    start = time.perf_counter()
    wait(work(), device)
    return time.perf_counter() - start


def take_turns(works: Mapping[str, Callable], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each work (a function of the round) in each round: A B C A B C ... Two rounds before do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for r in [0, 0, *range(rounds)]:
        for name, work in works.items():
            time.sleep(PAUSE)
            seconds[name].append(timed(partial(work, r), device))
    return {name: times[2:] for name, times in seconds.items()}


def peak(peer: str, device: torch.device) -> float:
    """MiB since `machine.forget_peak`."""
    if device.type == "cuda" and peer == JAX:
        from tests.bench import jaxes

        return jaxes.peak()
    return machine.peak_memory(device) / 2**20


def alone(work: Callable, *args: Any, device: torch.device) -> Any:
    """What `work(*args)` returns in a process of its own. Imports happen once for all of them where CUDA allows it, but
    for JAX's, which must not be forked: the server imports the bench, and the bench imports JAX where it is used."""
    context = multiprocessing.get_context("spawn" if device.type == "cuda" else "forkserver")
    context.set_forkserver_preload(["tests.bench.__main__"])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(work, *args).result()


# ---- what is printed ----


def times(seconds: list[float], unit: float = 1.0) -> str:
    return f"{median(seconds) * unit:.4g} ({min(seconds) * unit:.4g}-{max(seconds) * unit:.4g})"


def ratio(seconds: list[float], base: list[float]) -> float:
    return median(a / b for a, b in zip(seconds, base, strict=True))


def rows(step: str, measured: dict[str, Measured]) -> list[list[str]]:
    """The cells of a step's peers under HEAD."""
    cells = []
    for peer, (seconds, first, warm, mib) in measured.items():
        bases = [measured.get(base) for base in ("nn.Module, compiled", JAX)]
        ratios = [f"{ratio(seconds, base.seconds):.3g}" if base else "" for base in bases]
        firsts = [f"{first:.1f}", "" if warm is None else f"{warm:.1f}"]
        cells.append([step, peer, times(seconds, 1000), *ratios, f"{mib:,.0f}", *firsts])
    return cells


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def environment(device: torch.device) -> str:
    """Commit, versions, processor and threads, as one line."""
    git = lambda *words: subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()  # noqa: E731
    commit = git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, IndexError):
        cpu = Path("/proc/cpuinfo").read_text().split("model name\t: ")[1].split("\n")[0]
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu
    extra = "".join(f", {name} {metadata.version(name)}" for name in EXTRA if find_spec(name))
    return f"commit {commit}; torch {torch.__version__}{extra}; {name}; {torch.get_num_threads()} CPU threads"


def put(text: str, path: Path, name: str = "bench") -> None:
    """The text between the markers of a Markdown file, which are appended where they are missing, for `just NAME`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if begin not in old:
        old = f"{old.rstrip()}\n\n## just {name}, one table\n\n{begin}\n{end}\n".lstrip()
    before, rest = old.split(begin, 1)
    after = rest.split(end, 1)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
