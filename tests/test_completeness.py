"""Nothing is declared that does not work, nothing ships that does not load, and the rooms keep their doors shut."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from run_helpers import ALGORITHMS

from usb_active.config.settings import load_yaml_config
from usb_active.contracts.registry import CONTRACTS, GROUP, REGISTRY, Declaration, resolve
from usb_active.loop.setup import build_parts
from usb_active.storage.yaml_input import RECIPES, STUDIES
from usb_active.testing import SUITES

ROOT = Path(__file__).resolve().parent.parent
CORE, PLUGINS, CONFIGS, TESTS = ROOT / "usb_active", ROOT / "plugins", ROOT / "yaml_configs", ROOT / "tests"
# Recipes and studies are no configurations: tests/config/test_recipes.py, tests/config/test_study.py.
YAMLS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in (RECIPES, STUDIES))
# Their data comes with the package's dependencies; that of the others may not be on this machine.
EMBEDDED = {"digits"}


# The modules of the package that declare plugins; others may be installed beside it.
DECLARING = sorted({entry.value for entry in entry_points(group=GROUP) if entry.value.startswith("usb_active.")})


def relative(paths) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def declared() -> list[Declaration]:
    """What the package declares: its own entry points, read where they stand."""
    return [declaration for name in DECLARING for declaration in importlib.import_module(name).PLUGINS]


def folder_of(declaration: Declaration) -> str:
    """`baselines` for a plugin of plugins/baselines, "" for the core's."""
    match = re.match(r"usb_active\.plugins\.(\w+)", declaration.target)
    return match[1] if match else ""


DECLARED = declared()
METHODS = [declaration for declaration in DECLARED if declaration.kind == "acquisition" and folder_of(declaration)]


def by_name(declaration: Declaration) -> str:
    return f"{declaration.kind}-{declaration.name}"


# ------------------------------------------------------------------------------------------------- configurations


def test_there_is_something_to_check():
    assert {"quickstart.yaml", "margin.yaml"} <= {path.name for path in YAMLS}
    assert {"random", "coreset"} <= {declaration.name for declaration in METHODS}


@pytest.mark.parametrize("path", YAMLS, ids=relative(YAMLS))
def test_every_yaml_is_valid_and_says_what_it_is(path):
    assert re.match(r"# \S.{20,}\n", path.read_text(encoding="utf-8")), "must begin with a comment line that says what it is"
    config = load_yaml_config(path)
    assert config.base == path.parent
    if config.dataset.name in EMBEDDED:
        build_parts(config)


def test_no_two_yamls_write_into_one_run():
    runs: dict[Path, list[str]] = {}
    for path in YAMLS:
        runs.setdefault(load_yaml_config(path).run_path, []).append(path.relative_to(ROOT).as_posix())
    assert not [paths for paths in runs.values() if len(paths) > 1]


# ------------------------------------------------------------------------------------------------- plugins


@pytest.mark.slow
@pytest.mark.parametrize("declaration", DECLARED, ids=by_name)
def test_every_declared_plugin_imports_and_fulfils_its_contract(declaration):
    cls = REGISTRY.get(declaration.kind, declaration.name)
    # USB's targets are packages, that take the class from a module of theirs.
    assert f"{cls.__module__}.".startswith(f"{declaration.target.partition(':')[0]}.")


def test_no_entry_point_of_ours_is_broken():
    REGISTRY.discover()
    assert not {origin: error for origin, error in REGISTRY.broken.items() if "usb_active" in origin}


@pytest.mark.parametrize("declaration", DECLARED, ids=by_name)
def test_every_declaration_can_be_listed(declaration):
    assert declaration.kind in CONTRACTS and re.fullmatch(r"[a-z][a-z0-9_]*", declaration.name)
    assert 0 < len(declaration.summary) <= 100 and "\n" not in declaration.summary


@pytest.mark.parametrize("declaration", METHODS, ids=by_name)
def test_every_method_has_a_configuration(declaration):
    folder = CONFIGS / folder_of(declaration)
    used = {name for path in folder.glob("*.yaml") for name in acquisitions(path)}
    assert declaration.name in used, f"no YAML in {folder.relative_to(ROOT)} has `acquisition: {declaration.name}`"


