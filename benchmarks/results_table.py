"""The tables of docs/results.md: recipes, rules and other trainers on three sets, beside cheap classifiers on the same labels.

    python benchmarks/results_data.py mnist5000 --out data/results --splits 0 1 2 3 4
    python benchmarks/results_data.py cifar5000 --out data/results --splits 0 1 2 3 4 --source CIFAR_FOLDER
    python benchmarks/results_table.py --root runs/results --data data/results --dry-run    # what there is to train
    python benchmarks/results_table.py --root runs/results --data data/results --out docs/results.md

What is to be trained is written as studies into ROOT/studies, one for each set, trainer and split, and run by `usb-active sweep`, so
that the same command resumes where it stopped. What a cell came to is kept in benchmarks/results/<set>.csv with a digest of its
configuration, so that it is not trained again where its run directory is gone; a row whose digest is another is stale, and its cell is
trained anew. With --no-train only the CSV files and the page are written. Seed and split of a cell are one number.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from evidence import half_width, with_baselines, with_interval

from usb_active import cli
from usb_active.commands.sweep import is_finished
from usb_active.config.study import Cell, Study, override_text, read_study
from usb_active.report.tables import table
from usb_active.storage.durable import atomic_write
from usb_active.storage.yaml_input import apply_overrides

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results"
RECIPES = HERE.parent / "yaml_configs" / "recipes"
BASELINES = ("majority", "nearest", "logistic", "spreading")
CHEAP = {"nearest": "1-NN", "logistic": "logistic", "spreading": "spreading"}
# What a digest leaves out: where things lie, and which of a plan's cells it is.
PLACES = ("data_dir", "save_dir", "save_name", "seed")


# ------------------------------------------------------------------------------------------ what is trained
@dataclass(frozen=True)
class Set:
    """A set of images.

    Attributes:
        title: as the page calls it.
        folder: its name in results_data.py; "" for digits.
        keys: what all its configurations have.
        of_trainer: what those of one trainer have beside.
        rules_see: the features of rules that choose by features, where it is not those that are trained on.
    """

    title: str
    folder: str
    keys: Mapping[str, Any]
    of_trainer: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rules_see: str | None = "pixels"


@dataclass(frozen=True)
class Plan:
    """A line of a table: one trainer, and how it came to its labels.

    Attributes:
        of: name of the set.
        trainer: name of a trainer in TRAINERS.
        rule: what chose the labels, the first ones too if `start` is none.
        labels: of each training; one number is labelled at once, several in cycles of equal size.
        seeds: how many.
        start: what chose the first labels.
    """

    of: str
    trainer: str
    rule: str
    labels: tuple[int, ...]
    seeds: int = 3
    start: str = ""


# Nothing is evaluated within a training: that would cost, and choose nothing.
WITHOUT_EVALUATIONS = {"num_eval_iter": 100_000, "num_log_iter": 100_000}
MNIST_KEYS = {
    "dataset": {"name": "image_folder", "in_channels": 1, "mean": [0.13], "std": [0.31], "flip": False, "verify": False},
    "img_size": 14,
}
PHOTOS = {"dataset": {"name": "image_folder", "verify": False}, "img_size": 32}
SETS = {
    # A third of the images: as many steps in more epochs; and no near neighbour to be missed.
    "digits": Set(
        "digits",
        "",
        {"dataset": "digits", "img_size": 8},
        {"lp": {"epoch": 24, "lp_supervised_epochs": 3, "lp_graph": "sum", "lp_k": 7, "lp_alpha": 0.95}},
    ),
    "mnist5000": Set("MNIST-5,000", "mnist5000", MNIST_KEYS),
    "cifar5000_features": Set("CIFAR-10-5,000, features", "cifar5000", PHOTOS, rules_see=None),
    "cifar5000": Set("CIFAR-10-5,000, pixels", "cifar5000", PHOTOS),
}
# What makes a recipe for images one of features.
ON_THEM = {"active.train_on": "features", "active.features": "efficientnet_lite0", "num_train_iter": 500}
# Recipe (of yaml_configs/recipes) and what is put over it.
TRAINERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "lp": ("drawings", {}),
    "tiny": ("drawings_tiny", {}),
    "flexmatch": ("drawings_flexmatch", {}),
    "fixmatch": ("drawings_flexmatch", {"algorithm": "fixmatch"}),
    "supervised": ("drawings_flexmatch", {"algorithm": "supervised"}),
    "photos": ("photos", {}),
    "photos, supervised": ("photos_pixels", {"net": "linear", **ON_THEM}),
    "photos, flexmatch": ("photos_pixels", {"algorithm": "flexmatch", "net": "mlp", "uratio": 4, **ON_THEM}),
    "photos_pixels": ("photos_pixels", {}),
}
OF_MODEL = " of the model"
# Rules that choose by features.
ON_FEATURES = (
    *("as3l", "kmedoids", "typiclust", "coreset", "kmeanspp", "jlp"),
    *("max_herding", "u_herding", "prob_cover", "dcom", "clue"),
)
# What asks the model's classifier about features: those that go into it, which are not the ones it is trained on.
ON_HEAD = ("alfa_mix", "drop_query", "bait")
# `bait` on features of 1,280 dimensions, projected as its error advises.
PROJECTED = {("cifar5000_features", "bait"): {"projection": 128}}
STEPS = {"mnist5000": (40, 100), "digits": (40, 100), "cifar5000_features": (40, 250)}
CYCLED = (
    *("random", "coreset", "margin", "badge", "typiclust", "cdal", "alfa_mix"),
    *("entropy", "kmeanspp", "jlp", "kmedoids", "as3l", "least_confidence", "pseudo_el2n"),
    *("max_herding", "u_herding", "prob_cover", "dcom", "power_margin", "clue", "drop_query", "bait"),
)


# Set, trainer, start, and rules that are to be above the same budget labelled at once by what the start chose by: that which was meant to
# be, and the two that were above it in the mean of three seeds.
CYCLE_GOAL = ("mnist5000", "lp", "kmedoids", (f"typiclust{OF_MODEL}", "typiclust", "cdal"))


def goal_plans() -> list[Plan]:
    """What the goals are about: five seeds."""
    return [
        *(Plan("digits", "tiny", "kmedoids", (count,), 5) for count in (20, 40, 100)),
        *(Plan("mnist5000", "lp", "kmedoids", (count,), 5) for count in (20, 40, 100)),
        Plan("mnist5000", "lp", "random", (200,), 5),
        *(Plan("cifar5000_features", "photos", "typiclust", (count,), 5) for count in (40, 100, 250)),
    ]


def other_plans() -> list[Plan]:
    """Other rules and trainers: three seeds, five of what was the digits' goal before there was a recipe for tiny images."""
    return [
        *(Plan("digits", "lp", "kmedoids", (count,), 5) for count in (20, 40, 100)),
        *(Plan(of, trainer, "kmedoids", (40,)) for of in ("digits", "mnist5000") for trainer in ("flexmatch", "fixmatch", "supervised")),
        *(Plan(of, trainer, "random", (40,)) for of in ("digits", "mnist5000") for trainer in ("lp", "flexmatch", "supervised")),
        Plan("mnist5000", "lp", "typiclust", (40,)),
        *(
            Plan("mnist5000", "lp", rule, STEPS["mnist5000"], 5 if rule in CYCLE_GOAL[-1] else 3, start="kmedoids")
            for rule in (f"typiclust{OF_MODEL}", *CYCLED)
        ),
        *(Plan("digits", "lp", rule, STEPS["digits"], start="kmedoids") for rule in CYCLED),
        *(Plan("digits", "lp", rule, (40,)) for rule in ("typiclust", "as3l")),
        *(Plan(of, "lp", rule, (40,)) for of in ("digits", "mnist5000") for rule in ("max_herding", "prob_cover")),
        *(Plan("digits", "flexmatch", rule, STEPS["digits"], start="kmedoids") for rule in ("assl", "assl_div")),
        *(Plan("cifar5000_features", "photos", rule, (count,)) for rule in ("random", "kmedoids") for count in (40, 250)),
        *(Plan("cifar5000_features", f"photos, {other}", "typiclust", (100,)) for other in ("supervised", "flexmatch")),
        *(Plan("cifar5000_features", "photos", rule, STEPS["cifar5000_features"], start="typiclust") for rule in CYCLED),
        Plan("cifar5000", "photos_pixels", "random", (250,), 5),
        Plan("cifar5000", "photos_pixels", "kmedoids", (250,)),
    ]


