"""Every check of a data set's suite fails for a data set that breaks its rule, and for that rule alone."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from broken_plugins import Broken, assert_complete, assert_fails, failing, suite_for

from usb_active.contracts.dataset import Dataset, Samples
from usb_active.contracts.task import Classification, OpenTask
from usb_active.records import SKIP, Metric
from usb_active.testing import DatasetContract


def plain(image):
    return torch.from_numpy(image.astype(np.float32))[None] / 255


def noisy(image):
    return plain(image) + 0.1 * torch.randn(1, 4, 4)


class Sound(Dataset):
    """Twelve images of 4 × 4 pixels."""

    def prepare(self):
        self.images = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)
        self.keys, self.targets = [f"train/{i:05d}" for i in range(12)], np.arange(12) % 3
        self.queryable, self.class_names = np.ones(12, dtype=bool), ("cat", "dog", "cow")
        self.img_size, self.in_channels = 4, 1
        self.views = SimpleNamespace(eval=plain, weak=noisy, strong=noisy)
        self.test = Samples(self.load, self.targets)

    def load(self, index):
        return self.images[index]


def subclass(name, base, **members):
    """A class that is found in this module when one of it is unpickled."""
    cls = type(f"{name}{len(globals())}", (base,), {**members, "__module__": __name__})
    globals()[cls.__name__] = cls
    return cls


def broken(base=Sound, **changes):
    """A subclass whose attributes are changed after `prepare`: each change is a function of the data set."""

    def prepare(self):
        base.prepare(self)
        for name, change in changes.items():
            setattr(self, name, change(self))

    return subclass(f"With{'_'.join(changes)}", base, prepare=prepare)


class Empty(Sound):
    def __len__(self):
        return 0


class AnySize(Sound):
    def _check(self):
        pass


class Wordy(Sound):
    def remarks(self):
        return ["two\nlines"]


class Shuffled(Sound):
    def prepare(self):
        super().prepare()
        self.keys = np.random.default_rng().permutation(self.keys).tolist()


class Sorting(Sound):
    def align(self, keys, grow):
        super().align(keys, grow)
        self.targets = np.sort(self.targets)


class Careless(Sound):
    def align(self, keys, grow):
        pass


class Floats(Sound):
    def load(self, index):
        return super().load(index) / 1.5


class Fading(Sound):
    """Every image is darker each time."""

    times = 0

    def load(self, index):
        type(self).times += 1
        return super().load(index) // np.uint8(1 + type(self).times % 200)


class Nowhere(Sound):
    def path(self, index):
        return Path("/no/such/file")


class Particular(Sound):
    def verify(self, cache=None):
        if cache.exists():
            raise ValueError("verified already")
        cache.touch()


class Disturbing(Sound):
    def load(self, index):
        np.random.rand()
        return super().load(index)


def noisy_eval(image):
    return plain(image) + 0.001 * torch.rand(1)


def unseeded(image):
    return plain(image) + np.random.default_rng().normal()


def larger(image):
    return torch.nn.functional.pad(plain(image), (1, 1, 1, 1))


class Weights(OpenTask):
    """A weight in whole grams."""

    name, noun, problem, valid = "weight", "weight", "no weight", "a weight, such as 12 g"
    metrics = (Metric("mae", "mean absolute error", higher_is_better=False),)
    num_outputs, prediction_columns = 1, ("weight",)

    def canonical(self, text):
        return f"{int(text.removesuffix('g'))} g"

    def targets(self, labels):
        return np.array([float(self.decode(label)[:-2]) if label >= 0 else np.nan for label in labels], dtype=np.float32)

    def evaluate(self, outputs, targets):
        return {"mae": float(np.abs(outputs[:, 0] - targets).mean())}

    def predictions(self, values):
        return ((f"{value:.0f} g",) for value in values[:, 0])


class Weighed(Sound):
    """The same images, and how heavy it is what they show."""

    made = Weights

    @classmethod
    def task_of(cls, config, class_names):
        return cls.made()

    def prepare(self):
        super().prepare()
        self.class_names = ()
        self.targets = np.array([self.task.encode(f"{weight}g") for weight in (3, 7, 7, 3, 9, 1, 1, 4, 20, 3, 7, 1)])
        self.test = Samples(self.load, self.targets)


def of(task):
    """The same with another task."""
    return subclass(f"Of{task.__name__}", Weighed, made=task)


def weighed(**members):
    """The same with a task of which some members are others."""
    return of(subclass("_".join(members), Weights, **members))


class Twice(Weights):
    """Adds to what it has written itself."""

    def canonical(self, text):
        return f"{int(text.removesuffix('g')) + 1} g"


class Renumbering(Weights):
    """The same weight is another label each time."""

    def encode(self, text):
        self._texts.append(self.canonical(text))
        return len(self._texts) - 1


class Deaf(Weights):
    def read(self, text):
        return SKIP if text == "skip" else None if not text else 0


class Zero(Weights):
    """Takes an empty cell for a weight."""

    def canonical(self, text):
        return super().canonical(text or "0")


class Stubborn(Weights):
    def read(self, text):
        return None if text == "skip" else super().read(text)


class Rounding(Weights):
    def target(self, label):
        return np.float32(round(float(self.decode(label)[:-2]), -1))


class Filling(Weights):
    """What is not known weighs as much as the first sample."""

    def targets(self, labels):
        return super().targets(np.maximum(labels, 0))


class Unstacked(Weights):
    """A target of another length for each label."""

    def targets(self, labels):
        return [np.arange(float(self.decode(label)[:-2])) if label >= 0 else np.array([-1.0]) for label in labels]

    def evaluate(self, outputs, targets):
        return {"mae": 0.0}


class Written(Weights):
    """Targets that are the texts themselves."""

    def targets(self, labels):
        return [self.decode(label) if label >= 0 else "" for label in labels]


class OfAllNames(Classification):
    """Classes that the data set does not name."""

    def __init__(self, class_names):
        super().__init__(("cat", "dog", "cow"))


class Unnamed(Sound):
    @classmethod
    def task_of(cls, config, class_names):
        return OfAllNames(class_names)

    def prepare(self):
        super().prepare()
        self.class_names = ()


class OfOneThread(Sound):
    """As a database's connection that other threads may not use, though it says that they may."""

    loads_in_threads = True

    def prepare(self):
        super().prepare()
        self.owner = threading.get_ident()

    def load(self, index):
        if threading.get_ident() != self.owner:
            raise RuntimeError("made in another thread")
        return super().load(index)


