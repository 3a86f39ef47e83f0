"""Eval views of a batch made at once: to the bit those of its samples one by one; what is another's is made as before."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from usb_active.contracts.dataset import Samples
from usb_active.pool.inference import PoolRows, predict
from usb_active.pool.sampling import CollatedBatch, collate_batch
from usb_active.usb.data import EvaluationRows
from usb_active.usb.networks import small_cnn
from usb_active.usb.transforms import ImageViews

COUNT = 9


class Images:
    """A data set of random images in memory."""

    collate = None
    task = SimpleNamespace(target=int)

    def __init__(self, channels: int = 3, sizes=((12, 12),), views=None):
        self.views = views or ImageViews(12, 0.875, [0.4] * channels, [0.3] * channels)
        rng, tail = np.random.default_rng(5), (3,) if channels == 3 else ()
        self.images = [rng.integers(0, 256, (*sizes[i % len(sizes)], *tail), dtype=np.uint8) for i in range(COUNT)]
        self.targets = np.arange(COUNT) % 3

    def load(self, index: int):
        return self.images[index]


class Inverted(ImageViews):
    """Views whose eval view is their own."""

    def eval(self, sample):
        return -super().eval(sample)


def rows_of(dataset, passes: int = 1) -> PoolRows:
    return PoolRows(dataset, np.arange(COUNT), "eval", passes, 3, ("test",))


def one_by_one(dataset, rows) -> torch.Tensor:
    return torch.stack([dataset.views.eval(dataset.load(int(row))) for row in rows])


def only_at_once(monkeypatch):
    """No view is made by itself any more."""
    monkeypatch.setattr(ImageViews, "_weak", lambda *given: pytest.fail("an image by itself"))


@pytest.mark.parametrize("sizes", [((12, 12),), ((15, 31),), ((12, 20),), ((12, 12), (20, 12), (40, 30))], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_views_at_once_are_those_one_by_one(channels, sizes, monkeypatch):
    dataset, some = Images(channels, sizes), np.array([4, 0, 7, 7, 2, 1])
    expected = one_by_one(dataset, some)
    only_at_once(monkeypatch)
    made = rows_of(dataset).__getitems__((3, some))
    assert made["idx"].tolist() == some.tolist() and made["x"].dtype == torch.float32
    assert torch.equal(made["x"], expected[None]) and made["x"].is_contiguous()
    assert torch.equal(rows_of(dataset, passes=2).__getitems__((3, some))["x"], torch.stack([expected, expected]))


def test_pictures_are_as_good_as_arrays(monkeypatch):
    dataset = Images()
    expected = one_by_one(dataset, range(COUNT))
    only_at_once(monkeypatch)
    dataset.images = [Image.fromarray(image) for image in dataset.images]
    assert torch.equal(dataset.views.eval_batch(dataset.images), expected)


class Wrapped:
    """All of other views but the eval view."""

    def __init__(self, views):
        self._views = views

    def __getattr__(self, name):
        return getattr(self._views, name)

    def eval(self, sample):
        return -self._views.eval(sample)


def test_views_that_are_another_s_are_made_one_by_one():
    own = Images(views=Inverted(12, 0.875, [0.4] * 3, [0.3] * 3))
    wrapped = Images(views=Wrapped(Images().views))
    assert torch.equal(rows_of(wrapped).__getitems__((0, np.arange(4)))["x"][0], -one_by_one(Images(), range(4)))
    others = Images()
    others.views.eval = ImageViews(12, 0.875, [0.1] * 3, [0.9] * 3).eval
    assert torch.equal(rows_of(others).__getitems__((0, np.arange(4)))["x"][0], one_by_one(others, range(4)))
    assert torch.equal(rows_of(own).__getitems__((0, np.arange(4)))["x"][0], -one_by_one(Images(), range(4)))
    replaced = Images()
    replaced.views.eval = lambda sample: torch.full((1,), float(sample[0, 0, 0]))
    found = rows_of(replaced).__getitems__((0, np.arange(4)))["x"][0]
    assert found[:, 0].tolist() == [float(image[0, 0, 0]) for image in replaced.images[:4]]


def test_a_data_set_that_collates_itself_is_given_views_one_by_one():
    dataset = Images()
    dataset.collate = lambda entries: {"x": torch.stack([entry["x"] for entry in entries]) + 1}
    assert torch.equal(rows_of(dataset).__getitems__((0, np.arange(4)))["x"][0], one_by_one(dataset, range(4)) + 1)


@pytest.mark.parametrize("own", [False, True])
def test_samples_that_are_scored_are_made_at_once_where_they_can_be(own, monkeypatch):
    dataset = Images(views=Inverted(12, 0.875, [0.4] * 3, [0.3] * 3) if own else None)
    rows = EvaluationRows(Samples(dataset.load, dataset.targets), dataset.views, dataset.task)
    expected = one_by_one(dataset, [5, 1, 8])
    if not own:
        only_at_once(monkeypatch)
    made = rows.__getitems__([5, 1, 8])
    assert isinstance(made, CollatedBatch) is not own
    batch = collate_batch(None, made)
    assert {name: value.dtype for name, value in batch.items()} == {"idx_lb": torch.int64, "x_lb": torch.float32, "y_lb": torch.int64}
    assert batch["idx_lb"].tolist() == [5, 1, 8] and batch["y_lb"].tolist() == [2, 1, 2] and torch.equal(batch["x_lb"], expected)


def scored(outputs) -> list[np.ndarray]:
    stream = predict(small_cnn(3, 12, 3, 4), rows_of(Images()), outputs, 4, 0, torch.device("cpu"))
    return [next(iter(values.values())) for _, values in stream]


class Remembers(torch.nn.Module):
    """A network that makes a table at its first pass and keeps it."""

    def __init__(self):
        super().__init__()
        self.layer, self.table = torch.nn.Linear(3, 2), None

    def forward(self, x):
        means = x.mean(dim=(2, 3))
        if self.table is None:
            self.table = torch.linspace(0, 1, 3).to(means)
        return {"logits": self.layer(means) * self.layer(self.table), "feat": means}


def test_a_network_may_train_with_what_it_kept_of_a_pass_over_the_pool():
    net = Remembers()
    list(predict(net, rows_of(Images()), ["probs"], 4, 0, torch.device("cpu")))
    net(one_by_one(Images(), range(3)))["logits"].sum().backward()
    assert net.layer.weight.grad.abs().sum() > 0


def test_functions_of_outputs_may_want_gradients():
    def slope(tensors):
        """Of the largest logit squared: 2 · itself."""
        with torch.enable_grad():
            logits = tensors["logits"].detach().requires_grad_()
            (made,) = torch.autograd.grad((logits.amax(dim=1) ** 2).sum(), logits)
        return made.sum(dim=1)

    torch.manual_seed(0)
    logits = np.concatenate(scored(["logits"]), axis=1)[0]
    torch.manual_seed(0)
    slopes = np.concatenate(scored([slope]), axis=1)[0]
    assert np.array_equal(slopes, 2 * logits.max(axis=1))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("evaluation", [False, True])
def test_samples_are_not_all_in_memory_at_once(own, evaluation):
    """Photographs are far larger than their views."""
    dataset, alive = Images(views=Inverted(12, 0.875, [0.4] * 3, [0.3] * 3) if own else None), []
    most = 0

    def load(index: int) -> Image.Image:
        nonlocal most
        picture = Image.fromarray(dataset.images[index])
        alive.append(weakref.ref(picture))
        most = max(most, sum(reference() is not None for reference in alive))
        return picture

    dataset.load = load
    if evaluation:
        EvaluationRows(Samples(load, dataset.targets), dataset.views, dataset.task).__getitems__(list(range(COUNT)))
    else:
        rows_of(dataset).__getitems__((0, np.arange(COUNT)))
    assert len(alive) == COUNT and most <= 2