def plans(sets: Sequence[str]) -> list[Plan]:
    """Those of some sets, the goals' first."""
    return [plan for plan in (*goal_plans(), *other_plans()) if plan.of in sets]


def acquisition(of: str, rule: str, **keys: Any) -> dict[str, Any]:
    """The block of a rule on a set; "… of the model" chooses by the features of the model of the last cycle."""
    name, learned = rule.removesuffix(OF_MODEL), rule.endswith(OF_MODEL)
    of_model = learned or (name in ON_HEAD and SETS[of].rules_see is None)
    sees = "model" if of_model else SETS[of].rules_see if name in ON_FEATURES else None
    return {"name": name, **PROJECTED.get((of, name), {}), **keys, **({} if sees is None else {"features": sees})}


@cache
def recipe(name: str) -> dict[str, Any]:
    """The configuration in a recipe."""
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))["config"]


def common_keys(of: str, trainer: str) -> dict[str, Any]:
    """What is put over the recipe in all runs of a trainer on a set."""
    return {**WITHOUT_EVALUATIONS, **SETS[of].keys, **TRAINERS[trainer][1], **SETS[of].of_trainer.get(trainer, {})}


def own_keys(plan: Plan) -> dict[str, Any]:
    """What a plan's runs have beside these: a combination of their study."""
    first, *later = plan.labels
    keys = {"active.initial": acquisition(plan.of, plan.start or plan.rule, size=first), "active.cycles": len(later)}
    if later:
        keys |= {"active.acquisition": acquisition(plan.of, plan.rule), "active.budget": later[0] - first}
    return keys


