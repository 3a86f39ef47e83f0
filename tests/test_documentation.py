"""What the documents say is true: their examples run, their commands and links exist, their tables are complete."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import killer
import numpy as np
import pytest
import run_helpers
import torch
import yaml
from run_helpers import ALGORITHMS, ROOT, checkpoint, command, settings, train

import usb_active
from usb_active.builtin.array_datasets import Digits
from usb_active.builtin.label_exchange import FORMATS
from usb_active.cli import build_parser
from usb_active.config.settings import ActiveConfig, ActiveKeys, PriorSettings, config_from_dict, load_yaml_config
from usb_active.config.usb_keys import IGNORED
from usb_active.contracts.acquisition import Acquisition
from usb_active.contracts.registry import CONTRACTS, REGISTRY

README, CONTRIBUTING, CHANGELOG = (ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG"))
PAGES = sorted((ROOT / "docs").glob("*.md"))
# What users read.
GUIDE = (README, *PAGES)
DOCUMENTS = (*GUIDE, CONTRIBUTING, CHANGELOG)


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def named_block(path: Path, language: str, name: str) -> str:
    """The one block whose first line is a comment with this name."""
    (block,) = [text for text in blocks(path, language) if text.startswith(f"# {name}\n")]
    return block


def commands(path: Path) -> Iterator[list[str]]:
    """Every `usb-active …` that a document names: in consoles, and between backticks; without what follows a redirection."""
    text = path.read_text(encoding="utf-8")
    lines = [line for block in blocks(path, "console") for line in block.replace("\\\n", " ").splitlines()]
    for piece in (*lines, *re.findall(r"`([^`\n]+)`", text)):
        for part in re.split(r"&&|\||>", piece):
            words = shlex.split(part, comments=True)
            if words[:1] == ["usb-active"] and len(words) > 1:
                yield words[1:]


def guide() -> str:
    """The whole text that users read."""
    return "\n".join(path.read_text(encoding="utf-8") for path in GUIDE)


def table_names() -> set[str]:
    """What stands in backticks in the first cell of a table's row."""
    return set(re.findall(r"^\| *`(\w+)` *\|", guide(), re.MULTILINE))


