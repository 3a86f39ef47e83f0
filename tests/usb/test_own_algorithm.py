"""An algorithm of one's own in cycles: the contract's base comes last, and hides nothing that a class has without it."""

from __future__ import annotations

import pytest
from semilearn.algorithms.fixmatch import FixMatch

from usb_active.contracts.plugin import overrides
from usb_active.usb.bases import OwnAlgorithm
from usb_active.usb.registration import make_active
from usb_active.usb.seams import FIELDS, batch_fields


def plan(self, pool):
    return 1, 10


class Duck(FixMatch):
    """As before there was a base."""

    plan = plan
    batch_fields = frozenset({"idx_lb"})
    unused_fields = ("idx_ulb",)


class First(OwnAlgorithm, FixMatch):
    """Derived, the base before USB's class."""

    plan = plan
    batch_fields = frozenset({"idx_lb"})
    unused_fields = ("idx_ulb",)


class Last(FixMatch, OwnAlgorithm):
    """Derived, the base after USB's class."""

    plan = plan
    batch_fields = frozenset({"idx_lb"})
    unused_fields = ("idx_ulb",)


@pytest.mark.parametrize("cls", [Duck, First, Last])
def test_with_or_without_the_base(cls):
    active = make_active("mine", cls)
    assert active.plan is plan and overrides(active, "plan") and not overrides(active, "make_sampler")
    assert active.unused_fields == ("idx_ulb",) and batch_fields("mine", active) == {"idx_lb"}
    assert active.train_step is not FixMatch.train_step and issubclass(active, OwnAlgorithm)


def test_usbs_own_have_the_defaults():
    active = make_active("fixmatch", FixMatch)
    assert not overrides(active, "plan") and not overrides(active, "make_sampler") and active.unused_fields == ()
    assert batch_fields("fixmatch", active) == FIELDS["fixmatch"] and active.get_argument is FixMatch.get_argument


def test_the_contract_has_no_name_of_usbs():
    public = {name for name in vars(OwnAlgorithm) if not name.startswith("_")}
    assert public and not {name for name in public if hasattr(FixMatch, name)}
