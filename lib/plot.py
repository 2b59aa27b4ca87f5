"""Pictures for TensorBoard and files."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lib.run import RunError


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


def tile(images: Float[Tensor, "n c h w"], columns: int, gap: int = 2) -> UInt8[Tensor, "c h2 w2"]:
    """Pictures with values in [0, 1], row by row on one white sheet; values outside are clipped."""
    n = len(images)
    images = F.pad(images.detach().float().cpu(), (gap, 0, gap, 0), value=1.0)
    blank = torch.ones_like(images[:1]).expand(-n % columns, *images.shape[1:])
    sheet = rearrange(torch.cat([images, blank]), "(r k) c h w -> c (r h) (k w)", k=columns)
    return (F.pad(sheet, (0, gap, 0, gap), value=1.0).clamp(0, 1) * 255).round().to(torch.uint8)


def save(picture: UInt8[Tensor, "c h w"] | Figure, path: Path, scale: int = 1) -> None:
    """Write a picture (each pixel `scale` pixels wide) or a figure as the file that the name's ending says. Raises
    RunError."""
    try:
        if isinstance(picture, Figure):
            picture.savefig(path, dpi=120)
        else:
            pixels = np.ascontiguousarray(rearrange(picture.cpu(), "c h w -> h w c").numpy())
            image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot draw {path}: {error}") from error
