"""The datasets: order, keys, targets, what is read from the files, growth, and what is said about bad input."""

from __future__ import annotations

import logging
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import idx_bytes, picture, write_cifar, write_folder, write_image, write_mnist, write_stl10, write_svhn
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from usb_active.builtin.array_datasets import Cifar10, Cifar100, Digits, ImageParts, Mnist, Stl10, Svhn, numbered_keys
from usb_active.builtin.image_folder import ImageFolder
from usb_active.contracts.dataset import Dataset, DatasetOptions, may_load_in_threads
from usb_active.contracts.plugin import stored_keys
from usb_active.errors import UsageError
from usb_active.images import kernels
from usb_active.images.checking import check_images
from usb_active.images.files import ImageFiles, folder_images, read_image
from usb_active.images.listing import look_through
from usb_active.pool.inference import PoolRows


def folder(root: Path, img_size: int | None = None, num_classes: int | None = None, **config) -> ImageFolder:
    options = DatasetOptions(data_dir=root, img_size=img_size, num_classes=num_classes)
    return ImageFolder(ImageFolder.Config(**config), options)


def refusal(act, *args, **keywords) -> str:
    """The message of the UsageError that `act` must raise; one line."""
    with pytest.raises(UsageError) as caught:
        act(*args, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- the contract ------------------------------------------------------------------------------------------------


def test_importing_the_datasets_is_light():
    modules = "usb_active.contracts.dataset, usb_active.builtin.array_datasets, usb_active.builtin.image_folder, usb_active.images.checking"
    heavy = "{'torch', 'torchvision', 'semilearn', 'sklearn', 'scipy'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


class TwoSamples(Dataset):
    def prepare(self) -> None:
        self.keys, self.targets = ["a", "b"], np.array([0, 1])
        self.queryable, self.class_names = np.ones(2, dtype=bool), ("x", "y")


def test_a_dataset_of_fixed_order_takes_only_its_own_keys():
    dataset = TwoSamples()
    dataset.align(["a", "b"], grow=True)
    assert dataset.keys == ["a", "b"]
    assert "b, c" in refusal(dataset.align, ["a", "c"], grow=True)
    assert "another order" in refusal(dataset.align, ["b", "a"], grow=False)


def test_lengths_and_the_number_of_classes_are_checked():
    class TooFewTargets(TwoSamples):
        def prepare(self) -> None:
            super().prepare()
            self.targets = np.array([0])

    assert "targets has 1 entries for 2 samples" in refusal(TooFewTargets)
    assert "num_classes: 3 given" in refusal(TwoSamples, None, DatasetOptions(num_classes=3))
    assert len(TwoSamples(None, DatasetOptions(num_classes=2))) == 2


# --- digits ------------------------------------------------------------------------------------------------------


def test_digits_are_split_in_the_same_way_always():
    dataset = Digits()
    assert len(dataset) + len(dataset.test) == 1797
    # A quarter of each class, rounded up: with n images of a class, ceil(n / 4) are in the test set.
    per_class = np.bincount(load_digits().target)
    assert np.bincount(dataset.test.targets).tolist() == (-(-per_class // 4)).tolist()
    # Written out, so that a change of the split, which would spoil earlier runs, is noticed.
    in_pool = {int(key.removeprefix("digits/")) for key in dataset.keys}
    assert [n for n in range(60) if n not in in_pool] == [6, 7, 19, 20, 21, 22, 23, 46, 48, 50, 53, 57]
    assert dataset.class_names == tuple("0123456789")
    assert dataset.queryable.all()


def test_digits_are_scikit_learns_scaled_to_bytes():
    dataset, source = Digits(), load_digits()
    for index in (0, 700, len(dataset) - 1):
        number = int(dataset.keys[index].removeprefix("digits/"))
        assert dataset.targets[index] == source.target[number]
        np.testing.assert_allclose(dataset.load(index), source.images[number] * 255 / 16, atol=0.5)
    assert dataset.load(0).dtype == np.uint8
    pool = [dataset.load(index) for index in range(len(dataset))]
    test = [dataset.test.load(index) for index in range(len(dataset.test))]
    joint = sorted(image.tobytes() for image in pool + test)
    assert joint == sorted(np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in source.images)


def test_digits_with_three_channels_are_grey():
    grey, colour = Digits(), Digits(Digits.Config(in_channels=3), DatasetOptions(img_size=16))
    assert (grey.img_size, grey.in_channels, colour.img_size, colour.in_channels) == (8, 1, 16, 3)
    assert colour.load(5).shape == colour.test.load(5).shape == (8, 8, 3)
    assert (colour.load(5) == grey.load(5)[:, :, None]).all()
    assert len(colour.mean) == len(colour.std) == 3
    with pytest.raises(ValidationError):
        Digits.Config(in_channels=2)


def test_the_constants_of_digits_are_those_of_the_data():
    dataset = Digits()
    pixels = load_digits().images / 16
    assert dataset.mean[0] == pytest.approx(pixels.mean(), abs=1e-4)
    assert dataset.std[0] == pytest.approx(pixels.std(), abs=2e-4)


# --- MNIST -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["mnist", "mnist/MNIST/raw"])
@pytest.mark.parametrize("compress", [False, True])
def test_mnist_is_read_in_the_order_of_its_files(tmp_path, place, compress):
    written = write_mnist(tmp_path / place, compress=compress)
    dataset = Mnist(None, DatasetOptions(data_dir=tmp_path))
    for samples, (images, labels) in ((dataset, written["train"]), (dataset.test, written["t10k"])):
        assert samples.targets.tolist() == labels.tolist() and samples.targets.dtype == np.int64
        assert all((samples.load(i) == image).all() for i, image in enumerate(images))
    assert list(dataset.keys) == [f"train/{i:05d}" for i in range(12)]
    assert (dataset.img_size, dataset.in_channels, dataset.class_names) == (28, 1, tuple("0123456789"))
    assert dataset.queryable.all() and dataset.load(0).dtype == np.uint8
    assert dataset.views.weak(dataset.load(3)).shape == (1, 28, 28)


def test_mnist_may_have_three_equal_channels_and_another_size(tmp_path):
    images, _ = write_mnist(tmp_path / "mnist")["train"]
    dataset = Mnist(Mnist.Config(in_channels=3), DatasetOptions(data_dir=tmp_path, img_size=32))
    assert (dataset.load(4) == images[4][:, :, None]).all() and dataset.test.load(0).shape == (28, 28, 3)
    assert dataset.views.eval(dataset.load(4)).shape == (3, 32, 32)
    assert len(dataset.mean) == len(dataset.std) == 3


def test_mnist_reads_the_names_with_a_dot_too(tmp_path):
    write_mnist(tmp_path / "mnist")
    for path in (tmp_path / "mnist").iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(Mnist(None, DatasetOptions(data_dir=tmp_path))) == 12


def test_mnists_missing_files_are_named_with_the_way_to_get_them(tmp_path):
    def message():
        return refusal(Mnist, None, DatasetOptions(data_dir=tmp_path))

    assert f"no train-images-idx3-ubyte or train-images-idx3-ubyte.gz in {tmp_path / 'mnist'}" in message()
    assert f"torchvision.datasets.MNIST('{tmp_path / 'mnist'}', download=True)" in message()
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    assert "no t10k-labels-idx1-ubyte" in message()


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (IMAGES, b"", f"{IMAGES}: begins ''; an IDX file of bytes with 3 dimension(s) begins '00000803'"),
        (IMAGES, idx_bytes(np.zeros(12)), "begins '00000801'; an IDX file of bytes with 3 dimension(s)"),
        (LABELS, idx_bytes(np.zeros((12, 1))), "begins '00000802'; an IDX file of bytes with 1 dimension(s) begins '00000801'"),
        (IMAGES, idx_bytes(np.zeros((12, 28, 28)))[:-1], "9407 bytes after the header, which says 9408 (shape (12, 28, 28))"),
        (LABELS, idx_bytes(np.zeros(12)) + b"x", "13 bytes after the header, which says 12"),
        (IMAGES, idx_bytes(np.zeros((12, 27, 28))), "images of 27×28; MNIST's are 28×28"),
        (LABELS, idx_bytes(np.zeros(11)), "has 12 images and"),
        (LABELS, idx_bytes(np.full(12, 10)), "label 10; MNIST's are 0 to 9"),
    ],
)
def test_damaged_mnist_files_are_refused_in_one_line(tmp_path, name, content, said):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / name).write_bytes(content)
    message = refusal(Mnist, None, DatasetOptions(data_dir=tmp_path))
    assert said in message and str(tmp_path / "mnist" / name) in message


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"no gzip", lambda data: data[:20] + b"?" * 40 + data[60:]]
)
def test_damaged_gzip_files_are_refused_in_one_line(tmp_path, damage):
    write_mnist(tmp_path / "mnist", compress=True)
    path = tmp_path / "mnist" / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path} cannot be read" in refusal(Mnist, None, DatasetOptions(data_dir=tmp_path))


