"""Analyses: they watch and change nothing, they belong to a run for good, and what they say comes into analysis.md."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import run_helpers
import torch
from PIL import Image
from pydantic import Field

from usb_active import Analysis, PluginConfig, UsageError, register_plugin
from usb_active.contracts.analysis import analysis_folder, check_intervals
from usb_active.report import write_report
from usb_active.storage.artifacts import load_artifact, save_artifact
from usb_active.storage.run_dir import RunDir


@register_plugin("analysis", "noisy_witness")
class NoisyWitness(Analysis):
    """Uses all that an analysis may have, disturbs all generators, and counts what it saw."""

    class Config(PluginConfig):
        interval: int = Field(5, ge=1)
        fault: str = ""

    needs = frozenset({"probs"})
    batch_fields = frozenset({"probs_weak"})
    least_intervals = 2

    def __init__(self, config=None):
        super().__init__(config)
        self.steps = 0

    @property
    def interval(self):
        return self.config.interval

    def setup(self, info):
        disturb()
        self.steps, self.cycle = 0, info.cycle

    def observe(self, batch):
        disturb()
        self.steps += len(batch.probs_weak) > 0

    def on_interval(self, view):
        disturb()
        save_artifact(self.folder / f"{view.cycle}_{self.steps:02d}", view.probs[view.unlabeled].mean(axis=0))

    def after_run(self, algorithm):
        save_artifact(self.folder / f"{self.cycle}_end", np.array([self.steps]))

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]

    def report(self, run, out):
        if self.config.fault == "nothing":
            return None
        if self.config.fault:
            raise {"usage": UsageError, "other": KeyError}[self.config.fault](f"no file | in {run.path.name}\nat all")
        Image.new("L", (2, 2)).save(out / "dot.png")
        Image.new("L", (2, 2)).save(out / "not_shown.png")
        found = load_artifact(analysis_folder(run.path) / "0_end")
        return f"{self.name} saw {int(found[0])} steps.\n\n![dot]({out.name}/dot.png)"


def disturb():
    torch.manual_seed(random.randrange(1000))
    np.random.seed(7)
    torch.rand(3), np.random.rand(2), random.random()


def active(**more):
    return {"analysis": {"name": "noisy_witness", **more.pop("own", {})}, **more}


def lines_of(run: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in RunDir.read(run).metrics()]


# ------------------------------------------------------------------------------------------ watching
@pytest.mark.slow
@pytest.mark.parametrize("usb", [{}, {"algorithm": "freematch", "num_workers": 1}], ids=["flexmatch", "freematch"])
def test_with_or_without_it_is_the_same_run_to_the_bit(tmp_path, usb):
    more = {"cycles": 2, "keep": "all", "acquisition": {"name": "margin"}}
    watched = run_helpers.train(run_helpers.settings(tmp_path, "watched", active=active(**more), **usb))
    run_helpers.train(run_helpers.settings(tmp_path, "alone", active=more, **usb))
    one, other = tmp_path / "watched", tmp_path / "alone"
    for cycle in range(3):
        assert run_helpers.weights_equal(run_helpers.checkpoint(one, cycle), run_helpers.checkpoint(other, cycle))
        assert RunDir.read(one).query(cycle).idx.tolist() == RunDir.read(other).query(cycle).idx.tolist()
    assert run_helpers.labels_of(one) == run_helpers.labels_of(other) and lines_of(one) == lines_of(other)
    # And it did watch: twelve steps per cycle, at intervals of five.
    expected = [f"{cycle}_{when}.npy" for cycle in range(3) for when in ("05", "10", "end")]
    assert sorted(path.name for path in analysis_folder(one).iterdir()) == expected
    assert watched.session.plugins["analysis"].steps == 12
    assert run_helpers.checkpoint(one, 1)["active"]["plugins"]["analysis"] == {"steps": 12}
    assert not analysis_folder(other).exists()


def test_a_step_must_have_what_it_needs(tmp_path):
    with pytest.raises(UsageError, match=r"active\.analysis: 'noisy_witness': needs probs_weak of every step, but algorithm 'supervised'"):
        run_helpers.train(run_helpers.settings(tmp_path, algorithm="supervised", active=active(cycles=0)))


@pytest.mark.parametrize(
    ("interval", "steps", "valid"), [(7, 12, "at most 6"), (5000, 5120, "at most 2560"), (1, 1, "train at least 2 steps")]
)
def test_too_few_intervals_are_refused_before_anything_runs(interval, steps, valid):
    plugin = NoisyWitness(NoisyWitness.Config(interval=interval))
    reason = f"a training of {steps} steps has 1 of them, and 'noisy_witness' needs 2; {valid}"
    message = f"a.yaml: active.analysis.interval: {interval}: {reason}"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        check_intervals("a.yaml", plugin, steps)
    check_intervals("a.yaml", plugin, 2 * interval)
    check_intervals("a.yaml", Analysis(), 1)


def test_check_asks_for_the_intervals(tmp_path):
    from usb_active.commands.run import check

    data = run_helpers.settings(tmp_path, active=active(own={"interval": 7}))
    with pytest.raises(UsageError, match="active.analysis.interval: 7: a training of 12 steps"):
        check(run_helpers.config_of(data))
    assert check(run_helpers.config_of(run_helpers.settings(tmp_path, active=active()))) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of one training, watched."""
    folder = tmp_path_factory.mktemp("finished")
    run_helpers.train(run_helpers.settings(folder, active=active(cycles=0)))
    return folder / "run"


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"analysis": None}, r'active.analysis.name: "noisy_witness" -> \(not set\)'),
        (active(own={"interval": 4}), "active.analysis.interval: 5 -> 4"),
    ],
)
def test_a_run_keeps_its_analysis(finished, changed, shown):
    data = run_helpers.settings(finished.parent, active={"cycles": 0, **changed})
    with pytest.raises(UsageError, match=f"(?s)holds a run of another configuration.*{shown}"):
        run_helpers.train(data)


