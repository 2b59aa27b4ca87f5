"""What drawn pictures show and how sentences tell it: one flower, two flowers and their relation, or a face.

Whole pairs of values are never trained on, so that combinations can be asked for that no picture showed.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lib.data import albums, bouquets, captions, faces, flowers, petals
from lib.data.albums import Names, Part, Pictures
from lib.data.captions import Held, Values, article, joined, pick
from lib.data.drawn import STYLE
from lib.data.paraphrases import PARAPHRASES


class Scene(NamedTuple):
    """`attributes`: of a seed, what its picture shows. `draw`: pictures of seeds of a split. `caption`: of a seed,
    values and the probability that each is told, a sentence and what it tells. `short`: the plainest sentences that
    tell a value. `unseen`: pairs of values that are not trained on. `can_be`: whether values are ones that are drawn.
    `mirrored`: a mirrored picture is what its sentence says, too. `same`: of a seed, a number that doubles share; where
    there is none, none are drawn."""

    name: str
    names: Names
    attributes: Callable[[str], Values]
    draw: Callable[[str, int | Sequence[str], int], Part]
    caption: Callable[[str, Values, float], tuple[str, set[str]]]
    short: Callable[[str, str], list[str]]
    unseen: Held
    example: str
    can_be: Callable[[Values], bool] = lambda values: True
    mirrored: bool = True
    same: Callable[[str], int] | None = None
    contradictions: Callable[[str], list[tuple[str, str]]] = lambda text: []
    paraphrases: Sequence[tuple[str, Values]] = ()

    def pictures(self, seeds: Mapping[str, int | Sequence[str]], size: int) -> Pictures:
        """Of seeds of each split, or the first so many: those that a judge learns from have all pairs."""
        train, val, test = (self.draw(split, seeds[split], size) for split in ("train", "val", "test"))
        return Pictures(self.name, train, val, test, self.names)


# ---- two flowers ----

RELATIONS = {"beside": ("left of", "right of"), "above": ("above", "below")}  # of the one, of the other


def _of_two(seed: str, values: Values, told: float) -> tuple[str, set[str]]:
    """How they stand is always told, or nothing else would be of one of them."""
    draw = random.Random(f"caption {seed}")
    names = {name for name in bouquets.NAMES if name == "placed" or draw.random() < told}
    first = pick(draw, ["one", "other"])
    second = "other" if first == "one" else "one"
    how = pick(draw, ["adjective", "than", "clause"]) if "larger" in names else ""
    larger = values["larger"] == first
    big, small = pick(draw, ["large", "big"]), "small"

    def one(who: str, size: str, order: int) -> str:
        colour, shape = (values[name] if name in names else "" for name in (who, f"{who} shape"))
        shape = {"heart": "heart shaped"}.get(shape, shape)
        if order == 0:
            return article(joined([size, shape, colour, "flower"]))
        return joined([article(joined([size, colour, "flower"])), f"with {shape} petals" if shape else ""])

    sizes = ((big, small) if larger else (small, big)) if how == "adjective" else ("", "")
    order = draw.randrange(2)
    a, b = one(first, sizes[0], order), one(second, sizes[1], order)
    relation = RELATIONS[values["placed"]][first == "other"]
    if how == "than":
        return f"{a} {'bigger' if larger else 'smaller'} than and {relation} {b}", names
    way = draw.randrange(3)
    text = [f"{a} {relation} {b}", f"{a} is {relation} {b}", f"two flowers, {a} {relation} {b}"][way]
    return text + (f", the first is {'larger' if larger else 'smaller'}" if how == "clause" else ""), names


def _short_of_two(name: str, value: str) -> list[str]:
    """Of anything but how they stand one for each way to stand, for nothing else can be said of one of them."""
    if name == "placed":
        return [f"a flower {RELATIONS[value][0]} a flower"]
    ways = [of_one for of_one, _ in RELATIONS.values()]
    if name == "larger":
        return [f"a flower {'bigger' if value == 'one' else 'smaller'} than and {way} a flower" for way in ways]
    said = article(f"{'heart shaped' if value == 'heart' else value} flower")
    return [f"{said} {way} a flower" if name.startswith("one") else f"a flower {way} {said}" for way in ways]


# ---- faces ----


def _of_a_face(seed: str, values: Values, told: float) -> tuple[str, set[str]]:
    draw = random.Random(f"caption {seed}")
    names = {name for name in values if draw.random() < told} or {pick(draw, list(values))}
    said = {name: values[name] for name in names}
    hair = joined([said.get("long", "").removesuffix(" hair"), said.get("hair", "")])
    parts = [f"{hair} hair"] if hair else []
    parts += [f"{said['skin']} skin"] if "skin" in names else []
    parts += [f"a {said[name]}" if said[name] == "mustache" else said[name] for name in _WORN if name in names]
    parts = draw.sample(parts, len(parts))
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    way = pick(draw, ["a face with", "someone with", "this person has", "a portrait of somebody who has"])
    return f"{way} {listed}", names


_WORN = ("glasses", "earrings", "mustache")


def _short_of_a_face(name: str, value: str) -> list[str]:
    ways = {"hair": f"{value} hair", "skin": f"{value} skin"}
    return [f"a face with {ways.get(name, value)}"]


# ---- all of them ----


def _draw_two(split: str, seeds: int | Sequence[str], size: int) -> Part:
    return albums.labelled(bouquets.draw(albums.seeds_of(split, seeds), size), bouquets.NAMES)


SCENES = {
    "default": Scene(
        "flowers", petals.NAMES, lambda seed: petals.attributes(seed, {}), flowers.draw, captions.caption,
        captions.short, captions.UNSEEN, "a flower with five round red petals and a yellow centre, before the sky",
        can_be=lambda values: values["petals"] != values["centre"], contradictions=captions.contradictions,
        paraphrases=PARAPHRASES,
    ),
    "pairs": Scene(
        "bouquets", bouquets.NAMES, bouquets.attributes, _draw_two, _of_two, _short_of_two,
        captions.held_out(bouquets.NAMES, ("one", "other")), "a round red flower left of a narrow blue flower",
        can_be=lambda values: values["one"] != values["other"], mirrored=False,
    ),
    "faces": Scene(
        STYLE, faces.DRAWN, faces.attributes, faces.draw, _of_a_face, _short_of_a_face,
        captions.held_out(faces.DRAWN, ("hair", "skin")), "a face with long black hair and glasses", same=faces.who,
    ),
}  # fmt: skip
