"""The keys of USB 0.3.2's YAMLs: type, default, range. Known here so that a YAML is checked without importing USB (7 s).

A test compares the tables with USB itself. `check_usb_keys` is what the rest uses.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from usb_active.contracts.registry import REGISTRY
from usb_active.environment.usb_names import why_not
from usb_active.errors import UsageError, name_some, nearest, printable


@dataclass(frozen=True)
class Key:
    """One key: `type` (bool, int, float, str, or None: anything), default, interval or list of the values that are valid.

    `former`: the default before this one, which runs that began with it keep; None where it has always been the same.
    """

    type: type | None
    default: Any
    valid: str | tuple[str, ...] = ""
    nullable: bool = False
    former: Any = None


_COUNT = "[0, inf)"
_SIZE = "[1, inf)"
_POSITIVE = "(0, inf)"
_SHARE = "[0, 1]"
_BELOW_ONE = "[0, 1)"

# `dataset` and `net` are plugins, `algorithm` decides which further keys there are: settings.py reads these three.
BASE: dict[str, Key] = {
    "save_dir": Key(str, "./saved_models"),
    "save_name": Key(str, None, nullable=True),
    "resume": Key(bool, False),
    "load_path": Key(str, None, nullable=True),
    "overwrite": Key(bool, True),
    "use_tensorboard": Key(bool, False),
    "use_wandb": Key(bool, False),
    "use_aim": Key(bool, False),
    "epoch": Key(int, 1, _SIZE),
    "num_train_iter": Key(int, 20, _SIZE),
    "num_warmup_iter": Key(int, 0, _COUNT),
    "num_eval_iter": Key(int, 10, _SIZE),
    "num_log_iter": Key(int, 5, _SIZE),
    "num_labels": Key(int, 400, _SIZE, nullable=True),
    "batch_size": Key(int, 8, _SIZE),
    "uratio": Key(int, 1, _SIZE),
    "eval_batch_size": Key(int, 16, _SIZE),
    "ema_m": Key(float, 0.999, _BELOW_ONE),
    "ulb_loss_ratio": Key(float, 1.0, _COUNT),
    "optim": Key(str, "SGD", ("SGD", "AdamW")),
    "lr": Key(float, 3e-2, _POSITIVE),
    "momentum": Key(float, 0.9, _BELOW_ONE),
    "weight_decay": Key(float, 5e-4, _COUNT),
    "layer_decay": Key(float, 1.0, "(0, 1]"),
    "net_from_name": Key(bool, False),
    "use_pretrain": Key(bool, False),
    "pretrain_path": Key(str, ""),
    "use_cat": Key(bool, True),
    "amp": Key(bool, False),
    "clip_grad": Key(float, 0, _COUNT),
    "imb_algorithm": Key(str, None, nullable=True),
    "data_dir": Key(str, "./data"),
    "num_classes": Key(int, 10, "[2, inf)", nullable=True),
    "train_sampler": Key(str, "RandomSampler"),
    "num_workers": Key(int, 1, _COUNT),
    "include_lb_to_ulb": Key(bool, True),
    "lb_imb_ratio": Key(int, 1),
    "ulb_imb_ratio": Key(int, 1),
    "ulb_num_labels": Key(int, None, _COUNT, nullable=True),
    "img_size": Key(int, 32, _SIZE, nullable=True),
    "crop_ratio": Key(float, 0.875, "(0, 1]"),
    "max_length": Key(int, 512, _SIZE),
    "max_length_seconds": Key(float, 4.0, _POSITIVE),
    "sample_rate": Key(int, 16000, _SIZE),
    "world_size": Key(int, 1),
    "rank": Key(int, 0),
    "dist_url": Key(str, "tcp://127.0.0.1:11111"),
    "dist_backend": Key(str, "nccl"),
    "seed": Key(int, 1, "[0, 4294967295]"),
    "gpu": Key(int, None, _COUNT, nullable=True),
    "multiprocessing_distributed": Key(bool, False),
}

_HARD_LABEL = Key(bool, True)
_T = Key(float, 0.5, _POSITIVE)
_P_CUTOFF = Key(float, 0.95, _SHARE)
_EMA_P = Key(float, 0.999, _SHARE)
_WARM_UP = Key(float, 0.4, _SHARE)
_RATIO = Key(float, 1.0, _COUNT)
_FIXMATCH = {"hard_label": _HARD_LABEL, "T": _T, "p_cutoff": _P_CUTOFF}
_MIXUP = {
    "T": _T,
    "unsup_warm_up": Key(float, 1 / 64, _SHARE),
    "mixup_alpha": Key(float, 0.5, _COUNT),
    "mixup_manifold": Key(bool, False),
}

# What each algorithm of this release adds.
ALGORITHMS: dict[str, dict[str, Key]] = {
    "adamatch": {**_FIXMATCH, "ema_p": _EMA_P},
    "comatch": {
        **_FIXMATCH,
        "contrast_p_cutoff": Key(float, 0.8, _SHARE),
        "contrast_loss_ratio": _RATIO,
        "proj_size": Key(int, 128, _SIZE),
        "queue_batch": Key(int, 128, _SIZE),
        "smoothing_alpha": Key(float, 0.9, _SHARE),
        "da_len": Key(int, 256, _COUNT),
    },
    "crmatch": {"hard_label": _HARD_LABEL, "rot_loss_ratio": _RATIO, "p_cutoff": _P_CUTOFF},
    "dash": {
        "T": _T,
        "gamma": Key(float, 1.27, _POSITIVE),
        "C": Key(float, 1.0001, _POSITIVE),
        "rho_min": Key(float, 0.05, _COUNT),
        "num_wu_iter": Key(int, 2048, _COUNT),
        "num_wu_eval_iter": Key(int, 100, _SIZE),
    },
    "defixmatch": _FIXMATCH,
    "fixmatch": _FIXMATCH,
    "flexmatch": {**_FIXMATCH, "thresh_warmup": Key(bool, True)},
    "freematch": {
        "hard_label": _HARD_LABEL,
        "T": _T,
        "ema_p": _EMA_P,
        "ent_loss_ratio": Key(float, 0.01, _COUNT),
        "use_quantile": Key(bool, False),
        "clip_thresh": Key(bool, False),
    },
    "fullysupervised": {},
    "meanteacher": {"unsup_warm_up": _WARM_UP},
    "mixmatch": _MIXUP,
    "pimodel": {"unsup_warm_up": _WARM_UP},
    "pseudolabel": {"p_cutoff": _P_CUTOFF, "unsup_warm_up": _WARM_UP},
    "remixmatch": {
        **_MIXUP,
        "mixup_alpha": Key(float, 0.75, _COUNT),
        "kl_loss_ratio": Key(float, 0.5, _COUNT),
        "rot_loss_ratio": Key(float, 0.5, _COUNT),
    },
    "simmatch": {
        "T": _T,
        "p_cutoff": _P_CUTOFF,
        "proj_size": Key(int, 128, _SIZE),
        "K": Key(int, 128, _SIZE),
        "in_loss_ratio": _RATIO,
        "smoothing_alpha": Key(float, 0.9, _SHARE),
        "da_len": Key(int, 256, _COUNT),
    },
    "softmatch": {
        "hard_label": _HARD_LABEL,
        "T": _T,
        "dist_align": Key(bool, True),
        "dist_uniform": Key(bool, True),
        "ema_p": _EMA_P,
        "n_sigma": Key(int, 2, _SIZE),
        "per_class": Key(bool, False),
    },
    "supervised": {},
    "uda": {
        "tsa_schedule": Key(str, "none", ("none", "linear", "log", "exp")),
        "T": Key(float, 0.4, _POSITIVE),
        "p_cutoff": Key(float, 0.8, _SHARE),
    },
    "vat": {
        "ent_loss_ratio": Key(float, 0.06, _COUNT),
        "vat_eps": Key(float, 6, _POSITIVE),
        "vat_embed": Key(bool, False),
        "unsup_warm_up": _WARM_UP,
    },
}

# USB trains these on every label of the training set, whatever `num_labels` is.
ALL_LABELS = frozenset({"fullysupervised"})
# Set by USB's own YAMLs and read by nothing in this release.
IGNORED = frozenset({"clip", "dist_align_target", "use_refix"})
# Set by USB's own YAMLs and read by a newer USB: the value that means what this release does, and what any other one is for.
NEWER: dict[str, tuple[Any, str]] = {"use_epass": (False, "the three projectors of EPASS")}
RENAMED = {"use_amp": "amp"}
# Without a value the data set's own holds, so USB's defaults would only contradict it.
FROM_DATASET = ("num_classes", "img_size")
# A run of ours decides these itself (where it writes, whether it resumes, which devices it uses). USB's own YAMLs set all of
# them, for eight-GPU machines and for USB's way of resuming: read, checked, and replaced without a word.
DERIVED = {
    "resume": False,
    "load_path": None,
    "overwrite": True,
    "multiprocessing_distributed": False,
    "dist_url": "tcp://127.0.0.1:11111",
    "dist_backend": "nccl",
}
_IMBALANCED = "USB's algorithms for imbalanced data are not supported"
# The one value that is supported, and why no other.
FIXED: dict[str, tuple[Any, str]] = {
    "net_from_name": (False, "USB 0.3.2 cannot build torchvision's networks; name a network of `usb-active list network`"),
    "imb_algorithm": (None, _IMBALANCED),
    "lb_imb_ratio": (1, "which samples are labelled is chosen by active.initial and active.acquisition"),
    "ulb_imb_ratio": (1, "the pool is used as it is"),
    "ulb_num_labels": (None, "the pool is used as it is"),
    "train_sampler": ("RandomSampler", "other samplers cannot be resumed bit-identically"),
    "world_size": (1, "one machine"),
    "rank": (0, "one machine"),
    "use_wandb": (False, "USB opens a run of it for every cycle; use_tensorboard is supported"),
    "use_aim": (False, "USB opens a run of it for every cycle; use_tensorboard is supported"),
}
# These make up one kind of experiment, which is refused as a whole.
IMBALANCE = ("imb_algorithm", "lb_imb_ratio", "ulb_imb_ratio", "ulb_num_labels")
# USB's algorithms for imbalanced data; the keys of each begin with its name.
IMB_ALGORITHMS = frozenset({"abc", "adsh", "cossl", "crest", "darp", "daso", "debiaspl", "saw", "simis", "tras"})


def imbalance(given: Mapping[str, Any]) -> tuple[str, str] | None:
    """(key, what) of the one line for a YAML about imbalanced data, however many of its keys say so; None for any other."""
    keys = [name for name in IMBALANCE if name in given and _value(name, given[name], BASE[name], _silent) not in (FIXED[name][0], INVALID)]
    keys += [name for name in given if name.partition("_")[0] in IMB_ALGORITHMS]
    if not keys:
        return None
    others = f", nor {'is' if len(keys) == 2 else 'are'} {name_some(keys[1:], 3)}" if keys[1:] else ""
    return keys[0], f"not supported ({show(given[keys[0]])}){others}; {FIXED.get(keys[0], FIXED['imb_algorithm'])[1]}"


def _silent(key: str, what: str) -> None:
    """For values that are checked again, where a message says what is wrong with them."""


def algorithm_names() -> set[str]:
    """All algorithms that can be asked for: USB's, those of the registry, and those that a loaded module gave to USB."""
    # Looked at only if something has imported USB already.
    registry = sys.modules.get("semilearn.core.utils.registry")
    foreign = set(registry.ALGORITHMS.keys()) if registry else set()
    return set(ALGORITHMS) | set(REGISTRY.names("algorithm")) | {name for name in foreign if not name.startswith("active_")}


