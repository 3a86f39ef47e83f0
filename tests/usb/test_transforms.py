"""The views against torchvision and USB's RandAugment, bit for bit."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from semilearn.datasets.augmentation import RandAugment
from torchvision import transforms as T

from usb_active.errors import UsageError
from usb_active.usb.transforms import ImageViews

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def seed(value):
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def state():
    numpy = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2], torch.get_rng_state().numpy().tobytes()


def usb(size, crop_ratio, *, flip=True, extra=(), mean=MEAN, std=STD):
    """The Compose of semilearn/datasets/cv_datasets/cifar.py."""
    steps = [
        T.Resize(size),
        T.RandomCrop(size, padding=int(size * (1 - crop_ratio)), padding_mode="reflect"),
    ]
    if flip:
        steps.append(T.RandomHorizontalFlip())
    return T.Compose([*steps, *extra, T.ToTensor(), T.Normalize(mean, std)])


def usb_eval(size, mean=MEAN, std=STD, crop=()):
    return T.Compose([T.Resize(size), *crop, T.ToTensor(), T.Normalize(mean, std)])


def image(height, width, channels=3, salt=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng([height, width, salt]).integers(0, 256, shape, dtype=np.uint8)


class GreyAsRgb:
    """USB's RandAugment on a grey picture that is stored as RGB; the result read as grey again."""

    def __init__(self, n=3, m=5):
        self.augment = RandAugment(n, m)

    def __call__(self, picture):
        return self.augment(picture.convert("RGB")).convert("L")


def assert_same(ours, theirs, sample, seeds):
    picture = Image.fromarray(sample)
    for value in range(seeds):
        seed(value)
        expected, after = theirs(picture), state()
        for source in (sample, picture):
            seed(value)
            view = ours(source)
            assert state() == after, value
            assert view.dtype == torch.float32 and view.is_contiguous()
            assert torch.equal(view, expected), value


@pytest.mark.parametrize("height, width", [(32, 32), (40, 36), (33, 47), (20, 20)])
@pytest.mark.parametrize("crop_ratio", [0.875, 1.0, 0.3])
def test_rgb_views_are_usbs_bit_for_bit(height, width, crop_ratio):
    views, sample = ImageViews(32, crop_ratio, MEAN, STD), image(height, width)
    assert_same(views.weak, usb(32, crop_ratio), sample, 25)
    assert_same(views.strong, usb(32, crop_ratio, extra=[RandAugment(3, 5)]), sample, 50)
    if height == width:
        assert_same(views.eval, usb_eval(32), sample, 1)
    assert_same(views.eval, usb_eval(32, crop=[T.CenterCrop(32)]), sample, 1)


@pytest.mark.parametrize("height, width", [(8, 8), (16, 16), (9, 14)])
@pytest.mark.parametrize("flip", [True, False])
def test_grey_views_are_usbs_bit_for_bit(height, width, flip):
    mean, std = [0.3], [0.4]
    views, sample = ImageViews(16, 0.875, mean, std, flip=flip), image(height, width, 1)
    assert_same(views.weak, usb(16, 0.875, flip=flip, mean=mean, std=std), sample, 25)
    strong = usb(16, 0.875, flip=flip, extra=[GreyAsRgb()], mean=mean, std=std)
    assert_same(views.strong, strong, sample, 100)
    assert_same(views.eval, usb_eval(16, mean, std, crop=[T.CenterCrop(16)]), sample, 1)


@pytest.mark.parametrize("side, channels", [(8, 1), (12, 3), (28, 1), (32, 3)])
def test_a_padding_in_pixels_is_torchvisions_crop_with_that_padding(side, channels):
    mean, std, sample = MEAN[:channels], STD[:channels], image(side, side, channels)
    views = ImageViews(side, 0.875, mean, std, padding=4)
    augment = RandAugment(3, 5) if channels == 3 else GreyAsRgb()
    for ours, extra in ((views.weak, ()), (views.strong, (augment,))):
        shift = [T.RandomCrop(side, padding=4, padding_mode="reflect"), T.RandomHorizontalFlip()]
        assert_same(ours, T.Compose([*shift, *extra, T.ToTensor(), T.Normalize(mean, std)]), sample, 30)


@pytest.mark.parametrize("m", [5, 10])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_so_many_operations_are_usbs_randaugment_whatever_its_second_argument(n, m, channels):
    mean, std, sample = MEAN[:channels], STD[:channels], image(12, 12, channels)
    views = ImageViews(12, 0.875, mean, std, randaugment_n=n)
    theirs = usb(12, 0.875, extra=[RandAugment(n, m) if channels == 3 else GreyAsRgb(n, m)], mean=mean, std=std)
    assert_same(views.strong, theirs, sample, 60)
    assert_same(views.strong_by_pillow, theirs, sample, 5)
    assert_same(views.weak, usb(12, 0.875, mean=mean, std=std), sample, 5)


def test_a_strong_view_has_at_least_one_operation():
    for n in (0, -1, 1.5):
        with pytest.raises(UsageError, match=f"randaugment_n: {n}; it must be an integer of at least 1"):
            ImageViews(8, 0.875, [0.5], [0.5], randaugment_n=n)


