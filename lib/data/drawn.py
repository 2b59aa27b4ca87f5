"""Faces drawn by DiceBear's style "adventurer": rendered by all cores, kept in the cache, with exact labels.

The faces are a remix of "Adventurer" (https://www.figma.com/community/file/1184595184137881796) by Lisa Wischofsky,
licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). No torch here: the processes that draw start
in a fraction of a second.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources

import numpy as np
from dicebear import Avatar, Style

from lib.data import drawing
from lib.data.drawing import Drawn, Options

STYLE = "adventurer"
PACKAGES = ("dicebear-core", "dicebear-styles", "resvg-py")  # another version may draw other pictures
# The style's own colours; the names are ours.
HAIR = {
    "black": "#0e0e0e", "blond": "#e5d7a3", "dark blond": "#b9a05f", "light brown": "#796a45", "brown": "#6a4e35",
    "dark brown": "#562306", "copper": "#ac6511", "orange": "#cb6820", "red": "#ab2a18", "grey": "#afafaf",
    "pink": "#dba3be", "purple": "#592454", "blue": "#85c2c6", "green": "#3eac2c",
}  # fmt: skip
SKIN = {"light": "#f2d3b1", "tan": "#ecad80", "brown": "#9e5622", "dark": "#763900"}
BALD = "short19"  # the one hair style without hair to colour: its label would be wrong


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
    """One face for each of one or more seeds. Labels: numbers of hair colour (in the order the options give them) and
    skin colour (in SKIN's), and 0 or 1 for what a face has: glasses, long hair, earrings, a mustache."""
    return drawing.draw(drawing.Kind("faces", face, PACKAGES), seeds, options)


def face(seed: str, options: Options) -> tuple[np.ndarray, dict[str, int]]:
    """One face, uint8 (3, size, size), and its labels."""
    avatar = Avatar(_style(), {**options, "seed": seed})
    return drawing.rendered(avatar.to_string()), _labels(avatar, options)


def labels(seed: str, options: Options) -> dict[str, int]:
    """Those of the face of a seed, which is not drawn."""
    return _labels(Avatar(_style(), {**options, "seed": seed}), options)


def _labels(avatar: Avatar, options: Options) -> dict[str, int]:
    chosen = avatar.to_json()["options"]
    kept = (k for k in chosen if k.endswith("Variant") or k == "skinColor")
    features = sorted((k, chosen[k]) for k in kept if k != "glassesVariant")
    digest = hashlib.blake2b(json.dumps(features).encode(), digest_size=8).digest()
    return {
        "glasses": int("glassesVariant" in chosen),
        "hair": options["hairColor"].index(chosen["hairColor"][0]),
        "skin": list(SKIN.values()).index(chosen["skinColor"][0]),
        "long": int(chosen["hairVariant"].startswith("long")),
        "earrings": int("earringsVariant" in chosen),  # not where the hair covers the ears
        "mustache": int(chosen.get("detailsVariant") == "mustache"),
        "who": int.from_bytes(digest, signed=True),
    }


@functools.cache
def _style() -> Style:
    definition = json.loads(resources.files("dicebear_styles").joinpath(f"{STYLE}.json").read_text("utf-8"))
    del definition["components"]["hair"]["variants"][BALD]
    return Style(definition)
