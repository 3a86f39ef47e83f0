"""What this package puts among USB's algorithms, and the name under which it was asked to before."""

from __future__ import annotations

import warnings

import pytest
from semilearn.core.utils import ALGORITHMS

import usb_active
from usb_active.usb.algorithm import ActiveMixin


@pytest.fixture
def without_fixmatch():
    """USB as before `active_fixmatch` was there."""
    usb_active.register_usb_algorithms()
    before = ALGORITHMS._dict.pop("active_fixmatch")
    yield
    ALGORITHMS._dict["active_fixmatch"] = before


def test_the_old_name_does_the_same_and_says_the_new_one(without_fixmatch):
    with pytest.warns(DeprecationWarning, match="^usb_active.register is now called usb_active.register_usb_algorithms$") as said:
        usb_active.register()
    assert issubclass(ALGORITHMS["active_fixmatch"], ActiveMixin)
    # Where it is called, so that Python shows it to the author of that line.
    assert [warning.filename for warning in said] == [__file__]


def test_the_new_name_says_nothing(without_fixmatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        usb_active.register_usb_algorithms(["fixmatch"])
    made = ALGORITHMS["active_fixmatch"]
    assert made.base_class is ALGORITHMS["fixmatch"] and made.base_name == "fixmatch"