def is_on_features(plan: Plan) -> bool:
    """Whether it trains on features that another run has made."""
    return SETS[plan.of].rules_see is None


def with_keys(data: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with keys put over it, as `--set` does."""
    changed = copy.deepcopy(dict(data))
    apply_overrides(changed, [override_text(key, value) for key, value in keys.items()])
    return changed


def digest(plan: Plan) -> str:
    """Of what a plan's cells are configured by, wherever it lies: rows with another are stale."""
    said = with_keys(recipe(TRAINERS[plan.trainer][0]), {**common_keys(plan.of, plan.trainer), **own_keys(plan)})
    said = {key: value for key, value in said.items() if key not in PLACES}
    if is_on_features(plan):
        # Where a run has read them says nothing of what they are.
        said["active"]["features"] = ON_THEM["active.features"]
    if not said["active"]["cycles"]:
        # What no cycle asks for.
        said["active"] = {key: value for key, value in said["active"].items() if key not in ("acquisition", "budget")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


# ------------------------------------------------------------------------------------------ studies
# The runs that make the features of their split; all others of the set read them there.
EXTRACTING = Plan("cifar5000_features", "photos", "typiclust", (40,), 5)


@dataclass(frozen=True)
class Planned:
    """The runs of one set, trainer and split: a study, and the plan of each of its cells."""

    study: Study
    plans: tuple[Plan, ...]
    path: Path

    def cells(self) -> Iterable[tuple[Plan, Cell]]:
        """In the study's order."""
        return zip(self.plans, self.study.cells, strict=True)


def write_study(root: Path, data: Path, plans: Sequence[Plan], split: int, name: str, features: Mapping[str, str] | None = None) -> Planned:
    """The study of some plans of one set and trainer, as a YAML in ROOT/studies, beside its base.

    Args:
        data: where results_data.py has put the sets.
        features: the block of features that another run has made.
    """
    folder, of, trainer = root / "studies", plans[0].of, plans[0].trainer
    places: dict[str, Any] = {"data_dir": str((data / f"{SETS[of].folder}-{split}").resolve())} if SETS[of].folder else {}
    if features is not None:
        places["active.features"] = dict(features)
    base = with_keys(recipe(TRAINERS[trainer][0]), {**common_keys(of, trainer), **places})
    study = {
        "base": f"{name}-base.yaml", "include": [own_keys(plan) for plan in plans], "seeds": [split],
        "save_dir": str(root.resolve()), "name": name,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in ((folder / study["base"], base), (folder / f"{name}.yaml", study)):
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return Planned(read_study(folder / f"{name}.yaml"), tuple(plans), folder / f"{name}.yaml")


def extracting_study(root: Path, data: Path, split: int) -> Planned:
    """The one run that makes the features of a split."""
    return write_study(root, data, [EXTRACTING], split, f"{EXTRACTING.of}-extracting-{split}")


def extracted(planned: Planned) -> dict[str, str]:
    """The block of the features that such a run makes."""
    folder = (planned.study.cells[0].run_path / "artifacts").resolve()
    paths = {"path": "efficientnet_lite0_auto_5000.npy", "test_path": "efficientnet_lite0_auto_test_1000.npy"}
    return {"name": "file", **{key: str(folder / name) for key, name in paths.items()}}


def write_studies(waiting: Sequence[tuple[Plan, int]], root: Path, data: Path) -> list[Planned]:
    """The studies of these plans and splits: what others need first, then by split, so that what is stopped early is a smaller table."""
    splits = sorted({split for plan, split in waiting if is_on_features(plan)})
    extracting = {split: extracting_study(root, data, split) for split in splits}
    grouped: dict[tuple[int, str, str], list[Plan]] = {}
    for plan, split in sorted(waiting, key=lambda pair: pair[1]):
        if plan != EXTRACTING:
            grouped.setdefault((split, plan.of, plan.trainer), []).append(plan)
    studies = [*extracting.values()]
    for (split, of, trainer), found in grouped.items():
        features = extracted(extracting[split]) if is_on_features(found[0]) else None
        studies.append(write_study(root, data, found, split, f"{of}-{trainer.replace(', ', '-')}-{split}", features))
    return studies


def run_studies(studies: Sequence[Planned], kept: Sequence[Row], jobs: int) -> list[str]:
    """Have the studies run, one after the other; the names of those of which a run has failed, or waits for something.

    Raises:
        SystemExit: a study was refused or interrupted.
    """
    failed = []
    for planned in studies:
        if planned.plans == (EXTRACTING,) and is_kept(EXTRACTING, planned.study.cells[0].seed, kept):
            if Path(extracted(planned)["test_path"]).exists():
                continue
        code = cli.main(["sweep", str(planned.path), "--jobs", str(jobs)])
        if code not in (0, 1, 3):
            raise SystemExit(code)
        if code:
            failed.append(planned.study.name)
    return failed


# ------------------------------------------------------------------------------------------ what it came to
@dataclass(frozen=True)
class Row:
    """One training, as a line of a CSV file. Accuracies in percent; `cpu_seconds` are the mean of its cell's trainings."""

    set: str
    trainer: str
    start: str
    rule: str
    steps: str
    labels: int
    seed: int
    split: int
    accuracy: float
    majority: float
    nearest: float
    logistic: float
    spreading: float
    cpu_seconds: float
    digest: str
    made_with: str

    @property
    def key(self) -> tuple[Any, ...]:
        """Which training it is."""
        return self.set, self.trainer, self.start, self.rule, self.steps, self.labels, self.seed

    @property
    def best_baseline(self) -> float:
        """The highest of the three cheap classifiers, chosen on the test set itself: what it is compared with is flattered."""
        return max(getattr(self, name) for name in CHEAP)


def rows_of(plan: Plan, cell: Cell) -> list[Row]:
    """What a finished run came to; its baselines are computed where they are not there yet."""
    run, entries = with_baselines(cell)
    seconds = mean(line["cpu_seconds"] for line in run.metrics)
    return [
        Row(
            plan.of, plan.trainer, plan.start, plan.rule, steps_text(plan), line["num_labels"], cell.seed, cell.seed,
            round(100 * line["accuracy"], 2), *(round(100 * entries[line["cycle"]]["accuracies"][name], 2) for name in BASELINES),
            round(seconds, 1), digest(plan), made_with(),
        )
        for line in run.metrics
    ]  # fmt: skip


def steps_text(plan: Plan) -> str:
    return "-".join(map(str, plan.labels))


def made_with() -> str:
    """Versions and cores, as a row says them."""
    names = ("torch", "semilearn", "scikit-learn")
    return "; ".join([*(f"{name} {version(name)}" for name in names), f"1 thread, {os.cpu_count()} cores"])


def read_kept(path: Path) -> list[Row]:
    """The rows of a CSV file; none where there is none."""
    if not path.exists():
        return []
    kinds = {"labels": int, "seed": int, "split": int} | dict.fromkeys(("accuracy", *BASELINES, "cpu_seconds"), float)
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**{name: kinds.get(name, str)(value) for name, value in line.items()}) for line in csv.DictReader(file)]


def write_kept(path: Path, rows: Iterable[Row]) -> None:
    """Write a CSV file, whole or not at all."""
    names = list(Row.__dataclass_fields__)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in sorted(rows, key=lambda row: row.key))
    path.parent.mkdir(exist_ok=True)
    atomic_write(path, lambda file: file.write(text.getvalue().encode()))


