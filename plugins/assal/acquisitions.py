"""ASSAL's choice, Algorithm 3: what the sampler finds least like a labelled sample."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from usb_active.plugins.assal.algorithm import SAMPLER, Assal
from usb_active.plugins.assal.analysis_functional import labeled_probability
from usb_active.plugins.assal.beside import AssalTraining, BesideKeys
from usb_active.plugins.assal.functional import check_weights, rank_average
from usb_active.plugins.assal.learning import Objective
from usb_active.plugins.assal.networks import check_side
from usb_active.plugins.assal.selection import choose, keep_epochs

from usb_active import Acquisition, PoolView, UsageError
from usb_active.numerics.arrays import entropy
from usb_active.pool.inference import evaluating

logger = logging.getLogger("usb_active")


class AssalSampling(Acquisition):
    """Lowest D = P(labelled), by a sampler that learned with encoder, generator and classifier (Algorithm 1), of μ.

    Under algorithm `assal` these are the ones that the training made, by the weights that are trained. Not the EMA weights: the sampler
    learned on the codes of the live encoder. As the logits order samples as D does, they are compared, and nothing is lost where D is 0
    or 1 by rounding. The draft takes no other score and no diversity.

    `beside: true`, under any other algorithm: networks of ASSAL's own learn inside every `select`, on the labelled and the unlabelled
    samples of that moment, by the loss and the sampler's step of algorithm `assal`; the task model is neither looked at nor changed. So the
    uncertainty in the code, and in `sampler_entropy`, is that of this system's classifier, not of the task model's. They start afresh
    in every cycle, from weights that depend on seed and cycle alone (ours): nothing is kept between cycles, and no sampler has to unlearn
    that the samples of the last query were unlabelled. A killed `select` goes on after the last whole epoch, with the same picks.

    `score: sampler_entropy` (ours) mixes the sampler's order with the entropy of ASSAL's classifier on μ, by `functional.rank_average`;
    `entropy_weight` is the entropy's share.
    """

    class Config(BesideKeys):
        beside: bool = False
        score: Literal["sampler", "sampler_entropy"] = "sampler"
        entropy_weight: float = Field(0.5, ge=0, le=1)

        @model_validator(mode="after")
        def _no_key_without_effect(self) -> AssalSampling.Config:
            # By value, not by what was given: what was kept of a run may have all keys.
            fields, idle = type(self).model_fields, self._idle()
            given = [name for name in idle if getattr(self, name) != fields[name].default]
            if given:
                same = [name for name in given if idle[name] == idle[given[0]]]
                raise ValueError(f"{', '.join(same)}: {idle[given[0]]}")
            if self.beside:
                check_weights(Objective.of(self).weights)
            return self

        def _idle(self) -> dict[str, str]:
            """Keys without effect beside the others, and why."""
            idle = {} if self.score == "sampler_entropy" else {"entropy_weight": "no effect without `score: sampler_entropy`"}
            if not self.beside:
                theirs = "no effect without `beside: true`; algorithm assal has keys of its own for its training"
                return idle | dict.fromkeys(BesideKeys.model_fields, theirs)
            return idle if self.target == "pseudo_label" else idle | {"threshold": "no effect without `target: pseudo_label`"}

        @model_serializer(mode="wrap")
        def _without_idle_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
            """Those that have an effect: runs from before there were any are runs of the same configuration."""
            kept = {key: value for key, value in serialize(self).items() if key not in self._idle()}
            return {key: value for key, value in kept.items() if (key, value) not in (("beside", False), ("score", "sampler"))}

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"labels"})

    def check(self, num_samples: int, num_classes: int, *, algorithm: type | None = None, img_size: int | None = None) -> None:
        """Refuses algorithms that train no sampler, unless one is trained beside them; and what cannot be trained beside."""
        trains_it = algorithm is not None and issubclass(algorithm, Assal)
        if self.config.beside:
            if trains_it:
                raise UsageError("beside: true: algorithm 'assal' trains autoencoder, classifier and sampler already; leave `beside` out")
            if not num_classes:
                raise UsageError("beside: true: its classifier learns classes, and the labels of this data set are none")
            check_side(img_size)
        elif algorithm is not None and not trains_it:
            reason = "chooses by the sampler that algorithm 'assal' trains, and this one trains none"
            raise UsageError(f"{reason}; use algorithm: assal, or `beside: true` to train one in every selection")

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        if not len(view.labeled):
            raise UsageError(f"acquisition '{self.name}': no sample is labelled, and its sampler tells labelled from unlabelled ones; "
                             "begin with another acquisition in `initial`, such as random or coreset")  # fmt: skip
        logits, entropies = self._beside(view) if self.config.beside else self._trained(view)
        mixed = self.config.score == "sampler_entropy"
        scores = rank_average(logits, entropies, self.config.entropy_weight) if mixed else -logits
        logged = {"labeled_probability": labeled_probability(logits), **({"entropy": entropies} if mixed else {})}
        return choose(view, budget, scores, "assal", logged)

    def _trained(self, view: PoolView) -> tuple[np.ndarray, np.ndarray]:
        """(P,) logits of P(labelled) of the candidates and, where they count, entropies, by what the algorithm trained."""
        sampler = view.registered(SAMPLER).module

        def score(seen: dict[str, torch.Tensor]) -> torch.Tensor:
            return sampler(seen["features"])

        uncertain = self.config.score == "sampler_entropy"
        stream = view.predict({"logit": score, **({"probs": "probs"} if uncertain else {})}, view.candidates, live=True)
        with evaluating(sampler):
            found = [(values["logit"][0], entropy(values["probs"][0]) if uncertain else ()) for _, values in stream]
        logits, entropies = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return logits, entropies

    def _beside(self, view: PoolView) -> tuple[np.ndarray, np.ndarray]:
        """The same, by networks that are trained for it."""
        training = AssalTraining(self.name, self.config, view)
        training.train(view.scratch)
        keep_epochs(view, self.name, [line["balanced_accuracy"] for line in training.log])
        line = training.log[-1]
        for name in ("spread", "active_dims"):
            view.log(f"assal/{name}", line[name])
        view.log("assal/sampler_accuracy", line["balanced_accuracy"])
        for problem in training.problems():
            logger.warning("acquisition '%s': %s", self.name, problem)
        return training.judged(view.candidates)
