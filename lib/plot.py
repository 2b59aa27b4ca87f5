"""Pictures for TensorBoard and files."""

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lib.faults import RunError

warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it draws boxes: Chinese would be told piece by piece


def heatmap(
    values: Float[Tensor, "r c"], rows: list[str], columns: list[str], numbers: bool = False, title: str = ""
) -> Figure:
    """A matrix as colours with a name on every row and column; `numbers`: and its values in whole numbers."""
    figure = Figure(figsize=(0.5 * len(columns) + 2, 0.4 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(values.numpy(), cmap="viridis", vmin=0))
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.set_title(title)
    for r, row in enumerate(values.tolist() if numbers else []):
        for c, value in enumerate(row):
            bright = value < values.max() / 2
            axes.text(c, r, f"{value:.0f}", ha="center", va="center", color="white" if bright else "black", fontsize=7)
    return figure


GAP = 2  # pixels between the pictures of a sheet


def tile(images: Float[Tensor, "n c h w"], columns: int, gap: int = GAP) -> UInt8[Tensor, "c h2 w2"]:
    """Pictures with values in [0, 1], row by row on one white sheet; values outside are clipped."""
    n = len(images)
    images = F.pad(images.detach().float().cpu(), (gap, 0, gap, 0), value=1.0)
    blank = torch.ones_like(images[:1]).expand(-n % columns, *images.shape[1:])
    sheet = rearrange(torch.cat([images, blank]), "(r k) c h w -> c (r h) (k w)", k=columns)
    return (F.pad(sheet, (0, gap, 0, gap), value=1.0).clamp(0, 1) * 255).round().to(torch.uint8)


def captioned(images: Float[Tensor, "n 3 h w"], texts: Sequence[str], columns: int = 4) -> Figure:
    """Pictures with values in [0, 1], each with its text below."""
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(2.0 * columns, 2.6 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for place in places:
        place.axis("off")
    for place, image, text in zip(places, images, texts, strict=False):
        place.imshow(rearrange(image.float().clamp(0, 1).cpu(), "c h w -> h w c").numpy())
        place.set_axis_on()
        place.set(xticks=[], yticks=[])
        place.set_xlabel(textwrap.fill(text, 34), fontsize=7, parse_math=False)
    return figure


def encoded(picture: UInt8[Tensor, "c h w"] | Figure | bytes, ending: str, scale: int = 1) -> bytes:
    """A picture (each pixel `scale` pixels wide) or a figure as a file with this ending (".png") has it, or an
    animation as it is. Raises ValueError for an ending that is none of a picture."""
    file = io.BytesIO()
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Figure):
        picture.savefig(file, dpi=120, format=ending.removeprefix("."))
        return file.getvalue()
    if (form := Image.registered_extensions().get(ending.lower())) is None:
        raise ValueError(f"unknown file extension: {ending}")
    pixels = np.ascontiguousarray(rearrange(picture.cpu(), "c h w -> h w c").numpy())
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(file, form)
    return file.getvalue()


def save(picture: UInt8[Tensor, "c h w"] | Figure | bytes, path: Path, scale: int = 1) -> None:
    """Write what `encoded` makes of it, in a folder that is made if need be. Raises RunError."""
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture, path.suffix, scale))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot draw {path}: {error}") from error


def gif(frames: Float[Tensor, "n 3 h w"], seconds: float = 0.1) -> bytes:
    """Pictures with values in [0, 1] one after another, there and back, each for so many seconds, without end."""
    pixels = (rearrange(frames.detach().float().cpu(), "n c h w -> n h w c").clamp(0, 1) * 255).round().byte().numpy()
    images = [Image.fromarray(x) for x in pixels]
    images += images[-2:0:-1]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=round(1000 * seconds), loop=0)
    return file.getvalue()


def add_gif(writer: SummaryWriter, tag: str, animation: bytes, step: int) -> None:
    """An animation among TensorBoard's images, which SummaryWriter.add_video would need moviepy for."""
    with Image.open(io.BytesIO(animation)) as image:
        width, height = image.size
    value = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=animation)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=value)]), step)