# --- USB's sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "name", "classes"), [(Cifar10, "cifar10", 10), (Cifar100, "cifar100", 100)])
def test_cifar_is_read_in_the_order_of_its_files(cls, name, classes, tmp_path, monkeypatch):
    images, labels = write_cifar(tmp_path, monkeypatch, name, per_file=3)
    dataset = cls(None, DatasetOptions(data_dir=tmp_path))
    assert dataset.targets.tolist() == labels
    assert all((dataset.load(i) == image).all() for i, image in enumerate(images))
    assert dataset.load(0).flags.c_contiguous
    assert list(dataset.keys) == [f"train/{i:05d}" for i in range(len(images))]
    assert len(dataset.test) == 3
    assert dataset.test.load(2).shape == (32, 32, 3)
    assert dataset.class_names == tuple(f"class {i}" for i in range(classes))
    assert dataset.queryable.all()
    assert (dataset.img_size, dataset.in_channels) == (32, 3)


def test_a_file_with_a_foreign_checksum_is_never_unpickled(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "cifar10")
    witness = tmp_path / "witness"

    class Trap:
        def __reduce__(self):
            return (witness.mkdir, ())

    base = tmp_path / "cifar10" / "cifar-10-batches-py"
    for file in ("data_batch_2", "batches.meta"):
        content = (base / file).read_bytes()
        (base / file).write_bytes(pickle.dumps(Trap()))
        message = refusal(Cifar10, None, DatasetOptions(data_dir=tmp_path))
        assert f"wrong checksum: cifar-10-batches-py/{file} in {tmp_path}" in message
        assert not witness.exists()
        (base / file).write_bytes(content)
    Cifar10(None, DatasetOptions(data_dir=tmp_path))


@pytest.mark.parametrize("cls", [Cifar10, Cifar100, Svhn, Stl10])
def test_missing_files_are_named_with_the_place_and_the_way_to_get_them(cls, tmp_path):
    message = refusal(cls, None, DatasetOptions(data_dir=tmp_path))
    assert str(tmp_path / cls.name) in message
    assert f"torchvision.datasets.{cls.torchvision_name}('{tmp_path / cls.name}'" in message
    assert "download=True" in message
    assert "no " in message


def test_svhn_is_train_then_extra(tmp_path, monkeypatch):
    written = write_svhn(tmp_path, monkeypatch, {"train": 4, "extra": 11, "test": 2})
    dataset = Svhn(None, DatasetOptions(data_dir=tmp_path))
    images = np.concatenate([written["train"][0], written["extra"][0]])
    assert dataset.targets.tolist() == [*written["train"][1], *written["extra"][1]]
    assert 0 in dataset.targets  # label 10 in the files
    assert all((dataset.load(i) == image).all() for i, image in enumerate(images))
    assert list(dataset.keys) == numbered_keys("train", 4) + numbered_keys("extra", 11)
    assert (dataset.test.load(1) == written["test"][0][1]).all()
    assert dataset.test.targets.tolist() == written["test"][1].tolist()


