"""SimSiam's random view of an image, without the blur, as for CIFAR."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from usb_active import Dataset, UsageError


class SimSiamView:
    """Crop and resize, mirror, colour jitter, grey (Chen and He 2021, appendices A and D): from an undecorated sample to a tensor.

    A crop of `crop` to all of the area, of ratio 3/4 to 4/3; mirrored half of the time; brightness, contrast, saturation and hue
    by up to 0.4, 0.4, 0.4, 0.1 with probability 0.8; grey with probability 0.2. Then the data set's own evaluation view, which
    leaves an image of this size as it is and normalises it.

    Ours: an image of one channel has no saturation, hue or grey; a data set whose direction has a meaning (`flip: False`, as
    digits; or that does not say) is not mirrored unless `flip` says so.
    """

    def __init__(self, dataset: Dataset, crop: float, flip: bool | None = None):
        flip = getattr(dataset, "flip", False) if flip is None else flip
        colour = dataset.in_channels == 3
        jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1) if colour else transforms.ColorJitter(0.4, 0.4)
        steps = [transforms.RandomResizedCrop(dataset.img_size, scale=(crop, 1.0))]
        steps += [transforms.RandomHorizontalFlip()] if flip else []
        steps += [transforms.RandomApply([jitter], p=0.8)]
        steps += [transforms.RandomGrayscale(p=0.2)] if colour else []
        self._random = transforms.Compose(steps)
        self._mode = "RGB" if colour else "L"
        self._name, self._normalised = dataset.name, dataset.views.eval

    def __call__(self, sample: Any) -> torch.Tensor:
        return self._normalised(self._random(self._image(sample).convert(self._mode)))

    def _image(self, sample: Any) -> Image.Image:
        if isinstance(sample, Image.Image):
            return sample
        image = np.asarray(sample)
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[:, :, 0]
        if image.dtype != np.uint8 or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
            raise UsageError(
                f"pretrain: 'simsiam': dataset '{self._name}': a sample is {image.dtype} with shape {image.shape}; it must be a PIL "
                "image, or uint8 with shape (H, W), (H, W, 1) or (H, W, 3)"
            )
        return Image.fromarray(image)
