"""The network as every cycle starts it: its initial weights, and what pretraining left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.contracts.pretrainer import Pretrained, Pretrainer
from usb_active.loop.pretrained import backbone_features, build_seeded, classifier_keys, load_backbone, run_once
from usb_active.storage.artifacts import load_artifact, save_artifact

if TYPE_CHECKING:
    import torch

    from usb_active.contracts.dataset import Dataset
    from usb_active.contracts.network import Network
    from usb_active.pool.view import ViewSource


class InitialWeights:
    """Builds the run's network, the same one every time; pretrains it once, where there is a pretrainer."""

    def __init__(self, network: Network, pretrainer: Pretrainer | None, dataset: Dataset, usb: dict[str, Any], folder: Path):
        self._network, self._pretrainer, self._dataset = network, pretrainer, dataset
        self._seed: int = usb["seed"]
        self._path: str | None = usb["pretrain_path"] if usb["use_pretrain"] else None
        self._folder = folder
        self._made: Pretrained | None = None

    def pretrain(self, device: torch.device, run_id: str | None = None) -> None:
        """Run the pretrainer, or take what it made earlier for the run of this number."""
        if self._pretrainer is not None:
            self._made = run_once(
                self._pretrainer, self._fresh, self._classifier_keys, self._dataset, self._folder, self._seed, device, run_id
            )

    def build(self) -> torch.nn.Module:
        """A network with its initial weights."""
        net = self._fresh()
        if self._made is not None and self._made.backbone is not None:
            load_backbone(net, self._made.backbone, self._classifier_keys())
        return net

    def _fresh(self) -> torch.nn.Module:
        return build_seeded(self._network, self._dataset, self._path, self._seed)

    def _classifier_keys(self) -> tuple[str, ...]:
        return classifier_keys(lambda classes: self._network.build(classes, self._dataset.img_size, self._dataset.in_channels))

    def modules(self) -> dict[str, Any]:
        """Further modules' states that the pretrainer left."""
        return {} if self._made is None else dict(self._made.modules)

    def features(self, source: ViewSource) -> np.ndarray | None:
        """(N, D) that the pretrainer made; the backbone's, where it made none or the pool has grown since; or None."""
        if self._made is None:
            return None
        if self._made.features is not None and len(self._made.features) == len(self._dataset):
            return self._made.features
        if self._made.backbone is None:
            return None
        path = self._folder / f"backbone_features_{len(self._dataset)}"
        if load_artifact(path) is None:
            save_artifact(path, backbone_features(self.build(), source))
        return load_artifact(path)
