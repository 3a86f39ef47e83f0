"""What belongs to a plugin is declared by it: keys that may change when a run is resumed, and where a source of features keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import run_helpers
import torch
import yaml
from pydantic import Field

from usb_active import Features, PluginConfig, UsageError
from usb_active.builtin.feature_sources import FileFeatures, ModelFeatures, PretrainFeatures, TimmFeatures
from usb_active.config.free_keys import FREE_KEYS, free_keys
from usb_active.config.settings import load_yaml_config
from usb_active.contracts import file_imports
from usb_active.contracts.features import Kept, independent_sources, source_of
from usb_active.contracts.plugin import free_key, free_names, later_key, stored_keys
from usb_active.contracts.registry import REGISTRY, Declaration
from usb_active.loop.setup import check_directory
from usb_active.report.method_names import method_settings
from usb_active.storage.run_dir import RunDir
from usb_active.storage.run_format import PINNED_FILE
from usb_active.testing.pool import World

PLUGIN = """
from usb_active import Acquisition, Analysis, Features, PluginConfig, free_key, register_plugin

@register_plugin("acquisition", "frugal")
class Frugal(Acquisition):
    class Config(PluginConfig):
        block: int = free_key(64, ge=1)
        alpha: float = 0.5

    def select(self, view, budget):
        return view.candidates[:budget]

@register_plugin("analysis", "counted")
class Counted(Analysis):
    class Config(PluginConfig):
        every: int = 1
        colour: str = free_key("blue")

    def report(self, run, out):
        return None

