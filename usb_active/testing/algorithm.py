"""The suite of an algorithm: it trains, the same again, from what was labelled alone, and resumes where it was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from usb_active.contracts.algorithm import declared
from usb_active.testing.contract import Contract
from usb_active.testing.runs import Trained, TrainingStopped, differing_weights, settings, train


class AlgorithmContract(Contract):
    """What the core relies on in any algorithm, on real runs with digits.

    Attributes for an algorithm to set:
        config: USB's keys and its own, as in the YAML; None leaves one of the suite's out. active: the same for the block `active`.
    """

    kind = "algorithm"
    active: ClassVar[Mapping[str, Any]] = {}

    # ------------------------------------------------------------------------------------------ helpers
    def settings(self, folder: Path) -> dict[str, Any]:
        """The YAML of a run."""
        return settings(folder, self.active, {**self.config, "algorithm": self.name})

    def trained(self, folder: Path, **changes: Any) -> Trained:
        """A run to its end."""
        return train(self.settings(folder), **changes)

    @pytest.fixture(scope="class")
    def whole(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
        return request.cls().trained(tmp_path_factory.mktemp("whole"))

    # ------------------------------------------------------------------------------------------ training
    def test_it_is_registered(self) -> None:
        """A run finds it by its name alone."""
        assert callable(getattr(self.registered(), "train_step", None)), "has no train_step"

    def test_losses_are_finite(self, whole: Trained) -> None:
        """A loss that is none spoils every weight at once."""
        assert whole.losses and np.isfinite(whole.losses).all(), f"losses: {whole.losses}"

    def test_a_training_changes_the_weights(self, whole: Trained) -> None:
        """An optimizer without gradients is silent."""
        start, end = whole.algorithm.session.weights.build().state_dict(), whole.algorithm.model.state_dict()
        assert any(not (start[name] == end[name]).all() for name, _ in whole.algorithm.model.named_parameters()), "no weight has changed"

    def test_labels_that_were_not_given_do_not_matter(self, whole: Trained, tmp_path: Path) -> None:
        """A data set may know more labels than were asked for: a trainer that sees them is no semi-supervised one."""
        if declared(self.registered(), "all_labels"):
            pytest.skip("says that it trains on all labels, as an upper bound")

        def hide(dataset: Any) -> None:
            hidden = np.setdiff1d(np.arange(len(dataset)), whole.algorithm.split.labeled)
            dataset.targets[hidden] = (dataset.targets[hidden] + 1) % dataset.num_classes

        other = self.trained(tmp_path, change=hide)
        assert not differing_weights(whole.path, other.path), "has trained on labels that were not given"

    # ------------------------------------------------------------------------------------------ again
    def test_the_same_run_gives_the_same_weights(self, whole: Trained, tmp_path: Path) -> None:
        """What is drawn depends on the seed and the position in the run, on nothing else."""
        other = self.trained(tmp_path)
        assert not differing_weights(whole.path, other.path), f"differ: {differing_weights(whole.path, other.path)[:5]}"

    def test_stopped_in_the_middle_it_resumes(self, whole: Trained, tmp_path: Path) -> None:
        """What is not in the checkpoint is lost: a run that was stopped must end with the same bits."""
        with pytest.raises(TrainingStopped):
            self.trained(tmp_path, stop_at=len(whole.losses) * 2 // 3 + 1)
        other = self.trained(tmp_path)
        assert len(other.losses) < len(whole.losses), "begins from the start"
        assert not differing_weights(whole.path, other.path), f"differ: {differing_weights(whole.path, other.path)[:5]}"
