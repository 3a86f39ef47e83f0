"""Every check of a data set's suite fails for a data set that breaks its rule, and for that rule alone."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from broken_plugins import Broken, assert_complete, assert_fails, failing, suite_for

from usb_active.contracts.dataset import Dataset, Samples
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


def broken(base=Sound, **changes):
    """A subclass whose attributes are changed after `prepare`: each change is a function of the data set."""

    def prepare(self):
        base.prepare(self)
        for name, change in changes.items():
            setattr(self, name, change(self))

    cls = type(f"With{'_'.join(changes)}{len(globals())}", (base,), {"prepare": prepare, "__module__": __name__})
    # Found there when it is unpickled.
    globals()[cls.__name__] = cls
    return cls


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


def views(**changes):
    return lambda self: SimpleNamespace(**{**vars(self.views), **changes})


ONE_MORE = "test_workers_can_take_it_along"
AUGMENTATION = "test_augmentation_draws_from_the_global_generators_alone"
BROKEN = [
    Broken("test_it_is_registered", Empty, also=[name for name in dir(DatasetContract) if name.startswith("test_")]),
    Broken("test_keys_are_distinct_texts", broken(keys=lambda self: [*self.keys[:-1], self.keys[0]])),
    Broken("test_keys_are_distinct_texts", broken(keys=lambda self: list(range(12))), also=["test_a_sample_that_has_gone_is_refused"]),
    Broken("test_targets_are_class_indices", broken(targets=lambda self: self.targets.astype(np.float32))),
    Broken("test_targets_are_class_indices", broken(targets=lambda self: self.targets + 1)),
    Broken("test_queryable_is_a_mask", broken(queryable=lambda self: np.ones(12, dtype=int))),
    Broken("test_queryable_is_a_mask", broken(queryable=lambda self: np.zeros(12, dtype=bool))),
    Broken("test_class_names_are_distinct_texts", broken(class_names=lambda self: ("cat", "dog", "cat"))),
    Broken("test_class_names_are_distinct_texts", broken(class_names=lambda self: (0, 1, 2))),
    Broken("test_another_number_of_classes_is_refused", AnySize),
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


def test_a_sound_data_set_passes(tmp_path):
    assert not failing(suite_for(DatasetContract, Sound, {}), tmp_path)
