"""What people write for samples and labels, on the command line and in files of labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from usb_active.commands.asked import UNASKED, Asked
from usb_active.contracts.task import Task
from usb_active.errors import SHOWN, UsageError, nearest, printable
from usb_active.records import SKIP, VOLUNTEERED, Query
from usb_active.storage.paths import nfc
from usb_active.storage.sample_keys import KeyFinder, look_alikes


class KnownSamples:
    """The samples of the pool, by what people write for their keys; those that were asked for or labelled first.

    Args:
        samples: asked for or labelled.
        keys: (N,) of the pool.
        queries: all there are; a label that nobody asked for is of the last one.
    """

    def __init__(self, samples: Sequence[Asked], keys: Sequence[str], queries: Sequence[Query]):
        self._samples, self._keys, self._queries = samples, keys, queries
        self._asked = {sample.key: sample for sample in samples}
        self._finder = KeyFinder({at: sample.key for at, sample in enumerate(samples)})

    @cached_property
    def _by_index(self) -> dict[int, Asked]:
        return {sample.index: sample for sample in self._samples}

    @cached_property
    def _by_key(self) -> dict[str, int]:
        return {key: index for index, key in enumerate(self._keys)}

    @cached_property
    def _pool(self) -> KeyFinder:
        return KeyFinder(dict(enumerate(self._keys)))

    def get(self, key: str, exact: bool = False) -> Asked | None:
        """The sample of a key, or None; `exact`: of the key as it is."""
        if key in self._asked:
            return self._asked[key]
        if exact or key in self._by_key:
            return self._at(self._by_key.get(key))
        at = self._finder.find(key)
        return self._at(self._pool.find(key)) if at is None else self._samples[at]

    def in_pool(self, key: str) -> Asked | None:
        """As `get`, where a bare name must be that of one sample of the whole pool, not only of those that were asked for."""
        if not self._keys:
            return self.get(key)
        return self._at(self._by_key[key] if key in self._by_key else self._pool.find(key))

    def _at(self, index: int | None) -> Asked | None:
        if index is None or index in self._by_index:
            return None if index is None else self._by_index[index]
        cycle = self._queries[-1].cycle if self._queries else 0
        return Asked(cycle, index, self._keys[index], "", UNASKED, VOLUNTEERED, "", 0)

    def __getitem__(self, key: str) -> Asked:
        """The sample of a key. UsageError when it is none of the pool, or when nothing can be said of it yet."""
        return self.check(self.need(key))

    def need(self, key: str) -> Asked:
        """The sample of a key, whatever is to be said of it. UsageError when it is none of the pool."""
        sample = self.get(key)
        if sample is None:
            raise UsageError(f"'{printable(key)}' is no sample of the pool{self.near(key)}")
        return sample

    def check(self, sample: Asked) -> Asked:
        """The sample. UsageError where it was not asked for and there is no query yet, of whose cycle a label of it could be."""
        if sample.status == UNASKED and not self._queries:
            raise UsageError(f"'{printable(sample.key)}': nothing has been asked yet, and a label belongs to a query; start the run first")
        return sample

    def called(self, names: Sequence[str]) -> list[str]:
        """The keys whose file has one of these names; for a name that is not found, because more than one has it."""
        bare = {name.replace("\\", "/").rpartition("/")[2] for name in names} - {""}
        return [key for key in self._keys if key.rpartition("/")[2] in bare]

    def near(self, key: str) -> str:
        """What may follow a message on a key that is none."""
        keys = self._keys or list(self._asked)
        if len(keys) <= 20:
            return nearest(key, keys)
        if len(key) > 10 * SHOWN:
            return ""
        close = nearest(key, look_alikes(key, keys))
        return close if "mean" in close else ""


class Classes:
    """The names of classes, by what people write for them."""

    def __init__(self, classes: Iterable[str]):
        self._classes = set(classes)
        self._names = {nfc(name): name for name in self._classes} | {name: name for name in self._classes}

    def find(self, text: str) -> str | None:
        """The name that is meant, None where it is none."""
        return self._names.get(text, self._names.get(nfc(text)))

    def problem(self, text: str) -> str:
        """What is wrong with a text that is none."""
        return f"unknown class '{printable(text)}'{nearest(text, self._classes)}"


class Texts:
    """The texts of labels that are no classes, by what people write for them."""

    def __init__(self, task: Task):
        self._task = task

    def find(self, text: str) -> str | None:
        """The label that is meant, None where it is none."""
        label = self._task.read(text)
        return None if label in (None, SKIP) else self._task.decode(label)

    def problem(self, text: str) -> str:
        """What is wrong with a text that is none."""
        return f"{self._task.problem} '{printable(text)}'{self._task.hint(text)}"


def parse_setting(text: str, known: KnownSamples, labels: Classes | Texts) -> tuple[Asked, str]:
    """The sample and the label of `KEY=LABEL`. UsageError when one is none.

    Keys and class names may hold `=` themselves: any split into a known key and a known label is taken, exact keys first.
    """
    parts = text.split("=")
    splits = [("=".join(parts[:at]), "=".join(parts[at:])) for at in range(1, len(parts))]
    for exact in (True, False):
        for key, label in splits:
            sample, name = known.get(key, exact), labels.find(label)
            if sample is not None and name is not None:
                return known.check(sample), name
    if not splits:
        raise UsageError(f"--set {printable(text)}: must be KEY=LABEL")
    key, label = next((split for split in splits if known.get(split[0]) is not None), splits[-1])
    known[key]  # refuses a key that is not known
    raise UsageError(f"--set {printable(text)}: {labels.problem(label)}")
