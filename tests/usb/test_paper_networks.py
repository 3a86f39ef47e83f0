"""ResNet-18 and ViT-S: shapes, parts, and that they train as USB's nets do."""

from __future__ import annotations

import pytest
import torch

from usb_active.builtin.networks import Cnn13, ResNet18, VitSmall
from usb_active.errors import UsageError
from usb_active.loop.initial_weights import classifier_keys


def built(cls, channels=3, size=32, classes=4, **config):
    plugin = cls(cls.Config(**config))
    plugin.name = "net"
    torch.manual_seed(0)
    return plugin.build(classes, size, channels)


CASES = [
    (ResNet18, {}, 256),
    (ResNet18, {"stem": "cifar"}, 256),
    (ResNet18, {"embedding": None}, 512),
    (VitSmall, {}, 384),
    (VitSmall, {"patch_size": 8}, 384),
    (VitSmall, {"last_blocks": 4}, 1536),
    (VitSmall, {"patch_size": 16, "last_blocks": 4, "embedding": 256}, 256),
    (Cnn13, {"width": 8}, 8),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("cls", "config", "width"), CASES)
def test_gives_what_usbs_nets_give(cls, config, width, channels):
    net = built(cls, channels, **config).eval()
    x = torch.randn(2, channels, 32, 32)
    out = net(x)
    assert out["logits"].shape == (2, 4) and out["feat"].shape == (2, width) == (2, net.num_features)
    assert torch.equal(net(x, only_feat=True), out["feat"])
    assert torch.equal(net(out["feat"], only_fc=True), out["logits"])


def test_the_papers_resnet_has_torchvisions_stem_and_a_linear_embedding():
    net = built(ResNet18).eval()
    assert net.body.conv1.kernel_size == (7, 7) and net.body.conv1.stride == (2, 2)
    # 32 pixels: halved by the stem, by max-pooling, and by three of the four stages.
    assert net.body.layer4(net.body.layer3(net.body.layer2(net.body.layer1(torch.zeros(1, 64, 8, 8))))).shape == (1, 512, 1, 1)
    assert (net.body.fc.in_features, net.body.fc.out_features) == (512, 256)
    # torchvision's ResNet-18 has 11,689,512 parameters, 513,000 of them in its own classifier.
    own = 512 * 256 + 256 + 256 * 4 + 4
    assert sum(p.numel() for p in net.parameters()) == 11_689_512 - 513_000 + own


def test_the_cifar_stem_keeps_the_resolution():
    net = built(ResNet18, stem="cifar")
    assert net.body.maxpool(net.body.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)


@pytest.mark.parametrize(("cls", "config", "width"), [CASES[0], CASES[3], CASES[6]])
def test_classifier_and_layer_groups_are_found(cls, config, width):
    net = built(cls, **config)
    assert set(classifier_keys(lambda classes: built(cls, classes=classes, **config))) == {"classifier.weight", "classifier.bias"}
    from semilearn.core.utils import get_optimizer

    optimizer = get_optimizer(net, "AdamW", 0.1, weight_decay=0.1, layer_decay=0.5)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert len(rates) > 3 and max(rates) == pytest.approx(0.1)


def test_features_of_the_last_blocks_are_their_normed_class_tokens_and_a_linear_layer():
    net, x = built(VitSmall, patch_size=16, last_blocks=4, embedding=256).eval(), torch.randn(2, 3, 32, 32)
    vit, tokens = net.body.vit, []
    with torch.no_grad():
        hidden = vit.patch_embed(x)
        # The class token first, then the four patches of 16 pixels, each at its place.
        hidden = torch.cat([vit.cls_token.expand(2, -1, -1), hidden], dim=1) + vit.pos_embed
        for number, block in enumerate(vit.blocks):
            hidden = block(hidden)
            if number >= 8:
                tokens.append(vit.norm(hidden)[:, 0])
        features = torch.cat(tokens, dim=1)
        assert hidden.shape == (2, 5, 384) and features.shape == (2, 1536)
        linear = net.body.embedding
        torch.testing.assert_close(net(x, only_feat=True), features @ linear.weight.T + linear.bias)


def test_the_last_block_alone_is_the_usual_transformer():
    usual, net = built(VitSmall).eval(), built(VitSmall, last_blocks=1, embedding=8).eval()
    x = torch.randn(2, 3, 32, 32)
    net.body.vit.load_state_dict(usual.body.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(net.body.embedding(usual(x, only_feat=True)), net(x, only_feat=True))


def test_patches_must_tile_the_image():
    with pytest.raises(UsageError, match="patch_size: 5 does not divide img_size 32"):
        built(VitSmall, patch_size=5)


def test_pretrained_weights_of_usbs_kind_are_refused():
    plugin = ResNet18()
    plugin.name = "resnet18"
    with pytest.raises(UsageError, match="use_pretrain is for USB's own networks"):
        plugin.build(4, 32, 3, "weights.pth")
