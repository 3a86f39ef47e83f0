"""`active.views: vectorized`: the law of USB's draws from other numbers, the same pixels for the same draws, and runs that resume."""

from __future__ import annotations

import logging
import pickle
import random
from dataclasses import fields
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from run_helpers import OWN_KEYS, checkpoint, labels_of, settings, train, train_and_cut, weights_equal
from scipy import stats
from semilearn.datasets.augmentation import randaugment
from view_streams import Images, stream_of

from usb_active.contracts.dataset import ImageDataset
from usb_active.errors import UsageError
from usb_active.pool.sampling import SeededRows
from usb_active.usb import data, view_draws
from usb_active.usb.batch_draws import CUTOUT_CENTRE, CUTOUT_SIDE, DRAWS, FIRST_OPERATION, MIRRORING, PLACE, draw_exact, draw_vectorized
from usb_active.usb.batched_views import STRONG, WEAK
from usb_active.usb.device_views import DeviceViews
from usb_active.usb.transforms import ImageViews
from usb_active.usb.view_draws import OPERATIONS, Sources

VECTORIZED = {"views": "vectorized"}
CODES = [code for code, *_ in OPERATIONS]


def views(side=32, **keys) -> ImageViews:
    return ImageViews(side, 0.875, [0.4] * 3, [0.3] * 3, **keys)


def drawn_by(draw, seeds, samples=60, side=32, **keys):
    """The draws of a weak and a strong view of many samples, one array for each field."""
    own = views(side, **keys)
    sides = [(side + 2 * own.padding,) * 2] * samples
    found = [draw(seed, (WEAK, STRONG), sides, own) for seed in seeds]
    return SimpleNamespace(**{field.name: np.concatenate([getattr(one, field.name) for one in found]) for field in fields(found[0])})


# ---------------------------------------------------------------------------------------------- one view at a time
class Given:
    """Generators of Python and numpy that give the numbers of [0, 1) they were told."""

    def __init__(self, numbers):
        self._numbers = iter(numbers)

    def random(self) -> float:
        return float(next(self._numbers))

    def choices(self, population, k):
        return [population[int(self.random() * len(population))] for _ in range(k)]

    def uniform(self, low, high=1.0) -> float:
        return low + (high - low) * self.random()


@pytest.mark.parametrize(("side", "count"), [(8, 3), (32, 1), (96, 4)])
def test_each_view_is_what_usbs_code_makes_of_its_numbers(side, count):
    own, kinds, seed = views(side, randaugment_n=count), (STRONG, WEAK, STRONG), 2**62 + 3
    drawn = draw_vectorized(seed, kinds, [(side + 2 * own.padding,) * 2] * 50, own)
    numbers = np.random.default_rng(seed).random((50, 3, FIRST_OPERATION + 2 * count))
    for sample in range(50):
        for view, kind in enumerate(kinds):
            of_view, (top, left, flip) = numbers[sample, view], drawn.places[sample, view]
            assert [top, left] == [int(number * (2 * own.padding + 1)) for number in of_view[PLACE]]
            assert flip == (of_view[MIRRORING] < 0.5)
            if kind == STRONG:
                ours = list(zip(drawn.operations[sample, view].tolist(), drawn.magnitudes[sample, view].tolist(), strict=True))
                source = Sources(Given([*of_view[FIRST_OPERATION:], *of_view[CUTOUT_SIDE]]), Given(of_view[CUTOUT_CENTRE]))
                operations, box = view_draws.draw_operations(side, side, count, source)
                assert ours == operations and drawn.boxes[sample, view].tolist() == list(box)


@pytest.mark.parametrize("side", [2, 13, 32])
def test_a_strong_view_is_what_usbs_randaugment_makes_of_its_numbers(side, monkeypatch):
    """USB's own class, which finds our numbers in place of those of Python and numpy."""
    own, seed, rng = views(side), 2**40 + 1, np.random.default_rng(side)
    drawn = draw_vectorized(seed, (STRONG,), [(side, side)] * 40, own)
    numbers = np.random.default_rng(seed).random((40, 1, FIRST_OPERATION + 6))
    for sample in range(40):
        image, of_view = rng.integers(0, 256, (side, side, 3), dtype=np.uint8), numbers[sample, 0]
        monkeypatch.setattr(randaugment, "random", Given([*of_view[FIRST_OPERATION:], *of_view[CUTOUT_SIDE]]))
        with monkeypatch.context() as patch:
            patch.setattr(np.random, "uniform", Given(of_view[CUTOUT_CENTRE]).uniform)
            expected = np.asarray(randaugment.RandAugment(3, 5)(Image.fromarray(image)))
        chosen = drawn.operations[sample, 0], drawn.magnitudes[sample, 0], drawn.boxes[sample, 0]
        assert np.array_equal(np.asarray(operated(Image.fromarray(image), *chosen)), expected)