def views(**changes):
    return lambda self: SimpleNamespace(**{**vars(self.views), **changes})


ONE_MORE = "test_workers_can_take_it_along"
TEXTS = "test_labels_are_kept_as_texts"
PREDICTIONS = "test_predictions_are_rows_of_texts_and_numbers"
# What else notices class names that are no texts, or that there are none.
NO_TEXTS = [TEXTS, PREDICTIONS, "test_no_answer_is_no_label"]
NO_CLASSES = [PREDICTIONS, "test_targets_are_labels", "test_the_test_set_has_labels", "test_the_task_says_what_a_label_is"]
AUGMENTATION = "test_augmentation_draws_from_the_global_generators_alone"
BROKEN = [
    Broken("test_it_is_registered", Empty, also=[name for name in dir(DatasetContract) if name.startswith("test_")]),
    Broken("test_keys_are_distinct_texts", broken(keys=lambda self: [*self.keys[:-1], self.keys[0]])),
    Broken("test_keys_are_distinct_texts", broken(keys=lambda self: list(range(12))), also=["test_a_sample_that_has_gone_is_refused"]),
    Broken("test_targets_are_labels", broken(targets=lambda self: self.targets.astype(np.float32))),
    Broken("test_targets_are_labels", broken(targets=lambda self: self.targets + 1)),
    Broken("test_targets_are_labels", broken(Weighed, targets=lambda self: self.targets + 1)),
    Broken("test_targets_are_labels", broken(Weighed, targets=lambda self: self.task.targets(self.targets))),
    Broken("test_threads_load_the_same", OfOneThread),
    Broken("test_queryable_is_a_mask", broken(queryable=lambda self: np.ones(12, dtype=int))),
    Broken("test_queryable_is_a_mask", broken(queryable=lambda self: np.zeros(12, dtype=bool))),
    Broken("test_class_names_are_distinct_texts", broken(class_names=lambda self: ("cat", "dog", "cat")), also=[TEXTS]),
    Broken("test_class_names_are_distinct_texts", broken(class_names=lambda self: (0, 1, 2)), also=NO_TEXTS),
    Broken("test_class_names_are_distinct_texts", broken(class_names=lambda self: ()), also=NO_CLASSES),
    Broken("test_class_names_are_distinct_texts", Unnamed),
    Broken("test_another_number_of_classes_is_refused", AnySize),
    Broken("test_another_number_of_classes_is_refused", subclass("AnySizeWeighed", Weighed, _check=lambda self: None)),
    Broken("test_the_task_says_what_a_label_is", weighed(noun="")),
    Broken("test_the_task_says_what_a_label_is", weighed(valid="a weight\nin grams")),
    Broken("test_the_task_says_what_a_label_is", weighed(valid=())),
    Broken("test_the_task_says_what_a_label_is", weighed(metrics=())),
    Broken(TEXTS, of(Twice)),
    Broken(TEXTS, of(Deaf)),
    Broken(TEXTS, of(Renumbering)),
    Broken("test_no_answer_is_no_label", of(Zero)),
    Broken("test_no_answer_is_no_label", of(Stubborn)),
    Broken("test_what_is_learned_follows_the_label", of(Rounding)),
    Broken("test_what_is_learned_follows_the_label", of(Filling)),
    Broken("test_what_is_learned_follows_the_label", weighed(targets=lambda self, labels: labels[:1] * 1.0)),
    Broken("test_targets_make_a_batch", of(Unstacked)),
    Broken("test_targets_make_a_batch", of(Written), also=["test_scores_are_plain_floats"]),
    Broken("test_scores_are_plain_floats", weighed(evaluate=lambda self, outputs, targets: {"mae": np.float64(1)})),
    Broken("test_scores_are_plain_floats", weighed(evaluate=lambda self, outputs, targets: {"loss": 1.0})),
    Broken(PREDICTIONS, weighed(predictions=lambda self, values: [(value,) for value in values[:, 0]])),
    Broken(PREDICTIONS, weighed(predictions=lambda self, values: [("12 g",)])),
    Broken(PREDICTIONS, weighed(prediction_columns=("weight", "unit"))),
    Broken("test_remarks_are_lines", Wordy),
    Broken("test_the_same_files_give_the_same_pool", Shuffled),
    Broken("test_its_own_order_is_taken_back", Sorting),
    Broken("test_a_sample_that_has_gone_is_refused", Careless),
    Broken("test_samples_are_images", Floats, also=["test_the_test_set_has_labels"]),
    Broken("test_loading_again_gives_the_same", Fading, also=[ONE_MORE, AUGMENTATION]),
    Broken("test_paths_are_files", Nowhere),
    Broken("test_what_is_in_order_is_verified", Particular),
    Broken("test_the_test_set_has_labels", broken(test=lambda self: Samples(self.load, self.targets - 1))),
    Broken("test_the_test_set_has_labels", broken(test=lambda self: [self.images[0]])),
    Broken("test_views_are_tensors_of_one_size", broken(views=views(strong=larger))),
    Broken("test_views_are_tensors_of_one_size", broken(views=views(weak=np.asarray)), also=[AUGMENTATION]),
    Broken("test_the_eval_view_draws_nothing", broken(views=views(eval=noisy_eval)), also=[ONE_MORE]),
    Broken("test_augmentation_draws_from_the_global_generators_alone", broken(views=views(weak=unseeded))),
    Broken("test_making_and_loading_leave_the_global_generators_alone", Disturbing),
    Broken("test_making_and_loading_leave_the_global_generators_alone", broken(seed=lambda self: random.random())),
    Broken("test_workers_can_take_it_along", broken(views=views(strong=lambda image: noisy(image)))),
]  # fmt: skip


def test_every_check_has_a_data_set_that_fails_it():
    assert_complete(DatasetContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_data_set_fails_its_check(one, tmp_path):
    assert_fails(DatasetContract, one, tmp_path)


@pytest.mark.parametrize("plugin", [Sound, Weighed])
def test_a_sound_data_set_passes(plugin, tmp_path):
    assert not failing(suite_for(DatasetContract, plugin, {}), tmp_path)
