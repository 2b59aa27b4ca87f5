"""Flowers that we draw: every attribute is known, and is to be seen at 64 pixels.

A flower is an SVG of a hundred units a side, written from a seed and rendered by resvg. No torch here: the processes
that draw start in a fraction of a second.
"""

import math
import random
from collections.abc import Sequence

import numpy as np

from lib.data.drawing import Options, rendered

PETALS = {
    "white": "#f4f1ec", "yellow": "#f7d52e", "orange": "#f28a26", "red": "#cc1f33", "pink": "#f08ab4",
    "purple": "#7a35a8", "blue": "#3f66d8", "lilac": "#c5a5ea",
}  # fmt: skip
CENTRES = {"yellow": "#f3c41f", "brown": "#6b3d1c", "green": "#93bd3c", "white": "#fdf9ee", "dark": "#2a1929"}
SHAPES = ["round", "pointed", "narrow", "heart"]
COUNTS = [3, 4, 5, 6, 8, 12]
GROUNDS = {
    "leaves": ("#28521f", "#4c8438"), "sky": ("#8fc0ea", "#dcecf8"), "soil": ("#4d3726", "#7c6046"),
    "dark": ("#0f1317", "#272e36"),
}  # fmt: skip
NAMES = {
    "petals": list(PETALS), "centre": list(CENTRES), "shape": SHAPES, "count": [str(n) for n in COUNTS],
    "double": ["single", "double"], "ground": list(GROUNDS),
}  # fmt: skip


def flower(seed: str, options: Options) -> tuple[np.ndarray, dict[str, int]]:
    """One flower, uint8 (3, size, size), and the number of each attribute's value in NAMES. `options`: "size", and
    values of attributes that are not to be the seed's choice. All else about a flower is the same, whatever they are,
    but that of petals and centre the one that is free changes where both would have one colour. Raises ValueError where
    both are given it."""
    chosen = attributes(seed, options)
    return rendered(svg(seed, chosen, options["size"])), {
        name: NAMES[name].index(value) for name, value in chosen.items()
    }


def attributes(seed: str, options: Options) -> dict[str, str]:
    """What the seed chooses of each attribute where `options` do not; two thirds are single."""
    draw = random.Random(f"attributes {seed}")
    chosen = {name: draw.choice(values) for name, values in NAMES.items()}
    chosen["double"] = draw.choice(["single", "single", "double"])
    petals, centres = (draw.sample(NAMES[name], len(NAMES[name])) for name in ("petals", "centre"))
    for fixed in ({}, {name: options[name] for name in NAMES if name in options}):
        chosen |= fixed
        if chosen["centre"] == chosen["petals"]:  # not to be seen
            if "centre" in fixed and "petals" in fixed:
                raise ValueError(f"a {chosen['centre']} centre in {chosen['petals']} petals is not to be seen")
            free, values = ("petals", petals) if "centre" in fixed else ("centre", centres)
            chosen[free] = next(value for value in values if value != chosen[free])
    return chosen


# ---- the picture ----


def svg(seed: str, chosen: dict[str, str], size: int) -> str:
    """The flower as SVG. What is not an attribute - place, size, tilt, turn, leaves, stem, light - is the seed's."""
    draw = random.Random(f"rest {seed}")
    x, y = 50 + draw.uniform(-8, 8), 47 + draw.uniform(-8, 8)
    length, tilt, turn, spin = draw.uniform(30, 40), draw.uniform(0.68, 1), draw.uniform(-40, 40), draw.uniform(0, 360)
    light, angle = draw.uniform(0.82, 1.12), draw.uniform(0, math.tau)
    behind = ground(random.Random(f"ground {seed}"), chosen["ground"])
    stem = _stem(random.Random(f"stem {seed}"), x, y)
    flower = head(random.Random(f"head {seed}"), chosen, length, spin)
    place = f"translate({x:.1f} {y:.1f}) rotate({turn:.0f}) scale(1 {tilt:.2f})"
    sun_x, sun_y = (f"{50 + 60 * part:.0f}" for part in (math.cos(angle), math.sin(angle)))
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="{size}" height="{size}"><defs>',
            '<filter id="soft"><feGaussianBlur stdDeviation="2"/></filter>',
            colours(chosen),
            f'<radialGradient id="sun" gradientUnits="userSpaceOnUse" cx="{sun_x}" cy="{sun_y}" r="110">'
            '<stop offset="0" stop-color="#fff" stop-opacity=".16"/><stop offset=".5" stop-color="#fff" '
            'stop-opacity="0"/><stop offset="1" stop-color="#000" stop-opacity=".22"/></radialGradient></defs>',
            behind,
            stem,
            f'<g transform="translate(1.5 3) {place}" filter="url(#soft)" opacity=".35">',
            f'<circle r="{0.8 * length:.1f}" fill="#000"/></g>',
            f'<g transform="{place}">{flower}</g>',
            '<rect width="100" height="100" fill="url(#sun)"/>',
            f'<rect width="100" height="100" fill="{"#fff" if light > 1 else "#000"}" '
            f'fill-opacity="{abs(light - 1) * 0.5:.3f}"/></svg>',
        ]
    )


