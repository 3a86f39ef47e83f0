"""Acquisitions that are made for few labels: coverage of the pool, and what mixes it with uncertainty."""

from __future__ import annotations

from usb_active import Declaration

_COVERING = "usb_active.plugins.low_budget.acquisitions"
_MODEL_BASED = "usb_active.plugins.low_budget.model_based"

PLUGINS = [
    Declaration("acquisition", "max_herding", f"{_COVERING}:MaxHerding", "greedy coverage by a Gaussian kernel (Bae et al. 2024)"),
    Declaration("acquisition", "u_herding", f"{_COVERING}:UHerding", "coverage of what is uncertain (Bae et al. 2025)"),
    Declaration("acquisition", "prob_cover", f"{_COVERING}:ProbCover", "most samples in balls around labelled ones (Yehuda et al. 2022)"),
    Declaration("acquisition", "dcom", f"{_COVERING}:Dcom", "coverage and margin, by how much is covered (Mishal & Weinshall 2024)"),
    Declaration("acquisition", "power_margin", f"{_MODEL_BASED}:PowerMargin", "drawn by a power of the uncertainty (Kirsch et al. 2023)"),
    Declaration("acquisition", "clue", f"{_MODEL_BASED}:Clue", "centres of clusters weighted by entropy (Prabhu et al. 2021)"),
    Declaration("acquisition", "drop_query", f"{_MODEL_BASED}:DropQuery", "clusters of what dropout makes disagree (Gupte et al. 2024)"),
    Declaration("acquisition", "bait", f"{_MODEL_BASED}:Bait", "least trace of the inverse Fisher information (Ash et al. 2021)"),
]
