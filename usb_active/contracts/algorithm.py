"""The contract of an algorithm of one's own, beside USB's: what the core asks of one that is a plugin. Imports no semilearn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from usb_active.contracts.plugin import optional

if TYPE_CHECKING:
    import numpy as np

    from usb_active.loop.session import Session
    from usb_active.pool.pool import Pool


class OwnAlgorithm:
    """Base, beside one of USB's classes, of an algorithm that is a plugin: `class Mine(OwnAlgorithm, FixMatch)`.

    A class without this base may define the same; deriving from it brings the types. It has no name that USB's algorithms have, so
    it may stand before them.
    """

    # The run, in cycles alone: USB's own loop has none.
    session: Session

    # True: trains on every label that the data set knows, as an upper bound: one training, simulated oracles only.
    all_labels: bool = False
    # True or False where labelled samples must (not) be in the unlabelled stream.
    include_labeled: bool | None = None
    # The fields of a TrainBatch that its step has, for observers; None: what any algorithm has.
    batch_fields: frozenset[str] | None = None
    # Those of them that were loaded and not trained on, which observers see empty; may change from step to step.
    unused_fields: Sequence[str] = ()
    # The views of unlabelled samples that its step gets: {"x_ulb_w": "weak"}, or the name of a USB algorithm that gets the same.
    unlabeled_views: Mapping[str, Any] | str | None = None

    # Names of the tasks whose labels it learns (see `usb_active.contracts.task`).
    tasks: frozenset[str] = frozenset({"classification"})

    # What its steps use of the network beyond USB's calling convention: names of attributes, or of arguments that `forward` takes. A
    # network that lacks one is refused before anything runs.
    needs_network: Sequence[str] = ()

    @optional
    def plan(self, pool: Pool) -> tuple[int, int]:
        """The cycle's (epochs, iterations), from the labels there are; in place of `epoch` and `num_train_iter`."""
        usb = self.session.config.usb
        return usb["epoch"], usb["num_train_iter"]

    @optional
    def make_sampler(self, split: str, epoch: int, start: int) -> Iterator[Sequence[int] | np.ndarray] | None:
        """The batches of an epoch, each a list of dataset indices of any length, from batch `start` on; None leaves them to the core.

        Args:
            split: "lb" or "ulb".
            epoch: the epoch's number, from 0.
            start: the batch at which a resumed run begins; 0 otherwise.
        """


def declared(cls: type, attribute: str) -> Any:
    """What an algorithm's class says under one of the attributes above, whether it derives from `OwnAlgorithm` or not."""
    return getattr(cls, attribute, getattr(OwnAlgorithm, attribute))
