"""The oracles: what people may do to a file of labels, and what they are told when it cannot be read."""

from __future__ import annotations

import csv
import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usb_active.builtin.oracles import CsvOracle, DatasetOracle
from usb_active.contracts.dataset import Dataset, DatasetOptions
from usb_active.contracts.label_texts import ClassReader
from usb_active.errors import UsageError
from usb_active.records import SKIP, Query
from usb_active.storage.run_dir import RunDir

NAMES = ("cat", "dog", "Überhund")


class Arrays(Dataset):
    """Eight images of 8 × 6 pixels in memory; every pixel of image i is 20 i."""

    name = "arrays"

    def prepare(self):
        self.keys = [f"train/{i:05d}" for i in range(8)]
        self.targets = np.array([0, 1, 2, 0, 1, 2, -1, 0])
        self.queryable = np.ones(8, dtype=bool)
        self.class_names = NAMES
        self.img_size, self.in_channels, self.views = 8, 1, None

    def load(self, index):
        return np.full((8, 6), 20 * index, dtype=np.uint8)


class Files(Arrays):
    """The same as PNG files below `data_dir`."""

    name = "files"

    def prepare(self):
        super().prepare()
        self.keys = [f"ünï, {i}.png" for i in range(8)]
        for i, key in enumerate(self.keys):
            Image.fromarray(super().load(i)).save(self.options.data_dir / key)

    def load(self, index):
        return Image.open(self.path(index))

    def path(self, index):
        return self.options.data_dir / self.keys[index]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "data").mkdir()
    return Files(options=DatasetOptions(data_dir=tmp_path / "data"))


@pytest.fixture
def run(tmp_path):
    with RunDir.open(tmp_path / "run", {}) as run:
        yield run


def make(run, dataset, **config):
    oracle = CsvOracle(CsvOracle.Config(**config))
    oracle.setup(dataset, run.path)
    return oracle


def make_query(run, dataset, idx, cycle=0, **changes):
    """A query as the core makes it: on disk before anyone is asked."""
    keys = tuple(dataset.keys[i] for i in idx)
    query = Query(cycle, np.array(idx), keys, "margin", changes.pop("class_names", dataset.class_names), **changes)
    run.save_query(query)
    return query


@pytest.fixture
def asked(run, files):
    """An oracle with file samples that has asked for 5, 2 and 7; and the query."""
    oracle, query = make(run, files), make_query(run, files, [5, 2, 7])
    oracle.ask(query)
    return oracle, query


