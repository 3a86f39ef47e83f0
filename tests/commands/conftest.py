"""What several files of this folder begin with."""

from __future__ import annotations

import pytest
from data_makers import write_folder
from human_desk import Desk


@pytest.fixture
def desk(tmp_path, capsys) -> Desk:
    """Twenty images without a label, a YAML that is written, and nothing run."""
    desk = Desk(tmp_path, capsys)
    write_folder(desk.data, {"unlabeled": 20})
    desk.write()
    return desk
