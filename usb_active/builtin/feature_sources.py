"""Features that come with the core: the task model's, pretraining's, pixels, a file, a timm network on disk."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from usb_active.contracts.features import Features, Kept
from usb_active.contracts.plugin import PluginConfig
from usb_active.errors import UsageError, name_some, nearest
from usb_active.pool.view import PoolView, check_finite_rows
from usb_active.storage.artifacts import load_array
from usb_active.storage.checkpoint import read_weights

if TYPE_CHECKING:
    import torch


class ModelFeatures(Features):
    """This cycle's task model: the input of its classifier, EMA weights, eval view."""

    follows_model = True

    def get(self, view: PoolView) -> np.ndarray:
        return view.model_outputs["features"] if "features" in view.model_outputs else view.model_pass(["features"])["features"]


class PretrainFeatures(Features):
    """What the pretrainer left: its features, else those of the pretrained backbone."""

    from_pretraining = True

    def get(self, view: PoolView) -> np.ndarray:
        features = view.pretrained_features
        if features is None:
            raise UsageError("features: pretrain: the pretrainer left neither features of this pool nor a backbone")
        return features


class PixelFeatures(Features):
    """The eval view itself, flattened; for tiny images."""

    def get(self, view: PoolView) -> np.ndarray:
        return view.artifact(f"pixels_{len(view)}", lambda: _pixels(view))


def _pixels(view: PoolView) -> np.ndarray:
    features, start = None, 0
    for batch in view.loader(np.arange(len(view))):
        values = batch["x"][0].flatten(1).numpy()
        if features is None:
            features = np.empty((len(view), values.shape[1]), dtype=np.float32)
        features[start : start + len(values)] = values
        start += len(values)
    return features


class FileFeatures(Features):
    """An array (N, D) on disk, in dataset order."""

    class Config(PluginConfig):
        path: Path

    def check(self, num_samples: int, num_classes: int) -> None:
        self._read(num_samples)

    def kept(self, run_path: Path, num_samples: int) -> Kept:
        return Kept(self.config.path, f"features in {self.config.path.name}")

    def get(self, view: PoolView) -> np.ndarray:
        features = self._read(len(view))
        return features if features.dtype == np.float32 else features.astype(np.float32)

    def _read(self, num_samples: int) -> np.ndarray:
        features = load_array(self.config.path)
        if features.ndim != 2 or len(features) != num_samples:
            raise UsageError(f"features: file: {self.config.path}: expected ({num_samples}, D), got {features.shape}")
        if not np.issubdtype(features.dtype, np.floating):
            raise UsageError(f"features: file: {self.config.path}: expected floating point, got {features.dtype}")
        return features


class TimmFeatures(Features):
    """A timm network with weights already on disk, run over the eval views."""

    class Config(PluginConfig):
        model: str
        path: Path
        batch_size: int = Field(128, ge=1)

    def kept(self, run_path: Path, num_samples: int) -> Kept:
        return Kept(run_path / "artifacts" / f"{self._key(num_samples)}.npy", f"features of {self.config.model}")

    def get(self, view: PoolView) -> np.ndarray:
        return view.artifact(self._key(len(view)), lambda: self._run(view))

    def _key(self, num_samples: int) -> str:
        """A run may use several: a file of weights is told from another by its path."""
        path = zlib.crc32(str(self.config.path).encode())
        return f"timm_{self.config.model}_{path:08x}_{num_samples}".replace("/", "_")

    def _run(self, view: PoolView) -> np.ndarray:
        import torch

        net = self._network(view).to(view.device).eval()
        rows = []
        for batch in view.loader(np.arange(len(view)), batch_size=self.config.batch_size):
            with torch.no_grad():
                rows.append(net(batch["x"][0].to(view.device)).float().cpu().numpy())
        features = np.concatenate(rows)
        # Before they are kept: mended weights must not meet what damaged ones left.
        check_finite_rows(f"features: timm: '{self.config.model}'", features)
        return features

    def _network(self, view: PoolView) -> torch.nn.Module:
        import timm

        name = self.config.model
        if not timm.is_model(name):
            raise UsageError(f"features: timm: unknown model '{name}'{nearest(name, timm.list_models())}")
        known = timm.get_pretrained_cfg(name)
        options = {"img_size": view.dataset.img_size} if known is not None and known.fixed_input_size else {}
        net = timm.create_model(name, pretrained=False, num_classes=0, in_chans=view.dataset.in_channels, **options)
        given, own = read_weights(self.config.path, "features: timm"), net.state_dict()
        for what, names in (
            ("lacks", [key for key in own if key not in given]),
            ("has another shape of", [key for key in own if key in given and own[key].shape != given[key].shape]),
        ):
            if names:
                fits = f"model '{name}', {view.dataset.in_channels} channel(s), images of {view.dataset.img_size}"
                raise UsageError(f"features: timm: {self.config.path} {what} {name_some(names)}; it must fit {fits}")
        # Weights beyond the network's, such as a classifier's, are not wanted here.
        net.load_state_dict({key: given[key] for key in own})
        return net
