"""Which key gives which class."""

from __future__ import annotations

import pytest

from usb_active.labeling.class_keys import MOST, RESERVED, class_keys


def test_digits_then_letters_in_order():
    names = [f"class {number}" for number in range(12)]
    assert class_keys(names) == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c"]


def test_a_class_that_is_called_as_a_key_has_it():
    assert class_keys([str(digit) for digit in range(10)]) == [str(digit) for digit in range(10)]
    assert class_keys(["3", "cat", "B"]) == ["3", "1", "b"]
    # The page's own keys are no class's; and of two that want the same one neither has it.
    assert class_keys(["s", "a", "A"]) == ["1", "2", "3"]


@pytest.mark.parametrize("number", [1, 9, 10, MOST])
def test_every_class_has_a_key_of_its_own(number):
    keys = class_keys([f"class {each}" for each in range(number)])
    assert len(set(keys)) == number and not set(keys) & {"", *RESERVED}


def test_of_too_many_classes_none_has_one():
    assert set(class_keys([f"class {each}" for each in range(MOST + 1)])) == {""}
