"""Drawings and photographs are told apart by how much of them is plain; sizes, colour and normalisation are those of the files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from image_makers import BARS, bar, gradient, save
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits, load_sample_images

from usb_active.errors import UsageError
from usb_active.images.files import ImageFiles
from usb_active.images.measuring import LARGE, LOOKED_AT, OF_LARGE, PLAIN, look_at, mean_and_std, plain_share, some_files, spread_positions


def look(tmp_path, images, suffix=".png"):
    names = [f"{number:03d}{suffix}" for number in range(len(images))]
    for name, pixels in zip(names, images, strict=True):
        save(pixels, tmp_path / name)
    return look_at(ImageFiles(str(tmp_path), names, 3))


def digits():
    return [np.rint(image * 255 / 16).astype(np.uint8) for image in load_digits().images[:60]]


def bars():
    rng = np.random.default_rng(1)
    return [bar(name, rng) for name in BARS for _ in range(10)]


def icons():
    rng, found = np.random.default_rng(2), []
    for _ in range(30):
        image = Image.new("RGB", (32, 32), "white")
        left, top = (int(value) for value in rng.integers(0, 16, 2))
        colour = tuple(int(value) for value in rng.integers(0, 200, 3))
        ImageDraw.Draw(image).ellipse([left, top, left + 14, top + 14], fill=colour)
        found.append(np.asarray(image))
    return found


def scans():
    """Lines of text on paper that is not quite white, with noise, through JPEG."""
    rng, found = np.random.default_rng(3), []
    for _ in range(20):
        page = Image.new("L", (64, 64), 235)
        for top in range(4, 56, 11):
            ImageDraw.Draw(page).text((2, top), "".join(rng.choice(list("abcdefghi klm"), 12)), fill=40)
        noisy = np.clip(np.asarray(page) + rng.normal(0, 8, (64, 64)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=80)
        found.append(np.asarray(Image.open(buffer)))
    return found


def crops():
    """Pieces of two photographs, as many of each."""
    rng, found = np.random.default_rng(4), []
    for picture in load_sample_images().images:
        for _ in range(40):
            side = int(rng.integers(64, 400))
            top, left = (int(rng.integers(0, length - side)) for length in picture.shape[:2])
            found.append(picture[top : top + side, left : left + side])
    return found


def gradients():
    rng = np.random.default_rng(5)
    return [gradient(rng) for _ in range(30)]


@pytest.mark.parametrize("make", [digits, bars, icons, scans])
def test_drawings_are_drawings(tmp_path, make):
    seen = look(tmp_path, make())
    assert seen.kind == "drawings" and seen.is_clear and seen.plain >= PLAIN[1]


@pytest.mark.parametrize("make", [crops, gradients])
def test_photographs_are_photos(tmp_path, make):
    seen = look(tmp_path, make())
    assert seen.kind == "photos" and seen.is_clear and seen.plain <= PLAIN[0]


def test_what_lies_between_is_not_clear_and_taken_as_the_nearer(tmp_path):
    # A fifth of the greys 0 … 255 lies within a tenth of the ends; so do all of the pixels that are white.
    ramp = np.linspace(0, 255, 1000).astype(np.uint8)
    for white, kind in ((120, "photos"), (220, "drawings")):
        pixels = np.concatenate([ramp, np.full(white, 255, np.uint8)]).reshape(-1, 10)
        seen = look(tmp_path / kind, [pixels] * 3)
        assert seen.plain == pytest.approx((1000 * 0.2 + white) / (1000 + white), abs=0.01)
        assert seen.kind == kind and not seen.is_clear


def test_an_image_of_one_grey_is_all_plain_and_contrast_does_not_matter():
    assert plain_share(np.full((4, 4), 7.0)) == 1
    image = np.array([[0, 0, 100, 50]])
    assert plain_share(image) == plain_share(image / 10 + 5) == 0.75


def test_sizes_shape_and_channels(tmp_path):
    seen = look(tmp_path, [np.zeros((10, 20, 3), np.uint8), np.zeros((30, 12, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)])
    assert (seen.sides, seen.square, seen.channels, seen.looked_at) == ((10, 12, 16), False, 1, 3)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    seen = look(tmp_path / "red", [red] * 2)
    assert (seen.sides, seen.square, seen.channels) == ((8, 8, 8), True, 3)


def test_grey_images_stay_grey_where_jpeg_rounds(tmp_path):
    grey = [np.repeat(image[:, :, None], 3, axis=2) for image in digits()]
    assert look(tmp_path, grey, ".jpg").channels == 1


def test_mean_and_std_are_those_of_the_pixels_at_that_size(tmp_path):
    rng = np.random.default_rng(6)
    images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(5)]
    look(tmp_path, images)
    files = ImageFiles(str(tmp_path), [f"{number:03d}.png" for number in range(5)], 3)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    mean, std = mean_and_std(files, 8)
    assert mean == pytest.approx(pixels.mean(axis=0), abs=1e-4) and std == pytest.approx(pixels.std(axis=0), abs=1e-4)
    # Smaller, the noise averages out; the mean stays.
    mean_small, std_small = mean_and_std(files, 4)
    assert mean_small == pytest.approx(mean, abs=0.03) and max(std_small) < 0.7 * min(std)
    black = look_at(ImageFiles(str(tmp_path), ["000.png"], 3))
    assert black.looked_at == 1 and len(mean_and_std(ImageFiles(str(tmp_path), files.keys, 1), 8)[0]) == 1


def test_images_of_one_colour_have_a_spread_to_divide_by(tmp_path):
    look(tmp_path, [np.full((8, 8), 255, np.uint8)] * 2)
    assert mean_and_std(ImageFiles(str(tmp_path), ["000.png", "001.png"], 1), 8) == ((1.0,), (0.01,))


def test_some_of_many_are_looked_at_from_end_to_end():
    assert spread_positions(5) == [0, 1, 2, 3, 4]
    many = spread_positions(10_000)
    assert len(many) == LOOKED_AT and many[0] == 0 and many[-1] == 9_999


@pytest.mark.parametrize(("side", "found"), [(LARGE, 130), (LARGE + 1, OF_LARGE)])
def test_of_large_images_fewer_are_read(tmp_path, side, found):
    save(np.zeros((side, side + 9), np.uint8), tmp_path / "a.png")
    for number in range(129):
        (tmp_path / f"{number:03d}.png").symlink_to(tmp_path / "a.png")
    names = sorted(path.name for path in tmp_path.iterdir())
    some = some_files(ImageFiles(str(tmp_path), names, 3))
    assert len(some.keys) == found == len(set(some.keys)) and some.keys[0] == names[0] and some.keys[-1] == names[-1]


def test_no_images_are_one_line(tmp_path):
    with pytest.raises(UsageError, match="no image to look at"):
        some_files(ImageFiles(str(tmp_path), [], 3))


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"a\.png: not readable"):
        look_at(ImageFiles(str(tmp_path), ["a.png"], 3))
