"""Names in USB's own YAMLs that cannot be used here, and why: they are not misspelt. Imports nothing heavy.

A test compares the tables with USB itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Only USB's main branch has these.
NEWER_ALGORITHMS = frozenset({"multimatch", "refixmatch", "sequencematch"})
DATASETS = {
    "text": frozenset({"aclImdb", "ag_news", "amazon_review", "dbpedia", "yahoo_answers", "yelp_review"}),
    "audio": frozenset({"esc50", "fsdnoisy", "gtzan", "superbks", "superbsi", "urbansound8k"}),
    "image": frozenset({"eurosat", "imagenet", "imagenet127", "semi_aves", "semi_aves_out", "semi_inat", "tissuemnist"}),
}
NETWORKS = {
    "text": frozenset({"bert_base_cased", "bert_base_cased_multihead", "bert_base_uncased", "bert_base_uncased_multihead"}),
    "audio": frozenset({"hubert_base", "wave2vecv2_base"}),
}


def why_not(kind: str, name: str) -> str:
    """Why a plugin of this kind (registry) cannot be what USB means by `name`; "" when USB means nothing by it."""
    if kind == "algorithm" and name in NEWER_ALGORITHMS:
        return f"'{name}' is of a newer USB than 0.3.2, the release that usb-active runs on"
    if kind == "network":
        return next((f"'{name}' reads {of}; only images are supported" for of, names in NETWORKS.items() if name in names), "")
    if kind != "dataset":
        return ""
    if name in DATASETS["image"]:
        return f"'{name}' of USB is not read; put its images into folders and give dataset: image_folder"
    return next((f"'{name}' of USB is {of}; only images are supported" for of, names in DATASETS.items() if name in names), "")


def other_modality(data: Mapping[str, Any], known: Collection[str]) -> str:
    """What is to be said of a whole YAML whose data set of USB is text or audio; "" for any other. `known`: data sets that there are."""
    given = data.get("dataset")
    name = given.get("name") if isinstance(given, dict) else given
    if not isinstance(name, str) or name in known or name in DATASETS["image"]:
        return ""
    return why_not("dataset", name)
