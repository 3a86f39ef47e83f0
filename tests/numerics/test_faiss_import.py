"""faiss is optional: found where installed, and one clear line where not."""

from __future__ import annotations

import sys

import pytest

from usb_active.errors import UsageError
from usb_active.numerics.faiss_import import import_faiss


def test_it_is_the_module():
    assert import_faiss() is sys.modules["faiss"]


def test_without_it_one_line_names_the_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match=r'^faiss is not installed: pip install "usb-active\[cpu\]", or "usb-active\[gpu\]"') as error:
        import_faiss()
    assert "\n" not in str(error.value)


def test_what_faiss_itself_lacks_is_another_error(monkeypatch, tmp_path):
    (tmp_path / "faiss.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        import_faiss()
