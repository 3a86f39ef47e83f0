"""`active.cache_images`: each image is decoded once, and nothing else is different."""

from __future__ import annotations

import errno
import logging
import os
import pickle
from collections import Counter
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import killer
import numpy as np
import pytest
import torch
from data_makers import picture, write_image
from PIL import Image
from run_helpers import checkpoint, config_of, labels_of, settings, train, weights_equal

from usb_active.builtin.array_datasets import Digits
from usb_active.builtin.image_folder import ImageFolder
from usb_active.contracts.dataset import DatasetOptions, sample_for_views
from usb_active.errors import UsageError
from usb_active.images.files import ImageFiles
from usb_active.loop.initial_weights import InitialWeights
from usb_active.loop.setup import say_remarks
from usb_active.pool import image_cache
from usb_active.pool.image_cache import ImageCache, nothing_to_keep
from usb_active.pool.inference import PoolRows, pool_loader
from usb_active.randomness import seeded_globals
from usb_active.usb.data import EvaluationRows, PoolStream, pool_samples
from usb_active.usb.transforms import ImageViews

# Height and width; the side of a view is 8.
SHAPES = ((8, 8), (16, 12), (9, 21), (30, 8), (8, 13))


def mixed_folder(root):
    """Images of several sizes, in colour and grey, JPEG and PNG, one of them to be turned."""
    number = 0
    for part, count in (("train/a", 9), ("train/b", 9), ("unlabeled", 8), ("test/a", 3), ("test/b", 3)):
        for _ in range(count):
            height, width = SHAPES[number % len(SHAPES)]
            pixels = picture(number, 32, 1 if number % 3 == 0 else 3)[:height, :width]
            write_image(root / part / f"{number:03d}.{'jpg' if number % 2 else 'png'}", pixels)
            number += 1
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(77, 32, 3)[:10, :17]).save(root / "train/b/turned.jpg", exif=exif)
    return root


def folder(root, channels: int = 3) -> ImageFolder:
    config = ImageFolder.Config(in_channels=channels, verify=False)
    return ImageFolder(config, DatasetOptions(root, img_size=8))


def run_settings(tmp_path, name, active=None, **usb):
    """A tiny run on the mixed folder; every step's views come from files unless they are kept."""
    block = {"initial": {"name": "random", "size": 4}, "budget": 3, "cycles": 1, **(active or {})}
    dataset = {"name": "image_folder", "verify": False, **usb.pop("keys", {})}
    keys = {"dataset": dataset, "data_dir": str(tmp_path / "data"), "img_size": 8, "batch_size": 4, "eval_batch_size": 8}
    return settings(tmp_path, name, active=block, **{**keys, **usb})


@pytest.fixture
def reads(monkeypatch):
    """The keys of all images that are read in this process, in order."""
    seen, original = [], ImageFiles.load

    def load(self, index):
        seen.append(self.keys[index])
        return original(self, index)

    monkeypatch.setattr(ImageFiles, "load", load)
    return seen