def test_svhn_without_extra(tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch, {"train": 4, "test": 2})
    message = refusal(Svhn, None, DatasetOptions(data_dir=tmp_path))
    assert "extra_32x32.mat" in message
    assert "svhn_split: train" in message
    dataset = Svhn(Svhn.Config(svhn_split="train"), DatasetOptions(data_dir=tmp_path))
    assert list(dataset.keys) == [f"train/{i:05d}" for i in range(4)]
    with pytest.raises(ValidationError):
        Svhn.Config(svhn_split="extra")
    first = Svhn(Svhn.Config(svhn_split="train", size=3), DatasetOptions(data_dir=tmp_path))
    assert first.keys == dataset.keys[:3] and first.targets.tolist() == dataset.targets[:3].tolist()
    with pytest.raises(UsageError, match="size: 5, but train has 4 images"):
        Svhn(Svhn.Config(svhn_split="train", size=5), DatasetOptions(data_dir=tmp_path))


def test_stl10_is_unlabeled_then_train_and_only_train_can_be_asked(tmp_path, monkeypatch):
    written = write_stl10(tmp_path, monkeypatch, {"unlabeled": 5, "train": 3, "test": 2})
    dataset = Stl10(None, DatasetOptions(data_dir=tmp_path))
    images = np.concatenate([written["unlabeled"][0], written["train"][0]])
    assert all((dataset.load(i) == image).all() for i, image in enumerate(images))
    assert dataset.targets.tolist() == [-1] * 5 + written["train"][1].tolist()
    assert dataset.targets.dtype == np.int64
    assert dataset.queryable.tolist() == [False] * 5 + [True] * 3
    assert list(dataset.keys) == numbered_keys("unlabeled", 5) + numbered_keys("train", 3)
    assert (dataset.test.load(1) == written["test"][0][1]).all()
    assert dataset.test.targets.tolist() == written["test"][1].tolist()
    assert dataset.img_size == 96


def test_parts_are_read_as_one_array():
    parts = [np.stack([picture(seed) for seed in seeds]) for seeds in ((0, 1), (2,), (3, 4, 5))]
    joint = ImageParts(*parts)
    assert len(joint) == 6
    assert all((joint[i] == picture(i)).all() for i in range(6))
    for outside in (-1, 6):
        with pytest.raises(IndexError):
            joint[outside]


def test_keys_sort_as_numbers_do():
    assert numbered_keys("train", 3) == ["train/00000", "train/00001", "train/00002"]
    keys = numbered_keys("extra", 100_001)
    assert keys == sorted(keys)
    assert keys[-1] == "extra/100000"


# --- a folder of images ------------------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_its_keys(tmp_path):
    write_folder(tmp_path, {"unlabeled/deep/er": 1, "train/dog": 2, "train/cat": 2, "test/dog": 1, "unlabeled": 1})
    dataset = folder(tmp_path)
    assert dataset.keys == [
        "train/cat/000.png", "train/cat/001.png", "train/dog/000.png", "train/dog/001.png",
        "unlabeled/000.png", "unlabeled/deep/er/000.png",
    ]  # fmt: skip
    assert dataset.class_names == ("cat", "dog")
    assert dataset.targets.tolist() == [0, 0, 1, 1, -1, -1]
    assert dataset.queryable.all()
    assert dataset.test.targets.tolist() == [1]
    # write_folder numbers its pictures in the order given: train/dog/000 is the second one, test/dog the sixth.
    assert (np.asarray(dataset.load(2)) == picture(1)).all()
    assert (np.asarray(dataset.test.load(0)) == picture(5)).all()
    assert dataset.path(2) == tmp_path / "train/dog/000.png"


def test_class_folders_whose_names_sort_before_the_slash_keep_the_order_of_keys(tmp_path):
    # "a-b/…" sorts before "a/…" as a path, and after it as a name.
    write_folder(tmp_path, {"train/a": 1, "train/a-b": 1})
    dataset = folder(tmp_path)
    assert dataset.class_names == ("a", "a-b")
    assert dataset.keys == ["train/a-b/000.png", "train/a/000.png"]
    assert dataset.targets.tolist() == [1, 0]


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1, "train/.cache": 1})
    write_image(tmp_path / "train/cat/.hidden.png")
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    write_image(tmp_path / "train/cat/UPPER.JPG")
    dataset = folder(tmp_path)
    assert dataset.keys == ["train/cat/000.png", "train/cat/UPPER.JPG", "train/dog/000.png"]
    assert dataset.class_names == ("cat", "dog")
    assert dataset.test is None


def test_links_are_followed_and_loops_found(tmp_path):
    elsewhere = write_folder(tmp_path / "elsewhere", {"dogs": 1})
    root = write_folder(tmp_path / "root", {"train/cat": 1})
    (root / "train/dog").symlink_to(elsewhere / "dogs")
    assert folder(root).keys == ["train/cat/000.png", "train/dog/000.png"]
    (root / "train/cat/again").symlink_to(root / "train")
    assert "leads back" in refusal(folder, root)


def test_a_class_without_images_is_a_class(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 0, "unlabeled": 1})
    dataset = folder(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.targets.tolist() == [0, -1]


def test_class_names_give_order_and_further_classes(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1, "test/eel": 1})
    dataset = folder(tmp_path, class_names=("eel", "dog", "cat"), num_classes=3)
    assert dataset.targets.tolist() == [2, 1]
    assert dataset.test.targets.tolist() == [0]


def test_only_unlabeled_images_need_class_names(tmp_path):
    write_folder(tmp_path, {"unlabeled": 2})
    assert "class_names: needed" in refusal(folder, tmp_path)
    dataset = folder(tmp_path, class_names=("cat", "dog"))
    assert dataset.keys == ["unlabeled/000.png", "unlabeled/001.png"]
    assert dataset.targets.tolist() == [-1, -1]
    assert dataset.num_classes == 2


