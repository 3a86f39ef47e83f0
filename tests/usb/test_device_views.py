"""`active.views_on: device`: the same bits as on the CPU, batch by batch and in whole runs; on a GPU too where there is one (`-m cuda`)."""

from __future__ import annotations

import logging
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from image_makers import write_drawings
from PIL import Image
from run_helpers import OWN_KEYS, checkpoint, config_of, labels_of, settings, train, train_and_cut, weights_equal
from torch.utils._python_dispatch import TorchDispatchMode
from view_streams import Images, stream_of

from usb_active.contracts.dataset import ImageDataset
from usb_active.errors import UsageError
from usb_active.pool.sampling import SeededRows, collate_batch
from usb_active.usb import device_views
from usb_active.usb.data import UNMADE, PoolStream
from usb_active.usb.device import device_remarks
from usb_active.usb.device_loader import DeviceLoader, OnDevice, Sender
from usb_active.usb.device_views import DevicePool, DeviceViews, UnmadeViews
from usb_active.usb.transforms import ImageViews

GPU = pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")])
on_every_device = pytest.mark.parametrize("device", ["cpu", GPU])
BATCH = 7, np.array([30, 4, 4, 0, 19, 36, 11])


def batches_of(stream, device, pool=None):
    """A batch as made on the CPU, the same with views made on the device, and what these were made of."""
    rows = SeededRows(stream, 2**33 + 5, 1, "train", "views")
    expected = rows.__getitems__(BATCH).entries
    stream.leaves_unmade, stream.kept = True, None if pool is None else (pool.places, pool.sides)
    entries = rows.__getitems__(BATCH).entries
    unmade = entries.pop(UNMADE)
    made = DeviceViews(stream.base.views, torch.device(device), pool).made(unmade, unmade.packed.to(device))
    return expected, {**entries, **made}, unmade


def same(expected, made) -> bool:
    assert expected.keys() == made.keys()
    return all(values.dtype == made[name].dtype and torch.equal(values, made[name].cpu()) for name, values in expected.items())


# ---------------------------------------------------------------------------------------------- batches
@on_every_device
@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize(("algorithm", "labeled"), [("fixmatch", False), ("fixmatch", True), ("mixmatch", False), ("comatch", False),
                                                    ("defixmatch", True), ("vat", False)])  # fmt: skip
def test_a_batch_is_that_of_the_cpu_to_the_bit(algorithm, labeled, is_kept, device):
    stream = stream_of(Images(), algorithm, labeled)
    pool = DevicePool.of(stream.base, stream.idx, torch.device(device)) if is_kept else None
    expected, made, unmade = batches_of(stream, device, pool)
    assert same(expected, made) and ("images" in unmade.fields) != is_kept
    assert {value.device.type for name, value in made.items() if name.startswith("x_")} == {device}
    assert all(value.is_contiguous() for value in made.values())


@on_every_device
@pytest.mark.parametrize("keys", [{}, {"flip": False}, {"padding": 0}, {"padding": 4}, {"randaugment_n": 1}, {"randaugment_n": 2}])
@pytest.mark.parametrize(
    ("channels", "side", "sizes"), [(1, 8, (8, 8)), (3, 8, (8, 11)), (3, 16, (9, 12)), (1, 28, (28, 28)), (3, 32, (40, 32))]
)
def test_whatever_the_images_and_the_crop_are(channels, side, sizes, keys, device):
    for is_kept in (False, True):
        stream = stream_of(Images(side, channels, (sizes,), **keys))
        pool = DevicePool.of(stream.base, stream.idx, torch.device(device)) if is_kept else None
        expected, made, _ = batches_of(stream, device, pool)
        assert same(expected, made)


def test_views_that_an_algorithm_declares():
    declared = {"x_ulb_s": "strong", "x_ulb_w": "weak", "x_ulb_w_2": "weak"}
    expected, made, _ = batches_of(stream_of(Images(), declared=declared), "cpu")
    assert len(made) == 4 and same(expected, made)


def test_a_batch_of_several_sizes_is_made_on_the_cpu():
    stream = stream_of(Images(sizes=((12, 12), (12, 17))))
    expected = stream.collated_batch(np.arange(4), 3).entries
    stream.leaves_unmade = True
    assert same(expected, stream.collated_batch(np.arange(4), 3).entries)


