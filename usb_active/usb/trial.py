"""Before a run begins: everything that its first step needs is built once, in a folder that is thrown away.

An algorithm checks its own keys in its constructor, which needs a session, a pool and a network; a method that brings labels reads
them when it is asked. What they refuse is so found by `check`, and by `run` before there is a directory.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from semilearn.algorithms import get_algorithm

from usb_active.config.settings import RunConfig
from usb_active.errors import UsageError, reason_of
from usb_active.loop.setup import has_taken_labels, make_plugins, queryable_mask
from usb_active.pool.batch_norm import tracking_layers
from usb_active.pool.feature_inputs import FeatureInputs
from usb_active.pool.inference import evaluating
from usb_active.randomness import global_generators_kept
from usb_active.storage.run_dir import RunDir
from usb_active.usb.arguments import make_args
from usb_active.usb.missing_parts import check_outputs
from usb_active.usb.registration import register_usb_algorithms
from usb_active.usb.seams import batch_fields

logger = logging.getLogger("usb_active.usb")


def try_out(parts: dict[str, Any]) -> None:
    """Build the algorithm and its network as a run would, show the network two images, and ask for the labels that exist already.

    Args:
        parts: those of `setup.build_parts`; only the data set is used itself, all else is made again and forgotten.

    Raises:
        UsageError: whatever of it is refused.
    """
    config = parts["config"]
    register_usb_algorithms([config.usb["algorithm"]])
    with tempfile.TemporaryDirectory(prefix="usb-active-") as folder, global_generators_kept():
        run_dir = RunDir.open(Path(folder) / "trial", config.resolved())
        args = make_args(config)
        args.use_tensorboard = False
        args.parts = {**make_plugins(config), "config": config, "dataset": parts["dataset"], "run_dir": run_dir}
        algorithm = get_algorithm(args, None, None, logger)
        try:
            _show_images(algorithm, config)
            _check_known(algorithm.session, config)
        finally:
            algorithm.session.close()


def _show_images(algorithm: Any, config: RunConfig) -> None:
    dataset = algorithm.session.inputs
    if isinstance(dataset, FeatureInputs):
        images, size = torch.zeros(2, dataset.in_channels), f"vectors of {dataset.in_channels} features (active.train_on: features)"
    else:
        images = torch.zeros(2, dataset.in_channels, dataset.img_size, dataset.img_size)
        size = f"images of {dataset.img_size} pixels with {dataset.in_channels} channel(s)"
    who = f"{config.source}: net: '{config.net.name}'"
    try:
        with torch.no_grad(), evaluating(algorithm.model) as model:
            out = model(algorithm.to_device(images))
    except UsageError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UsageError(f"{who} does not take {size}: {reason_of(error)}; look at img_size and at the network's keys") from error
    shape = tuple(getattr(out.get("logits") if isinstance(out, dict) else None, "shape", ()))
    if shape != (2, dataset.task.num_outputs):
        raise UsageError(f"{who}: two {size} must give logits of shape {(2, dataset.task.num_outputs)}, got {shape or type(out).__name__}")
    if config.active.batch_norm == "recomputed" and not tracking_layers(algorithm.model):
        logger.warning("%s has no BatchNorm with running statistics; active.batch_norm: recomputed changes nothing", who)
    check_outputs(config, batch_fields(algorithm.base_name, type(algorithm)), out)


def _check_known(session: Any, config: RunConfig) -> None:
    """Labels that exist already: they are read, and what they leave to be asked must last for the cycles."""
    plugin, active = session.initial_labels, config.active
    if plugin is None:
        return
    if has_taken_labels(config):
        # They are in the journal, and are read from nowhere else; what they were read from may be gone.
        return
    found = session.selection.known_labels(plugin)
    known = found["idx"]
    if (config.run_path / "queries").is_dir():
        # Under way: what is asked already counts, and the run says itself when no sample is left.
        return
    askable = queryable_mask(session.dataset, session.oracle)
    left = int(np.delete(askable, np.concatenate([known, found["skipped"]])).sum())
    wanted, audit = active.cycles * active.budget, 0 if len(found["audit"]) else active.audit
    if audit and audit + wanted > left:
        counts = f"{audit} for the audit + {active.cycles} cycles of {active.budget} = {audit + wanted} labels"
        brought = f"but beside the {len(known)} that '{plugin.name}' brings only {left} samples can be queried"
        raise UsageError(f"{config.source}: active.audit: {counts}, {brought}")
    if wanted > left:
        simulated = ", and `oracle: dataset` knows no other labels" if session.oracle.simulated else ""
        raise UsageError(
            f"{config.source}: active.budget: {active.cycles} cycles of {active.budget} = {wanted} labels, but beside the {len(known)} "
            f"that '{plugin.name}' brings only {left} samples can be queried{simulated}; at most {left // active.cycles} per cycle"
        )