# ------------------------------------------------------------------------------------------------- links and commands


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_place_for_a_figure_is_still_empty(path):
    """`@SHARE@` stands where a measured value is to come."""
    assert re.findall(r"@[A-Z][A-Z0-9_]*@", path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_and_headings_exist(path):
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    broken = []
    for link in links:
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(link)
    assert not broken


def headings(path: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_parses(path):
    for words in commands(path):
        # In a sentence a command may be named alone.
        words = [*words, "--help"] if len(words) == 1 else words
        try:
            build_parser().parse_args(words)
        except SystemExit as stop:
            assert stop.code == 0, f"{path.name}: usb-active {shlex.join(words)}"


def test_the_guide_names_every_command_and_flag_and_no_other():
    parser = build_parser()
    (subparsers,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert set(subparsers.choices) <= {words[0] for path in GUIDE for words in commands(path)}
    text = guide()
    flags = {flag for command in subparsers.choices.values() for action in command._actions for flag in action.option_strings}
    assert {"--set", "--skip", "--csv", "--out", "--check", "--data", "--verbose"} <= flags
    assert not {flag for flag in flags - {"-h", "--help", "-v"} if f"{flag} " not in text and f"{flag}`" not in text}


def test_the_guide_tells_every_exit_code():
    from usb_active import cli

    for code in (cli.OK, cli.FAILED, cli.WRONG_USE, cli.WAITING, cli.INTERRUPTED):
        assert re.search(rf"^\| {code} \|", guide(), re.MULTILINE)


def test_the_two_commands_are_those_of_the_full_check():
    console = "\n".join(blocks(README, "console"))
    assert 'pip install -e ".[cpu]" && usb-active run yaml_configs/quickstart.yaml\n' in console
    assert 'pip install -e ".[cpu,test]" && pytest\n' in console
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert re.search(r'^pip install .*-e "\.\[cpu,test\]"\npytest$', ci, re.MULTILINE)
    assert (ROOT / "yaml_configs/quickstart.yaml").is_file()


# ------------------------------------------------------------------------------------------------- the guide: the YAML


def yamls() -> list[dict]:
    """Configurations of runs; those of studies are in tests/config/test_study.py."""
    found = [yaml.safe_load(text) for path in GUIDE for text in blocks(path, "yaml")]
    return [data for data in found if "matrix" not in data]


def test_every_yaml_block_of_the_guide_is_valid(tmp_path):
    assert len(yamls()) >= 2
    for data in yamls():
        config = config_from_dict(data, base=tmp_path, source="README.md")
        assert not [line for line in config.warnings if "clip" not in line]


def test_the_guide_explains_every_key_of_the_active_block_with_its_default():
    (full,) = [data["active"] for data in yamls() if set(data["active"]) == set(ActiveConfig.model_fields)]
    optional = {name: field.default for name, field in ActiveKeys.model_fields.items() if not field.is_required()}
    shown = {name: full[name] for name in optional}
    # `budget` is 0 only where there are no cycles, and `threads: null` is torch's own choice.
    assert {**shown, "budget": 0} == optional
    assert {"until_iter", "then", "update_every"} <= set(PriorSettings.__dataclass_fields__) & set(full["prior"])
    lines = named_block(ROOT / "docs/yaml.md", "yaml", "every key of the active: block").splitlines()
    unexplained = [line for line in lines if re.match(r"  \w+:", line) and "  # " not in line]
    assert not unexplained


def test_a_dropped_key_is_one_that_usb_never_reads():
    assert "`clip`" in guide() and "clip" in IGNORED


# ------------------------------------------------------------------------------------------------- the guide: the tables


def listed(kind: str) -> list[str]:
    """What `usb-active list` shows of this package, in a process without the plugins of other tests."""
    lines = command("list", kind).stdout.splitlines()
    return [line.split()[1] for line in lines if line.split()[0] == kind and " usb-active (" in line]


@pytest.mark.parametrize("kind", ["acquisition", "initial_labels", "features", "prior", "pretrainer", "oracle", "dataset", "analysis"])
def test_the_tables_list_everything_that_is_listed(kind):
    names = listed(kind)
    assert names and not set(names) - table_names()


def test_the_tables_list_nothing_else():
    known = {name for kind in CONTRACTS for name in listed(kind)}
    assert not table_names() - known - set(FORMATS)


def test_the_guide_lists_every_format_of_labels():
    assert {f"| {f'`{suffix}`' if suffix else 'a folder'} | `{name}` |" for name, suffix in FORMATS.items()} <= set(
        re.findall(r"^\| [^|]+ \| `[\w-]+` \|", guide(), re.MULTILINE)
    )


def test_the_algorithms_that_the_guide_calls_tested_are_the_tested_ones():
    (row,) = re.findall(r"^Tested: (.+?)\.$", guide(), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", row)) == sorted(ALGORITHMS)


def test_the_changelog_has_this_version():
    assert f"## [{usb_active.__version__}]" in CHANGELOG.read_text(encoding="utf-8")


def test_pictures_are_small():
    pictures = list((ROOT / "docs").glob("*.png"))
    assert pictures and all(path.stat().st_size < 150_000 for path in pictures)


# ------------------------------------------------------------------------------------------------- CONTRIBUTING: the examples


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    """The files of the examples, as a reader would write them."""
    folder = tmp_path_factory.mktemp("examples")
    python = ("target_confidence.py", "flips.py", "discriminative.py", "json_labels.py")
    for language, name in (*(("python", name) for name in python), ("yaml", "target_confidence.yaml")):
        (folder / name).write_text(named_block(CONTRIBUTING, language, name), encoding="utf-8")
    return folder


def run_command(words: list[str]):
    """Run, in this process, what `usb-active run …` would."""
    args = build_parser().parse_args(words)
    assert args.command == "run"
    return train(load_yaml_config(args.config, args.overrides).resolved())


def run_commands() -> list[list[str]]:
    return [words for words in commands(CONTRIBUTING) if words[0] == "run" and "target_confidence.yaml" in words]


@cache
def class_of(name: str) -> type[Acquisition]:
    return REGISTRY.get("acquisition", name)


@pytest.mark.slow
def test_the_example_picks_what_it_says(examples, monkeypatch):
    monkeypatch.chdir(examples)
    session = run_command(run_commands()[0]).session
    assert class_of("target_confidence").__module__.startswith("usb_active_user_")
    first, second = session.run_dir.query(0), session.run_dir.query(1)
    # Independently of the view: the network with the weights of that training, over the pool.
    net = session.config.net.make().build(10, 8, 1).eval()
    net.load_state_dict(checkpoint(session.run_dir.path, 0)["ema_model"])
    images = torch.stack([session.dataset.views.eval(session.dataset.load(i)) for i in range(len(session.dataset))])
    with torch.no_grad():
        top = torch.softmax(net(images)["logits"], dim=1).amax(dim=1).numpy()
    candidates = np.setdiff1d(np.arange(len(top)), first.idx)
    distance = np.abs(top - 0.4)
    assert len(second.idx) == 10 and not np.intersect1d(first.idx, second.idx).size
    assert np.allclose(distance[second.idx], np.sort(distance[candidates])[:10], atol=1e-5)
    # Uniform picks would be farther away.
    assert distance[second.idx].max() < np.quantile(distance[candidates], 0.1)


@pytest.mark.slow
def test_the_observing_example_picks_what_changed_most(examples, monkeypatch):
    monkeypatch.chdir(examples)
    REGISTRY.load_modules([str(examples / "flips.py")])
    cls, seen = class_of("flips"), []
    observe = cls.observe

    def recorded(self, batch):
        seen.append((batch.cycle, batch.idx_ulb.tolist(), batch.probs_weak.argmax(dim=1).tolist()))
        observe(self, batch)

    monkeypatch.setattr(cls, "observe", recorded)
    session = run_command(run_commands()[1]).session
    assert [cycle for cycle, *_ in seen] == [0] * 20 + [1] * 20
    last: dict[int, int] = {}
    flips = dict.fromkeys(range(len(session.dataset)), 0)
    for cycle, idx, classes in seen:
        if cycle == 0:
            for sample, predicted in zip(idx, classes, strict=True):
                flips[sample] += sample in last and last[sample] != predicted
                last[sample] = predicted
    first, second = (session.run_dir.query(cycle).idx.tolist() for cycle in (0, 1))
    counts = sorted((flips[i] for i in flips if i not in first), reverse=True)
    assert [flips[i] for i in second] == counts[:10]


@pytest.mark.slow
def test_the_example_that_brings_labels_begins_with_them(examples, monkeypatch):
    monkeypatch.chdir(examples)
    keys = Digits().keys
    (words,) = [words for words in run_commands() if "save_name=json_labels" in words]
    for given, said in (({"digits/9999": "3"}, "'digits/9999': '3': not a key of the pool"), ({keys[7]: "ten"}, "'ten': not a key of")):
        (examples / "labels.json").write_text(json.dumps(given), encoding="utf-8")
        with pytest.raises(usb_active.UsageError, match=f"labels.json: .*{said}"):
            run_command(words)
    given = {keys[idx]: str(idx % 10) for idx in (7, 400, 21, 1300, 12)}
    (examples / "labels.json").write_text(json.dumps(given), encoding="utf-8")
    session = run_command(words).session
    rows = run_helpers.labels_of(session.run_dir.path)[1:]
    assert {row[2]: row[3] for row in rows[:5]} == given and {row[5] for row in rows[:5]} == {"json_labels"}
    assert session.run_dir.query(0).idx.tolist() == [7, 400, 21, 1300, 12]
    assert {row[5] for row in rows[5:]} == {"target_confidence"} and len(rows) == 15


KILL_AFTER = """
import os, signal
from usb_active.pool import epoch_training as pretraining_loop

_write = pretraining_loop.write_checkpoint


def write(path, state):
    _write(path, state)
    if os.environ.get("USB_ACTIVE_TEST_POINT") == f"epoch {state['epoch']}":
        os.kill(os.getpid(), signal.SIGKILL)


pretraining_loop.write_checkpoint = write
"""


@pytest.mark.slow
def test_the_example_that_trains_inside_select_resumes_where_it_was_killed(examples, monkeypatch):
    monkeypatch.chdir(examples)
    (examples / "kill_after.py").write_text(KILL_AFTER, encoding="utf-8")
    (overrides,) = [words[2:] for words in run_commands() if "save_name=discriminative" in words]
    data = load_yaml_config("target_confidence.yaml", [override for override in overrides if override != "--set"]).resolved()
    data["plugins"].append(str(examples / "kill_after.py"))
    whole = killer.finish({**data, "save_name": "whole"})
    killed = {**data, "save_name": "killed"}
    for epoch in (1, 4, 10):
        assert killer.run(killed, f"epoch {epoch}").code == killer.KILLED
        lines = (killer.directory(killed) / "scratch/cycle_001/discriminative.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == epoch and not (killer.directory(killed) / "queries/cycle_001.json").exists()
    went_on = killer.finish(killed)
    killer.assert_same_end(whole, went_on, cycle=1)
    states = [torch.load(path / "scratch/cycle_001/discriminative.pth", weights_only=True) for path in (whole, went_on)]
    assert all(torch.equal(value, states[1]["net"][name]) for name, value in states[0]["net"].items())
    assert [line["loss"] for line in states[0]["log"]] == [line["loss"] for line in states[1]["log"]]
    # It has learned something, and what it picks is what it takes for unlabelled.
    assert states[0]["log"][-1]["loss"] < states[0]["log"][0]["loss"]
    random = killer.finish({**data, "save_name": "random", "active": {**data["active"], "acquisition": "random"}})
    assert run_helpers.labels_of(random)[21:] != run_helpers.labels_of(whole)[21:]


@pytest.mark.slow
def test_the_tests_of_the_examples_pass(examples, tmp_path):
    """The steps of "In this repository", done in a copy: two modules, a declaration, an entry point, the contract tests."""
    package = tmp_path / "plugins" / "target_confidence"
    package.mkdir(parents=True)
    split_example((examples / "target_confidence.py").read_text(encoding="utf-8"), package)
    (package / "__init__.py").write_text(named_block(CONTRIBUTING, "python", "plugins/target_confidence/__init__.py"), encoding="utf-8")
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "flips.py").write_text((examples / "flips.py").read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("tests/plugins/target_confidence/test_acquisitions.py", "test_flips.py"):
        (tests / Path(name).name).write_text(named_block(CONTRIBUTING, "python", name), encoding="utf-8")
    site = installed(tmp_path, "example", blocks(CONTRIBUTING, "toml")[0])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)}

    def python(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)

    shown = python("-m", "usb_active", "list", "acquisition", "--check").stdout
    assert re.search(r"^acquisition  target_confidence +top probability nearest to a target +example ", shown, re.MULTILINE), shown
    assert re.search(r" 0 broken$", shown.strip()), shown
    # Without this repository's settings: one process, and no plugin that an option would have to configure.
    result = python("-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--rootdir", str(tests), str(tests))
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"[34]\d passed", result.stdout), result.stdout


@pytest.mark.slow
def test_the_first_example_passes_the_inherited_suite_in_an_empty_folder(tmp_path):
    """As .ci/run does it with the wheel: nothing of this repository is at hand but the package."""
    subprocess.run([sys.executable, str(ROOT / ".ci" / "example"), str(tmp_path)], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"target_confidence.py", "target_confidence.yaml", "test_target_confidence.py"}

    def pytest_here() -> subprocess.CompletedProcess:
        words = ["-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--rootdir", ".", "."]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True)

    result = pytest_here()
    assert result.returncode == 0 and re.search(r"1\d passed", result.stdout), result.stdout + result.stderr
    # A mistake in the example is found there, and shown with its values.
    path = tmp_path / "target_confidence.py"
    path.write_text(path.read_text(encoding="utf-8").replace("budget, view.rng", "1, view.rng"), encoding="utf-8")
    result = pytest_here()
    assert result.returncode == 1 and "select returned 1 samples where 7 were asked for" in result.stdout, result.stdout


@pytest.mark.slow
def test_the_example_of_the_readme_picks_what_it_says(tmp_path):
    (block,) = blocks(README, "python")
    (tmp_path / "brightest.py").write_text(block, encoding="utf-8")
    data = settings(tmp_path, active={"acquisition": "brightest"}, plugins=[str(tmp_path / "brightest.py")])
    session = train(data).session
    first, second = (session.run_dir.query(cycle).idx.tolist() for cycle in (0, 1))
    dataset = session.dataset
    brightness = np.array([float(dataset.views.eval(dataset.load(i)).mean()) for i in range(len(dataset))])
    others = np.setdiff1d(np.arange(len(dataset)), [*first, *second])
    assert len(second) == 10 and brightness[second].min() >= brightness[others].max()


def split_example(text: str, package: Path) -> None:
    """The function to functional.py, the class without its decorator to acquisitions.py, as CONTRIBUTING says."""
    (function,) = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    (cls,) = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    source = ast.get_source_segment(text, function)
    start = text.index("@register_plugin")
    assert cls.decorator_list and text[start:].startswith('@register_plugin("acquisition", "target_confidence")\n')
    head = text[:start].replace(source, "").replace(", register_plugin", "")
    head += f"from usb_active.plugins.target_confidence.functional import {function.name}\n\n\n"
    (package / "functional.py").write_text(f"import numpy as np\n\n\n{source}\n", encoding="utf-8")
    (package / "acquisitions.py").write_text(head + text[start:].partition("\n")[2], encoding="utf-8")


def installed(folder: Path, name: str, entry_points: str) -> Path:
    """A folder that makes a distribution of the entry points, and `folder`/plugins a part of `usb_active.plugins`."""
    site = folder / "site"
    info = site / f"{name}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n", encoding="utf-8")
    group = re.search(r'^\[project\.entry-points\."([\w.]+)"\]\n(.+)', entry_points, re.DOTALL)
    (info / "entry_points.txt").write_text(f"[{group[1]}]\n{group[2].replace(chr(34), '')}", encoding="utf-8")
    # Run when the interpreter starts.
    extend = f"import usb_active.plugins\nusb_active.plugins.__path__.append({str(folder / 'plugins')!r})\n"
    (site / "sitecustomize.py").write_text(extend, encoding="utf-8")
    return site
