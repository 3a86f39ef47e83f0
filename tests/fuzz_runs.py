"""Damaged run directories: one file of a finished run is cut, altered or exchanged, and every command must say so in one line.

`damaged(...)` makes the damage, `outcome(...)` judges a command. The suite takes a few cases, `benchmarks/fuzz.py runs` many.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import run_helpers

from usb_active.config.trust import FLAG

# One file of each kind; {other} is the same file of a run with another seed.
FILES = (
    "config.yaml", "dataset.json", "keys.txt", "labels.csv", "metrics.jsonl", "state.json",
    "queries/cycle_000.json", "queries/cycle_001.json", "queries/cycle_001.meta.json", "queries/cycle_001.probs.npy",
    "queries/cycle_001.query.pth", "queries/cycle_001.answers.pth", "queries/cycle_000.training.pth",
    "cycle_000/start.json", "cycle_000/done.json", "cycle_001/start.json", "cycle_001/done.json", "cycle_001/prior.jsonl",
    "cycle_001/latest_model.pth", "cycle_001/model_best.pth", "artifacts/prior_001_start_00000000.npy",
)  # fmt: skip
VALUES = ("{}", "[1]", "null", "0", '""', "[]", '{"cycle": "0"}', "true")
# One step only; a prior, held-out labels, and a plugin with a state.
BLOCK = {
    "cycles": 1, "validation": 0.25, "acquisition": {"name": "running_mean"}, "keep": "all",
    "prior": {"name": "llgc", "features": "pixels"},
}  # fmt: skip
STEPS = {"num_train_iter": 2, "num_eval_iter": 2, "num_log_iter": 1, "epoch": 1}
PLUGIN = Path(__file__).with_name("killer_plugin.py")


@dataclass
class Tally:
    """What came of many cases."""

    cases: int = 0
    commands: int = 0
    codes: Counter = field(default_factory=Counter)
    tracebacks: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    several_lines: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.tracebacks or self.accepted or self.several_lines)

    def __str__(self) -> str:
        codes = ", ".join(f"{count} with exit code {code}" for code, count in sorted(self.codes.items(), key=str))
        bad = [*self.tracebacks, *self.accepted, *self.several_lines]
        counts = (
            f"{self.cases} damaged runs, {self.commands} commands ({codes}): {len(self.tracebacks)} tracebacks, "
            f"{len(self.accepted)} altered journals accepted, {len(self.several_lines)} errors of several lines"
        )
        return "\n".join([counts, *bad[:20]])


class Fuzz:
    """Two finished runs with different seeds in `folder`, and damaged copies of the first."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.settings = {name: run_helpers.settings(folder, name, BLOCK, seed=seed, plugins=[str(PLUGIN)], **STEPS)
                         for name, seed in (("base", 3), ("other", 4))}  # fmt: skip
        for data in self.settings.values():
            run_helpers.train(data)
        missing = [name for name in FILES if not (folder / "base" / name).exists()]
        if missing:
            raise AssertionError(f"a finished run has no {', '.join(missing)}")

    @contextlib.contextmanager
    def copy(self) -> Iterator[Path]:
        """A copy of the first run, beside its YAML; gone afterwards."""
        run = self.folder / "copy"
        shutil.copytree(self.folder / "base", run)
        run_helpers.write_yaml(self.folder / "copy.yaml", {**self.settings["base"], "save_name": "copy"})
        try:
            yield run
        finally:
            shutil.rmtree(run)

    def case(self, number: int, seed: int, tally: Tally, real: bool = False) -> None:
        """Damage a file and give the commands; `real`: in processes of their own."""
        rng = random.Random(f"{seed} {number}")
        with self.copy() as run:
            # As if killed before the last cycle was over: then its checkpoint and its states are needed.
            unfinished = rng.random() < 0.4
            if unfinished:
                (run / "cycle_001" / "done.json").unlink()
            what = ("unfinished, " if unfinished else "") + damage(run, self.folder / "other", rng)
            altered = is_altered(run, self.folder / "base")
            # A report is a part of every run; drawing it takes most of a case's time.
            commands = [["labels"], ["predict"], ["run" if rng.random() < 0.5 else "report"]]
            if real:
                commands = [["labels", "--csv"], ["report"], ["predict"], ["run"]]
            tally.cases += 1
            for command in commands:
                target = str(self.folder / "copy.yaml") if command[0] == "run" else str(run)
                # The plugin of these runs is a file.
                trust = [FLAG] if command[0] in ("report", "predict") else []
                code, err = (_process if real else _here)([command[0], target, *command[1:], *trust])
                judge(f"case {number} (seed {seed}): {what}: {' '.join(command)}", code, err, altered, tally)


