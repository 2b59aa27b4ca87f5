"""Faces with attributes: drawn ones, whose labels and pairs are exact, CelebA, Kaggle's glasses, anime, or a folder.

`load("default")` draws them (lib/data/drawn.py names the artist and the licence). For one face in two versions, draw
the same seeds twice with one option changed:

    blond, black = (draw("test", 500, hair=colour) for colour in ("blond", "black"))
    hair = mask("hair", "test", 500)  # the two differ nowhere else
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lib.data import albums, drawn
from lib.data.albums import Part, Pictures, kept, labelled, seeds_of, split, split_sizes
from lib.data.drawn import HAIR, SKIN
from lib.data.pixels import TINY
from lib.faults import DataError

DRAWN = {
    "glasses": albums.GLASSES,
    "hair": list(HAIR),
    "skin": list(SKIN),
    "long": ["short hair", "long hair"],
    "earrings": ["no earrings", "earrings"],
    "mustache": ["no mustache", "mustache"],
}


def load(
    data: str,
    data_dir: Path | None = None,
    size: int = 64,
    hair: Sequence[str] | None = None,
    needs: Sequence[str] = (),
    n: int = 10_000,
) -> Pictures:
    """RGB pictures of `size` x `size` pixels and what is known of each.

    `data`: "default" (drawn: `n` faces for training, a tenth as many each for validation and test, less the few that
    have a double, hair colour and glasses aside, among the faces held out), "celeba", "glasses", "anime" (each under
    `data_dir`; nothing of theirs is fetched) or the path of a folder, flat or with a subfolder of pictures per class,
    which is then the attribute "class".
    `hair`: only faces with hair of these colours, which the attribute "hair" then counts in this order.
    `needs`: attributes that the set must have.

    CelebA has its own split; without list_eval_partition.txt it goes by the hash of the file's name, everything else
    by the hash of the pixels. Pictures that are missing, unreadable, tiny or grey are left out and counted. Raises
    DataError where nothing is left, or the set has no such attribute or colour.
    """
    if size < TINY:
        raise DataError(f"faces of {size} pixels are too small: at least {TINY}")
    needs = [*needs, *(["hair"] if hair else [])]
    if data == "default":
        _check(data, needs, DRAWN)
        colours = _colours(data, hair, DRAWN)
        counts = split_sizes(n)
        (train, a), (val, b), (test, c) = (_draw(split, counts[split], size, colours, None) for split in counts)
        train, val = kept(train, ~torch.isin(a, torch.cat([b, c]))), kept(val, ~torch.isin(b, c))
        return Pictures(drawn.STYLE, train, val, test, {**DRAWN, "hair": colours})
    if data in albums.KNOWN:
        known = albums.KNOWN[data]
        _check(data, needs, known)
        if data_dir is None or not data_dir.is_dir():
            where = "" if data_dir is None else f"; {data_dir} is not a folder"
            raise DataError(f"--data {data} needs --data-dir, a folder with {albums.NEEDED[data]}{where}")
        if data == "celeba":
            return split(data, albums.celeba(data_dir, size, _colours(data, hair, known)))
        return split(data, albums.kaggle(data_dir, size) if data == "glasses" else albums.flat(data_dir, size))
    path = Path(data)
    if not path.is_dir():
        raise DataError(f"--data {data}: neither default, {', '.join(albums.KNOWN)} nor a folder of pictures")
    album = albums.folder(path, size)
    _check(data, needs, album.names)
    return split(path.resolve().name, album)


def value(word: str, names: albums.Names) -> tuple[str, int]:
    """The attribute, and the number of its value, that a word such as "glasses" or "hair=blond" means. Raises DataError
    where none or several have it."""
    places = [(name, i) for name, of in names.items() for i, x in enumerate(of) if word in (x, f"{name}={x}")]
    if len(places) != 1:
        known = ", ".join(f"{name}={x}" for name, of in names.items() for x in of)
        raise DataError(f"{word!r} is not the value of one attribute; there are {known or 'none'}")
    return places[0]


def _check(data: str, needs: Sequence[str], known: albums.Names) -> None:
    if missing := [name for name in needs if name not in known]:
        raise DataError(f"--data {data} has no attribute {', '.join(missing)}: it has {', '.join(known) or 'none'}")


def _colours(data: str, hair: Sequence[str] | None, known: albums.Names) -> list[str]:
    if missing := [colour for colour in hair or () if colour not in known["hair"]]:
        raise DataError(f"--data {data} has no {missing[0]} hair: it has {', '.join(known['hair'])}")
    return list(hair or known["hair"])


# ---- drawn ----


def draw(
    split: str,
    seeds: int | Sequence[str],
    size: int = 64,
    hair: str | Sequence[str] = tuple(HAIR),
    glasses: bool | None = None,
) -> Part:
    """One face a seed, on white; `seeds`: these, or the first so many of the split ("train-0", "val-0" or "held-0" and
    so on). The same seed is the same face, whatever its hair's colour and with or without glasses.

    `hair`: a colour of HAIR, or several of which the seed chooses one; the attribute "hair" is its place among them.
    `glasses`: all wear them, none, or half of them (None), as the seed chooses. The other attributes are DRAWN's.
    Raises ValueError for a seed of another split, so that no face of the test is ever drawn for training or validation,
    and for a colour that HAIR has not.
    """
    return _draw(split, seeds, size, hair, glasses)[0]


def attributes(seed: str) -> dict[str, str]:
    """What the face of a seed has, as `draw` draws it: of each of DRAWN the name of its value."""
    found = _labels(seed)
    return {name: values[found[name]] for name, values in DRAWN.items()}


def who(seed: str) -> int:
    """The same for two faces that differ in hair's colour and glasses at most."""
    return _labels(seed)["who"]


