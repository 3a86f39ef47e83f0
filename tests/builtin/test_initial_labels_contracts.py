"""What the core brings to start from labels that exist already keeps the contract."""

from __future__ import annotations

import numpy as np

from usb_active.records import LABELED, SKIPPED, LabelRow, Query
from usb_active.storage.run_dir import RunDir
from usb_active.testing import InitialLabelsContract


class TestKnown(InitialLabelsContract):
    name = "known"


class TestFile(InitialLabelsContract):
    name = "file"

    def keys(self, folder):
        (folder / "labels.csv").write_text("key,label\nblobs/041,class 2\nblobs/003,class 1\nblobs/020,class 0\n", encoding="utf-8")
        return {"path": str(folder / "labels.csv")}


class TestOtherRun(InitialLabelsContract):
    name = "other_run"

    def keys(self, folder):
        labels, keys = {3: "class 1", 20: "class 0", 41: ""}, [f"blobs/{index:03d}" for index in range(60)]
        with RunDir.open(folder / "run", {"seed": 0}) as run:
            names = ("class 0", "class 1", "class 2")
            run.write_json("dataset.json", {"format": 2, "run": "0123", "img_size": 8, "in_channels": 3, "class_names": names})
            run.write_keys(keys)
            run.save_query(Query(0, np.array([*labels, 7]), tuple(keys[index] for index in (*labels, 7)), "random", names))
            rows = [(index, label, LABELED if label else SKIPPED) for index, label in labels.items()]
            run.append_rows([LabelRow(0, index, keys[index], label, status, "random", "") for index, label, status in rows])
        return {"path": str(folder / "run"), "run": "0123"}

    def test_what_was_skipped_there_is_skipped(self, fresh, tmp_path):
        plugin = self.plugin(tmp_path)
        assert self.brought(plugin, fresh) == [(3, 1), (20, 0)] and self.refused(plugin, fresh) == [41]
