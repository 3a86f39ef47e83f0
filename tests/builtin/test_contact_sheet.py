"""The page with a query's pictures: what people look at while they give labels."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from data_makers import write_folder, write_image
from PIL import Image
from run_helpers import config_of, settings

from usb_active.builtin import oracles
from usb_active.builtin.contact_sheet import MOST, SIDE, write_contact_sheet
from usb_active.builtin.oracles import CsvOracle
from usb_active.errors import UsageError
from usb_active.loop.setup import build_dataset
from usb_active.records import Query

NAMES = ("cat", "<script>alert('dog')</script>", 'a "b" & c')


class Page(HTMLParser):
    """What a browser makes of it: tags with their attributes, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return "|".join(text.strip() for text in self.texts if text.strip())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def pictures(self):
        return [Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) for image in self.all("img")]


def query_of(keys, probs=None, cycle=0, **changes):
    return Query(cycle, np.arange(len(keys)), tuple(keys), "margin", changes.pop("class_names", NAMES), probs, **changes)


def written(tmp_path, keys, load, suggestions=None):
    path = tmp_path / "cycle_000.html"
    assert write_contact_sheet(path, query_of(keys), load, suggestions)
    return Page(path)


def gray(index):
    return np.full((8, 6), index, dtype=np.uint8)


def test_each_sample_has_its_number_picture_key_and_suggestion(tmp_path):
    page = written(tmp_path, ["one", "two"], gray, [("cat", 0.625), ("dog", 0.5)])
    text = page.text
    assert "|1|cat 0.625|one|" in text and text.endswith("|2|dog 0.500|two") and len(page.all("figure")) == 2
    assert [np.asarray(picture).max() for picture in page.pictures] == [0, 1]
    # Small ones are kept as they are, and shown enlarged.
    assert page.pictures[0].size == (6, 8) and page.all("img")[0] | {"src": ""} == {
        "class": "small", "width": "72", "height": "96", "alt": "", "src": "",
    }  # fmt: skip
    assert "cycle_000.csv" in text and "Query 0: 2 samples, chosen by margin" in text
    assert "0.6" not in written(tmp_path, ["one"], gray).text


def test_nothing_comes_from_elsewhere_and_nothing_runs(tmp_path):
    odd = b"\xff.png".decode("utf-8", "surrogateescape")
    keys = ["<img src=x onerror=alert(1)>.png", "a&amp;b.png", "'\"><script>1</script>", "line\nbreak", odd]
    page = written(tmp_path, keys, gray, [(name, 1.0) for name in (*NAMES, "cat", "cat")])
    assert {tag for tag, _ in page.tags} == {
        "html", "head", "meta", "title", "style", "body", "h1", "p", "code", "main", "figure", "div", "img", "figcaption", "b", "br",
    }  # fmt: skip
    for tag, attrs in page.tags:
        assert not {name for name in attrs if name.startswith("on")} and "href" not in attrs, tag
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "url(" not in "".join(page.texts) and "@import" not in "".join(page.texts)
    # Read as text they are what they are.
    assert all(text in page.text for text in (*keys[:3], *NAMES)) and "line\\nbreak" in page.text


