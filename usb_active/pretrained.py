"""Pretraining made once a run and kept; networks as every cycle starts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from usb_active.artifacts import load_array, save_artifact
from usb_active.checkpoint import read_checkpoint, write_checkpoint
from usb_active.errors import UsageError, name_some
from usb_active.pretraining import Pretrained, Pretrainer
from usb_active.randomness import generator, seeded_globals
from usb_active.run_dir import make_folder

if TYPE_CHECKING:
    from usb_active.datasets import Dataset
    from usb_active.view import ViewSource


def run_once(
    pretrainer: Pretrainer, build_net: Callable[[], torch.nn.Module], dataset: Dataset, folder: Path, seed: int, device: torch.device
) -> Pretrained:
    """The result of a pretrainer: from `folder`, or made now and kept there."""
    kept = folder / "pretrained.pth"
    if not kept.exists():
        scratch = folder / "scratch"
        make_folder(scratch)
        with seeded_globals(seed, "pretrain"):
            made = pretrainer.run(build_net, dataset, scratch, generator(seed, "pretrain"), device)
        if made.features is not None:
            save_artifact(folder / "features", np.asarray(made.features, dtype=np.float32))
        backbone = None if made.backbone is None else {name: value.cpu() for name, value in made.backbone.items()}
        write_checkpoint(kept, {"backbone": backbone, "modules": {name: dict(state) for name, state in made.modules.items()}})
    found, features = read_checkpoint(kept), folder / "features.npy"
    return Pretrained(found["backbone"], found["modules"], load_array(features) if features.exists() else None)


def build_seeded(network: Any, dataset: Dataset, pretrained_path: str | None, seed: int) -> torch.nn.Module:
    """The network with its initial weights, which depend on the seed alone."""
    with seeded_globals(seed, "weights"):
        return network.build(dataset.num_classes, dataset.img_size, dataset.in_channels, pretrained_path)


def classifier_keys(build: Callable[[int], torch.nn.Module], num_classes: int) -> set[str]:
    """State-dict keys of the classifier: those whose shape depends on the number of classes, and their modules' other keys."""
    states = [build(classes).state_dict() for classes in (num_classes, num_classes + 1)]
    modules = {name.rpartition(".")[0] for name, value in states[0].items() if value.shape != states[1][name].shape}
    return {name for name in states[0] if name.rpartition(".")[0] in modules}


def load_backbone(net: torch.nn.Module, backbone: Mapping[str, torch.Tensor], classifier: set[str]) -> None:
    """Put pretrained weights into a network, all but its classifier.

    Raises:
        UsageError: weights that are missing, too many, or of another shape; names them.
    """
    own = {name: value for name, value in net.state_dict().items() if name not in classifier}
    given = {name: value for name, value in backbone.items() if name not in classifier}
    problems = [("lacks", set(own) - set(given)), ("has, and the network not,", set(given) - set(own))]
    problems.append(("has another shape of", {name for name in set(own) & set(given) if own[name].shape != given[name].shape}))
    for what, names in problems:
        if names:
            raise UsageError(f"pretrain: the backbone {what} {name_some(sorted(names))}; it must fit the network `net`")
    net.load_state_dict(given, strict=False)


def backbone_features(net: torch.nn.Module, source: ViewSource) -> np.ndarray:
    """(N, D) features of a pretrained network on the eval views of the whole pool."""
    from usb_active.inference import PoolRows, collect, predict

    size = len(source.dataset)
    rows = PoolRows(source.dataset, np.arange(size), "eval", 1, source.seed, ("pretrain",))
    stream = predict(net.to(source.device), rows, ["features"], source.batch_size, source.num_workers, source.device)
    return collect(stream, size, lambda name, shape: np.empty(shape, dtype=np.float32))["features"]
