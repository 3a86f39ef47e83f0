"""REVIVAL: virtual labels of a neighbour graph, an adversarial search for its boundaries, and the entropy there."""

from __future__ import annotations

from usb_active import Declaration

PLUGINS: list[Declaration] = []
