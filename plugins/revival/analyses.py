"""How good the neighbour graph of the features is, cycle by cycle (§5.4, Fig. 7c), whatever the acquisition."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from pydantic import Field
from usb_active.plugins.revival.functional import agreeing_edges, neighbor_graph

from usb_active import Analysis, PluginConfig, PoolView, RunRecord, TrainingInfo, UsageError, load_artifact, save_artifact
from usb_active.errors import errors_named
from usb_active.report.tables import table


class GraphAccuracy(Analysis):
    """The share of edges of the neighbour graph that join two samples of one class, at the end of every cycle's training.

    The graph is that of `revival`, of the features that `active.features` names: the task model's, unless told otherwise. Where the
    oracle is simulated all edges count whose two samples have a known class, otherwise those between two labelled samples. It costs a
    search for neighbours per cycle: about a minute for 50,000 samples of 512 dimensions on two cores.
    """

    needs = frozenset({"features"})

    class Config(PluginConfig):
        k: int = Field(20, ge=2)

    def check(self, num_samples: int, num_classes: int) -> None:
        if not num_classes:
            raise UsageError("compares the classes of neighbours, and the labels of this data set are no classes")
        if num_samples < 2:
            raise UsageError(f"a graph of {num_samples} sample has no edge")

    def setup(self, info: TrainingInfo) -> None:
        # Once, after the last step.
        self.interval = info.num_train_iter

    def on_interval(self, view: PoolView) -> None:
        labels = np.full(len(view), -1)
        labels[view.labeled] = view.labels
        known = [labels]
        # The true classes, -1 where they are not known.
        view.audit(known.append)
        truth = known[-1]
        k = min(self.config.k, len(view))
        with errors_named(f"analysis '{self.name}'"):
            graph = neighbor_graph(view.features, k, "binary")
        agreeing, edges = agreeing_edges(graph, truth)
        all_known = bool((truth >= 0).all())
        found = {"agreeing": agreeing, "edges": edges, "all_known": all_known, "labels": len(view.labeled), "k": k}
        save_artifact(self.folder / f"graph_{view.cycle:03d}", {name: np.array(value) for name, value in found.items()})

    # ------------------------------------------------------------------------------------------ reporting
    def report(self, run: RunRecord, out: Path) -> str | None:
        cycles = sorted(self.folder.glob("graph_*.npz"))
        if not cycles:
            return None
        rows, all_known, ks = [], True, set()
        for path in cycles:
            found = load_artifact(path.with_suffix(""))
            agreeing, edges = int(found["agreeing"]), int(found["edges"])
            all_known &= bool(found["all_known"])
            ks.add(int(found["k"]))
            share = f"{100 * agreeing / edges:.2f}" if edges else "–"
            rows.append([int(re.sub(r"\D", "", path.stem)), int(found["labels"]), edges, share])
        which = "All edges count." if all_known else "Edges between two samples of known class count."
        near = " or ".join(str(k - 1) for k in sorted(ks))
        text = (
            f"The graph joins each sample to its {near} nearest by the cosine of their features at the end of a cycle's training. {which}"
        )
        return f"{text}\n\n{table(['cycle', 'labels', 'edges', 'accuracy of the graph (%)'], rows)}"
