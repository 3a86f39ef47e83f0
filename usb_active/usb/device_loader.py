"""Loaders whose batches get their views on the device: the next one is on its way there while the training works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from usb_active.contracts.dataset import Dataset
from usb_active.pool.sampling import Loader
from usb_active.usb.data import UNMADE, PoolStream
from usb_active.usb.device_views import DevicePool, DeviceViews, UnmadeViews


@dataclass(frozen=True)
class _Sent:
    """Bytes that are on the device, or on their way there; then `event` says when they are."""

    packed: torch.Tensor
    event: Any = None

    def arrived(self) -> torch.Tensor:
        """The bytes, for what is called next: a GPU waits for them, the host does not."""
        if self.event is not None:
            now = torch.cuda.current_stream(self.packed.device)
            now.wait_event(self.event)
            self.packed.record_stream(now)
        return self.packed


class Sender:
    """Copies bytes to a device; to a GPU on a stream of its own, from two pinned buffers in turn: one is copied while the other fills."""

    def __init__(self, device: torch.device):
        self._device, self._turn = device, 0
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(2)]
            self._events = [torch.cuda.Event() for _ in range(2)]

    def send(self, packed: torch.Tensor) -> _Sent:
        """Begin to copy bytes (n,) uint8."""
        if self._device.type != "cuda":
            return _Sent(packed.to(self._device))
        turn, self._turn = self._turn, 1 - self._turn
        if not self._events[turn].query():
            # What was sent from this buffer two batches ago; as a rule it has long arrived.
            self._events[turn].synchronize()
        if len(self._buffers[turn]) < len(packed):
            self._buffers[turn] = torch.empty(len(packed) * 5 // 4, dtype=torch.uint8, pin_memory=True)
        pinned = self._buffers[turn][: len(packed)].copy_(packed)
        with torch.cuda.stream(self._stream):
            on_device = pinned.to(self._device, non_blocking=True)
            self._events[turn] = torch.cuda.Event()
            self._events[turn].record(self._stream)
        return _Sent(on_device, self._events[turn])


class OnDevice:
    """What the loaders of a cycle have in common: their streams, and the images where they are kept on the device.

    Args:
        streams: whose batches are to be made on the device.
        say: told, for people, why a batch could not be.
    """

    def __init__(self, dataset: Dataset, streams: Mapping[str, PoolStream], device: torch.device, say: Callable[[str], None]):
        self._dataset, self._streams, self.device, self.say = dataset, streams, device, say
        self._views: DeviceViews | None = None

    def begin(self) -> DeviceViews:
        """Before the first batch, and before there are workers: that late because images may still be decoded or replaced."""
        if self._views is None:
            idx = np.unique(np.concatenate([stream.idx for stream in self._streams.values()]))
            pool = DevicePool.of(self._dataset, idx, self.device)
            for stream in self._streams.values():
                stream.leaves_unmade, stream.kept = True, None if pool is None else (pool.places, pool.sides)
            self._views = DeviceViews(self._dataset.views, self.device, pool)
        return self._views

    def say_unequal(self) -> None:
        """That there was a batch of several sizes."""
        self.say(f"images of dataset '{self._dataset.name}' differ in size")


class DeviceLoader(Loader):
    """A loader of such a stream: the views in its batches are on the device.

    Args:
        shared: of the cycle's loaders.
        looks_ahead: whether the next batch is asked for before this one is used; no where what makes batches may look at the training.
    """

    def __init__(self, shared: OnDevice, looks_ahead: bool, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._shared, self._looks_ahead, self._sender = shared, looks_ahead, Sender(shared.device)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        views = self._shared.begin()
        return self._made(super().__iter__(), views)

    def _made(self, batches: Iterator[dict[str, Any]], views: DeviceViews) -> Iterator[dict[str, Any]]:
        sent = self._next(batches)
        while sent is not None:
            batch, unmade, on_its_way = sent
            if unmade is not None and on_its_way is not None:
                batch |= views.made(unmade, on_its_way.arrived())
            if not self._looks_ahead:
                yield batch
                sent = self._next(batches)
                continue
            # The GPU is busy with this one now. What is wrong with the next one is said when that is asked for.
            try:
                sent, error = self._next(batches), None
            except Exception as found:
                error = found
            yield batch
            if error is not None:
                raise error

    def _next(self, batches: Iterator[dict[str, Any]]) -> tuple[dict[str, Any], UnmadeViews | None, _Sent | None] | None:
        batch = next(batches, None)
        if batch is None:
            return None
        unmade = batch.pop(UNMADE, None)
        if unmade is None:
            self._shared.say_unequal()
            return batch, None, None
        return batch, unmade, self._sender.send(unmade.packed)