def acquisitions(path: Path) -> set[str]:
    """The acquisitions (the initial one too) that a YAML names."""
    active = yaml.safe_load(path.read_text(encoding="utf-8"))["active"]
    given = [active[role] for role in ("acquisition", "initial") if role in active]
    return {item if isinstance(item, str) else item["name"] for item in given}


@pytest.mark.parametrize("declaration", METHODS, ids=by_name)
def test_every_method_has_the_contract_tests(declaration):
    assert declaration.name in contract_tests(TESTS / "plugins" / folder_of(declaration))


# Of USB's networks, one plugin with nine sizes, those that a CPU can pay for: one of each family.
SMALL_NETWORKS = {"wrn_28_2", "vit_tiny_patch2_32", "resnet50"}


def is_untested(declaration: Declaration) -> bool:
    """USB's algorithms beyond those that the README calls tested (some do not run on a CPU), and its large networks."""
    if declaration.kind == "network" and declaration.target.endswith(":UsbNetwork"):
        return declaration.name not in SMALL_NETWORKS
    return declaration.kind == "algorithm" and not folder_of(declaration) and declaration.name not in ALGORITHMS


def suite_of(kind: str) -> str:
    """`InitialLabelsContract` for "initial_labels"."""
    return f"{kind.title().replace('_', '')}Contract"


# Every plugin that the package declares, its own or the core's; the methods have a test above.
WITH_SUITES = [d for d in DECLARED if d.kind != "acquisition" and not is_untested(d)]


@pytest.mark.parametrize("declaration", WITH_SUITES, ids=by_name)
def test_every_plugin_inherits_the_suite_of_its_kind(declaration):
    folder = TESTS / "plugins" / folder_of(declaration) if folder_of(declaration) else TESTS
    suite = suite_of(declaration.kind)
    assert suite in SUITES and declaration.name in contract_tests(folder, suite)


@cache
def contract_tests(folder: Path, suite: str = "AcquisitionContract") -> frozenset[str]:
    """The names of the plugins whose test class inherits the suite, directly or through a class of the same file."""
    found = set()
    for path in folder.rglob("test_*.py"):
        classes = {node.name: node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)}
        tests = [node for node in classes.values() if node.name.startswith("Test") and inherits(node, classes, suite)]
        found |= {name for node in tests for name in names_of(node)}
    return frozenset(found)


def inherits(node: ast.ClassDef, classes: dict[str, ast.ClassDef], suite: str) -> bool:
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return any(base == suite or (base in classes and inherits(classes[base], classes, suite)) for base in bases)


def names_of(node: ast.ClassDef) -> list[str]:
    """What stands after `name =` in a class, also in `name, img_size = "x", 8`."""
    pairs = []
    for item in node.body:
        if isinstance(item, ast.Assign):
            target = item.targets[0]
            both = zip(target.elts, item.value.elts, strict=True) if isinstance(target, ast.Tuple) else [(target, item.value)]
            pairs += both
    return [value.value for target, value in pairs if getattr(target, "id", "") == "name" and isinstance(value, ast.Constant)]


