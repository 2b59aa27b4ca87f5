"""How generated pictures are scored beside those they were learnt from: attributes, copies, detail.

Pictures have values in [-1, 1], stored ones are bytes. Axes: n pictures, m training pictures, h height, w width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lib import metrics, random
from lib.data import albums, bouquets, drawn, faces, flowers, petals, scenes
from lib.data.albums import Part, Pictures
from lib.tasks import judge
from lib.tasks.judge import Judge

JUDGED = 10_000  # drawn pictures
COPIED = 1 / 3  # nearer to one training picture than this share of the distance to the second (Somepalli et al. 2023)


def judge_of(data: Pictures, device: torch.device) -> Judge:
    """The judge of a set. Of drawn pictures it has seen JUDGED, whichever are trained on; where nothing is known of the
    pictures it is that of drawn flowers, whose features serve too."""
    size = data.train.pixels.shape[-1]
    if data.name == drawn.STYLE and faces.DRAWN.keys() <= data.names.keys():  # and no folder of that name
        data = faces.load("default", size=size, n=JUDGED)
    elif data.names == bouquets.NAMES:
        data = scenes.SCENES["pairs"].pictures(albums.split_sizes(JUDGED), min(size, judge.SIDE))
    elif data.names in ({}, petals.NAMES):
        data = flowers.load(size=min(size, judge.SIDE), n=JUDGED)
    return judge.load(data, device)


def readings(judge: Judge, part: Part) -> list[str]:
    """How much of each attribute of pictures the judge reads rightly, without noise and with as much as it knows."""
    device = judge.params["head"]["w"].device
    x = part.pixels.to(device) / 127.5 - 1
    wanted = {name: value.to(device) for name, value in part.attributes.items()}
    noisy = x + judge.recipe.noise * random.normal(random.key(0, device), tuple(x.shape))
    plain, hard = judge.agreement(x, wanted), judge.agreement(noisy, wanted)
    return [f"  {name:<26}{100 * plain[name]:.1f} %, with noise {100 * hard[name]:.1f} %" for name in plain]


def quantised(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """With 256 values, as stored pictures have."""
    return (x.clamp(-1, 1) * 127.5).add(127.5).round() / 127.5 - 1


def shares(judge: Judge, x: Float[Tensor, "n 3 h w"], data: Pictures) -> dict[str, dict[str, float]]:
    """Of each attribute, how frequent each value is as the judge sees it, as a share of what it is in the training
    data."""
    found = {}
    for name, p in judge.probabilities(x).items():
        n = p.shape[1]
        have = torch.bincount(p.argmax(1).cpu(), minlength=n) / len(p)
        wanted = torch.bincount(data.train.attributes[name].long().cpu(), minlength=n) / len(data.train.pixels)
        ratio = (have / wanted).tolist()
        found[name] = {value: ratio[i] for i, value in enumerate(data.names[name]) if wanted[i]}
    return found


class Nearest(NamedTuple):
    """`which`: the number of the nearest training picture. `ratio`: of the distance to it, to that to the second."""

    which: Int[Tensor, "n"]
    ratio: Float[Tensor, "n"]

    @property
    def copied(self) -> float:
        """The share of pictures that are much nearer to one training picture than to any other."""
        return float((self.ratio < COPIED).float().mean())


def nearest(x: Float[Tensor, "n 3 h w"], train: UInt8[Tensor, "m 3 h w"], flip: bool) -> Nearest:
    """`flip`: mirrored pictures count as well."""
    found = []
    for part in x.split(250):
        versions = [version.flatten(1) for version in ((part, part.flip(-1)) if flip else (part,))]
        known = (some.flatten(1) / 127.5 - 1 for some in train.split(2500))
        far = torch.cat([torch.stack([torch.cdist(x, some) for x in versions]).amin(0) for some in known], 1)
        found.append(far.topk(2, largest=False))
    values, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Nearest(indices[:, 0], values[:, 0] / values[:, 1].clamp(min=1e-6))


def beside(x: Float[Tensor, "n 3 h w"], train: UInt8[Tensor, "m 3 h w"], near: Nearest, n: int = 16) -> Tensor:
    """The n pictures most like a training picture, each with that beside it."""
    first = near.ratio.argsort()[:n]
    return rearrange([x[first], train[near.which[first]] / 127.5 - 1], "two n c h w -> (n two) c h w")


def detail(x: Float[Tensor, "n 3 h w"]) -> float:
    """Mean square of what a picture loses by being halved and doubled again: too little is blur, too much noise."""
    return float((x - F.interpolate(F.avg_pool2d(x, 2), x.shape[-2:])).square().mean())


def scored(
    judge: Judge, x: Float[Tensor, "n 3 h w"], data: Pictures, flip: bool
) -> tuple[dict[str, float], list[str], Nearest]:
    """The scores of generated pictures, the lines that print each beside that of real ones, and what is nearest."""
    train, test = (part.pixels.to(x.device) for part in (data.train, data.test))
    shown, held_out = train[: len(x)] / 127.5 - 1, test / 127.5 - 1
    real = judge.features(held_out)
    kid, spread = metrics.kid(real, judge.features(x))
    floor, _ = metrics.kid(real, judge.features(shown))
    near, usual = nearest(x, train, flip), nearest(held_out[: len(x)], train, flip)
    scores = {"test/kid": kid, "test/kid_training": floor, "test/copied": near.copied, "test/detail": detail(x)}
    lines = [
        f"against {len(real):,} test pictures, on the features of the judge {judge.name}",
        f"  {f'KID of {len(x):,} pictures':<26}{kid:.4f} ± {spread:.4f} over subsets; of training pictures {floor:.4f}",
        f"  {'copied':<26}{100 * near.copied:.1f} %; of test pictures {100 * usual.copied:.1f} %",
        f"  {'detail':<26}{detail(x):.5f}; of test pictures {detail(held_out):.5f}",
    ]
    if data.names:
        lines.append("frequency of each value of an attribute, divided by that in training pictures")
        for name, of in shares(judge, x, data).items():
            lines.append(f"  {name:<26}" + ", ".join(f"{value} {share:.2f}" for value, share in of.items()))
            scores |= {f"shares/{name}_rarest": min(of.values()), f"shares/{name}_most": max(of.values())}
    return scores, lines, near
