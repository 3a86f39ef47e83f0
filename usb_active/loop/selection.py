"""Selection: what to query in a cycle, or which labels exist already, and pseudo-labels for samples that are not queried."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from usb_active.contracts.acquisition import check_picks, check_pseudo_labels, label_arrays
from usb_active.contracts.initial_labels import InitialLabels, check_initial_audit, check_initial_labels, check_initial_skips
from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError
from usb_active.loop.audit import mixed
from usb_active.loop.ledger import Ledger
from usb_active.loop.setup import Components
from usb_active.loop.views import PoolViews
from usb_active.pool.split import NOBODY
from usb_active.randomness import seeded_globals
from usb_active.records import AUDIT, Answers, Query
from usb_active.storage.artifacts import check_array, load_artifact, save_artifact

logger = logging.getLogger("usb_active")

_REMEDY = "restore it from a copy, or move the cycle's folder away to make it again"


class Selection:
    """The plugins that choose, called with what they need and checked in what they return."""

    def __init__(self, parts: Components, ledger: Ledger, views: PoolViews):
        self._active, self._dataset, self._plugins = parts.config.active, parts.dataset, parts.plugins
        self._initial_labels, self._seed = parts.initial_labels, parts.config.usb["seed"]
        self._folder = parts.run_dir.path / "artifacts"
        self._ledger, self._views = ledger, views

    def choose(self, cycle: int) -> Query:
        """The query of a cycle. Labels that exist already are journalled before the query that stands for them."""
        if cycle == 0 and self._initial_labels is not None:
            return self._take_known(self._initial_labels)
        role = _role(cycle)
        plugin = self._plugins[role]
        audit = self._audit(cycle)
        with seeded_globals(self._seed, cycle, role):
            view = self._views.of(role, cycle, held_out=NOBODY)
            charged = self._ledger.charged(cycle)
            wanted = (self._active.initial.size if cycle == 0 else self._active.budget) - charged
            if charged:
                logger.info("cycle %d: %d labels were given unasked and are charged, so %d are asked for", cycle, charged, wanted)
            budget = min(wanted, len(view.candidates))
            if budget < wanted:
                logger.warning("cycle %d: %d labels wanted, but only %d samples are left to ask", cycle, wanted, budget)
            if budget == 0:
                return self._query(cycle, plugin, mixed(NOBODY, audit, self._seed, cycle))
            view.prepare()
            picks = check_picks(plugin.select(view, budget), view.candidates, budget, f"{role} '{plugin.name}'")
            idx = mixed(picks, audit, self._seed, cycle) if len(audit) else picks
            return self._query(cycle, plugin, idx, view.probs[idx] if "probs" in plugin.needs else None)

    def _audit(self, cycle: int) -> np.ndarray:
        """(A,) what is asked beside the picks: the audit in cycle 0, later those of it whose answers were taken back."""
        if not self._active.audit:
            return NOBODY
        return self._ledger.set_aside() if cycle == 0 else self._ledger.audit_again()

    def _take_known(self, plugin: InitialLabels) -> Query:
        known = self.known_labels(plugin)
        idx, labels, skipped = (known[name].tolist() for name in ("idx", "labels", "skipped"))
        audit = self._ledger.set_aside([*idx, *skipped], known["audit"]) if self._active.audit else NOBODY
        is_audit = set(audit.tolist())
        asked = {i: (0, AUDIT if i in is_audit else plugin.name) for i in (*idx, *skipped)}
        self._ledger.journal(asked, Answers(dict(zip(idx, labels, strict=True)), frozenset(skipped)))
        known_idx = np.concatenate([known["idx"], known["skipped"]])
        return self._query(0, plugin, np.concatenate([known_idx, np.setdiff1d(audit, known_idx)]))

    def known_labels(self, plugin: InitialLabels) -> dict[str, np.ndarray]:
        """`idx` (P,), `labels` (P,), `skipped` (S,) and `audit` (A,), checked, that a plugin brings before the first training.

        `audit` is empty unless the run has one of its own, and then of its size.
        """
        with seeded_globals(self._seed, 0, "initial"):
            view = self._views.of("initial", 0, held_out=NOBODY)
            returned, refused, audited = plugin.known_labels(view), plugin.known_skips(view), plugin.known_audit(view)
        size, who = len(self._dataset), f"initial '{plugin.name}'"
        known = check_initial_labels(returned, size, self._dataset.task.num_labels, f"{who}: known_labels")
        known["skipped"] = check_initial_skips(refused, known["idx"], size, f"{who}: known_skips")
        if not self._active.audit:
            return {**known, "audit": NOBODY}
        audit = check_initial_audit(audited, np.concatenate([known["idx"], known["skipped"]]), f"{who}: known_audit")
        return {**known, "audit": self._own_audit(audit, known["idx"], who)}

    def _own_audit(self, audit: np.ndarray, labeled: np.ndarray, who: str) -> np.ndarray:
        """An audit that is brought, where the run wants one. UsageError when it is of another size, or nothing else is labelled."""
        wanted = self._active.audit
        if not len(audit):
            return NOBODY
        if wanted != len(audit):
            what = f"{who} brings an audit of {len(audit)} samples; audit: {len(audit)} takes it over, audit: 0 trains on its labels"
            raise UsageError(f"active.audit: {wanted}: {what}")
        if not len(np.setdiff1d(labeled, audit)):
            raise UsageError(f"active.audit: {wanted}: {who} brings no label but those of its audit; audit: 0 trains on these")
        return audit

    def _query(self, cycle: int, plugin: Any, idx: np.ndarray, probs: np.ndarray | None = None) -> Query:
        keys = tuple(self._dataset.keys[int(i)] for i in idx)
        names = tuple(self._dataset.class_names)
        return Query(cycle, idx, keys, plugin.name, names, probs, expects="" if names else self._dataset.task.expects)

    # ------------------------------------------------------------------------------------------ pseudo-labels
    def has_pseudo_labels(self, cycle: int) -> bool:
        """Whether what chose the query of a cycle also gives pseudo-labels to its training."""
        return overrides(self._plugins.get(_role(cycle)), "pseudo_labels")

    def save_pseudo_labels(self, cycle: int) -> None:
        """Have the plugin give its pseudo-labels, and put them on disk."""
        role = _role(cycle)
        plugin = self._plugins[role]
        with seeded_globals(self._seed, cycle, role, "pseudo_labels"):
            given = plugin.pseudo_labels(self._views.of(role, cycle, "/pseudo_labels"))
        who = f"{role} '{plugin.name}': pseudo_labels"
        checked = check_pseudo_labels(*label_arrays(given, who), len(self._dataset), self._dataset.task.num_labels, who)
        save_artifact(self._pseudo_path(cycle), checked)

    def load_pseudo_labels(self, cycle: int) -> dict[str, np.ndarray] | None:
        """`idx` (P,) and `labels` (P,) for the training of a cycle; None where it has none. UsageError when the file is damaged."""
        path = self._pseudo_path(cycle)
        found = load_artifact(path)
        if found is None:
            return None
        path = path.with_name(f"{path.name}.npz")
        if not isinstance(found, dict) or set(found) != {"idx", "labels"}:
            raise UsageError(f"{path} is damaged (not the arrays idx and labels); {_REMEDY}")
        idx = check_array(path, found["idx"], "iu", (None,), _REMEDY)
        labels = check_array(path, found["labels"], "iu", (len(idx),), _REMEDY)
        there = (idx >= 0) & (idx < len(self._dataset)) & (labels >= 0) & (labels < self._dataset.task.num_labels)
        if not there.all():
            raise UsageError(f"{path} is damaged (samples or labels that do not exist); {_REMEDY}")
        return found

    def _pseudo_path(self, cycle: int) -> Path:
        return self._folder / f"pseudo_labels_{cycle:03d}"


def _role(cycle: int) -> str:
    return "initial" if cycle == 0 else "acquisition"
