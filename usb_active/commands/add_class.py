"""`usb-active labels RUN --add-class NAME`: a class that nobody had thought of, valid from the next training on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from usb_active.contracts.label_texts import fold, to_number
from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError, plain, printable
from usb_active.records import Query
from usb_active.storage.classes import CLASSES_FILE, add_records, with_added
from usb_active.storage.path_texts import name_problem
from usb_active.storage.run_dir import RunDir, utc_now
from usb_active.storage.schemas import own_task, read_dataset, read_start

# What people write in place of a class.
_WORDS = ("skip", "retract")
_WAY_OUT = "begin another run on these labels, with the class in its configuration and --from"


def check_new_classes(run: RunDir, queries: Sequence[Query], names: Sequence[str], trusted: bool = False) -> None:
    """Whether classes may be added to a run: its last query must wait for answers.

    Args:
        run: its directory.
        queries: all there are.
        names: the classes' names.
        trusted: import the run's plugins even where they are not installed; see `usb_active.config.trust`.

    Raises:
        UsageError: a name that is none or that exists, in whatever case, or a number where numbers stand for classes' places; labels
            that are no classes; a run whose next training would need something that was made for fewer
            classes: the last model, a prior, or what a plugin has learned.
    """
    if own_task(run) is not None:
        raise UsageError(f"--add-class {printable(names[0])}: the labels of this run are no classes")
    known = list(with_added(run, (read_dataset(run) or {}).get("class_names", ())))
    for name in names:
        _check_name(name, known)
        known.append(name)
    _check_moment(run, queries)
    _check_settings(run, queries[-1].cycle, trusted)


def write_new_classes(run: RunDir, names: Sequence[str], cycle: int, out: TextIO) -> None:
    """Add classes that were checked, all at once, and say so. `cycle`: of the query that waits."""
    run.write_json(CLASSES_FILE, add_records(run, names, cycle, utc_now()))
    for name in names:
        print(plain(f"{name}: a class from the training of cycle {cycle} on, for any sample; the network gets an output more"), file=out)


def _check_name(name: str, known: Sequence[str]) -> None:
    where = f"--add-class {printable(name)}"
    if problem := name_problem(name):
        raise UsageError(f"{where}: {problem}")
    if fold(name) in _WORDS:
        raise UsageError(f"{where}: people write this word in place of a class; choose another name")
    for other in known:
        if fold(other) == fold(name):
            raise UsageError(f"{where}: there is a class '{printable(other)}' already")
    if to_number(name) is not None and not any(to_number(other) is not None for other in known):
        reason = "where no class is called by a number, a number is a class's place among the others"
        raise UsageError(f"{where}: {reason}; choose another name")


def _check_moment(run: RunDir, queries: Sequence[Query]) -> None:
    if not queries:
        raise UsageError(f"{run.path}: nothing has been asked yet; start the run first, or name the class in its configuration")
    if read_start(run, queries[-1].cycle) is not None:
        reason = f"no query waits for answers: the training of cycle {queries[-1].cycle} has begun, and it or its model is needed as it is"
        way_out = f"add the class at the run's next question; if none comes, {_WAY_OUT}"
        raise UsageError(f"{run.path}: {reason}; {way_out}")


def _check_settings(run: RunDir, cycle: int, trusted: bool) -> None:
    """UsageError for what the next training would take over from a model, or a plugin, of another width."""
    from usb_active.config.settings import load_yaml_config
    from usb_active.config.trust import check_plugins

    check_plugins(run.path, run.config.get("plugins"), trusted)
    active = load_yaml_config(run.path / "config.yaml").active
    if active.warm_start:
        raise UsageError(f"{run.path}: warm_start: true: the next training goes on from weights that have no output for another class")
    if active.prior is not None:
        reason = "hands over class probabilities, which have no column for another class"
        raise UsageError(f"{run.path}: prior: '{active.prior.choice.name}' {reason}")
    chooser = active.initial if cycle == 0 else active.acquisition
    if chooser is not None and overrides(chooser.cls, "pseudo_labels"):
        raise UsageError(f"{run.path}: '{chooser.name}' gives pseudo-labels by the last model, which has no output for another class")
    states = run.path / "queries" / f"cycle_{cycle:03d}.query.pth"
    if states.exists():
        raise UsageError(f"{run.path}: a plugin has learned something for the classes there are ({states.name}); {_WAY_OUT}")
    _check_pretraining(run)


def _check_pretraining(run: RunDir) -> None:
    """UsageError where a pretrainer has left more than a backbone, whose classifier is fresh in any case."""
    path = run.path / "pretrain" / "pretrained.pth"
    if not path.exists():
        return
    # Imported late: it takes seconds.
    from usb_active.storage.checkpoint import REPEAT_PRETRAINING, read_checkpoint

    if read_checkpoint(path, REPEAT_PRETRAINING, parts=("backbone", "modules"))["modules"]:
        raise UsageError(f"{run.path}: its pretraining has left modules for the classes there are ({path.name}); {_WAY_OUT}")
