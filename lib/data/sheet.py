"""Music to look at: notes as bars over time, and a score as it is printed."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
import resvg_py
import torch
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lib.data.voices import Notes

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # for the words of a score, the same on every machine
WIDTH = 2100  # of a score, in verovio's tenths of a millimetre: A4

PLAIN = {"header": "none", "footer": "none", "staffLineWidth": 0.2}  # resvg does not centre a header


def pianoroll(notes: Notes, names: Sequence[str]) -> Figure:
    """Each note a bar from its start to its end at its pitch, each voice in a colour of its own."""
    end = float((notes.start + notes.duration).max()) if len(notes.start) else 1.0
    figure = Figure(figsize=(min(max(4.0, 0.5 * end), 40), 4.5), layout="constrained")
    axes = figure.subplots()
    for voice, name in enumerate(names):
        of = notes.voice == voice
        start, duration, pitch = (column[of].numpy() for column in (notes.start, notes.duration, notes.pitch))
        gap = np.minimum(0.03, duration / 4)  # so that one that is struck again is seen as another
        axes.barh(pitch, duration - gap, height=0.8, left=start, color=f"C{voice}", label=name)
    low, high = (int(notes.pitch.min()), int(notes.pitch.max())) if len(notes.pitch) else (60, 72)
    ticks = range(low // 12 * 12, high + 12, 12)
    axes.set_yticks(ticks, [f"C{tick // 12 - 1}" for tick in ticks])
    axes.set(xlim=(0, end), ylim=(low - 2, high + 2), xlabel="seconds")
    axes.grid(axis="y", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper")
    return figure


def score(musicxml: bytes) -> UInt8[Tensor, "3 h w"] | None:
    """A score on one page of white paper, as long as it takes; None where verovio, which engraves it, is missing."""
    if find_spec("verovio") is None:
        return None
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    engraver = verovio.toolkit()
    engraver.setOptions({"pageWidth": WIDTH, "pageHeight": 60000, "adjustPageHeight": True, **PLAIN})
    engraver.loadData(musicxml.decode())
    svg = engraver.renderToSVG(1).replace(
        "\ueca5", "\u2669"
    )  # the tempo's quarter: in the fonts, not in verovio's alone
    fonts = [str(FONTS / name) for name in ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf")]
    png = resvg_py.svg_to_bytes(
        svg_string=svg, background="white", skip_system_fonts=True, font_files=fonts, font_family="DejaVu Serif",
        serif_family="DejaVu Serif",
    )  # fmt: skip
    with Image.open(io.BytesIO(png)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())
