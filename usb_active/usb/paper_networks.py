"""Networks of papers on active learning that USB lacks, with USB's calling convention: ResNet-18, ViT-S, the 13-layer network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from usb_active.errors import UsageError


class FeatureNet(nn.Module):
    """A body that gives (B, D) features, and a linear classifier on them.

    Args:
        body: images (B, channels, H, W) → (B, D).
        num_features: D.
        num_classes: C.
        stem: name of the body's first layer, for layer-wise learning rates.
        blocks: pattern of the names of its blocks, with a group that numbers them.
    """

    def __init__(self, body: nn.Module, num_features: int, num_classes: int, stem: str, blocks: str):
        super().__init__()
        self.body, self.num_features = body, num_features
        self.classifier = nn.Linear(num_features, num_classes)
        self._stem, self._blocks = stem, blocks

    def forward(self, x: torch.Tensor, only_fc: bool = False, only_feat: bool = False) -> Any:
        """{"logits": (B, C), "feat": (B, D)}; logits of features (`only_fc`); or features alone (`only_feat`)."""
        if only_fc:
            return self.classifier(x)
        feat = self.body(x)
        return feat if only_feat else {"logits": self.classifier(feat), "feat": feat}

    def group_matcher(self, coarse: bool = False, prefix: str = "") -> dict[str, str]:
        """Patterns of USB's layer-wise learning rates."""
        return {"stem": rf"^{prefix}body\.{self._stem}", "blocks": rf"^{prefix}body\.{self._blocks}"}

    def no_weight_decay(self) -> list[str]:
        """Parameters that USB's optimizers exempt from weight decay: biases and the scales of normalisation layers."""
        return [name for name, value in self.named_parameters() if value.ndim <= 1 or name.endswith(("pos_embed", "cls_token"))]


def resnet18(num_classes: int, in_channels: int, stem: str, embedding: int | None) -> FeatureNet:
    """torchvision's ResNet-18.

    Args:
        stem: "imagenet" is torchvision's own (7x7 convolution of stride 2, max-pooling), as ALFA-Mix and the ASSL paper use
            it even for images of 32 pixels; "cifar" a 3x3 convolution of stride 1 without pooling.
        embedding: size of a linear layer between the pooled 512 features and the classifier, which then are the features
            (ALFA-Mix: 256); None: no such layer, 512 features.
    """
    from torchvision.models import resnet18 as build

    body = build(weights=None)
    if stem == "cifar":
        body.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        body.maxpool = nn.Identity()
    elif in_channels != 3:
        body.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    body.fc = nn.Identity() if embedding is None else nn.Linear(512, embedding)
    return FeatureNet(body, embedding or 512, num_classes, "(?:conv1|bn1)", r"layer(\d+)")


# Halved twice, the image must still hold a 3x3 kernel without padding.
CNN13_SMALLEST = 12


def cnn13(
    num_classes: int, img_size: int, in_channels: int, width: int = 128, dropout: float = 0.5, weight_norm_head: bool = False
) -> FeatureNet:
    """The 13-layer network of Laine and Aila (2017) and Mean Teacher, with features normalised as in label propagation.

    Nine convolutions, each with weight normalisation, batch normalisation and leaky ReLU of slope 0.1: three of 3x3 with
    `width` channels, three with twice as many, and without padding 3x3, 1x1, 1x1 with four, two and one times `width`; max-pooling
    and dropout between the groups. Average pooling, over the whole image instead of a fixed 6x6 so that any size will do;
    features (B, width) of length one (Iscen et al. 2019, Simeoni et al. 2021); a linear classifier.

    Args:
        width: 128 in the papers.
        dropout: probability of zeroing, in the two places.
        weight_norm_head: whether the classifier has weight normalisation too, a length for each class: not in the papers' text, but in the
            public code of Mean Teacher (Tarvainen & Valpola 2017), on which that of the label propagation papers builds.

    Raises:
        UsageError: an image that is too small for the two poolings and the unpadded convolution.
    """
    if img_size < CNN13_SMALLEST:
        least = f"it needs at least {CNN13_SMALLEST}; with `img_size: {CNN13_SMALLEST}` or more smaller images are enlarged"
        raise UsageError(f"net 'cnn13': img_size: {img_size}; {least}")
    body = nn.Sequential(
        _normed_convolution(in_channels, width),
        *(_normed_convolution(width, width) for _ in range(2)),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        _normed_convolution(width, 2 * width),
        *(_normed_convolution(2 * width, 2 * width) for _ in range(2)),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        _normed_convolution(2 * width, 4 * width, padding=0),
        _normed_convolution(4 * width, 2 * width, kernel=1, padding=0),
        _normed_convolution(2 * width, width, kernel=1, padding=0),
        _PooledDirection(),
    )
    net = FeatureNet(body, width, num_classes, r"0\.", r"(\d+)")
    if weight_norm_head:
        weight_norm(net.classifier)
    return net