def judge(where: str, code: int | None, err: str, altered: bool, tally: Tally) -> None:
    """Count what a command came to; `altered`: rows that a cycle was trained on are not as they were."""
    tally.commands += 1
    tally.codes[code] += 1
    if code not in (0, 2, 3) or "Traceback" in err:
        tally.tracebacks.append(f"{where}: {code}: {err[-600:]}")
    elif code == 2 and not _is_one_error(err):
        tally.several_lines.append(f"{where}: {err}")
    if altered and code != 2:
        tally.accepted.append(f"{where}: exit code {code}")


def _is_one_error(err: str) -> bool:
    """One line; all problems of a configuration are told at once, though, and differences from another one are indented."""
    lines = re.findall("^usb-active: error: (.*)", err, re.MULTILINE)
    heads = [line for line in lines if not line.startswith("  ")]
    return len(heads) == 1 or len(heads) > 1 and all("config.yaml: " in line for line in heads)


def is_altered(run: Path, original: Path) -> bool:
    """Whether the rows that were trained on are others than in the original; line ends do not matter."""
    try:
        now = (run / "labels.csv").read_bytes().replace(b"\r\n", b"\n")
    except FileNotFoundError:
        return True
    return not now.startswith((original / "labels.csv").read_bytes())


# ------------------------------------------------------------------------------------------------- damage
def damage(run: Path, other: Path, rng: random.Random) -> str:
    """Alter one file of the run; what was done to it."""
    name = rng.choice([name for name in FILES if (run / name).exists()])
    if rng.random() < 0.2:
        name = "labels.csv"
    path = run / name
    kinds = [_delete, _truncate, _flip, _flip, _replace, _exchange, _retype, _retype, _lines]
    return f"{name} {rng.choice(kinds)(path, other / name, rng)}"


def _delete(path: Path, other: Path, rng: random.Random) -> str:
    path.unlink()
    return "deleted"


