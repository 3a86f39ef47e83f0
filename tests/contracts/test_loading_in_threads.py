"""What a data set says of its `load` holds for that `load`, not for the one of a subclass."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from usb_active.contracts.dataset import Dataset, may_load_in_threads


class Several(Dataset):
    loads_in_threads = True

    def load(self, index):
        return index


class Renamed(Several):
    """Neither is replaced."""


class OneHandle(Several):
    def load(self, index):
        return -index


class Again(OneHandle):
    loads_in_threads = True


@pytest.mark.parametrize(("cls", "expected"), [(Dataset, False), (Several, True), (Renamed, True), (OneHandle, False), (Again, True)])
def test_who_says_it_must_know_the_load_there_is(cls, expected):
    assert may_load_in_threads(object.__new__(cls)) == expected


def test_what_is_no_data_set_is_loaded_by_one_thread():
    assert not may_load_in_threads(SimpleNamespace(load=len, views=None, collate=None))
