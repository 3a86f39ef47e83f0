"""Mutated YAMLs: every one is a configuration, or refused in lines that a terminal can show.

    python benchmarks/fuzz.py yaml --cases 2000
"""

from __future__ import annotations

import collections
import random
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from usb_active import errors
from usb_active.config.settings import load_yaml_config

BASE = """\
algorithm: flexmatch
dataset: {name: image_folder, class_names: [zero, one, "two"]}
data_dir: ./photos
net: {name: small_cnn, width: 8}
save_dir: ./runs
save_name: photos
num_train_iter: 20
epoch: 2
batch_size: 8
uratio: 2
lr: 0.05
ema_m: 0.999
seed: 3
use_cat: true
clip: 0
active:
  initial: {name: random, size: 9}
  acquisition: {name: assl, alpha: 0.8}
  cycles: 3
  budget: 5
  validation: 0.1
  oracle: {name: csv, accept_partial: true}
  features: {name: file, path: f.npy}
  pretrain: {name: file, path: w.pth}
  prior: {name: file, path: p.npy, until_iter: 5}
"""
# As they would stand behind the colon.
HOSTILE = (
    "2024-13-01", "2024-01-01", "!!int foo", "!!float x", "!!timestamp 2", "!!binary é", "!!bool 2", "!!null x", "!!set {a, b}",
    "!!omap [a: 1]",
    "!!python/object/apply:os.system [true]", "!" + "t" * 500 + " 1", "9" * 5000, "1" + "0" * 400, "9223372036854775808",
    "-9223372036854775809",
    "1e400", "-1e400", "1.0e+400", ".nan", ".inf", "0x" + "f" * 30, "0b" + "1" * 80, "12:30", "1:" + "00:" * 5000 + "0", "yes",
    "no", "on", "null",
    "~", "", "[" * 3000, "[" * 40 + "]" * 40, "{" * 60, "[]", "{}", "[1, a, null, {b: c}]", "{name: [x]}", "{1: 2}",
    "{name: margin, zzz: 1}",
    "{null: x}", "{[a]: b}", "*nobody", "&a [*a]", "q" * 5000, '"' + "q" * 300 + '"', '"\\e[31mred\\e[0m"', '"\\u202Eabc"',
    '"a\\nusb-active: x"',
    '"\\0"', '"a\\0b.npy"', "../../etc/passwd", "/dev/zero", "/dev/full", "~", "http://example.com/x", '"x/y"', '".."',
    '"\\uD800"', "'=1+1'",
    "margin", "random", "0", "-1", "1", "3.7", "true", "1_000", "010", "!!str 5", "|\n  a\n  b", "@x", "`x`", "%x", "a: b: c",
    '"unclosed', "- x",
)  # fmt: skip


def _bomb(key: str) -> str:
    lines = [f"{key}: &l0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"b{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 10))]) + "\n"


def _merges() -> str:
    lines = ["m0: &m0 {x: 1}", *(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 10))]
    return "\n".join(lines) + "\n"


def _flip(text: str, rng: random.Random) -> bytes:
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _cut(text: str, rng: random.Random) -> bytes:
    start = rng.randrange(len(text))
    return (text[:start] + text[start + rng.randint(1, 40) :]).encode()


def _swap(text: str, rng: random.Random) -> bytes:
    lines = text.splitlines()
    one, other = rng.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines).encode()


def _value(text: str, rng: random.Random) -> bytes:
    places = list(re.finditer(r"(?<=: )[^{}\[\]\n,]+|\[[^\]\n]*\]|\{[^}\n]*\}", text))
    for place in sorted(rng.sample(places, rng.randint(1, 2)), key=lambda found: -found.start()):
        text = text[: place.start()] + rng.choice(HOSTILE) + text[place.end() :]
    return text.encode("utf-8", "surrogatepass")


def _key(text: str, rng: random.Random) -> bytes:
    place = rng.choice(list(re.finditer(r"\w+(?=:)", text)))
    odd = ("q" * 3000, '"\\e[1m"', "name", "size", "<<", "12", "yes", "null", "2024-01-01", '"\\u2066x"', "? [a, b]", "a.b", "'='")
    name = rng.choice(odd)
    return (text[: place.start()] + name + text[place.end() :]).encode()


