"""The fine-tuned features, which a run's selection and its prior share."""

from __future__ import annotations

import hashlib

import numpy as np
from usb_active.plugins.as3l.functional import LinearLayer, fit_layer

from usb_active import PoolView
from usb_active.numerics.arrays import blocks


def fine_tuned(view: PoolView, num_clusters: int, clusterings: int, epochs: int) -> np.ndarray:
    """(N, D) the view's features after the linear layer, see `fit_layer`.

    The layer is kept with the run, by what the features are and how it was made: a resumed run days later finds it, and
    other features (of a model trained since, of a pool that has grown) never meet it. One cluster has nothing to tell apart, and
    would draw all samples together: the features then are as they were.

    Args:
        view: the pool.
        num_clusters: K of Eq. 1, as the first in this cycle to ask for these features says it. A selection comes before the training
            it serves, so a prior takes over the selection's, and has its own where nothing was selected by these features.
        clusterings: as in `fit_layer`.
        epochs: as in `fit_layer`.
    """
    made_of = _fingerprint(view.features)
    num_clusters = int(view.artifact(f"as3l_clusters_{view.cycle:03d}_{made_of}", lambda: np.array(num_clusters)))
    if num_clusters == 1:
        return view.features

    def make() -> dict[str, np.ndarray]:
        # A generator of its own: what is drawn afterwards does not depend on whether the layer was there already.
        rng = view.rng.spawn(1)[0]
        layer = fit_layer(view.features, num_clusters, clusterings=clusterings, epochs=epochs, rng=rng)
        return {"weight": layer.weight, "centre": layer.centre}

    key = f"as3l_layer_{made_of}_{num_clusters}_{clusterings}_{epochs}"
    return LinearLayer(**view.artifact(key, make))(view.features)


def _fingerprint(features: np.ndarray) -> str:
    """Of the values: 16 digits. Features of a model change from cycle to cycle, others do not."""
    digest = hashlib.blake2b(repr((features.shape, features.dtype.str)).encode(), digest_size=8)
    for rows in blocks(np.arange(len(features)), features.shape[1]):
        digest.update(np.ascontiguousarray(features[rows[0] : rows[-1] + 1]))
    return digest.hexdigest()
