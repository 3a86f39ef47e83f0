"""What all suites have in common: which plugin it is about, and how one is made."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from usb_active.config.choices import Problems, choose, validate
from usb_active.contracts.registry import REGISTRY, check_contract
from usb_active.errors import UsageError
from usb_active.loop.setup import make

# Where a YAML names a plugin of a kind, for messages.
PLACES = {
    "acquisition": "active.acquisition", "initial_labels": "active.initial", "features": "active.features", "prior": "active.prior",
    "pretrainer": "active.pretrain", "oracle": "active.oracle", "analysis": "active.analysis", "dataset": "dataset", "network": "net",
    "algorithm": "algorithm",
}  # fmt: skip


class Contract:
    """Base of the suites.

    Attributes for a test class to set:
        name: as registered; or plugin_class: the class, where it is not registered.
        config: its own keys in the YAML.
    """

    kind: ClassVar[str]
    name: ClassVar[str] = ""
    plugin_class: ClassVar[type[Any] | None] = None
    config: ClassVar[Mapping[str, Any]] = {}

    def keys(self, folder: Path) -> Mapping[str, Any]:
        """For plugins that read files: put them into `folder`, and give the keys that name them. Here `config`."""
        return self.config

    @property
    def shown_name(self) -> str:
        if self.name or self.plugin_class is None:
            return self.name
        return self.plugin_class.name or self.plugin_class.__name__

    def make(self, keys: Mapping[str, Any], *args: Any) -> Any:
        """An instance, its keys validated as those of a YAML."""
        if self.plugin_class is None:
            return made(self.kind, {"name": self.name, **keys}, *args)
        check_contract(self.kind, self.shown_name, self.plugin_class)
        problems = Problems("contract")
        config = validate(self.plugin_class.Config, dict(keys), PLACES[self.kind], problems)
        problems.raise_if_any()
        plugin = self.plugin_class(config, *args)
        plugin.name = self.shown_name
        return plugin

    def registered(self) -> type[Any]:
        """The class, as a run finds it by its name."""
        return self.plugin_class or REGISTRY.get(self.kind, self.name)


def made(kind: str, block: Any, *args: Any) -> Any:
    """The plugin that a block of a YAML asks for."""
    problems = Problems("contract")
    choice = choose(kind, block, PLACES[kind], Path(), problems)
    problems.raise_if_any()
    assert choice is not None, "without a choice there is a problem, which has been raised"
    return make(choice, *args)


def generators() -> tuple[Any, ...]:
    """The state of python's, numpy's and torch's global generators, to be compared."""
    of_numpy = {**np.random.get_state(legacy=False)}
    state = of_numpy.pop("state")
    return random.getstate(), of_numpy, state["key"].tobytes(), state["pos"], torch.get_rng_state().numpy().tobytes()


def seed_generators(seed: int) -> None:
    """Put the global generators where a test wants them."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)


@contextmanager
def generators_untouched(what: str) -> Iterator[None]:
    """AssertionError where the block leaves the global generators in another state: all that comes later would be other than without it."""
    before = generators()
    yield
    assert generators() == before, f"{what} has drawn from a global generator, or seeded one; draw from the generator that it is given"


@contextmanager
def refused(what: str) -> Iterator[list[str]]:
    """AssertionError unless the block raises a UsageError of one line, which is then in the list."""
    messages: list[str] = []
    try:
        yield messages
    except UsageError as error:
        messages.append(str(error))
        assert messages[0] and "\n" not in messages[0], f"{what}: the error must be one line, it is {messages[0]!r}"
        return
    raise AssertionError(f"{what}: must be refused by a UsageError")


def unchanged(arrays: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the arrays that are no longer what they were: a change to them is seen by everyone, and by no journal."""
    return [name for name, array in arrays.items() if not np.array_equal(array, before[name], equal_nan=array.dtype.kind == "f")]


def copies(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays as they are now."""
    return {name: np.array(array) for name, array in arrays.items()}


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path from there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
