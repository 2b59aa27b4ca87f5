"""lib/data/pixels.py: what picture files of many kinds become as pixels, one by one and many at once."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib import random
from lib.data import pixels
from lib.faults import DataError


def noise(seed, *shape):
    return random.randint(random.key(seed), shape, 0, 256).numpy().astype(np.uint8)


def put(path, array, mode="L"):
    Image.fromarray(array).convert(mode).save(path)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side, bits, colour, row, clear=None):
    """A square PNG of equal rows of raw bytes; `clear`: its tRNS."""
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(side * (b"\0" + row))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts if part[1] is not None)


def tiff(bits, white, content, order="<"):
    """A grey TIFF of 8 x 8 pixels, of which `white` says whether 0 (1) or the largest value (0) is black."""
    entries = [
        (256, 8),
        (257, 8),
        (258, bits),
        (259, 1),
        (262, white),
        (273, 122),
        (277, 1),
        (278, 8),
        (279, len(content)),
    ]
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    body = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    return head + body + struct.pack(order + "I", 0) + content


def read(path, channels=1, size=8):
    """As `read` reads it, and `read_all`, which leaves grey ones out where three channels are wanted."""
    found = pixels.read(path, size, channels)
    assert found.shape == (channels, size, size) and found.dtype == torch.uint8
    try:
        assert torch.equal(pixels.read_all([path], size, channels, path)[0][0], found)
    except DataError as error:
        assert channels == 3 and "1 grey" in str(error) and torch.equal(found, found[:1].expand_as(found))
    return found


# ---- upright ----

UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photograph_is_turned_upright(tmp_path, orientation, ending):
    exif, stored = Image.Exif(), noise(1, 8, 8)
    exif[274] = orientation
    Image.fromarray(stored).convert("RGB").save(tmp_path / f"a.{ending}", exif=exif, lossless=True)
    expected = torch.from_numpy(UPRIGHT[orientation](stored).copy())
    assert torch.equal(read(tmp_path / f"a.{ending}")[0], expected)
    assert torch.equal(read(tmp_path / f"a.{ending}", 3), expected.expand(3, 8, 8))


def test_a_photograph_is_turned_before_it_is_cut(tmp_path):
    """Upright it is high, and its middle square is the middle of its height."""
    exif, stored = Image.Exif(), np.zeros((8, 24, 3), np.uint8)
    exif[274] = 6  # its left side was up
    stored[:, 8:16], stored[:4, 8:16] = 200, 100
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    found = read(tmp_path / "a.jpg", 3)
    assert (found[:, :, :4].int() - 200).abs().max() <= 3 and (found[:, :, 4:].int() - 100).abs().max() <= 3


@pytest.mark.parametrize("note, turned", [(b"no note at all", False), (None, True)])
def test_a_spoilt_note_spoils_no_picture(tmp_path, note, turned):
    """The second one is read, but Pillow could not write it again: its maker is a number."""
    odd = b"MM\0*\0\0\0\x08\0\2" + struct.pack(">HHIHHHHIHH", 271, 3, 1, 5, 0, 274, 3, 1, 3, 0) + bytes(4)
    put(tmp_path / "a.png", noise(1, 8, 8))
    raw = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(raw[:33] + chunk(b"eXIf", note or odd) + raw[33:])
    expected = np.rot90(noise(1, 8, 8), 2) if turned else noise(1, 8, 8)
    assert torch.equal(read(tmp_path / "a.png")[0], torch.from_numpy(expected.copy()))


# ---- on white ----


BLUE = [0, 0, 200]
GREY = 23  # of BLUE, by its luminance


def half_white(colour):
    """The left half is of the colour."""
    found = torch.full((len(colour), 8, 8), 255, dtype=torch.uint8)
    found[:, :, :4] = torch.tensor(colour)[:, None, None]
    return found


def clear_png(path, kind):
    """Blue, or dark (51), at the left; at the right black and clear."""
    blue, dark, alpha = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    blue[:, :4], dark[:, :4], alpha[:, :4] = BLUE, 51, 255
    match kind:
        case "RGBA":
            Image.fromarray(np.dstack([blue, alpha])).save(path)
        case "LA":
            Image.fromarray(np.dstack([dark, alpha])).save(path)
        case "P" | "P of bytes":
            palette = Image.fromarray((alpha == 0).astype(np.uint8)).convert("P")
            palette.putpalette([*BLUE, 0, 0, 0])
            palette.save(path, transparency=1 if kind == "P" else bytes([255, 0]))
        case "RGB":
            Image.fromarray(blue).save(path, transparency=(0, 0, 0))
        case "L":
            Image.fromarray(dark).save(path, transparency=0)
        case "1":
            path.write_bytes(png(8, 1, 0, bytes([0b00001111]), struct.pack(">H", 1)))
        case "2 bits":  # 0 1 2 3: the grey 1 is clear, which Pillow makes 85
            path.write_bytes(png(8, 2, 0, bytes([0b00000000, 0b01010101]), struct.pack(">H", 1)))
        case "4 bits":
            path.write_bytes(png(8, 4, 0, bytes([0x33, 0x33, 0x55, 0x55]), struct.pack(">H", 5)))
        case "16 bits":
            path.write_bytes(png(8, 16, 0, struct.pack(">8H", *4 * [51 * 257], *4 * [300]), struct.pack(">H", 300)))
        case "16 bits LA":
            path.write_bytes(png(8, 16, 4, struct.pack(">16H", *4 * [51 * 257, 65535], *8 * [0])))


@pytest.mark.parametrize(
    "kind, colour",
    [
        *((kind, BLUE) for kind in ("RGBA", "P", "P of bytes", "RGB")),
        *((kind, [51] * 3) for kind in ("LA", "L", "4 bits", "16 bits", "16 bits LA")),
        *((kind, [0] * 3) for kind in ("1", "2 bits")),
    ],
)
def test_what_is_clear_is_white(tmp_path, kind, colour):
    clear_png(tmp_path / "a.png", kind)
    assert torch.equal(read(tmp_path / "a.png", 3), half_white(colour))
    grey = GREY if colour == BLUE else colour[0]
    assert torch.equal(read(tmp_path / "a.png"), half_white([grey]))


@pytest.mark.parametrize("channels, colours", [(3, ([200, 0, 0], [244, 204, 204])), (1, ([60], [216]))])
def test_what_is_half_clear_is_laid_on_white(tmp_path, channels, colours):
    """By its alpha, before it is scaled."""
    array = np.zeros((16, 16, 4), np.uint8)
    array[..., 0], array[:8, :, 3], array[8:, :, 3] = 200, 255, 51  # red: opaque, a fifth
    Image.fromarray(array, "RGBA").save(tmp_path / "a.png")
    for found, colour in zip(read(tmp_path / "a.png", channels, 16).split(8, 1), colours, strict=True):
        assert (found.int() - torch.tensor(colour)[:, None, None]).abs().max() <= 1
    array[..., 3] = np.indices((16, 16)).sum(0) % 2 * 255
    Image.fromarray(array, "RGBA").save(tmp_path / "b.png")
    fine, coarse = read(tmp_path / "b.png", channels, 16), read(tmp_path / "b.png", channels, 8)
    assert (coarse[:, 2:-2, 2:-2].float() - fine.float().mean((1, 2), keepdim=True)).abs().max() <= 2


def test_a_clear_colour_of_16_bits_is_refused(tmp_path):
    """Of its colours Pillow leaves eight bits, which cannot tell it from others."""
    row = struct.pack(">24H", *12 * [1], *12 * [2])
    (tmp_path / "a.png").write_bytes(png(8, 16, 2, row, struct.pack(">3H", 1, 1, 1)))
    with pytest.raises(
        DataError, match=r"cannot read .*a.png: it is of 16 bits .*save with 8 bits, or with an alpha ch"
    ):
        pixels.read(tmp_path / "a.png", 8, 3)
    (tmp_path / "a.png").write_bytes(png(8, 16, 2, row))
    assert (read(tmp_path / "a.png", 3) == 0).all()


# ---- more than eight bits ----

DEEP = np.resize(np.array([0, 1, 128, 129, 300, 32767, 32768, 65406, 65407, 65535]), (8, 8))
EIGHT = torch.from_numpy(np.rint(DEEP / 257).astype(np.uint8))[None]


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.png", None),
        ("a.tif", None),
        ("a.jp2", None),
        ("a.pgm", b"P5 8 8 65535\n" + DEEP.astype(">u2").tobytes()),
        ("big.tif", tiff(16, 1, DEEP.astype(">u2").tobytes(), ">")),
        ("inverted.tif", tiff(16, 0, (65535 - DEEP).astype("<u2").tobytes())),
    ],
)
def test_16_bits_become_eight(tmp_path, name, content):
    if content is None:
        Image.fromarray(DEEP.astype(np.uint16)).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    assert EIGHT.flatten()[:10].tolist() == [0, 0, 0, 1, 1, 127, 128, 254, 255, 255]
    assert torch.equal(read(tmp_path / name), EIGHT) and torch.equal(read(tmp_path / name, 3), EIGHT.expand(3, 8, 8))


def test_12_bits_become_eight(tmp_path):
    values = np.resize(np.array([0, 8, 9, 2047, 2048, 4095]), (8, 8))
    a, b = values.reshape(-1, 2).T
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    (tmp_path / "a.tif").write_bytes(tiff(12, 1, packed))
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 4095\n" + values.astype(">u2").tobytes())
    expected = torch.from_numpy(np.rint(values / 4095 * 255).astype(np.uint8))[None]
    assert torch.equal(read(tmp_path / "a.tif"), expected) and torch.equal(read(tmp_path / "a.pgm"), expected)


def test_shares_become_eight_bits(tmp_path):
    shares = (np.arange(64, dtype=np.float32) / 63).reshape(8, 8)
    Image.fromarray(shares).save(tmp_path / "a.tif")
    assert torch.equal(read(tmp_path / "a.tif"), torch.from_numpy(np.rint(shares * 255).astype(np.uint8))[None])


@pytest.mark.parametrize(
    "values",
    [
        np.full((8, 8), 200, np.int32),
        np.full((8, 8), 200, np.float32),
        np.full((8, 8), -0.1, np.float32),
        np.full((8, 8), np.nan, np.float32),
    ],
)
def test_greys_without_a_known_white_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    put(tmp_path / "b.png", noise(1, 8, 8))
    told = r"of greys whose black and white are not known \(save with 8 or 16 bits\)"
    for channels in (1, 3):
        with pytest.raises(DataError, match=rf"cannot read {tmp_path}/a.tif: it is {told}$"):
            pixels.read(tmp_path / "a.tif", 8, channels)
    with pytest.raises(DataError, match=rf"has no pictures \(left out: 1 {told}\)$"):
        pixels.read_all([tmp_path / "a.tif"], 8, 1, tmp_path)


# ---- other kinds ----


def test_other_kinds_of_pictures(tmp_path):
    colours, greys = noise(1, 8, 8, 3), noise(2, 8, 8)
    picture, bits = Image.fromarray(colours), Image.fromarray(greys > 127)
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    picture.quantize(256).save(tmp_path / "palette.png")
    bits.save(tmp_path / "bits.png")
    picture.save(tmp_path / "frames.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    for name in ("cmyk.tif", "palette.png", "frames.gif"):
        assert torch.equal(read(tmp_path / name, 3), torch.from_numpy(colours).permute(2, 0, 1)), name
        assert torch.equal(read(tmp_path / name)[0], torch.from_numpy(np.array(picture.convert("L")))), name
    assert torch.equal(read(tmp_path / "bits.png")[0], torch.from_numpy(np.where(greys > 127, 255, 0).astype(np.uint8)))


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red")]
    for ending in ("gif", "png", "webp", "tif"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], lossless=True)
        assert torch.equal(read(tmp_path / f"a.{ending}", 3)[:, 0, 0], torch.tensor([0, 0, 255]).byte()), ending


def test_what_is_left_out_of_many(tmp_path, capsys):
    """Of coloured pictures the grey ones, whatever their depth; what cannot be read, whatever Pillow calls it."""
    put(tmp_path / "rgb.png", noise(1, 8, 8, 3), "RGB")
    put(tmp_path / "rgba.png", noise(1, 8, 8, 4), "RGBA")
    Image.fromarray(DEEP.astype(np.uint16)).save(tmp_path / "deep.png")
    for mode in ("1", "L", "LA"):
        put(tmp_path / f"{mode}.png", noise(1, 8, 8), mode)
    names = ["rgb", "deep", "1", "L", "LA", "rgba", "missing"]
    found, kept = pixels.read_all([tmp_path / f"{name}.png" for name in names], 8, 3, tmp_path)
    assert kept == [0, 5] and found.shape == (2, 3, 8, 8)
    assert capsys.readouterr().err == f"{tmp_path}: 2 pictures; left out: 4 grey, 1 missing\n"


def test_whatever_pillow_calls_it_a_broken_picture_is_unreadable(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("Failed to decode frame 0")  # as of AVIF

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(DataError, match=r"cannot read a.avif: Failed to decode frame 0"):
        pixels.read(Path("a.avif"), 8)
    with pytest.raises(DataError, match="left out: 1 unreadable"):
        pixels.read_all([tmp_path / "a.avif"], 8, 1, tmp_path)


def test_what_is_a_program_is_no_picture(tmp_path):
    put(tmp_path / "a.png", noise(0, 16, 16, 3), "RGB")
    with Image.open(tmp_path / "a.png") as image:
        image.save(tmp_path / "a.eps")
    with Image.open(tmp_path / "a.eps") as image:
        assert image.format == "EPS"  # which Pillow would open, and have drawn by Ghostscript
    with pytest.raises(DataError, match=r"cannot read .*a.eps: cannot identify"):
        pixels.read(tmp_path / "a.eps", 8)


# ---- one picture ----


def test_an_opaque_picture_is_read_as_it_is(tmp_path):
    colours, greys = noise(1, 12, 12, 3), noise(2, 12, 12)
    put(tmp_path / "colours.png", colours, "RGB")
    put(tmp_path / "greys.png", greys)
    assert torch.equal(pixels.read(tmp_path / "colours.png", 12, 3), torch.from_numpy(colours).permute(2, 0, 1))
    assert torch.equal(pixels.read(tmp_path / "greys.png", 12), torch.from_numpy(greys)[None])
    assert torch.equal(pixels.read(tmp_path / "greys.png", 12, 3), torch.from_numpy(greys).expand(3, 12, 12))
    expected = torch.from_numpy(colours.astype(np.float64)) @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert (pixels.read(tmp_path / "colours.png", 12)[0] - expected).abs().max() <= 1


def test_the_middle_square_of_one_picture(tmp_path):
    wide = np.full((12, 40, 3), 255, np.uint8)
    wide[:, 14:26] = [0, 100, 200]
    put(tmp_path / "wide.png", wide, "RGB")
    found = pixels.read(tmp_path / "wide.png", 12, 3)
    assert torch.equal(found, torch.tensor([0, 100, 200], dtype=torch.uint8)[:, None, None].expand(3, 12, 12))
    scaled = pixels.read(tmp_path / "wide.png", 48, 3)  # its edges are mixed with what is beside them
    assert scaled.shape == (3, 48, 48) and torch.equal(scaled[:, :, 8:-8], found[:, :1, :1].expand(3, 48, 32))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_cannot_be_read_as_one_picture(tmp_path, channels):
    for size in ((8, 7), (7, 8)):
        put(tmp_path / "tiny.png", noise(1, *size))
        told = rf"tiny\.png: {size[1]} x {size[0]} pixels, fewer than 8 x 8"
        with pytest.raises(DataError, match=told):
            pixels.read(tmp_path / "tiny.png", 12, channels)
    put(tmp_path / "small.png", noise(1, 8, 8))
    assert pixels.read(tmp_path / "small.png", 12, channels).shape == (channels, 12, 12)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "small.png").read_bytes()[:60])
    for name in ("text.png", "cut.png", "missing.png", "."):
        with pytest.raises(DataError, match=f"cannot read {tmp_path / name}: "):
            pixels.read(tmp_path / name, 12, channels)
