"""Small plugins, one for each thing that a method may ask of the core beyond picking: as a user would write them in a file."""

from __future__ import annotations

import numpy as np
import torch
from PIL import ImageOps
from semilearn.algorithms.mixmatch import MixMatch
from semilearn.algorithms.remixmatch import ReMixMatch

from usb_active import Acquisition, PluginConfig, Prior, PriorTable, register_plugin
from usb_active.numerics.ranking import top_k
from usb_active.pool.inference import evaluating
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


# ---------------------------------------------------------------------------------------------- hidden outputs, modules of one's own
LAYERS = ("stem.conv", "blocks.0.conv")


class LossModule(torch.nn.Module):
    """Predicts a sample's loss from pooled outputs of inner layers (after Yoo & Kweon 2019)."""

    def __init__(self, widths):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(width, 8) for width in widths])
        self.last = torch.nn.Linear(8 * len(widths), 1)

    def forward(self, maps):
        pooled = [layer(x.mean(dim=(2, 3)).relu()) for layer, x in zip(self.layers, maps, strict=True)]
        return self.last(torch.cat(pooled, dim=1))[:, 0]


@register_plugin("acquisition", "loss_module")
class PickByLossModule(Acquisition):
    """A module of its own learns the labelled loss from inner layers; picks where it says most, by EMA or live weights."""

    class Config(PluginConfig):
        layers: list[str] = list(LAYERS)
        live: bool = False

    batch_fields = frozenset({"logits_lb", "hidden"})

    def __init__(self, config=None):
        super().__init__(config)
        self.grads = []

    @property
    def hidden_modules(self):
        return tuple(self.config.layers)

    def setup(self, info):
        modules = dict(info.net.named_modules())
        widths = [modules[name].out_channels for name in self.config.layers]
        adam = lambda parameters: torch.optim.Adam(parameters, lr=0.01)  # noqa: E731 — a one-line factory
        self.predictor = info.register_state("predictor", lambda: LossModule(widths), optimizer=adam)

    def extra_loss(self, batch):
        maps = [batch.hidden["x_lb"][name] for name in self.config.layers]
        self.grads.append([x.requires_grad for x in maps])
        target = torch.nn.functional.cross_entropy(batch.logits_lb, batch.y_lb, reduction="none")
        return ((self.predictor(maps) - target.detach()) ** 2).mean()

    def select(self, view, budget):
        module = view.registered("predictor").module

        def predicted_loss(seen):
            return module([seen[name] for name in self.config.layers])

        stream = view.predict([predicted_loss], view.candidates, modules=self.config.layers, live=self.config.live)
        with evaluating(module):
            self.scores = np.concatenate([values["predicted_loss"][0] for _, values in stream])
        self.picked_with = {name: value.clone() for name, value in module.state_dict().items()}
        return top_k(self.scores, view.candidates, budget, view.rng)


@register_plugin("acquisition", "critic")
class Critic(Acquisition):
    """Two updates a step: USB's, then this plugin's own critic on the features that USB's has just changed, by its own optimizer."""

    def setup(self, info):
        self.order = []
        self.critic = info.register_state("critic", lambda: torch.nn.Linear(info.feature_dim, 1))
        # An optimizer is a state like any other; one that is registered so steps only when its plugin says.
        self.optimizer = info.register_state("optimizer", lambda: torch.optim.Adam(self.critic.parameters(), lr=0.05))

    def observe(self, batch):
        self._x, self._before = batch.x_lb, None

    def before_train_step(self, algorithm):
        self._weights = algorithm.model.classifier.weight.detach().clone()

    def after_train_step(self, algorithm):
        self.order.append(not torch.equal(self._weights, algorithm.model.classifier.weight))
        with torch.no_grad(), evaluating(algorithm.model):
            features = algorithm.model(self._x)["feat"]
        self.optimizer.zero_grad()
        (self.critic(features) - features.norm(dim=1, keepdim=True)).square().mean().backward()
        self.optimizer.step()

    def select(self, view, budget):
        critic = view.registered("critic").module
        with torch.no_grad():
            scores = critic(torch.from_numpy(self._features(view)))[:, 0].numpy()
        return top_k(scores[view.candidates], view.candidates, budget, view.rng)

    def _features(self, view):
        return np.concatenate([values["features"][0] for _, values in view.predict(["features"], np.arange(len(view)))])


# ---------------------------------------------------------------------------------------------- what the last model saw
@register_plugin("prior", "recaller")
class Recaller(Prior):
    """Before every training: each sample has the class of the nearest label by the last model's features; none before there was one."""

    needs = frozenset({"previous_features"})

    def __init__(self, config=None):
        super().__init__(config)
        self.seen = []

    def fit(self, view, when):
        features = view.previous_features
        self.seen.append((when, view.cycle, None if features is None else np.array(features)))
        if when != "start" or features is None:
            return None
        table = np.zeros((len(view), view.num_classes), np.float32)
        known = view.labeled < len(features)
        distances = np.linalg.norm(features[:, None] - features[view.labeled[known]], axis=2)
        table[np.arange(len(features)), view.labels[known][distances.argmin(axis=1)]] = 1
        return PriorTable(table)


@register_plugin("acquisition", "recalling_picker")
class RecallingPicker(Acquisition):
    """Asks for what only a prior is given."""

    needs = frozenset({"previous_features"})

    def select(self, view, budget):
        raise NotImplementedError
