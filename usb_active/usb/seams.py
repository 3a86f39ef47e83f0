"""How observers see a step of USB's trainers, and how a prior enters it. No train_step is copied or changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from usb_active.contracts.acquisition import BATCH_FIELDS, TrainBatch
from usb_active.contracts.algorithm import declared
from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError
from usb_active.loop.guidance import Guidance
from usb_active.usb.forward_passes import ForwardPasses, HiddenViews
from usb_active.usb.unlabeled import view_names

ALWAYS = frozenset({"idx_lb", "x_lb", "y_lb"})
UNLABELED = frozenset({"idx_ulb", "x_ulb_w"})
# Which fields of a TrainBatch an algorithm has. An explicit list, because names mislead: pseudolabel hands *weak* logits
# to its consistency loss, and mixmatch's `x_ulb_s` is a second weak view and its labelled logits are those of a mixture.
FIELDS: dict[str, frozenset[str]] = {
    **{name: BATCH_FIELDS for name in ("fixmatch", "flexmatch", "freematch", "softmatch", "uda", "adamatch")},
    "pseudolabel": BATCH_FIELDS - {"x_ulb_s", "logits_strong"},
    "mixmatch": BATCH_FIELDS - {"x_ulb_s", "logits_strong", "logits_lb", "hidden"},
    "supervised": ALWAYS | {"logits_lb", "hidden"},
    "fullysupervised": ALWAYS | {"logits_lb", "hidden"},
}
PRIOR_STAGES = ("masking", "gen_ulb_targets")
PRIOR_HOOKS = ("MaskingHook", "PseudoLabelingHook")
MASKS_LABELED = frozenset({"defixmatch"})
# Classes whose steps train on mixtures of samples: what the network sees then is no view of anything.
MIXING = frozenset({"MixMatch", "ReMixMatch"})


def batch_fields(name: str, cls: type) -> frozenset[str]:
    """The fields of TrainBatch that algorithm `name` has; an algorithm of one's own declares `batch_fields` itself."""
    own = declared(cls, "batch_fields")
    if own is not None:
        return frozenset(own)
    if name in FIELDS:
        return FIELDS[name]
    fields = ALWAYS | UNLABELED
    if "x_ulb_w" not in view_names(name, cls):
        fields -= {"x_ulb_w"}
    return fields if mixes(cls) else fields | {"hidden"}


def mixes(cls: type) -> bool:
    """Whether the algorithm's steps train on mixtures of samples."""
    return bool(MIXING & {base.__name__ for base in cls.__mro__})


def wanted_fields(plugin: Any) -> frozenset[str]:
    """The fields of TrainBatch that a plugin declares to need; one that names modules needs their outputs."""
    looks_inside = plugin.hidden_modules or overrides(plugin, "choose_hidden_modules")
    return plugin.batch_fields | {"hidden"} if looks_inside else frozenset(plugin.batch_fields)


def check_fields(who: str, wanted: Iterable[str], algorithm: str, available: frozenset[str], mixing: bool = False) -> None:
    """UsageError with the reason when a plugin needs what the algorithm, which may be one that `mixes`, does not have."""
    unknown = frozenset(wanted) - BATCH_FIELDS
    if unknown:
        raise UsageError(f"{who}: batch_fields names unknown fields: {', '.join(sorted(unknown))}")
    missing = frozenset(wanted) - available
    if missing:
        reason = "its train_step does not have it"
        if missing & {"logits_strong", "x_ulb_s"}:
            reason = "it has no strong view"
        elif "hidden" in missing and mixing:
            reason = "what its network sees is a mixture of samples, and no view of any"
        raise UsageError(f"{who}: needs {', '.join(sorted(missing))} of every step, but algorithm '{algorithm}' cannot give it: {reason}")


