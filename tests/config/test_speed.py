"""Keys that make a run faster: what they are by default, what goes together, and that a run keeps them."""

from __future__ import annotations

import pytest
from run_helpers import config_of, settings

from usb_active.config.settings import ALGORITHMS
from usb_active.config.speed import WEAK_APART, WHY_NOT
from usb_active.errors import UsageError
from usb_active.storage.run_dir import RunDir

KEYS = {"fast": "fast", "channels_last": True, "weak_no_grad": True, "compile": True, "views": "vectorized"}


def of(tmp_path, active=None, **usb):
    return config_of(settings(tmp_path, active=active, **usb))


def test_all_are_off_and_not_kept_so_that_earlier_runs_resume(tmp_path):
    usual = {"fast": "exact", "channels_last": False, "weak_no_grad": False, "compile": False, "views": "exact"}
    plain, off = of(tmp_path), of(tmp_path, usual)
    assert plain.resolved() == off.resolved() and not set(KEYS) & set(plain.resolved()["active"])
    assert plain.usb["use_cat"] is True and not plain.active.uses_channels_last


@pytest.mark.parametrize("name", KEYS)
def test_a_run_keeps_them_and_says_so(tmp_path, name):
    plain, changed = of(tmp_path), of(tmp_path, {name: KEYS[name]})
    assert changed.resolved()["active"][name] == KEYS[name]
    assert config_of(changed.resolved()).resolved() == changed.resolved()
    RunDir.open(tmp_path / "run", plain.stored(), free_keys=plain.free_keys).close()
    with pytest.raises(UsageError, match=rf"active\.{name}: \(not set\) -> "):
        RunDir.open(tmp_path / "run", changed.stored(), free_keys=changed.free_keys)


def test_where_views_are_made_is_kept_and_may_change(tmp_path):
    plain, changed = of(tmp_path), of(tmp_path, {"views_on": "device"})
    assert plain.resolved() == of(tmp_path, {"views_on": "cpu"}).resolved() and "views_on" not in plain.resolved()["active"]
    assert changed.resolved()["active"]["views_on"] == "device"
    for one in (plain, changed, plain):
        RunDir.open(tmp_path / "run", one.stored(), free_keys=one.free_keys).close()
    with pytest.raises(UsageError, match="active.views_on: should be 'cpu' or 'device'"):
        of(tmp_path, {"views_on": "gpu"})


def test_fast_bundles_what_changes_rounding_only(tmp_path):
    active = of(tmp_path, {"fast": "fast"}).active
    assert active.uses_channels_last and not active.weak_no_grad and not active.compile
    assert of(tmp_path, {"channels_last": True}).active.uses_channels_last
    with pytest.raises(UsageError, match="active.channels_last: false, and active.fast: fast includes it; remove one of them"):
        of(tmp_path, {"fast": "fast", "channels_last": False})
    with pytest.raises(UsageError, match="active.fast: should be 'exact' or 'fast'"):
        of(tmp_path, {"fast": "faster"})


def test_features_have_no_channels(tmp_path):
    vectors = {"train_on": "features", "features": {"name": "pixels"}}
    for key, value in (("channels_last", True), ("fast", "fast")):
        with pytest.raises(UsageError, match=f"active.{key}: is a matter of images' format, and active.train_on is features; remove it"):
            of(tmp_path, {**vectors, key: value}, net="linear")
    for key, value in (("views_on", "device"), ("views", "vectorized")):
        with pytest.raises(UsageError, match=f"active.{key}: {value}, and active.train_on is features: no view of an image is made"):
            of(tmp_path, {**vectors, key: value}, net="linear")


# ---------------------------------------------------------------------------------------------- weak views without gradients
@pytest.mark.parametrize("algorithm", sorted(WEAK_APART))
def test_weak_views_apart_are_usbs_use_cat(tmp_path, algorithm):
    assert of(tmp_path, {"weak_no_grad": True}, algorithm=algorithm).usb["use_cat"] is False
    silent = of(tmp_path, {"weak_no_grad": True}, algorithm=algorithm, use_cat=False)
    (line,) = set(of(tmp_path, {"weak_no_grad": True}, algorithm=algorithm, use_cat=True).warnings) - set(silent.warnings)
    assert line.endswith("use_cat: true; active.weak_no_grad forwards the views apart, which is use_cat: false")


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        ("supervised", "looks at no unlabelled view"),
        ("pseudolabel", "learns from its weak views"),
        ("crmatch", "learns from its weak views"),
        ("mixmatch", "computes its targets without gradients in any case"),
        ("simmatch", "has gradients of its weak views in USB's code"),
        ("lp", "has a step of its own, which decides itself what has gradients"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused_with_the_reason(tmp_path, algorithm, reason):
    with pytest.raises(UsageError, match=f"active.weak_no_grad: algorithm '{algorithm}' {reason}.*; it is for adamatch, comatch"):
        of(tmp_path, {"weak_no_grad": True}, algorithm=algorithm)


def test_each_of_usbs_algorithms_has_it_or_a_reason():
    assert set(WEAK_APART) | set(WHY_NOT) == set(ALGORITHMS) and not set(WEAK_APART) & set(WHY_NOT)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_what_usbs_code_says(algorithm):
    """The step's own text: the weak views alone under no_grad."""
    import inspect

    from semilearn.core.utils import ALGORITHMS as USB

    text = "".join(inspect.getsource(USB[algorithm].train_step).split())
    assert ("else:" in text and "withtorch.no_grad():outs_x_ulb_w=self.model(x_ulb_w)" in text) is (
        algorithm in WEAK_APART | {"crmatch"}
    )
