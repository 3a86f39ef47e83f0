"""Where features come from: the model, pixels, a file, a timm network on disk, pretraining; and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from usb_active import UsageError
from usb_active.builtin.feature_sources import FileFeatures, ModelFeatures, PixelFeatures, PretrainFeatures, TimmFeatures
from usb_active.testing.pool import World, made_images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import timm

# A few hundred thousand weights; works on images of 8 pixels.
MODEL = "test_resnet"


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "run")


def get(world, source, **position):
    return world.view(["features"], source, **position).features


def assert_features(features, num_rows, dim):
    assert features.shape == (num_rows, dim) and features.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 1


# ------------------------------------------------------------------------------------------------- model, pixels


def network_features(world):
    world.net.eval()
    with torch.no_grad():
        return world.net(torch.from_numpy(world.images)[:, None], only_feat=True).numpy()


def test_model_features_are_the_input_of_the_classifier(world):
    features = get(world, ModelFeatures())
    assert_features(features, 60, 16)
    np.testing.assert_allclose(features, network_features(world), rtol=1e-5, atol=1e-6)


def test_model_features_follow_the_model(world):
    before = np.array(get(world, ModelFeatures()))
    with torch.no_grad():
        world.net.stem.conv.weight.mul_(2)
        world.net.stem.bn.running_mean.add_(1)
    after = get(world, ModelFeatures(), cycle=2)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, network_features(world), rtol=1e-5, atol=1e-6)


def test_features_and_probs_take_one_pass(world):
    calls = []
    world.net.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    view = world.view(["features", "probs"], ModelFeatures())
    assert sum(calls) == 60
    assert view.features.shape == (60, 16) and view.probs.shape == (60, 3)
    np.testing.assert_allclose(view.probs.sum(axis=1), 1, rtol=1e-6)


def test_model_features_need_a_model(tmp_path):
    with pytest.raises(UsageError, match="there is no trained model yet; take features from .*file, pixels, pretrain.* timm"):
        get(World(tmp_path, fresh=True), ModelFeatures())


def test_features_that_were_not_declared_are_not_given(world):
    view = world.view(["probs"], ModelFeatures())
    with pytest.raises(UsageError, match=r"^active\.acquisition: 'features' was not declared in `needs` \(probs\)"):
        _ = view.features


def test_pixels_are_the_eval_view_flattened(world):
    features = get(world, PixelFeatures())
    assert_features(features, 60, 64)
    assert np.array_equal(features, world.images.reshape(60, 64))


def test_pixels_need_no_model(tmp_path):
    assert get(World(tmp_path, fresh=True), PixelFeatures(), cycle=0).shape == (60, 64)


# ------------------------------------------------------------------------------------------------- file


def file_source(path):
    return FileFeatures(FileFeatures.Config(path=path))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_file_of_features(world, tmp_path, dtype):
    given = np.random.default_rng(0).standard_normal((60, 5)).astype(dtype)
    np.save(tmp_path / "features.npy", given)
    features = get(world, file_source(tmp_path / "features.npy"))
    assert_features(features, 60, 5)
    assert np.array_equal(features, given.astype(np.float32))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((59, 5), np.float32), r"features.npy: expected \(60, D\), got \(59, 5\)"),
        (np.zeros(60, np.float32), r"expected \(60, D\), got \(60,\)"),
        (np.zeros((60, 2, 2), np.float32), r"expected \(60, D\), got \(60, 2, 2\)"),
        (np.zeros((60, 5), np.int64), "features.npy: expected floating point, got int64"),
        (np.where(np.arange(60)[:, None] % 25 == 4, np.inf, np.ones((60, 2))), "features: not finite for samples 4, 29, 54$"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(world, tmp_path, array, message):
    np.save(tmp_path / "features.npy", array)
    with pytest.raises(UsageError, match=message) as error:
        get(world, file_source(tmp_path / "features.npy"))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_array(world, tmp_path):
    with pytest.raises(UsageError, match="gone.npy: no such file"):
        get(world, file_source(tmp_path / "gone.npy"))
    (tmp_path / "text.npy").write_text("1,2,3")
    with pytest.raises(UsageError, match="text.npy: not a readable .npy array"):
        get(world, file_source(tmp_path / "text.npy"))


# ------------------------------------------------------------------------------------------------- timm


def random_network(model=MODEL, num_classes=7, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(model, pretrained=False, in_chans=1, num_classes=num_classes, **options).eval()


def timm_source(path, model=MODEL):
    return TimmFeatures(TimmFeatures.Config(model=model, path=path, batch_size=25))


def pooled(net, world):
    with torch.no_grad():
        return net.forward_head(net.forward_features(torch.from_numpy(world.images)[:, None]), pre_logits=True).numpy()


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}])
def test_a_timm_network_from_its_weights(world, tmp_path, wrap):
    net = random_network()
    torch.save(wrap(net.state_dict()), tmp_path / "weights.pth")
    features = get(world, timm_source(tmp_path / "weights.pth"))
    assert_features(features, 60, net.num_features)
    np.testing.assert_allclose(features, pooled(net, world), rtol=1e-4, atol=1e-5)


def test_a_timm_network_from_safetensors(world, tmp_path):
    from safetensors.torch import save_file

    net = random_network()
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    np.testing.assert_allclose(get(world, timm_source(tmp_path / "weights.safetensors")), pooled(net, world), rtol=1e-4, atol=1e-5)


def test_a_transformer_is_built_for_the_images_there_are(tmp_path):
    # Patches of 16: two by two of them, and position embeddings to match.
    images = np.random.default_rng(0).standard_normal((60, 32, 32)).astype(np.float32)
    world = World(tmp_path / "run", images)
    world.dataset.img_size = 32
    net = random_network("test_vit", img_size=32)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    np.testing.assert_allclose(get(world, timm_source(tmp_path / "weights.pth", "test_vit")), pooled(net, world), rtol=1e-4, atol=1e-5)


def test_timm_features_are_made_once_a_run_for_each_file_of_weights(world, tmp_path):
    for seed in (0, 1):
        torch.save(random_network(seed=seed).state_dict(), tmp_path / f"{seed}.pth")
    first, second = (np.array(get(world, timm_source(tmp_path / f"{seed}.pth"))) for seed in (0, 1))
    assert not np.allclose(first, second)
    (tmp_path / "0.pth").unlink()
    assert np.array_equal(get(world, timm_source(tmp_path / "0.pth"), cycle=2), first)


def first_key(state):
    return next(iter(state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {name: value for name, value in state.items() if name != first_key(state)}, "weights.pth lacks conv1.*; it must"),
        (lambda state: {**state, first_key(state): torch.zeros(2)}, "weights.pth has another shape of conv1.*1 channel"),
        (lambda state: {"weights": 3}, "holds no state dict of a network"),
        (lambda state: torch.zeros(3), "holds no state dict of a network"),
        (lambda state: {}, "holds no state dict of a network"),
        (lambda state: {"stem": torch.nn.Linear(1, 1)}, "cannot be read in torch's safe mode"),
    ],
)
def test_weights_that_do_not_fit_are_refused(world, tmp_path, change, message):
    torch.save(change(random_network().state_dict()), tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=f"^features: timm: .*{message}") as error:
        get(world, timm_source(tmp_path / "weights.pth"))
    assert "\n" not in str(error.value)


def test_weights_that_are_not_there_and_models_that_do_not_exist(world, tmp_path):
    with pytest.raises(UsageError, match="features: timm: .*gone.pth: no such file"):
        get(world, timm_source(tmp_path / "gone.pth"))
    with pytest.raises(UsageError, match="unknown model 'tst_resnet'; did you mean 'test_resnet'"):
        get(world, timm_source(tmp_path / "gone.pth", "tst_resnet"))


def test_timm_features_that_are_not_finite_are_named_and_not_kept(tmp_path):
    images = made_images()
    images[[5, 40]] = np.nan
    world = World(tmp_path / "run", images)
    net = random_network()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="'test_resnet': not finite for samples 5$"):
        get(world, timm_source(tmp_path / "weights.pth"))
    images[[5, 40]] = 0
    assert np.isfinite(get(World(tmp_path / "run", images), timm_source(tmp_path / "weights.pth"))).all()


# ------------------------------------------------------------------------------------------------- pretrain


def test_pretrained_features_are_what_the_pretrainer_left(world):
    left = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    source = world.source(0)
    source.pretrained_features = lambda: left
    world.source = lambda seed: source
    assert np.array_equal(get(world, PretrainFeatures()), left)


def test_pretrained_features_that_are_not_there(world):
    with pytest.raises(UsageError, match="features: pretrain: the pretrainer left neither features of this pool nor a backbone"):
        get(world, PretrainFeatures())
