"""Linear evaluation: a linear classifier on frozen features, the baseline of AS3L's Table 1.

It is an algorithm of USB's kind: `linear_evaluation` trains in USB's own loop, `active_linear_evaluation` in cycles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from usb_active.pool.inference import evaluating
from usb_active.usb.bases import AlgorithmBase, OwnAlgorithm

logger = logging.getLogger("usb_active")


class LinearEvaluation(OwnAlgorithm, AlgorithmBase):
    """Cross-entropy on labelled samples, in the weak view, of which only the classifier learns ("freezing the encoder", §4.1.2).

    Everything before the classifier stays as pretraining left it: it gets no gradient and no weight decay, and is in eval mode, so
    that batch norms neither use nor gather a batch's statistics. (The EMA model's backbone is that one up to rounding.) Unlabelled
    images are not loaded. Optimizer and schedule are the YAML's: the paper does not say.
    """

    unlabeled_views: dict[str, str] = {}
    batch_fields = frozenset({"idx_lb", "x_lb", "y_lb", "logits_lb", "feats", "hidden"})

    def __init__(self, args: Any, net_builder: Callable, tb_log: Any = None, logger: Any = None, **keywords: Any):
        super().__init__(args, net_builder, tb_log, logger, **keywords)
        if not hasattr(self, "session"):
            # In USB's own loop, whose rows know nothing of `unlabeled_views` and would bring two.
            self.dataset_dict["train_ulb"].alg = "fullysupervised"
        self._warn_if_untrained()

    def _warn_if_untrained(self) -> None:
        if not any(not name.startswith("classifier.") for name, _ in self.model.named_parameters()):
            # A linear network: what it is given are the features.
            return
        if hasattr(self, "session") and self.session.config.active.pretrain is None and not self.args.use_pretrain:
            logger.warning("linear_evaluation: without `pretrain` or `use_pretrain`, the features are those of random weights, and stay so")

    def train_step(self, x_lb: torch.Tensor, y_lb: torch.Tensor) -> tuple[dict, dict]:
        """A step of the classifier."""
        with self.amp_cm():
            with torch.no_grad(), evaluating(self.model):
                features = self.model(x_lb, only_feat=True)
            loss = self.ce_loss(self.model(features, only_fc=True), y_lb, reduction="mean")
        return self.process_out_dict(loss=loss, feat={"x_lb": features}), self.process_log_dict(sup_loss=loss.item())
