"""A run that version 0.1.0 began resumes bit-identically: its images, its classes, its order, its weights.

In fixtures/run_0_1_0 are two run directories that version 0.1.0 itself made, with small_cnn of width 2 and pictures of `data_makers`:
`killed` ended at the first checkpoint of cycle 1 (`latest_model.pth` of cycle 0 is left out: nothing needs it any more), `waiting`
trained cycle 0 on 4 of 5 labels, since it had `accept_partial: true`, and asked for those of cycle 1. Checkpoints are compressed. In
reference.json is what version 0.1.0 came to with the settings of `killed`: the journal, the metrics, and the norms of the EMA weights.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_makers import picture, write_folder, write_image
from PIL import Image
from run_helpers import checkpoint, config_of, labels_of, settings, train, weights_equal, write_yaml

from usb_active import cli
from usb_active.loop.setup import build_parts
from usb_active.storage.run_dir import RunDir


def as_0_1_0_read(path: str, mode: str, reading: object = None) -> Image.Image:
    """`read_image` of version 0.1.0, line by line."""
    with Image.open(path) as image:
        if image.mode == "P" and "transparency" in image.info:
            return image.convert("RGBA").convert(mode)
        if image.mode[0] not in "IF":
            return image.convert(mode)
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert(mode)


def as_0_1_0_listed(root: Path) -> list[str]:
    """All images of train/, in its order."""
    found = [Path(folder) / name for folder, _, names in os.walk(root / "train") for name in names]
    return sorted(path.relative_to(root).as_posix() for path in found if path.suffix in (".png", ".jpg"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Turned, see-through and deep images, and a folder of a file server with some."""
    for number in range(24):
        path = tmp_path / f"photos/train/{('cat', 'dog')[number % 2]}/{number:02d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = number % 8 + 1
        if number % 3 == 0:
            Image.fromarray(picture(number)).save(path.with_suffix(".jpg"), exif=exif)
        elif number % 3 == 1:
            Image.fromarray(np.dstack([picture(number), picture(99, channels=1)])).save(path.with_suffix(".png"), exif=exif)
        else:
            Image.fromarray(picture(number, channels=1).astype(np.uint16) * 16).save(path.with_suffix(".png"))
    write_image(tmp_path / "photos/train/cat/@eaDir/x.png")
    return tmp_path / "photos"