def colours(chosen: dict[str, str], mark: str = "") -> str:
    """The gradients of a flower's petals and centre, to be defined before its `head`; `mark` tells them from those of
    another in one picture."""
    petals, centre = PETALS[chosen["petals"]], CENTRES[chosen["centre"]]
    return "".join(
        [
            _radial(f"petal{mark}", [(0, _shade(petals, 0.6)), (0.55, petals), (1, _shade(petals, 1.1))], "1", "1"),
            _radial(f"inner{mark}", [(0, _shade(petals, 0.5)), (0.6, _shade(petals, 0.94)), (1, petals)], "1", "1"),
            _radial(f"disc{mark}", [(0, _shade(centre, 1.2)), (0.7, centre), (1, _shade(centre, 0.62))]),
        ]
    )


def petal(shape: str, length: float, width: float) -> str:
    """The outline of a petal that grows up from the origin: `width` is half of what is there for it."""
    of_shape: dict[str, list[tuple[float, ...]]] = {
        "round": [(-1.0, -0.2, -1.3, -1.0, 0, -1.0)],
        "pointed": [(-1.25, -0.3, -0.85, -0.7, 0, -1.1)],
        "narrow": [(-0.5, -0.2, -0.62, -1.0, 0, -1.05)],
        "heart": [(-0.8, -0.25, -1.5, -1.1, -0.45, -1.06), (-0.2, -1.04, -0.05, -0.92, 0, -0.8)],
    }
    there = [[(sx * width, sy * length) for sx, sy in zip(c[::2], c[1::2], strict=True)] for c in of_shape[shape]]
    points = [(0.0, 0.0), *(p for c in there for p in c)]
    back = [(-px, py) for px, py in reversed(points)][1:]
    joined = [*points[1:], *back]
    parts = [joined[i : i + 3] for i in range(0, len(joined), 3)]
    return "M0 0" + "".join("C" + " ".join(f"{px:.1f} {py:.1f}" for px, py in part) for part in parts) + "Z"


def head(draw: random.Random, chosen: dict[str, str], length: float, spin: float, mark: str = "") -> str:
    """Petals and centre around the origin."""
    n, colour, centre = int(chosen["count"]), PETALS[chosen["petals"]], CENTRES[chosen["centre"]]
    width = min(1.25 * length * math.sin(math.pi / n), 0.6 * length)
    edge, vein = _shade(colour, 0.55), _shade(colour, 0.78)
    radius, found = length * draw.uniform(0.2, 0.26), []
    layers = [random.Random(draw.random()) for _ in range(2)]  # each by itself: another count changes nothing else
    for layer, draw in enumerate(layers[: 2 if chosen["double"] == "double" else 1]):
        scale, offset, fill = 1 - 0.36 * layer, spin + layer * 180 / n, ("petal", "inner")[layer] + mark
        outline = petal(chosen["shape"], length, width)
        for i in range(n):
            turn, grown = offset + 360 * i / n + draw.uniform(-3, 3), scale * draw.uniform(0.94, 1.05)
            found.append(
                f'<g transform="rotate({turn:.1f}) scale({grown:.2f})"><path d="{outline}" fill="url(#{fill})" '
                f'stroke="{edge}" stroke-width=".9"/><path d="M0 {-0.2 * length:.1f}V{-0.72 * length:.1f}" '
                f'stroke="{vein}" stroke-width=".8"/></g>'
            )
    found.append(f'<circle r="{radius:.1f}" fill="url(#disc{mark})" stroke="{_shade(centre, 0.5)}" stroke-width=".6"/>')
    for i in range(18):  # seeds in the order of a sunflower's
        far, at = radius * 0.88 * math.sqrt((i + 0.5) / 18), i * math.pi * (3 - math.sqrt(5))
        found.append(
            f'<circle cx="{far * math.cos(at):.1f}" cy="{far * math.sin(at):.1f}" r="{radius * 0.08:.2f}" '
            f'fill="{_shade(centre, 0.55)}"/>'
        )
    return "".join(found)


