"""The contract of a pretrainer: weights (and features) made once per run, loaded at every cycle's start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from usb_active.contracts.plugin import Plugin

if TYPE_CHECKING:
    import torch

    from usb_active.contracts.dataset import Dataset


@dataclass(frozen=True)
class Pretrained:
    """What pretraining leaves.

    Attributes:
        backbone: a CPU state dict of the network without its classifier, or None.
        modules: name → the state of a further module.
        features: (N, D), or None.
    """

    backbone: Mapping[str, torch.Tensor] | None = None
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    features: np.ndarray | None = None


class Pretrainer(Plugin):
    """Runs once, before the initial query. Must be resumable in `scratch`, a folder that survives a crash."""

    kind: ClassVar[str] = "pretrainer"

    # What it uses of the network beyond USB's calling convention: names of attributes, or of arguments that `forward` takes. A network
    # that lacks one is refused before anything runs.
    needs_network: ClassVar[Sequence[str]] = ()

    def run(
        self,
        build_net: Callable[[], torch.nn.Module],
        dataset: Dataset,
        scratch: Path,
        rng: np.random.Generator,
        device: torch.device,
    ) -> Pretrained:
        """Train something. `build_net()` gives the run's network with its classifier, freshly and identically initialised."""
        raise NotImplementedError(f"{type(self).__name__}.run")