def begin(data: dict) -> Path:
    """The directory as version 0.1.0 left it when it had just begun."""
    config = config_of(data)
    kept = config.resolved()
    assert not {"background", "value_range"} & kept["dataset"].keys()
    with RunDir.open(config.run_path, kept) as run:
        record = {"img_size": 8, "in_channels": 3, "class_names": ["cat", "dog"]}
        (run.path / "dataset.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return run.path


def test_it_resumes_bit_identically(photos, tmp_path, monkeypatch):
    active = {"initial": {"name": "random", "size": 6}, "budget": 4, "keep": "all"}
    folder = {"dataset": "image_folder", "data_dir": str(photos), "num_train_iter": 6, "num_eval_iter": 3, "img_size": 8}
    data = settings(tmp_path, "resumed", active={**active, "cycles": 0}, **folder)
    run = begin(data)
    train(data)
    train(settings(tmp_path, "resumed", active=active, **folder))
    assert json.loads((run / "dataset.json").read_text()).keys() == {"img_size", "in_channels", "class_names"}
    assert RunDir.read(run).keys() == as_0_1_0_listed(photos)

    dataset = build_parts(config_of(data))["dataset"]
    for index, key in enumerate(dataset.keys):
        assert dataset.load(index).tobytes() == as_0_1_0_read(str(photos / key), "RGB").tobytes(), key

    whole = settings(tmp_path, "whole", active=active, **folder)
    begin(whole)
    monkeypatch.setattr("usb_active.images.files.read_image", as_0_1_0_read)
    train(whole)
    for cycle in (0, 1):
        assert weights_equal(checkpoint(run, cycle), checkpoint(tmp_path / "whole", cycle))
    assert labels_of(run) == labels_of(tmp_path / "whole")


def test_a_new_run_on_the_same_folder_reads_it_anew(photos, tmp_path):
    data = settings(tmp_path, dataset="image_folder", data_dir=str(photos), active={"initial": {"name": "random", "size": 6}, "budget": 4})
    new = build_parts(config_of(data))["dataset"]
    assert [key for key in as_0_1_0_listed(photos) if key not in new.keys] == ["train/cat/@eaDir/x.png"]
    differing = [key for i, key in enumerate(new.keys) if new.load(i).tobytes() != as_0_1_0_read(str(photos / key), "RGB").tobytes()]
    # Of numbers 0 to 23: those above 0 that are JPEGs of another orientation than 1 (6 of 8), all with transparency (8), none that is deep.
    turned = [n for n in range(0, 24, 3) if n % 8]
    assert {int(Path(key).stem) for key in differing} == {*turned, *range(1, 24, 3)}


def test_the_line_that_says_so_comes_once_a_start(photos, tmp_path, caplog):
    data = settings(tmp_path, dataset="image_folder", data_dir=str(photos), active={"initial": {"name": "random", "size": 6}, "budget": 4})
    begin(data)
    path = write_yaml(tmp_path / "c.yaml", data)
    assert cli.main(["check", str(path)]) == 0
    assert caplog.text.count("reads its images as version 0.1.0 did, which began it") == 1
    caplog.clear()
    assert cli.main(["check", str(path), "--set", "save_name=new"]) == 0
    assert "0.1.0" not in caplog.text and caplog.text.count("left out: folders") == 1
    caplog.clear()
    train(data)
    assert caplog.text.count("reads its images as version 0.1.0 did, which began it") == 1


# ------------------------------------------------------------------------------------- runs that version 0.1.0 itself made
FIXTURES = Path(__file__).parents[1] / "fixtures" / "run_0_1_0"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A copy of the runs, their YAMLs and their pictures, in the working directory."""
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    for packed in tmp_path.rglob("*.pth.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    write_folder(tmp_path / "photos", {"train/cat": 20, "train/dog": 20, "test/cat": 6, "test/dog": 6})
    write_folder(tmp_path / "unlabeled_photos", {"unlabeled": 24})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(capsys, code: int, *arguments: str) -> str:
    """The standard output of a command in this process."""
    capsys.readouterr()
    assert cli.main(list(arguments)) == code, capsys.readouterr().err
    return capsys.readouterr().out


def answer(path: Path) -> None:
    """Fill the column of labels, as people do."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([header, *([*row[:3], row[3] or ("cat", "dog")[number % 2]] for number, row in enumerate(rows))])


def test_a_killed_run_of_0_1_0_ends_as_it_would_have(home, capsys):
    """Figures of floating-point numbers may differ a little between versions of torch; the weights, which have come through 12 steps,
    by far less than from another split, or from an optimizer that began again."""
    reference = json.loads((home / "reference.json").read_text())
    before = (home / "killed/labels.csv").read_bytes()
    assert len(command(capsys, 0, "predict", "killed").splitlines()) == 1 + 40 - 18
    command(capsys, 0, "run", "killed.yaml")
    assert (home / "killed/labels.csv").read_bytes().startswith(before)
    assert labels_of(home / "killed") == [tuple(row) for row in reference["labels"]]
    found = [json.loads(line) for line in (home / "killed/metrics.jsonl").read_text().splitlines()]
    names = ("cycle", "num_labels", "class_counts", "evaluated_on", "acquisition", "log")
    assert [[line[name] for name in names] for line in found] == [[line[name] for name in names] for line in reference["metrics"]]
    norms = {name: float(value.double().norm()) for name, value in checkpoint(home / "killed", 1)["ema_model"].items()}
    assert norms == pytest.approx(reference["weights"], rel=1e-3, abs=1e-4)
    assert not json.loads((home / "killed/dataset.json").read_text()).keys() & {"format", "run"}
    assert "18" in command(capsys, 0, "labels", "killed")
    assert (home / "killed/report/report.md").is_file() and "report.md" in command(capsys, 0, "report", "killed")
    assert len(command(capsys, 0, "predict", "killed").splitlines()) == 1 + 40 - 18


@pytest.mark.parametrize("partial", [True, False])
def test_a_run_of_0_1_0_that_waits_takes_the_answers(home, capsys, partial):
    """Whether partial answers are accepted may be changed at any time: the pick that had no label in cycle 0 is no damage."""
    given = ("run", "waiting.yaml", "--set", f"active.oracle.accept_partial={str(partial).lower()}")
    before = labels_of(home / "waiting")
    command(capsys, 3, *given)
    assert labels_of(home / "waiting") == before and len(before) == 1 + 4
    for cycle in (0, 1):
        answer(home / f"waiting/queries/cycle_00{cycle}.csv")
    command(capsys, 0, *given)
    after = labels_of(home / "waiting")
    assert after[:5] == before and len(after) == 1 + 9
    assert sorted(int(row[1]) for row in after[1:]) == [2, 3, 6, 8, 9, 11, 12, 22, 23]
    assert len(command(capsys, 0, "predict", "waiting").splitlines()) == 1 + 24 - 9
    command(capsys, 0, "labels", "waiting")
    command(capsys, 0, "report", "waiting")
