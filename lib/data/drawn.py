"""Faces drawn by DiceBear's style "adventurer": rendered by all cores, kept in the cache, with exact labels.

The faces are a remix of "Adventurer" (https://www.figma.com/community/file/1184595184137881796) by Lisa Wischofsky,
licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). No torch here: the processes that draw start
in a fraction of a second.
"""

import functools
import hashlib
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import resvg_py
from dicebear import Avatar, Style
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from lib.cache import cache_dir
from lib.faults import DataError

STYLE = "adventurer"
PACKAGES = ("dicebear-core", "dicebear-styles", "resvg-py")  # another version may draw other pictures
CHUNK = 250  # faces, in one file of the cache: half a second's work
# The style's own colours; the names are ours.
HAIR = {
    "black": "#0e0e0e", "blond": "#e5d7a3", "dark blond": "#b9a05f", "light brown": "#796a45", "brown": "#6a4e35",
    "dark brown": "#562306", "copper": "#ac6511", "orange": "#cb6820", "red": "#ab2a18", "grey": "#afafaf",
    "pink": "#dba3be", "purple": "#592454", "blue": "#85c2c6", "green": "#3eac2c",
}  # fmt: skip
SKIN = {"light": "#f2d3b1", "tan": "#ecad80", "brown": "#9e5622", "dark": "#763900"}
BALD = "short19"  # the one hair style without hair to colour: its label would be wrong

Options = dict[str, Any]


class Drawn(NamedTuple):
    """`labels`: numbers of hair colour (in the order the options give them) and skin colour (in SKIN's), and 0 or 1
    for what a face has: glasses, long hair, earrings, a mustache."""

    pixels: np.ndarray  # uint8 (n, 3, size, size)
    labels: dict[str, np.ndarray]  # int64 (n,)


def options(size: int, hair: Sequence[str], glasses: float) -> Options:
    """DiceBear's options for faces of `size` pixels on white. `hair`: colours as "#rrggbb", of which the seed chooses
    one; `glasses`: the share of faces that wear them. The seed chooses each feature by itself, so that a face keeps all
    others when one of these changes."""
    return {
        "size": size,
        "backgroundColor": ["#ffffff"],
        "hairColor": list(hair),
        "glassesProbability": 100 * glasses,
    }


def draw(seeds: Sequence[str], options: Options) -> Drawn:
    """One face for each of one or more seeds. What is not in the cache is drawn, CHUNK by CHUNK: an interrupted drawing
    goes on where it stopped, and a damaged file is drawn again. Raises DataError where the cache cannot be written."""
    folder = cache_dir() / "data" / "faces"
    parts = [list(seeds[i : i + CHUNK]) for i in range(0, len(seeds), CHUNK)]
    jobs = [(folder / f"{_digest(part, options)}.npz", part, options) for part in parts]
    inside = multiprocessing.parent_process() is not None  # a script without a main guard, imported by its own worker
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with nullcontext() if inside else FileLock(folder / "lock"):  # of a run's processes, one draws
            found = {path: _read(path) for path, *_ in jobs}
            _draw_all([job for job in jobs if found[job[0]] is None])
    except OSError as error:
        raise DataError(f"cannot keep drawn faces in {folder}: {error}") from error
    chunks = [chunk for path, *_ in jobs if (chunk := found[path] or _read(path)) is not None]
    if len(chunks) < len(jobs):
        raise DataError(f"{folder}: {len(jobs) - len(chunks)} files are not what was written. Run again.")
    pixels = np.concatenate([chunk.pixels for chunk in chunks])
    return Drawn(pixels, {name: np.concatenate([chunk.labels[name] for chunk in chunks]) for name in chunks[0].labels})


def face(seed: str, options: Options) -> tuple[np.ndarray, dict[str, int]]:
    """One face, uint8 (3, size, size), and its labels."""
    avatar = Avatar(_style(), {**options, "seed": seed})
    png = resvg_py.svg_to_bytes(svg_string=avatar.to_string(), skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    chosen = avatar.to_json()["options"]
    kept = (k for k in chosen if k.endswith("Variant") or k == "skinColor")
    features = sorted((k, chosen[k]) for k in kept if k != "glassesVariant")
    digest = hashlib.blake2b(json.dumps(features).encode(), digest_size=8).digest()
    return pixels, {
        "glasses": int("glassesVariant" in chosen),
        "hair": options["hairColor"].index(chosen["hairColor"][0]),
        "skin": list(SKIN.values()).index(chosen["skinColor"][0]),
        "long": int(chosen["hairVariant"].startswith("long")),
        "earrings": int("earringsVariant" in chosen),  # not where the hair covers the ears
        "mustache": int(chosen.get("detailsVariant") == "mustache"),
        "who": int.from_bytes(digest, signed=True),
    }


def _draw_all(jobs: Sequence[tuple[Path, list[str], Options]]) -> None:
    workers = min(len(jobs), _cores())
    with tqdm(total=sum(len(seeds) for _, seeds, _ in jobs), desc="drawing faces", unit="face", delay=1) as bar:
        if workers < 2:
            for job in jobs:
                bar.update(_draw_chunk(*job))
            return
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _leave_interrupts_to_the_parent)
        try:
            for done in as_completed([pool.submit(_draw_chunk, *job) for job in jobs]):
                bar.update(done.result())
        except BrokenProcessPool as error:
            raise DataError("a process that drew faces was killed. Run again: it goes on where it stopped") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _draw_chunk(path: Path, seeds: list[str], options: Options) -> int:
    faces = [face(seed, options) for seed in seeds]
    labels = {name: np.array([label[name] for _, label in faces], np.int64) for name in faces[0][1]}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pixels=np.stack([pixels for pixels, _ in faces]), **labels)  # type: ignore[arg-type]
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


def _digest(seeds: list[str], options: Options) -> str:
    """Of all that the pictures and labels depend on."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    key = json.dumps([STYLE, versions, options, seeds], sort_keys=True).encode() + Path(__file__).read_bytes()
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def _cores() -> int:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@functools.cache
def _style() -> Style:
    definition = json.loads(resources.files("dicebear_styles").joinpath(f"{STYLE}.json").read_text("utf-8"))
    del definition["components"]["hair"]["variants"][BALD]
    return Style(definition)