def _truncate(path: Path, other: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    length = rng.choice([0, 1, len(data) // 2, len(data) - 1, rng.randrange(len(data) + 1)])
    path.write_bytes(data[:length])
    return f"cut to {length} bytes"


def _flip(path: Path, other: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    places = [rng.randrange(min(len(data), rng.choice([128, len(data)]))) for _ in range(rng.choice([1, 1, 5]))]
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
    return f"with bits changed at {places}"


def _replace(path: Path, other: Path, rng: random.Random) -> str:
    value = rng.choice([*VALUES, "\x00\xff\n", "a,b\n1,2\n"])
    if path.suffix == ".pth" and rng.random() < 0.7:
        import torch

        value = rng.choice([{}, [1], {"model": {}}, {"ema_model": {"x": torch.zeros(1)}}, {"active": 3}, torch.zeros(2)])
        torch.save(value, path)
    elif path.suffix == ".npy" and rng.random() < 0.7:
        import numpy as np

        value = rng.choice([np.zeros(3), np.zeros((2, 2), dtype="U3"), np.full((10, 10), np.nan), np.array(1)])
        np.save(path, value)
    else:
        path.write_bytes(value.encode("latin-1"))
    return f"replaced by {value!r}"


def _exchange(path: Path, other: Path, rng: random.Random) -> str:
    """By the same file of another run, or by another file of this one."""
    beside = sorted(found for found in path.parent.iterdir() if found.is_file() and found.suffix == path.suffix and found != path)
    earlier = [path.parent.parent / "cycle_000" / path.name] if path.parent.name == "cycle_001" else []
    source = rng.choice([found for found in (other, other, *beside, *earlier) if found.exists()])
    shutil.copyfile(source, path)
    return f"replaced by {source.relative_to(source.parents[2])}"


def _retype(path: Path, other: Path, rng: random.Random) -> str:
    """One value of a JSON file of another type, or away; other files: some bits."""
    if path.suffix == ".pth":
        return _retype_checkpoint(path, rng)
    lines = path.read_bytes().split(b"\n")
    at = rng.randrange(max(1, len(lines) - 1))
    try:
        value = json.loads(lines[at])
    except ValueError:
        return _flip(path, other, rng)
    lines[at] = json.dumps(_mutated(value, rng)).encode()
    path.write_bytes(b"\n".join(lines))
    return f"line {at + 1} changed to {lines[at][:200]!r}"


def _retype_checkpoint(path: Path, rng: random.Random) -> str:
    import torch

    value = torch.load(path, weights_only=True)
    name = rng.choice(sorted(map(str, value)))
    if rng.random() < 0.5:
        del value[name]
    else:
        value[name] = rng.choice([None, 3, "x", {}, [1]])
    torch.save(value, path)
    return f"entry {name}: {'away' if name not in value else repr(value[name])}"


def _mutated(value: Any, rng: random.Random) -> Any:
    odd = [None, "x", -1, 2**70, 1.5, [], {}, True, [None], {"a": []}]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(sorted(value))
        if rng.random() < 0.3:
            return {key: item for key, item in value.items() if key != name}
        return {**value, name: _mutated(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return [*value[:at], _mutated(value[at], rng), *value[at + 1 :]]
    return rng.choice([item for item in odd if item != value])


def _lines(path: Path, other: Path, rng: random.Random) -> str:
    """Lines away, twice, in another order, or with another number in them."""
    lines = path.read_bytes().split(b"\n")
    first = rng.randrange(len(lines))
    kind = rng.choice(["away", "twice", "exchanged", "changed"])
    if kind == "away":
        del lines[first : first + rng.choice([1, 1, 3, 12])]
    elif kind == "twice":
        lines.insert(first, lines[first])
    elif kind == "exchanged":
        second = rng.randrange(len(lines))
        lines[first], lines[second] = lines[second], lines[first]
    else:
        lines[first] = re.sub(rb"\d", lambda match: b"%d" % rng.randrange(10), lines[first])
    path.write_bytes(b"\n".join(lines))
    return f"line {first + 1} {kind}"


# ------------------------------------------------------------------------------------------------- commands
def _here(arguments: list[str]) -> tuple[int | None, str]:
    """A command in this process; a traceback as its error, with the code None."""
    from usb_active import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: int | None = cli.main(arguments)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except Exception:
            code = None
            err.write(traceback.format_exc())
    return code, err.getvalue()


def _process(arguments: list[str]) -> tuple[int, str]:
    ended = subprocess.run([sys.executable, "-m", "usb_active", *arguments], capture_output=True, text=True, timeout=600)
    return ended.returncode, ended.stderr


def fuzz(folder: Path, cases: int, seed: int, real: int, say: Callable[[str], None] = print) -> Tally:
    """So many cases, the last `real` of them through the command line."""
    fuzz, tally = Fuzz(folder), Tally()
    for number in range(cases):
        fuzz.case(number, seed, tally, real=number >= cases - real)
        if (number + 1) % 50 == 0:
            say(f"{number + 1} of {cases}: {tally}")
    return tally