def check_prior_stages(algorithm: str, hooks: Collection[str]) -> None:
    """UsageError when no masking or no pseudo-label hook is there through which a prior could enter, or one that has other uses too."""
    if algorithm in MASKS_LABELED:
        reason = "masks its labelled predictions through the same hooks, where a prior has no place"
        raise UsageError(f"active.prior: algorithm '{algorithm}' {reason}")
    missing = [name for name in PRIOR_HOOKS if name not in hooks]
    if missing:
        names = " and no ".join(missing)
        raise UsageError(f"active.prior: algorithm '{algorithm}' has no {names}, so a prior cannot reach its pseudo-labels")


class StepCapture:
    """Collects, during one train_step, what a TrainBatch shows. Holds references, computes nothing, draws nothing."""

    def __init__(self, algorithm: str, fields: frozenset[str]):
        self.algorithm, self.fields = algorithm, fields
        self.passes = ForwardPasses(())
        self.active = False
        self._clear()

    def _clear(self) -> None:
        self._probs_weak: torch.Tensor | None = None
        self._logits_weak: torch.Tensor | None = None
        self._logits_strong: torch.Tensor | None = None
        self._logits_lb: torch.Tensor | None = None

    def open(self, inputs: Mapping[str, Any]) -> None:
        """A train_step on these arguments begins."""
        self.active = True
        self.passes.open(inputs)

    def close(self) -> None:
        """It has ended; nothing of it is kept alive."""
        self.active = False
        self.passes.close()
        self._clear()

    def see_hook(self, stage: str, values: Mapping[str, Any]) -> None:
        """A hook is about to be called with these values: the first that carries weak predictions counts."""
        if not self.active or self._probs_weak is not None or self._logits_weak is not None:
            return
        if stage == "dist_align":
            self._probs_weak = values["probs_x_ulb"]
        elif stage == "masking":
            # freematch and pseudolabel pass logits; the others pass probabilities.
            if values.get("softmax_x_ulb", True):
                self._logits_weak = values["logits_x_ulb"]
            else:
                self._probs_weak = values["logits_x_ulb"]

    def see_probs(self, probs: torch.Tensor) -> None:
        """`compute_prob` gave these. mixmatch has no hooks; the first of a step is its weak view."""
        if self.active and self.algorithm == "mixmatch" and self._probs_weak is None:
            self._probs_weak = probs

    def watch(self, algorithm: Any, hidden_modules: Iterable[str] = ()) -> None:
        """See what its losses, its network and the modules named are given: put in their places once, after USB's constructor."""
        algorithm.ce_loss = self.watch_loss(algorithm.ce_loss, "_logits_lb")
        algorithm.consistency_loss = self.watch_loss(algorithm.consistency_loss, "_logits_strong")
        self.passes = ForwardPasses(hidden_modules)
        self.passes.watch(algorithm.model)

    def watch_loss(self, loss: Callable[..., Any], attribute: str) -> Callable[..., Any]:
        """The loss itself, that also notes the logits of its first call in a step."""

        def watched(logits: torch.Tensor, *rest: Any, **named: Any) -> Any:
            if self.active and getattr(self, attribute) is None:
                setattr(self, attribute, logits)
            return loss(logits, *rest, **named)

        return watched

    def batch(
        self, cycle: int, iteration: int, loaded: Mapping[str, Any], inputs: Mapping[str, Any], feats: Any, unused: Iterable[str] = ()
    ) -> TrainBatch:
        """What was seen. `loaded`: the loaders' batch with dataset indices; `inputs`: on the device; `unused`: what is shown empty."""
        probs_weak = self._probs_weak
        if probs_weak is None and self._logits_weak is not None:
            probs_weak = torch.softmax(self._logits_weak.float(), dim=-1)
        values = {
            **{name: inputs.get(name, loaded.get(name)) for name in ("x_lb", "y_lb", "x_ulb_w", "x_ulb_s")},
            "idx_lb": loaded.get("idx_lb"),
            "idx_ulb": loaded.get("idx_ulb"),
            "probs_weak": None if probs_weak is None else _as_probs(probs_weak.detach()),
            # Under mixed precision these are half as wide; no copy is made of what is float32 already.
            "logits_strong": _as_float(self._logits_strong),
            "logits_lb": _as_float(self._logits_lb),
            "feats": _as_float(feats),
            "hidden": HiddenViews(_as_float(self.passes.hidden())),
        }
        values.update({name: values[name][:0] for name in unused if values[name] is not None})
        return TrainBatch(cycle, iteration, **{name: value for name, value in values.items() if name in self.fields})


