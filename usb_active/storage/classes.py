"""Classes that were added to a run while a query waited for its answers: `classes.json`, beside those that dataset.json pins.

A class is valid from the training of the cycle on whose query waited then: its number is the next one, so those before keep theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from usb_active.errors import UsageError, name_some
from usb_active.storage.run_format import PINNED_FILE
from usb_active.storage.schemas import CLASSES_FILE, CLASSES_REMEDY, read_added_classes, read_dataset, read_start

if TYPE_CHECKING:
    from usb_active.storage.run_dir import RunDir


def added_names(run: RunDir, until: int | None = None) -> list[str]:
    """The classes that were added, in their order; those that the training of cycle `until` knows."""
    return [record["name"] for record in read_added_classes(run) if until is None or record["cycle"] <= until]


def with_added(run: RunDir, names: Sequence[str], until: int | None = None) -> tuple[str, ...]:
    """The names of a data set's classes, and after them those that were added, up to cycle `until`, and that it does not have itself."""
    return (*names, *(name for name in added_names(run, until) if names and name not in names))


def trained_names(run: RunDir, cycle: int) -> tuple[str, ...] | None:
    """The classes that the model of a cycle knows, in the order of its outputs; None where nothing says so.

    Runs from before there were added classes have none in their start.json: they know those that the run began with.
    """
    said = (read_start(run, cycle) or {}).get("class_names")
    if said is not None:
        return tuple(said)
    pinned = read_dataset(run)
    return None if pinned is None else (*pinned["class_names"], *added_names(run, cycle))


def check_known(run: RunDir, names: Sequence[str], where: str) -> None:
    """UsageError where the file `where` knows classes, as more of them, that neither dataset.json nor classes.json has."""
    began = (read_dataset(run) or {}).get("class_names") or () if (run.path / PINNED_FILE).exists() else ()
    known = with_added(run, began)
    lost = [name for name in names if name not in known]
    # Another name in the place of one with which the run began is another kind of damage.
    if began and lost and tuple(names[: len(began)]) == tuple(began):
        path = run.path / CLASSES_FILE
        what = "is gone" if not path.exists() else "is damaged"
        raise UsageError(f"{path} {what} ({where} knows {name_some(lost)} too); {CLASSES_REMEDY}")


def check_width(run: RunDir, cycle: int, now: Sequence[str]) -> None:
    """UsageError where the model of a cycle knows other classes than there are now."""
    then = trained_names(run, cycle)
    if then is not None and now and then != tuple(now):
        new = [name for name in now if name not in then]
        said = f"knows {len(then)} classes, and there are {len(now)} now ({', '.join(new)} came later)"
        raise UsageError(f"{run.path}: the model of cycle {cycle} {said}; what comes next needs it, and cannot go on from another width")


def add_records(run: RunDir, names: Sequence[str], cycle: int, now: str) -> dict[str, Any]:
    """What classes.json holds once these classes have been added."""
    return {"added": [*read_added_classes(run), *({"name": name, "cycle": cycle, "time": now} for name in names)]}