def test_a_weak_view_is_only_cropped_and_a_number_that_is_zero_cuts_nothing_out(monkeypatch):
    drawn = drawn_by(draw_vectorized, [1])
    assert (drawn.operations[:, 0] == view_draws.kernels.IDENTITY).all() and (drawn.boxes[:, 0] == view_draws.NO_BOX).all()
    monkeypatch.setattr(np.random, "Generator", lambda bits: SimpleNamespace(random=np.zeros))
    none = drawn_by(draw_vectorized, [1])
    assert (none.boxes == view_draws.NO_BOX).all() and (none.operations[:, 1] == CODES[0]).all() and (none.places[..., :2] == 0).all()


def test_samples_do_not_depend_on_how_many_follow_and_batches_differ():
    few, many, other = (drawn_by(draw_vectorized, [seed], samples) for seed, samples in ((4, 7), (4, 30), (5, 7)))
    for name, values in vars(few).items():
        assert np.array_equal(values, getattr(many, name)[:7])
    assert not any(np.array_equal(getattr(few, name)[:, 1], getattr(other, name)[:, 1]) for name in vars(few))


def test_nothing_is_mirrored_or_moved_where_the_data_set_says_so():
    drawn = drawn_by(draw_vectorized, range(5), flip=False, padding=0)
    assert not drawn.places.any()


@given(
    seed=st.integers(0, 2**63 - 1), side=st.integers(1, 40), padding=st.integers(0, 9), count=st.integers(1, 5), flip=st.booleans(),
    more=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=1, max_size=6),
    kinds=st.lists(st.sampled_from([WEAK, STRONG]), max_size=4),
)  # fmt: skip
@hypothesis_settings(max_examples=150, deadline=None)
def test_exact_draws_are_those_of_pythons_numpys_and_torchs_generators_in_usbs_order(seed, side, padding, count, flip, more, kinds):
    """Image by image, view by view; an image is longer by some pixels across or down."""
    own = views(side, flip=flip, padding=min(padding, side - 1), randaugment_n=count)
    sides = [(side + 2 * own.padding + longer * (1 - down), side + 2 * own.padding + longer * down) for down, longer in more]
    drawn = draw_exact(seed, kinds, sides, own)
    source = Sources(random.Random(seed), np.random.RandomState(seed & 0xFFFFFFFF), torch.Generator().manual_seed(seed))
    for sample, (height, width) in enumerate(sides):
        for view, kind in enumerate(kinds):
            crop = view_draws.draw_crop(height, width, side, flip, source)
            assert drawn.places[sample, view].tolist() == [crop.top, crop.left, crop.flip]
            if kind == STRONG:
                operations, box = view_draws.draw_operations(side, side, count, source)
                ours = zip(drawn.operations[sample, view].tolist(), drawn.magnitudes[sample, view].tolist(), strict=True)
                assert list(ours) == operations and drawn.boxes[sample, view].tolist() == list(box)


# ---------------------------------------------------------------------------------------------- the law
@cache
def many(name: str) -> SimpleNamespace:
    return drawn_by(DRAWS[name], range(2**40, 2**40 + 80))


def differ(take, continuous=False) -> float:
    """The p-value of both ways having the same law of what is taken of the draws: of categories, or of numbers."""
    exact, vectorized = (np.ravel(take(many(name))) for name in ("exact", "vectorized"))
    if continuous:
        return stats.ks_2samp(exact, vectorized).pvalue
    kinds = np.union1d(exact, vectorized)
    counts = np.array([[(found == kind).sum() for kind in kinds] for found in (exact, vectorized)])
    return stats.chi2_contingency(counts).pvalue


@pytest.mark.parametrize("view", [0, 1], ids=["weak", "strong"])
def test_crops_have_the_law_of_usbs(view):
    places = lambda drawn: drawn.places[:, view]  # noqa: E731 — called often
    assert set(many("vectorized").places[..., :2].ravel()) == set(range(9))
    for take in (lambda drawn: places(drawn)[:, 0], lambda drawn: places(drawn)[:, 1], lambda drawn: places(drawn)[:, 2]):
        assert differ(take) > 1e-4
    # Together: row and column, column and mirroring.
    assert differ(lambda drawn: places(drawn)[:, 0] * 9 + places(drawn)[:, 1]) > 1e-4
    assert differ(lambda drawn: places(drawn)[:, 1] * 2 + places(drawn)[:, 2]) > 1e-4


