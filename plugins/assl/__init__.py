"""ASSL: uncertainty and inconsistency watched while the model trains, so that choosing costs no inference."""

from __future__ import annotations

from usb_active import Declaration

_MODULE = "usb_active.plugins.assl.acquisitions"
_ANALYSES = "usb_active.plugins.assl.analyses"

PLUGINS = [
    Declaration("acquisition", "assl", f"{_MODULE}:ASSL", "upper confidence bounds of uncertainty and inconsistency during training"),
    Declaration("acquisition", "assl_div", f"{_MODULE}:ASSLDiv", "k-means++ seeding on features scaled by the score of assl"),
    Declaration("acquisition", "pseudo_el2n", f"{_MODULE}:PseudoEL2N", "distance of the prediction to its own one-hot label"),
    Declaration(
        "analysis", "temporal_instability", f"{_ANALYSES}:TemporalInstability", "how predictions and their uncertainty change in training",
    ),
]  # fmt: skip
