"""Requests that templates make, to train with: `convert {amount} {from} to {to}` with units of one kind in the slots.

A line of templates.tsv is a tool, a tab and a template, in which {slot} or {slot:kind} stands for an argument and
(one|another|) for any of several wordings; one of fillers.tsv is tool.slot or tool.slot:kind, a tab, and what may stand
there, for from/to in two columns. Sums and functions of x are made up besides.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from lib.data import files
from lib.data.requests import Request, marked

VAL = 0.15  # share of the templates, and of the fillers, that nothing is trained on
_CHOICE, _SLOT = re.compile(r"\(([^()]*)\)"), re.compile(r"\{([^{}]*)\}")
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "fifteen", "twenty")
_QUOTED = {"text", "question", "prompt", "expression", "formula"}


class Templates(NamedTuple):
    """`of`: those of each tool; `fillers`: the columns of each tool.slot:kind."""

    of: dict[str, list[str]]
    fillers: dict[str, list[tuple[str, ...]]]


def load() -> tuple[Templates, Templates]:
    """Those to train with and those held out, each by the hash of its text."""
    here, parts = Path(__file__).parent, (Templates({}, {}), Templates({}, {}))
    for name, i in (("templates.tsv", 0), ("fillers.tsv", 1)):
        for line in files.lines((here / name).read_text(encoding="utf-8")):
            key, *columns = line.split("\t")
            held = files.place(line.encode(), "requests") < VAL
            for part in parts:
                part[i].setdefault(key, [])  # a slot with few fillers may have all of them on one side
            parts[held][i][key].append(columns[0] if i == 0 else tuple(columns))  # type: ignore[arg-type]
    train, val = parts
    for key, of in val.fillers.items():
        of += train.fillers[key] if not of else []
    return train, val


def made(templates: Templates, n: int, seed: int) -> list[Request]:
    """n requests, of every tool alike often. The seed decides which."""
    draw, tools = Random(f"requests {seed}"), sorted(templates.of)
    return [_made(templates, tools[i % len(tools)], draw) for i in range(n)]


def _made(templates: Templates, tool: str, draw: Random) -> Request:
    line = _CHOICE.sub(lambda found: draw.choice(found[1].split("|")), draw.choice(templates.of[tool]))
    taken = defaultdict[str, tuple[str, ...]](tuple)

    def filled(found: re.Match[str]) -> str:
        slot = found[1].partition(":")[0]
        name = f"{tool}.from/to" if slot in ("from", "to") else f"{tool}.{found[1]}"
        if f"{tool}.{slot}" in _INVENTED and draw.random() < 0.5:
            words = _INVENTED[f"{tool}.{slot}"](draw)
        else:
            taken[name] = taken[name] or draw.choice(templates.fillers[name])
            words = taken[name][slot == "to"]
        around = draw.choice(('"{}"', "'{}'", "“{}”")) if slot in _QUOTED and draw.random() < 0.1 else "{}"
        return around.format(f"{{{words}|{slot}}}")

    line = _SLOT.sub(filled, line).strip()
    if draw.random() < 0.3:
        line = line.rstrip("?.!") + draw.choice(("", "", "?", ".", "!", " please"))
    return marked(tool, line)


def _number(draw: Random) -> str:
    kind = draw.random()
    if kind < 0.5:
        return str(draw.randrange(10 ** draw.randint(1, 4)))
    return f"{draw.uniform(0, 500):.{draw.randint(1, 2)}f}" if kind < 0.8 else draw.choice(_NUMBERS)


def _sum(draw: Random, depth: int = 2) -> str:
    """Arithmetic in signs or in words."""
    if depth == 0 or draw.random() < 0.2:
        return _number(draw)
    a, b = _sum(draw, depth - 1), _sum(draw, depth - 1)
    if draw.random() < 0.3:
        return f"{a} {draw.choice(('plus', 'minus', 'times', 'divided by', 'x', 'over', 'to the power of'))} {b}"
    sign, space = draw.choice("+-*/+-*/^×÷"), draw.choice(("", " ", " "))
    return f"({a}{space}{sign}{space}{b})" if depth == 1 and draw.random() < 0.4 else f"{a}{space}{sign}{space}{b}"


def _formula(draw: Random, depth: int = 2) -> str:
    kind = draw.random() if depth else 1.0
    if kind < 0.35:
        inner = _formula(draw, depth - 1)
        return f"{draw.choice(('sin', 'cos', 'exp', 'log', 'sqrt', 'abs', 'tanh'))}({inner})"
    if kind < 0.75:
        sign, space = draw.choice("+-*/"), draw.choice(("", " "))
        return f"{_formula(draw, depth - 1)}{space}{sign}{space}{_formula(draw, depth - 1)}"
    power = draw.choice(("**", "^"))
    return draw.choice(("x", f"x{power}{draw.randint(2, 5)}", f"{draw.randint(2, 9)}*x", f"x/{draw.randint(2, 9)}"))


_INVENTED: dict[str, Callable[[Random], str]] = {"calculate.expression": _sum, "plot.formula": _formula}