@pytest.mark.parametrize(
    ("counts", "config", "said"),
    [
        ({}, {}, "neither train/<class>/ nor unlabeled/"),
        ({"train/cat": 0, "train/dog": 0}, {}, "no image in"),
        ({"train": 1, "train/cat": 1}, {}, "outside a class folder: train/000.png"),
        ({"train/cat": 1, "train/dog": 1, "test": 1}, {}, "outside a class folder: test/000.png"),
        ({"train/cat": 1, "train/dog": 1, "test/cat": 0}, {}, "has no image"),
        ({"train/cat": 1, "train/dog": 1, "test/catt": 1}, {}, "did you mean 'cat'?"),
        ({"train/cat": 1, "train/dog": 1}, {"class_names": ("cat", "eel")}, "class_names does not have: dog"),
        ({"train/cat": 1}, {}, "at least two classes"),
        ({"unlabeled": 1}, {"class_names": ("cat", " dog")}, "begin or end with a blank: ' dog'"),
        ({"unlabeled": 1}, {"class_names": ("cat", "")}, "begin or end with a blank: ''"),
        ({"unlabeled": 1}, {"class_names": ()}, "class_names: needed"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(counts, config, said, tmp_path):
    write_folder(tmp_path, counts)
    assert said in refusal(folder, tmp_path, **config)


def test_a_missing_data_dir_is_named(tmp_path):
    assert str(tmp_path / "absent") in refusal(folder, tmp_path / "absent")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"class_names": ("a", "b", "a")}, "named twice: a"),
        ({"mean": (0.5,)}, "mean has 1 values where in_channels is 3"),
        ({"in_channels": 1, "std": (0.5, 0.5, 0.5)}, "std has 3 values where in_channels is 1"),
        ({"class_name": ("a", "b")}, "class_name"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(config, said):
    with pytest.raises(ValidationError, match=said):
        ImageFolder.Config(**config)


# --- what is in a file -------------------------------------------------------------------------------------------


def test_images_of_every_mode_become_rgb_or_grey(tmp_path):
    grey, colour = picture(1, channels=1), picture(2)
    alpha = np.dstack([colour, np.zeros((8, 8), np.uint8)])
    palette = Image.fromarray(colour).convert("P", palette=Image.Palette.ADAPTIVE)
    write_image(tmp_path / "grey.png", grey)
    write_image(tmp_path / "alpha.png", alpha)
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "see-through.png", transparency=bytes(range(64)))
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "print.tif")
    Image.fromarray(grey).convert("1").save(tmp_path / "bits.png")

    def rgb(name: str) -> np.ndarray:
        image = read_image(str(tmp_path / name), "RGB")
        assert (image.mode, image.size) == ("RGB", (8, 8))
        assert read_image(str(tmp_path / name), "L").mode == "L"
        return np.asarray(image)

    assert (rgb("grey.png") == grey[:, :, None]).all()
    assert (rgb("alpha.png") == 255).all()  # nothing but the background
    assert (rgb("palette.png") == np.asarray(palette.convert("RGB"))).all()
    assert (rgb("see-through.png") >= rgb("palette.png")).all() and (rgb("see-through.png") != rgb("palette.png")).any()
    assert (rgb("print.tif") == colour).all()
    assert set(np.unique(rgb("bits.png"))) == {0, 255}


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    grey = picture(3, channels=1)
    # v · 257 maps 0..255 onto 0..65535, and back without a remainder.
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert (np.asarray(read_image(str(tmp_path / "deep.png"), "L")) == grey).all()


def test_pixels_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "real.tif")
    Image.fromarray(np.full((8, 8), 70_000, dtype=np.int32)).save(tmp_path / "deep.tif")
    for name in ("real.tif", "deep.tif"):
        message = refusal(read_image, str(tmp_path / name), "L")
        assert name in message
        assert "no known range" in message


def test_one_channel(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1})
    dataset = folder(tmp_path, in_channels=1)
    assert dataset.load(0).mode == "L"
    assert len(dataset.mean) == len(dataset.std) == 1
    assert folder(tmp_path, in_channels=1, mean=(0.25,), std=(0.5,)).mean == (0.25,)


@pytest.mark.parametrize(
    ("sides", "expected"), [((8, 8), 8), ((8, 9), 224), ((300, 300), 224), ((224, 224), 224)]
)
def test_the_size_is_that_of_the_images_if_they_agree(sides, expected, tmp_path, caplog):
    for name, side in zip("ab", sides, strict=True):
        write_image(tmp_path / "train" / name / "0.png", picture(0, side))
    with caplog.at_level(logging.DEBUG):
        assert folder(tmp_path).img_size == expected
    assert f"img_size: {expected}" in caplog.text
    assert folder(tmp_path, img_size=40).img_size == 40


def test_the_size_of_oblong_images_is_not_taken(tmp_path):
    for name in "ab":
        write_image(tmp_path / "train" / name / "0.png", np.zeros((8, 6), np.uint8))
    assert folder(tmp_path).img_size == 224


# --- reading all of them once ------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path) -> Path:
    """Three good images, a truncated JPEG, a text called PNG, a link to nothing, and a damaged test image."""
    root = write_folder(tmp_path / "root", {"train/cat": 2, "train/dog": 1, "test/cat": 1})
    photograph = write_image(root / "train/dog/cut.jpg", picture(5, 64))
    photograph.write_bytes(photograph.read_bytes()[:-400])
    (root / "train/cat/text.png").write_text("not an image")
    (root / "train/cat/gone.png").symlink_to(root / "nowhere.png")
    (root / "test/cat/000.png").write_bytes(b"")
    return root


def test_unreadable_images_are_named_before_training(damaged):
    dataset = folder(damaged, img_size=8)
    message = refusal(dataset.verify)
    assert message.startswith(f"4 of 7 images below {damaged} cannot be read")
    for key in ("train/cat/gone.png", "train/cat/text.png", "train/dog/cut.jpg", "test/cat/000.png"):
        assert key in message
    assert "train/cat/000.png" not in message
    assert "cut.jpg" in refusal(dataset.load, dataset.keys.index("train/dog/cut.jpg"))
    folder(damaged, img_size=8, verify=False).verify()


