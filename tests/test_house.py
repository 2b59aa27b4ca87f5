"""Who may import whom (README.md, "The house"), and how long a file may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KNOWS = {  # each part of the house, and what it may import besides itself
    "words": set(),
    "data": {"words"},
    "models": {"words", "data"},
    "run": {"words"},
    "tasks": {"words", "data", "models", "run"},
    "tools": {"words", "data", "models", "run"},
    "experiments": {"words", "data", "models", "run", "tasks", "tools"},
    "play": {"words"},  # it is up in a second: nothing of it loads torch
}
FILES = [path for folder in ("lib", "experiments") for path in sorted((ROOT / folder).rglob("*.py"))]


def part(module):
    """Of lib.x.y the part x, where that is a folder; of other modules of lib "words"."""
    first, *rest = module.split(".")
    return first if first == "experiments" else rest[0] if rest and (ROOT / "lib" / rest[0]).is_dir() else "words"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not getattr(node, "level", 0), "imports are absolute"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("lib", "experiments"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in ("lib", "experiments"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_knows_what_is_above(path):
    here = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if path.name == "__main__.py":  # it lists the experiments and starts one by name
        return
    for module in imported(path):
        assert part(module) == here != "experiments" or part(module) in KNOWS[here], module


def test_no_file_is_long():
    lines = {path: len(path.read_text().splitlines()) for path in FILES}
    assert not {str(path): n for path, n in lines.items() if n > (350 if "experiments" in path.parts else 250)}
