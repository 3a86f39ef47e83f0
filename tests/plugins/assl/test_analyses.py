"""ASSL's analyses: what a run keeps is what its model predicted, what the report says are the paper's formulas, killed or not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import killer
import numpy as np
import pytest
import run_helpers
import torch
from PIL import Image
from usb_active.plugins.assl.analyses import TemporalInstability
from usb_active.plugins.assl.observations import read_cycles

from usb_active.contracts.acquisition import TrainBatch
from usb_active.contracts.analysis import analysis_folder
from usb_active.errors import UsageError
from usb_active.report import write_report
from usb_active.storage.run_dir import RunDir

NAME = "temporal_instability"


def settings(folder: Path, name: str = "run", /, own=None, **usb):
    """Twelve steps per cycle, observed at 3, 6, 9 and 12; every sample is visited three or four times."""
    block = {"acquisition": {"name": "margin"}, "analysis": {"name": NAME, "interval": 3, "threshold": 0.3, **(own or {})}}
    return run_helpers.settings(folder, name, active={**block, **usb.pop("active", {})}, **{"algorithm": "fixmatch", "uratio": 50, **usb})


def plugin(**own) -> TemporalInstability:
    made = TemporalInstability(TemporalInstability.Config(**own))
    made.name = NAME
    return made


def info(num_samples=5, cycle=0, num_train_iter=12):
    return SimpleNamespace(num_samples=num_samples, device=torch.device("cpu"), cycle=cycle, num_train_iter=num_train_iter)


def no_dataset(run):
    raise UsageError("not here")


def page_of(run: Path, out: Path | None = None) -> str:
    files = write_report([run], out, analysis=True, dataset_of=no_dataset)
    return next(path for path in files if path.name == "analysis.md").read_text(encoding="utf-8")


def tables_of(text: str) -> dict[str, list[list[str]]]:
    """Heading → the rows of the first table below it, the header first and without the ruler."""
    found = {}
    for part in re.split(r"^#+ ", text, flags=re.M)[1:]:
        table = next((block for block in part.split("\n\n") if block.startswith("|")), "")
        header, *rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()] or [[]]
        found[part.partition("\n")[0]] = [header, *rows[1:]]
    return found


# ------------------------------------------------------------------------------------------ a run, recorded
@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A watched run of two trainings, and everything its analysis was shown: predictions by (cycle, step), and visits."""
    folder, probs, visits = tmp_path_factory.mktemp("recorded"), {}, []
    patch = pytest.MonkeyPatch()
    on_interval, observe = TemporalInstability.on_interval, TemporalInstability.observe

    def recording_interval(self, view):
        on_interval(self, view)
        # Once more and apart: the network itself, a sample at a time.
        load, transform = view.dataset.load, view.dataset.views.eval
        with torch.no_grad():
            images = torch.stack([transform(load(int(i))) for i in view.unlabeled])
            rows = torch.softmax(view.model(images)["logits"].double(), dim=1)
        probs.setdefault(view.cycle, []).append(dict(zip(view.unlabeled.tolist(), rows.tolist(), strict=True)))

    def recording_observe(self, batch):
        observe(self, batch)
        strong = torch.softmax(batch.logits_strong.detach().double(), dim=1)
        visits.append((batch.cycle, batch.idx_ulb.tolist(), batch.probs_weak.double().tolist(), strong.tolist()))

    patch.setattr(TemporalInstability, "on_interval", recording_interval)
    patch.setattr(TemporalInstability, "observe", recording_observe)
    try:
        run_helpers.train(settings(folder))
    finally:
        patch.undo()
    return SimpleNamespace(run=folder / "run", probs=probs, visits=visits)


def u_of(row) -> float:
    """Eq. 1 of one sample."""
    label = int(np.argmax(row))
    return float(np.linalg.norm(np.array(row) - np.eye(len(row))[label]))


