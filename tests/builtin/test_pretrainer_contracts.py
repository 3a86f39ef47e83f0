"""The pretrainer that comes with the core keeps the contract."""

from __future__ import annotations

import torch

from usb_active.testing import PretrainerContract


class TestFile(PretrainerContract):
    name = "file"
    trains = False

    def keys(self, folder):
        torch.save(self.build_net().state_dict(), folder / "weights.pth")
        return {"path": str(folder / "weights.pth")}