def fresh(rows: Iterable[Row], digests: Mapping[tuple[str, ...], str]) -> list[Row]:
    """Rows of what is planned and has not changed. `digests`: set, trainer, start, rule and steps → digest."""
    return [row for row in rows if digests.get(row.key[:5]) == row.digest]


def is_kept(plan: Plan, seed: int, rows: Iterable[Row]) -> bool:
    """Whether all trainings of a cell are among these rows."""
    having = {row.labels for row in rows if row.key[:5] == plan_key(plan) and row.seed == seed}
    return having == set(plan.labels)


def plan_key(plan: Plan) -> tuple[str, ...]:
    """As `Row.key` begins."""
    return plan.of, plan.trainer, plan.start, plan.rule, steps_text(plan)


# ------------------------------------------------------------------------------------------ the page
@dataclass(frozen=True)
class Goal:
    """A target in percent for what is labelled at once; the interval of the difference from cheap classifiers is to be above `bound`."""

    of: str
    trainer: str
    rule: str
    labels: int
    target: float
    bound: float = -0.5


GOALS = (
    *(Goal("digits", "tiny", "kmedoids", labels, target) for labels, target in ((20, 95.5), (40, 97), (100, 97.5))),
    *(Goal("mnist5000", "lp", "kmedoids", labels, target, 0) for labels, target in ((20, 87), (40, 93.5), (100, 95))),
    Goal("mnist5000", "lp", "random", 200, 95.5),
    *(Goal("cifar5000_features", "photos", "typiclust", labels, target, 0) for labels, target in ((40, 42), (100, 49), (250, 56))),
    Goal("cifar5000", "photos_pixels", "random", 250, 42),
)