def algorithm_keys(name: str) -> dict[str, Key]:
    """The keys that an algorithm adds. Third-party classes say so by USB's `get_argument()`.

    Raises:
        UsageError: there is no such algorithm.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name not in algorithm_names():
        raise UsageError(why_not("algorithm", name) or f"unknown algorithm '{printable(name)}'{nearest(name, algorithm_names())}")
    cls = algorithm_class(name)
    arguments = cls.get_argument() if hasattr(cls, "get_argument") else ()
    return {argument.name.lstrip("-"): _from_argument(argument) for argument in arguments}


def algorithm_class(name: str) -> type:
    """The class of one of `algorithm_names()`: the registry's, or the one that a loaded module gave to USB. Imports semilearn."""
    if name in REGISTRY.names("algorithm"):
        return REGISTRY.get("algorithm", name)
    return sys.modules["semilearn.core.utils.registry"].ALGORITHMS[name]


def _from_argument(argument: Any) -> Key:
    known = {"str2bool": bool, "bool": bool, "int": int, "float": float, "str": str}
    valid = getattr(argument, "valid", "")
    kind, former = known.get(getattr(argument.type, "__name__", "")), getattr(argument, "former", None)
    return Key(kind, argument.default, valid, nullable=argument.default is None, former=former)


def check_usb_keys(
    given: Mapping[str, Any], algorithm: str, problem: Callable[[str, str], None], warn: Callable[[str, str], None]
) -> dict[str, Any]:
    """All keys of USB and of the algorithm, defaults filled in. `problem` and `warn` are told (key, what).

    `given`: the YAML's top level without `active`, `plugins`, `algorithm`, `dataset` and `net`.
    """
    keys = {**BASE, **algorithm_keys(algorithm)}
    values = {name: key.default for name, key in keys.items()}
    values.update(dict.fromkeys(FROM_DATASET))
    for name, value in _renamed(given, problem).items():
        if name in keys:
            values[name] = _value(name, value, keys[name], problem)
        elif name in IGNORED:
            warn(name, "is read by nothing in USB 0.3.2; dropped")
        elif name in NEWER:
            _check_newer(name, value, problem, warn)
        elif owners := sorted(owner for owner, own in ALGORITHMS.items() if name in own):
            warn(name, f"is not read by '{algorithm}' (a key of {', '.join(owners)}); dropped")
        else:
            known = [*keys, *RENAMED, "active", "plugins", "algorithm", "dataset", "net"]
            problem(name, f"unknown key{nearest(name, known)}")
    _check_fixed(values, problem)
    values.update(DERIVED)
    return values