@functools.cache
def _labels(seed: str) -> dict[str, int]:
    return drawn.labels(seed, drawn.options(TINY, list(HAIR.values()), _share(None)))


def _draw(
    split: str, seeds: int | Sequence[str], size: int, hair: str | Sequence[str], glasses: bool | None
) -> tuple[Part, Int[Tensor, "n"]]:
    """The faces, and of each the number of who it is."""
    found = drawn.draw(seeds_of(split, seeds), drawn.options(size, _colour_codes(hair), _share(glasses)))
    return labelled(found, DRAWN), torch.from_numpy(found.labels["who"])


def mask(
    what: str,
    split: str,
    seeds: int | Sequence[str],
    size: int = 64,
    hair: str | Sequence[str] = tuple(HAIR),
    glasses: bool | None = None,
) -> Bool[Tensor, "n 1 size size"]:
    """Where `draw`'s faces change with the colour of their hair (`what` "hair": the black outlines, which do not, are
    not in it), or with glasses on or off ("glasses"). Everywhere else such pairs are equal to the bit. Raises
    ValueError."""
    if what == "hair":  # black against white: no two colours differ where these do not
        versions = [drawn.options(size, [colour], _share(glasses)) for colour in ("#000000", "#ffffff")]
    elif what == "glasses":
        versions = [drawn.options(size, _colour_codes(hair), share) for share in (0, 1)]
    else:
        raise ValueError(f"a mask of {what}: only of hair or glasses")
    a, b = (drawn.draw(seeds_of(split, seeds), version).pixels for version in versions)
    return torch.from_numpy((a != b).any(1, keepdims=True))


def _colour_codes(hair: str | Sequence[str]) -> list[str]:
    names = [hair] if isinstance(hair, str) else hair
    if strange := [name for name in names if name not in HAIR]:
        raise ValueError(f"no hair is {strange[0]}: the colours are {', '.join(HAIR)}")
    return [HAIR[name] for name in names]


def _share(glasses: bool | None) -> float:
    return 0.5 if glasses is None else float(glasses)