def _as_probs(probs: torch.Tensor) -> torch.Tensor:
    """(B, C) float32 rows that sum to 1. A CPU's autocast takes the softmax in bfloat16, whose rows miss that by up to a hundredth."""
    if probs.dtype == torch.float32:
        return probs
    wide = probs.float()
    return wide / wide.sum(dim=-1, keepdim=True)


def _as_float(value: Any) -> Any:
    """Floating-point tensors as float32, also within containers: remixmatch has a list of strong views, a module may return a dict."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: _as_float(item) for name, item in value.items()}
    return type(value)(map(_as_float, value)) if type(value) in (list, tuple) else value


class PriorSeam:
    """Replaces weak predictions p by normalize(row + p) on their way into USB's masking and pseudo-label hooks (AS3L, Eq. 5).

    Rows without a prior pass unchanged, so an all-zero table leaves the plain training bit-identical. softmatch masks on aligned and
    targets on raw probabilities: each gets the prior. A hard-label target is the argmax; a soft one is sharpened by the algorithm's
    own T, as without a prior, where it takes logits: it is handed the logarithm. What the masking hooks keep of predictions (flexmatch's
    class counts, freematch's and softmatch's running means) they keep of the normalised sums (ours; the paper is silent).
    `guidance` has the tables, and counts the pseudo-labels that had a prior and those whose class it changed.
    """

    def __init__(self, guidance: Guidance) -> None:
        self._guidance = guidance
        self._rows: tuple[torch.Tensor, torch.Tensor] | None = None
        self._num_rows = 0

    def open(self, iteration: int, idx: torch.Tensor | None, device: torch.device) -> None:
        """A step on the unlabelled dataset indices `idx` begins."""
        self._rows = None
        table = self._guidance.at(iteration)
        if table is None or idx is None:
            return
        rows = np.asarray(table.rows(idx.cpu().numpy()))
        has_prior = rows.any(axis=1)
        self._num_rows = int(has_prior.sum())
        if self._num_rows:
            self._rows = torch.from_numpy(rows).to(device), torch.from_numpy(has_prior).to(device)

    def close(self) -> None:
        self._rows = None

    def call(self, stage: str, dispatch: Callable[..., Any], values: dict[str, Any]) -> Any:
        """Call the hook with the prior in its predictions."""
        if self._rows is None or stage not in PRIOR_STAGES:
            return dispatch(**values)
        if stage == "masking":
            logits, softmax = "logits_x_ulb", "softmax_x_ulb"
            _, posterior = self._predictions(values[logits], values.get(softmax, True))
            return dispatch(**{**values, logits: posterior, softmax: False})
        softmax = values.get("softmax", True)
        probs, posterior = self._predictions(values["logits"], softmax)
        self._count(probs, posterior)
        guided = torch.where(self._rows[1][:, None], posterior.log(), values["logits"].detach()) if softmax else posterior
        return dispatch(**{**values, "logits": guided})

    def _count(self, probs: torch.Tensor, posterior: torch.Tensor) -> None:
        # Rows without a prior are equal in both.
        self._guidance.count((probs.argmax(dim=-1) != posterior.argmax(dim=-1)).sum(), self._num_rows)

    def _predictions(self, logits: torch.Tensor, softmax: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C) probabilities without and with the prior."""
        rows, has_prior = self._rows
        # The very operation that the hooks themselves would use, so that rows without a prior keep their bits.
        probs = torch.softmax(logits.detach(), dim=-1) if softmax else logits.detach()
        total = rows.to(probs.dtype) + probs
        return probs, torch.where(has_prior[:, None], total / total.sum(dim=-1, keepdim=True), probs)