def sheet(oracle, cycle=0):
    with open(oracle.csv_path(cycle), encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def text_of(rows, delimiter=","):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def fill(oracle, labels, cycle=0):
    """What a person does: writes labels, by index, into the label column."""
    rows = sheet(oracle, cycle)
    column = rows[0].index("label")
    for row in rows[1:]:
        row[column] = labels.get(int(row[0]), row[column])
    oracle.csv_path(cycle).write_text(text_of(rows), encoding="utf-8-sig")
    return rows


def write(oracle, text, encoding="utf-8", cycle=0):
    oracle.csv_path(cycle).write_bytes(text.encode(encoding) if isinstance(text, str) else text)


def errors(oracle, query):
    """The lines of the error, each without the folder."""
    with pytest.raises(UsageError) as caught:
        oracle.collect(query)
    return str(caught.value).replace(f"{oracle.csv_path(0).parent}{os.sep}", "").splitlines()


# The data set's own labels


def test_dataset_oracle_gives_the_targets(run):
    oracle, dataset = DatasetOracle(), Arrays()
    oracle.setup(dataset, run.path)
    query = make_query(run, dataset, [5, 0, 4])
    oracle.ask(query)
    answers = oracle.collect(query)
    assert answers.labels == {5: 2, 0: 0, 4: 1}
    assert all(type(value) is int for pair in answers.labels.items() for value in pair)
    assert not answers.pending and not answers.skipped
    assert DatasetOracle.simulated and not CsvOracle.simulated
    assert not oracle.accepts_partial()


def test_dataset_oracle_names_samples_of_unknown_class(run):
    oracle, dataset = DatasetOracle(), Arrays()
    oracle.setup(dataset, run.path)
    with pytest.raises(UsageError, match=r"'arrays' does not know the class of samples 6 \('train/00006'\)"):
        oracle.collect(make_query(run, dataset, [5, 6]))


# Asking


def test_the_sheet_of_a_file_dataset(asked, files):
    oracle, query = asked
    assert sheet(oracle) == [
        ["index", "key", "file", "label"],
        ["5", "ünï, 5.png", str(files.path(5).absolute()), ""],
        ["2", "ünï, 2.png", str(files.path(2).absolute()), ""],
        ["7", "ünï, 7.png", str(files.path(7).absolute()), ""],
    ]
    assert oracle.csv_path(0).read_bytes().startswith(b"\xef\xbb\xbf")
    answers = oracle.collect(query)
    assert answers.pending == {2, 5, 7} and not answers.labels and not answers.skipped
    assert not list(oracle.csv_path(0).parent.glob("**/*.png"))


def test_the_sheet_suggests_what_the_model_thinks(run, files):
    oracle = make(run, files)
    probs = np.array([[0.1, 0.7, 0.2], [0.25, 0.25, 0.5]])
    query = make_query(run, files, [1, 2], probs=probs)
    oracle.ask(query)
    rows = sheet(oracle)
    assert rows[0][3:] == ["label", "suggestion", "confidence"]
    assert [row[3:] for row in rows[1:]] == [["", "dog", "0.700"], ["", "Überhund", "0.500"]]
    assert oracle.collect(query).pending == {1, 2}  # a suggestion is no label


def test_impossible_probabilities_are_refused(run, files):
    oracle = make(run, files)
    with pytest.raises(UsageError, match="non-finite probs of samples 2"):
        oracle.ask(make_query(run, files, [1, 2], probs=np.array([[1.0, 0, 0], [np.nan, 0, 0]])))
    with pytest.raises(UsageError, match=r"probs must be \(Q, C\) = \(1, 3\), got \(1, 2\)"):
        oracle.ask(Query(1, np.array([1]), ("a",), "margin", NAMES, np.ones((1, 2))))
    assert not oracle.csv_path(0).exists()


def test_images_of_an_array_dataset(run):
    """8 × 6 pixels become 22 times as large: 22 · 6 = 132 is the first multiple of 6 from 128 on."""
    dataset = Arrays()
    oracle, query = make(run, dataset), make_query(run, dataset, [3, 1])
    oracle.ask(query)
    for row in sheet(oracle)[1:]:
        path = Path(row[2])
        assert path == oracle.csv_path(0).parent / "cycle_000" / f"{row[0]}.png" and path.is_absolute()
        with Image.open(path) as image:
            assert image.size == (132, 176)
            assert set(np.asarray(image).ravel()) == {20 * int(row[0])}


def test_enlarging_repeats_pixels_and_keeps_colours(run):
    class Colours(Arrays):
        def load(self, index):
            return np.random.default_rng(index).integers(0, 256, (64, 100, 3), dtype=np.uint8)

    dataset = Colours()
    oracle = make(run, dataset)
    oracle.ask(make_query(run, dataset, [0]))
    with Image.open(sheet(oracle)[1][2]) as image:
        assert np.array_equal(np.asarray(image), dataset.load(0).repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "F"])
def test_any_pil_image_can_be_shown(run, mode):
    class Pil(Arrays):
        def load(self, index):
            return Image.new(mode, (300, 200))

    dataset = Pil()
    oracle = make(run, dataset)
    oracle.ask(make_query(run, dataset, [0]))
    with Image.open(sheet(oracle)[1][2]) as image:
        assert image.size == (300, 200)


