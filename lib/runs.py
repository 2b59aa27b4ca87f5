"""Where runs are kept, and which there are."""

import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from lib.faults import RunError

ROOT = Path(__file__).parents[1]


def folder() -> Path:
    """Where runs are kept: in runs/ of this checkout, also where the current folder is one below it; elsewhere in runs/
    of the current folder."""
    return Path(os.path.relpath(ROOT / "runs")) if Path.cwd().is_relative_to(ROOT) else Path("runs")


def of(experiment: str, finished: bool = False) -> list[Path]:
    """The run directories of an experiment, the newest last; `finished`: those that have a result."""
    found = list[tuple[float, Path]]()
    for config in (folder() / experiment).glob("*/config.json"):
        with suppress(FileNotFoundError):  # deleted meanwhile
            found.append((config.stat().st_mtime, config.parent))
    return [path for _, path in sorted(found) if not finished or (path / "result.json").exists()]


def latest(experiment: str, finished: bool = False) -> Path:
    """The newest of `of`. Raises RunError where there is none."""
    if found := of(experiment, finished):
        return found[-1]
    kind = "finished run" if finished else "run"
    raise RunError(f"no {kind} of {experiment} under {folder()}/: make one with `just run {experiment}`, or give --run")


def words(run: Path) -> list[str]:
    """The names of labels' values or of domains that a run keeps, by which they are asked for; one that several labels
    have is written label=value. None of what is no list of words, or lists under the names of labels."""
    for file in ("labels.json", "domains.json"):
        with suppress(OSError, ValueError):
            found = json.loads((run / file).read_text(encoding="utf-8"))
            of_labels = found if isinstance(found, dict) else {"": found}
            if not all(isinstance(of, list) and all(isinstance(x, str) for x in of) for of in of_labels.values()):
                continue
            every = [(name, value) for name, values in of_labels.items() for value in values]
            often = Counter(value for _, value in every)
            return [value if often[value] == 1 else f"{name}={value}" for name, value in every]
    return []
