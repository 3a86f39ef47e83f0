"""The suite that every acquisition inherits. A method's test class says what it is, and gets all of these tests:

    class TestMargin(AcquisitionContract):
        name = "margin"

The pool is real and small: made images of three classes, sorted by class, a network of the package, samples in every state.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from usb_active import Acquisition, Dataset, PoolView, UsageError
from usb_active.acquisition import NEEDS, check_picks
from usb_active.checkpoint import read_checkpoint, write_checkpoint
from usb_active.choices import Problems, choose
from usb_active.pool import Pool
from usb_active.registry import REGISTRY
from usb_active.setup import check_needs, make
from usb_active.usb.networks import small_cnn
from usb_active.view import ViewSource

CLASSES, PER_CLASS, SIZE = 3, 20, 8


class Blobs(Dataset):
    """Images (N, 8, 8) given as an array, one blob of noise around a pattern for each class, sorted by class."""

    name = "blobs"

    def __init__(self, images: np.ndarray, targets: np.ndarray, queryable: np.ndarray | None = None):
        self.images, self.targets = images, targets
        self.queryable = np.ones(len(targets), dtype=bool) if queryable is None else queryable
        super().__init__()

    def prepare(self) -> None:
        self.keys = [f"blobs/{i:03d}" for i in range(len(self.targets))]
        self.class_names = tuple(f"class {i}" for i in range(CLASSES))
        self.img_size, self.in_channels = SIZE, 1
        self.views = SimpleNamespace(eval=_tensor, weak=_noisy, strong=_noisy)

    def load(self, index: int) -> np.ndarray:
        return self.images[index]


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None]


def _noisy(image: np.ndarray) -> torch.Tensor:
    return _tensor(image) + 0.1 * torch.randn(1, SIZE, SIZE)


def made_images(seed: int = 0) -> np.ndarray:
    """(60, 8, 8) float32: 20 images of each class."""
    rng = np.random.default_rng(seed)
    patterns = 2 * rng.standard_normal((CLASSES, 1, SIZE, SIZE))
    noise = rng.standard_normal((CLASSES, PER_CLASS, SIZE, SIZE))
    return (patterns + noise).reshape(-1, SIZE, SIZE).astype(np.float32)


class World:
    """A pool in the middle of a run; of every class 15 candidates, 2 labelled, 1 skipped, 1 pending and 1 not queryable.

    Args:
        order: (60,) the samples stand in this order instead of that of their classes.
        fresh: nothing has happened yet: no label, no trained model.
    """

    def __init__(self, folder: Path, images: np.ndarray | None = None, order: np.ndarray | None = None, fresh: bool = False):
        order = np.arange(CLASSES * PER_CLASS) if order is None else order
        self.images = (made_images() if images is None else images)[order]
        number, targets = order % PER_CLASS, order // PER_CLASS
        self.dataset = Blobs(self.images, targets, queryable=number != 7)
        self.pool = Pool(self.dataset.queryable)
        if not fresh:
            labeled = np.flatnonzero((number == 0) | (number == 11))
            self.pool.set_labels(labeled, targets[labeled], 0)
            self.pool.skip(np.flatnonzero(number == 3))
            self.pool.set_pending(np.flatnonzero(number == 15))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # A network whose predictions differ between samples, as a trained one's do.
            self.net = small_cnn(CLASSES, SIZE, 1, width=4)
            self.net.classifier.weight.data.mul_(4)
        self.fresh, self.folder = fresh, folder

    def source(self, seed: int) -> ViewSource:
        return ViewSource(
            dataset=self.dataset, pool=self.pool, run_path=self.folder, seed=seed, device=torch.device("cpu"),
            model=lambda: None if self.fresh else self.net, batch_size=32, num_workers=0, simulated=True,
            pretrained_features=lambda: None,
        )  # fmt: skip

    def view(self, needs: Iterable[str], features: Any = None, *, cycle: int = 1, seed: int = 0, role: str = "acquisition") -> PoolView:
        view = PoolView(self.source(seed), cycle, role, frozenset(needs), features)
        view.prepare()
        return view


class AcquisitionContract:
    """What the core relies on in any acquisition.

    Attributes for a method to set:
        name: as registered. config: its own keys in the YAML.
        features: the source of features, as in the YAML, where the method needs them and a model is there.
        deterministic: whether the picks follow from the data alone as long as no two samples are equally good.
        initial: whether it may be asked before anything is trained (with features of pixels).
    """

    name: ClassVar[str]
    config: ClassVar[dict[str, Any]] = {}
    features: ClassVar[Any] = "model"
    deterministic: ClassVar[bool] = True
    initial: ClassVar[bool] = True

    def observed(self, plugin: Acquisition, world: World) -> None:
        """For methods that learn from training: give `plugin` what it would have seen. Does nothing here."""

    # ------------------------------------------------------------------------------------------ helpers
    def plugin(self, world: World | None = None) -> Acquisition:
        """An instance, its keys validated as those of a YAML."""
        problems = Problems("contract")
        choice = choose("acquisition", {"name": self.name, **self.config}, "active.acquisition", Path(), problems)
        problems.raise_if_any()
        plugin = make(choice)
        if world is not None:
            self.observed(plugin, world)
        return plugin

    def source(self, features: Any = None) -> Any:
        problems = Problems("contract")
        choice = choose("features", features or self.features, "active.features", Path(), problems)
        problems.raise_if_any()
        return make(choice)

    def view(self, world: World, plugin: Acquisition, **position: Any) -> PoolView:
        return world.view(plugin.needs, self.source(), **position)

    def pick(self, world: World, budget: int, plugin: Acquisition | None = None, **position: Any) -> np.ndarray:
        """The checked picks of an instance (a new one unless given)."""
        plugin = plugin or self.plugin(world)
        view = self.view(world, plugin, **position)
        return check_picks(plugin.select(view, budget), view.candidates, budget, self.name)

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return World(tmp_path)

    # ------------------------------------------------------------------------------------------ what is picked
    def test_it_is_registered_and_asks_for_known_things_only(self):
        assert isinstance(self.plugin(), REGISTRY.get("acquisition", self.name))
        assert self.plugin().name == self.name
        assert self.plugin().needs <= NEEDS

    @pytest.mark.parametrize("budget", [1, 2, 7, 45])
    def test_as_many_distinct_candidates_as_asked_for(self, world, budget):
        # 60 samples without 6 labelled, 3 skipped, 3 pending and 3 that cannot be asked.
        assert len(world.pool.candidates) == 45
        for seed in range(3):
            picks = self.pick(world, budget, seed=seed)
            assert picks.shape == (budget,) and len(set(picks.tolist())) == budget
            number = picks % PER_CLASS
            assert not np.isin(number, [0, 3, 7, 11, 15]).any()

    def test_a_pool_almost_used_up(self, world):
        used = world.pool.candidates[:-1]
        world.pool.set_labels(used, world.dataset.targets[used], 1)
        assert self.pick(world, 1, cycle=2).tolist() == world.pool.candidates.tolist()

    def test_a_later_round_goes_on_from_the_earlier(self, world):
        plugin = self.plugin(world)
        first = self.pick(world, 9, plugin)
        world.pool.set_labels(first, world.dataset.targets[first], 1)
        self.observed(plugin, world)
        second = self.pick(world, 9, plugin, cycle=2)
        assert not np.intersect1d(first, second).size

    def test_before_the_first_training(self, tmp_path):
        world, plugin = World(tmp_path, fresh=True), self.plugin()
        if not self.initial or "probs" in plugin.needs:
            with pytest.raises(UsageError):
                check_needs({"initial": plugin}, {"initial": self.source("pixels")}, SimpleNamespace(simulated=True), False)
                plugin.select(world.view(plugin.needs, self.source("pixels"), cycle=0), 6)
            return
        view = world.view(plugin.needs, self.source("pixels"), cycle=0, role="initial")
        assert len(view.labeled) == 0
        check_picks(plugin.select(view, 6), view.candidates, 6, self.name)

    # ------------------------------------------------------------------------------------------ randomness
    def test_the_same_seed_gives_the_same_picks(self, world, tmp_path):
        other = World(tmp_path / "other")
        for seed in (0, 1):
            assert self.pick(world, 7, seed=seed).tolist() == self.pick(other, 7, seed=seed).tolist()

    def test_seeds_matter_if_and_only_if_it_draws(self, world):
        sets = {tuple(sorted(self.pick(world, 7, seed=seed))) for seed in range(8)}
        assert (len(sets) == 1) == self.deterministic

    def test_global_generators_are_neither_used_nor_changed(self, world):
        picks = []
        for seed in (1, 2):
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            plugin = self.plugin(world)
            view = self.view(world, plugin)
            before = _generators()
            picks.append(plugin.select(view, 7).tolist())
            assert _generators() == before
        assert picks[0] == picks[1]

    def test_ties_are_not_broken_by_position(self, tmp_path):
        # All images are one and the same, so all scores are equal; the pool is sorted by class.
        world = World(tmp_path, np.repeat(made_images()[:1], CLASSES * PER_CLASS, axis=0))
        counts = np.zeros(len(world.dataset), dtype=int)
        for seed in range(60):
            counts[self.pick(world, 6, seed=seed)] += 1
        # 360 picks from 45 candidates, in order of position 8, 8, 8, 7, 7, 7 of them: 64 or 56 expected in each part. A fair
        # draw has a standard deviation of about 7, so half is far beyond chance; "the first six" would put 360 into one.
        parts = [counts[part].sum() for part in np.array_split(world.pool.candidates, 6)]
        assert min(parts) >= 28, parts

    def test_the_order_of_the_pool_does_not_matter(self, world, tmp_path):
        if not self.deterministic:
            pytest.skip("draws, and a draw follows the order")
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(len(world.dataset))
            permuted = World(tmp_path / str(seed), order=order)
            assert sorted(order[self.pick(permuted, 7)]) == sorted(self.pick(world, 7))

    # ------------------------------------------------------------------------------------------ what it leaves alone
    def test_inputs_and_model_are_unchanged(self, world):
        plugin = self.plugin(world)
        view = self.view(world, plugin)
        looked_at = [name for name in ("features", "probs") if name in plugin.needs]
        arrays = [*(getattr(view, name) for name in looked_at), view.labeled, view.unlabeled, view.candidates, view.labels]
        arrays += [world.dataset.targets, world.images, world.pool.labels, world.pool.pending, world.pool.skipped]
        copies, weights = [array.copy() for array in arrays], copy.deepcopy(world.net.state_dict())
        training = [module.training for module in world.net.modules()]
        plugin.select(view, 7)
        assert all(np.array_equal(array, before) for array, before in zip(arrays, copies, strict=True))
        assert all(torch.equal(value, weights[name]) for name, value in world.net.state_dict().items())
        assert [module.training for module in world.net.modules()] == training

    def test_samples_that_are_not_finite_are_named(self, tmp_path):
        if not self.plugin().needs & {"features", "probs"}:
            pytest.skip("looks at no values")
        images = made_images()
        images[[4, 9], 2, 2] = np.nan
        world = World(tmp_path, images)
        with pytest.raises(UsageError, match="not finite.* 4, 9") as error:
            self.pick(world, 7)
        assert "\n" not in str(error.value)

    def test_its_state_goes_through_a_checkpoint(self, world, tmp_path):
        plugin = self.plugin(world)
        first = self.pick(world, 7, plugin)
        path = tmp_path / "state.pth"
        write_checkpoint(path, {"plugin": plugin.state_dict()})
        restored = self.plugin()
        restored.load_state_dict(read_checkpoint(path)["plugin"])
        world.pool.set_labels(first, world.dataset.targets[first], 1)
        assert self.pick(world, 7, plugin, cycle=2).tolist() == self.pick(world, 7, restored, cycle=2).tolist()


def _generators() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()