def test_what_was_read_in_order_is_not_read_again(damaged, tmp_path):
    cache, dataset = tmp_path / "readable.npy", folder(damaged, img_size=8)
    refusal(dataset.verify, cache)
    for key in ("train/cat/gone.png", "train/cat/text.png", "train/dog/cut.jpg", "test/cat/000.png"):
        (damaged / key).unlink()
    write_image(damaged / "test/cat/000.png")
    dataset = folder(damaged, img_size=8)
    dataset.verify(cache)

    # Same size and time, other content: only a check that trusts its cache can pass this.
    victim = damaged / "train/cat/000.png"
    status = victim.stat()
    victim.write_bytes(bytes(status.st_size))
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    dataset.verify(cache)
    assert "train/cat/000.png" in refusal(dataset.verify)
    # Another time: read again.
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert "train/cat/000.png" in refusal(dataset.verify, cache)


def test_a_damaged_cache_is_made_anew(tmp_path, caplog):
    dataset = folder(write_folder(tmp_path / "root", {"train/cat": 1, "train/dog": 1}))
    cache = tmp_path / "readable.npy"
    for content in (b"", b"damaged", pickle.dumps([1, 2])):
        cache.write_bytes(content)
        caplog.clear()
        dataset.verify(cache)
        assert "is damaged" in caplog.text
        assert np.load(cache).shape == (2,)
    caplog.clear()
    dataset.verify(cache)
    assert caplog.text == ""


def test_more_images_than_a_block_are_all_read(tmp_path, monkeypatch):
    monkeypatch.setattr("usb_active.images.checking.BLOCK", 2)
    write_folder(tmp_path, {"train/cat": 5, "train/dog": 4})
    for key in ("train/cat/003.png", "train/dog/003.png"):
        (tmp_path / key).write_bytes(b"damaged")
    message = refusal(folder(tmp_path).verify)
    assert "2 of 9" in message
    assert "train/cat/003.png, train/dog/003.png" in message


def test_what_was_read_before_an_interruption_is_kept(tmp_path, monkeypatch):
    class InterruptedAtTheThird(ImageFiles):
        def load(self, index):
            if index == 2:
                raise KeyboardInterrupt
            return super().load(index)

    monkeypatch.setattr("usb_active.images.checking.BLOCK", 1)
    keys = look_through(write_folder(tmp_path / "root", {"cat": 4})).images
    cache = tmp_path / "readable.npy"
    with pytest.raises(KeyboardInterrupt):
        check_images(InterruptedAtTheThird(str(tmp_path / "root"), keys, 3), cache)
    assert len(np.load(cache)) == 2
    check_images(ImageFiles(str(tmp_path / "root"), keys, 3), cache)
    assert len(np.load(cache)) == 4


# --- growth ------------------------------------------------------------------------------------------------------


def test_a_grown_folder_keeps_its_order_and_appends(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1, "unlabeled": 1})
    earlier = folder(tmp_path).keys
    write_image(tmp_path / "train/cat/aaa.png")
    write_image(tmp_path / "unlabeled/aaa.png")
    write_image(tmp_path / "train/apple/000.png")
    dataset = folder(tmp_path, class_names=("cat", "dog", "apple"))
    dataset.align(earlier, grow=False)
    assert dataset.keys == earlier
    assert dataset.targets.tolist() == [0, 1, -1]
    dataset.align(earlier, grow=True)
    assert dataset.keys == [*earlier, "train/apple/000.png", "train/cat/aaa.png", "unlabeled/aaa.png"]
    assert dataset.targets.tolist() == [0, 1, -1, 2, 0, -1]
    assert len(dataset.queryable) == len(dataset) == 6
    assert dataset.path(4) == tmp_path / "train/cat/aaa.png"
    assert (np.asarray(dataset.load(4)) == np.asarray(Image.open(tmp_path / "train/cat/aaa.png"))).all()
    dataset.align(dataset.keys, grow=True)
    assert len(dataset) == 6


def test_only_images_in_use_are_verified(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1})
    earlier = folder(tmp_path).keys
    (tmp_path / "train/cat/new.png").write_bytes(b"half copied")
    dataset = folder(tmp_path)
    dataset.align(earlier, grow=False)
    dataset.verify()
    dataset.align(earlier, grow=True)
    assert "train/cat/new.png" in refusal(dataset.verify)


def test_a_vanished_image_is_named_and_a_moved_one_explained(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1})
    write_image(tmp_path / "unlabeled/photo.png")
    earlier = folder(tmp_path).keys
    (tmp_path / "train/cat/000.png").rename(tmp_path / "kept.png")
    message = refusal(folder(tmp_path).align, earlier, grow=True)
    assert "train/cat/000.png; put them back" in message
    (tmp_path / "kept.png").rename(tmp_path / "train/cat/000.png")

    (tmp_path / "unlabeled/photo.png").rename(tmp_path / "train/dog/photo.png")
    message = refusal(folder(tmp_path).align, earlier, grow=True)
    assert "unlabeled/photo.png was perhaps moved to train/dog/photo.png" in message


# --- any images, for prediction ----------------------------------------------------------------------------------


def test_folder_images_takes_any_image_below(tmp_path):
    write_folder(tmp_path / "in", {"": 1, "b": 1, "a/c": 1})
    files, listing = folder_images(tmp_path / "in", in_channels=3)
    assert files.keys == listing.images == ["000.png", "a/c/000.png", "b/000.png"]
    assert (np.asarray(files.load(2)) == picture(1)).all()
    assert folder_images(tmp_path / "in", in_channels=1)[0].load(0).mode == "L"
    assert "is not a folder" in refusal(folder_images, tmp_path / "absent", 3)
    (tmp_path / "empty").mkdir()
    assert "no image below" in refusal(folder_images, tmp_path / "empty", 3)


# --- the views ---------------------------------------------------------------------------------------------------