def test_a_run_that_began_without_cannot_be_watched_from_the_middle(tmp_path):
    run_helpers.train(run_helpers.settings(tmp_path, active={"cycles": 0}))
    with pytest.raises(UsageError, match=r'(?s)another configuration.*active.analysis.name: \(not set\) -> "noisy_witness"'):
        run_helpers.train(run_helpers.settings(tmp_path, active=active(cycles=0)))


# ------------------------------------------------------------------------------------------ several
@register_plugin("analysis", "loss_witness")
class LossWitness(NoisyWitness):
    """The same, from labelled batches, under another name."""

    batch_fields = frozenset({"logits_lb"})

    def report(self, run, out):
        Image.new("L", (3, 3)).save(out / "dot.png")
        found = load_artifact(self.folder / "0_end")
        return f"{self.name} saw {int(found[0])} steps.\n\n![dot]({out.name}/dot.png)"


SEVERAL = [{"name": "loss_witness", "interval": 4}, {"name": "loss_witness", "interval": 6}, {"name": "loss_witness", "interval": 3}]


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """A run of two trainings with three analyses."""
    folder = tmp_path_factory.mktemp("several")
    run_helpers.train(run_helpers.settings(folder, active={"analysis": SEVERAL, "keep": "all"}))
    return folder / "run"


def test_several_analyses_change_no_bit_and_have_states_and_files_of_their_own(tmp_path, several):
    run_helpers.train(run_helpers.settings(tmp_path, "alone", active={"keep": "all"}))
    for cycle in (0, 1):
        assert run_helpers.weights_equal(run_helpers.checkpoint(several, cycle), run_helpers.checkpoint(tmp_path / "alone", cycle))
    assert run_helpers.labels_of(several) == run_helpers.labels_of(tmp_path / "alone") and lines_of(several) == lines_of(tmp_path / "alone")
    states = run_helpers.checkpoint(several, 1)["active"]["plugins"]
    assert {role: state for role, state in states.items() if state} == {f"analysis[{number}]": {"steps": 12} for number in range(3)}
    folders = {path.name: sorted(file.name for file in path.iterdir()) for path in (several / "analysis").iterdir()}
    expected = {f"{n}_loss_witness": [f"{c}_{s:02d}.npy" for c in (0, 1) for s in range(i, 13, i)] for n, i in enumerate((4, 6, 3))}
    assert {name: [file for file in files if "end" not in file] for name, files in folders.items()} == expected


def test_a_run_with_several_resumes(tmp_path, several):
    whole = run_helpers.settings(tmp_path, "whole", active={"analysis": SEVERAL, "cycles": 2, "keep": "all"})
    run_helpers.train(whole)
    shutil.copytree(several, tmp_path / "run")
    run_helpers.train({**whole, "save_name": "run"})
    one, other = ({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name / "analysis").rglob("*.npy")}
                  for name in ("whole", "run"))  # fmt: skip
    assert one == other and len(one) == 3 * (3 + 2 + 4 + 3)


def test_every_one_of_several_has_its_section(several, tmp_path):
    files, text = page_of(several, out=tmp_path / "out")
    for number in range(3):
        assert (several / f"analysis/{number}_loss_witness").is_dir()
        figure = f"analysis_run_{number}/dot.png"
        said = f"\n\n## {several}: loss_witness\n\nloss_witness saw 12 steps.\n\n![dot]({figure})\n"
        assert said in text and tmp_path / "out" / figure in files


def test_each_of_several_is_checked_under_its_own_key(tmp_path):
    from usb_active.commands.run import check

    data = run_helpers.settings(tmp_path, active={"analysis": [SEVERAL[0], {"name": "noisy_witness", "interval": 7}]})
    with pytest.raises(UsageError, match=r"active.analysis\[1\].interval: 7: a training of 12 steps"):
        check(run_helpers.config_of(data))
    data = run_helpers.settings(tmp_path, algorithm="pseudolabel", active={"analysis": [SEVERAL[0], "needy_witness"]})
    with pytest.raises(UsageError, match=r"analysis\[1\]: 'needy_witness': needs logits_strong"):
        check(run_helpers.config_of(data))