def test_what_is_kept_is_what_the_ema_model_predicts(recorded):
    cycles = read_cycles(analysis_folder(recorded.run), 3)
    assert [(cycle.number, cycle.steps) for cycle in cycles] == [(0, (3, 6, 9, 12)), (1, (3, 6, 9, 12))]
    for cycle in cycles:
        seen = recorded.probs[cycle.number]
        # Everybody who is not labelled: 1,343 in the pool, 20 labelled, then ten more.
        assert len(seen) == 4 and len(seen[0]) == len(cycle.instability) == 1323 - 10 * cycle.number
        flips = [sum(np.argmax(a[i]) != np.argmax(b[i]) for a, b in zip(seen, seen[1:], strict=False)) for i in seen[0]]
        assert cycle.instability.tolist() == flips and max(flips) > 0
        np.testing.assert_allclose(cycle.uncertainty, [u_of(row) for row in seen[-1].values()], atol=1e-5)
        for places, found in (((0, 1), cycle.correlations[0]), ((0, 3), cycle.overall)):
            ranks = [np.argsort(np.argsort([u_of(row) for row in seen[place].values()])) for place in places]
            assert found == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-3)
        confident = [sum(max(rows[i]) > 0.3 for rows in seen) / 4 for i in seen[0]]
        np.testing.assert_allclose(cycle.confident, confident)


