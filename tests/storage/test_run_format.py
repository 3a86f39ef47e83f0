"""The number that says what a run began with: who writes it, who has none, and what is refused."""

from __future__ import annotations

import json

import pytest
from run_helpers import config_of, settings

from usb_active.errors import UsageError
from usb_active.loop.setup import build_dataset, build_parts, pin, take_pinned
from usb_active.storage.run_dir import RunDir
from usb_active.storage.run_format import CURRENT, FIRST, read_pinned, run_format


@pytest.fixture
def run(tmp_path):
    """A run directory in which nothing has begun."""
    config = config_of(settings(tmp_path))
    with RunDir.open(config.run_path, config.resolved()) as run:
        yield run


def write(run: RunDir, content: object) -> None:
    (run.path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_new_run_has_the_current_format(run):
    assert (run_format(run), read_pinned(run)) == (CURRENT, None)
    pin(run, build_dataset(config_of(settings(run.path.parent))))
    assert json.loads((run.path / "dataset.json").read_text())["format"] == CURRENT == run_format(run)


def test_a_run_without_a_number_is_of_version_0_1_0_and_stays_so(run):
    write(run, {"img_size": 8, "in_channels": 1, "class_names": list("0123456789")})
    before = (run.path / "dataset.json").read_bytes()
    config = config_of(settings(run.path.parent))
    dataset = build_parts(config)["dataset"]
    assert run_format(run) == FIRST == dataset.options.run_format
    assert build_dataset(config).options.run_format == CURRENT
    take_pinned(run, dataset)
    pin(run, dataset)
    assert (run.path / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "damaged (no object in it)"),
        ({"format": "2"}, "damaged (format: '2', must be 1 to 2)"),
        ({"format": True}, "damaged (format: True"),
        ({"format": 0}, "damaged (format: 0"),
        ({"format": CURRENT + 1}, "of a later version of usb-active"),
    ],
)
def test_another_content_is_refused_in_one_line(run, content, said):
    write(run, content)
    with pytest.raises(UsageError) as caught:
        run_format(run)
    assert said in str(caught.value) and str(run.path / "dataset.json") in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_that_has_lost_it_is_refused(run):
    run.write_keys(["a", "b"])
    with pytest.raises(UsageError, match=r"dataset\.json is gone; restore it from a copy"):
        run_format(run)


def test_a_run_with_another_test_set_from_its_own_images_is_refused(run):
    dataset = build_dataset(config_of(settings(run.path.parent)))
    dataset.test_digest = "a" * 64
    pin(run, dataset)
    assert json.loads((run.path / "dataset.json").read_text())["test_digest"] == "a" * 64
    take_pinned(run, dataset)
    dataset.test_digest = "b" * 64
    with pytest.raises(UsageError, match=r"taken from the same images as the pool \(test_share\), and is another than when the run began"):
        take_pinned(run, dataset)
