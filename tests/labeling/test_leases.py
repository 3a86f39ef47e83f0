"""Each image is shown to one person at a time."""

from __future__ import annotations

from usb_active.labeling.leases import Leases


def test_what_one_holds_is_not_given_to_another():
    leases = Leases(seconds=60)
    assert leases.hold("anna", [3, 1, 2], 1, now=0) == [3]
    assert leases.hold("ben", [3, 1, 2], 1, now=1) == [1]
    assert leases.others("anna", now=1) == {1} and leases.others("ben", now=1) == {3}
    # The next image: what was held before is free again.
    assert leases.hold("anna", [2], 1, now=2) == [2]
    assert leases.hold("ben", [3, 2], 5, now=3) == [3]


def test_who_says_nothing_for_long_holds_nothing():
    leases = Leases(seconds=60)
    leases.hold("anna", [3], 1, now=0)
    assert leases.hold("ben", [3], 1, now=59.9) == []
    leases.renew("anna", now=59.9)
    assert leases.hold("ben", [3], 1, now=119.8) == []
    assert leases.hold("ben", [3], 1, now=119.9) == [3]
    # And does not get it back by saying something.
    leases.renew("anna", now=120)
    assert leases.others("anna", now=120) == {3} and leases.others("ben", now=120) == set()


def test_who_has_gone_holds_nothing():
    leases = Leases()
    leases.hold("anna", [1, 2], 2, now=0)
    leases.drop("anna")
    assert leases.hold("ben", [1, 2, 2], 5, now=0) == [1, 2]
