"""A batch's views made at once are those of its rows one by one, to the bit; what cannot be made so is made as before."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from image_makers import write_photos
from PIL import Image
from run_helpers import OWN_KEYS, checkpoint, config_of, settings, train, weights_equal
from torch.nn import functional
from torch.utils.data import default_collate
from view_streams import Images, stream_of

from usb_active.builtin.array_datasets import Digits
from usb_active.images import kernels
from usb_active.pool.sampling import CollatedBatch, SeededRows
from usb_active.usb import batched_views, data, transforms, view_trial
from usb_active.usb.batch_draws import draw_exact
from usb_active.usb.batched_views import STRONG, WEAK, plan_of
from usb_active.usb.data import PoolStream
from usb_active.usb.launcher import make_algorithm
from usb_active.usb.loaders import CycleLoaders
from usb_active.usb.networks import SmallCNN
from usb_active.usb.transforms import ImageViews

# The labelled and the unlabelled rows of USB's algorithms, as far as they differ.
ALGORITHMS = ("fixmatch", "mixmatch", "comatch", "defixmatch", "vat", "supervised", "remixmatch")


def batch_of(stream: PoolStream) -> dict | None:
    """What a batch is when made at once, after it was compared with the same rows one by one; None where it is made one by one."""
    batch = 7, np.array([30, 4, 4, 0, 19, 36, 11])
    rows = SeededRows(stream, 2**33 + 5, 1, "train", "views")
    made = rows.__getitems__(batch)
    if not isinstance(made, CollatedBatch):
        return None
    stream.plan = None
    expected = default_collate(rows.__getitems__(batch))
    assert list(made.entries) == list(expected)
    for name, values in expected.items():
        assert made.entries[name].dtype == values.dtype and torch.equal(made.entries[name], values), name
        assert made.entries[name].is_contiguous(), name
    return made.entries


@pytest.mark.parametrize("labeled", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_batch_is_its_rows_one_by_one(algorithm, labeled):
    made = batch_of(stream_of(Images(), algorithm, labeled))
    # Of its strong view ReMixMatch makes another one.
    assert (made is None) == (algorithm == "remixmatch" and not labeled)


@pytest.mark.parametrize("keys", [{}, {"flip": False}, {"padding": 0}, {"padding": 4}, {"randaugment_n": 1}, {"randaugment_n": 2}])
@pytest.mark.parametrize(
    ("channels", "side", "sizes"), [(1, 8, (8, 8)), (3, 8, (8, 11)), (3, 16, (9, 12)), (1, 28, (28, 28)), (3, 32, (40, 32))]
)
def test_whatever_the_images_and_the_crop_are(channels, side, sizes, keys):
    assert batch_of(stream_of(Images(side, channels, (sizes,), **keys))) is not None


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["channels first", "columns first", "every second"])
def test_however_arrays_lie_in_memory(order, channels):
    # As those of torchvision's CIFAR10, whose channels come first.
    images = Images(channels=channels)
    pixels = np.stack(images.images)
    if order == "channels first":
        pixels = np.moveaxis(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)), 1, -1)
    elif order == "columns first":
        pixels = np.asfortranarray(pixels)
    else:
        pixels = np.repeat(pixels, 2, axis=1)[:, ::2]
    expected = batch_of(stream_of(images))
    images.images = list(pixels)
    assert not images.images[0].flags.c_contiguous or channels == 1 and order == "channels first"
    for name, values in batch_of(stream_of(images)).items():
        assert torch.equal(values, expected[name])


def test_a_batch_of_one_array():
    views, plan = ImageViews(9, 0.875, [0.5], [0.5]), plan_of(stream_of(Images(9, 1)))
    image = np.arange(81, dtype=np.uint8).reshape(9, 9)
    made = [batched_views.views_of(views, [sample], plan, 3, draw_exact) for sample in (image, np.asfortranarray(image))]
    assert torch.equal(*made)


def test_views_that_an_algorithm_declares():
    declared = {"x_ulb_s": "strong", "x_ulb_w": "weak", "x_ulb_w_2": "weak"}
    stream = stream_of(Images(), declared=declared)
    assert plan_of(stream).kinds == (STRONG, WEAK, WEAK) and batch_of(stream) is not None
    assert batch_of(stream_of(Images(), declared={})).keys() == {"idx_ulb"}
    for view in (lambda sample: torch.zeros(1), "eval"):
        assert batch_of(stream_of(Images(), declared={"x_ulb_w": view})) is None


def test_a_stream_that_shows_no_view_loads_no_image(monkeypatch):
    stream = stream_of(Images(), "supervised")
    assert plan_of(stream).outputs == {}
    stream.plan = plan_of(stream)
    monkeypatch.setattr(stream.base, "load", lambda index: pytest.fail(f"image {index} was loaded"))
    assert stream.collated_batch(np.arange(3), 0).entries.keys() == {"idx_ulb"}


@pytest.mark.parametrize("sizes", [((12, 12), (12, 17), (30, 12)), ((12, 12), (20, 20))])
@pytest.mark.parametrize("keys", [{}, {"padding": 0}])
def test_images_may_differ_in_size_and_each_is_loaded_once(sizes, keys, monkeypatch):
    dataset = Images(sizes=sizes, **keys)
    assert batch_of(stream_of(dataset)) is not None
    loaded, stream = [], stream_of(dataset)
    monkeypatch.setattr(stream.base, "load", lambda index: loaded.append(index) or dataset.images[index])
    stream.collated_batch(np.array([5, 0, 9]), 3)
    assert loaded == [8, 3, 12]


def test_pictures_are_as_good_as_arrays():
    dataset = Images()
    dataset.images = [Image.fromarray(image) for image in dataset.images]
    assert batch_of(stream_of(dataset)) is not None


def test_other_views_and_other_collating_are_left_alone():
    class Own(ImageViews):
        def weak(self, sample):
            return torch.zeros(1)

    dataset = Images()
    dataset.views = Own(12, 0.875, [0.5] * 3, [0.5] * 3)
    assert stream_of(dataset).plan is None
    dataset = Images()
    dataset.collate = default_collate
    assert stream_of(dataset).plan is None
    for name in ("weak", "strong"):
        dataset = Images()
        setattr(dataset.views, name, lambda sample: torch.zeros(1))
        assert stream_of(dataset).plan is None


def test_a_data_set_without_a_strong_view_is_given_none():
    assert stream_of(Images(strong=False)).plan is None
    assert batch_of(stream_of(Images(strong=False), labeled=True)).keys() == {"idx_lb", "x_lb", "y_lb"}


def test_a_stream_of_another_kind_makes_its_rows_itself():
    class Relabelled(PoolStream):
        def __getitem__(self, row):
            return {**super().__getitem__(row), "y_lb": 7}

    assert Relabelled("fixmatch", Images(), np.arange(3), np.arange(3)).plan is None


def test_a_declared_function_need_not_be_hashable():
    @dataclass
    class View:
        value: float

        def __call__(self, sample):
            return torch.full((1,), self.value)

    assert batch_of(stream_of(Images(), declared={"x_ulb_w": View(0.5)})) is None


def test_what_cannot_be_made_at_once_asks_for_nothing_compiled(monkeypatch):
    monkeypatch.setattr(data, "can_batch", lambda: pytest.fail("asked"))
    assert stream_of(Images(), "remixmatch").plan is None
    assert stream_of(Images(), "supervised").plan.outputs == {}


def test_workers_that_are_forked_have_what_was_compiled():
    """Views compile where they are made, and a loader's rows have their plan before it starts workers."""
    kernels._prepared = False
    stream = stream_of(Images())
    assert kernels._prepared
    rows = {"train_lb": stream_of(Images(), labeled=True), "train_ulb": stream}
    loaders = object.__new__(CycleLoaders)
    loaders.rows, loaders.loaders = rows, {}
    loaders._dataset, loaders._seed, loaders._cycle = stream.base, 0, 0
    loaders.make(SimpleNamespace(batch_size=2, uratio=1, num_workers=0, eval_batch_size=2), SimpleNamespace(it=0))
    assert all("plan" in vars(its) for its in rows.values())


