"""The suite of a source of features: a finite row for each sample, by the sample alone."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from usb_active.contracts.dataset import Samples
from usb_active.contracts.features import Features
from usb_active.contracts.plugin import overrides
from usb_active.testing.contract import Contract, copies, generators_untouched, refused, seed_generators, unchanged
from usb_active.testing.pool import World, made_images


class FeaturesContract(Contract):
    """What the core relies on in any source of features.

    Attributes for a source to set:
        by_content: whether a row follows from the sample itself, not from its number (as a row of an array on disk does).
    """

    kind = "features"
    by_content: ClassVar[bool] = True

    def world(self, folder: Path, **made: Any) -> World:
        """A pool; for sources that need more of it, to be put there."""
        return World(folder, **made)

    # ------------------------------------------------------------------------------------------ helpers
    def source(self, folder: Path) -> Features:
        """An instance."""
        folder.mkdir(parents=True, exist_ok=True)
        return self.make(self.keys(folder))

    def features(self, world: World, folder: Path, seed: int = 0) -> np.ndarray:
        """As a method would find them in its view."""
        return np.array(world.view({"features"}, self.source(folder), seed=seed).features)

    def one(self, tmp_path: Path, name: str = "one", **made: Any) -> np.ndarray:
        """The features of a pool of its own."""
        return self.features(self.world(tmp_path / name, **made), tmp_path / "files")

    # ------------------------------------------------------------------------------------------ what they are
    def test_it_is_registered(self, tmp_path: Path) -> None:
        """A run finds it by its name alone."""
        source = self.source(tmp_path / "files")
        assert isinstance(source, self.registered()) and source.name == self.shown_name

    def test_a_finite_row_of_floats_for_each_sample(self, tmp_path: Path) -> None:
        """Distances of other rows, or of other types, would be those of other samples."""
        world = self.world(tmp_path / "one")
        features = self.source(tmp_path / "files").get(world.view({"features"}, self.source(tmp_path / "files")))
        got = getattr(features, "dtype", type(features).__name__)
        assert isinstance(features, np.ndarray) and features.dtype == np.float32, f"must be float32, got {got}"
        shape = features.shape
        assert len(shape) == 2 and shape[0] == len(world.dataset) and shape[1] > 0, f"must be ({len(world.dataset)}, D), got {shape}"
        assert np.isfinite(features).all(), "rows that are not finite"

    def test_rows_differ(self, tmp_path: Path) -> None:
        """Features that are all the same tell nothing, and that is a mistake rather than a choice."""
        assert len(np.unique(self.one(tmp_path), axis=0)) > 1, "all rows are equal"

    def test_rows_follow_the_samples(self, tmp_path: Path) -> None:
        """A sample has the same features wherever it stands."""
        if not self.by_content:
            pytest.skip("its rows are those of numbers")
        order = np.random.default_rng(0).permutation(60)
        assert np.allclose(self.one(tmp_path, "permuted", order=order), self.one(tmp_path)[order], atol=1e-5)

    def test_the_batch_size_does_not_matter(self, tmp_path: Path) -> None:
        """`eval_batch_size` is chosen by the memory there is: a row must not depend on its neighbours."""
        world = self.world(tmp_path / "other")
        world.batch_size = 7
        assert np.allclose(self.features(world, tmp_path / "files"), self.one(tmp_path), atol=1e-5)

    def test_samples_that_are_not_finite_are_named(self, tmp_path: Path) -> None:
        """Mended silently, a broken file would be a sample like any other."""
        if not self.by_content:
            pytest.skip("does not look at the samples")
        images = made_images()
        images[[4, 9], 2, 2] = np.nan
        with refused("a pool with images that are not finite") as messages:
            self.one(tmp_path, images=images)
        assert re.search(r"not finite.* 4, 9", messages[0]), f"the message must name samples 4 and 9: {messages[0]!r}"

    # ------------------------------------------------------------------------------------------ again
    def test_the_same_again(self, tmp_path: Path) -> None:
        """A process that resumes makes the same features, bit for bit, whatever was drawn before."""
        made = []
        for number in range(2):
            seed_generators(number)
            made.append(self.one(tmp_path, str(number)))
        assert np.array_equal(made[0], made[1]), "differ from one process to the next"

    def test_it_leaves_the_global_generators_alone(self, tmp_path: Path) -> None:
        """They are made between two trainings, and must not change the second."""
        world, source = self.world(tmp_path / "one"), self.source(tmp_path / "files")
        view = world.view({"features"}, source)
        with generators_untouched("get"):
            source.get(view)

    def test_inputs_and_model_are_unchanged(self, tmp_path: Path) -> None:
        """What it is shown is the run's own, not a copy."""
        world, source = self.world(tmp_path / "one"), self.source(tmp_path / "files")
        arrays, weights = world.arrays(), copy.deepcopy(world.net.state_dict())
        before, modes = copies(arrays), [module.training for module in world.net.eval().modules()]
        source.get(world.view({"features"}, source))
        assert not unchanged(arrays, before), f"get has changed {unchanged(arrays, before)}"
        assert all(torch.equal(value, weights[name]) for name, value in world.net.state_dict().items()), "get has changed the model"
        assert [module.training for module in world.net.modules()] == modes, "get has left the model in another mode"

    def test_what_it_keeps_is_where_it_says(self, tmp_path: Path) -> None:
        """A report draws its map of the pool from there, after the run."""
        world, source = self.world(tmp_path / "one"), self.source(tmp_path / "files")
        features = np.array(world.view({"features"}, source).features)
        kept = source.kept(world.folder, len(world.dataset))
        if kept is None:
            pytest.skip("keeps nothing")
        assert kept.title and "\n" not in kept.title, f"the title is shown in one line: {kept.title!r}"
        assert kept.path.is_file() and np.array_equal(np.load(kept.path, allow_pickle=False), features), f"not in {kept.path}"

    # ------------------------------------------------------------------------------------------ for a training on features
    def test_width_is_that_of_the_rows(self, tmp_path: Path) -> None:
        """A network is built for it before there are features."""
        if not overrides(self.source(tmp_path / "files"), "width"):
            pytest.skip("no network is trained on them")
        width, shape = self.source(tmp_path / "files").width(self.world(tmp_path / "one").dataset), self.one(tmp_path).shape
        assert width == shape[1], f"width says {width}, and the rows have {shape[1]}"

    def test_other_images_get_the_same_features(self, tmp_path: Path) -> None:
        """Images that are predicted later must be to the network what those of the pool were."""
        source, world = self.source(tmp_path / "files"), self.world(tmp_path / "one")
        encoder = source.encoder(world.dataset, torch.device("cpu")) if overrides(source, "encoder") else None
        if encoder is None:
            pytest.skip("there is no way to make them of other images")
        images = [encoder.transform(world.dataset.load(row)) for row in range(len(world.dataset))]
        with torch.no_grad():
            made = encoder.encode(torch.stack(images)).numpy()
        assert np.allclose(made, self.one(tmp_path), atol=1e-4), "the encoder makes other features than `get`"

    def test_test_samples_are_as_those_of_the_pool(self, tmp_path: Path) -> None:
        """A network is evaluated on them."""
        source, world = self.source(tmp_path / "files"), self.world(tmp_path / "one")
        if not self.by_content or not overrides(source, "test"):
            pytest.skip("its test samples are not those of the data set, or it has none")
        rows = np.arange(0, len(world.dataset), 7)
        world.dataset.test = Samples(lambda row: world.dataset.load(int(rows[row])), world.dataset.targets[rows])
        made = source.test(world.view((), source))
        assert np.allclose(made, self.one(tmp_path)[rows], atol=1e-4), "test samples have other features than the same images in the pool"

    # ------------------------------------------------------------------------------------------ what it needs
    def test_it_says_whether_it_needs_the_model(self, tmp_path: Path) -> None:
        """`follows_model` decides whether it may be used before the first training."""
        source, world = self.source(tmp_path / "files"), self.world(tmp_path / "fresh", fresh=True)
        if source.follows_model:
            with refused("features of a model before there is one"):
                source.get(world.view((), source))
        else:
            source.get(world.view((), source))

    def test_it_says_whether_it_needs_pretraining(self, tmp_path: Path) -> None:
        """`from_pretraining` refuses a run without a pretrainer, instead of a traceback in the middle of it."""
        source, world = self.source(tmp_path / "files"), self.world(tmp_path / "one")
        world.pretrained = None
        if source.from_pretraining:
            with refused("features of a pretrainer where there is none"):
                source.get(world.view((), source))
        else:
            source.get(world.view((), source))
