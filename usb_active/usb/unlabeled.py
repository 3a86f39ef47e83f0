"""Which views of an unlabelled sample an algorithm's step gets: those it declares, or those that USB's rows have by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from usb_active.errors import UsageError, nearest

PREFIX = "x_ulb_"
# What USB's BasicDataset gives beside `idx_ulb`, by the algorithm's name; two views to all others.
_WEAK, _PAIR = ("x_ulb_w",), ("x_ulb_w", "x_ulb_s")
USB_ROWS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("fullysupervised", "supervised"), ()),
    **dict.fromkeys(("pseudolabel", "vat"), _WEAK),
    "remixmatch": ("x_ulb_w", "x_ulb_s_0", "x_ulb_s_1", "x_ulb_s_0_rot"),
    "comatch": ("x_ulb_w", "x_ulb_s_0", "x_ulb_s_1"),
}

# A name of a view that data sets have ("weak", "strong", "eval"), or a function of a sample to a tensor: an array
# comes as a PIL image, as USB's transforms take it.
View = str | Callable[[Any], Any]


def declared_views(algorithm: Any) -> Mapping[str, View] | str | None:
    """`unlabeled_views` of an algorithm (class or instance): see CONTRIBUTING.

    Raises:
        UsageError: neither names of arguments with their views, nor the name of one of USB's algorithms.
    """
    declared = getattr(algorithm, "unlabeled_views", None)
    if declared is None or isinstance(declared, (str, property)):
        return None if isinstance(declared, property) else declared
    who = (algorithm if isinstance(algorithm, type) else type(algorithm)).__name__
    if not isinstance(declared, Mapping):
        valid = "a mapping such as {'x_ulb_w': 'weak'}, or the name of one of USB's algorithms"
        raise UsageError(f"{who}.unlabeled_views: {declared!r}: must be {valid}")
    for name, view in declared.items():
        if not isinstance(name, str) or not name.startswith(PREFIX):
            raise UsageError(f"{who}.unlabeled_views: {name!r}: an argument of train_step that begins with {PREFIX}")
        if not isinstance(view, str) and not callable(view):
            raise UsageError(f"{who}.unlabeled_views: {name}: {view!r}: must be a view of the data set or a function of a sample")
    return declared


def view_names(name: str, algorithm: Any) -> tuple[str, ...]:
    """The arguments of train_step that a batch brings for unlabelled samples beside `idx_ulb`."""
    declared = declared_views(algorithm)
    if isinstance(declared, Mapping):
        return tuple(declared)
    return USB_ROWS.get(declared or name, _PAIR)


def check_views(name: str, cls: type) -> None:
    """UsageError when `train_step` of an algorithm takes a view that no batch brings."""
    if isinstance(getattr(cls, "unlabeled_views", None), property):
        # Only an instance can say.
        return
    there = view_names(name, cls)
    wanted = [key for key, given in signature(cls.train_step).parameters.items() if given.default is Parameter.empty]
    missing = [key for key in wanted if key.startswith(PREFIX) and key not in there]
    if missing:
        brought = f"its batches bring {', '.join(there) or 'no view of unlabelled samples'}"
        raise UsageError(f"algorithm '{name}': train_step takes {', '.join(missing)}, but {brought}; declare it in unlabeled_views")


def view_functions(views: Any, declared: Mapping[str, View], name: str) -> dict[str, Callable[[Any], Any]]:
    """Argument → function of a sample, of a data set's `views`. UsageError for a view that the data set does not have."""
    functions = {}
    for argument, view in declared.items():
        function = getattr(views, view, None) if isinstance(view, str) else view
        if not callable(function):
            known = nearest(view, ("weak", "strong", "eval"))
            raise UsageError(f"algorithm '{name}': unlabeled_views: {argument}: the data set has no view '{view}'{known}")
        functions[argument] = function
    return functions
