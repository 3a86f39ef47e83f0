"""REVIVAL: virtual labels of a neighbour graph, an adversarial search for its boundaries, and the entropy there."""

from __future__ import annotations

from usb_active import Declaration

_MODULE = "usb_active.plugins.revival"

PLUGINS = [
    Declaration("acquisition", "revival", f"{_MODULE}.acquisitions:Revival", "uncertain samples at the boundaries of a neighbour graph"),
    Declaration("prior", "revival", f"{_MODULE}.priors:RevivalPrior", "virtual labels of the last cycle's neighbour graph"),
    Declaration("analysis", "graph_accuracy", f"{_MODULE}.analyses:GraphAccuracy", "how many neighbours share a class, cycle by cycle"),
]
