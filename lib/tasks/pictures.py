"""What is asked of models of pictures: ways from one to another, labels, and held-out pictures or files by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lib import random
from lib.data import faces
from lib.data.pixels import read
from lib.faults import RunError

Names = dict[str, list[str]]  # of each label's values


def between(a: Float[Tensor, "z"], b: Float[Tensor, "z"], n: int, circle: bool = False) -> Float[Tensor, "n z"]:
    """n vectors from a to b on the straight line, or along the great circle: of two normal draws each of these is as
    long as a draw is, where those on the straight line are shorter (White 2016, section 2.1)."""
    share = torch.linspace(0, 1, n, device=a.device)[:, None]
    angle = torch.arccos((a @ b / (a.norm() * b.norm())).clamp(-1, 1)) if circle else torch.zeros(())
    if angle.sin() < 1e-4:
        return torch.lerp(a, b, share)
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()


def latents(numbers: Sequence[int], z: int, seed: int) -> Float[Tensor, "n z"]:
    """The latents of pictures by their numbers: the same number is the same picture, whatever else is generated."""
    k = random.key(seed)
    return torch.stack([random.normal(random.fold_in(k, i), (z,)) for i in numbers])


def picked(
    pictures: Sequence[str], held_out: Callable[[], UInt8[Tensor, "n c h w"]], size: int, channels: int = 3
) -> tuple[UInt8[Tensor, "m c h w"], list[int | None]]:
    """The pictures that are asked for, and their numbers: each is the number of a held-out one, which are loaded where
    one is asked for, or a file, which has none. Raises DataError, and RunError for a number that there is not, or
    where nothing is asked for."""
    if not pictures:
        raise RunError("no picture: give numbers of held-out pictures, or files")
    numbers = [int(word) if word.isdecimal() and not Path(word).exists() else None for word in pictures]
    known = held_out() if any(number is not None for number in numbers) else None
    found = []
    for word, number in zip(pictures, numbers, strict=True):
        if number is None or known is None:
            found.append(read(Path(word), size, channels))
        elif number < len(known):
            found.append(known[number])
        else:
            raise RunError(f"picture {number}: the held-out pictures are 0 to {len(known) - 1}")
    return torch.stack(found), numbers


# ---- labels ----


def one_hot(values: dict[str, Int[Tensor, "n"]], names: Names, apart: float = 1.0) -> Float[Tensor, "n k"]:
    """A number for each value of each label, in the order of `names`. `apart`: how far the two values of a label that
    has two are from each other: above 1 they lie beyond 0 and 1 on their line, which makes a generator more decided."""
    parts = [(values[name][:, None] == torch.arange(len(of)).to(values[name])).float() for name, of in names.items()]
    return torch.cat([0.5 + apart * (x - 0.5) if x.shape[1] == 2 else x for x in parts], dim=1)


def chosen(names: Names, asked: Sequence[str]) -> dict[str, int]:
    """{label: number of its value} of values by name. Raises DataError, or RunError for two of one label."""
    found = [faces.value(word, names) for word in asked]
    if len(dict(found)) < len(found):
        raise RunError(f"two values of one label: {', '.join(asked)}")
    return dict(found)


def in_turn(n: int, names: Names, fixed: dict[str, int]) -> dict[str, Int[Tensor, "n"]]:
    """Numbers of values: the fixed ones, and every combination of the others in turn."""
    free = [torch.tensor([fixed[name]] if name in fixed else range(len(of))) for name, of in names.items()]
    every = torch.cartesian_prod(*free).view(-1, len(free))
    return dict(zip(names, every[torch.arange(n) % len(every)].T, strict=True))