def verdict(values: Sequence[float], target: float) -> str:
    """Of a mean against a target: a miss within the interval is called one."""
    if mean(values) >= target:
        return "reached"
    near = len(values) > 2 and mean(values) + half_width(values) >= target
    return "missed, within the interval" if near else "missed"


def is_above(differences: Sequence[float], bound: float) -> str:
    """Whether the whole interval of the mean difference is above a bound."""
    if len(differences) < 3:
        return "too few seeds"
    return "yes" if mean(differences) - half_width(differences) > bound else "no"


def at_once(rows: Iterable[Row], of: str, trainer: str, rule: str, labels: int) -> list[Row]:
    """Of what was labelled at once, by seed."""
    found = [row for row in rows if row.key[:5] == (of, trainer, "", rule, str(labels))]
    return sorted(found, key=lambda row: row.seed)


def in_cycles(rows: Iterable[Row], of: str, trainer: str, start: str, rule: str) -> list[Row]:
    """The trainings of a rule in cycles."""
    return [row for row in rows if row.start and row.key[:4] == (of, trainer, start, rule)]


def minus_baseline(rows: Iterable[Row]) -> list[float]:
    """The differences from the best cheap classifier, seed by seed."""
    return [row.accuracy - row.best_baseline for row in rows]


def minus_at_once(rows: Sequence[Row], found: Iterable[Row]) -> list[float]:
    """The differences of what cycles ended with from as many labels that their start's rule chose at once, seed by seed."""
    differences = []
    for row in found:
        if row.steps.endswith(f"-{row.labels}"):
            differences += [
                row.accuracy - once.accuracy for once in at_once(rows, row.set, row.trainer, row.start, row.labels) if once.seed == row.seed
            ]
    return differences