def test_a_padding_must_be_less_than_the_side():
    ImageViews(5, 0.875, [0.5], [0.5], padding=4)
    for size, padding in ((4, 4), (8, 9), (8, -1)):
        with pytest.raises(UsageError, match=f"padding: {padding}; it must be 0 to {size - 1}"):
            ImageViews(size, 0.875, [0.5], [0.5], padding=padding)


def test_grey_strong_view_keeps_channels_equal_outside_the_cutout():
    picture = Image.fromarray(image(16, 16, 1)).convert("RGB")
    for value in range(200):
        seed(value)
        out = np.asarray(RandAugment(3, 5)(picture)).reshape(-1, 3)
        cut = (out == (125, 123, 114)).all(axis=1)
        assert (np.ptp(out[~cut].astype(int), axis=1) == 0).all()
    assert Image.new("RGB", (1, 1), (125, 123, 114)).convert("L").getpixel((0, 0)) == 123


def test_an_image_smaller_than_its_padding_is_reflected_as_numpy_does():
    sample = image(4, 4, 1)
    assert_same(ImageViews(4, 0.01, [0.5], [0.5]).weak, usb(4, 0.01, mean=[0.5], std=[0.5]), sample, 10)


def test_weak_view_draws_every_crop_and_both_directions():
    views, sample = ImageViews(8, 0.75, [0.0], [1.0]), image(8, 8, 1)
    torch.manual_seed(0)
    seen = {views.weak(sample).numpy().tobytes() for _ in range(1000)}
    assert len(seen) == 5 * 5 * 2


def test_eval_of_a_constant_image_is_the_normalised_value():
    sample = np.full((7, 9, 3), 51, dtype=np.uint8)
    view = ImageViews(7, 1.0, [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]).eval(sample)
    expected = (torch.full((3,), 0.2) - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 1.0, 2.0])
    assert view.shape == (3, 7, 7)
    torch.testing.assert_close(view.amin((1, 2)), expected)
    torch.testing.assert_close(view.amax((1, 2)), expected)


def test_the_sample_is_never_written_to():
    sample = image(8, 8)
    before = sample.copy()
    views = ImageViews(8, 0.75, MEAN, STD)
    for view in (views.weak(sample), views.strong(sample), views.eval(sample)):
        view.zero_()
    assert (sample == before).all()


def test_channels_are_converted_as_pil_does():
    colour, grey = image(8, 8), image(8, 8, 1)
    as_grey = np.asarray(Image.fromarray(colour).convert("L"))
    one, three = ImageViews(8, 1.0, [0.0], [1.0]), ImageViews(8, 1.0, [0.0] * 3, [1.0] * 3)
    assert torch.equal(one.eval(colour), one.eval(as_grey))
    assert torch.equal(three.eval(grey), three.eval(np.repeat(grey[:, :, None], 3, axis=2)))
    assert torch.equal(one.eval(grey[:, :, None]), one.eval(grey))
    with_alpha = Image.fromarray(colour).convert("RGBA")
    assert torch.equal(three.eval(with_alpha), three.eval(colour))


def test_views_survive_pickling():
    sample = image(16, 16)
    views = ImageViews(16, 0.875, MEAN, STD, flip=False)
    copy = pickle.loads(pickle.dumps(views))
    weak = pickle.loads(pickle.dumps(views.weak))
    for ours, theirs in ((views.weak, copy.weak), (views.weak, weak), (views.strong, copy.strong)):
        seed(3)
        expected = ours(sample)
        seed(3)
        assert torch.equal(theirs(sample), expected)


def test_no_strong_view_when_not_wanted():
    views = pickle.loads(pickle.dumps(ImageViews(8, 0.875, [0.5], [0.5], strong=False)))
    assert views.strong is None and callable(views.weak)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 0.875, [0.5], [0.5]), "img_size: 0"),
        ((8, 0.0, [0.5], [0.5]), "crop_ratio: 0.0"),
        ((8, 1.5, [0.5], [0.5]), "crop_ratio: 1.5"),
        ((8, 0.875, [0.5, 0.5], [0.5, 0.5]), "2 and 2 values"),
        ((8, 0.875, MEAN, [0.5]), "3 and 1 values"),
        ((8, 0.875, [0.5], [0.0]), "std positive"),
        ((8, 0.875, [float("nan")], [0.5]), "finite"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        ImageViews(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "sample, message",
    [
        (np.zeros((8, 8), dtype=np.float32), "float32 with shape \\(8, 8\\)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), "uint8 with shape \\(3, 8, 8\\)"),
        (np.zeros((0, 8), dtype=np.uint8), "uint8 with shape \\(0, 8\\)"),
        (None, "object with shape \\(\\)"),
    ],
)
def test_bad_samples_are_one_clear_line(sample, message):
    views = ImageViews(8, 0.875, [0.5], [0.5])
    for view in (views.weak, views.strong, views.eval):
        with pytest.raises(UsageError, match=message) as error:
            view(sample)
        assert "\n" not in str(error.value)