def _parsed(text: str, rng: random.Random) -> bytes:
    """A tree whose values are changed to others, dumped again: valid YAML of the wrong meaning."""
    tree = yaml.safe_load(text)
    odd = (None, True, -1, 0, 10**17, 1e308, float("nan"), "", " ", "\x1b[2J", "q" * 200, [], {}, [[]], {"name": None}, b"x")
    for _ in range(rng.randint(1, 3)):
        node: Any = tree
        while True:
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
                node = node[key]
                continue
            node[key] = rng.choice(odd)
            break
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


def _around(text: str, rng: random.Random) -> bytes:
    whole = (
        _bomb("active"), _bomb("clip") + text, text + _merges(), "a: " + "[" * 3000, "- " * 3000, "? " * 3000,
        text + "x: " + "z" * 1_100_000,
        text + "class_names: [" + "a, " * 40000 + "]", text * 2, "", "---\n---\n", "[]", "3", "\ufeff" + text, text.replace("\n", "\r\n"),
        text + "\x00", text + "# " + "c" * 500_000, "a: '" + "x\n" * 30000,
    )  # fmt: skip
    return rng.choice(whole).encode()


MUTATIONS: tuple[Callable[[str, random.Random], bytes], ...] = (_flip, _cut, _swap, _value, _value, _value, _key, _parsed, _parsed, _around)


def mutated(rng: random.Random) -> bytes:
    """A YAML that is not as it should be; some are still valid."""
    return rng.choice(MUTATIONS)(BASE, rng)


def faults_of(message: str) -> list[str]:
    """What is wrong with an error message as such."""
    found = [f"control character {char!r}" for char in message if char != "\n" and unicodedata.category(char) in errors._UNPRINTABLE]
    if re.search(r"([qtxz9])\1{80}", message):
        found.append("more than 80 characters of a value")
    return found + (["empty"] if not message.strip() else [])


def run(cases: int, seed: int, folder: Path) -> dict[str, int]:
    """Mutate and load; how many were taken and refused. AssertionError with the case that went wrong: a traceback, a bad message, or
    more than five seconds of the processor."""
    rng, counts = random.Random(seed), collections.Counter(taken=0, refused=0, over_one_cpu_second=0, tracebacks=0)
    path = folder / "c.yaml"
    # Importing the plugins it names takes seconds, once.
    path.write_text(BASE, encoding="utf-8")
    load_yaml_config(path)
    for number in range(cases):
        data = mutated(rng)
        path.write_bytes(data)
        started = time.process_time()
        try:
            load_yaml_config(path)
            counts["taken"] += 1
        except errors.UsageError as error:
            counts["refused"] += 1
            faults = faults_of(str(error))
            assert not faults, f"case {number} of seed {seed}: {faults}: {str(error)[:300]!r} of {data[:2000]!r}"
        except Exception as error:
            raise AssertionError(f"case {number} of seed {seed}: {type(error).__name__}: {error} of {data[:2000]!r}") from error
        seconds = time.process_time() - started
        counts["over_one_cpu_second"] += seconds > 1
        assert seconds < 5, f"case {number} of seed {seed}: {seconds:.1f} s"
    return dict(counts)


def run_commands(cases: int, seed: int, folder: Path) -> dict[str, int]:
    """Refused ones through the real command line: exit 2, lines, no traceback."""
    rng, counts = random.Random(seed), collections.Counter(tracebacks=0)
    path = folder / "c.yaml"
    while counts["refused"] < cases:
        path.write_bytes(mutated(rng))
        try:
            load_yaml_config(path)
            continue
        except errors.UsageError:
            command = [sys.executable, "-m", "usb_active", "check", str(path)]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
            lines = ended.stderr.splitlines()
            assert ended.returncode == 2 and lines and all(line.startswith("usb-active: error: ") for line in lines), (path, ended)
            counts["refused"] += 1
    return dict(counts)


def fuzz(folder: Path, cases: int, seed: int, real: int, say: Callable[[str], None]) -> dict[str, int]:
    """The large run: so many in this process, and `real` more through the command line. AssertionError with the first that went wrong."""
    counts = run(cases, seed, folder)
    say(f"{cases} in this process: {counts}")
    return {**counts, "refused by the command line": run_commands(real, seed + 1, folder)["refused"] if real else 0}