def test_a_sample_that_is_no_image_is_named(run):
    class Floats(Arrays):
        def load(self, index):
            return np.zeros((8, 8))

    dataset = Floats()
    with pytest.raises(UsageError, match=r"sample 3: must be a PIL image or uint8 .* got float64 of shape \(8, 8\)"):
        make(run, dataset).ask(make_query(run, dataset, [3]))


def test_asking_again_changes_nothing(asked):
    oracle, query = asked
    fill(oracle, {5: "cat"})
    before = oracle.csv_path(0).read_bytes()
    oracle.ask(query)
    assert oracle.csv_path(0).read_bytes() == before
    assert oracle.collect(query).labels == {5: 0}


def test_what_was_deleted_is_pending_and_asked_anew(run):
    dataset = Arrays()
    oracle, query = make(run, dataset), make_query(run, dataset, [3, 1])
    oracle.ask(query)
    first = oracle.csv_path(0).read_bytes()
    images = sorted((oracle.csv_path(0).with_suffix("")).iterdir())
    for path in (oracle.csv_path(0), images[0]):
        path.unlink()
    assert oracle.collect(query).pending == {1, 3}
    oracle.ask(query)
    assert oracle.csv_path(0).read_bytes() == first
    assert sorted(images[0].parent.iterdir()) == images


def test_a_full_disk_leaves_no_half_sheet(run, files, monkeypatch):
    oracle, query = make(run, files), make_query(run, files, [3, 1])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UsageError, match=r"cannot write .*cycle_000\.csv: No space left on device"):
            oracle.ask(query)
    assert sorted(os.listdir(oracle.csv_path(0).parent)) == ["cycle_000.json"]
    oracle.ask(query)
    assert len(sheet(oracle)) == 3


# Collecting


def test_the_round_trip(asked):
    oracle, query = asked
    fill(oracle, {5: "Überhund", 2: "skip"})
    answers = oracle.collect(query)
    assert (answers.labels, answers.skipped, answers.pending) == ({5: 2}, {2}, {7})
    fill(oracle, {7: "dog"})
    answers = oracle.collect(query)
    assert (answers.labels, answers.skipped, answers.pending) == ({5: 2, 7: 1}, {2}, frozenset())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_however_a_spreadsheet_saved_it(asked, encoding, delimiter, newline):
    oracle, query = asked
    rows = fill(oracle, {5: "Überhund", 2: "dog"})
    write(oracle, text_of(rows, delimiter).replace("\n", newline), encoding)
    assert oracle.collect(query).labels == {5: 2, 2: 1}


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "SEP=;\n", "\ufeffsep=;\n"])
def test_a_line_that_tells_the_delimiter(asked, first):
    oracle, query = asked
    write(oracle, first + "index;label\n5;cat, or so\n2;dog\n")
    assert errors(oracle, query)[0].startswith("cycle_000.csv:3: unknown class ('cat, or so')")
    write(oracle, first + "index;label\n5;cat\n2;dog\n")
    assert oracle.collect(query).labels == {5: 0, 2: 1}


@pytest.mark.parametrize(
    "text",
    [
        "index,key,file,label\n7,,,dog\n5,,,\n2,,,cat\n",  # sorted in another order
        "index,key,file,label,remark\n2,,,cat,nice,1\n7,,,dog,\n",  # more columns
        "\n\nindex,label\n\n2,cat\n,\n7,dog\n\n",  # blank lines
        " Index , LABEL\n2 , cat \n 7, DOG\n",  # case and spaces
        '"index","label"\n"2","cat"\n"7","dog"\n',  # quotes
        "label,file,index\ncat,x,2\ndog,y,7\n",  # columns in another order
        'label,key\ncat,"ünï, 2.png"\ndog,"ünï, 7.png"\n',  # by key alone
        'label,key,index\ncat,"ünï, 2.png",\ndog,,7\n',  # by key here, by index there
        'index,key,label\n2," u\u0308ni\u0308, 2.png",cat\n7,,dog\n',  # another form of the same letters
        "index,label\n2.0,cat\n7,dog\n5",  # a number made a float, a row cut short
        "index,label\n2,cat\n7,dog\n99,\nx,\n2,\n",  # rows without a label say nothing
        "index,label,key\n2,cat\n7,dog\n",  # rows shorter than the header
        "index|label\n2|cat\n7|dog\n",
        'index;label\n2;cat\n7;"dog"\n',
    ],
)
def test_lenient_reading(asked, text):
    oracle, query = asked
    write(oracle, text)
    answers = oracle.collect(query)
    assert answers.labels == {2: 0, 7: 1} and answers.pending == {5}


