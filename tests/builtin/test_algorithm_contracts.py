"""USB's algorithms in cycles keep the contract; those that the README calls tested."""

from __future__ import annotations

import pytest

from usb_active.testing import AlgorithmContract

pytestmark = pytest.mark.slow


class TestSupervised(AlgorithmContract):
    name = "supervised"


class TestFixmatch(AlgorithmContract):
    name = "fixmatch"


class TestFlexmatch(AlgorithmContract):
    name = "flexmatch"


class TestFreematch(AlgorithmContract):
    name = "freematch"


class TestSoftmatch(AlgorithmContract):
    name = "softmatch"


class TestUda(AlgorithmContract):
    name = "uda"


class TestAdamatch(AlgorithmContract):
    name = "adamatch"


class TestPseudolabel(AlgorithmContract):
    name = "pseudolabel"


class TestMixmatch(AlgorithmContract):
    name = "mixmatch"