# ---------------------------------------------------------------------------------------------------------- trainings
def assert_same_run(one, other):
    assert labels_of(one) == labels_of(other)
    assert weights_equal(checkpoint(one, 1), checkpoint(other, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_training_is_the_same_and_decodes_each_image_once(tmp_path, reads, channels):
    mixed_folder(tmp_path / "data")
    # With held-out labels and a test set: all that makes views is in it.
    active, keys = {"validation": 0.5}, {"in_channels": channels}
    train(run_settings(tmp_path, "files", active, keys=keys))
    assert max(Counter(reads).values()) > 3
    reads.clear()
    algorithm = train(run_settings(tmp_path, "kept", {**active, "cache_images": True}, keys=keys))
    dataset = algorithm.session.dataset
    # Those that tell the image size and the like read headers alone.
    assert Counter(reads) == Counter([*dataset.keys, *dataset.test.keys])
    assert_same_run(tmp_path / "files", tmp_path / "kept")
    assert dataset.kept_pixels is None and dataset.test.kept_pixels is None, "its room is given back with the run's end"
    assert not [path for path in (tmp_path / "kept" / "scratch").rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["remixmatch", "mixmatch", "supervised"])
def test_rows_that_are_made_one_by_one_are_the_same(tmp_path, reads, algorithm):
    """ReMixMatch's rows are USB's own: any array of theirs becomes a picture."""
    mixed_folder(tmp_path / "data")
    keys = {"algorithm": algorithm, "num_train_iter": 4, "num_eval_iter": 2}
    train(run_settings(tmp_path, "files", **keys))
    reads.clear()
    train(run_settings(tmp_path, "kept", {"cache_images": True}, **keys))
    assert max(Counter(reads).values()) == 1
    assert_same_run(tmp_path / "files", tmp_path / "kept")


@pytest.mark.slow
def test_workers_read_what_their_parent_decoded(tmp_path, reads):
    mixed_folder(tmp_path / "data")
    train(run_settings(tmp_path, "files"))
    train(run_settings(tmp_path, "kept", {"cache_images": True}, num_workers=1))
    assert_same_run(tmp_path / "files", tmp_path / "kept")


def test_forked_workers_decode_nothing(tmp_path):
    """What a worker reads, its parent does not see; so the files are gone before it looks."""
    dataset = folder(mixed_folder(tmp_path / "data"))
    idx = np.arange(len(dataset))
    rows = PoolRows(dataset, idx, "strong", 2, 5, ("here",))
    (expected,) = pool_loader(rows, len(idx), 0)
    ImageCache(dataset, tmp_path / "run", True).fill()
    for index in idx:
        dataset.path(index).unlink()
    (made,) = pool_loader(rows, len(idx), 1)
    assert torch.equal(made["x"], expected["x"])


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    """Nothing is left of what was kept, and the key may be changed in between."""
    mixed_folder(tmp_path / "data")

    def data(name, kept):
        active = {"initial": {"name": "random", "size": 4}, "budget": 3, "cache_images": kept}
        keys = {key: value for key, value in run_settings(tmp_path, name).items() if key not in ("active", "save_dir", "save_name")}
        return killer.settings(tmp_path, name, active, **keys)

    reference = killer.finish(data("files", False))
    for name, kept in (("kept", (True, True)), ("then_not", (True, False))):
        assert killer.run(data(name, kept[0]), "train").code == killer.KILLED
        left = [path.name for path in (tmp_path / name).rglob("*") if path.name.startswith("decoded")]
        assert not left, left
        killer.assert_same_end(killer.finish(data(name, kept[1])), reference)


def test_a_pretraining_has_them_too(tmp_path, monkeypatch):
    """Where it is made: one that is there already needs no image."""
    mixed_folder(tmp_path / "data")
    seen, original = [], InitialWeights.pretrain

    def pretrain(self, *arguments):
        seen.append(self._dataset.kept_pixels is not None)
        original(self, *arguments)

    monkeypatch.setattr(InitialWeights, "pretrain", pretrain)
    active = {"cycles": 0, "cache_images": True, "pretrain": {"name": "simsiam", "epochs": 1, "batch_size": 8}}
    for _ in range(2):
        train(run_settings(tmp_path, "run", active, num_train_iter=1, num_eval_iter=1, epoch=1))
    assert seen == [True, False]


def test_a_full_disk_is_said_before_the_training(tmp_path, monkeypatch):
    mixed_folder(tmp_path / "data")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError, match=r"^active.cache_images: there is no room for 0.0 MB of decoded images in .*scratch: No space"):
        train(run_settings(tmp_path, "run", {"cache_images": True}))
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("cycle_*/*.pth"))
    train(run_settings(tmp_path, "run", {"cache_images": True}))


def test_an_image_that_cannot_be_read_is_said_before_the_training(tmp_path):
    mixed_folder(tmp_path / "data")
    broken = tmp_path / "data" / "unlabeled" / "zzz.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match=f"^image {broken}: not readable"):
        train(run_settings(tmp_path, "run", {"cache_images": True}))
    assert not list((tmp_path / "run").glob("cycle_*/*.pth"))


# ---------------------------------------------------------------------------------------------------------- what is kept
def view_of(dataset, index, name="strong"):
    with seeded_globals(index, name):
        return getattr(dataset.views, name)(sample_for_views(dataset, index, dataset.views))


def assert_as_loaded(dataset):
    for index in range(len(dataset)):
        expected = dataset.views.as_pixels(dataset.load(index))
        found = sample_for_views(dataset, index, dataset.views)
        assert isinstance(found, np.ndarray) and np.array_equal(found.reshape(expected.shape), expected)


