"""The contract of an oracle: who gives the labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from usb_active.contracts.plugin import Plugin, optional
from usb_active.records import Answers, Query

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset


class Oracle(Plugin):
    """Two steps, because people are slow: `ask` is idempotent by the query's cycle, `collect` takes what is there."""

    kind: ClassVar[str] = "oracle"
    # True when answers come from the data set itself: methods may then see `view.truth`.
    simulated: bool = False
    # True where `accepts_partial` follows from keys that may change when a run is resumed.
    partial_may_change: bool = False

    @optional
    def setup(self, dataset: Dataset, run_path: Path) -> None:
        """Called once, before the first `ask`: the pool, and the run's directory (`run_path / "queries"` is the oracle's)."""
        self.dataset = dataset
        self.run_path = run_path

    @optional
    def ask(self, query: Query) -> None:
        """Put the question. Called again after a crash with the same query: must do no harm."""

    def collect(self, query: Query) -> Answers:
        """What is answered so far, of this query and (optionally) of earlier ones, corrections included."""
        raise NotImplementedError(f"{type(self).__name__}.collect")

    @optional
    def accepts_partial(self) -> bool:
        """True: training continues with what is answered; False: it waits until nothing is pending."""
        return False

    @optional
    def instructions(self, query: Query, pending: int) -> str:
        """Two lines that tell a person what to do; shown when the run stops to wait."""
        return f"{pending} labels are missing; give them and run the same command again."
