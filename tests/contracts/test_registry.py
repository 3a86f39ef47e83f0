"""Plugins: declared, found, checked when registered; one that is broken hurts only those who ask for it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from usb_active import Acquisition, Analysis, Dataset, Declaration, Features, InitialLabels, Network, Oracle, Prior, UsageError
from usb_active.contracts.observer import Contributor
from usb_active.contracts.plugin import Plugin, optional_methods
from usb_active.contracts.registry import CONTRACTS, FORBIDDEN, GROUP, PluginImportError, Registry

POINTER = "is of kind initial_labels, derived from usb_active.InitialLabels"


def picker(**members) -> type:
    return type("Picker", (Acquisition,), {"select": lambda self, view, budget: view.candidates[:budget], **members})


def bringer(**members) -> type:
    return type("Bringer", (InitialLabels,), {"known_labels": lambda self, view: ([0], [0]), **members})


def witness(**members) -> type:
    return type("Witness", (Analysis,), {"report": lambda self, run, out: None, **members})


@pytest.fixture
def registry() -> Registry:
    return Registry()


def write(path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def test_a_class_is_registered_and_knows_its_name(registry):
    cls = registry.add("acquisition", "mine", picker(__doc__="What it does.\n\nMore."))
    assert registry.get("acquisition", "mine") is cls
    assert cls.name == "mine"
    (declaration,) = [item for item in registry.declarations() if item.name == "mine"]
    assert declaration.summary == "What it does."
    assert declaration.origin == __file__


def test_a_taken_name_says_who_holds_it(registry):
    registry.add("acquisition", "mine", picker())
    with pytest.raises(UsageError, match=r"acquisition 'mine' is already registered by .*test_registry.py \(.*:Picker\)"):
        registry.declare(Declaration("acquisition", "mine", "other:Class", "", "somebody"))
    # Another kind may use the name.
    registry.add("features", "mine", type("Zeros", (Features,), {"get": lambda self, view: None}))


@pytest.mark.parametrize(("first", "second"), [("acquisition", "initial_labels"), ("initial_labels", "acquisition")])
def test_what_one_key_names_has_one_meaning(registry, first, second):
    made = {"acquisition": picker, "initial_labels": bringer}
    registry.add(first, "mine", made[first]())
    for declare in (
        lambda: registry.declare(Declaration(second, "mine", "other:Class", "", "somebody")),
        lambda: registry.add(second, "mine", made[second]()),
    ):
        with pytest.raises(UsageError, match=rf"{second} 'mine' is already registered by .*test_registry.py \(.*\), as {first}; ") as error:
            declare()
        assert "\n" not in str(error.value)
    assert registry.names(first).count("mine") == 1 and "mine" not in registry.names(second)
    # Once more by the same class does no harm; and other kinds have their own names.
    registry.declare(next(item for item in registry.declarations() if item.name == "mine"))
    registry.add("features", "mine", type("Zeros", (Features,), {"get": lambda self, view: None}))


@pytest.mark.parametrize("name", ["audit", "correction", "volunteered"])
def test_what_the_journal_calls_something_else_is_no_name(registry, name):
    said = rf"{name}': the name means something else in the column acquisition of labels\.csv; choose another$"
    for kind, make in (("acquisition", picker), ("initial_labels", bringer)):
        with pytest.raises(UsageError, match=rf"test_registry\.py: {kind} '{said}"):
            registry.add(kind, name, make())
        # Nor may a class give itself one.
        with pytest.raises(UsageError, match=rf"^{kind} 'mine' \(.*\): its name '{said}"):
            registry.add(kind, "mine", make(name=name))
        assert not {name, "mine"} & {*registry.names(kind)}
    registry.add("analysis", name, witness())


def test_a_kind_is_found_by_its_name(registry):
    registry.add("acquisition", "picks_mine", picker())
    registry.add("initial_labels", "brings_mine", bringer())
    kinds = "acquisition", "initial_labels"
    assert [registry.kind_of(name, *kinds) for name in ("picks_mine", "brings_mine", "known")] == [*kinds, "initial_labels"]
    for wrong, meant in (("pick_mine", "picks_mine"), ("bring_mine", "brings_mine")):
        with pytest.raises(UsageError, match=f"^unknown acquisition or initial_labels '{wrong}'; did you mean '{meant}'"):
            registry.kind_of(wrong, *kinds)


def test_initial_labels_may_define_nothing_that_is_called_later():
    later = {*optional_methods(Contributor), "select", "pseudo_labels", "include_labeled"} - {*optional_methods(Plugin)}
    assert set(FORBIDDEN["initial_labels"][0]) == later


def test_an_unknown_kind(registry):
    with pytest.raises(UsageError, match="^somebody: unknown plugin kind 'acquisitions'; did you mean 'acquisition'"):
        registry.declare(Declaration("acquisitions", "mine", "a:B", "", "somebody"))


def test_an_unknown_name_gets_the_nearest(registry):
    registry.add("acquisition", "entropy_of_mine", picker())
    with pytest.raises(UsageError, match="^unknown acquisition 'entropy_of_mien'; did you mean 'entropy_of_mine'"):
        registry.get("acquisition", "entropy_of_mien")


@pytest.mark.parametrize(
    ("kind", "cls", "message"),
    [
        ("acquisition", type("P", (Acquisition,), {}), r"must define select\(self, view, budget\)"),
        (
            "acquisition",
            type("P", (), {"select": lambda self, view, budget: None}),
            r"must derive from usb_active.Acquisition$",
        ),
        ("acquisition", lambda view, budget: None, "must be a class"),
        ("acquisition", picker(select=lambda self, view: None), r"select\(self, view\) cannot be called as select\(self, view, budget\)"),
        ("acquisition", picker(observe=lambda self: None), r"observe\(self\) cannot be called as observe\(self, batch\)"),
        ("acquisition", picker(extra_loss=lambda self, a, b: None), r"extra_loss\(self, a, b\) cannot be called as extra_loss\(self"),
        ("acquisition", picker(setup=lambda self: None), r"setup\(self\) cannot be called as setup\(self, info\)"),
        ("acquisition", type("P", (Acquisition,), {"known_labels": lambda self, view: None}), f"must not define known_labels: .*{POINTER}"),
        ("acquisition", picker(known_labels=lambda self, view: None), f"must not define known_labels: .*{POINTER}$"),
        ("initial_labels", type("P", (InitialLabels,), {}), r"must define known_labels\(self, view\)"),
        ("initial_labels", type("P", (Acquisition,), {"known_labels": lambda self, view: None}), "must derive from .*InitialLabels$"),
        ("initial_labels", bringer(known_labels=lambda self: None), r"known_labels\(self\) cannot be called as known_labels\(self, view\)"),
        ("initial_labels", bringer(select=lambda self, view, budget: None), "must not define select: it brings labels before the first"),
        ("initial_labels", bringer(after_run=lambda self, algorithm: None), "must not define after_run: it brings labels"),
        ("initial_labels", bringer(check=lambda self: None), r"check\(self\) cannot be called as check\(self, num_samples, num_classes\)"),
        ("features", type("P", (Features,), {}), r"must define get\(self, view\)"),
        ("prior", type("P", (Prior,), {"fit": lambda self, view: None}), r"fit\(self, view\) cannot be called as fit\(self, view, when\)"),
        ("analysis", type("P", (Analysis,), {}), r"must define report\(self, run, out\)"),
        ("analysis", witness(on_interval=lambda self: None), r"on_interval\(self\) cannot be called as on_interval\(self, view\)"),
        ("analysis", witness(extra_loss=lambda self, batch: None), "must not define extra_loss: an analysis only observes"),
        ("analysis", witness(select=lambda self, view, budget: None), "must not define select: an analysis only observes"),
        ("oracle", type("P", (Oracle,), {}), r"must define collect\(self, query\)"),
        ("dataset", type("P", (Dataset,), {}), r"must define prepare\(self\)"),
        ("network", type("P", (Network,), {}), r"must define build\(self, num_classes, img_size, in_channels\)"),
        ("algorithm", type("P", (), {}), r"must define train_step\(self\)"),
    ],
)
def test_a_broken_contract_names_plugin_method_and_signature(registry, kind, cls, message):
    with pytest.raises(UsageError, match=rf"^{kind} 'mine' \(.*\): .*{message}"):
        registry.add(kind, "mine", cls)
    # And leaves the name free.
    assert "mine" not in registry.names(kind)


@pytest.mark.parametrize(
    "base", ["Acquisition", "InitialLabels", "Analysis", "Features", "Prior", "Pretrainer", "Oracle", "Dataset", "Network"]
)
def test_every_base_class_has_a_contract(base):
    import usb_active

    assert getattr(usb_active, base).kind in CONTRACTS


def test_further_parameters_with_defaults_are_fine(registry):
    registry.add("acquisition", "mine", picker(select=lambda self, view, budget, extra=1: None))


# --- modules, files and entry points ----------------------------------------------------------------------------------------

PLUGIN = """
    from usb_active import Acquisition, register_plugin

    class Mine(Acquisition):
        '''Mine.'''
        def select(self, view, budget):
            return view.candidates[:budget]
