"""What the page talks to: the desk while people answer, a training while they wait, and what the page is told of both."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usb_active.errors import UsageError, plain
from usb_active.labeling.class_keys import class_keys
from usb_active.labeling.desk import Desk, Unread
from usb_active.labeling.loop import LOG, RunProcess, curve_so_far
from usb_active.labeling.pictures import SamplePictures

# Between the last answer of a batch and the training, in seconds: for a second thought.
GRACE = 8.0
# So many images are held by a client at most; the exit code of `usb-active run` that asks for labels.
MOST_HELD, WAITING = 200, 3


class Moved(Exception):
    """What the page shows is no longer there: it is to ask for everything anew."""


@dataclass
class ServedRun:
    """What is served.

    Attributes:
        path: the run's directory.
        unread: what people wrote into files of the run, see `Desk`.
        pictures: makes the pictures of the run's samples, as they are when it is called.
        command: arguments of `usb-active` that go on with the run.
        loop: whether training starts when a batch is complete.
    """

    path: Path
    unread: Unread
    pictures: Callable[[], SamplePictures]
    command: Sequence[str] = ()
    loop: bool = False

    @property
    def next_command(self) -> str:
        """What is to be typed when the labels are given."""
        return shlex.join(["usb-active", *self.command])


@dataclass
class Service:
    """The states of the page: "labeling", "training" (no one holds the run but the process that trains), "done", "failed".

    Attributes:
        round: counts the times that the desk was opened; places of samples hold for one.
        problem: what the page says where something failed.
        code: the exit code of the last training; None before there was one.
    """

    plan: ServedRun
    stage: str = "labeling"
    round: int = 0
    problem: list[str] = field(default_factory=list)
    desk: Desk | None = None
    pictures: SamplePictures | None = None
    training: RunProcess | None = None
    starts_at: float | None = None
    is_over: bool = False
    code: int | None = None
    # Whether a page has been heard of since the desk was opened, and how many changes there were when the count to the training began.
    _is_heard: bool = False
    _counted: int = 0

    def open(self) -> None:
        """Take the run, or nothing of it. UsageError as `Desk`, or of a data set that cannot be read."""
        # First of all: what a page still shows is of the past even where this fails.
        self.round += 1
        desk = Desk(self.plan.path, self.plan.unread)
        try:
            pictures = self.plan.pictures()
        except BaseException:
            desk.close()
            raise
        self.desk, self.pictures, self.stage = desk, pictures, "labeling"
        self.starts_at, self._is_heard = None, False

    def close(self) -> None:
        """Give the run back, and end a training: the same command resumes it."""
        self._leave()
        if self.training is not None:
            self.training.stop()

    # ------------------------------------------------------------------------------------------ time passes
    def look(self, now: float) -> None:
        """What has come to be due by now: a training that starts, or has ended; nothing once the server is to end."""
        if self.is_over:
            return
        if self.stage == "labeling":
            self._schedule(now)
            if self.starts_at is not None and now >= self.starts_at:
                self.train()
        elif self.stage == "training":
            self._ended()

    def _schedule(self, now: float) -> None:
        """Count to the training, anew after every change; not before a page is there that shows it."""
        desk = self.desk
        if not (self.plan.loop and self._is_heard and desk is not None and desk.is_complete and (desk.is_asking or desk.is_interrupted)):
            self.starts_at = None
        elif self.starts_at is None or self._counted != len(desk.history):
            self.starts_at, self._counted = now + GRACE, len(desk.history)

    def train(self) -> None:
        """Give the run to `usb-active run`, at once; nothing where it has it.

        Raises:
            UsageError: without `--loop`, while answers are missing, or when the run is done.
        """
        if not self.plan.loop:
            raise UsageError(f"the page was started without --loop; end it, and then: {self.plan.next_command}")
        if self.stage == "training":
            return
        if self.stage == "done":
            raise UsageError("the run is done: there is nothing to train")
        if self.desk is not None and not self.desk.is_complete:
            raise UsageError(f"{len(self.desk.pending)} labels are missing")
        self._leave()
        self.starts_at, self.problem = None, []
        try:
            self.stage, self.training = "training", RunProcess(self.plan.command, self.plan.path)
        except OSError as error:
            self._return("failed", [f"the training cannot start: {plain(str(error))}"])

    def _ended(self) -> None:
        training = self.training
        if training is None or training.code is None:
            return
        self.code, lines = training.code, training.lines()
        self.training = None
        if self.code in (0, WAITING):
            self._return("labeling" if self.code else "done", [])
        else:
            self._return("failed", [*lines, f"exit code {self.code}; all of it is in {self.plan.path / LOG}"])

    def _leave(self) -> None:
        if self.desk is not None:
            self.desk.close()
        self.desk = None

    def _return(self, stage: str, problem: list[str]) -> None:
        """Back to the desk: what made a training fail may be a label."""
        try:
            self.open()
            self.stage, self.problem = stage, problem
        except (UsageError, OSError) as error:
            self.stage, self.problem = "failed", [*problem, *map(plain, str(error).split("\n"))]

    # ------------------------------------------------------------------------------------------ what the page is told
    def everything(self, now: float) -> dict[str, Any]:
        """All that a page shows, once: the samples as lists, for there may be many."""
        told: dict[str, Any] = {"title": self.plan.path.name, "loop": self.plan.loop, "command": self.plan.next_command}
        desk = self.desk
        if desk is not None:
            names = list(desk.class_names)
            told |= {"classes": names, "keys": class_keys(names), "batch": desk.batch, "cycle": desk.cycle, "asking": desk.is_asking}
            told["samples"] = [
                [sample.key, sample.cycle, sample.suggestion, None if sample.confidence is None else round(sample.confidence, 4)]
                for sample in desk.samples
            ]
            told["answers"] = [desk.code(place) for place in range(len(desk.samples))]
        return {**told, **self.news("", -1, now), "changes": []}

    def news(self, client: str, version: int, now: float) -> dict[str, Any]:
        """What has changed since the page knew `version` changes; the client ("" for none) says by it that it is there."""
        told: dict[str, Any] = {"round": self.round, "stage": self.stage, "problem": self.problem}
        desk = self.desk
        self._is_heard |= bool(client)
        if desk is not None:
            desk.leases.renew(client, now)
            told |= {"version": len(desk.history), "others": sorted(desk.leases.others(client, now)), "complete": desk.is_complete}
            told["changes"] = list(desk.changed_since(version).items()) if version >= 0 else []
        if self.starts_at is not None:
            told["starts_in"] = max(0.0, self.starts_at - now)
        if self.training is not None:
            told |= {"seconds": now - self.training.started, "lines": self.training.lines()}
        if self.stage != "labeling" or (desk is not None and desk.is_complete):
            try:
                told["curve"] = curve_so_far(self.plan.path)
            except (UsageError, OSError) as error:
                # What cannot be drawn is said, and keeps nobody from labelling.
                told["problem"] = [*self.problem, *map(plain, str(error).split("\n"))]
        return told

    # ------------------------------------------------------------------------------------------ what people do
    def at(self, round_: int) -> Desk:
        """The desk of a round. Moved: it is closed, or another one."""
        if self.desk is None or round_ != self.round:
            raise Moved
        return self.desk

    def hold(self, client: str, wanted: Sequence[int], most: int, now: float) -> list[int]:
        """Images for a client to look at, those that nobody else has."""
        if self.desk is None:
            raise Moved
        return self.desk.leases.hold(client, wanted, min(most, MOST_HELD), now)

    def drop(self, client: str) -> None:
        """A page has gone: what it looked at is free for others."""
        if self.desk is not None:
            self.desk.leases.drop(client)

    @property
    def exit_code(self) -> int:
        """That of `usb-active run` where the page ends: 0 the run is done, 3 labels are awaited, or what made it fail."""
        if self.stage == "done":
            return 0
        if self.stage != "failed":
            return WAITING
        if self.code in (None, 0, WAITING):
            # No training failed: the run could not be opened after it.
            return 2
        return self.code if self.code > 0 else 128 - self.code

    def finish(self) -> None:
        """The server is to end."""
        self.is_over = True
