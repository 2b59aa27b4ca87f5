"""The command line of an experiment: `[preset] [flags]` trains, `sample [flags]` uses a finished run."""

import argparse
import ast
import dataclasses
import difflib
import os
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from lib import parallel, run, settings
from lib.checkpoint import CheckpointError
from lib.data.sources import DataError


def main(
    experiment: str,
    presets: dict[str, run.Args],
    train: Callable[[Any], None],
    sample: Callable[[Any], None],
    use: type,
) -> None:
    """Parse `sys.argv` and call `train(args)` or `sample(args)`; `use` is the dataclass of sample's flags.

    What a person can mend (bad data, a bad configuration, a run that cannot go on) ends with one line and exit status
    1, a wrong command line with 2, Ctrl-C with 130; anything else is a fault of ours and keeps its traceback.
    """
    words, rank = sys.argv[1:], int(os.environ.get("RANK", 0))
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (one process of several prints)
    try:
        if words[:1] == ["sample"]:
            sample(tyro.cli(use, prog=f"{experiment} sample", args=words[1:]))
        else:
            args = parse(experiment, presets, words)
            parallel.join(run.device(args).type == "cuda")
            train(args)
    except (run.RunError, DataError, CheckpointError, parallel.ParallelError) as error:
        if parallel.told(str(error)):
            sys.exit(1)
        sys.exit(f"error: rank {rank}: {error}" if rank else f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse(experiment: str, presets: dict[str, run.Args], words: list[str]) -> run.Args:
    """The configuration: a preset (the first word; "small" if none), changed by flags, or that of a resumed run."""
    preset = words.pop(0) if words and not words[0].startswith("-") else None
    if preset is not None and preset not in presets:
        near = difflib.get_close_matches(preset, [*presets, "sample"], n=1, cutoff=0.0)
        fail(f"{experiment} has no preset {preset!r}: did you mean {near[0]}? ({', '.join(presets)}, or sample)")
    base = presets[preset or "small"]
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--resume", action="store_true")
    finder.add_argument("--run", type=Path)
    found, _ = finder.parse_known_args(words)
    if not found.resume:
        return _cli(experiment, base, presets, words)
    path = found.run or run.latest_run(experiment)
    stored = run.load_config(path, type(base))
    wanted = _cli(experiment, presets[preset] if preset else stored, presets, words)
    changed = settings.changed_fields(stored, wanted)
    if changed:
        raise run.RunError(f"{path} was started with another configuration:\n  " + "\n  ".join(changed))
    return dataclasses.replace(wanted, run=path)


def _cli(experiment: str, base: run.Args, presets: dict[str, run.Args], words: list[str]) -> Any:
    about = f"presets: {', '.join(presets)} (first word; small if none).  sample: use a finished run."
    return tyro.cli(type(base), prog=experiment, default=base, args=words, description=about)


def fail(message: str) -> Any:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def overview(folder: Path) -> str:
    """The experiments of a folder, each with the first sentence that its file says of itself; none is imported."""
    lines = ["experiments (just run NAME [preset] [flags]; just run NAME --help; just sample NAME --help):", ""]
    for path in sorted(folder.glob("exp_*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        plain = re.sub(r" \(.*?\)", "", " ".join(about.split()))  # without references
        sentence = re.split(r"[.:?](?: |$)", plain, maxsplit=1)[0]
        lines.append(f"  {path.stem:<24}{textwrap.shorten(sentence, 92, placeholder=' ...')}")
    return "\n".join(lines)


def nearest(name: str, folder: Path) -> str:
    """The name of an experiment in `folder`, or exit status 2 with the nearest one."""
    known = sorted(path.stem for path in folder.glob("exp_*.py"))
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return fail(f"no experiment {name!r}: did you mean {near[0]}? ({', '.join(known)})")