def ground(draw: random.Random, which: str) -> str:
    """One of GROUNDS, with what lies on it."""
    low, high = (_shade(colour, draw.uniform(0.88, 1.12)) for colour in GROUNDS[which])
    found = [
        f'<linearGradient id="ground" gradientTransform="rotate({draw.uniform(40, 130):.0f} .5 .5)"><stop offset="0" '
        f'stop-color="{high}"/><stop offset="1" stop-color="{low}"/></linearGradient>'
        '<rect width="100" height="100" fill="url(#ground)"/>'
    ]
    if which == "leaves":
        for i in range(draw.randint(7, 12)):  # those at the back are out of focus
            blurred = ' filter="url(#soft)"' if i < 5 else ""
            place = draw.uniform(-5, 105), draw.uniform(-5, 105), draw.uniform(0, 360)
            found.append(f"<g{blurred}>{_leaf(*place, draw.uniform(22, 46), draw.uniform(0.6, 1.25))}</g>")
    elif which == "sky":
        for _ in range(draw.randint(1, 4)):
            x, y, r = draw.uniform(0, 100), draw.uniform(0, 100), draw.uniform(9, 20)
            blobs = (
                f'<ellipse cx="{x + draw.uniform(-1, 1) * r:.0f}" cy="{y + draw.uniform(-0.3, 0.3) * r:.0f}" '
                f'rx="{r * draw.uniform(0.6, 1):.0f}" ry="{r * draw.uniform(0.3, 0.5):.0f}"/>'
                for _ in range(3)
            )
            found.append(f'<g fill="#fff" opacity=".7" filter="url(#soft)">{"".join(blobs)}</g>')
    elif which == "soil":
        for _ in range(26):
            shade = _shade(GROUNDS["soil"][1], draw.uniform(0.55, 1.3))
            found.append(
                f'<ellipse cx="{draw.uniform(0, 100):.0f}" cy="{draw.uniform(0, 100):.0f}" '
                f'rx="{draw.uniform(1, 4):.1f}" ry="{draw.uniform(0.8, 2.5):.1f}" fill="{shade}"/>'
            )
    return "".join(found)


def _stem(draw: random.Random, x: float, y: float) -> str:
    foot, bend, green = 50 + draw.uniform(-25, 25), x + draw.uniform(-14, 14), _shade("#3f7d32", draw.uniform(0.7, 1.2))
    width = draw.uniform(2.6, 4.4)
    found = [
        f'<path d="M{x:.1f} {y:.1f}Q{bend:.1f} {y + 34:.1f} {foot:.1f} 106" stroke="{green}" '
        f'stroke-width="{width:.1f}" fill="none"/>'
    ]
    for side in draw.sample([-1, 1], draw.randint(0, 2)):
        turn = side * draw.uniform(45, 100)
        found.append(
            _leaf((bend + foot) / 2, draw.uniform(80, 94), turn, draw.uniform(18, 30), draw.uniform(0.75, 1.2))
        )
    return "".join(found)


def _leaf(x: float, y: float, turn: float, length: float, light: float) -> str:
    green, outline = _shade("#4b8c39", light), petal("pointed", length, length * 0.26)
    return (
        f'<g transform="translate({x:.1f} {y:.1f}) rotate({turn:.0f})"><path d="{outline}" fill="{green}"/>'
        f'<path d="M0 0V{-0.95 * length:.1f}" stroke="{_shade(green, 0.75)}" stroke-width=".9"/></g>'
    )


def _radial(name: str, stops: Sequence[tuple[float, str]], cy: str = "0.5", r: str = "0.5") -> str:
    inside = "".join(f'<stop offset="{at}" stop-color="{colour}"/>' for at, colour in stops)
    return f'<radialGradient id="{name}" cx="0.5" cy="{cy}" r="{r}">{inside}</radialGradient>'


def _shade(colour: str, factor: float) -> str:
    """The colour "#rrggbb", darker below 1, lighter above."""
    return "#" + "".join(f"{min(255, round(int(colour[i : i + 2], 16) * factor)):02x}" for i in (1, 3, 5))
