"""Baselines: what every method of active learning is compared with."""

from __future__ import annotations

from usb_active import Declaration

_MODULE = "usb_active.plugins.baselines.acquisitions"
_MODEL_BASED = "usb_active.plugins.baselines.model_based"
_TRAINED = "usb_active.plugins.baselines.trained"

PLUGINS = [
    Declaration("acquisition", "random", f"{_MODULE}:Random", "uniformly at random"),
    Declaration("acquisition", "balanced", f"{_MODULE}:Balanced", "equally many of every class (simulated oracle only)"),
    Declaration("acquisition", "stratified", f"{_MODULE}:Stratified", "every class by its share of the pool (simulated oracle only)"),
    Declaration("acquisition", "entropy", f"{_MODULE}:Entropy", "largest predictive entropy"),
    Declaration("acquisition", "margin", f"{_MODULE}:Margin", "smallest gap between the two likeliest classes"),
    Declaration("acquisition", "least_confidence", f"{_MODULE}:LeastConfidence", "smallest top probability"),
    Declaration("acquisition", "coreset", f"{_MODULE}:Coreset", "greedy k-center in feature space"),
    Declaration("acquisition", "kmeanspp", f"{_MODULE}:KMeansPlusPlus", "k-means++ seeding in feature space"),
    Declaration("acquisition", "badge", f"{_MODEL_BASED}:Badge", "k-means++ seeding of gradient embeddings (Ash et al. 2020)"),
    Declaration("acquisition", "cdal", f"{_MODEL_BASED}:Cdal", "greedy k-center by KL divergence of predictions (Agarwal et al. 2020)"),
    Declaration("acquisition", "alfa_mix", f"{_MODEL_BASED}:AlfaMix", "predictions that feature mixing changes (Parvaneh et al. 2022)"),
    Declaration("acquisition", "ical", f"{_MODEL_BASED}:Ical", "largest variance of predictions under augmentation (Gao et al. 2020)"),
    Declaration("acquisition", "learning_loss", f"{_TRAINED}:LearningLoss", "largest loss by a head of its own (Yoo & Kweon 2019)"),
]
