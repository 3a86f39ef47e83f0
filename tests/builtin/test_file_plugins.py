"""Plugins that read a file: a prior table, initial weights, labels that exist already."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_helpers import labels_of, settings, train

from usb_active import UsageError
from usb_active.builtin.file_plugins import FileLabels, FilePretrainer, FilePrior, KnownLabels
from usb_active.contracts.task import Classification
from usb_active.testing.pool import World

KEYS = ["a/1.png", "b, with a comma.png", "c.png", "d.png"]
CLASSES = ("cat", "dog")


# ------------------------------------------------------------------------------------------------- prior


def fit(tmp_path, table, when="start"):
    np.save(tmp_path / "prior.npy", table)
    prior = FilePrior(FilePrior.Config(path=tmp_path / "prior.npy"))
    return prior.fit(World(tmp_path / "run").view([], role="prior"), when)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_a_table_of_probabilities(tmp_path, dtype):
    given = np.eye(3)[np.arange(60) % 3].astype(dtype)
    given[5] = 0
    table = fit(tmp_path, given)
    assert np.array_equal(table.rows(np.array([4, 5, 2])), [[0, 1, 0], [0, 0, 0], [0, 0, 1]])
    assert table.probs.dtype == np.float32


def test_the_table_is_read_at_the_start_of_a_training_only(tmp_path):
    for when in ("step", "end"):
        assert fit(tmp_path, np.zeros((60, 3)), when) is None


def poisoned(row, values):
    table = np.full((60, 3), 1 / 3)
    table[row] = values
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((59, 3)), r"prior: file: .*prior.npy: expected \(60, 3\), got \(59, 3\)"),
        (np.zeros((60, 4)), r"expected \(60, 3\), got \(60, 4\)"),
        (np.zeros(60), r"expected \(60, 3\), got \(60,\)"),
        (poisoned(7, [0.5, 0.6, 0.1]), "samples 7 do not"),
        (poisoned(7, [1.5, -0.5, 0]), "samples 7 do not"),
        (poisoned([8, 9], np.nan), "samples 8, 9 do not"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, table, message):
    with pytest.raises(UsageError, match=message) as error:
        fit(tmp_path, table)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------- initial weights


def read(tmp_path, saved, name="weights.pth"):
    torch.save(saved, tmp_path / name)
    return FilePretrainer(FilePretrainer.Config(path=tmp_path / name)).run(None, None, tmp_path, None, None)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        # USB's checkpoint: the EMA model is the one that is evaluated.
        lambda state: {"model": {"w": torch.zeros(2)}, "ema_model": {f"module.{name}": value for name, value in state.items()}, "it": 7},
    ],
)
def test_weights_are_found_in_checkpoints_of_several_kinds(tmp_path, wrap):
    state = {"w": torch.arange(2.0), "body.b": torch.ones(1)}
    found = read(tmp_path, wrap(state))
    assert found.backbone.keys() == state.keys() and all(torch.equal(found.backbone[name], state[name]) for name in state)
    assert found.features is None and not found.modules


class Unsafe:
    """Would leave a trace if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    with pytest.raises(UsageError, match="^pretrain: file: .*weights.pth: cannot be read in torch's safe mode .*python objects") as error:
        read(tmp_path, {"model": {"w": torch.zeros(1)}, "extra": Unsafe(tmp_path / "trace")})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 torn"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UsageError, match="^pretrain: file: .*weights.pth: cannot be read") as error:
        FilePretrainer(FilePretrainer.Config(path=tmp_path / "weights.pth")).run(None, None, tmp_path, None, None)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_is_not_there_or_holds_no_weights(tmp_path):
    with pytest.raises(UsageError, match="gone.pth: no such file"):
        FilePretrainer(FilePretrainer.Config(path=tmp_path / "gone.pth")).run(None, None, tmp_path, None, None)
    for saved in ({"epoch": 3}, {}, [torch.zeros(1)]):
        with pytest.raises(UsageError, match="weights.pth: holds no state dict of a network"):
            read(tmp_path, saved)


# ------------------------------------------------------------------------------------------------- labels


def view_of(targets, queryable):
    task = Classification(CLASSES)
    dataset = SimpleNamespace(keys=KEYS, task=task, targets=np.array(targets), queryable=np.array(queryable))
    return SimpleNamespace(dataset=dataset)


def labels(tmp_path, text, encoding="utf-8"):
    (tmp_path / "labels.csv").write_text(text, encoding=encoding)
    plugin = FileLabels(FileLabels.Config(path=tmp_path / "labels.csv"))
    idx, classes = plugin.known_labels(view_of([-1] * 4, [True] * 4))
    return dict(zip(idx.tolist(), classes.tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('key,label\na/1.png,dog\n"b, with a comma.png",cat\n', {0: 1, 1: 0}),
        ("label,index\ndog,3\ncat,0\n", {3: 1, 0: 0}),
        # A key wins over an index, which counts in another data set.
        ("index,key,label\n99,c.png,dog\n", {2: 1}),
        # Another run's labels.csv: the last row of a sample counts, and a skipped one has no label.
        ("cycle,index,key,label\n0,0,a/1.png,dog\n0,2,c.png,cat\n1,0,a/1.png,cat\n1,2,c.png,\n", {0: 0}),
        # Not yet filled in.
        ("key,label\na/1.png,\nc.png,cat\n", {2: 0}),
    ],
)
def test_labels_of_a_csv(tmp_path, text, expected):
    assert labels(tmp_path, text) == expected
    assert labels(tmp_path, text, "utf-8-sig") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,label\na/1.png,dog\nc.png,dgo\n", "labels.csv:3: unknown class .*dgo.*dog"),
        ("key,label\nc.pgn,dog\n", "labels.csv:2: key is not in the pool .*c.pgn.*c.png"),
        ("index,label\n4,dog\n", "labels.csv:2: index is not in the pool .*4"),
        ("index,label\n²,dog\n", "labels.csv:2: index is no whole number .*²"),
        ("key,label\na/1.png,\n", "labels.csv: .*no label"),
    ],
)
def test_a_csv_that_is_wrong_says_where(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as error:
        labels(tmp_path, text)
    assert "\n" not in str(error.value)


def test_known_labels_are_those_of_the_data_set():
    idx, classes = KnownLabels().known_labels(view_of([0, -1, 1, 1], [True, True, False, True]))
    assert (idx.tolist(), classes.tolist()) == ([0, 3], [0, 1])
    with pytest.raises(UsageError, match="initial: known: the data set brings no labels"):
        KnownLabels().known_labels(view_of([-1, -1, -1, -1], [True] * 4))


def test_a_run_starts_from_the_labels_of_another(tmp_path):
    first = train(settings(tmp_path, "first", active={"cycles": 0}))
    path = first.session.run_dir.path / "labels.csv"
    second = train(settings(tmp_path, "second", active={"initial": {"name": "file", "path": str(path)}, "cycles": 1})).session
    header, *rows = labels_of(tmp_path / "second")
    known, asked = rows[:20], rows[20:]
    # The same samples with the same labels, but not as questions of the acquisition they once were.
    assert sorted((row[1:5]) for row in known) == sorted(row[1:5] for row in labels_of(tmp_path / "first")[1:])
    assert {row[5] for row in known} == {"file"} and {row[5] for row in asked} == {"margin"}
    assert len(asked) == 10 and not {row[1] for row in asked} & {row[1] for row in known}
    assert len(second.pool.labeled) == 30