def _check_newer(name: str, value: Any, problem: Callable[[str, str], None], warn: Callable[[str, str], None]) -> None:
    only, purpose = NEWER[name]
    if value is only:
        warn(name, "is read by a newer USB than 0.3.2 alone; dropped")
    else:
        problem(name, f"not supported ({show(value)}); {purpose} need a newer USB than 0.3.2; {show(only)} trains without them")


def _renamed(given: Mapping[str, Any], problem: Callable[[str, str], None]) -> dict[str, Any]:
    renamed = {name: value for name, value in given.items() if name not in RENAMED}
    for old, new in RENAMED.items():
        if old in given:
            if new in given and given[new] != given[old]:
                problem(old, f"contradicts {new} ({show(given[old])} and {show(given[new])}); give one of them")
            renamed[new] = given[old]
    return renamed


def _check_fixed(values: dict[str, Any], problem: Callable[[str, str], None]) -> None:
    for name, (only, reason) in FIXED.items():
        if values[name] is not INVALID and values[name] != only:
            problem(name, f"not supported ({show(values[name])}); {reason}")


# Stands for a value that has been reported, so that it is not reported twice.
INVALID = object()


def _value(name: str, value: Any, key: Key, problem: Callable[[str, str], None]) -> Any:
    # USB's YAMLs write Python's None, which YAML reads as a text.
    if key.nullable and (value is None or value == "None"):
        return None
    converted = convert(value, key.type)
    if converted is INVALID:
        problem(name, f"must be {NOUNS[key.type]} ({show(value)} is {noun(value)}){quoting_hint(value, key.type)}")
    elif not _is_valid(converted, key.valid):
        what = f"must be one of {', '.join(key.valid)}" if isinstance(key.valid, tuple) else f"must be in {key.valid}"
        problem(name, f"{what} ({show(value)})")
        return INVALID
    return converted