@register_plugin("features", "served")
class Served(Features):
    class Config(PluginConfig):
        port: int = free_key(80)
        model: str = "a"

    def get(self, view):
        raise NotImplementedError
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Configurations of a plugin whose class is registered in this test alone."""
    REGISTRY.discover()
    monkeypatch.setattr(REGISTRY, "_declared", dict(REGISTRY._declared))
    monkeypatch.setattr(REGISTRY, "_classes", dict(REGISTRY._classes))
    # Workers that later tests start fresh would import it too.
    monkeypatch.setattr(file_imports, "_imported", dict(file_imports._imported))
    path = tmp_path / "frugal.py"
    path.write_text(PLUGIN)

    def configuration(**frugal):
        features, analysis = frugal.pop("features", {}), frugal.pop("analysis", None)
        acquisition = {"name": "frugal", **frugal, "features": {"name": "served", **features}}
        active = {"initial": {"name": "random", "size": 10}, "acquisition": acquisition, "cycles": 1, "budget": 5}
        active |= {"analysis": analysis} if analysis else {}
        data = {"save_dir": str(tmp_path), "save_name": "run", "plugins": [str(path)], "dataset": "digits", "active": active}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(data))
        return load_yaml_config(tmp_path / "c.yaml")

    return configuration


# ---------------------------------------------------------------------------------------------- keys that may change
def test_a_free_key_is_a_field_as_any_other():
    class Config(PluginConfig):
        workers: int = free_key(2, ge=0)
        needed: str = free_key()
        alpha: float = Field(0.5, ge=0)

    assert free_names(Config) == ["workers", "needed"] and Config(needed="x").model_dump() == {"workers": 2, "needed": "x", "alpha": 0.5}
    for values in ({"needed": "x", "workers": -1}, {}):
        with pytest.raises(ValueError, match="workers|needed"):
            Config(**values)


def test_a_later_key_is_kept_only_where_it_has_another_value():
    class Config(PluginConfig):
        alpha: float = 0.5
        sizes: tuple[int, ...] = later_key((1, 2))
        path: Path | None = later_key(None)

    assert stored_keys(Config()) == stored_keys(Config(sizes=[1, 2], path=None)) == {"alpha": 0.5}
    given = stored_keys(Config(sizes=[3], path="a.npy"))
    assert given == {"alpha": 0.5, "sizes": [3], "path": "a.npy"} and stored_keys(Config(**given)) == given
    # Plugins see it as any other key.
    assert Config().model_dump() == {"alpha": 0.5, "sizes": (1, 2), "path": None} and not free_names(Config)


def test_a_run_from_before_there_was_a_key_of_its_network_or_data_set_resumes(tmp_path):
    # What runs kept before cnn13 had `weight_norm_head`, and digits `flip` and `randaugment_n`.
    keys = {"net": {"name": "cnn13", "width": 4, "dropout": 0.5}, "dataset": {"name": "digits", "in_channels": 1, "augmentation": "usb"}}
    begun = run_helpers.config_of(run_helpers.settings(tmp_path, **keys))
    assert {key: begun.stored()[key] for key in keys} == keys
    with RunDir.open(tmp_path / "run", {**begun.stored(), **keys}) as run:
        run.write_json(PINNED_FILE, {"format": 2})
    check_directory(begun)
    for key, name, value in (("net", "weight_norm_head", True), ("dataset", "flip", True), ("dataset", "randaugment_n", 2)):
        changed = run_helpers.config_of(run_helpers.settings(tmp_path, **{**keys, key: {**keys[key], name: value}}))
        with pytest.raises(UsageError, match=rf"{key}\.{name}: .* -> {str(value).lower()}"):
            check_directory(changed)


def test_a_run_resumes_with_another_value_of_a_free_key(write, tmp_path):
    begun = write(block=8, alpha=0.25)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(begun.stored()))
    check_directory(write(block=16, alpha=0.25, features={"port": 81}))
    for changed, key in (({"alpha": 0.75}, "alpha"), ({"alpha": 0.25, "features": {"model": "b"}}, "features.model")):
        with pytest.raises(UsageError, match=rf"active\.acquisition\.{key}: "):
            check_directory(write(block=16, **changed))


def test_analyses_of_a_list_have_free_keys_of_their_own(write):
    def config(*colours, every=2):
        return write(analysis=[{"name": "counted", "colour": colour, "every": every} for colour in colours])

    with RunDir.open(config("red", "green").run_path, config("red", "green").stored()):
        pass
    check_directory(config("red", "black"))
    for changed, key in ((config("red", "green", every=3), r"\[0\]\.every: 2 -> 3"), (config("red"), ": ")):
        with pytest.raises(UsageError, match=rf"active\.analysis{key}"):
            check_directory(changed)


def test_a_report_does_not_tell_runs_apart_by_it(write):
    settings = method_settings(write(block=8).resolved())
    assert settings == method_settings(write(block=16, features={"port": 81}).resolved())
    assert settings != method_settings(write(block=8, alpha=0.75).resolved())


def test_keys_of_a_plugin_that_is_not_at_hand_are_not_free(monkeypatch):
    REGISTRY.discover()
    monkeypatch.setattr(REGISTRY, "_declared", dict(REGISTRY._declared))
    REGISTRY.declare(Declaration("acquisition", "does_not_import", "no_such_module:X", "", "somebody"))
    for name in ("never_heard_of", "does_not_import"):
        assert free_keys({"active": {"acquisition": {"name": name, "block": 3}}}) == FREE_KEYS
    assert free_keys({"active": None}) == free_keys({"active": {"prior": "x", "features": {"name": 3}}}) == FREE_KEYS


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"dataset": {"name": "image_folder", "class_names": None}}, "dataset.class_names"),
        ({"active": {"oracle": {"name": "csv", "accept_partial": False}}}, "active.oracle.accept_partial"),
        ({"active": {"pretrain": {"name": "simsiam", "num_workers": 0}}}, "active.pretrain.num_workers"),
        ({"active": {"pretrain": {"name": "deepcluster", "num_workers": 0}}}, "active.pretrain.num_workers"),
    ],
)
def test_what_was_free_before_plugins_said_so_still_is(config, key):
    assert set(free_keys(config)) == {*FREE_KEYS, key}


# ---------------------------------------------------------------------------------------------- sources of features
def test_a_source_says_where_its_features_are():
    file = FileFeatures(FileFeatures.Config(path="/data/a.npy"))
    assert file.kept(Path("run"), 7) == Kept(Path("/data/a.npy"), "features in a.npy")
    timm = TimmFeatures(TimmFeatures.Config(model="vit/small", path="w.pth"))
    # 0x…: CRC-32 of the path's text, so that two files of weights are two results.
    path, title = timm.kept(Path("run"), 7)
    assert path.parent == Path("run/artifacts") and path.name.startswith("timm_vit_small_") and path.name.endswith("_7.npy")
    assert title == "features of vit/small"
    assert ModelFeatures().kept(Path("run"), 7) is None and PretrainFeatures().kept(Path("run"), 7) is None


def test_where_it_says_is_where_they_are_put(tmp_path):
    import timm as networks

    world = World(tmp_path)
    torch.save(networks.create_model("test_resnet", pretrained=False, in_chans=1).state_dict(), tmp_path / "w.pth")
    timm = TimmFeatures(TimmFeatures.Config(model="test_resnet", path=tmp_path / "w.pth"))
    features = timm.get(world.view((), timm))
    assert np.array_equal(np.load(timm.kept(tmp_path, 60).path), features)


def test_a_third_partys_source_is_recommended_and_drawn_from(write):
    write()
    assert set(independent_sources().replace(" or ", ", ").split(", ")) >= {"file", "pixels", "pretrain", "timm", "served"}
    assert "model" not in independent_sources().replace(" or ", ", ").split(", ")
    REGISTRY.get("features", "served").kept = lambda self, run_path, num_samples: Kept(run_path / self.config.model, "served")
    assert source_of({"name": "served", "model": "b"}, "c").kept(Path("run"), 3) == Kept(Path("run/b"), "served")


def test_a_source_of_a_run_from_elsewhere():
    assert source_of(None, "c") is source_of({"name": "never_heard_of", "path": "x"}, "c") is source_of({"name": ["file"]}, "c") is None
    with pytest.raises(UsageError, match=r"^run: config.yaml: features: 'file': path: Field required$"):
        source_of({"name": "file"}, "run: config.yaml")


def test_a_source_of_ones_own_keeps_nothing_unless_it_says_so():
    cls = type("Mine", (Features,), {"get": lambda self, view: None})
    assert cls().kept(Path("run"), 3) is None and not cls.follows_model and not cls.from_pretraining
