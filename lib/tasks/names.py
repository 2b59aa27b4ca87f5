"""Names of labels. They belong to the run, which keeps them in a file from its beginning, and not to its data."""

import json
from pathlib import Path
from typing import Any

from lib import run
from lib.faults import RunError

LABELS = "labels.json"


def check(args: run.Args, names: Any, file: str = LABELS) -> None:
    """Raises RunError where a run that goes on was begun with other names than its data has now."""
    if args.resume and args.run and (args.run / file).exists() and (known := run.read_json(args.run / file)) != names:
        was, now = (json.dumps(x, ensure_ascii=False) for x in (known, names))
        raise RunError(f"{args.run} was begun with {was}, and --data {args.data} has {now}: name its labels as then")


def kept(path: Path, otherwise: list[str] | None) -> list[str]:
    """The names that a run keeps in LABELS; `otherwise`: what they are known to be in a run that was made before they
    were kept. Raises RunError."""
    file = path / LABELS
    if file.exists():
        return run.read_json(file)
    if otherwise:
        return otherwise
    raise RunError(
        f"{path} was made before runs kept the names of their labels: write {file}, a JSON list of them in the order in"
        " which they were trained, that of the sorted names of the folders of --data"
    )
