"""lib/plot.py: where each picture stands on a sheet, and files that come back as they were."""

import importlib
import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lib import plot, random
from lib.faults import RunError


def pixels_of(path):
    with Image.open(path) as image:
        return image.mode, np.asarray(image)


@pytest.mark.parametrize("gap", [0, 1, 2])
@pytest.mark.parametrize("n, columns", [(6, 3), (5, 3), (1, 1), (2, 4), (7, 1)])
@pytest.mark.parametrize("c", [1, 3])
def test_each_picture_has_its_place(key, n, columns, gap, c):
    images = random.uniform(key, (n, c, 4, 5), 0.0, 0.99)  # below white
    sheet, rows = plot.tile(images, columns, gap), -(-n // columns)
    assert sheet.dtype == torch.uint8 and sheet.shape == (c, rows * (4 + gap) + gap, columns * (5 + gap) + gap)
    rest = torch.ones_like(sheet, dtype=torch.bool)
    for i in range(n):
        top, left = gap + i // columns * (4 + gap), gap + i % columns * (5 + gap)
        place = (slice(None), slice(top, top + 4), slice(left, left + 5))
        assert torch.equal(sheet[place], (images[i] * 255).round().to(torch.uint8))
        rest[place] = False
    assert (sheet[rest] == 255).all()  # gaps and empty places


def test_values_outside_are_clipped():
    images = torch.tensor([-3.0, -0.001, 0.0, 0.5, 1.0, 1.001, 7.0]).view(1, 1, 1, 7)
    assert plot.tile(images, 1, gap=0).flatten().tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_a_sheet_of_no_pictures():
    assert (plot.tile(torch.ones(0, 1, 4, 4), 8) == 255).all()  # a classifier without mistakes


def test_tile_takes_what_a_model_gives(key):
    images = random.uniform(key, (2, 1, 4, 4))
    before = images.clone()
    assert torch.equal(plot.tile(images.clone().requires_grad_(), 2), plot.tile(images, 2))
    assert plot.tile(images.bfloat16(), 2).dtype == torch.uint8
    assert torch.equal(images, before)


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("c", [1, 3])
def test_a_png_comes_back_as_it_was(tmp_path, key, c, scale):
    picture = random.randint(key, (c, 5, 7), 0, 256).to(torch.uint8)
    plot.save(picture, tmp_path / "out.png", scale)
    mode, pixels = pixels_of(tmp_path / "out.png")
    assert mode == ("L" if c == 1 else "RGB")
    expected = picture.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    assert torch.equal(torch.from_numpy(pixels.copy()).view(5 * scale, 7 * scale, c).permute(2, 0, 1), expected)


@pytest.mark.parametrize("kind", ["picture", "figure"])
@pytest.mark.parametrize("name", ["no/such/folder/out.png", "out.docx", "out", "folder.png"])
def test_what_cannot_be_written_is_said(tmp_path, kind, name):
    (tmp_path / "folder.png").mkdir()
    drawn = (
        torch.zeros(1, 4, 4, dtype=torch.uint8)
        if kind == "picture"
        else plot.heatmap(torch.eye(2), ["a"] * 2, ["b"] * 2)
    )
    if (kind, name) == ("figure", "out"):
        return  # matplotlib adds .png
    with pytest.raises(RunError, match=f"cannot draw .*{name}: "):
        plot.save(drawn, tmp_path / name)


# ---- heatmaps ----


def test_heatmap_names_rows_and_columns():
    rows, columns = ["$a$ 你", "<pad>"], ["x", "y_1", "$z"]
    figure = plot.heatmap(torch.arange(6.0).view(2, 3), rows, columns, title="label (row)")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == rows
    assert [label.get_text() for label in axes.get_xticklabels()] == columns
    assert axes.get_title() == "label (row)" and not axes.texts
    assert np.array_equal(axes.images[0].get_array(), [[0, 1, 2], [3, 4, 5]])


def test_names_in_a_script_that_the_font_lacks_are_drawn_without_a_word(tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        importlib.reload(plot)  # what pytest does with warnings came after its import
        plot.save(plot.heatmap(torch.eye(2), list("你好"), list("ab")), tmp_path / "out.png")
    assert [str(warning.message) for warning in told] == [] and (tmp_path / "out.png").exists()


def test_heatmap_with_numbers_that_can_be_read():
    values = torch.tensor([[0.0, 3.0], [10.0, 999.6]])
    texts = plot.heatmap(values, ["a", "b"], ["c", "d"], numbers=True).axes[0].texts
    assert {t.get_position(): t.get_text() for t in texts} == {(0, 0): "0", (1, 0): "3", (0, 1): "10", (1, 1): "1000"}
    assert [t.get_color() for t in texts] == ["white", "white", "white", "black"]  # on dark, and on bright
    assert plot.heatmap(torch.zeros(2, 2), ["a", "b"], ["c", "d"], numbers=True).axes[0].texts


def test_a_figure_is_written(tmp_path):
    plot.save(plot.heatmap(torch.eye(3), list("abc"), list("def"), numbers=True), tmp_path / "out.png")
    _, pixels = pixels_of(tmp_path / "out.png")
    assert min(pixels.shape[:2]) > 100 and len(np.unique(pixels)) > 10


# ---- animations ----


def frames_of(n, h=6, w=9):
    """Distinct grey frames, so that none merges with the one before; a corner tells what is up and what is left."""
    frames = (torch.arange(n) * 20 / 255).view(n, 1, 1, 1).expand(n, 3, h, w).clone()
    frames[:, :, 0, 0] = 1.0
    return frames


def shown(animation):
    """(pictures, milliseconds each)"""
    with Image.open(animation if not isinstance(animation, bytes) else io.BytesIO(animation)) as image:
        assert image.format == "GIF"
        pictures, times = [], []
        for i in range(image.n_frames):
            image.seek(i)
            pictures.append(torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1))
            times.append(image.info["duration"])
        return torch.stack(pictures), times, image.info.get("loop")


@pytest.mark.parametrize("n, order", [(5, [0, 1, 2, 3, 4, 3, 2, 1]), (3, [0, 1, 2, 1]), (2, [0, 1]), (1, [0])])
def test_a_gif_goes_there_and_back(n, order):
    frames = frames_of(n)
    if n == 1:  # an animation of one has no times
        with Image.open(io.BytesIO(plot.gif(frames))) as image:
            assert image.format == "GIF" and image.size == (9, 6)
        return
    pictures, times, loop = shown(plot.gif(frames, 0.25))
    assert torch.equal(pictures, (frames * 255).round().byte()[order])
    assert times == [250] * len(order) and loop == 0  # without end
    assert shown(plot.gif(frames))[1] == [100] * len(order)


def test_a_gif_takes_what_a_model_gives():
    frames = frames_of(3)
    before = frames.clone()
    expected = plot.gif(frames)
    assert plot.gif(frames.clone().requires_grad_()) == expected and torch.equal(frames, before)
    wild = frames.clone()
    wild[0, :, 1], wild[1, :, 2] = -3.0, 7.0
    assert plot.gif(wild) == plot.gif(wild.clamp(0, 1))
    assert shown(plot.gif(frames.bfloat16()))[0].shape == (4, 3, 6, 9)


def test_tensorboard_reads_an_animation(tmp_path):
    animation = plot.gif(frames_of(3, h=6, w=9))
    with SummaryWriter(tmp_path) as writer:
        plot.add_gif(writer, "samples/walk", animation, 30)
        plot.add_gif(writer, "samples/walk", plot.gif(frames_of(4, h=8, w=7)), 40)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["samples/walk"]
    first, second = events.Images("samples/walk")
    assert (first.step, first.width, first.height) == (30, 9, 6) and first.encoded_image_string == animation
    assert (second.step, second.width, second.height) == (40, 7, 8)
    assert shown(second.encoded_image_string)[0].shape == (6, 3, 8, 7)


def test_an_animation_is_written_as_it_is(tmp_path):
    animation = plot.gif(frames_of(3))
    plot.save(animation, tmp_path / "walk.gif")
    assert (tmp_path / "walk.gif").read_bytes() == animation and len(shown(tmp_path / "walk.gif")[0]) == 4
    with pytest.raises(RunError, match=r"cannot draw .*no/such/folder/walk\.gif: "):
        plot.save(animation, tmp_path / "no/such/folder/walk.gif")


def test_each_picture_has_its_text_below():
    figure = plot.captioned(torch.rand(3, 3, 8, 8, dtype=torch.bfloat16), ["one", "a longer " * 9, "three"], columns=2)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(figure.axes) == 4 and [axes.get_xlabel().split()[0] for axes in shown] == ["one", "a", "three"]
    assert max(map(len, shown[1].get_xlabel().split("\n"))) <= 34
    assert plot.encoded(figure, ".png").startswith(b"\x89PNG")
