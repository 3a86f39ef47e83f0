"""A training's line in metrics.jsonl."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.checkpoint import must_fit, read_cycle_checkpoint

if TYPE_CHECKING:
    from usb_active.experiment import Session

_REMEDY = "restore it from a copy, or remove both checkpoints of its folder to repeat this cycle's training"


def training_record(session: Session, cycle: int) -> dict[str, Any]:
    """What a finished training has come to.

    `accuracy` is the last EMA model's (on the test set, else on held-out labels). `best_accuracy` is the best of all
    evaluations on the test set: chosen on what it is measured on, so it flatters. With `validation`, `selected_accuracy`
    is the test accuracy of the checkpoint that the held-out labels chose. `num_labels` are those trained on (held-out ones included);
    an algorithm that trains on all known ones has `num_asked` beside them. `class_counts` are of the labels that were trained on, and
    `validation_class_counts` of those held out (in runs that began with version 0.1.0, `class_counts` are of both).
    """
    trainer, pool = session.trainer, session.training_pool()
    last, num_classes = trainer.evaluation, session.dataset.num_classes
    split = "eval" if "eval/top-1-acc" in last else "validation"
    asked = session.pool
    queried = asked.labels[(asked.round == cycle) & (asked.labels >= 0)]
    meta = session.query_meta(cycle)
    return {
        "cycle": cycle,
        "num_labels": len(pool.labeled),
        # Only where more labels are trained on than were asked for.
        **({} if pool is asked else {"num_asked": len(asked.labeled)}),
        "accuracy": last.get(f"{split}/top-1-acc"),
        "balanced_accuracy": last.get(f"{split}/balanced_acc"),
        "best_accuracy": trainer.best_test_accuracy,
        "validation_accuracy": last.get("validation/top-1-acc"),
        "selected_accuracy": _selected_accuracy(session, cycle),
        "evaluated_on": {"eval": "test", "validation": "validation"}[split] if last else "none",
        **_class_counts(session),
        "selected_class_counts": np.bincount(queried, minlength=num_classes).tolist(),
        "acquisition": meta["acquisition"],
        "acquisition_seconds": None if meta["seconds"] is None else round(meta["seconds"], 4),
        "train_seconds": round(trainer.elapsed, 4),
        "log": {**meta["log"], **session.start_log(cycle), **session.logged},
    }


def _class_counts(session: Session) -> dict[str, list[int]]:
    pool = session.training_pool()
    counts = pool.class_counts(session.dataset.num_classes)
    if not session.config.active.validation or not session.is_stratified:
        return {"class_counts": counts.tolist()}
    held = np.bincount(pool.labels[session.held_out()], minlength=len(counts))
    return {"class_counts": (counts - held).tolist(), "validation_class_counts": held.tolist()}


def _selected_accuracy(session: Session, cycle: int) -> float | None:
    """Test accuracy of the checkpoint chosen on held-out labels; the live model is not touched."""
    trainer = session.trainer
    if "validation/top-1-acc" not in trainer.evaluation or "eval/top-1-acc" not in trainer.evaluation:
        return None
    chosen = copy.deepcopy(trainer.ema_model)
    path = session.run_dir.cycle_path(cycle) / "model_best.pth"
    weights = read_cycle_checkpoint(path, session.owner(cycle), _REMEDY)["ema_model"]
    with must_fit(path, "weights", _REMEDY):
        chosen.load_state_dict(weights)
    return trainer.score(chosen, "eval")["eval/top-1-acc"]