def test_what_travels_is_bytes_that_can_be_pickled_and_are_aligned():
    _, made, unmade = batches_of(stream_of(Images()), "cpu")
    assert unmade.packed.dtype == torch.uint8 and all(first % 16 == 0 for first, *_ in unmade.fields.values())
    again = pickle.loads(pickle.dumps(unmade))
    assert again.plan == unmade.plan and torch.equal(again.packed, unmade.packed)
    views = DeviceViews(Images().views, torch.device("cpu"))
    assert all(torch.equal(value, made[name]) for name, value in views.made(again, again.packed).items())
    # The draws go with the images, whose bytes are an eighth of the views in float32.
    assert len(unmade.packed) < 0.4 * sum(value.nbytes for name, value in made.items() if name.startswith("x_"))


class NoWaiting(TorchDispatchMode):
    """Refuses what a GPU's host would wait for: values of tensors, shapes that depend on them, numbers that become tensors."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "scalar_tensor", "lift_fresh", "equal.default")

    def __torch_dispatch__(self, function, types, given=(), named=None):
        name = str(function)
        assert not any(waits in name for waits in self.WAITS), name
        assert not name.startswith("aten.index.Tensor"), f"{name}: of a mask, it waits"
        return function(*given, **(named or {}))


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_asked_of_the_device_while_views_are_made(channels):
    _, _, unmade = batches_of(stream_of(Images(channels=channels)), "cpu")
    views = DeviceViews(Images(channels=channels).views, torch.device("cpu"))
    views.made(unmade, unmade.packed)
    with NoWaiting():
        views.made(unmade, unmade.packed)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_not_waited_for():
    stream, device = stream_of(Images()), torch.device("cuda")
    expected, _, unmade = batches_of(stream, "cuda")
    views, sender = DeviceViews(stream.base.views, device), Sender(device)
    for _ in range(3):  # allocations and the first use of a buffer
        views.made(unmade, sender.send(unmade.packed).arrived())
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = views.made(unmade, sender.send(unmade.packed).arrived())
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert all(torch.equal(value.cpu(), expected[name]) for name, value in made.items())


@on_every_device
def test_bytes_arrive_as_they_were_sent_however_many_are_under_way(device):
    sender, rng = Sender(torch.device(device)), np.random.default_rng(0)
    parts = [torch.from_numpy(rng.integers(0, 256, size, dtype=np.uint8)) for size in (10, 200_000, 3, 150_000, 400_000, 5)]
    sent = [sender.send(part.clone()) for part in parts]
    assert all(torch.equal(one.arrived().cpu(), part) for one, part in zip(sent, parts, strict=True))


# ---------------------------------------------------------------------------------------------- images on the device
def test_images_that_are_arrays_are_kept_and_each_is_loaded_once(monkeypatch):
    dataset, loaded = Images(), []
    monkeypatch.setattr(dataset, "load", lambda index: loaded.append(index) or dataset.images[index])
    pool = DevicePool.of(dataset, np.arange(5, 9), torch.device("cpu"))
    assert sorted(set(loaded)) == [5, 6, 7, 8] and pool.sides == (12, 12)
    assert pool.places.tolist() == [-1] * 5 + [0, 1, 2, 3] + [-1] * 31
    assert np.array_equal(pool.images.numpy(), np.stack(dataset.images[5:9]))


def test_images_of_several_sizes_of_files_or_beyond_the_limit_are_not(monkeypatch):
    every, cpu = np.arange(40), torch.device("cpu")
    assert DevicePool.of(Images(sizes=((12, 12), (12, 17))), every, cpu) is None
    dataset = Images()
    monkeypatch.setattr(dataset, "path", lambda index: Path(str(index)))
    assert DevicePool.of(dataset, every, cpu) is None
    dataset = Images()
    dataset.images = [Image.fromarray(image) for image in dataset.images]
    assert DevicePool.of(dataset, every, cpu) is None
    assert DevicePool.of(Images(), every[:0], cpu) is None
    for sizes in ((12, 12), (12, 24)):
        size = 40 * 3 * np.prod(sizes)
        monkeypatch.setattr(device_views, "POOL_BYTES", size - 1)
        assert DevicePool.of(Images(sizes=(sizes,)), every, cpu) is None
        monkeypatch.setattr(device_views, "POOL_BYTES", size)
        assert DevicePool.of(Images(sizes=(sizes,)), every, cpu) is not None


# ---------------------------------------------------------------------------------------------- loaders
def loader_of(stream, batches, said, workers=0):
    shared = OnDevice(stream.base, {"train_ulb": stream}, torch.device("cpu"), said.append)
    rows = SeededRows(stream, 5, 0, "train_ulb", "views")
    return DeviceLoader(shared, True, rows, batch_sampler=batches, num_workers=workers, collate_fn=partial(collate_batch, None))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kept", [False, True])
def test_a_loader_has_the_views_of_the_cpu_in_order(kept, workers, monkeypatch):
    if not kept:
        monkeypatch.setattr(device_views, "POOL_BYTES", 0)
    stream, said = stream_of(Images()), []
    batches = [(number, np.arange(number, 3 * number + 2)) for number in range(5)]
    rows = SeededRows(stream, 5, 0, "train_ulb", "views")
    expected = [rows.__getitems__(batch).entries for batch in batches]
    loader = loader_of(stream, batches, said, workers)
    for _ in range(2):
        assert all(same(one, other) for one, other in zip(expected, loader, strict=True))
    assert said == [] and (stream.kept is not None) == kept


@pytest.mark.parametrize(("threads", "expected"), [(False, [2, 3, 4, 4]), (True, [3, 4, 4, 4])])
def test_the_next_batch_is_on_its_way_before_the_step_of_this_one(threads, expected):
    """Where a thread makes batches, one more is being made."""
    asked, images = [], type("Threaded", (Images,), {"loads_in_threads": threads})()

    def batches():
        for number in range(4):
            asked.append(number)
            yield number, np.arange(4)

    seen = [(len(asked), batch["idx_ulb"].tolist()) for batch in loader_of(stream_of(images), batches(), [])]
    assert [count for count, _ in seen] == expected
    assert [rows for _, rows in seen] == [[0, 1, 2, 3]] * 4


@pytest.mark.parametrize("threads", [False, True])
def test_a_batch_that_cannot_be_loaded_is_said_when_it_is_asked_for(threads, monkeypatch):
    monkeypatch.setattr(device_views, "POOL_BYTES", 0)

    def load(images, index):
        # Row 8 of the stream.
        if index >= 11:
            raise UsageError("image 11 is broken")
        return Images.load(images, index)

    images = type("Broken", (Images,), {"loads_in_threads": threads, "load": load})()
    loader = iter(loader_of(stream_of(images), [(0, np.arange(4)), (1, np.arange(4, 8)), (2, np.arange(8, 12))], []))
    assert [next(loader)["idx_ulb"].tolist()[0] for _ in range(2)] == [0, 4]
    with pytest.raises(UsageError, match="^image 11 is broken$"):
        next(loader)


def test_that_sizes_differ_is_said():
    said = []
    made = list(loader_of(stream_of(Images(sizes=((12, 12), (12, 17)))), [(0, np.arange(4)), (1, np.array([0, 2]))], said))
    # The second batch has one size.
    assert [len(batch["x_ulb_w"]) for batch in made] == [4, 2] and said == ["images of dataset 'images' differ in size"]


# ---------------------------------------------------------------------------------------------- runs
ON_DEVICE = {"views_on": "device"}


def unmade_batches(monkeypatch):
    """Of each batch that a run makes at once: whether its views are left to be made."""
    made, whole = [], PoolStream.collated_batch

    def noting(stream, *given):
        batch = whole(stream, *given)
        made.append(batch is not None and UNMADE in batch.entries)
        return batch

    monkeypatch.setattr(PoolStream, "collated_batch", noting)
    return made


@pytest.mark.parametrize("algorithm", ["flexmatch", "mixmatch", "remixmatch", "supervised"])
def test_trainings_end_with_the_same_weights(algorithm, tmp_path, monkeypatch, caplog):
    train(settings(tmp_path, "cpu", algorithm=algorithm, **OWN_KEYS.get(algorithm, {})))
    made = unmade_batches(monkeypatch)
    train(settings(tmp_path, "device", active=ON_DEVICE, algorithm=algorithm, **OWN_KEYS.get(algorithm, {})))
    # Of ReMixMatch and of a supervised training only the labelled ones.
    assert sum(made) == 2 * 12 * (2 if algorithm in ("flexmatch", "mixmatch") else 1)
    assert weights_equal(checkpoint(tmp_path / "cpu", 1), checkpoint(tmp_path / "device", 1))
    assert labels_of(tmp_path / "cpu") == labels_of(tmp_path / "device")
    lines = [record.getMessage() for record in caplog.records if "views_on" in record.getMessage()]
    reason = "'remixmatch' makes its unlabelled views itself; such batches are made on the CPU"
    assert lines == ([f"active.views_on: device: {reason}"] if algorithm == "remixmatch" else [])


@pytest.mark.parametrize("keys", [{"num_workers": 1}, {"active": {"channels_last": True}}], ids=str)
def test_with_workers_and_in_another_format_too(keys, tmp_path):
    active, usb = keys.get("active", {}), {name: value for name, value in keys.items() if name != "active"}
    for name, block in (("cpu", active), ("device", {**active, **ON_DEVICE})):
        train(settings(tmp_path, name, active=block, **usb))
    assert weights_equal(checkpoint(tmp_path / "cpu", 1), checkpoint(tmp_path / "device", 1))


def test_images_that_are_sent_with_every_batch_end_in_the_same_weights(tmp_path, monkeypatch):
    train(settings(tmp_path, "cpu"))
    monkeypatch.setattr(device_views, "POOL_BYTES", 0)
    train(settings(tmp_path, "device", active=ON_DEVICE))
    assert weights_equal(checkpoint(tmp_path / "cpu", 1), checkpoint(tmp_path / "device", 1))


def test_files_are_sent_with_every_batch_and_decoded_images_are_kept_on_the_device(tmp_path, monkeypatch):
    write_drawings(tmp_path / "data", train=12)
    kept, begin = [], OnDevice.begin

    def noting(shared):
        views = begin(shared)
        kept.append(views._pool is not None)
        return views

    monkeypatch.setattr(OnDevice, "begin", noting)
    block = {"initial": {"name": "random", "size": 6}, "budget": 3}
    keys = {"dataset": {"name": "image_folder", "in_channels": 1}, "data_dir": str(tmp_path / "data"), "img_size": 12, "batch_size": 4}
    for name, active in {"cpu": {}, "sent": ON_DEVICE, "kept": {**ON_DEVICE, "cache_images": True}}.items():
        train(settings(tmp_path, name, active={**block, **active}, **keys))
    # Two loaders, two epochs, two cycles.
    assert kept == [False] * 8 + [True] * 8
    assert all(weights_equal(checkpoint(tmp_path / "cpu", 1), checkpoint(tmp_path / name, 1)) for name in ("sent", "kept"))


@pytest.mark.parametrize(("before", "after"), [("cpu", "device"), ("device", "cpu"), ("device", "device")])
def test_a_run_that_was_cut_may_be_resumed_with_or_without(before, after, tmp_path, monkeypatch):
    train(settings(tmp_path, "whole"))
    train_and_cut(settings(tmp_path, "cut", active={"views_on": before}), monkeypatch)
    train(settings(tmp_path, "cut", active={"views_on": after}))
    assert weights_equal(checkpoint(tmp_path / "cut", 1), checkpoint(tmp_path / "whole", 1))
    assert labels_of(tmp_path / "cut") == labels_of(tmp_path / "whole")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("algorithm", ["flexmatch", "mixmatch", "remixmatch"])
def test_trainings_on_a_gpu_end_with_the_same_weights(algorithm, tmp_path, torch_settings):
    for name in ("cpu", "device"):
        block = {"views_on": name, "deterministic": True}
        train(settings(tmp_path, name, active=block, algorithm=algorithm, **OWN_KEYS.get(algorithm, {})))
    assert weights_equal(checkpoint(tmp_path / "cpu", 1), checkpoint(tmp_path / "device", 1))


def test_views_of_ones_own_are_made_on_the_cpu_and_why_is_said_once(tmp_path, monkeypatch, caplog):
    class Own(ImageViews):
        pass

    own = Own(8, 1.0, [0.5], [0.5], flip=False)
    monkeypatch.setattr(ImageDataset, "views", own)
    with caplog.at_level(logging.WARNING, "usb_active"):
        train(settings(tmp_path, active=ON_DEVICE))
    lines = [record.getMessage() for record in caplog.records if "views_on" in record.getMessage()]
    assert lines == ["active.views_on: device: dataset 'digits' makes views of its own; such batches are made on the CPU"]


def test_collating_of_ones_own_is_a_reason():
    dataset = Images()
    dataset.collate = list
    assert stream_of(dataset).why_one_by_one() == "dataset 'images' puts its batches together itself"
    assert stream_of(Images()).why_one_by_one() == ""


def test_a_cpu_is_told_that_it_is_slower_so(tmp_path):
    lines = device_remarks(config_of(settings(tmp_path, active=ON_DEVICE)))
    assert lines == ["test.yaml: active.views_on: device makes views for a GPU, and there is none: slower than active.views_on: cpu"]
    assert device_remarks(config_of(settings(tmp_path))) == []


def test_where_no_view_is_shown_none_is_left_to_be_made():
    stream = stream_of(Images(), "supervised")
    stream.leaves_unmade = True
    assert not any(isinstance(value, UnmadeViews) for value in stream.collated_batch(np.arange(3), 0).entries.values())