def test_operations_have_the_law_of_usbs_one_by_one_and_in_pairs():
    chosen = lambda drawn, number: np.searchsorted(sorted(CODES), drawn.operations[:, 1, number])  # noqa: E731 — called often
    for number in range(3):
        assert differ(lambda drawn, number=number: chosen(drawn, number)) > 1e-4
    assert differ(lambda drawn: chosen(drawn, 0) * len(CODES) + chosen(drawn, 2)) > 1e-4
    counts = np.bincount(np.ravel([chosen(many("vectorized"), number) for number in range(3)]), minlength=len(CODES))
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(("code", "least", "largest"), OPERATIONS)
def test_magnitudes_are_uniform_in_the_range_of_their_operation(code, least, largest):
    drawn = many("vectorized")
    found = drawn.magnitudes[:, 1][drawn.operations[:, 1] == code]
    assert len(found) > 500 and stats.kstest((found - least) / (largest - least), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("edge", range(4))
def test_cutouts_have_the_law_of_usbs(edge):
    assert differ(lambda drawn: drawn.boxes[:, 1, edge]) > 1e-4
    area = lambda drawn: np.prod(drawn.boxes[:, 1, 2:] - drawn.boxes[:, 1, :2] + 1, axis=1)  # noqa: E731 — for this line
    assert differ(area, continuous=True) > 1e-4


# ---------------------------------------------------------------------------------------------- the pixels
def operated(picture, operations, magnitudes, box):
    """USB's own operations on a colour picture, and a rectangle where something is to be cut out."""
    calls = {code: call for code, (call, *_) in zip(CODES, randaugment.augment_list(), strict=True)}
    for operation, magnitude in zip(operations, magnitudes, strict=True):
        picture = calls[operation](picture, magnitude)
    if tuple(box) != view_draws.NO_BOX:
        ImageDraw.Draw(picture := picture.copy()).rectangle(tuple(box.tolist()), (125, 123, 114))
    return picture


def by_pillow(image, place, operations, magnitudes, box, own: ImageViews):
    """A view, of what was drawn for it; grey by way of RGB."""
    top, left, flip = place
    reflected = np.pad(own.as_pixels(image), [(own.padding,) * 2] * 2 + [(0, 0)], mode="reflect")
    cropped = reflected[top : top + own.img_size, left : left + own.img_size]
    assert cropped.shape[:2] == (own.img_size,) * 2, "a crop beyond the image"
    picture = Image.fromarray(np.ascontiguousarray(cropped[:, ::-1] if flip else cropped).repeat(3 // own.in_channels, axis=2))
    return own.eval(operated(picture, operations, magnitudes, box))


@pytest.mark.parametrize(
    ("side", "channels", "sizes", "keys"),
    [(16, 3, ((16, 16),), {}), (12, 3, ((12, 12), (12, 17), (30, 12)), {}), (12, 1, ((12, 40),), {"flip": False}),
     (9, 1, ((20, 20), (40, 9)), {"padding": 0})],
)  # fmt: skip
def test_pixels_are_what_pillow_makes_of_the_draws(side, channels, sizes, keys):
    stream = stream_of(Images(side, channels, sizes, **keys), draw=draw_vectorized)
    images, own = stream.base.images, stream.base.views
    made = stream.collated_batch(np.arange(30), 7).entries
    shapes = [own.as_pixels(images[index]).shape[:2] for index in stream.idx[:30]]
    drawn = draw_vectorized(7, stream.plan.kinds, [tuple(length + 2 * own.padding for length in shape) for shape in shapes], own)
    for row in range(30):
        for name, view in stream.plan.outputs.items():
            parts = (getattr(drawn, part)[row, view] for part in ("places", "operations", "magnitudes", "boxes"))
            assert torch.equal(made[name][row], by_pillow(images[stream.idx[row]], *parts, own)), (row, name)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_device_makes_the_same_of_them(channels):
    stream, batch = stream_of(Images(channels=channels), draw=draw_vectorized), (7, np.array([30, 4, 4, 0, 19]))
    rows = SeededRows(stream, 2**33 + 5, 1, "train", "views")
    expected = rows.__getitems__(batch).entries
    stream.leaves_unmade = True
    unmade = rows.__getitems__(batch).entries[data.UNMADE]
    for name, made in DeviceViews(stream.base.views, torch.device("cpu")).made(unmade, unmade.packed).items():
        assert torch.equal(made, expected[name]), name


def test_crops_fill_the_whole_of_an_image_that_is_not_square():
    own = views(padding=0)
    places = draw_vectorized(3, (WEAK,), [(34, 32), (32, 40)] * 400, own).places[:, 0]
    for first, (rows, columns) in enumerate(((3, 1), (1, 9))):
        assert set(places[first::2, 0]) == set(range(rows)) and set(places[first::2, 1]) == set(range(columns))


def test_a_batch_of_several_sizes_on_a_device_is_that_of_the_cpu():
    stream = stream_of(Images(sizes=((12, 12), (12, 17))), draw=draw_vectorized)
    expected = stream.collated_batch(np.arange(4), 3).entries
    stream.leaves_unmade = True
    assert all(torch.equal(value, expected[name]) for name, value in stream.collated_batch(np.arange(4), 3).entries.items())


def test_a_stream_that_travels_to_a_worker_draws_as_before():
    stream = SeededRows(stream_of(Images(), draw=draw_vectorized), 1, 0, "train_ulb", "views")
    again = pickle.loads(pickle.dumps(stream))
    one, other = (rows.__getitems__((4, np.arange(6))).entries for rows in (stream, again))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


# ---------------------------------------------------------------------------------------------- runs
def test_a_run_that_was_cut_ends_as_one_that_was_not_with_workers_and_on_a_device_too(tmp_path, monkeypatch):
    train(settings(tmp_path, "whole", active=VECTORIZED))
    assert "views: vectorized" in (tmp_path / "whole" / "config.yaml").read_text()
    train_and_cut(settings(tmp_path, "cut", active=VECTORIZED), monkeypatch)
    train(settings(tmp_path, "cut", active=VECTORIZED))
    train(settings(tmp_path, "workers", active=VECTORIZED, num_workers=1))
    train(settings(tmp_path, "device", active={**VECTORIZED, "views_on": "device"}))
    whole = checkpoint(tmp_path / "whole", 1)
    for name in ("cut", "workers", "device"):
        assert weights_equal(checkpoint(tmp_path / name, 1), whole) and labels_of(tmp_path / name) == labels_of(tmp_path / "whole"), name
    train(settings(tmp_path, "exact"))
    assert not weights_equal(checkpoint(tmp_path / "exact", 1), whole)


def lines_of(caplog) -> list[str]:
    return [line for record in caplog.records if "active.views:" in (line := record.getMessage())]


@pytest.mark.parametrize("algorithm", ["fixmatch", "supervised", "remixmatch"])
def test_views_that_are_made_one_by_one_are_drawn_so_and_it_is_said_once(algorithm, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "usb_active"):
        train(settings(tmp_path, active=VECTORIZED, algorithm=algorithm, **OWN_KEYS.get(algorithm, {})))
    reason = "'remixmatch' makes its unlabelled views itself; such views are drawn one by one, as USB does"
    assert lines_of(caplog) == ([f"active.views: vectorized: {reason}"] if algorithm == "remixmatch" else [])


def test_views_of_ones_own_are_those_of_an_exact_run(tmp_path, monkeypatch, caplog):
    class Own(ImageViews):
        pass

    monkeypatch.setattr(ImageDataset, "views", Own(8, 0.875, [0.5], [0.5], flip=False))
    with caplog.at_level(logging.WARNING, "usb_active"):
        train(settings(tmp_path, "vectorized", active=VECTORIZED))
        train(settings(tmp_path, "exact"))
    own = "dataset 'digits' makes views of its own; such views are drawn one by one, as USB does"
    assert lines_of(caplog) == [f"active.views: vectorized: {own}"]
    assert weights_equal(checkpoint(tmp_path / "vectorized", 1), checkpoint(tmp_path / "exact", 1))


def test_a_pillow_of_another_arithmetic_ends_it_and_an_exact_run_is_made_one_by_one(monkeypatch):
    monkeypatch.setattr(data, "can_batch", lambda: False)
    why = "the installed Pillow, Python, numpy or torch gives other views than what is compiled"
    with pytest.raises(UsageError, match=f"active.views: vectorized makes batches at once, and {why}; use active.views: exact"):
        _ = stream_of(Images(), draw=draw_vectorized).plan
    assert stream_of(Images(), draw=draw_exact).why_one_by_one() == why
