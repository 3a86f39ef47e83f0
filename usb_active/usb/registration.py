"""What USB knows of this package: `active_x` among its algorithms, for every algorithm x."""

from __future__ import annotations

import warnings

from semilearn.core.utils import ALGORITHMS

from usb_active.contracts.algorithm import OwnAlgorithm
from usb_active.contracts.registry import REGISTRY
from usb_active.usb.algorithm import ActiveMixin

PREFIX = "active_"


def make_active(name: str, cls: type) -> type:
    """The class behind `active_<name>`."""
    attributes = {"base_name": name, "base_class": cls, "__module__": __name__}
    # Last, so that nothing of it hides a method of a class that has one without deriving from it.
    contract = () if issubclass(cls, OwnAlgorithm) else (OwnAlgorithm,)
    return type(f"Active{cls.__name__}", (ActiveMixin, cls, *contract), {**attributes, "__doc__": f"USB's {name}, in active cycles."})


def register_usb_algorithms(names: list[str] | None = None) -> None:
    """Put `active_x` into USB's ALGORITHMS for every algorithm x; again is harmless.

    Args:
        names: third-party algorithms (registry kind "algorithm") that are put there too, as x and as `active_x`.
    """
    for name in names or ():
        if name not in ALGORITHMS:
            ALGORITHMS[name] = REGISTRY.get("algorithm", name)
    for name in [key for key in ALGORITHMS.keys() if not key.startswith(PREFIX)]:
        if PREFIX + name not in ALGORITHMS:
            ALGORITHMS[PREFIX + name] = make_active(name, ALGORITHMS[name])


def register(names: list[str] | None = None) -> None:
    """The name of `register_usb_algorithms` in version 0.1.0."""
    warnings.warn("usb_active.register is now called usb_active.register_usb_algorithms", DeprecationWarning, stacklevel=2)
    register_usb_algorithms(names)
