"""Picture files as pixels: upright, laid on white, with eight bits; the middle square, scaled."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin
from torch import Tensor
from tqdm import tqdm

from lib.faults import DataError

TINY = 8  # pixels: pictures with a shorter side are not read
BROKEN = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)  # what Pillow raises
TURNS = {  # what brings a picture upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIXTEEN = {("PNG", "I;16"), ("PPM", "I"), ("JPEG2000", "I;16")}  # whose white Pillow makes 65535


def read(path: Path, size: int, channels: int = 1) -> UInt8[Tensor, "c size size"]:
    """The middle square of one picture file, scaled; of several frames the first. What is transparent is laid on white,
    more than eight bits are brought to eight. Raises DataError."""
    try:
        return _pixels(path, size, channels)
    except DataError as error:
        raise DataError(f"cannot read {path}: {error.__cause__ or f'it is {error}'}") from error


def read_all(
    files: Sequence[Path], size: int, channels: int, origin: Path, what: str = "pictures"
) -> tuple[UInt8[Tensor, "n c size size"], list[int]]:
    """What `read` gives of each picture, and the places in `files` of those that were kept: what it cannot read and
    (for 3 channels) what is grey is left out and counted. Raises DataError where nothing is left, saying that `origin`
    has no `what`."""
    pixels = torch.empty((len(files), channels, size, size), dtype=torch.uint8)
    kept, faults = list[int](), Counter[str]()
    for i, file in enumerate(tqdm(files, desc=origin.name, unit="picture", disable=len(files) < 1000)):
        try:
            pixels[len(kept)] = _pixels(file, size, channels, grey=channels == 1)
            kept.append(i)
        except DataError as error:
            faults[str(error)] += 1
    left_out = ", ".join(f"{n} {fault}" for fault, n in faults.items())
    if not kept:
        raise DataError(f"{origin} has no {what}" + f" (left out: {left_out})" * bool(faults))
    if faults:
        print(f"{origin}: {len(kept)} pictures; left out: {left_out}", file=sys.stderr)
    return pixels[: len(kept)], kept


def _pixels(path: Path, size: int, channels: int, grey: bool = True) -> UInt8[Tensor, "c size size"]:
    """Raises DataError, which says what the file is instead of a picture, caused by what Pillow says. `grey`: whether
    the picture may be."""
    try:
        Image.init()  # EPS is a program, which Pillow would have run by Ghostscript
        with Image.open(path, formats=[name for name in Image.ID if name != "EPS"]) as image:
            if min(image.size) < TINY:
                told = f"{image.width} x {image.height} pixels, fewer than {TINY} x {TINY}"
                raise DataError(f"smaller than {TINY} pixels") from ValueError(told)
            stored = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""
            image.load()
            if not grey and Image.getmodebase(image.mode) == "L":
                raise DataError("grey")
            opaque, turn = _on_white(_eight_bits(image), stored), _turn(image)
            upright = opaque if turn is None else opaque.transpose(turn)
            square = ImageOps.fit(upright.convert("RGB" if channels == 3 else "L"), (size, size))
    except FileNotFoundError as error:
        raise DataError("missing") from error
    except BROKEN as error:
        raise DataError("unreadable") from error
    return torch.from_numpy(rearrange(np.array(square).reshape(size, size, channels), "h w c -> c h w").copy())


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except BROKEN:  # a note that cannot be read spoils no picture
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than eight bits, which convert() would clip, scaled to eight. Raises DataError where its white is
    not known."""
    if image.mode[0] not in "IF":
        return image
    grey, tags = np.asarray(image), getattr(image, "tag_v2", {})
    white: float = 1 if image.mode == "F" else 0
    if (image.format, image.mode) in SIXTEEN:
        white = 65535
    elif tags and image.mode.startswith("I;16"):
        white = 2 ** tags[TiffImagePlugin.BITSPERSAMPLE][0] - 1
    if not (white and (grey >= 0).all() and (grey <= white).all()):
        raise DataError("of greys whose black and white are not known (save with 8 or 16 bits)")
    if "transparency" in image.info:
        grey = np.where(grey == image.info["transparency"], white, grey)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
        grey = white - grey
    return Image.fromarray(np.rint(grey / white * 255).astype(np.uint8))


def _on_white(image: Image.Image, stored: str) -> Image.Image:
    """`stored`: what the pixels of a PNG were before Pillow gave them eight bits, as it does not to the colour that
    stands for clear."""
    if not image.has_transparency_data:
        return image
    if stored == "RGB;16B":
        raise DataError("of 16 bits with a colour that stands for clear (save with 8 bits, or with an alpha channel)")
    if stored in ("L;2", "L;4"):
        image.info["transparency"] *= 85 if stored == "L;2" else 17
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
