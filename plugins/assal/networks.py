"""ASSAL's networks: a convolutional variational autoencoder whose code the classifier shares, and the sampler that sees the code.

Dimension letters: B batch, C classes, d length of the code, S side of an image.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn

from usb_active import Network, PluginConfig, UsageError

# Of an image, and of the maps that the code is made from: it is halved until it is at most the second.
SMALLEST, COARSEST = 8, 4
_TAKEN = f"takes images of {SMALLEST} pixels or more"
# Channels grow with every halving, up to so many widths.
MOST_WIDTHS = 8
# Logarithms of variances stay between the negative of this and this: exp does not overflow.
MOST_LOG_VAR = 10.0
ROTATIONS = 4


def _block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """3×3 convolution, group norm, ReLU.

    Group norm in place of the usual batch norm (ours): the sampler would otherwise see which pool a batch came from by its statistics, a
    fresh encoding would move the running ones, and the EMA model takes them from another network than its weights.
    """
    groups = max(number for number in (8, 4, 2, 1) if out_channels % number == 0)
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(groups, out_channels), nn.ReLU(inplace=True))


def sides_of(img_size: int) -> list[int]:
    """The sides of the maps, from the image's on, each half of the one before (rounded up), down to at most `COARSEST`."""
    sides = [img_size]
    while sides[-1] > COARSEST:
        sides.append(-(-sides[-1] // 2))
    return sides


class Encoder(nn.Module):
    """E: an image → μ and log σ² of q(z|x).

    Args:
        img_size: S, at least 8.
        in_channels: of the images.
        latent: d.
        width: channels of the first convolution.
    """

    def __init__(self, img_size: int, in_channels: int, latent: int, width: int):
        super().__init__()
        self.expected = (in_channels, img_size, img_size)
        channels = channels_of(img_size, width)
        blocks = [_block(one, other, stride=2) for one, other in zip(channels[:-1], channels[1:], strict=True)]
        self.maps = nn.Sequential(_block(in_channels, width), *blocks)
        self.code = nn.Linear(channels[-1] * sides_of(img_size)[-1] ** 2, 2 * latent)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, d) and (B, d) of (B, channels, S, S)."""
        if x.shape[1:] != self.expected:
            wanted = ", ".join(map(str, self.expected))
            raise UsageError(f"variational autoencoder: a batch of shape {tuple(x.shape)}; it was built for (B, {wanted})")
        return gaussian_of(self.code(self.maps(x).flatten(1)))


def gaussian_of(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """μ and log σ² (B, d) of what a linear layer gives, (B, 2d); the latter between ∓`MOST_LOG_VAR`."""
    mu, log_var = raw.chunk(2, dim=1)
    return mu, MOST_LOG_VAR * torch.tanh(log_var / MOST_LOG_VAR)


class Generator(nn.Module):
    """G: a code → the mean of p(x|z), in the normalisation of the images. The encoder backwards, by nearest neighbours and convolutions."""

    def __init__(self, img_size: int, in_channels: int, latent: int, width: int):
        super().__init__()
        self.sides, channels = sides_of(img_size)[::-1], channels_of(img_size, width)[::-1]
        self.first = nn.Linear(latent, channels[0] * self.sides[0] ** 2)
        self.blocks = nn.ModuleList([_block(one, other) for one, other in zip(channels[:-1], channels[1:], strict=True)])
        self.last = nn.Conv2d(width, in_channels, kernel_size=3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, channels, S, S) of (B, d)."""
        maps = self.first(z).relu().unflatten(1, (-1, self.sides[0], self.sides[0]))
        for side, block in zip(self.sides[1:], self.blocks, strict=True):
            maps = block(nn.functional.interpolate(maps, size=(side, side), mode="nearest"))
        return self.last(maps)


def check_side(img_size: int | None) -> None:
    """UsageError where images of this size are too small for the autoencoders here; None is not known yet."""
    if img_size is not None and img_size < SMALLEST:
        raise UsageError(f"its autoencoder {_TAKEN}, not of {img_size}; choose another img_size or acquisition")


def channels_of(img_size: int, width: int) -> list[int]:
    """Channels of the maps of each of `sides_of`."""
    return [min(2**number, MOST_WIDTHS) * width for number in range(len(sides_of(img_size)))]


class Vae(nn.Module):
    """A convolutional variational autoencoder (Kingma & Welling 2013) of images of 8 pixels or more.

    Args:
        img_size: S.
        in_channels: of the images.
        latent: d.
        width: channels at the image's own size; both halves double them with every halving of it.

    Raises:
        UsageError: an argument out of its range.
    """

    def __init__(self, img_size: int, in_channels: int, latent: int = 32, width: int = 32):
        super().__init__()
        given = {"img_size": img_size, "in_channels": in_channels, "latent": latent, "width": width}
        for name, value in given.items():
            least = SMALLEST if name == "img_size" else 1
            if int(value) != value or value < least:
                raise UsageError(f"variational autoencoder: {name}: {value!r}; it must be an integer of at least {least}")
        self.latent = latent
        self.encoder = Encoder(img_size, in_channels, latent, width)
        self.generator = Generator(img_size, in_channels, latent, width)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """μ and log σ² (B, d) of q(z|x)."""
        return self.encoder(x)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The mean (B, channels, S, S) of p(x|z)."""
        return self.generator(z)


class ClassifyingVae(Vae):
    """A VAE whose code goes to a linear classifier (C) and to the four-way head of rotations. In USB's calling convention.

    `forward` classifies μ, the mean of the code, so that its outputs are not random. Training classifies a sampled code.
    """

    def __init__(self, num_classes: int, img_size: int, in_channels: int, latent: int = 32, width: int = 32):
        super().__init__(img_size, in_channels, latent, width)
        self.num_features = latent
        self.classifier = nn.Linear(latent, num_classes)
        self.rotation = nn.Linear(latent, ROTATIONS)

    def forward(self, x: torch.Tensor, only_fc: bool = False, only_feat: bool = False) -> Any:
        """{"logits": (B, C), "feat": (B, d) μ}; logits of codes (`only_fc`); or μ alone (`only_feat`)."""
        if only_fc:
            return self.classifier(x)
        mu, _ = self.encode(x)
        return mu if only_feat else {"logits": self.classifier(mu), "feat": mu}

    def group_matcher(self, coarse: bool = False, prefix: str = "") -> dict[str, str]:
        """Patterns of USB's layer-wise learning rates."""
        return {"stem": rf"^{prefix}encoder\.maps\.0", "blocks": rf"^{prefix}encoder\.maps\.(\d+)"}

    def no_weight_decay(self) -> list[str]:
        """Parameters that USB's optimizers exempt from weight decay."""
        return [name for name, value in self.named_parameters() if value.ndim == 1]


class UnifiedVae(Vae):
    """SRAAL's unified representation: two codes on one encoder's maps, one for the image and one for its class.

    The first is the autoencoder's (SRAAL's unsupervised image reconstructor), the second goes to a linear classifier that learns from
    the labelled samples (its supervised target learner). In SRAAL's code they are the halves of one code, which is the same.
    """

    def __init__(self, num_classes: int, img_size: int, in_channels: int, latent: int = 32, width: int = 32):
        super().__init__(img_size, in_channels, latent, width)
        self.target_code = nn.Linear(self.encoder.code.in_features, 2 * latent)
        self.classifier = nn.Linear(latent, num_classes)

    def encode_both(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """μ and log σ² (B, d) of the image's code, then those of the class's."""
        maps = self.encoder.maps(x).flatten(1)
        return *gaussian_of(self.encoder.code(maps)), *gaussian_of(self.target_code(maps))


class Discriminator(nn.Module):
    """D, the sampler: a perceptron that tells codes of labelled samples from those of unlabelled ones.

    Args:
        inputs: length of what it sees; d for a code.
        width: units of each hidden layer (VAAL's 512).
        layers: how many hidden layers (VAAL's 2; SRAAL has 4).
    """

    def __init__(self, inputs: int, width: int = 512, layers: int = 2):
        super().__init__()
        sizes = [inputs, *[width] * layers]
        hidden = [part for one, other in zip(sizes[:-1], sizes[1:], strict=True) for part in (nn.Linear(one, other), nn.ReLU(inplace=True))]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """(B,) logits of P(labelled) of (B, inputs)."""
        return self.layers(code)[:, 0]


class AssalVae(Network):
    """A variational autoencoder for images of 8 pixels or more, with a classifier on its code; `features` are the code's mean.

    `latent`: d, the length of the code. `width`: channels at the image's own size; each halving of it doubles them, up to eight widths.
    """

    class Config(PluginConfig):
        latent: int = Field(32, ge=1, le=65536)
        width: int = Field(32, ge=1, le=4096)

    def build(self, num_classes: int, img_size: int, in_channels: int, pretrained_path: str | None = None) -> torch.nn.Module:
        if pretrained_path:
            raise UsageError(f"net '{self.name}': use_pretrain is for USB's own networks; use `pretrain: {{name: file, path: …}}`")
        if img_size < SMALLEST:
            raise UsageError(f"net '{self.name}': {_TAKEN}, not of {img_size}; choose another img_size or net")
        return ClassifyingVae(num_classes, img_size, in_channels, self.config.latent, self.config.width)