def test_images_that_join_and_images_that_were_replaced(tmp_path, reads, caplog):
    dataset = folder(mixed_folder(tmp_path / "data"))
    cache = ImageCache(dataset, tmp_path / "run", True)
    with caplog.at_level(logging.INFO, "usb_active"):
        cache.refresh()
        assert dataset.kept_pixels is None and not reads, "not before a training wants it"
        cache.fill()
        before = len(dataset)
        dataset.align(dataset.keys, grow=True)
        cache.refresh()
        assert sorted(reads) == sorted([*dataset.keys, *dataset.test.keys])
        reads.clear()

        write_image(tmp_path / "data" / "train" / "a" / "joined.png", picture(500, 10))
        write_image(dataset.path(4), picture(501, 11))
        # As at the next query. The files are listed when a data set is made.
        again = folder(tmp_path / "data")
        dataset._listing = again._listing
        dataset.align(dataset.keys, grow=True)
        assert len(dataset) == before + 1
        assert isinstance(sample_for_views(dataset, before, dataset.views), Image.Image), "it is not kept yet, and is loaded"
        reads.clear()
        cache.refresh()
        assert sorted(reads) == sorted([dataset.keys[4], dataset.keys[before]])
    assert_as_loaded(dataset)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and said[1] == "active.cache_images: 2 images decoded, kept in 0.0 MB on disk while this process runs"
    assert said[0].startswith(f"active.cache_images: {before + 6} images decoded")