def goal_table(rows: Sequence[Row]) -> str:
    """Target, what it came to, and the difference from the best cheap classifier."""
    lines = []
    for goal in GOALS:
        found = at_once(rows, goal.of, goal.trainer, goal.rule, goal.labels)
        if found:
            values, differences = [row.accuracy for row in found], minus_baseline(found)
            lines.append([
                f"{SETS[goal.of].title}, {goal.labels} labels by {goal.rule}, {goal.trainer}", f"{goal.target:g}", with_interval(values),
                verdict(values, goal.target), with_interval(differences, sign=True), f"{goal.bound:g}: {is_above(differences, goal.bound)}",
                f"{mean(row.cpu_seconds for row in found):.0f}", len(found),
            ])  # fmt: skip
    return table(["goal", "target", "accuracy", "", "minus the best cheap classifier", "interval above", "CPU s", "seeds"], lines)


def cycle_goal_table(rows: Sequence[Row]) -> str:
    """Whether cycles end above the same budget labelled at once."""
    of, trainer, start, rules = CYCLE_GOAL
    lines = []
    for rule in rules:
        found = in_cycles(rows, of, trainer, start, rule)
        differences = minus_at_once(rows, found)
        if differences:
            last = max(row.labels for row in found)
            lines.append([
                f"{SETS[of].title}, {last} labels in cycles by {rule}, minus {last} at once by {start}",
                with_interval(differences, sign=True), is_above(differences, 0), len(differences),
            ])  # fmt: skip
    return table(["goal", "difference", "interval above 0", "seeds"], lines)


def once_table(rows: Sequence[Row], of: str) -> str:
    """A line for each number of labels, rule and trainer that was labelled at once."""
    places = sorted({(row.labels, row.trainer, row.rule) for row in rows if row.set == of and not row.start})
    lines = []
    for labels, trainer, rule in places:
        found = at_once(rows, of, trainer, rule, labels)
        lines.append([f"{labels}, {rule}, {trainer}", with_interval(row.accuracy for row in found), *beside(found)])
    return table(["labels, rule, trainer", "accuracy", *BESIDE], lines)


def cycle_table(rows: Sequence[Row], of: str) -> str:
    """A line for each rule in cycles; "" where there is none."""
    places = sorted({(row.trainer, row.start, row.rule) for row in rows if row.set == of and row.start})
    if not places:
        return ""
    counts = sorted({row.labels for row in rows if row.set == of and row.start})
    lines = []
    for trainer, start, rule in places:
        found = in_cycles(rows, of, trainer, start, rule)
        last = [row for row in found if row.labels == counts[-1]]
        accuracies = (with_interval(row.accuracy for row in found if row.labels == count) for count in counts)
        lines.append([f"{rule}, {trainer}", *accuracies, with_interval(minus_at_once(rows, found), sign=True), *beside(last)])
    head = [f"first {counts[0]} by {places[0][1]}", *(f"{count} labels" for count in counts), f"minus {counts[-1]} at once"]
    return table([*head, *BESIDE], lines)


BESIDE = (*CHEAP.values(), "minus the best of these", "CPU s", "seeds")


def beside(found: Sequence[Row]) -> list[Any]:
    """Cheap classifiers on the same labels, the difference, and what a training cost."""
    if not found:
        return ["–"] * len(BESIDE)
    return [
        *(f"{mean(getattr(row, name) for row in found):.1f}" for name in CHEAP),
        with_interval(minus_baseline(found), sign=True), f"{mean(row.cpu_seconds for row in found):.0f}", len(found),
    ]  # fmt: skip


