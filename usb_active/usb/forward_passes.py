"""Which view of which sample the network saw in the forward passes of a step, and what its inner modules gave for it.

An algorithm may pass its views one by one, all of them at once, or several times. A pass is recognized by its input: rows that equal a
view's are that view. An input that is none, such as a mixture, belongs to no view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from usb_active.errors import UsageError
from usb_active.pool import hidden

WHO = "hidden_modules"


class HiddenViews(dict):
    """`hidden[view][module]` of a step."""

    def __missing__(self, view: str) -> Any:
        seen = ", ".join(self) or "none"
        raise UsageError(f"batch.hidden: '{view}': the network saw no such view in this step, or only mixed with others (seen: {seen})")


@dataclass
class _Pass:
    """One call of the network: the rows of each view in its input, and what the modules gave."""

    spans: dict[str, slice]
    rows: int
    with_gradients: bool
    outputs: dict[str, list[Any]] = field(default_factory=dict)


class ForwardPasses:
    """Records the passes of a step through modules of these names; nothing at all where there are none."""

    def __init__(self, names: Iterable[str]):
        self._names = tuple(names)
        self._handles: list[Any] = []
        self._views: dict[str, torch.Tensor] | None = None
        self._passes: list[_Pass] = []
        # Features that came out of a pass, and go into the classifier in another.
        self._between: list[tuple[torch.Tensor, dict[str, slice]]] = []
        self._current: _Pass | None = None

    def watch(self, model: torch.nn.Module) -> None:
        """Put hooks on the network and the modules named. UsageError for one that it does not have."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        modules = hidden.modules_named(model, self._names, WHO)
        if not modules:
            return
        network = hidden.unwrapped(model)
        self._handles = [network.register_forward_pre_hook(self._begin, with_kwargs=True)]
        self._handles += [module.register_forward_hook(self._recorder(name)) for name, module in modules.items()]
        # Last, so that a pass through the network itself is recorded before it ends.
        self._handles.append(network.register_forward_hook(self._end))

    def open(self, inputs: Mapping[str, Any]) -> None:
        """A step on these arguments begins."""
        self._views = {name: value for name, value in inputs.items() if name.startswith("x_") and isinstance(value, torch.Tensor)}

    def close(self) -> None:
        """It has ended; nothing of it is kept alive."""
        self._views, self._current = None, None
        self._passes, self._between = [], []

    def hidden(self) -> dict[str, dict[str, torch.Tensor]]:
        """View → module → (B, …): of each view's passes the first with gradients, else the first.

        Raises:
            UsageError: a module is called several times in a pass, or gives no tensor with a row for each sample.
        """
        found: dict[str, dict[str, torch.Tensor]] = {}
        # A stable sort: those with gradients first.
        for one in sorted(self._passes, key=lambda one: not one.with_gradients):
            for name, calls in one.outputs.items():
                output = hidden.only_output(name, calls, one.rows, WHO)
                for view, rows in one.spans.items():
                    found.setdefault(view, {}).setdefault(name, output[rows])
        return found

    # ------------------------------------------------------------------------------------------ hooks
    def _begin(self, network: Any, arguments: tuple, named: Mapping[str, Any]) -> None:
        x = arguments[0] if arguments else next(iter(named.values()), None)
        if self._views is None or not isinstance(x, torch.Tensor) or x.ndim == 0:
            return
        self._current = _Pass(self._spans(x), len(x), torch.is_grad_enabled())

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(module: Any, inputs: Any, output: Any) -> None:
            if self._current is not None:
                self._current.outputs.setdefault(name, []).append(output)

        return record

    def _end(self, network: Any, inputs: Any, output: Any) -> None:
        if self._current is None:
            return
        features = output.get("feat") if isinstance(output, Mapping) else output
        if isinstance(features, torch.Tensor):
            self._between.append((features, self._current.spans))
        self._passes.append(self._current)
        self._current = None

    def _spans(self, x: torch.Tensor) -> dict[str, slice]:
        """Which rows of an input are which view; none where any row is of no view."""
        for features, spans in self._between:
            if x is features:
                return spans
        for name, view in self._views.items():
            if x is view:
                return {name: slice(0, len(x))}
        spans: dict[str, slice] = {}
        start = 0
        while start < len(x):
            view = next((name for name, view in self._views.items() if name not in spans and _begins_with(x, start, view)), None)
            if view is None:
                return {}
            spans[view] = slice(start, start + len(self._views[view]))
            start = spans[view].stop
        return spans


def _begins_with(x: torch.Tensor, start: int, view: torch.Tensor) -> bool:
    rows = x[start : start + len(view)]
    return len(view) > 0 and rows.shape == view.shape and torch.equal(rows, view)