def test_large_ones_become_small(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (300, 600, 3), dtype=np.uint8)
    page = written(tmp_path, ["photo"], lambda index: pixels)
    (picture,) = page.pictures
    assert picture.format == "JPEG" and picture.size == (SIDE, SIDE // 2) and (tmp_path / "cycle_000.html").stat().st_size < 12_000


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("side", [10, 200])
def test_any_kind_of_image_is_shown(tmp_path, mode, side):
    page = written(tmp_path, ["x"], lambda index: Image.new(mode, (side, side)))
    assert [max(picture.size) for picture in page.pictures] == [min(side, SIDE)]


def drawn(kind: str) -> Image.Image:
    """Eight rows, the upper half of them dark, the lower one light."""
    dark = np.repeat(np.arange(8)[:, None] < 4, 8, axis=1)
    if kind == "I;16":
        return Image.fromarray(np.where(dark, 0x1000, 0xF000).astype(np.uint16))
    if kind == "palette":
        image = Image.fromarray(np.where(dark, 0, 1).astype(np.uint8), "P")
        # Both colours are black, the second is transparent.
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.info["transparency"] = 1
        return image
    if kind in ("LA", "RGBA"):
        # Black, and transparent below.
        return Image.merge(kind, [Image.new("L", (8, 8), 0)] * (len(kind) - 1) + [Image.fromarray(np.where(dark, 255, 0).astype(np.uint8))])
    return Image.fromarray(np.where(dark, 20, 235).astype(np.uint8)).convert(kind)


@pytest.mark.parametrize("kind", ["1", "L", "LA", "palette", "RGB", "RGBA", "CMYK", "I;16"])
def test_what_is_drawn_is_seen(tmp_path, kind):
    (picture,) = written(tmp_path, ["x"], lambda index: drawn(kind)).pictures
    values = np.asarray(picture.convert("L"))
    assert values[:3].max() < 60 and values[5:].min() > 195


def test_a_page_that_cannot_be_written_keeps_nobody_from_answering(tmp_path, monkeypatch, caplog):
    def full(*arguments):
        raise UsageError("cannot write cycle_000.html: no space left on device")

    monkeypatch.setattr(oracles, "write_contact_sheet", full)
    oracle = CsvOracle()
    oracle.setup(build_dataset(config_of(settings(tmp_path))), tmp_path)
    query = query_of(["digits/0000", "digits/0002"], class_names=tuple("0123456789"))
    oracle.ask(query)
    assert oracle.csv_path(0).exists() and not oracle.page_path(0).exists() and "pictures" not in oracle.instructions(query, 2)
    assert [record.message for record in caplog.records if "no page" in record.message] == [
        "no page with pictures: cannot write cycle_000.html: no space left on device",
    ]  # fmt: skip


def test_one_that_cannot_be_read_has_the_reason_in_its_place(tmp_path):
    def load(index):
        if index == 1:
            raise OSError("image file is truncated <b>")
        return gray(index)

    page = written(tmp_path, ["one", "two", "three"], load)
    assert len(page.pictures) == 2 and "|2|two|" in page.text and "|OSError: image file is truncated <b>|" in page.text
    # Also where none can be.
    assert not written(tmp_path, ["one", "two"], lambda index: 1 / 0).pictures


@pytest.mark.parametrize("sample", [np.zeros(5, np.float32), np.zeros((4, 4)), "a text", np.zeros((3, 4, 4), np.uint8)])
def test_what_is_no_image_has_no_page(tmp_path, sample):
    assert not write_contact_sheet(tmp_path / "cycle_000.html", query_of(["one"]), lambda index: sample, None)
    assert not list(tmp_path.iterdir())


def test_only_so_many_have_a_picture_and_the_rest_is_named(tmp_path):
    loaded = []

    def load(index):
        loaded.append(index)
        return gray(0)

    page = written(tmp_path, [f"k{number:04d}" for number in range(MOST + 23)], load)
    assert loaded == list(range(MOST)) and len(page.pictures) == MOST
    assert page.text.endswith(f"|Without a picture here: {', '.join(f'k{MOST + number}' for number in range(20))} and 3 more.")
    assert "Without a picture" not in written(tmp_path, ["one"], gray).text


def test_labels_that_are_no_classes_say_what_is_expected(tmp_path):
    query = query_of(["one"], class_names=(), expects="a number, such as <0.37>")
    assert write_contact_sheet(tmp_path / "cycle_000.html", query, gray, None)
    assert "valid: a number, such as <0.37>." in Page(tmp_path / "cycle_000.html").text


# ---------------------------------------------------------------------------------------------- beside the CSV
@pytest.fixture
def oracle(tmp_path):
    """Of three photographs; the first lies on its side, and EXIF says how to turn it."""
    root = write_folder(tmp_path / "data", {"unlabeled": 3})
    side = np.zeros((20, 40, 3), np.uint8)
    side[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(side).save(write_image(root / "unlabeled/000.png"), exif=exif)
    dataset = {"dataset": {"name": "image_folder", "class_names": ["cat", "dog"]}, "data_dir": str(root)}
    oracle = CsvOracle(CsvOracle.Config())
    oracle.setup(build_dataset(config_of(settings(tmp_path, **dataset))), tmp_path / "run")
    return oracle


def test_it_is_written_beside_the_csv_and_named_where_labels_are_asked_for(oracle):
    probs = np.array([[0.25, 0.75], [1, 0], [0.5, 0.5]])
    query = query_of(oracle.dataset.keys, probs, class_names=("cat", "dog"))
    oracle.ask(query)
    path = oracle.csv_path(0).with_suffix(".html")
    assert f"of {oracle.csv_path(0)} (pictures: {path})\n" in oracle.instructions(query, 3)
    page = Page(path)
    assert "|1|dog 0.750|unlabeled/000.png|" in page.text
    # Upright: a quarter turn to the right puts the white half on top.
    upright = np.asarray(page.pictures[0].convert("L"))
    assert upright.shape == (40, 20) and upright[:20].min() == 255 and upright[20:].max() == 0


def test_it_is_made_again_where_it_is_missing_and_stays_where_it_is_there(oracle):
    query = query_of(oracle.dataset.keys, class_names=("cat", "dog"))
    oracle.ask(query)
    path, answers = oracle.csv_path(0).with_suffix(".html"), oracle.csv_path(0).read_bytes()
    first = path.read_bytes()
    path.unlink()
    assert "pictures" not in oracle.instructions(query, 3)
    oracle.ask(query)
    assert path.read_bytes() == first and oracle.csv_path(0).read_bytes() == answers
    path.write_text("mine")
    oracle.ask(query)
    assert path.read_text() == "mine"


def test_a_file_that_has_gone_does_not_stop_the_question(oracle):
    oracle.dataset.path(1).unlink()
    oracle.ask(query_of(oracle.dataset.keys, class_names=("cat", "dog")))
    page = Page(oracle.csv_path(0).with_suffix(".html"))
    assert len(page.pictures) == 2 and len(page.all("figure")) == 3
