"""Every check of an algorithm's suite fails for an algorithm that breaks its rule, and for that rule alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from broken_plugins import Broken, assert_complete, assert_fails, failing, suite_for

from usb_active import register_plugin
from usb_active.testing import AlgorithmContract
from usb_active.usb.bases import AlgorithmBase, OwnAlgorithm


@register_plugin("algorithm", "contract_sound")
class Sound(OwnAlgorithm, AlgorithmBase):
    """Cross-entropy on the labelled samples."""

    unlabeled_views: dict[str, str] = {}

    def train_step(self, x_lb, y_lb):
        with self.amp_cm():
            loss = self.changed(self.ce_loss(self.model(x_lb)["logits"], y_lb, reduction="mean"))
        return self.process_out_dict(loss=loss), self.process_log_dict(sup_loss=loss.item())

    def changed(self, loss):
        return loss


@register_plugin("algorithm", "contract_unreal")
class Unreal(Sound):
    """No loss in the last step but one, which does not show in the weights."""

    def changed(self, loss):
        return loss if self.it != 5 else loss.detach() * torch.tensor(float("nan")) + 0 * loss


@register_plugin("algorithm", "contract_idle")
class Idle(Sound):
    def changed(self, loss):
        return 0 * loss


@register_plugin("algorithm", "contract_peeking")
class Peeking(Sound):
    def changed(self, loss):
        return loss * float(1 + self.session.dataset.targets[100:].astype(np.int64)[:50].sum() / 1000)


@register_plugin("algorithm", "contract_unseeded")
class Unseeded(Sound):
    def changed(self, loss):
        return loss * float(np.random.default_rng().uniform(0.5, 1.5))


@register_plugin("algorithm", "contract_forgetful")
class Forgetful(Sound):
    """Counts in memory alone."""

    def changed(self, loss):
        self.__dict__.setdefault("counted", []).append(1)
        return loss * (1 + len(self.counted))


AGAIN = [
    "test_labels_that_were_not_given_do_not_matter", "test_stopped_in_the_middle_it_resumes", "test_the_same_run_gives_the_same_weights",
]
FIRST = [name for name in dir(AlgorithmContract) if name.startswith("test_")]
BROKEN = [
    Broken("test_it_is_registered", type("Bare", (), {}), given={"name": "contract_sound"}),
    Broken("test_losses_are_finite", Unreal, also=FIRST, given={"name": "contract_unreal"}),
    Broken("test_a_training_changes_the_weights", Idle, given={"name": "contract_idle", "config": {"weight_decay": 0.0}}),
    Broken("test_labels_that_were_not_given_do_not_matter", Peeking, given={"name": "contract_peeking"}),
    Broken("test_the_same_run_gives_the_same_weights", Unseeded, also=AGAIN, given={"name": "contract_unseeded"}),
    Broken("test_stopped_in_the_middle_it_resumes", Forgetful, given={"name": "contract_forgetful"}),
]


def test_every_check_has_an_algorithm_that_fails_it():
    assert_complete(AlgorithmContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_algorithm_fails_its_check(one, tmp_path):
    assert_fails(AlgorithmContract, one, tmp_path)


def test_a_sound_algorithm_passes(tmp_path):
    assert not failing(suite_for(AlgorithmContract, Sound, {"name": "contract_sound"}), tmp_path)
