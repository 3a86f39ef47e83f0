"""ASSAL: a variational autoencoder, a classifier on its code, and an adversarial sampler that tells what is labelled."""

from __future__ import annotations

from usb_active import Declaration

_MODULE = "usb_active.plugins.assal"

PLUGINS = [
    Declaration("acquisition", "assal", f"{_MODULE}.acquisitions:AssalSampling", "least like the labelled, by a trained sampler (ASSAL)"),
    Declaration("acquisition", "vaal", f"{_MODULE}.samplers:Vaal", "least like the labelled, by a sampler of its own (Sinha et al. 2019)"),
    Declaration("acquisition", "sraal", f"{_MODULE}.samplers:Sraal", "as vaal, the certain counted as labelled (Zhang et al. 2020)"),
    Declaration("acquisition", "assal_kmeans", f"{_MODULE}.cold_start:AssalKMeans", "nearest to k-means centres of the code (ASSAL)"),
    Declaration("algorithm", "assal", f"{_MODULE}.algorithm:Assal", "autoencoder, classifier on its code and sampler (ASSAL)"),
    Declaration("analysis", "assal", f"{_MODULE}.analysis:AutoencoderAnalysis", "what autoencoder and sampler have learned (ASSAL)"),
    Declaration("network", "assal_vae", f"{_MODULE}.networks:AssalVae", "an autoencoder with a classifier on its code (ASSAL)"),
    Declaration("pretrainer", "assal", f"{_MODULE}.warm_up:WarmUp", "autoencoder and rotations, before any label (ASSAL)"),
]