def test_views_are_made_once_and_fit_every_dataset(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "cifar10")
    write_svhn(tmp_path, monkeypatch, {"train": 2, "extra": 2, "test": 2})
    write_stl10(tmp_path, monkeypatch, {"unlabeled": 1, "train": 1, "test": 1})
    write_folder(tmp_path / "images", {"train/cat": 1, "train/dog": 1}, side=12, suffix=".jpg")
    options = DatasetOptions(data_dir=tmp_path)
    datasets = [Digits(), Digits(Digits.Config(in_channels=3)), *(cls(None, options) for cls in (Cifar10, Svhn, Stl10))]
    for dataset in [*datasets, folder(tmp_path / "images"), folder(tmp_path / "images", in_channels=1, img_size=20)]:
        assert dataset.views is dataset.views
        for view in ("weak", "strong", "eval"):
            tensor = getattr(dataset.views, view)(dataset.load(len(dataset) - 1))
            assert tensor.shape == (dataset.in_channels, dataset.img_size, dataset.img_size)
            assert tensor.isfinite().all()


def test_the_evaluation_view_normalises_with_the_datasets_constants():
    dataset = Digits(None, DatasetOptions(img_size=8))
    pixels = dataset.views.eval(dataset.load(3))[0].numpy()
    np.testing.assert_allclose(pixels, (dataset.load(3) / 255 - dataset.mean[0]) / dataset.std[0], atol=1e-5)


def test_digits_are_not_mirrored():
    dataset = Digits(None, DatasetOptions(crop_ratio=1.0))
    image = dataset.load(3)
    # Without padding and without a flip the weak view has nothing left to change.
    for _ in range(20):
        assert (dataset.views.weak(image) == dataset.views.eval(image)).all()


# --- the augmentation of the label propagation papers ------------------------------------------------------------


def translated(cls=Digits, options=None, **config):
    return cls(cls.Config(augmentation="translate_flip", **config), options or DatasetOptions())


def plain(dataset, view) -> np.ndarray:
    """A view (channels, S, S) back as pixels (S, S[, channels])."""
    mean, std = np.array(dataset.mean)[:, None, None], np.array(dataset.std)[:, None, None]
    pixels = np.rint((view.numpy() * std + mean) * 255).astype(np.uint8)
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def shifts(image: np.ndarray) -> dict[bytes, tuple[int, int, bool]]:
    """Every shift by up to 4 pixels, with numpy's reflection, as it is and mirrored."""
    size, pad = len(image), [(4, 4), (4, 4)] + [(0, 0)] * (image.ndim - 2)
    padded, found = np.pad(image, pad, mode="reflect"), {}
    for down in range(9):
        for right in range(9):
            window = padded[down : down + size, right : right + size]
            found[window.tobytes()] = (down - 4, right - 4, False)
            found[window[:, ::-1].tobytes()] = (down - 4, right - 4, True)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_translate_flip_draws_every_shift_evenly_and_mirrors_half(channels):
    # From 10 pixels on no mirrored shift equals another one.
    dataset = translated(options=DatasetOptions(img_size=12), in_channels=channels)
    image = picture(5, 12, channels)
    known = shifts(image)
    assert len(known) == 9 * 9 * 2
    torch.manual_seed(0)
    drawn = [known[plain(dataset, dataset.views.weak(image)).tobytes()] for _ in range(4000)]
    down, right, mirrored = (np.array(values) for values in zip(*drawn, strict=True))
    # 4,000 draws of probability 1/9: 444 expected, standard deviation 20; of 1/2: 2,000 and 32.
    for direction in (down, right):
        counts = np.bincount(direction + 4, minlength=9)
        assert abs(counts - 444).max() < 5 * 20
    assert abs(mirrored.sum() - 2000) < 5 * 32
    assert len(set(drawn)) == 162


def test_translate_flip_leaves_the_eval_view_and_the_default_alone():
    usual, dataset = Digits(), translated()
    image = usual.load(3)
    assert torch.equal(usual.views.eval(image), dataset.views.eval(image))
    assert (Digits().padding, Digits().flip, Digits.Config().augmentation) == (None, False, "usb")
    torch.manual_seed(0)
    # An eighth of 8 pixels: shifted by one at most, and not mirrored.
    assert len({usual.views.weak(image).numpy().tobytes() for _ in range(300)}) == 9


def test_translate_flip_is_the_same_at_the_same_position():
    dataset = translated()
    rows = PoolRows(dataset, np.arange(100, 120), "weak", 1, 7, ("somewhere", 2))
    batch = (3, np.arange(8))
    again = PoolRows(translated(), np.arange(100, 120), "weak", 1, 7, ("somewhere", 2))
    torch.manual_seed(1)
    first = rows.__getitems__(batch)["x"]
    torch.rand(5)
    assert torch.equal(first, again.__getitems__(batch)["x"])
    assert not torch.equal(first, rows.__getitems__((4, np.arange(8)))["x"])


def test_every_set_of_arrays_takes_translate_flip(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "cifar10")
    write_cifar(tmp_path, monkeypatch, "cifar100")
    write_svhn(tmp_path, monkeypatch, {"train": 3, "test": 2})
    write_stl10(tmp_path, monkeypatch, {"unlabeled": 2, "train": 2, "test": 2})
    write_mnist(tmp_path / "mnist")
    options = DatasetOptions(data_dir=tmp_path)
    cases = [(Digits, {}), (Mnist, {}), (Cifar10, {}), (Cifar100, {}), (Svhn, {"svhn_split": "train"}), (Stl10, {})]
    for cls, config in cases:
        dataset = translated(cls, options, **config)
        image = dataset.load(1)
        known = shifts(image)
        drawn = [known[plain(dataset, dataset.views.weak(image)).tobytes()] for _ in range(60)]
        assert {mirrored for *_, mirrored in drawn} == {False, True}, cls.name
        # For 8 pixels a mirrored shift may equal another one, and is then known by that.
        assert max(abs(down) for down, *_ in drawn) == 4, cls.name


def test_at_32_pixels_it_is_usbs_own(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "cifar10")
    options = DatasetOptions(data_dir=tmp_path)
    usual, dataset = Cifar10(None, options), translated(Cifar10, options)
    for seed in range(20):
        views = []
        for one in (usual, dataset):
            torch.manual_seed(seed)
            views.append(one.views.weak(one.load(0)))
        assert torch.equal(*views)


