"""The keys of the `active:` block that make a run faster at the price of other bits: what goes together, and what does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from usb_active.config.usb_keys import ALGORITHMS, algorithm_class

if TYPE_CHECKING:
    from usb_active.config.choices import Problems
    from usb_active.config.settings import ActiveConfig

# USB's algorithms whose steps under `use_cat: false` forward the weak views by themselves, without gradients. In all of them nothing of
# the loss but BatchNorm's statistics depends on these gradients under `use_cat: true` either.
WEAK_APART = frozenset({"adamatch", "comatch", "dash", "defixmatch", "fixmatch", "flexmatch", "freematch", "softmatch", "uda"})
# Of the others, why not.
_NO_WEAK_VIEWS, _LEARNS, _ALREADY = (
    "looks at no unlabelled view", "learns from its weak views, which takes their gradients",
    "computes its targets without gradients in any case",
)  # fmt: skip
WHY_NOT = {
    **dict.fromkeys(("fullysupervised", "supervised"), _NO_WEAK_VIEWS),
    **dict.fromkeys(("crmatch", "pseudolabel", "vat"), _LEARNS),
    **dict.fromkeys(("meanteacher", "mixmatch", "remixmatch"), _ALREADY),
    "pimodel": "forwards its views one by one in USB's code, all of them with gradients",
    "simmatch": "has gradients of its weak views in USB's code, with any `use_cat`",
}


def check_speed(usb: dict[str, Any], active: ActiveConfig, given: Mapping[str, Any], problems: Problems) -> None:
    """Settle `use_cat`, and add what does not go together.

    Args:
        usb: USB's keys and the algorithm's, defaults filled in.
        given: the YAML's top level.
    """
    block = given.get("active")
    if active.fast == "fast" and isinstance(block, Mapping) and block.get("channels_last") is False:
        problems.add("active.channels_last", "false, and active.fast: fast includes it; remove one of them")
    for key in ("channels_last", "fast") if active.train_on == "features" else ():
        if getattr(active, key) not in (False, "exact"):
            problems.add(f"active.{key}", "is a matter of images' format, and active.train_on is features; remove it")
    if active.weak_no_grad:
        _settle_weak_views(usb, "use_cat" in given, problems)


def _settle_weak_views(usb: dict[str, Any], said: bool, problems: Problems) -> None:
    why = _why_not(usb["algorithm"])
    if why is not None:
        problems.add("active.weak_no_grad", f"algorithm '{usb['algorithm']}' {why}; it is for {', '.join(sorted(WEAK_APART))}")
        return
    if said and usb["use_cat"]:
        problems.warn("use_cat", "true; active.weak_no_grad forwards the views apart, which is use_cat: false")
    usb["use_cat"] = False


def _why_not(name: str) -> str | None:
    """Why the weak views of an algorithm cannot be forwarded without gradients; None where they can."""
    if name in ALGORITHMS:
        return None if name in WEAK_APART else WHY_NOT[name]
    cls = algorithm_class(name)
    owner = next((base for base in cls.__mro__ if "train_step" in vars(base)), object)
    is_usb = owner.__module__.startswith("semilearn.algorithms.") and owner.__name__.lower() in WEAK_APART
    return None if is_usb else "has a step of its own, which decides itself what has gradients"