def test_numeric_keys_survive_a_spreadsheet(run, files):
    oracle = make(run, files)
    query = Query(0, np.array([3, 4]), ("00017", "00018"), "margin", NAMES)
    write_to = oracle.csv_path(0)
    write_to.parent.mkdir()
    write(oracle, "index,key,label\n3,17,cat\n,18.0,dog\n")
    assert oracle.collect(query).labels == {3: 0, 4: 1}


def test_keys_that_no_spreadsheet_can_hold(run, files):
    oracle = make(run, files)
    keys = ("a\nb.png", "\udcff.png", "\tx.png")
    query = Query(0, np.array([3, 4, 5]), keys, "margin", NAMES)
    oracle.ask(query)
    fill(oracle, {3: "cat", 4: "dog", 5: "cat"})
    assert oracle.collect(query).labels == {3: 0, 4: 1, 5: 0}


# What a label may be


@pytest.mark.parametrize(
    ("names", "label", "index"),
    [
        (("cat", "dog"), "dog", 1),
        (("cat", "dog"), " DOG ", 1),
        (("cat", "dog"), "1", 1),
        (("cat", "dog"), "1.0", 1),
        (("cat", "dog"), "2", None),
        (("cat", "dog"), "-1", None),
        (("cat", "dog"), "1.5", None),
        (("cat", "dog"), "Skip", SKIP),
        (("cat", "dog"), "ca", None),
        (("a", "A"), "A", 1),
        (("a", "A"), " a ", 0),
        (("ab", "AB"), "Ab", None),  # two classes have it
        (("skip", "walk"), "skip", 0),
        (("Skip", "walk"), "skip", 0),
        (("3", "7"), "3", 0),
        (("3", "7"), "3.0", 0),
        (("3", "7"), "7,00", 1),
        (("3", "7"), "0", None),  # with numbers for names, a number is no index
        (("3", "other"), "1", None),
        (("1", "1000"), "1.000", None),  # one, or a thousand
        (("1", "1.0"), "1.0", 1),
        (("1", "1.0"), "1.00", None),  # two classes have it
        (("01", "02"), "2", 1),
        (("0.5", "1.5"), "0,5", 0),
        (("-1", "1"), "-1.0", 0),
        (("true", "false"), "TRUE", 0),
        (("u\u0308ber", "x"), "\u00fcber", 0),
        (("Straße", "x"), "STRASSE", 0),
    ],
)
def test_what_a_label_means(names, label, index):
    assert ClassReader(names).read(label) == index


def test_a_class_named_skip_cannot_be_refused(run, files):
    oracle = make(run, files)
    query = make_query(run, files, [1, 2], class_names=("walk", "skip"))
    oracle.ask(query)
    fill(oracle, {1: "skip", 2: "SKIP"})
    assert oracle.collect(query).labels == {1: 1, 2: 1}
    assert "refuses" not in oracle.instructions(query, 1)


