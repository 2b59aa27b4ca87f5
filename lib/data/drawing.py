"""Pictures that are drawn once, by all cores, and kept in the cache with their labels. No torch here: the processes
that draw start in a fraction of a second.
"""

import hashlib
import inspect
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import resvg_py
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from lib.cache import cache_dir
from lib.faults import DataError

CHUNK = 250  # pictures, in one file of the cache: one or two seconds' work

Options = dict[str, Any]
One = Callable[[str, Options], tuple[np.ndarray, dict[str, int]]]  # of a seed, the picture and its labels


class Drawn(NamedTuple):
    """`labels`: a number of each attribute."""

    pixels: np.ndarray  # uint8 (n, 3, size, size)
    labels: dict[str, np.ndarray]  # int64 (n,)


class Kind(NamedTuple):
    """What is drawn: `one` picture, a function whose module and `others` hold all of ours that draws, for the cache's
    key has their files in it; `packages` whose other versions may draw otherwise."""

    name: str
    one: One
    packages: tuple[str, ...]
    others: tuple[ModuleType, ...] = ()


def draw(kind: Kind, seeds: Sequence[str], options: Options) -> Drawn:
    """One picture for each of one or more seeds. What is not in the cache is drawn, CHUNK by CHUNK: an interrupted
    drawing goes on where it stopped, and a damaged file is drawn again. Raises DataError where the cache cannot be
    written."""
    folder = cache_dir() / "data" / kind.name
    parts = [list(seeds[i : i + CHUNK]) for i in range(0, len(seeds), CHUNK)]
    jobs = [(folder / f"{_digest(kind, part, options)}.npz", part, options) for part in parts]
    inside = multiprocessing.parent_process() is not None  # a script without a main guard, imported by its own worker
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with nullcontext() if inside else FileLock(folder / "lock"):  # of a run's processes, one draws
            found = {path: _read(path) for path, *_ in jobs}
            _draw_all(kind, [job for job in jobs if found[job[0]] is None])
    except OSError as error:
        raise DataError(f"cannot keep drawn {kind.name} in {folder}: {error}") from error
    chunks = [chunk for path, *_ in jobs if (chunk := found[path] or _read(path)) is not None]
    if len(chunks) < len(jobs):
        raise DataError(f"{folder}: {len(jobs) - len(chunks)} files are not what was written. Run again.")
    pixels = np.concatenate([chunk.pixels for chunk in chunks])
    return Drawn(pixels, {name: np.concatenate([chunk.labels[name] for chunk in chunks]) for name in chunks[0].labels})


def rendered(svg: str) -> np.ndarray:
    """An SVG as pixels, uint8 (3, height, width)."""
    with Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _draw_all(kind: Kind, jobs: Sequence[tuple[Path, list[str], Options]]) -> None:
    workers = min(len(jobs), _cores(), 61)  # Windows can wait for no more
    with tqdm(
        total=sum(len(seeds) for _, seeds, _ in jobs), desc=f"drawing {kind.name}", unit="picture", delay=1
    ) as bar:
        if workers < 2:
            for job in jobs:
                bar.update(_draw_chunk(kind.one, *job))
            return
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _leave_interrupts_to_the_parent)
        try:
            for done in as_completed([pool.submit(_draw_chunk, kind.one, *job) for job in jobs]):
                bar.update(done.result())
        except BrokenProcessPool as error:
            raise DataError(
                f"a process that drew {kind.name} was killed. Run again: it goes on where it stopped"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _draw_chunk(one: One, path: Path, seeds: list[str], options: Options) -> int:
    found = [one(seed, options) for seed in seeds]
    labels = {name: np.array([label[name] for _, label in found], np.int64) for name in found[0][1]}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pixels=np.stack([pixels for pixels, _ in found]), **labels)  # type: ignore[arg-type]
    part = path.with_suffix(".part")
    part.write_bytes(_sealed(buffer.getvalue()))
    part.replace(path)
    return len(seeds)


def _read(path: Path) -> Drawn | None:
    """None where there is no such file or it is damaged."""
    raw = path.read_bytes() if path.exists() else b""
    if not raw or raw != _sealed(raw[32:]):
        return None
    with np.load(io.BytesIO(raw[32:])) as file:
        return Drawn(file["pixels"], {name: file[name] for name in file.files if name != "pixels"})


def _sealed(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=32).digest() + content


def _digest(kind: Kind, seeds: list[str], options: Options) -> str:
    """Of all that the pictures and labels depend on."""
    versions = {name: metadata.version(name) for name in kind.packages}
    files = [
        Path(path).read_bytes() for path in (__file__, inspect.getfile(kind.one), *map(inspect.getfile, kind.others))
    ]
    key = b"".join([json.dumps([versions, options, seeds], sort_keys=True).encode(), *files])
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def _cores() -> int:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
