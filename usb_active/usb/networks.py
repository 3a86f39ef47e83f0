"""Networks: a small one for tiny images, which USB lacks, and USB's own with their limits checked."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from usb_active.config.usb_keys import show
from usb_active.errors import UsageError, nearest
from usb_active.storage.paths import is_url

# USB's networks for images. None: any size.
EXPECTED_SIZE: dict[str, int | None] = {
    "resnet50": None,
    "vit_base_patch16_224": 224,
    "vit_base_patch16_96": 96,
    "vit_small_patch16_224": 224,
    "vit_small_patch2_32": 32,
    "vit_tiny_patch2_32": 32,
    "wrn_28_2": None,
    "wrn_28_8": None,
    "wrn_var_37_2": None,
}
USB_NETWORKS = tuple(EXPECTED_SIZE)


class _Block(nn.Module):
    """3x3 convolution, batch norm, leaky ReLU of slope 0.1 (as in USB's wide ResNets)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        # Torch's own momentum: USB's 0.001 needs thousands of steps before the running statistics mean anything.
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class SmallCNN(nn.Module):
    """Three convolutions (width, 2·width and 4·width channels), halving the image between them; global average pooling."""

    def __init__(self, num_classes: int, in_channels: int, width: int):
        super().__init__()
        self.in_channels, self.num_features = in_channels, 4 * width
        self.stem = _Block(in_channels, width)
        self.blocks = nn.Sequential(_Block(width, 2 * width), _Block(2 * width, 4 * width))
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")
        nn.init.xavier_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, S, S) to (B, num_features, S // 4, S // 4)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(self.pool(x))
        return x

    def forward(self, x: torch.Tensor, only_fc: bool = False, only_feat: bool = False) -> Any:
        """{"logits": (B, C), "feat": (B, D)}; logits of features (`only_fc`); or features alone (`only_feat`)."""
        if only_fc:
            return self.classifier(x)
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < 4:
            raise UsageError(f"small_cnn: a batch of shape {tuple(x.shape)}; it must be (B, {self.in_channels}, H, W), H and W at least 4")
        feat = self.extract(x).mean(dim=(2, 3))
        if only_feat:
            return feat
        return {"logits": self.classifier(feat), "feat": feat}

    def group_matcher(self, coarse: bool = False, prefix: str = "") -> dict[str, str]:
        """Patterns of USB's layer-wise learning rates."""
        return {"stem": rf"^{prefix}stem", "blocks": rf"^{prefix}blocks\.(\d+)"}

    def no_weight_decay(self) -> list[str]:
        """Parameters that USB's optimizers exempt from weight decay."""
        return [name for name, _ in self.named_parameters() if "bn" in name or "bias" in name]


def small_cnn(num_classes: int, img_size: int = 8, in_channels: int = 1, width: int = 32) -> SmallCNN:
    """A network for images of 8 to 32 pixels that trains in seconds on a CPU.

    Args:
        num_classes: C.
        img_size: side of the images, at least 4.
        in_channels: of the images.
        width: channels of the first convolution; the features have D = 4 · width.

    Raises:
        UsageError: an argument out of its range.
    """
    for name, value, least in (
        ("num_classes", num_classes, 1),
        ("img_size", img_size, 4),
        ("in_channels", in_channels, 1),
        ("width", width, 1),
    ):
        if int(value) != value or value < least:
            raise UsageError(f"net 'small_cnn': {name}: {value!r}; it must be an integer of at least {least}")
    return SmallCNN(num_classes, in_channels, width)


def usb_network(name: str) -> Callable[..., nn.Module]:
    """The builder of USB's network `name`: (num_classes, img_size, in_channels, pretrained=False, pretrained_path="").

    Raises:
        UsageError: USB has no such network for images; at building, an image size or a number of channels that the network
            does not take, or pretrained weights that cannot be loaded.
    """
    if name not in EXPECTED_SIZE:
        raise UsageError(f"net: USB has no network '{name}' for images{nearest(name, USB_NETWORKS)}")

    def build(
        num_classes: int, img_size: int, in_channels: int, pretrained: bool = False, pretrained_path: str | Path | None = ""
    ) -> nn.Module:
        _check_images(name, img_size, in_channels)
        if pretrained:
            _check_pretrained(name, pretrained_path)
        import semilearn.nets

        model = getattr(semilearn.nets, name)(num_classes=num_classes)
        if pretrained:
            _load_pretrained(name, model, pretrained_path)
        if name == "resnet50":
            # Its forward(only_fc=True) asks for `fc`. Put beside the registered modules, so that the state dict keeps its keys.
            vars(model)["fc"] = model.classifier
        return model

    return build


def _check_images(name: str, img_size: int, in_channels: int) -> None:
    if in_channels != 3:
        raise UsageError(f"net '{name}': the images have {in_channels} channel(s); USB's networks take 3 (RGB)")
    expected = EXPECTED_SIZE[name]
    if expected is not None and img_size != expected:
        raise UsageError(f"net '{name}': img_size: {img_size}; this network takes {expected}")


def _check_pretrained(name: str, path: str | Path | None) -> None:
    if name == "resnet50":
        raise UsageError("net 'resnet50': use_pretrain: True; USB's resnet50 takes no pretrained weights and would ignore them")
    if not path or is_url(str(path)) or not Path(path).is_file():
        valid = "with use_pretrain it must be a file (nothing is downloaded)"
        raise UsageError(f"net '{name}': pretrain_path: {show(str(path or ''))}; {valid}")


def _load_pretrained(name: str, model: nn.Module, path: str | Path) -> None:
    """USB's own loading, which ignores whatever does not fit; here a file that fits nowhere is an error."""
    from semilearn.nets.utils import load_checkpoint

    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        load_checkpoint(model, str(path))
    except (KeyError, TypeError, RuntimeError, OSError, pickle.UnpicklingError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UsageError(
            f"net '{name}': pretrain_path: {path} cannot be loaded ({reason}); it must hold {{'model': state dict}}"
        ) from error
    if all(torch.equal(value, before[key]) for key, value in model.state_dict().items()):
        raise UsageError(f"net '{name}': pretrain_path: {path} holds no weights of this network; they have other names")