def test_the_files_are_looked_through_once_a_cycle(tmp_path, monkeypatch):
    """At the query where there is one, else at the training."""
    dataset, looks = folder(mixed_folder(tmp_path / "data")), []
    cache, look = ImageCache(dataset, tmp_path / "run", True), image_cache.image_stamps
    monkeypatch.setattr(image_cache, "image_stamps", lambda *given: looks.append(given) or look(*given))
    counts = []
    for step in (cache.refresh, cache.fill, cache.refresh, cache.fill, cache.fill):
        step()
        counts.append(len(looks) // 2)
    assert counts == [0, 1, 2, 2, 3]
    # Nothing of a cache that was closed counts as looked through.
    cache.refresh()
    cache.close()
    cache.fill()
    assert dataset.kept_pixels is not None


def test_another_order_of_the_pool_finds_its_own(tmp_path, reads):
    dataset = folder(mixed_folder(tmp_path / "data"))
    cache = ImageCache(dataset, tmp_path / "run", True)
    cache.fill()
    dataset.align(dataset.keys[::-1], grow=False)
    before = [view_of(dataset, index) for index in range(len(dataset))]
    reads.clear()
    cache.refresh()
    assert not reads
    assert_as_loaded(dataset)
    assert all(map(torch.equal, before, [view_of(dataset, index) for index in range(len(dataset))]))


def test_what_else_looks_at_a_sample_loads_it(tmp_path, reads):
    """Galleries, people's thumbnails, views of one's own: the image itself, in its own size."""
    dataset = folder(mixed_folder(tmp_path / "data"))
    ImageCache(dataset, tmp_path / "run", True).fill()
    reads.clear()
    assert dataset.load(1).size == (12, 16) and isinstance(dataset.test.load(0), Image.Image)
    own = SimpleNamespace(eval=lambda sample: torch.tensor(sample.size))
    rows = PoolRows(SimpleNamespace(load=dataset.load, views=own, collate=None), np.arange(3), "eval", 1, 0, ())
    assert rows.__getitems__((0, np.arange(3)))["x"].shape == (1, 3, 2)
    assert EvaluationRows(dataset.test, own, dataset.task).__getitems__([0])[0]["x_lb"].shape == (2,)
    dataset.views = own
    rows = PoolRows(dataset, np.arange(3), "eval", 1, 0, ())
    assert rows.__getitems__((0, np.arange(3)))["x"][0, 1].tolist() == [12, 16]
    assert len(reads) == 9


def test_an_algorithms_own_function_gets_the_image(tmp_path):
    """Only the names of views say that nothing else is done with a sample."""
    dataset = folder(mixed_folder(tmp_path / "data"))
    ImageCache(dataset, tmp_path / "run", True).fill()
    seen = []

    def size(sample):
        seen.append(sample.size)
        return torch.zeros(1)

    stream = PoolStream("own", dataset, np.arange(5), None, {"x_ulb_w": "weak", "x_ulb_size": size})
    stream[1]
    stream = PoolStream("own", dataset, np.arange(5), None, {"x_ulb_w": "weak", "x_ulb_s": "strong"})
    with seeded_globals(0):
        row = stream[1]
    assert seen == [(12, 16)] and stream._sample(1).shape == (10, 8, 3)
    dataset.kept_pixels = None
    with seeded_globals(0):
        assert torch.equal(row["x_ulb_s"], stream[1]["x_ulb_s"])


def test_rows_of_labelled_samples_are_read_from_what_is_kept(tmp_path, reads):
    dataset = folder(mixed_folder(tmp_path / "data"))
    idx = np.array([5, 2])
    rows = EvaluationRows(pool_samples(dataset, idx, np.array([0, 1])), dataset.views, dataset.task)
    expected = rows.__getitems__([0]).entries["x_lb"]
    ImageCache(dataset, tmp_path / "run", True).fill()
    reads.clear()
    assert torch.equal(rows.__getitems__([0]).entries["x_lb"], expected) and not reads


def test_a_fresh_process_gets_no_pixels_and_loads(tmp_path):
    dataset = folder(mixed_folder(tmp_path / "data"))
    idx = np.arange(4)

    def parcels():
        evaluation = EvaluationRows(dataset.test, dataset.views, dataset.task)
        return [bytes(ForkingPickler.dumps(rows)) for rows in (PoolRows(dataset, idx, "weak", 1, 0, ()), evaluation)]

    # Made when first asked for.
    _ = dataset.views
    without = parcels()
    ImageCache(dataset, tmp_path / "run", True).fill()
    kept = parcels()
    assert [abs(len(one) - len(other)) < 150 for one, other in zip(without, kept, strict=True)] == [True, True]
    pool, evaluation = map(pickle.loads, kept)
    assert pool.dataset.kept_pixels is None and evaluation.samples.kept_pixels is None
    here = PoolRows(dataset, idx, "weak", 1, 0, ()).__getitems__((0, idx))["x"]
    assert torch.equal(pool.__getitems__((0, idx))["x"], here)


# ---------------------------------------------------------------------------------------------------------- where it has no effect
def test_arrays_in_memory_are_left_where_they_are(tmp_path):
    digits = Digits()
    digits.name = "digits"
    line = "active.cache_images has no effect: dataset 'digits' holds its images as arrays of the right size already"
    assert nothing_to_keep(digits) == line
    ImageCache(digits, tmp_path / "run", True).fill()
    assert digits.kept_pixels is None and not (tmp_path / "run").exists()


def test_arrays_that_are_resized_for_every_view_are_resized_once(tmp_path, monkeypatch):
    digits = Digits(None, DatasetOptions(img_size=12))
    assert nothing_to_keep(digits) is None
    expected = [view_of(digits, index) for index in (0, 7)]
    ImageCache(digits, tmp_path / "run", True).fill()
    monkeypatch.setattr(Digits, "load", None)
    assert all(map(torch.equal, expected, [view_of(digits, index) for index in (0, 7)]))


def test_views_of_another_kind_are_made_of_the_samples(tmp_path):
    class Own(ImageViews):
        pass

    dataset = folder(mixed_folder(tmp_path / "data"))
    dataset.name = "image_folder"
    for views in (Own(8, 0.875, [0.5] * 3, [0.5] * 3), ImageViews(8, 0.875, [0.5] * 3, [0.5] * 3)):
        if type(views) is ImageViews:
            views.weak = lambda sample: torch.tensor(sample.size)
        dataset.views = views
        said = "active.cache_images has no effect: dataset 'image_folder' makes views of its own, of the samples as they are"
        assert nothing_to_keep(dataset) == said
        ImageCache(dataset, tmp_path / "run", True).fill()
        assert dataset.kept_pixels is None


@pytest.mark.parametrize("kept", [False, True])
def test_check_and_run_say_where_it_has_no_effect(tmp_path, caplog, kept):
    digits = Digits()
    digits.name = "digits"
    with caplog.at_level(logging.WARNING, "usb_active"):
        say_remarks({"config": config_of(settings(tmp_path, active={"cache_images": kept})), "dataset": digits})
    assert [record.getMessage() for record in caplog.records] == ([nothing_to_keep(digits)] if kept else [])


def test_workers_that_are_not_forked_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: "spawn")
    dataset = folder(mixed_folder(tmp_path / "data"))
    for workers, lines in ((0, 0), (2, 1)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "usb_active"):
            ImageCache(dataset, tmp_path / "run", True, workers).fill()
        assert len(caplog.records) == lines
    assert "num_workers: 0 reads what is kept" in caplog.text


# ---------------------------------------------------------------------------------------------------------- the key
def test_the_key_changes_no_result_and_may_change(tmp_path):
    without, given = (config_of(settings(tmp_path, active=active)) for active in ({}, {"cache_images": True}))
    assert "cache_images" not in without.resolved()["active"] and given.resolved()["active"]["cache_images"] is True
    assert config_of(given.resolved()).active.cache_images is True
    assert "active.cache_images" in given.free_keys


def test_with_a_training_on_features_it_is_refused(tmp_path):
    active = {"train_on": "features", "features": "pixels", "cache_images": True}
    with pytest.raises(UsageError, match=r"active.cache_images: keeps images for their views, and active.train_on is features"):
        config_of(settings(tmp_path, active=active, net="linear"))
