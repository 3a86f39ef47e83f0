"""Many altered inputs against the commands: how many end with a traceback, and how many are taken though they must not be.

    python benchmarks/fuzz.py runs --cases 1000
    python benchmarks/fuzz.py yaml --cases 2000
    python benchmarks/fuzz.py labels --cases 1000

A kind is a module in tests/ with `fuzz(folder, cases, seed, real, say)`, which returns the counts: the cases are given in this process,
and `real` more (of `runs`: of them) through the command line. The suite takes a few cases of each.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import tempfile
from pathlib import Path

# What is altered → the module in tests/ that does it.
KINDS = {"runs": "fuzz_runs", "yaml": "fuzz_yaml", "labels": "fuzz_labels"}


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=int, default=50, help="how many of them through the real command line")
    args = parser.parse_args()
    # As in the tests: one thread, no device that others use, no window.
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", MPLBACKEND="Agg")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    # Warnings go to the streams that a case captures.
    logging.getLogger("usb_active").propagate = False
    with tempfile.TemporaryDirectory() as folder:
        try:
            counts = importlib.import_module(KINDS[args.kind]).fuzz(Path(folder), args.cases, args.seed, args.real, _say)
        except AssertionError as error:
            print(error)
            return 1
    print(counts)
    return 0 if getattr(counts, "is_good", True) else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
