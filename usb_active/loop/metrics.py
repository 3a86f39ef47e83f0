"""A training's line in metrics.jsonl."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from usb_active.loop.audit import assess
from usb_active.loop.live_scores import live_fields
from usb_active.loop.stopping import all_reached
from usb_active.storage.checkpoint import must_fit, read_cycle_checkpoint

if TYPE_CHECKING:
    import numpy as np

    from usb_active.loop.session import Session
    from usb_active.loop.trainer import Trainer

_REMEDY = "restore it from a copy, or remove both checkpoints of its folder to repeat this cycle's training"


def training_record(session: Session, cycle: int) -> dict[str, Any]:
    """What a finished training has come to, by the metrics of the data set's task: of classes `accuracy`, `balanced_accuracy`.

    `accuracy` is the last EMA model's (on the test set, else on held-out labels). `best_accuracy` is the best of all
    evaluations on the test set: selected on the test set itself, so it is optimistically biased. With `validation`, `selected_accuracy`
    is the test accuracy of the checkpoint that the held-out labels chose. `live_accuracy` is the live network's where `accuracy` is the EMA
    model's; where nothing is held out, `labeled_accuracy` and `live_labeled_accuracy` are on the labels trained on.
    `num_labels` are those trained on (held-out ones included), and the `audit_samples` where there is an audit, which cost as much;
    an algorithm that trains on all known ones has `num_asked` beside them. `class_counts` are of the labels that were trained on, and
    `validation_class_counts` of those held out (in runs that began with version 0.1.0, `class_counts` are of both).
    `cpu_seconds` are those of acquisition and training together (evaluations and checkpoints included), of all threads and of the workers
    that load images; None where a part was made by a version that did not count them.
    """
    trainer, ledger = session.trainer, session.ledger
    pool = ledger.training_pool()
    last, task = trainer.evaluation, session.dataset.task
    metric = task.metric
    split = "eval" if f"eval/{metric.score}" in last else "validation"
    asked = ledger.pool
    # Not those of the same round that nobody asked for.
    answers = asked.labels[session.run_dir.query(cycle, probs=False).idx]
    queried = answers[answers >= 0]
    meta = ledger.query_meta(cycle)
    record = {
        "cycle": cycle,
        "num_labels": len(pool.labeled) + pool.num_audit_labels,
        # Whose metrics these are, is in dataset.json.
        **({} if task.class_names else {"task": task.name}),
        # Only where more labels are trained on than were asked for.
        **({} if pool is asked else {"num_asked": len(asked.labeled) + asked.num_audit_labels}),
        **{each.key: last.get(f"{split}/{each.score}") for each in task.metrics},
        f"best_{metric.key}": trainer.best_test_score,
        f"validation_{metric.key}": last.get(f"validation/{metric.score}"),
        f"selected_{metric.key}": _selected_score(session, cycle),
        **live_fields(trainer.live_scores, task),
        **assess(session, cycle),
        "evaluated_on": {"eval": "test", "validation": "validation"}[split] if last else "none",
        **(_class_counts(session, queried) if task.class_names else {}),
        "acquisition": meta["acquisition"],
        "acquisition_seconds": None if meta["seconds"] is None else round(meta["seconds"], 4),
        "train_seconds": round(trainer.elapsed, 4),
        "cpu_seconds": _cpu_seconds(meta, trainer),
        "log": {**meta["log"], **ledger.start_log(cycle), **session.logged},
    }
    rules = session.config.active.stop
    earlier = [line for line in session.run_dir.metrics() if line["cycle"] < cycle] if rules else []
    return {**record, "stop": [why for _, why in all_reached(rules, [*earlier, record])]} if rules else record


def _cpu_seconds(meta: Mapping[str, Any], trainer: Trainer) -> float | None:
    acquired, trained = meta.get("cpu_seconds"), trainer.cpu_elapsed
    return None if acquired is None or trained is None else round(acquired + trained, 4)


def _class_counts(session: Session, queried: np.ndarray) -> dict[str, list[int]]:
    ledger, task = session.ledger, session.dataset.task
    pool = ledger.training_pool()
    counts, held = task.counts(pool.labels[pool.labeled]), {}
    if session.config.active.validation and ledger.is_stratified:
        held_out = task.counts(pool.labels[ledger.held_out()])
        counts, held = counts - held_out, {"validation_class_counts": held_out.tolist()}
    return {"class_counts": counts.tolist(), **held, "selected_class_counts": task.counts(queried).tolist()}


def _selected_score(session: Session, cycle: int) -> float | None:
    """The headline metric on the test set of the checkpoint chosen on held-out labels; the live model is not touched."""
    trainer, score = session.trainer, session.dataset.task.metric.score
    if f"validation/{score}" not in trainer.evaluation or f"eval/{score}" not in trainer.evaluation:
        return None
    chosen = copy.deepcopy(trainer.ema_model)
    path = session.run_dir.cycle_path(cycle) / "model_best.pth"
    weights = read_cycle_checkpoint(path, session.owner(cycle), _REMEDY)["ema_model"]
    with must_fit(path, "weights", _REMEDY):
        chosen.load_state_dict(weights)
    return trainer.score(chosen, "eval")[f"eval/{score}"]
