"""The suite of a network: USB's calling convention, in which everything else is written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from usb_active.contracts.network import Network
from usb_active.loop.initial_weights import classifier_keys
from usb_active.randomness import seeded_globals
from usb_active.storage.checkpoint import read_checkpoint, write_checkpoint
from usb_active.testing.contract import Contract, generators_untouched


class NetworkContract(Contract):
    """What the core and USB's trainers rely on in any network.

    Attributes for a network to set: img_size, in_channels, num_classes of the images that it is tried on; only_head where there is
    nothing below its classifier.
    """

    kind = "network"
    img_size: ClassVar[int] = 32
    in_channels: ClassVar[int] = 3
    num_classes: ClassVar[int] = 4
    only_head: ClassVar[bool] = False

    # ------------------------------------------------------------------------------------------ helpers
    def plugin(self) -> Network:
        """An instance."""
        return self.make(self.config)

    def build(self, seed: int = 0, num_classes: int | None = None) -> torch.nn.Module:
        """A fresh network, as a run makes it: under a seed."""
        with seeded_globals(seed, "net"):
            return self.plugin().build(num_classes or self.num_classes, self.img_size, self.in_channels)

    def head(self) -> tuple[str, ...]:
        """The names of the classifier's weights."""
        return classifier_keys(lambda number: self.build(num_classes=number))

    def images(self, count: int = 3) -> torch.Tensor:
        """(B, channels, height, width), always the same."""
        return torch.randn(count, self.in_channels, self.img_size, self.img_size, generator=torch.Generator().manual_seed(0))

    def outputs(self, net: torch.nn.Module, x: torch.Tensor | None = None, **options: Any) -> Any:
        """What it gives in eval mode."""
        with torch.no_grad():
            return net.eval()(self.images() if x is None else x, **options)

    # ------------------------------------------------------------------------------------------ USB's calling convention
    def test_it_is_registered(self) -> None:
        """A run finds it by its name alone."""
        assert isinstance(self.plugin(), self.registered()) and self.plugin().name == self.shown_name

    def test_it_gives_logits_and_features(self) -> None:
        """USB's trainers take `logits` for the loss, methods take `feat`; both have a row for each image."""
        out = self.outputs(self.build())
        assert isinstance(out, dict) and {"logits", "feat"} <= set(out), f"must give a dict with logits and feat, got {type(out).__name__}"
        assert out["logits"].shape == (3, self.num_classes), f"logits: {tuple(out['logits'].shape)}, must be (3, {self.num_classes})"
        assert out["feat"].ndim == 2 and len(out["feat"]) == 3, f"feat: {tuple(out['feat'].shape)}, must be (3, D)"
        assert all(torch.isfinite(out[name]).all() for name in ("logits", "feat")), "outputs that are not finite"

    def test_only_feat_gives_the_features(self) -> None:
        """Who needs features alone gets the same ones."""
        net = self.build()
        assert torch.equal(self.outputs(net, only_feat=True), self.outputs(net)["feat"])

    def test_only_fc_gives_the_logits_of_features(self) -> None:
        """The head is asked by methods that change features, and by algorithms that freeze what is below."""
        net = self.build()
        out = self.outputs(net)
        assert torch.allclose(self.outputs(net, out["feat"], only_fc=True), out["logits"], atol=1e-5)

    def test_the_head_follows_the_number_of_classes(self) -> None:
        """Pretrained weights go into everything but the head: it must be told from the rest, by shapes, under the same names."""
        for num_classes in (2, 7):
            found = self.outputs(self.build(num_classes=num_classes))["logits"].shape[1]
            assert found == num_classes, f"{found} logits for {num_classes} classes"
        assert self.only_head or len(self.head()) < len(self.build().state_dict()), "everything depends on the number of classes"

    # ------------------------------------------------------------------------------------------ the same again
    def test_evaluation_is_deterministic(self) -> None:
        """In eval mode it draws nothing and changes nothing: what is scored is scored the same again."""
        net = self.build()
        self.outputs(net)
        before = copy.deepcopy(net.state_dict())
        with generators_untouched("a forward pass in eval mode"):
            one, other = self.outputs(net), self.outputs(net)
        assert all(torch.equal(one[name], other[name]) for name in ("logits", "feat")), "two passes differ"
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "a pass in eval mode changes the state"

    def test_an_image_does_not_depend_on_its_batch(self) -> None:
        """`eval_batch_size` is chosen by the memory there is."""
        net, images = self.build(), self.images()
        alone = torch.cat([self.outputs(net, image[None])["logits"] for image in images])
        assert torch.allclose(alone, self.outputs(net, images)["logits"], atol=1e-4), "logits differ with the batch"

    def test_images_matter(self) -> None:
        """A network that gives the same for all has lost its input."""
        logits = self.outputs(self.build())["logits"]
        assert not torch.allclose(logits[0], logits[1], atol=1e-7), "two images have the same logits"

    def test_the_seed_gives_the_weights(self) -> None:
        """Every cycle starts from the same weights, in every process; another seed is another start."""
        one, again, other = self.build().state_dict(), self.build().state_dict(), self.build(seed=1).state_dict()
        assert all(torch.equal(value, again[name]) for name, value in one.items()), "two networks under one seed differ"
        assert not all(torch.equal(value, other[name]) for name, value in one.items()), "two seeds give the same weights"

    def test_its_state_goes_through_a_checkpoint(self, tmp_path: Path) -> None:
        """What the checkpoint holds is the whole network: a resumed run loads it into a fresh one."""
        net, other = self.build(), self.build(seed=1)
        step(net, self.images(4))
        write_checkpoint(tmp_path / "net.pth", {"net": net.state_dict()})
        other.load_state_dict(read_checkpoint(tmp_path / "net.pth")["net"])
        assert torch.equal(self.outputs(other)["logits"], self.outputs(net)["logits"]), "another network after loading"

    # ------------------------------------------------------------------------------------------ training
    def test_a_step_trains_it(self) -> None:
        """Head and body get finite gradients from the loss, and move."""
        net = self.build()
        before = copy.deepcopy(dict(net.named_parameters()))
        step(net, self.images(4))
        after = dict(net.named_parameters())
        bad = [name for name, value in after.items() if not torch.isfinite(value).all()]
        assert not bad, f"weights that are not finite after a step: {bad[:5]}"
        # Not all of them need to: some networks have weights that nothing uses.
        moved, head = {name for name in after if not torch.equal(after[name], before[name])}, set(self.head())
        assert moved & head, "a step does not change the head"
        assert self.only_head or moved - head, "a step changes nothing but the head"

    def test_a_copy_is_another_network(self) -> None:
        """The EMA model is a copy of the network: what is trained must not be what is averaged."""
        net = self.build()
        other = copy.deepcopy(net)
        before = self.outputs(other)["logits"]
        step(net, self.images(4))
        assert torch.equal(self.outputs(other)["logits"], before), "a step of the one changes the other"


def step(net: torch.nn.Module, images: torch.Tensor) -> None:
    """One step of SGD on made labels, its dropout seeded."""
    net.train()
    with seeded_globals(0, "step"):
        logits = net(images)["logits"]
        labels = torch.from_numpy(np.arange(len(images)) % logits.shape[1])
        torch.nn.functional.cross_entropy(logits, labels).backward()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
                parameter.grad = None
