"""What lies below a folder: images, and what is left out, of which nothing goes unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from data_makers import picture, write_folder, write_image

from usb_active.builtin.image_folder import ImageFolder
from usb_active.contracts.dataset import DatasetOptions
from usb_active.contracts.plugin import stored_keys
from usb_active.errors import UsageError
from usb_active.images.listing import Listing, look_through


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def folder(root: Path, run_format: int | None = None, **config) -> ImageFolder:
    numbered = {} if run_format is None else {"run_format": run_format}
    return ImageFolder(ImageFolder.Config(**config), DatasetOptions(data_dir=root, **numbered))


# --- files that are no images ------------------------------------------------------------------------------------


def test_files_that_are_no_images_are_counted_by_suffix(tmp_path):
    for name in ("a.CR2", "b.cr2", "c.nef", "README", "notes", "x.", "d/e.txt", "Thumbs.db", "desktop.ini", ".DS_Store", "clip.mpg"):
        touch(tmp_path / name)
    write_image(tmp_path / "d/1.png")
    listing = look_through(tmp_path)
    assert listing.images == ["d/1.png"]
    assert listing.others == Counter({".cr2": 2, ".nef": 1, ".txt": 1, ".mpg": 1, "without suffix": 3})
    line = "8 files are no images that Pillow can read: 2 .cr2, 1 .mpg, 1 .nef, 1 .txt, 3 without suffix; left out"
    assert listing.remarks() == [line]


def test_the_folder_of_the_example_gives_one_line_without_pillows_plugin(tmp_path):
    """5 .jpg, 7 .heic, 2 .CR2, 3 without suffix, where pillow-heif is not installed."""
    for number in range(5):
        write_image(tmp_path / f"train/{'ab'[number % 2]}/{number}.jpg")
    for name in [*(f"{n}.heic" for n in range(7)), "1.CR2", "2.CR2", "x", "y", "z"]:
        touch(tmp_path / "train/a" / name)
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path\n"
        "from usb_active.builtin.image_folder import ImageFolder; from usb_active.contracts.dataset import DatasetOptions\n"
        f"dataset = ImageFolder(None, DatasetOptions(data_dir=Path({str(tmp_path)!r})))\n"
        "print(len(dataset), *dataset.remarks(), sep='\\n')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = f"{tmp_path}: 12 files are no images that Pillow can read: 7 .heic, 2 .cr2, 3 without suffix; left out"
    assert result.stdout.splitlines() == ["5", f"{said} (for .heic: pip install pillow-heif)"]


def test_what_only_looks_like_a_suffix_is_not_shown(tmp_path):
    for name in ("a.b c", "a.\x1b[31m", "a." + "x" * 40, "a.jpg~"):
        touch(tmp_path / name)
    assert look_through(tmp_path).remarks() == ["4 files are no images that Pillow can read: 4 of other names; left out"]


def test_an_empty_folder_has_nothing_to_say():
    assert Listing().remarks() == []


# --- folders of archivers and file servers -----------------------------------------------------------------------

SYSTEM = ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "#recycle", ".Trash-1000", ".git",
          ".ipynb_checkpoints", "@Recycle", "RECYCLER", ".@__thumb"]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
@pytest.mark.parametrize("below", ["", "cat/", "cat/deep/er/"])
def test_folders_of_systems_are_neither_classes_nor_images(tmp_path, name, below):
    write_folder(tmp_path, {"train/cat": 2, "train/dog": 1, "test/cat": 1}, side=16)
    write_image(tmp_path / "train" / below / name / "x.jpg", picture(0, 12))
    write_image(tmp_path / "test" / below / name / "deep/x.png", picture(0, 12))
    write_image(tmp_path / "unlabeled" / name / "x.png", picture(0, 12))
    dataset = folder(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.keys == ["train/cat/000.png", "train/cat/001.png", "train/dog/000.png"]
    assert (dataset.img_size, len(dataset.test)) == (16, 1)
    (line,) = dataset.remarks()
    said = f"{tmp_path}: left out: folders that are hidden, or that archivers and file servers make: "
    assert line == f"{said}train/{below}{name}, unlabeled/{name}, test/{below}{name}"


def test_hidden_images_are_said(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1})
    for name in ("._000.png", ".x.jpg"):
        touch(tmp_path / "train/cat" / name)
    assert folder(tmp_path).remarks() == [f"{tmp_path}: left out: 2 hidden images (train/cat/._000.png, train/cat/.x.jpg)"]


def test_runs_of_0_1_0_keep_the_classes_and_images_that_they_have(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1, "train/__MACOSX": 1, "train/.hidden": 1, "unlabeled/@eaDir": 1})
    dataset = folder(tmp_path, run_format=1)
    assert dataset.class_names == ("__MACOSX", "cat", "dog")
    assert dataset.keys == ["train/__MACOSX/000.png", "train/cat/000.png", "train/dog/000.png", "unlabeled/@eaDir/000.png"]
    assert any("reads its images as version 0.1.0 did" in line for line in dataset.remarks())


def test_an_empty_class_folder_is_said_and_is_a_class(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 0, "train/eel": 0, "unlabeled": 1})
    touch(tmp_path / "train/eel/.DS_Store")
    dataset = folder(tmp_path)
    assert dataset.class_names == ("cat", "dog", "eel")
    line = f"{tmp_path / 'train'}: class folders without an image are classes all the same, remove them if not: dog, eel"
    assert dataset.remarks() == [line]


# --- what is no file ---------------------------------------------------------------------------------------------


def test_pipes_sockets_and_devices_are_said_and_never_opened(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1})
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "train/cat/own.png")
    (tmp_path / "train/cat/x.png").symlink_to(tmp_path / "pipe")
    (tmp_path / "train/dog/null.jpg").symlink_to("/dev/null")
    for run_format in (1, 2):
        dataset = folder(tmp_path, run_format=run_format)
        assert dataset.keys == ["train/cat/000.png", "train/dog/000.png"]
        assert (
            f"{tmp_path}: named like images, but no files, and left out: train/cat/own.png (a FIFO), train/cat/x.png (a FIFO), "
            "train/dog/null.jpg (a device)"
        ) in dataset.remarks()
        dataset.verify()


def test_links_to_nothing_and_in_a_circle_are_named_before_anything_runs(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1})
    (tmp_path / "train/cat/gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "train/cat/round.png").symlink_to(tmp_path / "train/cat/round.png")
    dataset = folder(tmp_path)
    line = f"{tmp_path}: links that lead nowhere, which a run refuses: train/cat/gone.png, train/cat/round.png"
    assert dataset.remarks() == [line]
    with pytest.raises(UsageError, match=r"2 of 4 images below .* cannot be read.*gone\.png, train/cat/round\.png"):
        dataset.verify()


def test_names_are_shown_on_one_line(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1})
    os.mkfifo(tmp_path / "train/cat/a\nb\x1b[2J.png")
    (line,) = folder(tmp_path).remarks()
    assert line.isprintable() and r"a\nb\x1b[2J.png" in line


# --- accents, composed or not ------------------------------------------------------------------------------------

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("named", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("on_disk", [COMPOSED, DECOMPOSED])
def test_class_folders_match_their_names(tmp_path, on_disk, named):
    write_folder(tmp_path, {f"train/{on_disk}": 1, "train/dog": 1, f"test/{named}": 1, "unlabeled": 1})
    dataset = folder(tmp_path, class_names=("dog", named))
    assert dataset.class_names == ("dog", COMPOSED)
    assert dataset.targets.tolist() == [1, 0, -1]
    assert dataset.test.targets.tolist() == [1]
    assert dataset.keys[0] == f"train/{COMPOSED}/000.png"
    assert dataset.load(0).size == (8, 8) and dataset.path(0).is_file()
    assert folder(tmp_path).class_names == (COMPOSED, "dog")


@pytest.mark.parametrize("run_format", [1, 2])
@pytest.mark.parametrize(("before", "after"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_runs_keys_are_found_on_a_disk_that_composes_otherwise(tmp_path, before, after, run_format):
    write_folder(tmp_path / "old", {"unlabeled": 2})
    write_image(tmp_path / "old/unlabeled" / f"{before}.png", picture(7))
    names = {"class_names": ("cat", "dog")}
    keys = folder(tmp_path / "old", run_format, **names).keys
    write_folder(tmp_path / "new", {"unlabeled": 3})
    write_image(tmp_path / "new/unlabeled" / f"{after}.png", picture(7))
    dataset = folder(tmp_path / "new", run_format, **names)
    dataset.align(keys, grow=True)
    assert dataset.keys == [*keys, "unlabeled/002.png"]
    assert dataset.load(2).tobytes() == picture(7).tobytes()
    assert dataset.path(2).name == f"{after}.png"


def test_two_files_that_cannot_be_told_apart_are_refused(tmp_path):
    write_folder(tmp_path, {"train/cat": 1, "train/dog": 1})
    for name in (COMPOSED, DECOMPOSED):
        write_image(tmp_path / "train/cat" / f"{name}.png")
    with pytest.raises(UsageError, match="two files whose names differ in nothing but how their accents are composed"):
        folder(tmp_path)
    assert len(folder(tmp_path, run_format=1)) == 4


def test_a_class_named_twice_in_two_compositions_is_refused(tmp_path):
    write_folder(tmp_path, {"unlabeled": 1})
    with pytest.raises(UsageError, match="named twice, with accents composed in two ways: café"):
        folder(tmp_path, class_names=(COMPOSED, DECOMPOSED))


# --- keys of the data set ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"background": "blak"}, "opaque colour"),
        ({"background": None}, "in quotes because # begins a comment"),
        ({"background": "#11223344"}, "opaque colour"),
        ({"background": 255}, "opaque colour"),
        ({"value_range": [4095, 0]}, "the lower one first"),
        ({"value_range": [0, 0]}, "the lower one first"),
        ({"value_range": [0]}, "the lower one first"),
        ({"value_range": 4095}, "the lower one first"),
        ({"value_range": [0, True]}, "the lower one first"),
        ({"value_range": [0, float("inf")]}, "the lower one first"),
        ({"value_range": ["0", "1"]}, "the lower one first"),
    ],
)
def test_keys_that_say_nothing_are_refused(value, said):
    with pytest.raises(ValueError, match=said):
        ImageFolder.Config(**value)


def test_keys_at_their_defaults_are_those_of_0_1_0():
    assert stored_keys(ImageFolder.Config()).keys() == {"class_names", "in_channels", "mean", "std", "verify"}
    given = stored_keys(ImageFolder.Config(background="#808080", value_range=(0, 4095)))
    assert (given["background"], given["value_range"]) == ("#808080", [0, 4095])
    assert stored_keys(ImageFolder.Config(**given)) == given