@register_plugin("analysis", "needy_witness")
class NeedyWitness(LossWitness):
    """Needs a strong view."""

    batch_fields = frozenset({"logits_strong"})


# ------------------------------------------------------------------------------------------ reporting
def no_dataset(run):
    raise UsageError("not here")


def page_of(*runs: Path, out: Path | None = None, trusted: bool = False) -> tuple[list[Path], str]:
    files = write_report(runs, out, analysis=True, trusted=trusted, dataset_of=no_dataset)
    (page,) = [path for path in files if path.name == "analysis.md"]
    return files, page.read_text(encoding="utf-8")


def copied(run: Path, target: Path, **own) -> Path:
    """A run directory as the report knows it, with other keys of its analysis."""
    config = RunDir.read(run).config
    config["active"]["analysis"] |= own
    target.mkdir(parents=True)
    run_helpers.write_yaml(target / "config.yaml", config)
    (target / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    return target


def test_the_section_of_a_run(finished):
    files, text = page_of(finished)
    folder = finished / "report"
    assert files[-2:] == [folder / "analysis.md", folder / "analysis_run" / "dot.png"]
    assert text.startswith("# Analyses: digits, flexmatch")
    assert f"\n\n## {finished}\n\nnoisy_witness saw 12 steps.\n\n![dot](analysis_run/dot.png)\n" in text
    assert "against each other" not in text


def test_without_the_option_there_is_no_page(finished, tmp_path):
    assert "analysis.md" not in {path.name for path in write_report([finished], tmp_path, dataset_of=no_dataset)}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nothing", "'noisy_witness' has nothing to report yet: no training that it watched has finished."),
        ("usage", r"Left out: no file \| in other at all"),
        ("other", r"Left out: KeyError: "),
    ],
)
def test_what_has_no_section_says_why(finished, tmp_path, fault, said):
    broken = copied(finished, tmp_path / "other", fault=fault)
    _, text = page_of(finished, broken, out=tmp_path / "out")
    assert said in text and "noisy_witness saw 12 steps." in text


def test_keys_that_are_wrong_by_now_are_named(finished, tmp_path):
    _, text = page_of(copied(finished, tmp_path / "other", colour="red"))
    assert re.search(r"Left out: .*config.yaml: active.analysis.colour: unknown key", text)


def test_runs_of_one_name_have_figures_of_their_own(finished, tmp_path):
    one, other = (copied(finished, tmp_path / parent / "my run (1)") for parent in "ab")
    for run in (one, other):
        save_artifact(analysis_folder(run) / "0_end", np.array([12]))
    files, text = page_of(one, other, out=tmp_path / "out")
    figures = [path.relative_to(tmp_path / "out").as_posix() for path in files if path.name == "dot.png"]
    assert figures == ["analysis_my_run_1_/dot.png", "analysis_my_run_1___2/dot.png"]
    assert all(f"({figure})" in text for figure in figures)


def test_where_there_is_nothing_one_line_says_what_to_write(tmp_path):
    run_helpers.train(run_helpers.settings(tmp_path, "alone", active={"cycles": 0}))
    with pytest.raises(UsageError, match="nothing to analyse") as caught:
        write_report([tmp_path / "alone"], analysis=True)
    text = str(caught.value)
    assert "\n" not in text and "`analysis: {name: …}` below `active:`" in text and "noisy_witness" in text and "two methods" in text
    assert not (tmp_path / "alone" / "report").exists()


def test_a_plugin_in_a_file_is_found_by_the_report(tmp_path):
    source = (
        "from usb_active import Analysis, register_plugin\n\n\n"
        "@register_plugin('analysis', 'from_a_file')\nclass FromAFile(Analysis):\n"
        "    def report(self, run, out):\n        return f'{len(run.metrics)} trainings'\n"
    )
    (tmp_path / "mine.py").write_text(source)
    config = {"algorithm": "fixmatch", "seed": 0, "dataset": {"name": "digits"}, "plugins": [str(tmp_path / "mine.py")]}
    config["active"] = {"initial": {"name": "random", "size": 10}, "acquisition": None, "analysis": "from_a_file"}
    (tmp_path / "run").mkdir()
    run_helpers.write_yaml(tmp_path / "run" / "config.yaml", config)
    line = '{"cycle": 0, "num_labels": 10, "accuracy": 0.5, "best_accuracy": 0.5, "balanced_accuracy": 0.5, "evaluated_on": "test"}\n'
    (tmp_path / "run" / "metrics.jsonl").write_text(line)
    assert "1 trainings" in page_of(tmp_path / "run", trusted=True)[1]