def _normed_convolution(in_channels: int, out_channels: int, kernel: int = 3, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(
        weight_norm(nn.Conv2d(in_channels, out_channels, kernel, padding=padding)),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.1),
    )


class _PooledDirection(nn.Module):
    """(B, D, H, W) to (B, D): the mean over the image, made of length one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x.mean(dim=(2, 3)), dim=1)


VIT_SMALL_WIDTH = 384


class _LastClassTokens(nn.Module):
    """(B, channels, H, W) to (B, blocks · 384), or (B, embedding) by a linear layer: the class tokens of a transformer, normed."""

    def __init__(self, vit: nn.Module, blocks: int, embedding: int | None):
        super().__init__()
        self.vit, self.last_blocks = vit, blocks
        self.embedding = nn.Identity() if embedding is None else nn.Linear(blocks * VIT_SMALL_WIDTH, embedding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # By position: as an image, with class tokens, normed. Their names differ between versions of timm.
        outputs = self.vit.get_intermediate_layers(x, self.last_blocks, False, True, True)
        return self.embedding(torch.cat([token[:, 0] for _, token in outputs], dim=1))


def vit_small(
    num_classes: int, img_size: int, in_channels: int, patch_size: int | None, last_blocks: int = 1, embedding: int | None = None
) -> FeatureNet:
    """timm's ViT-S (384 features, 12 blocks, 6 heads), for any image size.

    Args:
        patch_size: pixels; None: 16 from 96 pixels on, else an eighth of the side (32 pixels: 4).
        last_blocks: of how many last blocks, 1 to 12, the class tokens are the features, after the transformer's layer normalisation and
            from the earliest block on. One is a ViT as usual; the public code of ALFA-Mix (Parvaneh et al. 2022), and so the ASSL paper,
            has 4. (That code interpolates position embeddings of 224 pixels, and starts the classifier from N(0, 0.01); ours has
            embeddings of the image's own size, and torch's start.)
        embedding: size of a linear layer between those tokens and the classifier, which then are the features (ALFA-Mix: 256); None: no
            such layer.

    Raises:
        UsageError: the patches do not tile the image.
    """
    from timm.models.vision_transformer import VisionTransformer

    patch = patch_size or (16 if img_size >= 96 else max(1, img_size // 8))
    if img_size % patch:
        raise UsageError(f"net 'vit_small': patch_size: {patch} does not divide img_size {img_size}")
    vit = VisionTransformer(
        img_size=img_size, patch_size=patch, in_chans=in_channels, num_classes=0, embed_dim=VIT_SMALL_WIDTH, depth=12, num_heads=6
    )  # fmt: skip
    first, blocks = "(?:cls_token|pos_embed|patch_embed)", r"blocks\.(\d+)"
    if last_blocks == 1 and embedding is None:
        return FeatureNet(vit, VIT_SMALL_WIDTH, num_classes, first, blocks)
    body = _LastClassTokens(vit, last_blocks, embedding)
    return FeatureNet(body, embedding or last_blocks * VIT_SMALL_WIDTH, num_classes, rf"vit\.{first}", rf"vit\.{blocks}")
