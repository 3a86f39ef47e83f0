"""Features that come with the core: the task model's, pretraining's, pixels, a file, a timm network on disk."""

from __future__ import annotations

import glob
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from usb_active.contracts.features import Encoder, Features, ImageKind, Kept
from usb_active.contracts.plugin import PluginConfig, later_key
from usb_active.errors import UsageError, name_some, nearest
from usb_active.numerics.arrays import nonfinite_rows
from usb_active.pool.view import PoolView
from usb_active.randomness import global_generators_kept
from usb_active.storage.artifacts import load_array
from usb_active.storage.checkpoint import read_weights

if TYPE_CHECKING:
    import torch

    from usb_active.contracts.dataset import Dataset


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

    def width(self, images: ImageKind) -> int:
        return images.in_channels * images.img_size**2

    def test(self, view: PoolView) -> np.ndarray:
        test, features = view.dataset.test, np.empty((len(view.dataset.test), self.width(view.dataset)), dtype=np.float32)
        for row in range(len(test)):
            features[row] = view.dataset.views.eval(test.load(row)).flatten()
        return features

    def encoder(self, images: ImageKind, device: torch.device) -> Encoder:
        return Encoder(images.views.eval, lambda batch: batch.flatten(1), 256)


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
    """An array (N, D) on disk, in dataset order; for training on it, `test_path` has the (T, D) of the test samples, in theirs."""

    class Config(PluginConfig):
        path: Path
        test_path: Path | None = later_key(None)

    def check(self, num_samples: int, num_classes: int) -> None:
        self._read(self.config.path, num_samples)

    def kept(self, run_path: Path, num_samples: int) -> Kept:
        return Kept(self.config.path, f"features in {self.config.path.name}")

    def kept_test(self, run_path: Path) -> Path | None:
        return self.config.test_path

    def get(self, view: PoolView) -> np.ndarray:
        return self._read(self.config.path, len(view))

    def width(self, images: ImageKind) -> int:
        return self._read(self.config.path).shape[1]

    def check_training(self, images: Dataset) -> None:
        if images.test is not None:
            self._read_test(images)

    def test(self, view: PoolView) -> np.ndarray:
        return self._read_test(view.dataset)

    def _read_test(self, images: Dataset) -> np.ndarray:
        path, width = self.config.test_path, self.width(images)
        if path is None:
            raise UsageError(f"features: file: test_path: missing; features ({len(images.test)}, {width}) of the test samples")
        features = self._read(path, len(images.test))
        if features.shape[1] != width:
            expected = f"({len(images.test)}, {width}) as in {self.config.path}"
            raise UsageError(f"features: file: {path}: expected {expected}, got {features.shape}")
        bad = nonfinite_rows(features)
        if len(bad):
            raise UsageError(f"features: file: {path}: not finite for test samples {name_some(bad)}")
        return features

    def _read(self, path: Path, num_samples: int | None = None) -> np.ndarray:
        features = load_array(path)
        if features.ndim != 2 or not features.size or num_samples not in (None, len(features)):
            raise UsageError(f"features: file: {path}: expected ({'N' if num_samples is None else num_samples}, D), got {features.shape}")
        if not np.issubdtype(features.dtype, np.floating):
            raise UsageError(f"features: file: {path}: expected floating point, got {features.dtype}")
        return features if features.dtype == np.float32 else features.astype(np.float32)


