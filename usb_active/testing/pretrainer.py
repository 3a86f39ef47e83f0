"""The suite of a pretrainer: weights and features that fit, and that a killed process resumes to the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from usb_active.contracts.dataset import Dataset
from usb_active.contracts.pretrainer import Pretrained
from usb_active.randomness import generator, global_generators_kept, seed_globals
from usb_active.testing.contract import Contract, copies, unchanged
from usb_active.testing.pool import CLASSES, SIZE, Pictures
from usb_active.usb.networks import small_cnn


class Killed(BaseException):
    """What ends a pretraining where it stands, as a signal would: no `except Exception` keeps it."""


class CountedPictures(Pictures):
    """Pictures that count how often one is loaded, and end the process before a given time."""

    def __init__(self, killed_at: int | None = None):
        super().__init__()
        self.loads, self.killed_at = 0, killed_at

    def load(self, index: int) -> np.ndarray:
        if self.loads == self.killed_at:
            raise Killed
        self.loads += 1
        return super().load(index)


class PretrainerContract(Contract):
    """What the core relies on in any pretrainer. Give it few epochs, and no workers, in `config`.

    Attributes for a pretrainer to set:
        trains: whether it looks at the samples, and so can be killed in the middle.
    """

    kind = "pretrainer"
    trains: ClassVar[bool] = True

    # ------------------------------------------------------------------------------------------ helpers
    def build_net(self) -> torch.nn.Module:
        """The run's network with its classifier, freshly and identically initialised."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return small_cnn(CLASSES, SIZE, 1, width=4)

    def run(self, folder: Path, dataset: Dataset | None = None, seed: int = 0) -> Pretrained:
        """As the core runs it: under a seed, in a folder that survives a crash."""
        files, scratch = folder / "files", folder / "scratch"
        for path in (files, scratch):
            path.mkdir(parents=True, exist_ok=True)
        plugin = self.make(self.keys(files))
        with global_generators_kept():
            seed_globals(seed, "pretrain")
            rng = generator(seed, "pretrain")
            return plugin.run(self.build_net, dataset or CountedPictures(), scratch, rng, torch.device("cpu"))

    # ------------------------------------------------------------------------------------------ what it leaves
    def test_it_is_registered(self, tmp_path: Path) -> None:
        """A run finds it by its name alone."""
        plugin = self.make(self.keys(tmp_path))
        assert isinstance(plugin, self.registered()) and plugin.name == self.shown_name

    def test_it_leaves_something(self, tmp_path: Path) -> None:
        """A pretraining without a result costs hours, and changes nothing."""
        made = self.run(tmp_path)
        assert isinstance(made, Pretrained), f"run must give a Pretrained, got {type(made).__name__}"
        assert made.backbone or made.modules or made.features is not None, "neither weights nor modules nor features"

    def test_weights_fit_the_network(self, tmp_path: Path) -> None:
        """They are loaded into the task model at the start of every cycle, on any device."""
        backbone = self.run(tmp_path).backbone
        if backbone is None:
            pytest.skip("leaves no weights")
        own = self.build_net().state_dict()
        wrong = [name for name, value in backbone.items() if name not in own or own[name].shape != value.shape]
        assert not wrong, f"not of the network: {wrong[:5]}"
        bad = [name for name, value in backbone.items() if value.device.type != "cpu" or not torch.isfinite(value).all()]
        assert not bad, f"not on the CPU, or not finite: {bad[:5]}"

    def test_features_are_finite_rows(self, tmp_path: Path) -> None:
        """`features: pretrain` gives them to methods: a row for each sample, in the order of the pool."""
        features = self.run(tmp_path).features
        if features is None:
            pytest.skip("leaves no features")
        assert features.ndim == 2 and len(features) == 30, f"must be (30, D), got {features.shape}"
        assert np.isfinite(features).all(), "features that are not finite"

    # ------------------------------------------------------------------------------------------ again
    def test_the_same_seed_gives_the_same_result(self, tmp_path: Path) -> None:
        """A run that is repeated starts from the same weights, bit for bit."""
        one, other = self.run(tmp_path / "one"), self.run(tmp_path / "other")
        assert not differing(one, other), f"differ: {differing(one, other)[:5]}"

    def test_killed_in_the_middle_it_resumes(self, tmp_path: Path) -> None:
        """Pretraining takes days. Begun again in its folder it ends with the same bits, and does not begin from the start."""
        if not self.trains:
            pytest.skip("does not look at the samples")
        counted = CountedPictures()
        whole = self.run(tmp_path / "whole", counted)
        assert counted.loads, "looks at no sample; set `trains = False`"
        for killed_at in (1, counted.loads // 2, counted.loads - 1):
            folder, rest = tmp_path / str(killed_at), CountedPictures()
            with pytest.raises(Killed):
                self.run(folder, CountedPictures(killed_at))
            again = self.run(folder, rest)
            other = differing(whole, again)[:5]
            assert not other, f"killed before image {killed_at} of {counted.loads}, ends with other {other}"
        assert rest.loads < counted.loads, "begins from the start after it was killed at the end"

    # ------------------------------------------------------------------------------------------ what it leaves alone
    def test_labels_do_not_matter(self, tmp_path: Path) -> None:
        """It runs before the first query. A data set may know labels all the same: one that looks at them has learned the answers."""
        pictures = CountedPictures()
        pictures.targets = (pictures.targets + 1) % CLASSES
        one, other = self.run(tmp_path / "one"), self.run(tmp_path / "other", pictures)
        assert not differing(one, other), "looks at labels that were not given"

    def test_the_pool_is_unchanged(self, tmp_path: Path) -> None:
        """The data set is the run's own, not a copy."""
        dataset = CountedPictures()
        arrays = {name: getattr(dataset, name) for name in ("targets", "queryable", "images")}
        before, keys = copies(arrays), list(dataset.keys)
        self.run(tmp_path, dataset)
        assert not unchanged(arrays, before) and list(dataset.keys) == keys, f"has changed {unchanged(arrays, before)}"

    def test_it_writes_into_its_folder_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The working directory may be anyone's, and read-only."""
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        self.run(tmp_path)
        written = sorted(path.name for path in (tmp_path / "elsewhere").iterdir())
        assert not written, f"has written {written} into the working directory"


def differing(one: Pretrained, other: Pretrained) -> list[str]:
    """What is not bit-identical in two results."""
    flat, again = _flat(one), _flat(other)
    return [name for name in flat.keys() | again.keys() if not _same(flat.get(name), again.get(name))]


def _flat(made: Pretrained) -> dict[str, Any]:
    found: dict[str, Any] = {"features": made.features}
    for owner, state in {"backbone": made.backbone or {}, **made.modules}.items():
        found |= _named(owner, state)
    return found


def _named(owner: str, state: Any) -> dict[str, Any]:
    if not isinstance(state, Mapping):
        return {owner: state}
    return {name: value for key, item in state.items() for name, value in _named(f"{owner}.{key}", item).items()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return one is other or bool(one == other)
