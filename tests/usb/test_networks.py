"""The small network's contract and that it learns; USB's networks through their checks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from semilearn.core.utils import get_optimizer
from sklearn.datasets import load_digits
from torch.nn import functional as F

from usb_active.errors import UsageError
from usb_active.usb.networks import USB_NETWORKS, small_cnn, usb_network


def images(batch, channels, size, salt=0):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(salt))


def assert_calling_convention(model, x, num_classes):
    model.eval()
    with torch.no_grad():
        out = model(x)
        assert set(out) == {"logits", "feat"}
        assert out["logits"].shape == (len(x), num_classes)
        assert out["feat"].shape == (len(x), model.num_features)
        assert torch.equal(model(x, only_feat=True), out["feat"])
        assert torch.equal(model(out["feat"], only_fc=True), out["logits"])


@pytest.mark.parametrize("size, channels, width", [(4, 1, 4), (8, 1, 32), (16, 3, 8), (32, 2, 4), (9, 1, 4)])
def test_small_cnn_keeps_usbs_calling_convention(size, channels, width):
    model = small_cnn(7, img_size=size, in_channels=channels, width=width)
    assert model.num_features == 4 * width
    assert_calling_convention(model, images(5, channels, size), 7)


def test_small_cnn_is_the_three_convolutions_it_says():
    torch.manual_seed(0)
    model = small_cnn(3, width=4).train()
    x = images(6, 1, 8)
    expected = x
    for number, block in enumerate([model.stem, *model.blocks]):
        if number:
            expected = F.max_pool2d(expected, 2)
        expected = F.conv2d(expected, block.conv.weight, padding=1)
        centred = expected - expected.mean(dim=(0, 2, 3), keepdim=True)
        expected = F.leaky_relu(centred / (centred.square().mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt(), 0.1)
    feat = expected.flatten(2).mean(dim=2)
    out = model(x)
    torch.testing.assert_close(out["feat"], feat)
    torch.testing.assert_close(out["logits"], feat @ model.classifier.weight.T)


def test_small_cnn_learns_the_digits_in_a_hundred_steps():
    digits = load_digits()
    x = torch.from_numpy(digits.images[:, None].astype(np.float32) / 8 - 1)
    y = torch.from_numpy(digits.target)
    torch.manual_seed(0)
    model = small_cnn(10, width=16)
    optimizer = get_optimizer(model, "SGD", lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(100):
        idx = torch.randint(0, 1000, (64,))
        F.cross_entropy(model(x[idx])["logits"], y[idx]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        accuracy = (model(x[1000:])["logits"].argmax(dim=1) == y[1000:]).float().mean()
    assert accuracy > 0.9


def test_small_cnn_works_with_usbs_optimizers():
    model = small_cnn(4)
    by_decay = get_optimizer(model, weight_decay=0.1).param_groups
    exempt = {id(p) for group in by_decay if group["weight_decay"] == 0 for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in exempt}
    assert names == set(model.no_weight_decay())
    assert {"classifier.bias", "stem.bn.weight"} <= names and "stem.conv.weight" not in names
    groups = get_optimizer(model, "AdamW", lr=1.0, layer_decay=0.5).param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    rates = {name: rate[id(p)] for name, p in model.named_parameters()}
    # Stem, two blocks, classifier: each a half of the next.
    assert [rates[f"{part}.weight"] for part in ("stem.conv", "blocks.0.conv", "blocks.1.bn", "classifier")] == [0.125, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": 0}, "num_classes: 0"),
        ({"num_classes": 2, "img_size": 3}, "img_size: 3; it must be an integer of at least 4"),
        ({"num_classes": 2, "in_channels": 0}, "in_channels: 0"),
        ({"num_classes": 2, "width": 2.5}, "width: 2.5"),
    ],
)
def test_small_cnn_refuses_in_one_line(arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        small_cnn(**arguments)
    assert "\n" not in str(error.value)


def test_small_cnn_refuses_unknown_arguments_and_wrong_batches():
    with pytest.raises(TypeError, match="depth"):
        small_cnn(2, depth=3)
    model = small_cnn(2)
    for batch in (images(2, 3, 8), images(2, 1, 3), images(2, 1, 8)[0]):
        with pytest.raises(UsageError, match="it must be \\(B, 1, H, W\\)"):
            model(batch)


@pytest.mark.parametrize("name, size", [("wrn_28_2", 8), ("wrn_var_37_2", 16), ("vit_tiny_patch2_32", 32), ("resnet50", 32)])
def test_usbs_networks_build_and_keep_the_convention(name, size):
    model = usb_network(name)(3, img_size=size, in_channels=3)
    assert_calling_convention(model, images(2, 3, size), 3)
    twin = copy.deepcopy(model)
    assert twin.state_dict().keys() == model.state_dict().keys()
    assert_calling_convention(twin, images(2, 3, size), 3)


def test_every_listed_network_is_usbs():
    import semilearn.nets

    vision = {
        name for name, value in vars(semilearn.nets).items() if callable(value) and not name.startswith(("bert", "hubert", "wave2vec"))
    }
    assert vision == set(USB_NETWORKS)


def test_a_usb_network_is_the_same_as_usbs_own():
    import semilearn.nets

    torch.manual_seed(5)
    expected = semilearn.nets.wrn_28_2(num_classes=4)
    torch.manual_seed(5)
    model = usb_network("wrn_28_2")(4, 32, 3)
    assert type(model) is type(expected)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("wrn_28_2", (2, 32, 1), "the images have 1 channel"),
        ("vit_tiny_patch2_32", (2, 28, 3), "img_size: 28; this network takes 32"),
        ("vit_base_patch16_224", (2, 32, 3), "this network takes 224"),
        ("wrn_28_2", (2, 32, 3, True), "must be a file .nothing is downloaded"),
        ("wrn_28_2", (2, 32, 3, True, "/no/such/file.pth"), "/no/such/file.pth"),
        ("resnet50", (2, 32, 3, True, __file__), "takes no pretrained weights"),
    ],
)
def test_usbs_networks_refuse_in_one_line(name, arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        usb_network(name)(*arguments)
    assert "\n" not in str(error.value)


def test_an_unknown_network_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'wrn_28_2'"):
        usb_network("wrn28_2")


def test_pretrained_weights_are_loaded_but_the_classifier(tmp_path):
    source = usb_network("wrn_28_2")(7, 32, 3)
    torch.save({"model": source.state_dict()}, tmp_path / "weights.pth")
    model = usb_network("wrn_28_2")(4, 32, 3, pretrained=True, pretrained_path=tmp_path / "weights.pth")
    head = {"classifier.weight", "classifier.bias"}
    assert model.classifier.weight.shape[0] == 4
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items() if name not in head)


@pytest.mark.parametrize(
    "checkpoint, message", [({"model": {"other": torch.ones(1)}}, "holds no weights of this network"), ({"net": {}}, "KeyError: 'model'")]
)
def test_pretrained_weights_that_do_not_fit_are_an_error(tmp_path, checkpoint, message):
    torch.save(checkpoint, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=message):
        usb_network("wrn_28_2")(4, 32, 3, pretrained=True, pretrained_path=str(tmp_path / "weights.pth"))