class EncoderFeatures(Features):
    """What a network that does not change makes of an image, computed once per run and image, and kept with the run.

    A subclass defines `encoder`, `width`, and `stem`, `title`, `identity` and `who` below.
    """

    @property
    def stem(self) -> str:
        """What sets these features apart from others of the run, in names of files."""
        raise NotImplementedError(f"{type(self).__name__}.stem")

    @property
    def title(self) -> str:
        """What a report calls them."""
        raise NotImplementedError(f"{type(self).__name__}.title")

    @property
    def identity(self) -> str | None:
        """A text that is another one where the network is another one; None where its weights are gone."""
        raise NotImplementedError(f"{type(self).__name__}.identity")

    @property
    def who(self) -> str:
        """What messages call them."""
        return f"features: {self.name}"

    def kept(self, run_path: Path, num_samples: int) -> Kept:
        return Kept(run_path / "artifacts" / f"{self.stem}_{num_samples}.npy", self.title)

    def kept_test(self, run_path: Path) -> Path | None:
        # One: an array of other test samples is removed when this one is made.
        return next((run_path / "artifacts").glob(f"{glob.escape(self.stem)}_test_*.npy"), None)

    def get(self, view: PoolView) -> np.ndarray:
        images = view.dataset
        return self._keep(view, images.load, images.keys, images.path, self.stem, self.who)

    def test(self, view: PoolView) -> np.ndarray:
        test = view.dataset.test
        keys = list(map(str, range(len(test)))) if test.keys is None else test.keys
        return self._keep(view, test.load, keys, test.path or (lambda row: None), f"{self.stem}_test", f"{self.who}: test samples")

    def _keep(
        self, view: PoolView, load: Callable[[int], Any], keys: Sequence[str], path: Callable[[int], Path | None], stem: str, what: str
    ) -> np.ndarray:
        from usb_active.pool.encoding import Encoding, image_stamps

        make = lambda: self.encoder(view.dataset, view.device)  # noqa: E731 — a network takes time: only where something is left to do
        stamps, width = image_stamps(keys, path), self.width(view.dataset)
        return Encoding(make, self.identity, load, stamps, width, what, view.device, view.num_workers).keep(view.artifacts, stem)


class TimmFeatures(EncoderFeatures):
    """A timm network with weights already on disk, run over the eval views."""

    class Config(PluginConfig):
        model: str
        path: Path
        batch_size: int = Field(128, ge=1)

    _width: int | None = None

    @property
    def stem(self) -> str:
        """A run may use several: a file of weights is told from another by its path."""
        path = zlib.crc32(str(self.config.path).encode())
        return f"timm_{self.config.model}_{path:08x}".replace("/", "_")

    @property
    def title(self) -> str:
        return f"features of {self.config.model}"

    @property
    def identity(self) -> str | None:
        if not self.config.path.is_file():
            return None
        state = self.config.path.stat()
        return f"{self.config.model} {state.st_size} {state.st_mtime_ns}"

    @property
    def who(self) -> str:
        return f"features: timm: '{self.config.model}'"

    def width(self, images: ImageKind) -> int:
        if self._width is None:
            with global_generators_kept():
                self._width = self._new(images).num_features
        return self._width

    def encoder(self, images: ImageKind, device: torch.device) -> Encoder:
        net = self._network(images).to(device).eval()
        return Encoder(images.views.eval, lambda batch: net(batch), self.config.batch_size)

    def _new(self, images: ImageKind) -> torch.nn.Module:
        import timm

        name = self.config.model
        if not timm.is_model(name):
            raise UsageError(f"features: timm: unknown model '{name}'{nearest(name, timm.list_models())}")
        known = timm.get_pretrained_cfg(name)
        options = {"img_size": images.img_size} if known is not None and known.fixed_input_size else {}
        return timm.create_model(name, pretrained=False, num_classes=0, in_chans=images.in_channels, **options)

    def _network(self, images: ImageKind) -> torch.nn.Module:
        net = self._new(images)
        given, own = read_weights(self.config.path, "features: timm"), net.state_dict()
        for what, names in (
            ("lacks", [key for key in own if key not in given]),
            ("has another shape of", [key for key in own if key in given and own[key].shape != given[key].shape]),
        ):
            if names:
                fits = f"model '{self.config.model}', {images.in_channels} channel(s), images of {images.img_size}"
                raise UsageError(f"features: timm: {self.config.path} {what} {name_some(names)}; it must fit {fits}")
        # Weights beyond the network's, such as a classifier's, are not wanted here.
        net.load_state_dict({key: given[key] for key in own})
        return net
