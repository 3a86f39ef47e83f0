"""Label propagation: for acquisition (jLP), for training (SEMI), beside unsupervised pre-training (PRE)."""

from __future__ import annotations

from usb_active import Declaration

_MODULE = "usb_active.plugins.jlp"

PLUGINS = [
    Declaration("acquisition", "jlp", f"{_MODULE}.acquisitions:JointLabelPropagation", "least similar to what is labelled on the manifold"),
    Declaration("acquisition", "ceal", f"{_MODULE}.acquisitions:CEAL", "entropy, with pseudo-labels for what the model is sure of"),
    Declaration("algorithm", "lp", f"{_MODULE}.algorithm:LabelPropagation", "trained on the pseudo-labels of label propagation (SEMI)"),
    Declaration("pretrainer", "deepcluster", f"{_MODULE}.deepcluster:DeepCluster", "features learned from clusters of themselves (PRE)"),
]
