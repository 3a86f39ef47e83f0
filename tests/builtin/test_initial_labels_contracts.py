"""What the core brings to start from labels that exist already keeps the contract."""

from __future__ import annotations

from usb_active.testing import InitialLabelsContract


class TestKnown(InitialLabelsContract):
    name = "known"


class TestFile(InitialLabelsContract):
    name = "file"

    def keys(self, folder):
        (folder / "labels.csv").write_text("key,label\nblobs/041,class 2\nblobs/003,class 1\nblobs/020,class 0\n", encoding="utf-8")
        return {"path": str(folder / "labels.csv")}
