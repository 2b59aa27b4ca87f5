"""Arithmetic on codes of faces: mean codes of faces with an attribute's value, and of those without, by whose
difference it is given or taken away (Larsen et al. 2016); and how often a judge then sees it.

Axes: n faces, z numbers of a code, h height, w width, k values of an attribute.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lib import plot, random
from lib.data import faces
from lib.data.albums import Part, Pictures
from lib.faults import RunError
from lib.place import Place
from lib.random import Key
from lib.tasks.judge import Judge
from lib.tasks.pictures import Names

ENOUGH = 20  # training faces with a value of an attribute, for a mean of their codes
KINDS = ("before", "once", "twice", "by_threes")
JUDGED = 200  # test faces in each figure, at most

Encode = Callable[[UInt8[Tensor, "n 3 h w"]], Float[Tensor, "n z"]]
Decode = Callable[[Float[Tensor, "n z"]], Float[Tensor, "n 3 h w"]]  # in [0, 1]


class Means(NamedTuple):
    """Mean codes of faces: `of[name][v]` of those whose attribute `name` has value number v, `but[name][v]` of the
    others. Values that fewer than ENOUGH faces have, or lack, are nan."""

    of: dict[str, Float[Tensor, "k z"]]
    but: dict[str, Float[Tensor, "k z"]]


def means(code: Float[Tensor, "n z"], part: Part, names: Names) -> Means:
    found = Means({}, {})
    for name, values in names.items():
        has = (part.attributes[name][:, None] == torch.arange(len(values), device=code.device)).float()
        for table, which in ((found.of, has), (found.but, 1 - has)):
            n = which.sum(0)[:, None]
            table[name] = torch.where(n < ENOUGH, torch.nan, which.T @ code / n)
    return found


def shift(mean: Means, names: Names, word: str, own: Callable[[str], Sequence[int | None]]) -> Float[Tensor, "n z"]:
    """What gives faces the value that `word` means, added to their codes: its mean code, less that of the value which
    the face has, or where that is not known, or rare, of all faces with another. `own`: of an attribute, the number of
    the value that each face has, None where it is not known. Raises DataError for a value that there is not, RunError
    for a rare one."""
    name, v = _common(mean, names, word)
    of, but = mean.of[name], mean.but[name]
    return torch.stack([of[v] - (but[v] if k is None or of[k].isnan().any() else of[k]) for k in own(name)])


def shift_away(mean: Means, names: Names, word: str, own: Callable[[str], Sequence[int | None]]) -> Tensor:
    """Likewise what takes the value away; nothing where the face has another one."""
    name, v = _common(mean, names, word)
    way = mean.but[name][v] - mean.of[name][v]
    return torch.stack([way if k in (None, v) else torch.zeros_like(way) for k in own(name)])


def _common(mean: Means, names: Names, word: str) -> tuple[str, int]:
    name, v = faces.value(word, names)
    if mean.of[name][v].isnan().any() or mean.but[name][v].isnan().any():
        raise RunError(f"{names[name][v]}: fewer than {ENOUGH} training faces have it, or have it not")
    return name, v


# ---- measurements ----


def report(
    here: Place, encode: Encode, decode: Decode, found: Pictures, judge: Judge, key: Key, size: int | None = None
) -> tuple[dict[str, float], list[str]]:
    """Test faces moved between the first two values of each attribute, by the difference of the mean codes of training
    faces, twice that, or the difference of three random ones of either kind: the shares in which the judge sees the new
    value, and sees the other attributes as in the plain reconstruction; and the lines to print. Some are drawn in
    arithmetic.png. `size`: of drawn faces, whose pairs are compared, too."""
    train = encode(found.train.pixels)
    mean = means(train, found.train, found.names)
    values: dict[str, float] = {}
    lines = ["\n% in which the judge sees the new value, and of other attributes as they were"]
    lines += [f"{'to':<14}{'faces':>6}" + "".join(f"{kind.replace('_', ' '):>15}" for kind in KINDS)]
    for name, of in mean.of.items():
        for old, new in ((0, 1), (1, 0)):
            x = found.test.pixels[found.test.attributes[name] == old][:JUDGED]
            if not len(x) or of[[old, new]].isnan().any():
                continue
            code, key = encode(x), random.fold_in(key, 1)
            either = [train[found.train.attributes[name] == v] for v in (old, new)]
            three = [
                kind[random.randint(k, (len(x), 3), 0, len(kind))].mean(1)
                for k, kind in zip(random.split(key), either, strict=True)
            ]
            way = of[new] - of[old]
            looks = [decode(code + by) for by in (0, way, 2 * way, three[1] - three[0])]
            if not values:  # the first
                rows = torch.cat([x[:10] / 255, *(y[:10] for y in looks[:3])])
                plot.save(plot.tile(rows, min(len(x), 10)), here.path / "arithmetic.png", scale=2)
            seen = [{k: p.argmax(1) for k, p in judge.probabilities(2 * y - 1).items()} for y in looks]
            value = found.names[name][new]
            tag, cells = value.replace(" ", "_"), ""
            for kind, each in zip(KINDS, seen, strict=True):
                stays = torch.stack([each[k] == seen[0][k] for k in each if k != name] or [torch.ones(1)])
                share, kept = float((each[name] == new).float().mean()), float(stays.float().mean())
                values |= {f"{tag}/{kind}": share, f"{tag}/{kind}/others": kept}
                cells += f"{100 * share:9.1f} {100 * kept:5.1f}"
            lines.append(f"{value:<14}{len(x):6}{cells}")
    if size and not mean.of["glasses"].isnan().any():
        near, far = _pairs(encode, decode, mean, size, here.device)
        values |= {"pairs/l1": near, "pairs/l1_before": far}
        told = f"L1 to the reconstruction of their true pair {near:.4f}, before {far:.4f}"
        lines += ["", f"200 faces with glasses added: {told}"]
    return values, lines


def _pairs(encode: Encode, decode: Decode, mean: Means, size: int, device: torch.device) -> tuple[float, float]:
    """How far faces with glasses added are from the reconstructions of the same faces drawn with glasses, and how far
    they are without."""
    without, with_ = (encode(faces.draw("test", 200, size, glasses=x).pixels.to(device)) for x in (False, True))
    target, added = decode(with_), without + mean.of["glasses"][1] - mean.of["glasses"][0]
    near, far = (float((decode(code) - target).abs().mean()) for code in (added, without))
    return near, far