def test_an_interrupted_preparation_can_be_made_again(monkeypatch):
    """It stops in the middle: one entry is compiled, and takes no other types."""
    monkeypatch.setattr(kernels, "_prepared", False)
    kernels.prepare()
    every, levels, out = np.arange(8), np.zeros((1, 256), np.float32), np.zeros((1, 8, 8), np.float32)
    with pytest.raises(TypeError):
        kernels.weak_view(np.zeros((8, 8, 1)), every, every, False, levels, out)


def test_bytes_do_not_depend_on_the_pool_being_read_only():
    dataset = Images()
    for image in dataset.images:
        image.setflags(write=False)
    assert batch_of(stream_of(dataset)) is not None


@pytest.fixture
def another_pillow(monkeypatch):
    """A Pillow that inverts otherwise than the compiled operations."""
    monkeypatch.setattr(view_trial, "augment_list", lambda: [(lambda image, value: image, least, most) for _, least, most in USB_LIST])
    for cached in (view_trial.agree_with_pillow, batched_views.can_batch):
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in (view_trial.agree_with_pillow, batched_views.can_batch):
        cached.cache_clear()


USB_LIST = view_trial.augment_list()


def test_a_pillow_of_another_arithmetic_is_said_once_and_used(another_pillow, caplog):
    dataset = Images(channels=1)
    for sample in range(3):
        torch.manual_seed(sample)
        assert dataset.views.strong(dataset.load(sample)).shape == (1, 12, 12)
    assert batch_of(stream_of(dataset)) is None
    (said,) = [record.message for record in caplog.records if "strong views" in record.message]
    assert "<lambda>" in said and "Pillow itself is used" in said


