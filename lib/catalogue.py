"""The experiments of a folder: their names, and what each file says of itself; none is imported."""

import ast
import re
import textwrap
from pathlib import Path


def sentences(folder: Path) -> dict[str, str]:
    """The first sentence of each experiment's file, by name, without references."""
    found = {}
    for path in sorted(folder.glob("exp_*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        plain = re.sub(r" \(.*?\)", "", " ".join(about.split()))
        sentence = re.split(r"[.:?](?: |$)", plain, maxsplit=1)[0]
        found[path.stem] = textwrap.shorten(sentence, 92, placeholder=" ...")
    return found