# Errors


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "index,label\n5,dgo\n",
            ["cycle_000.csv:2: unknown class ('dgo'); valid: did you mean 'dog'? cat, dog, Überhund, skip"],
        ),
        (
            "index,label\n5,DGO\n",
            ["cycle_000.csv:2: unknown class ('DGO'); valid: did you mean 'dog'? cat, dog, Überhund, skip"],
        ),
        ("index,label\n\n5,7\n", ["cycle_000.csv:3: unknown class ('7'); valid: cat, dog, Überhund, skip"]),
        ("index,label\n4,dog\n", ["cycle_000.csv:2: index is not in this query ('4'); valid: 5, 2, 7"]),
        (
            "index,label\nfive,dog\n5.5,cat\n",
            [
                "cycle_000.csv:2: index is no whole number ('five'); valid: an index of this query",
                "cycle_000.csv:3: index is no whole number ('5.5'); valid: an index of this query",
            ],
        ),
        (
            'index,key,label\n5,"ünï, 2.png",dog\n',
            [
                "cycle_000.csv:2: key does not agree with index 5 ('ünï, 2.png'); "
                "valid: 'ünï, 5.png', or no column 'key' at all"
            ],
        ),
        (
            "key;label\nünï, 3.png;dog\n",
            [
                "cycle_000.csv:2: key is not in this query ('ünï, 3.png'); "
                "valid: did you mean 'ünï, 7.png'? ünï, 5.png, ünï, 2.png, ünï, 7.png"
            ],
        ),
        (
            "index,key,label\n,,dog\n",
            ["cycle_000.csv:2: neither index nor key beside the label ('dog'); valid: an index or a key of this query"],
        ),
        (
            "index,label\n5,dog\n2,\n5,dog\n",
            ["cycle_000.csv:4: second label for index 5 ('dog'); valid: one row per sample"],
        ),
        ("index,key\n5,x\n", ["cycle_000.csv:1: missing columns ('index, key'); valid: label, and index or key"]),
        ("\nlabel,file\n5,x\n", ["cycle_000.csv:2: missing columns ('label, file'); valid: label, and index or key"]),
        ("5,x,y,dog\n", ["cycle_000.csv:1: missing columns ('5, x, y, dog'); valid: label, and index or key"]),
        ("index,label,label\n5,,dog\n", ["cycle_000.csv:1: two columns 'label' ('index, label, label'); valid: one"]),
        ("", ["cycle_000.csv:1: no header (''); valid: the columns index,key,file,label"]),
    ],
)
def test_what_is_wrong_is_said_with_file_row_and_value(asked, text, lines):
    oracle, query = asked
    write(oracle, text)
    before = oracle.csv_path(0).read_bytes()
    assert errors(oracle, query) == lines
    assert oracle.csv_path(0).read_bytes() == before


def test_an_index_without_key_that_no_number_resembles(run, files):
    """Two keys that look alike in a spreadsheet: only the index tells them apart."""
    oracle = make(run, files)
    query = Query(0, np.array([3, 4]), ("a\nb", "a b"), "margin", NAMES)
    oracle.csv_path(0).parent.mkdir()
    write(oracle, "key,label\na b,cat\n")
    assert errors(oracle, query)[0].startswith("cycle_000.csv:2: key is not in this query ('a b')")
    write(oracle, "index,key,label\n4,a b,cat\n")
    assert oracle.collect(query).labels == {4: 0}


def test_all_problems_of_all_files_at_once_and_the_first_ten(run, files):
    oracle = make(run, files)
    for cycle, idx in enumerate(([0, 1, 2, 3], [4, 5, 6, 7])):
        query = make_query(run, files, idx, cycle)
        oracle.ask(query)
        fill(oracle, dict.fromkeys(idx, "x" * 100), cycle)
    lines = errors(oracle, query)
    assert [line.partition(": ")[0] for line in lines] == [f"cycle_{c:03d}.csv:{r}" for c in (0, 1) for r in range(2, 6)]
    assert f"({'x' * 59 + '…'!r})" in lines[0]
    write(oracle, "index,label\n" + "0,x\n" * 9)
    assert len(lines := errors(oracle, query)) == 11 and lines[-1] == "and 3 more"


