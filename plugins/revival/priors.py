"""Virtual labels as a prior for the next training: ours, the paper does not feed them into the task model's training."""

from __future__ import annotations

import numpy as np
from usb_active.plugins.revival.backends import check_backend
from usb_active.plugins.revival.keys import PropagatorKeys, fitted, log_accuracy, say_unseen_classes

from usb_active import PoolView, Prior, PriorTable, When
from usb_active.errors import errors_named


class RevivalPrior(Prior):
    """At a training's start the virtual labels by the last cycle's features and the labels known now; under `then: update` by the
    features of the model in training. The first training has none: there is no model before it. Samples that joined the pool since
    have none either.

    With the algorithms that have USB's masking and pseudo-label hooks; MixMatch, the paper's, has no masking hook and is refused.
    """

    needs = frozenset({"previous_features"})

    class Config(PropagatorKeys):
        pass

    def check(self, num_samples: int, num_classes: int) -> None:
        check_backend(self.config.backend)

    def fit(self, view: PoolView, when: When) -> PriorTable | None:
        if when == "end":
            return None
        features = view.previous_features if when == "start" else view.model_pass(["features"])["features"]
        if features is None or not (view.labeled < len(features)).any():
            return None
        who = f"prior '{self.name}'"
        say_unseen_classes(view, who, len(features))
        with errors_named(who):
            found = fitted(view, features, self.config, who).probs()
        log_accuracy(view, "revival_prior", found)
        probs = np.zeros((len(view), view.num_classes), dtype=np.float32)
        probs[: len(found)] = found
        return PriorTable(probs)
