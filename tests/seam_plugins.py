"""Small plugins, one for each thing that a method may ask of the core beyond picking: as a user would write them in a file."""

from __future__ import annotations

import torch
from PIL import ImageOps
from semilearn.algorithms.mixmatch import MixMatch
from semilearn.algorithms.remixmatch import ReMixMatch

from usb_active import register_plugin
from usb_active.usb.bases import AlgorithmBase


# ---------------------------------------------------------------------------------------------- unlabelled views
def mirrored(image):
    """(1, 8, 8): a view of one's own."""
    return torch.tensor(list(ImageOps.mirror(image).getdata()), dtype=torch.float32).reshape(1, *image.size[::-1])


@register_plugin("algorithm", "three_views")
class ThreeViews(AlgorithmBase):
    """Supervised, and keeps the views of unlabelled samples that it gets: the plain one, the weak one and one of its own."""

    unlabeled_views = {"x_ulb_e": "eval", "x_ulb_w": "weak", "x_ulb_m": mirrored}

    def train_step(self, x_lb, y_lb, idx_ulb, x_ulb_e, x_ulb_w, x_ulb_m):
        self.__dict__.setdefault("seen", []).append((idx_ulb, x_ulb_e, x_ulb_w, x_ulb_m))
        loss = self.ce_loss(self.model(x_lb)["logits"], y_lb, reduction="mean")
        return self.process_out_dict(loss=loss), self.process_log_dict(loss=loss.item())


@register_plugin("algorithm", "no_views")
class NoViews(AlgorithmBase):
    """Supervised; loads no unlabelled image."""

    unlabeled_views: dict[str, str] = {}

    def train_step(self, x_lb, y_lb):
        loss = self.ce_loss(self.model(x_lb)["logits"], y_lb, reduction="mean")
        return self.process_out_dict(loss=loss), self.process_log_dict(loss=loss.item())


@register_plugin("algorithm", "my_mixmatch")
class MyMixMatch(MixMatch):
    """USB's under a name of its own, with the second weak view that USB gives by the name alone."""

    unlabeled_views = "mixmatch"


@register_plugin("algorithm", "my_remixmatch")
class MyRemixMatch(ReMixMatch):
    """The same, with its four views and the number of a rotation."""

    unlabeled_views = "remixmatch"


@register_plugin("algorithm", "wants_more")
class WantsMore(NoViews):
    """Its step takes a view that it does not declare."""

    unlabeled_views = {"x_ulb_w": "weak"}

    def train_step(self, x_lb, y_lb, x_ulb_w, x_ulb_s):
        raise NotImplementedError


@register_plugin("algorithm", "unknown_view")
class UnknownView(NoViews):
    """Names a view that no data set has."""

    unlabeled_views = {"x_ulb_w": "weka"}
