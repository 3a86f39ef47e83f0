"""Selections that train a sampler and are broken off, for the tests of those that do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from usb_active.storage.checkpoint import read_checkpoint


def checkpoints_of_one_broken_off(suite: Any, training: type, keys: dict[str, Any], broken: Any, whole: Any) -> list[dict[str, Any]]:
    """A selection stops in the third of its four epochs and goes on: its picks and networks are those of one left alone.

    Args:
        suite: makes the acquisition and picks with it; a contract suite's subclass.
        training: the class whose epochs are counted.
        keys: of the acquisition, without `epochs`.
        broken: the world of the selection that stops.
        whole: that of the other.

    Returns:
        The last checkpoints of both, in this order.
    """
    keys = {**keys, "epochs": 4}
    expected = suite.pick(whole, 9, suite.make(keys))
    train, epochs = training.train_epoch, []

    def breaking(self):
        epochs.append(self.epoch)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return train(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_epoch", breaking)
        with pytest.raises(KeyboardInterrupt):
            suite.pick(broken, 9, suite.make(keys))
        assert suite.pick(broken, 9, suite.make(keys)).tolist() == expected.tolist()
    # The third is trained again, the first two are not; and all is as if nothing had happened.
    assert epochs == [0, 1, 2, 2, 3]
    ends = [read_checkpoint(next(world.folder.rglob(f"{suite.name}.pth"))) for world in (broken, whole)]
    for part in ("net", "discriminator"):
        assert all(torch.equal(value, ends[1][part][name]) for name, value in ends[0][part].items())
    return ends
