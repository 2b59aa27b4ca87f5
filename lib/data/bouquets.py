"""Two flowers in one picture, each with a colour and a shape of its own, and how they stand to each other: drawn as
lib/data/petals.py draws one. No torch here: the processes that draw start in a fraction of a second.

"one" is the left or the upper flower, "other" the right or the lower one.
"""

import random
from collections.abc import Sequence

import numpy as np

from lib.data import drawing, petals
from lib.data.drawing import Options, rendered

NAMES = {
    "one": list(petals.PETALS), "one shape": petals.SHAPES, "other": list(petals.PETALS), "other shape": petals.SHAPES,
    "placed": ["beside", "above"], "larger": ["one", "other"],
}  # fmt: skip
LARGE, SMALL = (24.0, 26.0), (17.0, 19.0)  # lengths of petals, in hundredths of a picture's side


def bouquet(seed: str, options: Options) -> tuple[np.ndarray, dict[str, int]]:
    """Two flowers, uint8 (3, size, size), and the number of each attribute's value in NAMES. `options`: "size"."""
    chosen = attributes(seed)
    return rendered(svg(seed, chosen, options["size"])), {
        name: NAMES[name].index(value) for name, value in chosen.items()
    }


def attributes(seed: str) -> dict[str, str]:
    """What the seed chooses; the two colours differ, or nothing could be said of either."""
    draw = random.Random(f"bouquet {seed}")
    chosen = {name: draw.choice(values) for name, values in NAMES.items()}
    return chosen | dict(zip(("one", "other"), draw.sample(NAMES["one"], 2), strict=True))


def svg(seed: str, chosen: dict[str, str], size: int) -> str:
    """Both on one ground, that of nothing else. What is not an attribute - places, sizes, turns - is the seed's."""
    draw = random.Random(f"places {seed}")
    along, across, apart = 50 + draw.uniform(-3, 3), 50 + draw.uniform(-3, 3), draw.uniform(22, 25)
    found, defined = [], []
    for i, (who, sign) in enumerate((("one", -1), ("other", 1))):
        x, y = along + sign * apart, across + draw.uniform(-6, 6)
        x, y = (x, y) if chosen["placed"] == "beside" else (y, x)
        length = draw.uniform(*(LARGE if chosen["larger"] == who else SMALL))
        flower = {
            "petals": chosen[who], "shape": chosen[f"{who} shape"], "count": draw.choice(["5", "6", "8"]),
            "centre": "dark", "double": "single",
        }  # fmt: skip
        defined.append(petals.colours(flower, f"-{i}"))
        head = petals.head(random.Random(f"head {seed} {who}"), flower, length, draw.uniform(0, 360), f"-{i}")
        found.append(f'<g transform="translate({x:.1f} {y:.1f})">{head}</g>')
    ground = petals.ground(random.Random(f"ground {seed}"), draw.choice(list(petals.GROUNDS)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="{size}" height="{size}"><defs>'
        f'<filter id="soft"><feGaussianBlur stdDeviation="2"/></filter>{"".join(defined)}</defs>'
        f"{ground}{''.join(found)}</svg>"
    )


KIND = drawing.Kind("bouquets", bouquet, ("resvg-py",), (petals,))


def draw(seeds: Sequence[str], size: int) -> drawing.Drawn:
    return drawing.draw(KIND, seeds, {"size": size})
