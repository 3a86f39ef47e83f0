"""What an algorithm of one's own is made from, so that a plugin need not import semilearn itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semilearn.algorithms.utils import SSL_Argument, str2bool
from semilearn.core import AlgorithmBase
from semilearn.core.hooks import Hook
from semilearn.core.utils import get_optimizer

from usb_active.contracts.algorithm import OwnAlgorithm

__all__ = ["AlgorithmBase", "Argument", "Hook", "OwnAlgorithm", "get_optimizer", "str2bool"]


class Argument(SSL_Argument):
    """A key of an algorithm, as USB's train.py wants it; `valid` is an interval ("[0, 1)") or the texts that are allowed.

    `former`: the default before this one. A run that began with it, of a YAML without the key, keeps it.
    """

    def __init__(
        self, name: str, type: Callable[[str], Any], default: Any, help: str = "", valid: str | tuple[str, ...] = "", former: Any = None
    ):
        super().__init__(name=name, type=type, default=default, help=help)
        self.valid, self.former = valid, former
