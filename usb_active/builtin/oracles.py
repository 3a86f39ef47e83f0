"""The oracles that come with the package: the data set's own labels, and people with a spreadsheet."""

from __future__ import annotations

import csv
import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.builtin.answer_files import csv_path, read_answers
from usb_active.builtin.contact_sheet import NoImage, as_image, write_contact_sheet
from usb_active.builtin.label_file import RowProblems, task_of
from usb_active.contracts.oracle import Oracle
from usb_active.contracts.plugin import PluginConfig, free_key
from usb_active.errors import UsageError, name_some
from usb_active.records import RETRACTED, Answers, LabelRow, Query
from usb_active.storage.classes import CLASSES_FILE, with_added
from usb_active.storage.durable import atomic_write, make_folder
from usb_active.storage.journal import read_journal
from usb_active.storage.run_dir import RunDir, read_query
from usb_active.storage.spreadsheet import text_cell

if TYPE_CHECKING:
    from PIL import Image

    from usb_active.contracts.task import Task

logger = logging.getLogger("usb_active")

# Smaller images are enlarged to this, in pixels, so that a person can see them.
_MIN_SIDE = 128


class DatasetOracle(Oracle):
    """The labels the data set knows already: experiments without people."""

    simulated = True

    def collect(self, query: Query) -> Answers:
        """All labels of the query. UsageError names the samples whose class the data set does not know."""
        labels = np.asarray(self.dataset.targets)[query.idx]
        unknown = [f"{query.idx[at]} ('{query.keys[at]}')" for at in np.flatnonzero(labels < 0)]
        if unknown:
            where = f"oracle 'dataset': '{self.dataset.name}' does not know the {self.dataset.task.noun} of samples"
            raise UsageError(f"{where} {name_some(unknown)}; use the oracle 'csv'")
        return Answers(labels=dict(zip(query.idx.tolist(), labels.tolist(), strict=True)))


class CsvOracle(Oracle):
    """People write labels into `queries/cycle_NNN.csv`, with a spreadsheet or an editor.

    A workbook `cycle_NNN.xlsx` beside it is read too, with openpyxl. Where both answer for a sample, they must say the same.
    """

    class Config(PluginConfig):
        """accept_partial: train as soon as something is answered, instead of waiting until everything is."""

        accept_partial: bool = free_key(False)

    partial_may_change = True

    def accepts_partial(self) -> bool:
        """As configured."""
        return self.config.accept_partial

    def csv_path(self, cycle: int) -> Path:
        """The file of a query."""
        return csv_path(self.run_path, cycle)

    def page_path(self, cycle: int) -> Path:
        """The page with a query's pictures; there is none where samples are no images."""
        return self.csv_path(cycle).with_suffix(".html")

    def ask(self, query: Query) -> None:
        """Write the file, images where samples are not files, and a page with pictures. What exists holds answers and stays."""
        path = self.csv_path(query.cycle)
        make_folder(path.parent)
        files = [self._file(query, index) for index in query.idx.tolist()]
        # After the images, so that they are there once the file is.
        if not path.exists():
            data = _sheet(query, files)
            atomic_write(path, lambda file: file.write(data))
        if not self.page_path(query.cycle).exists():
            self._show(query)

    def _show(self, query: Query) -> None:
        try:
            write_contact_sheet(self.page_path(query.cycle), query, self.dataset.load, _suggestions(query))
        except UsageError as error:
            # What is asked is in the CSV: a full disk shall not keep people from answering.
            logger.warning("no page with pictures: %s", error)

    def collect(self, query: Query) -> Answers:
        """All that the files of this query and of earlier ones say; `pending` is what none of them answers.

        Of a sample that was asked for again, after its label was taken back, only the file of its last query counts.

        Raises:
            UsageError: a line for each problem, `file:row: what (value); valid: …`; the first ten.
        """
        problems = RowProblems()
        labels: dict[int, int] = {}
        asked: set[int] = set()
        skipped, emptied, retracted = frozenset[int](), frozenset[int](), frozenset[int]()
        earlier = (read_query(self.run_path, cycle, probs=False) for cycle in range(query.cycle))
        for one in (*filter(None, earlier), query):
            found, own = read_answers(self.run_path, self._now(one), problems, self._task(one)), set(one.idx.tolist())
            labels = {index: label for index, label in labels.items() if index not in own} | found.labels
            skipped, emptied, retracted = skipped - own | found.skipped, emptied - own | found.empty, retracted - own | found.retracted
            asked |= own
        problems.raise_if_any()
        return Answers(labels, skipped, frozenset(asked - labels.keys() - skipped), emptied, retracted)

    def instructions(self, query: Query, pending: int) -> str:
        """Where the file is, what may stand in it, and how to continue."""
        task = self._task(query)
        skip = "; 'skip' refuses a sample" if task.can_skip else ""
        page = self.page_path(query.cycle)
        pictures = f" (pictures: {page})" if page.exists() else ""
        return (
            f"{pending} of {len(query.idx)} labels are missing: fill the column 'label' of {self.csv_path(query.cycle)}{pictures}\n"
            f"with {task.expects}{skip}; then run the same command again{self._rows_that_miss(query)}{self._taken_back(query)}"
        )

    def _task(self, query: Query) -> Task:
        # The classes that a query names need no data set.
        return task_of(self._now(query), None if query.class_names else self.dataset.task)

    def _now(self, query: Query) -> Query:
        """The query with the classes that there are now: one may have been added since."""
        if not query.class_names or not (self.run_path / CLASSES_FILE).exists():
            return query
        return replace(query, class_names=with_added(RunDir.read(self.run_path), query.class_names))

    def _rows_that_miss(self, query: Query) -> str:
        """A line on samples that cannot be answered for, because their rows have been removed."""
        known = {index for index, row in self._last_rows(query).items() if row.status != RETRACTED}
        missing = read_answers(self.run_path, self._now(query), RowProblems(), self._task(query)).missing - known
        if not missing:
            return ""
        keys = [key for index, key in zip(query.idx.tolist(), query.keys, strict=True) if index in missing]
        remedy = "put them back, or move the file away and a fresh one is written (labels that were taken stay)"
        return f"\n{len(keys)} of them have no row there any more: {name_some(keys)}; {remedy}"

    def _taken_back(self, query: Query) -> str:
        """A line on samples whose labels were taken back, and whose rows still say what they said: that is no new answer."""
        taken_back = [row for row in self._last_rows(query).values() if row.status == RETRACTED]
        found = read_answers(self.run_path, self._now(query), RowProblems(), self._task(query)) if taken_back else None
        keys = [row.key for row in taken_back if found and (row.index in found.labels or row.index in found.skipped)]
        if not keys:
            return ""
        way_out = f"write another one there, or say the same again: usb-active labels {self.run_path} --set KEY=LABEL"
        return f"\n{len(keys)} of them were taken back and still have their old answer there: {name_some(keys)}; {way_out}"

    def _last_rows(self, query: Query) -> dict[int, LabelRow]:
        """The last row of each sample that was answered to a query, by index."""
        return {row.index: row for row in read_journal(self.run_path / "labels.csv") if row.cycle == query.cycle}

    def _file(self, query: Query, index: int) -> Path:
        """What a person opens to see the sample: its own file, or an image, written unless it is there."""
        own = self.dataset.path(index)
        if own is not None:
            return own.absolute()
        path = self.csv_path(query.cycle).with_suffix("") / f"{index}.png"
        if not path.exists():
            make_folder(path.parent)
            image = _image(self.dataset.load(index), index)
            # Not synced: ten thousand syncs take minutes, and an image can be made again.
            atomic_write(path, lambda file: image.save(file, format="PNG"), durable=False)
        return path


