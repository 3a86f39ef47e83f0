"""Features that come with the core: the task model's, pretraining's, pixels, a file, a timm network on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from usb_active.artifacts import load_array
from usb_active.errors import UsageError
from usb_active.features import Features
from usb_active.plugin import PluginConfig
from usb_active.view import PoolView


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

    def get(self, view: PoolView) -> np.ndarray:
        features = load_array(self.config.path)
        if features.ndim != 2 or len(features) != len(view):
            raise UsageError(f"features: file: {self.config.path}: expected ({len(view)}, D), got {features.shape}")
        if not np.issubdtype(features.dtype, np.floating):
            raise UsageError(f"features: file: {self.config.path}: expected floating point, got {features.dtype}")
        return features if features.dtype == np.float32 else features.astype(np.float32)


class TimmFeatures(Features):
    """A timm network with weights already on disk, run over the eval views."""

    class Config(PluginConfig):
        model: str
        path: Path
        batch_size: int = Field(128, ge=1)

    def get(self, view: PoolView) -> np.ndarray:
        key = f"timm_{self.config.model}_{len(view)}".replace("/", "_")
        return view.artifact(key, lambda: self._run(view))

    def _run(self, view: PoolView) -> np.ndarray:
        import torch

        net = self._network(view).to(view.device).eval()
        rows = []
        for batch in view.loader(np.arange(len(view)), batch_size=self.config.batch_size):
            with torch.no_grad():
                rows.append(net(batch["x"][0].to(view.device)).float().cpu().numpy())
        return np.concatenate(rows)

    def _network(self, view: PoolView):
        import timm
        import torch

        options = {"img_size": view.dataset.img_size} if "vit" in self.config.model else {}
        try:
            net = timm.create_model(
                self.config.model, pretrained=False, num_classes=0, in_chans=view.dataset.in_channels, **options
            )  # fmt: skip
        except RuntimeError as error:
            raise UsageError(f"features: timm: model '{self.config.model}': {error}") from None
        net.load_state_dict(_backbone_weights(self.config.path, torch, set(net.state_dict())), strict=True)
        return net


def _backbone_weights(path: Path, torch, wanted: set[str]) -> dict:
    if not path.is_file():
        raise UsageError(f"features: timm: {path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state.get("model", state))
    missing = wanted - set(state)
    if missing:
        raise UsageError(f"features: timm: {path}: lacks {len(missing)} weights of the network, e.g. '{sorted(missing)[0]}'")
    return {key: value for key, value in state.items() if key in wanted}
