"""Pixels of a file: upright, on one background, at the right brightness; by one function, in every format and mode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_makers import picture
from PIL import Image, ImageOps

from usb_active.errors import UsageError
from usb_active.images.depth import describe_depth
from usb_active.images.reading import AS_USUAL, HIGHEST, UPPER_BITS, Reading, highest_value, image_size, read_image

AS_0_1_0 = Reading.of_run(1)
ORIENTATION = 0x0112
# What a viewer does with a stored picture, by numpy: EXIF 2.3, table of tag 274.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}
# Blocks of one colour, so that JPEG keeps which is where.
STORED = np.kron(np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[0, 0, 0], [250, 250, 250], [250, 250, 0]]], np.uint8),
                 np.ones((16, 16, 1), np.uint8))  # fmt: skip


def pixels(path: Path, mode: str = "RGB", reading: Reading = AS_USUAL) -> np.ndarray:
    return np.asarray(read_image(str(path), mode, reading))


def save(path: Path, orientation: int, **options) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(STORED).save(path, exif=exif, **options)
    return path


# --- orientation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".jpg", {"quality": 95, "subsampling": 0}),
        (".png", {}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".webp", {"lossless": True}),
    ],
)
def test_an_image_is_read_as_a_viewer_shows_it(tmp_path, suffix, options, orientation):
    path = save(tmp_path / f"x{suffix}", orientation, **options)
    shown = UPRIGHT[orientation](STORED).astype(int)
    read = pixels(path)
    assert read.shape == shown.shape and abs(read - shown).max() < 40
    assert image_size(str(path)) == (shown.shape[1], shown.shape[0])
    grey = pixels(path, "L")
    assert (grey == np.asarray(Image.fromarray(read).convert("L"))).mean() > 0.95 and grey.shape == shown.shape[:2]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_runs_of_0_1_0_see_it_as_it_is_stored(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", 6, **({"lossless": True} if suffix == ".webp" else {}))
    assert (pixels(path, reading=AS_0_1_0) == np.asarray(Image.open(path).convert("RGB"))).all()
    assert image_size(str(path), AS_0_1_0) == (48, 32)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12", b"Exif\x00\x00nonsense", b"Exif\x00\x00"])
def test_a_damaged_exif_block_leaves_the_image_as_it_is(tmp_path, exif):
    Image.fromarray(STORED).save(tmp_path / "x.jpg", exif=exif, quality=95, subsampling=0)
    assert abs(pixels(tmp_path / "x.jpg").astype(int) - STORED).max() < 40
    assert image_size(str(tmp_path / "x.jpg")) == (48, 32)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_there_is_not_is_none(tmp_path, value):
    path = save(tmp_path / "x.png", value)
    assert (pixels(path) == STORED).all()


# --- transparency ------------------------------------------------------------------------------------------------


def see_through(mode: str) -> tuple[Image.Image, dict]:
    """8×8, the left half wholly transparent above hidden colours, the right half opaque; and how it is saved."""
    colour = picture(2)
    colour[:, :4] = (200, 30, 30)
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 4:] = 255
    if mode == "RGBA":
        return Image.fromarray(np.dstack([colour, alpha])), {}
    if mode == "LA":
        return Image.fromarray(np.dstack([colour[:, :, 0], alpha])), {}
    if mode == "P":
        colour[:, 4:] = (10, 200, 10)
        image = Image.fromarray(colour).convert("P", palette=Image.Palette.ADAPTIVE)
        hidden = image.getpixel((0, 0))
        return image, {"transparency": hidden}
    if mode == "P of several":
        image = see_through("P")[0]
        opacities = bytearray([255] * 256)
        opacities[image.getpixel((0, 0))] = 0
        return image, {"transparency": bytes(opacities)}
    colour[:, 4:] = (10, 200, 10)
    if mode == "L with a key":
        return Image.fromarray(colour[:, :, 0]), {"transparency": 200}
    return Image.fromarray(colour), {"transparency": (200, 30, 30)}


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (12, 130, 250)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P of several", "L with a key", "RGB with a key"])
def test_hidden_colours_do_not_reach_the_model(tmp_path, mode, background):
    image, options = see_through(mode)
    image.save(tmp_path / "x.png", **options)
    read = pixels(tmp_path / "x.png", reading=Reading(background=background))
    assert (read[:, :4] == background).all()
    assert (read[:, 4:] == np.asarray(image.convert("RGB"))[:, 4:]).all()
    grey = np.asarray(Image.new("RGB", (1, 1), background).convert("L"))[0, 0]
    assert (pixels(tmp_path / "x.png", "L", Reading(background=background))[:, :4] == grey).all()
    assert (pixels(tmp_path / "x.png", reading=AS_0_1_0)[:, :4] != background).any()


@pytest.mark.parametrize("suffix", [".webp", ".tif", ".gif"])
def test_other_formats_with_transparency(tmp_path, suffix):
    image, options = see_through("P" if suffix == ".gif" else "RGBA")
    image.save(tmp_path / f"x{suffix}", **options, **({"lossless": True} if suffix == ".webp" else {}))
    assert (pixels(tmp_path / f"x{suffix}")[:, :4] == 255).all()
    assert (pixels(tmp_path / f"x{suffix}")[:, 4:] == np.asarray(image.convert("RGB"))[:, 4:]).all()


def test_half_transparent_pixels_are_mixed(tmp_path):
    # (128 · 100 + 127 · 255) / 255 = 177.2 on white, 100 · 128 / 255 = 50.2 on black.
    Image.fromarray(np.full((2, 2, 4), (100, 100, 100, 128), np.uint8)).save(tmp_path / "x.png")
    assert (pixels(tmp_path / "x.png") == 177).all()
    assert (pixels(tmp_path / "x.png", reading=Reading(background=(0, 0, 0))) == 50).all()


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "P"])
def test_opaque_images_are_what_they_were(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.fromarray(picture(4)).convert(mode).save(path)
    for wanted in ("RGB", "L"):
        assert (pixels(path, wanted) == pixels(path, wanted, AS_0_1_0)).all()


def test_transparency_and_orientation_together(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    see_through("RGBA")[0].save(tmp_path / "x.png", exif=exif)
    read = pixels(tmp_path / "x.png")
    # A quarter to the right: what was left is on top.
    assert (read[:4] == 255).all() and (read[4:] != 255).any()


# --- more than 8 bits --------------------------------------------------------------------------------------------


def twelve_bits(path: Path, mode: str) -> np.ndarray:
    """A ramp that ends at 4,095, saved in a mode."""
    values = np.linspace(0, 4095, 64).round().astype(np.uint16).reshape(8, 8)
    kind = {"I;16": np.dtype("<u2"), "I;16B": np.dtype(">u2"), "I": np.dtype("<i4"), "F": np.dtype("<f4")}[mode]
    image = Image.fromarray(values.astype(kind))
    assert image.mode == mode
    image.save(path)
    return values


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", ".png"), ("I;16", ".tif"), ("I;16B", ".tif"), ("I", ".tif"), ("F", ".tif")])
def test_a_range_sets_what_is_black_and_white(tmp_path, mode, suffix):
    path = tmp_path / f"x{suffix}"
    values = twelve_bits(path, mode)
    read = pixels(path, "L", Reading(value_range=(0, 4095)))
    assert (read == np.floor(values.astype(float) * 255 / 4095)).all() and read.max() == 255
    # Outside the range is at its ends.
    read = pixels(path, "L", Reading(value_range=(1000, 2000)))
    assert (read[values <= 1000] == 0).all() and (read[values >= 2000] == 255).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_without_a_range_16_bits_are_scaled_as_ever(tmp_path, mode):
    values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    values[0, 0] = 65535
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    Image.fromarray(values.astype(kind)).save(tmp_path / "x.tif")
    for reading in (Reading(), AS_0_1_0, Reading(value_range=(0, 65535))):
        assert (pixels(tmp_path / "x.tif", "L", reading) == values // 257).all()
    assert describe_depth({"x": highest_value(str(tmp_path / "x.tif"), Reading())}) == []


def test_a_range_is_for_many_bits_only(tmp_path):
    Image.fromarray(picture(1)).save(tmp_path / "x.png")
    assert (pixels(tmp_path / "x.png", reading=Reading(value_range=(0, 10))) == picture(1)).all()


def test_negative_and_real_values_need_a_range(tmp_path):
    Image.fromarray(np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "x.tif")
    with pytest.raises(UsageError, match=r"no known range; save it with 8 or 16 bits, or give value_range: \[black, white\]"):
        read_image(str(tmp_path / "x.tif"), "L")
    read = pixels(tmp_path / "x.tif", "L", Reading(value_range=(-1, 1)))
    assert (read.min(), read.max()) == (0, 255)
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(UsageError, match="not finite"):
        read_image(str(tmp_path / "nan.tif"), "L", Reading(value_range=(-1, 1)))


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", ".png"), ("I;16B", ".tif"), ("I", ".tif")])
def test_what_is_dark_is_noticed_with_the_range_that_mends_it(tmp_path, mode, suffix):
    path = tmp_path / f"x{suffix}"
    twelve_bits(path, mode)
    (line,) = describe_depth({"train/x": highest_value(str(path), Reading())})
    assert line.startswith("1 image ends at 4,095 of 65,535, nearly black: train/x; if white is 4,095,")
    assert "write value_range: [0, 4095] below `dataset:`" in line
    assert highest_value(str(path), Reading(value_range=(0, 4095))) is None


def test_a_key_colour_of_16_bits(tmp_path):
    values = np.full((4, 4), 65535, np.uint16)
    values[0, 0] = 700
    Image.fromarray(values).save(tmp_path / "x.png", transparency=700)
    assert Image.open(tmp_path / "x.png").info["transparency"] == 700
    assert pixels(tmp_path / "x.png", reading=Reading(background=(9, 8, 7)))[0, 0].tolist() == [9, 8, 7]


def test_16_bits_of_colour_are_told_from_grey():
    # Pillow writes none, and of a file it gives the upper 8 bits of each channel.
    (line,) = describe_depth({f"{i}": {HIGHEST: 15 * 257, UPPER_BITS: True} for i in range(2)})
    assert line.startswith("2 images end at 3,855 of 65,535") and "save them with 8" in line and "value_range" not in line


def test_16_bits_of_colour_from_a_file(tmp_path):
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + struct.pack(">6H", 4095, 0, 0, 0, 100, 4000)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert pixels(tmp_path / "x.png").tolist() == [[[15, 0, 0], [0, 0, 15]]]
    assert highest_value(str(tmp_path / "x.png"), Reading()) == {HIGHEST: 15 * 257, UPPER_BITS: True}
    assert highest_value(str(tmp_path / "absent.png"), Reading()) is None


# --- what is no file ---------------------------------------------------------------------------------------------


def test_a_fifo_is_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.png").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "x.png"):
        with pytest.raises(UsageError, match="a FIFO, no file"):
            read_image(str(path), "RGB")
        assert image_size(str(path)) is highest_value(str(path), Reading()) is None


# --- formats by Pillow's plugins ---------------------------------------------------------------------------------


def test_heic_is_read_upright_where_the_plugin_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = pillow_heif.from_pillow(Image.fromarray(STORED))
    image.save(tmp_path / "x.heic", quality=90, exif=exif.tobytes())
    assert image_size(str(tmp_path / "x.heic")) == (32, 48)
    assert abs(pixels(tmp_path / "x.heic").astype(int) - UPRIGHT[6](STORED)).mean() < 12


def test_a_plugin_that_does_not_import_is_said_and_harms_nothing(tmp_path):
    (tmp_path / "pillow_heif.py").write_text("raise OSError('libheif.so.1: no such file')\n", encoding="utf-8")
    code = (
        "import logging; logging.basicConfig(format='%(message)s')\n"
        "from usb_active.images.reading import image_suffixes\n"
        "print('.png' in image_suffixes(), '.heic' in image_suffixes())"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert result.stdout.split() == ["True", "False"]
    line = "pillow_heif is installed, but does not work (OSError: libheif.so.1: no such file): its image formats are not read"
    assert result.stderr.splitlines() == [line]


def test_pillows_own_way_agrees(tmp_path):
    """A second opinion: Pillow's `exif_transpose`, and its composition on an opaque canvas."""
    for orientation in UPRIGHT:
        path = save(tmp_path / "x.png", orientation)
        assert (pixels(path) == np.asarray(ImageOps.exif_transpose(Image.open(path)))).all()
    image, _ = see_through("RGBA")
    image.save(tmp_path / "y.png")
    canvas = Image.new("RGBA", (8, 8), "white")
    assert (pixels(tmp_path / "y.png") == np.asarray(Image.alpha_composite(canvas, image).convert("RGB"))).all()