@pytest.mark.parametrize("what", ["places", "magnitudes", "boxes"])
def test_generators_of_other_draws_are_said_once(what, monkeypatch, caplog):
    """As if torch, Python or numpy had changed: a crop, an operation's strength or a cutout is another."""
    batched_views.can_batch.cache_clear()
    usual = batched_views.draw_exact

    def another(*arguments):
        drawn = usual(*arguments)
        getattr(drawn, what)[:] = 1
        return drawn

    monkeypatch.setattr(batched_views, "draw_exact", another)
    try:
        assert not batched_views.can_batch() and not batched_views.can_batch()
        assert len([record for record in caplog.records if "draws differently" in record.message]) == 1
    finally:
        batched_views.can_batch.cache_clear()


@pytest.mark.parametrize("algorithm", ["flexmatch", "mixmatch", "remixmatch"])
def test_trainings_end_with_the_same_weights(algorithm, tmp_path, monkeypatch):
    made, whole = [], PoolStream.collated_batch
    monkeypatch.setattr(PoolStream, "collated_batch", lambda stream, *rest: made.append(whole(stream, *rest)) or made[-1])
    train(settings(tmp_path, "at_once", algorithm=algorithm, **OWN_KEYS.get(algorithm, {})))
    # Of ReMixMatch only the labelled ones.
    assert len(made) == 2 * 2 * 12 and len([one for one in made if one is not None]) == len(made) // (1 + (algorithm == "remixmatch"))
    monkeypatch.setattr(data, "can_batch", lambda: False)
    monkeypatch.setattr(transforms, "agree_with_pillow", lambda: False)
    train(settings(tmp_path, "by_pillow", algorithm=algorithm, **OWN_KEYS.get(algorithm, {})))
    one, other = (checkpoint(tmp_path / name, 1) for name in ("at_once", "by_pillow"))
    assert weights_equal(one, other)