def test_translate_flip_refuses_what_it_cannot_do():
    message = refusal(translated, options=DatasetOptions(img_size=4))
    assert "dataset 'digits': augmentation: translate_flip: img_size: 4; reflecting 4 pixels needs at least 5" in message
    assert translated(options=DatasetOptions(img_size=5)).views.weak(picture(0, 5, 1)).shape == (1, 5, 5)
    assert "shifts by 4 pixels, whatever crop_ratio; 0.5 given" in refusal(translated, options=DatasetOptions(crop_ratio=0.5))
    with pytest.raises(ValidationError):
        Digits.Config(augmentation="shift")


@pytest.mark.parametrize("augmentation", ["none", "translate"])
def test_the_weak_view_of_a_square_image_is_the_eval_view_where_there_is_no_augmentation(tmp_path, augmentation):
    write_folder(tmp_path, {"train/a": 2, "train/b": 2}, side=24)
    for cls, options in ((Digits, DatasetOptions(img_size=12)), (ImageFolder, DatasetOptions(data_dir=tmp_path))):
        dataset = cls(cls.Config(augmentation=augmentation), options)
        image = dataset.load(1)
        torch.manual_seed(0)
        same = {torch.equal(dataset.views.weak(image), dataset.views.eval(image)) for _ in range(40)}
        assert same == ({True} if augmentation == "none" else {True, False}), cls.name


def test_without_augmentation_nothing_else_may_be_said_of_shifts_and_mirrors():
    no_shift = "dataset 'digits': augmentation: none: does not shift, so crop_ratio says nothing; 0.5 given, leave it out"
    assert refusal(Digits, Digits.Config(augmentation="none"), DatasetOptions(crop_ratio=0.5)) == no_shift
    with pytest.raises(ValidationError, match="flip: true, but augmentation: none does not mirror; leave flip out"):
        Digits.Config(augmentation="none", flip=True)
    assert not Svhn.Config(augmentation="none", flip=False).flip


# --- whether views are mirrored, and how many operations a strong one has ------------------------------------------


def ways_of(dataset, view: str) -> int:
    """How many views a lopsided image has where nothing is shifted."""
    dataset.options = DatasetOptions(crop_ratio=1.0)
    image = np.repeat(np.arange(dataset.img_size, dtype=np.uint8)[None, :], dataset.img_size, axis=0)
    image = image if dataset.in_channels == 1 else np.repeat(image[:, :, None], 3, axis=2)
    torch.manual_seed(0)
    return len({getattr(dataset.views, view)(image).numpy().tobytes() for _ in range(30)})


def test_sets_of_arrays_are_mirrored_as_their_key_says(tmp_path, monkeypatch):
    monkeypatch.setattr("usb_active.usb.view_draws.OPERATIONS", ((kernels.IDENTITY, 0, 1),))
    monkeypatch.setattr("usb_active.usb.view_draws.LARGEST_CUTOUT", 0.0)
    write_svhn(tmp_path, monkeypatch, {"train": 3, "test": 2})
    for cls, keys, usual in ((Svhn, {"svhn_split": "train"}, 2), (Digits, {}, 1)):
        for flip, ways in ((None, usual), (False, 1), (True, 2)):
            for view in ("weak", "strong"):
                dataset = cls(cls.Config(flip=flip, **keys), DatasetOptions(data_dir=tmp_path))
                assert ways_of(dataset, view) == ways, (cls.name, flip, view)
    with pytest.raises(ValidationError, match="flip: false, but augmentation: translate_flip mirrors; use translate, or leave flip out"):
        Svhn.Config(augmentation="translate_flip", flip=False)


def test_a_strong_view_has_as_many_operations_as_the_data_set_says(tmp_path):
    write_folder(tmp_path, {"train/a": 2, "train/b": 2}, side=24)
    options = DatasetOptions(data_dir=tmp_path)
    for cls in (Digits, ImageFolder):
        views = {n: cls(cls.Config(**keys), options).views for n, keys in ((3, {}), (2, {"randaugment_n": 2}))}
        assert {n: made.randaugment_n for n, made in views.items()} == {n: n for n in views}
        # Two operations and the cutout begin with what three begin with; the generator stands elsewhere after them.
        after = []
        for made in views.values():
            random.seed(5)
            made.strong(np.zeros((24, 24, 3), np.uint8))
            after.append(random.random())
        assert after[0] != after[1]
    for n in (0, 17, 2.5):
        with pytest.raises(ValidationError):
            Digits.Config(randaugment_n=n)


# --- a test set that is a share of each class --------------------------------------------------------------------


def test_the_first_images_of_each_class_are_the_test_set(tmp_path):
    write_folder(tmp_path, {"train/b": 10, "train/a": 7, "train/few": 3, "unlabeled": 4})
    dataset = folder(tmp_path, test_share=0.25)
    # A quarter, rounded down: 2 of 10, 1 of 7, none of 3.
    assert list(dataset.test.keys) == ["train/a/000.png", "train/b/000.png", "train/b/001.png"]
    assert dataset.test.targets.tolist() == [0, 1, 1] and Path(dataset.test.path(2)) == tmp_path / "train/b/001.png"
    assert len(dataset) == 7 - 1 + 10 - 2 + 3 + 4 and not set(dataset.keys) & set(dataset.test.keys)
    everything = folder(tmp_path)
    assert sorted([*dataset.keys, *dataset.test.keys]) == list(everything.keys) and everything.test is None
    for place, key in enumerate(dataset.test.keys):
        assert np.array_equal(dataset.test.load(place), everything.load(list(everything.keys).index(key)))
    assert [line for line in dataset.remarks() if "3 images, the first 25 % of each class by name, are the test set" in line]
    again = folder(tmp_path, test_share=0.25)
    assert list(again.keys) == list(dataset.keys) and list(again.test.keys) == list(dataset.test.keys)


def test_a_share_is_counted_exactly(tmp_path):
    # 0.29 · 100 is 28.999999999999996 in floating point.
    write_folder(tmp_path, {"train/a": 100, "train/b": 1})
    assert len(folder(tmp_path, test_share=0.29).test) == 29