def test_what_was_watched_is_what_the_steps_showed(recorded):
    for cycle in read_cycles(analysis_folder(recorded.run), 3):
        idx = list(recorded.probs[cycle.number][0])
        labels, uncertainty, inconsistency = {}, dict.fromkeys(idx, 0.0), dict.fromkeys(idx, 0.0)
        for _, rows, weak, strong in (visit for visit in recorded.visits if visit[0] == cycle.number):
            for i, p, q in zip(rows, weak, strong, strict=True):
                labels.setdefault(i, []).append(int(np.argmax(p)))
                kl = sum(0.5 * (a - b) * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))
                if i in uncertainty:
                    uncertainty[i] = 0.8 * u_of(p) + 0.2 * uncertainty[i]
                    inconsistency[i] = 0.8 * kl + 0.2 * inconsistency[i]
        changes = [sum(a != b for a, b in zip(seen, seen[1:], strict=False)) for seen in (labels.get(i, []) for i in idx)]
        assert cycle.watched["visits"].tolist() == [len(labels.get(i, [])) for i in idx]
        assert cycle.watched["changes"].tolist() == changes and max(changes) > 0
        np.testing.assert_allclose(cycle.watched["uncertainty"], list(uncertainty.values()), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(cycle.watched["inconsistency"], list(inconsistency.values()), rtol=1e-2, atol=1e-5)


def test_the_report_shows_what_was_seen(recorded, tmp_path):
    text, cycles = page_of(recorded.run, tmp_path / "out"), read_cycles(analysis_folder(recorded.run), 3)
    tables = tables_of(text)
    correlations = tables["Rank correlation of consecutive observations (Fig. 3b)"]
    assert correlations[0] == ["step", "cycle 0", "cycle 1"] and [row[0] for row in correlations[1:]] == ["6", "9", "12"]
    assert [row[1] for row in correlations[1:]] == [f"{value:.3f}" for value in cycles[0].correlations]
    (summary,) = (rows for rows in tables.values() if rows[0][:1] == ["cycle"] and "of the last u and the first" in rows[0])
    last = summary[0].index("of the last u and the first")
    assert [row[last] for row in summary[1:]] == [f"{cycle.overall:.3f}" for cycle in cycles]
    fig4 = {row[0]: row[1] for row in tables["Uncertainty by temporal instability (Fig. 4)"][1:]}
    for flips in range(4):
        inside = cycles[0].uncertainty[cycles[0].instability == flips]
        if len(inside) > 1:
            assert fig4[str(flips)] == f"{len(inside)}: {inside.mean():.3f} ± {inside.std(ddof=1):.3f}"
    visits = tables["Uncertainty by temporal instability from visits"]
    assert visits[0][0] == "temporal instability from visits" and "Not the paper's TI" in text
    assert sum(int(row[1].partition(":")[0]) for row in visits[1:] if ":" in row[1]) == int((cycles[0].watched["visits"] > 0).sum())
    check_shares(tables["Pseudo-labelled share (Table 1)"], cycles[0])
    for name in ("rank_correlation", "instability", "instability_from_visits"):
        assert f"(analysis_run/{name}.png)" in text
        assert len(np.unique(np.asarray(Image.open(tmp_path / "out" / "analysis_run" / f"{name}.png").convert("L")))) > 10


def check_shares(rows, cycle):
    seen = np.flatnonzero(cycle.watched["visits"] > 0)
    row = dict(zip(rows[0], rows[1], strict=True))
    for name in ("inconsistency", "uncertainty"):
        order = seen[np.argsort(-cycle.watched[name][seen], kind="stable")]
        for percent in (1, 5, 10):
            best = order[: -(-len(seen) * percent // 100)]
            assert float(row[f"{name}: top {percent} %"]) == pytest.approx(100 * cycle.confident[best].mean(), abs=0.006)
    assert rows[-1][0] == "mean" and float(row["all"]) == pytest.approx(100 * cycle.confident[seen].mean(), abs=0.006)


def test_a_lost_observation_is_named(recorded, tmp_path):
    folder = tmp_path / "run"
    copy_run(recorded.run, folder)
    (analysis_folder(folder) / "cycle_001_step_00000006.npz").unlink()
    assert re.search(r"Left out: \S+cycle_001_step_00000006 is gone: .*restore it from a copy", page_of(folder))


def test_a_training_that_has_not_ended_is_not_reported(recorded, tmp_path):
    copy_run(recorded.run, tmp_path / "run")
    (analysis_folder(tmp_path / "run") / "cycle_001_training.npz").unlink()
    assert "cycle 0" in page_of(tmp_path / "run") and "cycle 1" not in page_of(tmp_path / "run")
    (analysis_folder(tmp_path / "run") / "cycle_000_training.npz").unlink()
    assert f"'{NAME}' has nothing to report yet" in page_of(tmp_path / "run")


def copy_run(run: Path, target: Path) -> None:
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("report", "*.pth"))


# ------------------------------------------------------------------------------------------ with less to watch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "watch", "sections"), [("pseudolabel", "uncertainty", 4), ("supervised", "nothing", 2)], ids=["uncertainty", "nothing"]
)
def test_algorithms_without_the_views_are_watched_as_far_as_it_goes(tmp_path, algorithm, watch, sections):
    data = settings(tmp_path, own={"watch": watch}, algorithm=algorithm, active={"cycles": 0})
    with pytest.raises(UsageError, match=f"analysis: '{NAME}': needs .*logits_strong.*it has no strong view"):
        run_helpers.train(settings(tmp_path, "refused", algorithm=algorithm, active={"cycles": 0}))
    run_helpers.train(data)
    text = page_of(tmp_path / "run")
    assert text.count("\n### ") == sections and "inconsistency" not in text
    assert ("uncertainty: top 1 %" in text) is (watch == "uncertainty")


def test_a_plan_with_too_few_steps_is_warned_of_and_said(tmp_path, caplog):
    """An algorithm with a plan of its own says how long it trains when it is too late to refuse."""
    watcher = plugin(interval=5)
    watcher.folder = tmp_path
    for cycle, steps in enumerate((4, 9)):
        watcher.setup(info(cycle=cycle, num_train_iter=steps))
        if steps == 9:
            observe(watcher, 4, [0], [[0.9, 0.1]])
            watcher.on_interval(view(cycle))
        watcher.after_run(None)
    assert caplog.messages[0] == f"analysis '{NAME}': cycle 0 trains 4 steps: with interval 5 there is nothing to compare"
    text = watcher.report(SimpleNamespace(path=moved(tmp_path)), tmp_path)
    assert text.endswith("Cycles with fewer than two observations or no unlabelled sample, of which nothing can be said: 0, 1.")


def test_without_unlabelled_samples_nothing_is_said_of_them(tmp_path):
    watcher = plugin(interval=1)
    watcher.folder = tmp_path
    watcher.setup(info(num_train_iter=2))
    for step in range(2):
        observe(watcher, step, [0], [[0.9, 0.1]])
        watcher.on_interval(view(0, (), ()))
    watcher.after_run(None)
    text = watcher.report(SimpleNamespace(path=moved(tmp_path)), tmp_path)
    assert text.endswith("or no unlabelled sample, of which nothing can be said: 0.") and "|" not in text


def moved(folder: Path) -> Path:
    """A run directory whose analysis folder is this one."""
    (folder / "run").mkdir()
    (folder / "run" / "analysis").symlink_to(folder)
    return folder / "run"


def view(cycle: int, probs=((0.96, 0.04), (0.5, 0.5)), idx=(1, 3)):
    """Two unlabelled samples and what the model says of them, one sample per batch."""
    stream = [(np.array([i]), {"probs": np.array([[row]], dtype=np.float32)}) for i, row in zip(idx, probs, strict=True)]
    return SimpleNamespace(cycle=cycle, num_classes=2, unlabeled=np.array(idx, dtype=np.int64), predict=lambda outputs, idx: iter(stream))


def observe(watcher, iteration, idx, weak):
    rows = torch.tensor(weak)
    watcher.observe(TrainBatch(0, iteration, idx_ulb=torch.tensor(idx), probs_weak=rows, logits_strong=rows.log()))


def test_two_samples_by_hand(tmp_path):
    watcher = plugin(interval=1, alpha=1.0)
    watcher.folder = tmp_path
    watcher.setup(info(num_train_iter=3))
    for step, probs in enumerate(([[0.96, 0.04], [0.5, 0.5]], [[0.04, 0.96], [0.7, 0.3]], [[0.96, 0.04], [0.9, 0.1]])):
        observe(watcher, step, [3, 1], [probs[1], probs[0]])
        watcher.on_interval(view(0, probs))
    watcher.after_run(None)
    [cycle] = read_cycles(tmp_path, 1)
    # Sample 1 goes 0, 1, 0; sample 3 stays with 0.
    assert cycle.instability.tolist() == [2, 0] == cycle.watched["changes"].tolist()
    # Above 0.95: always, never. Of two classes u is (1 - max p) √2.
    assert cycle.confident.tolist() == [1, 0]
    np.testing.assert_allclose(cycle.uncertainty, np.array([0.04, 0.1]) * 2**0.5, rtol=1e-5)
    # Sample 3 is the less certain at every step.
    assert cycle.correlations == (pytest.approx(1), pytest.approx(1)) and cycle.overall == pytest.approx(1)
    np.testing.assert_allclose(cycle.watched["uncertainty"], cycle.uncertainty, rtol=1e-5)
    assert cycle.watched["inconsistency"] == pytest.approx([0, 0], abs=1e-6)


# ------------------------------------------------------------------------------------------ state, and mistakes
def test_state_may_be_loaded_before_any_setup():
    one, other = plugin(), plugin()
    one.setup(info())
    observe(one, 0, [0, 2], [[0.9, 0.1], [0.2, 0.8]])
    other.load_state_dict(one.state_dict())
    for watcher in (one, other):
        observe(watcher, 1, [2, 3], [[0.9, 0.1], [0.2, 0.8]])
    assert other.state_dict().keys() == {"visits", "uncertainty", "inconsistency"}
    for name, state in one.state_dict().items():
        assert all(torch.equal(value, other.state_dict()[name][key]) for key, value in state.items())
    other.load_state_dict({})
    assert other.state_dict() == {}


def test_bad_predictions_name_samples_and_analysis(tmp_path):
    watcher = plugin()
    watcher.setup(info())
    with pytest.raises(UsageError, match=rf"^analysis '{NAME}': probs.*in sample 2$"):
        observe(watcher, 0, [0, 2], [[0.9, 0.1], [0.9, 0.8]])


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"interval": 0}, "interval: should be greater than or equal to 1"),
        ({"threshold": 1.0}, "threshold: should be less than 1"),
        ({"alpha": 0}, "alpha: should be greater than 0"),
        ({"watch": "all"}, "watch: "),
        ({"intervall": 5}, "intervall: unknown key; did you mean 'interval'"),
    ],
)
def test_wrong_keys_are_one_line(tmp_path, own, said):
    with pytest.raises(UsageError, match=rf"^test.yaml: active\.analysis\.{said}") as caught:
        run_helpers.config_of(settings(tmp_path, own=own))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------ in a training