def test_colour_trainings_end_with_the_same_weights(tmp_path, monkeypatch):
    write_photos(tmp_path / "data", train=9)
    keys = {"dataset": "image_folder", "data_dir": str(tmp_path / "data"), "img_size": 12, "batch_size": 4}
    block = {"initial": {"name": "random", "size": 4}, "budget": 2}
    train(settings(tmp_path, "at_once", active=block, **keys))
    monkeypatch.setattr(data, "can_batch", lambda: False)
    monkeypatch.setattr(transforms, "agree_with_pillow", lambda: False)
    train(settings(tmp_path, "by_pillow", active=block, **keys))
    assert weights_equal(*(checkpoint(tmp_path / name, 1) for name in ("at_once", "by_pillow")))


@pytest.mark.parametrize("algorithm", ["flexmatch", "remixmatch"])
def test_that_views_are_made_one_by_one_is_said_once(algorithm, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "usb_active"):
        train(settings(tmp_path, algorithm=algorithm, **OWN_KEYS.get(algorithm, {})))
    said = [record.message for record in caplog.records if "one by one" in record.message]
    line = "'remixmatch' makes its unlabelled views itself; such views are made one by one, which is slower"
    assert said == [line] * (algorithm == "remixmatch")


def workers_of(tmp_path, name: str, active=(), **keys) -> list[int]:
    """Of the labelled and the unlabelled training batches, after a run whose YAML leaves `num_workers` out unless it is among the keys."""
    data = settings(tmp_path, name, active={"cycles": 0, **dict(active)}, num_train_iter=2, num_eval_iter=2, epoch=1, **keys)
    if "num_workers" not in keys:
        del data["num_workers"]
    loaders = train(data).loader_dict
    return [loaders[name].num_workers for name in ("train_lb", "train_ulb")]


def test_a_training_on_a_cpu_has_no_workers_where_a_thread_makes_its_batches_of_images_in_memory(tmp_path):
    assert workers_of(tmp_path, "arrays") == [0, 0]
    assert workers_of(tmp_path, "given", num_workers=1) == [1, 2]
    assert workers_of(tmp_path, "remixmatch", algorithm="remixmatch", **OWN_KEYS["remixmatch"]) == [0, 2]
    write_photos(tmp_path / "data", train=9)
    files = {"dataset": "image_folder", "data_dir": str(tmp_path / "data"), "img_size": 12, "batch_size": 4}
    few = {"initial": {"name": "random", "size": 4}, "budget": 2}
    assert workers_of(tmp_path, "files", few, **files) == [1, 2]
    assert workers_of(tmp_path, "decoded", {**few, "cache_images": True}, **files) == [0, 0]


class Stopped(Exception):
    pass


def test_a_thread_that_makes_batches_and_dropout_do_not_meet(tmp_path, monkeypatch):
    """A network that draws in every step ends with the same weights with the thread, stopped or killed and gone on, and without it."""
    forward = SmallCNN.forward
    monkeypatch.setattr(SmallCNN, "forward", lambda net, x, **keys: forward(net, functional.dropout(x, 0.3, net.training), **keys))
    ahead = []

    def stop() -> None:
        raise Stopped

    def trained(name: str, stop_at: tuple[int, int] | None = None, ends: Callable[[], None] = stop) -> dict:
        algorithm = make_algorithm(config_of(settings(tmp_path, name)))
        step = algorithm.train_step

        def counted(**inputs):
            ahead.append(algorithm.loader_dict["train_ulb"].runs_ahead)
            if (algorithm.cycle, algorithm.it) == stop_at:
                ends()
            return step(**inputs)

        algorithm.train_step = counted
        algorithm.train()
        return checkpoint(tmp_path / name, 1)

    whole = trained("ahead")
    with pytest.raises(Stopped):
        trained("stopped", stop_at=(1, 6))
    assert weights_equal(trained("stopped"), whole)
    assert set(ahead) == {True}
    # Killed by the system, in the same step.
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731 — of the process that calls it
    killed = multiprocessing.get_context("fork").Process(target=trained, args=("killed", (1, 6), kill))
    killed.start()
    killed.join(300)
    assert killed.exitcode == -signal.SIGKILL
    assert weights_equal(trained("killed"), whole)
    monkeypatch.setattr(Digits, "loads_in_threads", False)
    ahead.clear()
    assert weights_equal(trained("without"), whole)
    assert set(ahead) == {False}