@pytest.mark.parametrize("declaration", METHODS, ids=by_name)
def test_every_method_has_a_row_in_the_table_of_methods(declaration):
    rows = re.findall(r"^\| *`(\w+)` *\|", (ROOT / "docs/methods.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert declaration.name in rows, f"docs/methods.md: no row `| `{declaration.name}` |` in a table"


@pytest.mark.slow
def test_the_algorithms_declared_are_those_of_usb():
    import semilearn.algorithms  # noqa: F401 — fills the registry
    from semilearn.core.utils import ALGORITHMS

    ours = {declaration.name for declaration in DECLARED if declaration.kind == "algorithm" and not folder_of(declaration)}
    # What tests of this process have registered stands elsewhere.
    theirs = {name for name in ALGORITHMS.keys() if ALGORITHMS[name].__module__.startswith("semilearn.")}
    assert ours == theirs


# ------------------------------------------------------------------------------------------------- what imports what


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file of the package imports, anywhere in it; `from a import b` counts as a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def test_imports_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text("import a.b as c\ndef f():\n    from d import e\n    import semilearn\n")
    assert set(imports(path)) == {"a.b", "d.e", "semilearn"}


def test_the_core_imports_no_plugin():
    guilty = [path for path in modules_below(CORE) if any(name.startswith("usb_active.plugins") for name in imports(path))]
    assert not relative(guilty)


def test_the_core_names_no_plugin():
    names = {declaration.name for declaration in DECLARED if folder_of(declaration)} | {folder_of(d) for d in DECLARED} - {""}
    # `active.baselines` is a key of the core, which shares its name with the folder `plugins/baselines`.
    names -= {"baselines"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path in modules_below(CORE) for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and node.value in names
    ]  # fmt: skip
    assert not found


# Where a configuration names a plugin, and of which kinds; what stands there beside a plugin's own keys is the core's.
PLACES = {
    "dataset": ("dataset",), "net": ("network",), "active.initial": ("acquisition", "initial_labels"),
    "active.acquisition": ("acquisition",), "active.prior": ("prior",), "active.analysis": ("analysis",),
    "active.pretrain": ("pretrainer",), "active.oracle": ("oracle",), "active.features": ("features",),
}  # fmt: skip
CORES_KEYS = {"name", "features", "size", "until_iter", "then", "update_every"}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the strings of a file, parts of f-strings and docstrings too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def keys_of_plugins(kind: str) -> set[str]:
    """The keys that the package's plugins of a kind declare, without those that give a plugin what its contract asks for."""
    classes = [REGISTRY.get(kind, declaration.name) for declaration in DECLARED if declaration.kind == kind]
    return {name for cls in classes for name in cls.Config.model_fields} - set(dir(resolve(CONTRACTS[kind][0])))


def test_the_core_names_no_key_of_a_plugin():
    own = {place: set().union(*map(keys_of_plugins, kinds)) - CORES_KEYS for place, kinds in PLACES.items()}
    assert "num_workers" in own["active.pretrain"] and "accept_partial" in own["active.oracle"]
    assert {"k", "path"} <= own["active.initial"] and "path" not in own["active.acquisition"]
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, PLACES))})\.(\w+)")
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in modules_below(CORE) for line, text in texts(path)
        if any(key in own[place] for place, key in pattern.findall(text))
    ]  # fmt: skip
    assert not found


def test_the_core_lists_no_sources_of_features():
    names = {declaration.name for declaration in DECLARED if declaration.kind == "features"}
    together = re.compile(rf"\b({'|'.join(names)})\b(, | or )({'|'.join(names)})\b")
    files = modules_below(CORE)
    listed = [f"{path.relative_to(ROOT)}:{line}: {text!r}" for path in files for line, text in texts(path) if together.search(text)]
    # The other names are words for more than a source.
    telling = names - {"file", "model", "pretrain"}
    compared = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files for node in ast.walk(tree(path)) if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators) if isinstance(side, ast.Constant) and side.value in telling
    ]  # fmt: skip
    assert telling
    assert not listed and not compared


def test_semilearn_is_imported_in_one_room_only():
    files = [*modules_below(CORE), *modules_below(PLUGINS)]
    guilty = {path for path in files if any(name.split(".")[0] == "semilearn" for name in imports(path))}
    room = CORE / "usb"
    assert not relative(path for path in sorted(guilty) if room not in path.parents)
    assert guilty, "and there it is"


def test_a_plugin_imports_no_other_plugin():
    found = []
    for path in modules_below(PLUGINS):
        own = path.relative_to(PLUGINS).parts[0]
        others = [name for name in imports(path) if name.startswith("usb_active.plugins") and name.split(".")[2:3] != [own]]
        found += [f"{path.relative_to(ROOT)}: {name}" for name in others]
    assert not found


@pytest.mark.parametrize("module", ["usb_active", "usb_active.cli", *DECLARING])
def test_light_modules_import_neither_torch_nor_semilearn(module):
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {{'torch', 'semilearn', 'faiss', 'sklearn', 'matplotlib'}}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
