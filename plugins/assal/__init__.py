"""ASSAL: a variational autoencoder, a classifier on its code, and an adversarial sampler that tells what is labelled."""

from __future__ import annotations

from usb_active import Declaration

_MODULE = "usb_active.plugins.assal"

PLUGINS = [
    Declaration("network", "assal_vae", f"{_MODULE}.networks:AssalVae", "an autoencoder with a classifier on its code (ASSAL)"),
]
