"""The suite of a data set: the same samples under the same names, images of one size, and nothing that a worker could not take along."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from usb_active.contracts.dataset import Dataset, DatasetOptions, Samples, may_load_in_threads
from usb_active.contracts.task import Classification, Task
from usb_active.randomness import seeded_globals
from usb_active.records import SKIP, Metric
from usb_active.testing.contract import Contract, generators_untouched, refused

# So many samples, spread over the pool, are looked at.
LOOKED_AT = 8


class DatasetContract(Contract):
    """What the core relies on in any data set, and in the task of its labels.

        class TestMine(DatasetContract):
            name = "mine"

            def options(self, folder):
                write_some_samples(folder)
                return DatasetOptions(data_dir=folder)
    """

    kind = "dataset"

    def options(self, folder: Path) -> DatasetOptions:
        """For data sets that read files: put a few into `folder`, and say where they are. Called once for each folder."""
        return DatasetOptions(data_dir=folder)

    def outputs(self, task: Task, count: int) -> np.ndarray:
        """(count, …) float32: what a network would give for so many images. Of a row of `num_outputs` for each, unless overridden."""
        return np.random.default_rng(0).standard_normal((count, task.num_outputs)).astype(np.float32)

    # ------------------------------------------------------------------------------------------ helpers
    def dataset(self, folder: Path) -> Dataset:
        """An instance on the files of a folder, which are made the first time."""
        return self.again(*self._made(folder))

    def again(self, keys: Any, options: DatasetOptions) -> Dataset:
        """Another instance on the same files."""
        return self.make(keys, options)

    def _made(self, folder: Path) -> tuple[Any, DatasetOptions]:
        data = folder / "data"
        data.mkdir()
        return self.keys(data), self.options(data)

    def two(self, folder: Path) -> tuple[Dataset, Dataset]:
        """Two instances on the same files."""
        made = self._made(folder)
        return self.again(*made), self.again(*made)

    # ------------------------------------------------------------------------------------------ attributes
    def test_it_is_registered(self, tmp_path: Path) -> None:
        """A run finds it by its name alone."""
        dataset = self.dataset(tmp_path)
        assert isinstance(dataset, self.registered()), "the instance is of another class than the one that is registered"
        assert len(dataset) > 0, "has no samples; `options` must write some"

    def test_keys_are_distinct_texts(self, tmp_path: Path) -> None:
        """A key is what a label is kept under: two samples of one key would share their labels."""
        keys = list(self.dataset(tmp_path).keys)
        assert all(isinstance(key, str) and key for key in keys), "keys must be texts, none of them empty"
        twice = sorted({key for key in keys if keys.count(key) > 1})[:5]
        assert not twice, f"several samples have the key {twice}"

    def test_targets_are_labels(self, tmp_path: Path) -> None:
        """Numbers of labels that the task knows, also as answers of a simulated oracle; -1 says that it is not known."""
        dataset = self.dataset(tmp_path)
        targets = np.asarray(dataset.targets)
        assert targets.dtype == np.int64 and targets.shape == (len(dataset),), f"targets: {targets.dtype} of shape {targets.shape}"
        _assert_labels(targets, -1, dataset.task, "targets")

    def test_queryable_is_a_mask(self, tmp_path: Path) -> None:
        """Integers in its place would be taken for indices; a pool in which no sample can be queried has no active learning."""
        queryable = np.asarray((dataset := self.dataset(tmp_path)).queryable)
        assert queryable.dtype == bool and queryable.shape == (len(dataset),), f"queryable: {queryable.dtype} of shape {queryable.shape}"
        assert queryable.any(), "no sample can be queried"

    def test_class_names_are_distinct_texts(self, tmp_path: Path) -> None:
        """People answer with these texts, and files hold them. Where labels are no classes, there are none."""
        dataset = self.dataset(tmp_path)
        names, task = dataset.class_names, dataset.task
        assert isinstance(names, tuple) and all(isinstance(name, str) and name for name in names), f"class_names: {names!r}"
        assert names == tuple(task.class_names), f"class_names: {names!r}, and those of the task: {task.class_names!r}"
        if not names and not isinstance(task, Classification):
            pytest.skip("its labels are no classes")
        assert len(set(names)) == len(names) >= 2, f"class_names must be at least two, each once: {names!r}"

    def test_another_number_of_classes_is_refused(self, tmp_path: Path) -> None:
        """`num_classes` of a USB YAML is the size of the head: it is compared with what the task wants, or a wrong head is trained."""
        keys, options = self._made(tmp_path)
        wrong = self.again(keys, options).task.num_outputs + 1
        with refused(f"num_classes: {wrong}"):
            self.again(keys, DatasetOptions(**{**vars(options), "num_classes": wrong}))

    def test_remarks_are_lines(self, tmp_path: Path) -> None:
        """Each is shown as one line."""
        remarks = self.dataset(tmp_path).remarks()
        assert isinstance(remarks, list) and all(isinstance(line, str) and line and "\n" not in line for line in remarks), remarks

    # ------------------------------------------------------------------------------------------ labels
    def test_the_task_says_what_a_label_is(self, tmp_path: Path) -> None:
        """In messages, in what people are asked for and in reports."""
        task = self.dataset(tmp_path).task
        lines = {name: getattr(task, name) for name in ("name", "noun", "problem", "expects")}
        wrong = {name: line for name, line in lines.items() if not (isinstance(line, str) and line and "\n" not in line)}
        assert not wrong, f"each must be one line: {wrong}"
        assert task.valid, "valid: says nothing"
        metrics = task.metrics
        assert metrics and all(isinstance(metric, Metric) for metric in metrics), f"metrics must be some `Metric`, got {metrics!r}"

    def test_labels_are_kept_as_texts(self, tmp_path: Path) -> None:
        """Files hold texts, and another process numbers them again: the text must give the label again, read as a person's answer too."""
        task = self.dataset(tmp_path).task
        for label in some_labels(task):
            text = task.decode(label)
            assert isinstance(text, str) and text, f"label {label} has the text {text!r}; an empty one says that it is not known"
            assert task.encode(text) == label, f"label {label} is written as {text!r}, which is label {task.encode(text)}"
            assert task.read(text) == label, f"label {label} is written as {text!r}, which is read as {task.read(text)}"

    def test_no_answer_is_no_label(self, tmp_path: Path) -> None:
        """An empty cell is a sample without an answer; `skip` refuses it, where that is no label of its own."""
        task = self.dataset(tmp_path).task
        assert task.read("") is None, f"an empty text is read as {task.read('')}"
        try:
            label = task.encode("")
        except ValueError:
            pass
        else:
            raise AssertionError(f"encode must raise a ValueError for an empty text, which is label {label}")
        assert not task.can_skip or task.read("skip") == SKIP, f"'skip' is read as {task.read('skip')}"

    def test_what_is_learned_follows_the_label(self, tmp_path: Path) -> None:
        """Batches hold `target`, scores and methods see `targets`: one thing, and for a sample without a label another than for any."""
        task = self.dataset(tmp_path).task
        labels = np.array(some_labels(task), dtype=np.int64)
        targets, unknown = task.targets(labels), task.targets(np.array([-1]))
        assert len(targets) == len(labels), f"targets of {len(labels)} labels: {len(targets)}"
        for label, target in zip(labels.tolist(), targets, strict=True):
            assert _same(task.target(label), target), f"target({label}) is {task.target(label)}, and among targets it is {target}"
            assert not _same(unknown[0], target), f"label {label} is learned as one that is not known"

    def test_targets_make_a_batch(self, tmp_path: Path) -> None:
        """A loader stacks what `target` gives."""
        dataset = self.dataset(tmp_path)
        if dataset.collate is not None:
            pytest.skip("has a collate function of its own")
        found = [dataset.task.target(label) for label in some_labels(dataset.task)]
        batch = torch.utils.data.default_collate(found) if found else torch.empty(0)
        assert isinstance(batch, torch.Tensor) and len(batch) == len(found), f"no tensor of {len(found)} targets: {batch!r}"

    def test_scores_are_plain_floats(self, tmp_path: Path) -> None:
        """They go into JSON and into USB's checkpoints; the task's metrics are among them."""
        task = self.dataset(tmp_path).task
        labels = np.array(some_labels(task), dtype=np.int64)
        if not len(labels):
            pytest.skip("knows no label")
        scores = task.evaluate(self.outputs(task, len(labels)), task.targets(labels))
        wrong = {name: type(value).__name__ for name, value in scores.items() if type(value) is not float}
        assert not wrong, f"must be plain floats: {wrong}"
        missing = {metric.score for metric in task.metrics} - scores.keys()
        assert not missing, f"metrics without a score: {sorted(missing)}"

    def test_predictions_are_rows_of_texts_and_numbers(self, tmp_path: Path) -> None:
        """They stand under `prediction_columns`, a row for each sample: in a file, and in a table of other people's code."""
        task = self.dataset(tmp_path).task
        values = self.outputs(task, 5)
        if task.output == "probs":
            values = torch.from_numpy(values).softmax(dim=1).numpy()
        rows, width = [tuple(row) for row in task.predictions(values)], len(task.prediction_columns)
        assert len(rows) == 5, f"{len(rows)} rows for 5 samples"
        wrong = [row for row in rows if len(row) != width or not all(isinstance(cell, str | float) for cell in row)]
        assert not wrong, f"must be texts and plain floats under {task.prediction_columns}: {wrong[0]}"

    # ------------------------------------------------------------------------------------------ order
    def test_the_same_files_give_the_same_pool(self, tmp_path: Path) -> None:
        """An index is kept in the journal: it must mean the same sample in every process."""
        one, other = self.two(tmp_path)
        assert list(one.keys) == list(other.keys), "keys differ between two instances"
        assert _texts(one) == _texts(other), "labels differ between two instances"
        assert np.array_equal(one.queryable, other.queryable), "queryable differ between two instances"
        for name in ("class_names", "img_size", "in_channels"):
            assert getattr(one, name) == getattr(other, name), f"{name} differs between two instances"

    def test_its_own_order_is_taken_back(self, tmp_path: Path) -> None:
        """A resumed run puts the pool into the order that it began with."""
        dataset = self.dataset(tmp_path)
        keys, targets = list(dataset.keys), np.array(dataset.targets)
        for grow in (False, True):
            dataset.align(keys, grow)
            assert list(dataset.keys) == keys and np.array_equal(dataset.targets, targets), "align has changed a pool that was in order"

    def test_a_sample_that_has_gone_is_refused(self, tmp_path: Path) -> None:
        """What a run has labelled must be there, or labels would go to other samples."""
        dataset = self.dataset(tmp_path)
        with refused("a run with a sample that is not there") as messages:
            dataset.align([*dataset.keys, "no/such/sample"], True)
        assert "no/such/sample" in messages[0], f"the message must name the sample: {messages[0]!r}"

    # ------------------------------------------------------------------------------------------ samples
    def test_samples_are_images(self, tmp_path: Path) -> None:
        """What shows a sample to people, and what makes views of it, knows these."""
        dataset = self.dataset(tmp_path)
        for index in some_indices(len(dataset)):
            _assert_image(dataset.load(index), f"load({index})")

    def test_loading_again_gives_the_same(self, tmp_path: Path) -> None:
        """In any order, in any process: a sample that changes cannot be labelled."""
        one, other = self.two(tmp_path)
        indices = some_indices(len(one))
        first = {index: np.array(one.load(index)) for index in indices}
        for dataset in (one, other):
            changed = [index for index in reversed(indices) if not np.array_equal(np.array(dataset.load(index)), first[index])]
            assert not changed, f"samples {changed} are not what they were"

    def test_threads_load_the_same(self, tmp_path: Path) -> None:
        """What says `loads_in_threads` is loaded by several threads at once, while the training loads as well."""
        dataset = self.dataset(tmp_path)
        if not may_load_in_threads(dataset):
            pytest.skip("does not say loads_in_threads")
        parts: list[Dataset | Samples] = [dataset] if dataset.test is None else [dataset, dataset.test]
        for samples in parts:
            indices = some_indices(len(samples))
            expected = [np.array(samples.load(index)) for index in indices]
            with ThreadPoolExecutor(4) as threads:
                found = [np.array(image) for image in threads.map(samples.load, indices * 4)]
            changed = [index for index, one, other in zip(indices * 4, found, expected * 4, strict=True) if not np.array_equal(one, other)]
            assert not changed, f"samples {sorted(set(changed))} are others where several threads load at once"

    def test_paths_are_files(self, tmp_path: Path) -> None:
        """The path of a sample is what a person opens."""
        dataset = self.dataset(tmp_path)
        wrong = [index for index in some_indices(len(dataset)) if (path := dataset.path(index)) is not None and not Path(path).is_file()]
        assert not wrong, f"the paths of samples {wrong} are no files"

    def test_what_is_in_order_is_verified(self, tmp_path: Path) -> None:
        """`verify` says what is wrong before a training; again, with what it remembers; and it changes nothing."""
        dataset, cache = self.dataset(tmp_path), tmp_path / "verified.json"
        keys = list(dataset.keys)
        for _ in range(2):
            dataset.verify(cache)
        assert list(dataset.keys) == keys, "verify has changed the pool"

    def test_the_test_set_has_labels(self, tmp_path: Path) -> None:
        """What is evaluated on is known; it comes as `Samples`, or there is none."""
        dataset = self.dataset(tmp_path)
        if dataset.test is None:
            pytest.skip("has no test set")
        test = dataset.test
        assert isinstance(test, Samples) and len(test) > 0, f"test must be Samples, or None: {test!r}"
        _assert_labels(np.asarray(test.targets), 0, dataset.task, "test targets")
        for index in some_indices(len(test)):
            _assert_image(test.load(index), f"test.load({index})")

    # ------------------------------------------------------------------------------------------ views
    def test_views_are_tensors_of_one_size(self, tmp_path: Path) -> None:
        """A batch is stacked, and a network is built for (in_channels, img_size, img_size)."""
        dataset = self.dataset(tmp_path)
        shape = (dataset.in_channels, dataset.img_size, dataset.img_size)
        for index in some_indices(len(dataset)):
            for name in ("eval", "weak", "strong"):
                x = getattr(dataset.views, name)(dataset.load(index))
                assert isinstance(x, torch.Tensor) and x.dtype == torch.float32, f"views.{name}: must be a float32 tensor, got {type(x)}"
                assert x.shape == shape, f"views.{name}: {tuple(x.shape)} where {shape} is expected"
                assert torch.isfinite(x).all(), f"views.{name} of sample {index} is not finite"

    def test_the_eval_view_draws_nothing(self, tmp_path: Path) -> None:
        """What is evaluated and scored is the sample itself, the same every time."""
        dataset = self.dataset(tmp_path)
        sample = dataset.load(0)
        with generators_untouched("views.eval"):
            same = torch.equal(dataset.views.eval(sample), dataset.views.eval(sample))
        assert same, "views.eval differs from one call to the next"

    def test_augmentation_draws_from_the_global_generators_alone(self, tmp_path: Path) -> None:
        """The core seeds them for every batch: another source of chance would make runs that cannot be repeated."""
        dataset = self.dataset(tmp_path)
        for name in ("weak", "strong"):
            seen = []
            for _ in range(2):
                with seeded_globals(0, name):
                    seen.append([getattr(dataset.views, name)(dataset.load(index)) for index in some_indices(len(dataset))])
            assert all(map(torch.equal, *seen)), f"views.{name} differs under the same seeds"

    # ------------------------------------------------------------------------------------------ processes
    def test_making_and_loading_leave_the_global_generators_alone(self, tmp_path: Path) -> None:
        """A pool is made in the middle of a run as well."""
        made = self._made(tmp_path)
        with generators_untouched("the data set"):
            dataset = self.again(*made)
            for index in some_indices(len(dataset)):
                dataset.load(index)

    def test_workers_can_take_it_along(self, tmp_path: Path) -> None:
        """A loader's worker that is started fresh gets all of it pickled."""
        dataset = self.dataset(tmp_path)
        load, views, collate = pickle.loads(pickle.dumps((dataset.load, dataset.views, dataset.collate)))
        for index in some_indices(len(dataset)):
            sample = dataset.load(index)
            assert np.array_equal(np.array(load(index)), np.array(sample)), f"sample {index} is another one in a worker"
            assert torch.equal(views.eval(sample), dataset.views.eval(sample)), "views.eval differs in a worker"
        assert (collate is None) == (dataset.collate is None)