def parts(rows: Sequence[Row], found: Sequence[Plan]) -> dict[str, str]:
    """What the page's marks stand for."""
    texts = {"goals": goal_table(rows), "cycle goal": cycle_goal_table(rows), "count": made_text(rows, found)}
    for of in dict.fromkeys(plan.of for plan in found):
        texts |= {f"{of} at once": once_table(rows, of), f"{of} in cycles": cycle_table(rows, of)}
    return texts


def count_text(found: Sequence[Plan]) -> str:
    """How many runs and trainings are planned."""
    runs = sum(plan.seeds for plan in found)
    trainings = sum(plan.seeds * len(plan.labels) for plan in found)
    return f"{trainings} trainings in {runs} runs"


def made_text(rows: Sequence[Row], found: Sequence[Plan]) -> str:
    """What was planned, what there is of it, and what it cost."""
    versions = "; ".join(sorted({row.made_with for row in rows}))
    return f"{count_text(found)}; {len(rows)} trainings, {sum(row.cpu_seconds for row in rows) / 60:.0f} CPU minutes ({versions})"


def fill(page: str, texts: Mapping[str, str]) -> str:
    """The page with what stands between `<!-- NAME -->` and `<!-- end -->` made anew.

    Raises:
        SystemExit: a mark without an end, or of a name that there is not.
    """
    done, rest = "", page
    while "<!-- " in rest:
        before, _, rest = rest.partition("<!-- ")
        name, _, rest = rest.partition(" -->")
        _, end, rest = rest.partition("<!-- end -->")
        if not end or name not in texts:
            raise SystemExit(f"the page's mark {name!r} {'has no <!-- end -->' if not end else 'is none of: ' + ', '.join(texts)}")
        done += f"{before}<!-- {name} -->\n\n{texts[name]}\n\n<!-- end -->"
    return done + rest


# ------------------------------------------------------------------------------------------ the command
def collect(studies: Iterable[Planned], kept: Sequence[Row]) -> list[Row]:
    """The rows that were kept, and those of runs that have finished since."""
    rows = {row.key: row for row in kept}
    for planned in studies:
        for plan, cell in planned.cells():
            if not is_kept(plan, cell.seed, kept) and is_finished(cell):
                rows |= {row.key: row for row in rows_of(plan, cell)}
    return list(rows.values())


def to_train(found: Iterable[Plan], kept: Sequence[Row]) -> list[tuple[Plan, int]]:
    """Plans and splits of which not all is kept."""
    return [(plan, split) for plan in found for split in range(plan.seeds) if not is_kept(plan, split, kept)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--data", type=Path, required=True, help="where results_data.py has put the sets")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, help="write the tables into this page instead of printing them")
    parser.add_argument("--no-train", action="store_true", help="only write what there is")
    parser.add_argument("--dry-run", action="store_true", help="only say what there is to train")
    args = parser.parse_args()
    found = plans(args.sets)
    digests = {plan_key(plan): digest(plan) for plan in found}
    kept = fresh([row for of in args.sets for row in read_kept(KEPT / f"{of}.csv")], digests)
    waiting = to_train(found, kept)
    print(f"planned: {count_text(found)}; {len(waiting)} runs are not kept in {KEPT}", flush=True)
    if args.dry_run:
        return
    studies = write_studies(waiting, args.root, args.data)
    failed = [] if args.no_train else run_studies(studies, kept, args.jobs)
    rows = collect(studies, kept)
    for of in args.sets:
        write_kept(KEPT / f"{of}.csv", [row for row in rows if row.set == of])
    texts = parts(rows, found)
    if args.out:
        args.out.write_text(fill(args.out.read_text(encoding="utf-8"), texts), encoding="utf-8")
    else:
        print("\n\n".join(f"## {name}\n\n{text}" for name, text in texts.items()))
    if failed:
        raise SystemExit(f"not all runs are done: {', '.join(failed)}; the same command goes on")


if __name__ == "__main__":
    main()
