"""What an autoencoder has learned, cycle by cycle, as an analysis.

What it looks at is in `analysis_looks`, how that is shown in `analysis_page`. A report makes one too, and nothing here imports torch before
a training is watched.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field
from usb_active.plugins.assal.analysis_functional import Shown
from usb_active.plugins.assal.analysis_page import page

from usb_active import Analysis, PluginConfig, PoolView, RunRecord, TrainingInfo, UsageError, load_artifact, save_artifact


class AutoencoderAnalysis(Analysis):
    """Reconstructions, samples, traversals, and the sampler's scores of both pools, at the end of every cycle's training.

    For any algorithm that declares to need a network with `encode` and `decode` (`needs_network`), as `assal` does; the scores are those
    of the module that it has registered as `sampler`, of μ. All of it is by the weights that are trained, not their average: the sampler
    has learned on their codes. Reconstructions are of μ, without noise. Samples are decoded from the unit Gaussian, the prior. Traversals
    follow the two dimensions in which μ varies most over the whole pool, from two standard deviations below its mean to two above, the
    other dimensions being those of an image (the draft names no directions).

    Kept in `analysis/` of the run, a file for each cycle: the images as they are shown, and 4 bytes per sample for the scores. The images
    shown are drawn in the first cycle, and stay as long as they are in their pool. It costs a pass of the encoder over the pool per cycle.
    """

    class Config(PluginConfig):
        images: int = Field(10, ge=1, le=100)
        samples: int = Field(40, ge=1, le=1000)
        steps: int = Field(9, ge=2, le=100)

    def check(self, num_samples: int, num_classes: int, *, algorithm: type | None = None) -> None:
        """Refuses algorithms that train no autoencoder."""
        if algorithm is not None and not {"encode", "decode"} <= set(getattr(algorithm, "needs_network", ())):
            what = "shows what an autoencoder makes of images, and this algorithm trains none: it has no encoder, no decoder and no sampler"
            raise UsageError(f"{what}; use algorithm: assal")

    def setup(self, info: TrainingInfo) -> None:
        # Once, after the last step.
        self.interval = info.num_train_iter

    def on_interval(self, view: PoolView) -> None:
        from usb_active.plugins.assal.analysis_looks import look

        # Of a run that repeats a cycle, later ones may be there.
        before = [cycle for cycle in self._cycles() if cycle < view.cycle]
        kept = look(view, self.config, read_shown(self.folder, before[-1]) if before else None)
        save_artifact(self.folder / _name(view.cycle), {name: np.asarray(value) for name, value in vars(kept).items()})

    def _cycles(self) -> list[int]:
        """Those that files are there for, in their order."""
        return sorted(int(path.stem.removeprefix("cycle_")) for path in self.folder.glob("cycle_*.npz"))

    # ------------------------------------------------------------------------------------------ reporting
    def report(self, run: RunRecord, out: Path) -> str | None:
        cycles = self._cycles()
        return page([read_shown(self.folder, cycle) for cycle in cycles], out) if cycles else None


def _name(cycle: int) -> str:
    return f"cycle_{cycle:03d}"


def read_shown(folder: Path, cycle: int) -> Shown:
    """What was kept of a cycle. UsageError where the file is damaged (names it)."""
    found = load_artifact(folder / _name(cycle))
    try:
        return Shown(**{name: int(value) if value.ndim == 0 else value for name, value in found.items()})
    except (TypeError, AttributeError):
        path = folder / f"{_name(cycle)}.npz"
        raise UsageError(f"{path}: not what the analysis keeps; move it away to have the report without it") from None