def some_indices(size: int) -> list[int]:
    """Some indices, the first and the last among them."""
    return sorted(set(np.linspace(0, size - 1, min(size, LOOKED_AT)).astype(int).tolist()))


def some_labels(task: Task) -> list[int]:
    """Some of the labels that a task knows."""
    return some_indices(task.num_labels) if task.num_labels else []


def _assert_labels(targets: np.ndarray, least: int, task: Task, what: str) -> None:
    known, found = task.num_labels, f"{what} from {targets.min()} to {targets.max()}"
    assert targets.min() >= least and targets.max() < known, f"{found}; the task knows {known} labels, from 0 on"


def _texts(dataset: Dataset) -> list[str | int]:
    """The labels as files hold them, as a number holds for one process; what is no label's number, as it is."""
    task = dataset.task
    return [task.decode(int(label)) if 0 <= label < task.num_labels else label for label in np.asarray(dataset.targets).tolist()]


def _same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def _assert_image(sample: Any, what: str) -> None:
    from PIL import Image

    if isinstance(sample, Image.Image):
        return
    fits = isinstance(sample, np.ndarray) and sample.dtype == np.uint8 and (sample.ndim == 2 or sample.ndim == 3 and sample.shape[2] == 3)
    got = f"{sample.dtype} of shape {sample.shape}" if isinstance(sample, np.ndarray) else type(sample).__name__
    assert fits, f"{what}: must be a PIL image or uint8 (H, W) or (H, W, 3), got {got}"