"""


def test_a_file_by_its_path(registry, tmp_path):
    write(tmp_path / "mine.py", PLUGIN + "    PLUGINS = []\n")
    registry.load_modules(["mine.py"], tmp_path)
    with pytest.raises(UsageError, match=f"plugins: no file {tmp_path}/yours.py"):
        registry.load_modules(["yours.py"], tmp_path)


def test_a_module_that_declares(registry, tmp_path, monkeypatch):
    write(tmp_path / "declaring_module.py", PLUGIN + "    from usb_active import Declaration\n"
          "    PLUGINS = [Declaration('acquisition', 'declared', 'declaring_module:Mine', 'Mine.')]\n")  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    registry.load_modules(["declaring_module"])
    assert registry.get("acquisition", "declared").__name__ == "Mine"
    # Twice does no harm.
    registry.load_modules(["declaring_module"])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_module_anywhere\n", "ModuleNotFoundError"),
        ("x = = 1\n", "SyntaxError"),
        ("raise OSError('gone')\n", "OSError: gone"),
    ],
)
def test_a_file_that_does_not_import_is_reported_by_name(registry, tmp_path, text, error):
    write(tmp_path / "bad.py", text)
    with pytest.raises(PluginImportError, match=f"^plugins: 'bad.py' does not import: {error}"):
        registry.load_modules(["bad.py"], tmp_path)


def test_a_target_that_does_not_import_hurts_only_those_who_ask(registry):
    registry.declare(Declaration("acquisition", "gone", "no_such_module:X", "", "somebody"))
    registry.declare(Declaration("acquisition", "nameless", "usb_active.contracts.acquisition:Nothing", "", "somebody"))
    registry.add("acquisition", "fine", picker())
    assert registry.get("acquisition", "fine")
    message = r"acquisition 'gone' \(no_such_module:X, from somebody\) does not import: ModuleNotFoundError"
    with pytest.raises(PluginImportError, match=message):
        registry.get("acquisition", "gone")
    with pytest.raises(PluginImportError, match="acquisition 'nameless' .* does not import: AttributeError"):
        registry.get("acquisition", "nameless")


def install(folder, name: str, module: str, text: str) -> None:
    """A distribution as pip leaves it: a module, and metadata with an entry point of our group."""
    write(folder / f"{module}.py", text)
    write(folder / f"{name}-1.0.dist-info" / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    write(folder / f"{name}-1.0.dist-info" / "entry_points.txt", f"[{GROUP}]\n{name} = {module}\n")


def test_installed_distributions_are_found(registry, tmp_path, monkeypatch):
    declared = "PLUGINS = [Declaration('acquisition', 'installed', 'good_plugin:Mine', 'Mine.')]"
    install(tmp_path, "goodplugin", "good_plugin", f"{PLUGIN}    from usb_active import Declaration\n    {declared}\n")
    install(tmp_path, "badplugin", "bad_plugin", "raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.get("acquisition", "installed").__name__ == "Mine"
    (declaration,) = [item for item in registry.declarations() if item.name == "installed"]
    assert declaration.origin == "goodplugin (good_plugin)"
    assert registry.broken["badplugin (bad_plugin)"] == "RuntimeError: no licence"
    with pytest.raises(UsageError, match=r"unknown acquisition 'of_bad_plugin'.*badplugin \(bad_plugin\): RuntimeError: no licence"):
        registry.get("acquisition", "of_bad_plugin")


def test_a_file_has_the_same_module_name_in_every_process(tmp_path):
    # What is pickled in one process (to a loader's worker) must be found under that name in another.
    path = write(tmp_path / "mine.py", "x = 1\n")
    code = f"from pathlib import Path; from usb_active.contracts.registry import import_file as f; print(f(Path({str(path)!r})).__name__)"
    names = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert len(names) == 1 and "mine" in names.pop()