def test_a_bad_image_of_the_share_is_named_before_training(tmp_path):
    write_folder(tmp_path, {"train/a": 5, "train/b": 5})
    (tmp_path / "train/a/000.png").write_bytes(b"no image")
    assert "train/a/000.png" in refusal(folder(tmp_path, test_share=0.2).verify)


def test_a_share_that_cannot_be_taken_is_refused(tmp_path):
    write_folder(tmp_path, {"train/a": 3, "train/b": 2})
    message = refusal(folder, tmp_path, test_share=0.3)
    assert message == f"test_share: 0.3 of no class in {tmp_path / 'train'} is one image (the largest has 3)"
    write_folder(tmp_path, {"test/a": 1})
    message = refusal(folder, tmp_path, test_share=0.5)
    assert message == f"test_share: 0.5, but there is a folder {tmp_path / 'test'}; leave one of them out"
    for share in (0, 1, -0.1, "half"):
        with pytest.raises(ValidationError):
            ImageFolder.Config(test_share=share)


def test_the_test_set_of_a_share_is_known_again_by_its_images(tmp_path):
    write_folder(tmp_path, {"train/a": 10, "train/b": 10})
    first = folder(tmp_path, test_share=0.2)
    keys, digest = list(first.keys), first.test_digest
    # Neither changes the first 20 % of a class: 2 of 10, and of 11.
    write_folder(tmp_path, {"unlabeled": 2})
    last = write_image(tmp_path / "train/a/zzz.png")
    grown = folder(tmp_path, test_share=0.2)
    grown.align(keys, grow=True)
    new = ["train/a/zzz.png", "unlabeled/000.png", "unlabeled/001.png"]
    assert list(grown.keys) == [*keys, *new] and (len(grown.test), grown.test_digest) == (4, digest)
    last.unlink()
    # One that comes first by name; and one of the test set that is gone.
    added = write_image(tmp_path / "train/a/0.png")
    assert folder(tmp_path, test_share=0.2).test_digest != digest
    added.unlink()
    (tmp_path / "train/b/001.png").unlink()
    assert folder(tmp_path, test_share=0.2).test_digest != digest
    # A test set of its own may change, as ever.
    write_folder(tmp_path, {"test/a": 1})
    assert folder(tmp_path).test_digest is None


def test_classes_without_a_test_image_are_named(tmp_path):
    write_folder(tmp_path, {"train/a": 10, "train/b": 1, "train/c": 1})
    (line,) = [line for line in folder(tmp_path, test_share=0.5).remarks() if "too few" in line]
    assert line.endswith("too few images for one in the test set, which says nothing of these classes: b, c")


# --- the views of a folder ---------------------------------------------------------------------------------------


def mirrored(dataset, view: str, draws: int = 40) -> set[str]:
    """Which ways an image that is dark on the left comes out of a view."""
    torch.manual_seed(0)
    image, ways = Image.fromarray(np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None, :], 24, axis=0)), set()
    for _ in range(draws):
        values = getattr(dataset.views, view)(image)[0].mean(dim=0)
        ways.add("as it is" if values[4:12].mean() < values[-12:-4].mean() else "mirrored")
    return ways


@pytest.mark.parametrize(
    ("keys", "ways"),
    [
        ({}, {"as it is", "mirrored"}),
        ({"flip": True}, {"as it is", "mirrored"}),
        ({"augmentation": "translate_flip"}, {"as it is", "mirrored"}),
        ({"flip": False}, {"as it is"}),
        ({"augmentation": "translate"}, {"as it is"}),
        ({"augmentation": "translate", "flip": False}, {"as it is"}),
    ],
)
def test_a_folder_is_mirrored_as_its_keys_say(tmp_path, keys, ways):
    write_folder(tmp_path, {"train/a": 2, "train/b": 2}, side=24)
    dataset = folder(tmp_path, in_channels=1, **keys)
    assert mirrored(dataset, "weak") == ways and mirrored(dataset, "eval") == {"as it is"}


def test_the_strong_view_is_not_mirrored_either(tmp_path, monkeypatch):
    # RandAugment inverts and shears: without it, what is left are shift and mirror.
    monkeypatch.setattr("usb_active.usb.view_draws.OPERATIONS", ((kernels.IDENTITY, 0, 1),))
    write_folder(tmp_path, {"train/a": 2, "train/b": 2}, side=24)
    assert mirrored(folder(tmp_path, in_channels=1, flip=False), "strong") == {"as it is"}
    assert mirrored(folder(tmp_path, in_channels=1), "strong") == {"as it is", "mirrored"}


def test_a_folder_is_shifted_by_four_pixels(tmp_path):
    write_folder(tmp_path, {"train/a": 2, "train/b": 2}, side=24)
    assert folder(tmp_path, augmentation="translate").views.padding == 4
    assert folder(tmp_path, flip=False).views.padding == folder(tmp_path).views.padding == 3
    message = refusal(folder, tmp_path, img_size=4, augmentation="translate")
    assert message == "dataset 'folder': augmentation: translate: img_size: 4; reflecting 4 pixels needs at least 5"


@pytest.mark.parametrize(
    ("augmentation", "flip", "way_out"), [("translate", True, "translate_flip"), ("translate_flip", False, "translate")]
)
def test_two_words_on_mirroring_are_refused(augmentation, flip, way_out):
    with pytest.raises(ValidationError, match=f"flip: {str(flip).lower()}, but augmentation: {augmentation} .*; use {way_out}, or"):
        ImageFolder.Config(augmentation=augmentation, flip=flip)


def test_keys_that_came_later_are_not_in_the_configuration_of_a_run_that_leaves_them_out():
    assert not {"flip", "augmentation"} & set(stored_keys(ImageFolder.Config()))
    assert stored_keys(ImageFolder.Config(flip=False))["flip"] is False


@pytest.mark.parametrize("dataset", [Cifar10, Cifar100, Digits, ImageFolder, Mnist, Stl10, Svhn])
def test_several_threads_load_images_of_the_sets_that_come_with_it(dataset):
    """Each class with a `load` of its own says so itself: what a base class says does not count for it."""
    assert may_load_in_threads(object.__new__(dataset))
