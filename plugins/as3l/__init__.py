"""AS3L: self-supervised features, single-shot selection, and prior pseudo-labels that guide the trainer."""

from __future__ import annotations

from usb_active import Declaration

_MODULE = "usb_active.plugins.as3l"

PLUGINS = [
    Declaration("acquisition", "as3l", f"{_MODULE}.acquisitions:AS3L", "medoids of samples that fall together in all clusterings"),
    Declaration("acquisition", "kmedoids", f"{_MODULE}.acquisitions:KMedoids", "medoids of one clustering"),
    Declaration("acquisition", "typiclust", f"{_MODULE}.acquisitions:TypiClust", "the most typical samples of clusters without a label"),
    Declaration("prior", "as3l", f"{_MODULE}.priors:AS3LPrior", "labels spread over clusterings of several sizes"),
    Declaration("prior", "llgc", f"{_MODULE}.priors:LLGCPrior", "labels spread over the neighbour graph"),
    Declaration("prior", "as3l_oracle", f"{_MODULE}.priors:OraclePrior", "true classes but for a share of wrong ones, for studies"),
    Declaration("pretrainer", "simsiam", f"{_MODULE}.simsiam:SimSiam", "features from two views of an image predicting each other"),
    Declaration("algorithm", "linear_evaluation", f"{_MODULE}.algorithm:LinearEvaluation", "a linear classifier on frozen features"),
]
