"""Chorales of J. S. Bach in four voices, on a grid of sixteenths (lib/data/voices.py).

The default ones are 365 scores of music21's corpus (https://github.com/cuthbertLab/music21). 331 of them have a place
in the usual split of 229, 76 and 77 chorales (Boulanger-Lewandowski et al. 2012), which chorales.tsv lists; the others
join the training ones unless they repeat what is listed.
"""

import hashlib
import io
import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int8
from torch import Tensor

from lib.cache import cache_dir, keep
from lib.data import files, musicxml, pieces, voices
from lib.data.pieces import Piece
from lib.data.sources import Source, fetch
from lib.faults import DataError

CORPUS = Source(
    file="music21-10.5.1-py3-none-any.whl", package="music21==10.5.1", size=20_118_992,
    licence="music21's corpus, BSD-3-Clause; Bach's works are in the public domain",
    sha256="dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1",
)  # fmt: skip
JSB = "Jsb16thSeparated.npz"
SPLIT = Path(__file__).with_name("chorales.tsv")
ALIKE = 0.3  # share of two pieces' half bars from which on one repeats the other


class Chorales(NamedTuple):
    name: str
    train: list[Piece]
    val: list[Piece]
    test: list[Piece]


def load(data: str = "default", data_dir: Path | None = None) -> Chorales:
    """`data`: default; jsb, the usual file of the same split without bars and struck notes; or a folder with pieces in
    four parts. Raises DataError."""
    if data == "jsb":
        return _jsb(data_dir)
    if data != "default":
        return _folder(Path(data))
    listed = dict(line.split("\t") for line in files.lines(SPLIT.read_text(encoding="utf-8")))
    found = {piece.name: piece for piece in corpus(fetch(CORPUS, data_dir))}
    sides = {side: [found[name] for name, its in listed.items() if its == side] for side in ("train", "valid", "test")}
    known = {name: _half_bars(piece.cells) for name, piece in found.items() if name in listed}
    for name in sorted(found.keys() - listed.keys()):
        own = _half_bars(found[name].cells)
        if all(len(own & other) <= ALIKE * min(len(own), len(other)) for other in known.values()):
            known[name] = own
            sides["train"].append(found[name])
    return Chorales("chorales of J. S. Bach", sides["train"], sides["valid"], sides["test"])


def corpus(path: Path) -> list[Piece]:
    """Every score in four parts of music21's Bach, read once and kept. Raises DataError."""
    made_by = b"".join(
        Path(file).read_bytes() for file in (__file__, pieces.__file__, musicxml.__file__, voices.__file__)
    )
    kept = cache_dir() / "data" / f"chorales-{hashlib.blake2b(made_by, digest_size=6).hexdigest()}.npz"
    if not kept.exists():
        keep(kept, _packed(list(_scores(path))))
    with np.load(kept) as found:
        names, bars, fifths = (found[name].tolist() for name in ("names", "bars", "fifths"))
        cells, place = (torch.from_numpy(found[name]).split(found["lengths"].tolist()) for name in ("cells", "place"))
    return [Piece(*each) for each in zip(names, cells, place, bars, fifths, strict=True)]


def _packed(pieces: list[Piece]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file, names=[p.name for p in pieces], lengths=[len(p.cells) for p in pieces], bars=[p.bar for p in pieces],
        fifths=[p.fifths for p in pieces], cells=torch.cat([p.cells for p in pieces]).numpy(),
        place=torch.cat([p.place for p in pieces]).numpy(),
    )  # fmt: skip
    return file.getvalue()


def _scores(path: Path) -> Iterator[Piece]:
    print(f"reading the scores of {path.name}: some seconds, once", file=sys.stderr)
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if "/corpus/bach/" in name and name.endswith((".mxl", ".xml")):
                    parts = musicxml.read(archive.read(name), name)
                    if len(parts) == 4:
                        yield pieces.placed(Path(name).stem, parts)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not a wheel: {error}") from error


def _half_bars(cells: Int8[Tensor, "t 4"]) -> set[bytes]:
    """What two bars' halves have in common in whatever key: all stretches of eight sixteenths in which all voices sound
    and some pitch changes, relative to their first soprano."""
    pitch = voices.sounding(cells.long())
    windows = pitch.unfold(0, 8, 1)  # t, voice, sixteenth
    full = (windows > 0).flatten(1).all(1) & (windows != windows[..., :1]).flatten(1).any(1)
    relative = (windows - windows[:, :1, :1])[full].to(torch.int8)
    return {row.tobytes() for row in relative.flatten(1).numpy()}


def _folder(path: Path) -> Chorales:
    """A tenth of a folder's pieces, by the hash of their music, for validation and as much for the test. A file that
    cannot be used is told and left out."""
    if not path.is_dir():
        told = "neither default, jsb nor a folder with pieces in four parts"
        raise DataError(f"--data {path}: {told} (piano performances: exp_transformer_piano)")
    sides: dict[str, list[Piece]] = {"train": [], "val": [], "test": []}
    for file in files.visible(path):
        if file.suffix.lower() not in pieces.ENDINGS:
            continue
        try:
            piece = pieces.four(file)
        except DataError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        at = files.place(piece.cells.numpy().tobytes(), "chorales")
        sides["val" if at < 0.1 else "test" if at < 0.2 else "train"].append(piece)
    if empty := [side for side, found in sides.items() if not found]:
        raise DataError(f"{path}: too few pieces in four parts (MIDI or MusicXML), none falls to {empty[0]}")
    return Chorales(f"pieces of {path.name}", **sides)


class _Numbers(pickle.Unpickler):
    """Arrays of numbers alone, of a file that Python 2 wrote: nothing else is made, let alone run."""

    def find_class(self, module: str, name: str) -> object:
        if (module.split(".")[0], name) not in {("numpy", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}[name]


def _jsb(data_dir: Path | None) -> Chorales:
    """Pitches for each sixteenth, none where a voice rests. Bars are not known: all are taken to be of four quarters
    and to begin with the piece, and a note that is struck again looks as if it was held."""
    found = sorted(data_dir.rglob(JSB)) if data_dir is not None else []
    if not found:
        raise DataError(f"--data jsb: no {JSB} under --data-dir (it is in github.com/czhuang/JSB-Chorales-dataset)")
    sides = {}
    try:
        with zipfile.ZipFile(found[0]) as archive:
            for side in ("train", "valid", "test"):
                file = io.BytesIO(archive.read(f"{side}.npy"))
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                arrays = _Numbers(file, encoding="latin1").load()
                sides[side] = [_from_pitches(f"{side} {i}", array) for i, array in enumerate(arrays)]
    except (KeyError, ValueError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise DataError(f"{found[0]} is not the file it should be: {error}") from error
    return Chorales("JSB chorales", sides["train"], sides["valid"], sides["test"])


def _from_pitches(name: str, array: np.ndarray) -> Piece:
    pitch = torch.from_numpy(np.nan_to_num(array.astype(np.float32))).long()
    if pitch.ndim != 2 or pitch.shape[1] != 4:
        raise ValueError(f"{name} has shape {tuple(pitch.shape)}")
    cells = voices.tokens(pitch, torch.zeros_like(pitch, dtype=torch.bool)).to(torch.int8)
    return Piece(name, cells, torch.arange(len(pitch)) % voices.BAR, voices.BAR, voices.signature(pitch))