NOUNS = {
    bool: "true or false", int: "an integer", float: "a number", str: "a text", list: "a list", dict: "a mapping", type(None): "empty",
    date: "a date", datetime: "a date", bytes: "binary data", set: "a set",
}  # fmt: skip


def noun(value: Any) -> str:
    """What a value of a YAML is."""
    return NOUNS.get(type(value), "something else")


def quoting_hint(value: Any, wanted: type | None) -> str:
    """What to do where a text was wanted and YAML made something else of it."""
    if wanted is not str or isinstance(value, list | dict | set | bytes):
        return ""
    if isinstance(value, bool):
        return "; YAML reads yes, no, on, off, true and false as this: put it in quotes, as in 'yes'"
    return f"; if a text is meant, put it in quotes, as in '{_as_text(value)}'"


def _as_text(value: Any) -> str:
    return "null" if value is None else printable(_repr(value) if isinstance(value, int | float) else value, 20)


def convert(value: Any, wanted: type | None) -> Any:
    """The value as the wanted type where nothing is lost, else INVALID.

    A whole float is an integer, an integer is a float, and so is a text such as `1e-3`, which YAML 1.1 does not take for a number.
    """
    if wanted is None or type(value) is wanted and wanted is not float:
        return value
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return INVALID
        return number if math.isfinite(number) else INVALID
    return INVALID


def _is_valid(value: Any, valid: str | tuple[str, ...]) -> bool:
    if not valid:
        return True
    if isinstance(valid, tuple):
        return value in valid
    low, high = (float(bound) for bound in valid[1:-1].split(","))
    return (low <= value if valid[0] == "[" else low < value) and (value <= high if valid[-1] == "]" else value < high)


def show(value: Any, limit: int = 60) -> str:
    """A value for a message: short, and on one line."""
    return printable("null" if value is None else str(value).lower() if isinstance(value, bool) else _repr(value), limit)


def _repr(value: Any) -> str:
    try:
        # Of a long text no more than will be shown.
        return repr(value[:200]) if isinstance(value, str | bytes) else repr(value)
    except ValueError:  # Python does not write out integers of thousands of digits
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else "a collection with a very long integer in it"
