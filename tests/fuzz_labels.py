"""Mutated label files through the csv oracle: what is read was written on purpose, everything else is refused in lines.

    python benchmarks/fuzz.py labels --cases 1000
"""

from __future__ import annotations

import collections
import csv
import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from data_makers import write_image
from fuzz_yaml import faults_of
from run_helpers import command, settings, write_yaml

from usb_active.builtin.label_file import read_known_labels
from usb_active.builtin.oracles import CsvOracle, _sheet
from usb_active.contracts.task import Classification
from usb_active.errors import UsageError
from usb_active.records import Query
from usb_active.storage.run_dir import RunDir

CLASSES = ("cat", "=1+1", "@SUM(A1)", "'-x", "guinea pig", "Ünï", "a|b", "-1", "+", "\u202eevil", "3", "skipper")
TASK = Classification(CLASSES)
ODD_KEYS = ("=cmd|' /C calc'!A0", "@SUM(A1).png", "-5", "+1.png", "'=q", "a,b;c\td.png", "ünï.png", "q" * 300)
KEYS = (*(f"train/{i:05d}.png" for i in range(6)), *ODD_KEYS)
HOSTILE = (
    "", "skip", "SKIP", "Retract", "cat", " CAT ", "=1+1", "'=1+1", "'@SUM(A1)", "no class", "q" * 5000, "\x1b[31m", "\x00", "\u202e",
    "9" * 5000, "1e400", "nan",
    "-0", "0x1", "1,5", "1.000", "99999999999999999999", "-1", '"', '""', "'", "\ud800", "⅓", "²", "\u0660", "true", "#REF!",
    "\t", "\r", "a\nb",
)  # fmt: skip


def query(cycle: int = 0) -> Query:
    """All keys, in their order; the model has an opinion."""
    probs = np.full((len(KEYS), len(CLASSES)), 1 / len(CLASSES))
    return Query(cycle, np.arange(len(KEYS)) * 3, KEYS, "random", CLASSES, probs)


def filled(rng: random.Random) -> tuple[bytes, dict[int, int]]:
    """The file as a person fills it, without a mistake; and what it says."""
    asked = query()
    rows = list(csv.DictReader(io.StringIO(_sheet(asked, [Path("/photos") / str(i) for i in asked.idx]).decode("utf-8-sig"))))
    said = {}
    for row in rows:
        if rng.random() < 0.8:
            label = rng.randrange(len(CLASSES))
            row["label"] = CLASSES[label]
            said[int(row["index"])] = label
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=rng.choice(["\n", "\r\n"]), delimiter=rng.choice(",;\t"))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(rng.choice(["utf-8", "utf-8-sig", "utf-16"])), said


def mutated(rng: random.Random) -> bytes:
    """A filled file that was changed."""
    data, _ = filled(rng)
    kind = rng.randrange(5)
    if kind == 0:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == 1:
        start = rng.randrange(len(data))
        return data[:start] + data[start + rng.randint(1, 200) :]
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    lines = text.splitlines()
    if kind == 2:
        delimiter = next(mark for mark in ";\t," if mark in lines[0])
        at = rng.randrange(len(lines))
        cells = lines[at].split(delimiter)
        cells[rng.randrange(len(cells))] = rng.choice(HOSTILE)
        lines[at] = delimiter.join(cells)
    elif kind == 3:
        rng.shuffle(lines)
        lines = lines[: rng.randint(0, len(lines))] * rng.randint(1, 2)
    else:
        odd = (b"", b"\x00" * 500, b"PK\x03\x04" + data, b"sep=;\n" + data, b'"' + data, data * 2, b"\xff\xfe" + data, b"label\n" * 3000)
        return rng.choice(odd)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def run(cases: int, seed: int, folder: Path) -> dict[str, int]:
    """Mutate and collect; how many were taken and refused. AssertionError with the case that went wrong: a traceback, a bad message, or
    an answer that cannot be one; or a filled file that is not read as it was filled."""
    rng, counts = random.Random(seed), collections.Counter(taken=0, refused=0, tracebacks=0, misread=0)
    oracle = CsvOracle(CsvOracle.Config())
    oracle.run_path = folder / "run"
    asked = query()
    with RunDir.open(oracle.run_path, {}) as run_dir:
        run_dir.save_query(asked)
    path = oracle.csv_path(0)
    for number in range(cases):
        data, said = filled(rng)
        path.write_bytes(data)
        answers = oracle.collect(asked)
        assert dict(answers.labels) == said and not answers.skipped, f"case {number} of seed {seed}: misread {data!r}"
        data = mutated(rng)
        path.write_bytes(data)
        for read in (lambda: oracle.collect(asked), lambda: read_known_labels(path, KEYS, TASK), lambda: oracle.instructions(asked, 1)):
            try:
                found = read()
                counts["taken"] += 1
                labels = getattr(found, "labels", found if isinstance(found, dict) else {})
                assert all(0 <= label < len(CLASSES) for label in labels.values()), (number, data)
                if hasattr(found, "labels"):
                    assert set(found.labels) | found.skipped | found.emptied <= set(asked.idx.tolist()), (number, data)
            except UsageError as error:
                counts["refused"] += 1
                faults = faults_of(str(error))
                assert not faults, f"case {number} of seed {seed}: {faults}: {str(error)[:300]!r} of {data[:500]!r}"
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(f"case {number} of seed {seed}: {type(error).__name__}: {error} of {data[:2000]!r}") from error
    return dict(counts)


def run_commands(cases: int, seed: int, folder: Path) -> dict[str, int]:
    """As labels that exist already, through the real command line: exit code 0, or 2 with lines that a terminal can show."""
    rng, counts = random.Random(seed), collections.Counter()
    for key in range(4):
        write_image(folder / "photos" / "unlabeled" / f"{key}.png")
    dataset = {"name": "image_folder", "class_names": ["cat", "3"]}
    data = settings(folder, active={"initial": {"name": "file", "path": "labels.csv"}, "cycles": 0, "oracle": "csv"}, dataset=dataset)
    config = write_yaml(folder / "c.yaml", {**data, "data_dir": str(folder / "photos")})
    for number in range(cases):
        content = mutated(rng).replace(b"train/0000", b"unlabeled/")
        (folder / "labels.csv").write_bytes(content)
        ended = command("check", config)
        lines = ended.stderr.splitlines()
        assert ended.returncode in (0, 2) and all(line.startswith("usb-active: ") for line in lines), (number, content[:500], ended)
        counts[f"exit code {ended.returncode}"] += 1
    return dict(counts)


def fuzz(folder: Path, cases: int, seed: int, real: int, say: Callable[[str], None]) -> dict[str, int]:
    """The large run: so many in this process, and `real` more through the command line. AssertionError with the first that went wrong."""
    counts = run(cases, seed, folder)
    say(f"{cases} in this process: {counts}")
    return {**counts, "command line": run_commands(real, seed + 1, folder)}