def files_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in analysis_folder(run).iterdir()}


@pytest.mark.slow
def test_watching_does_not_change_the_run(tmp_path):
    run_helpers.train(settings(tmp_path, "watched", active={"keep": "all"}))
    run_helpers.train(settings(tmp_path, "alone", active={"keep": "all", "analysis": None}))
    for cycle in (0, 1):
        checkpoints = [run_helpers.checkpoint(tmp_path / name, cycle) for name in ("watched", "alone")]
        assert run_helpers.weights_equal(*checkpoints)
        assert len({tuple(RunDir.read(tmp_path / name).query(cycle).idx.tolist()) for name in ("watched", "alone")}) == 1


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return killer.References(tmp_path_factory.mktemp("references"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "points", [["train"], ["checkpoint"], ["training_end"], ["query", "train_early", "epoch_end", "before_done", "last_done"]]
)
def test_killed_and_resumed_it_keeps_the_same_files(tmp_path, reference, points):
    active = {"analysis": {"name": NAME, "interval": 3}}
    data = killer.settings(tmp_path, "run", active)
    for point in points:
        assert killer.run(data, point).code == killer.KILLED, point
    run = killer.finish(data)
    killer.assert_same_end(run, reference(active))
    assert files_of(run) == files_of(reference(active))
    # Four observations, the pool and the training, in three cycles.
    assert len(files_of(run)) == 3 * 6