def _sheet(query: Query, files: list[Path]) -> bytes:
    """The file as it is first written: UTF-8 with a mark, by which Excel knows that it is UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    suggestions = _suggestions(query)
    more = [] if suggestions is None else ["suggestion", "confidence"]
    writer.writerow(["index", "key", "file", "label", *more])
    for row, (index, key, file) in enumerate(zip(query.idx.tolist(), query.keys, files, strict=True)):
        suggestion = [] if suggestions is None else [text_cell(suggestions[row][0]), f"{suggestions[row][1]:.3f}"]
        writer.writerow([index, text_cell(key), text_cell(str(file)), "", *suggestion])
    return text.getvalue().encode("utf-8-sig")


def _suggestions(query: Query) -> list[tuple[str, float]] | None:
    """(Q,) what the model takes each sample for, and with which probability; None where the query has no predictions."""
    if query.probs is None:
        return None
    probs = _checked_probs(query)
    best = np.argmax(probs, axis=1)
    return [(query.class_names[label], float(row[label])) for label, row in zip(best.tolist(), probs, strict=True)]


def _checked_probs(query: Query) -> np.ndarray:
    shape = (len(query.idx), len(query.class_names))
    if query.probs.shape != shape:
        raise UsageError(f"query {query.cycle}: probs must be (Q, C) = {shape}, got {query.probs.shape}")
    bad = ~np.isfinite(query.probs).all(axis=1)
    if bad.any():
        raise UsageError(f"query {query.cycle}: non-finite probs of samples {name_some(query.idx[bad])}")
    return query.probs


def _image(sample: Any, index: int) -> Image.Image:
    """The sample as an image for people, its shorter side at least 128 pixels. UsageError when it is none."""
    from PIL import Image

    try:
        sample = as_image(sample)
    except NoImage as error:
        raise UsageError(f"sample {index}: must be a PIL image or uint8 (H, W) or (H, W, 3), got {error}") from error
    factor = -(-_MIN_SIDE // min(sample.size))
    if factor == 1:
        return sample
    # Whole factors only, and no smoothing: every pixel stays what it is.
    return sample.resize((sample.width * factor, sample.height * factor), Image.Resampling.NEAREST)