def test_no_text_at_all(asked):
    oracle, query = asked
    write(oracle, b"PK\x03\x04 and so on")
    assert "is a workbook, not a CSV file; save it as CSV" in errors(oracle, query)[0]
    write(oracle, b"index,label\n5,\x81\x8d\n")
    assert "is no text in UTF-8, UTF-16 or Windows-1252" in errors(oracle, query)[0]
    write(oracle, 'index,label\n5,"' + "x" * 200_000)
    assert errors(oracle, query)[0].startswith("cycle_000.csv:2: not readable as CSV ('field larger than field limit")


def test_a_file_that_cannot_be_opened(asked):
    oracle, query = asked
    oracle.csv_path(0).unlink()
    oracle.csv_path(0).mkdir()
    assert "cannot read cycle_000.csv: Is a directory" in errors(oracle, query)[0]


# Several queries


def test_late_answers_and_corrections(run, files):
    oracle = make(run, files, accept_partial=True)
    first = make_query(run, files, [0, 1, 2, 3])
    oracle.ask(first)
    fill(oracle, {0: "cat", 1: "dog", 2: "skip"})
    second = make_query(run, files, [4, 5], cycle=1, probs=np.full((2, 3), 1 / 3))
    oracle.ask(second)
    answers = oracle.collect(second)
    assert (answers.labels, answers.skipped, answers.pending) == ({0: 0, 1: 1}, {2}, {3, 4, 5})
    # 0 is corrected, 1 is refused after all, 2 is answered after all, 3 comes late, 4 is of the second query.
    fill(oracle, {0: "dog", 1: "skip", 2: "cat", 3: "cat"})
    fill(oracle, {4: "Überhund"}, cycle=1)
    answers = oracle.collect(second)
    assert (answers.labels, answers.skipped, answers.pending) == ({0: 1, 2: 0, 3: 0, 4: 2}, {1}, {5})
    assert oracle.collect(first).pending == frozenset()  # a query knows nothing of later ones


def test_deleted_rows_and_files_stay_pending(run, files):
    oracle = make(run, files)
    for cycle, idx in enumerate(([0, 1], [2], [3])):
        query = make_query(run, files, idx, cycle)
        oracle.ask(query)
    write(oracle, "index,label\n1,cat\n")
    oracle.csv_path(1).unlink()
    answers = oracle.collect(query)
    assert answers.labels == {1: 0} and answers.pending == {0, 2, 3}


def test_lost_probabilities_of_an_earlier_query_do_not_matter(run, files):
    oracle = make(run, files)
    oracle.ask(make_query(run, files, [0], probs=np.full((1, 3), 1 / 3)))
    (oracle.csv_path(0).parent / "cycle_000.probs.npy").unlink()
    assert oracle.collect(make_query(run, files, [1], cycle=1)).pending == {0, 1}


def test_instructions_say_where_what_and_how_to_go_on(asked):
    oracle, query = asked
    where, what = oracle.instructions(query, 2).splitlines()
    files = f"{oracle.csv_path(0)} (pictures: {oracle.page_path(0)})"
    assert where == f"2 of {len(query.idx)} labels are missing: fill the column 'label' of {files}"
    assert what == "with one of: cat, dog, Überhund; 'skip' refuses a sample; then run the same command again"


def test_partial_answers_are_accepted_as_configured(run, files):
    assert not make(run, files).accepts_partial()
    assert make(run, files, accept_partial=True).accepts_partial()


def test_a_large_sheet(run, files):
    oracle = make(run, files)
    size = 50_000
    query = Query(0, np.arange(size), tuple(map(str, range(size))), "margin", NAMES)
    oracle.csv_path(0).parent.mkdir()
    write(oracle, "index,key,label\n" + "".join(f"{i},{i},{NAMES[i % 3]}\n" for i in range(size)))
    assert oracle.collect(query).labels == {i: i % 3 for i in range(size)}
    write(oracle, "index,key,label\n" + "".join(f"{i},{i},wrong\n" for i in range(size)))
    assert errors(oracle, query)[-1] == f"and {size - 10} more"
