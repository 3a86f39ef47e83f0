"""The table of docs/assl.md: ASSL, its ablations and the rules it is compared with, RandInit and ConInit, over five seeds.

    python benchmarks/assl_table.py --root runs/assl_table                       # digits; about 50 minutes of one CPU core
    python benchmarks/assl_table.py --root runs/assl_cifar --data CIFAR_FOLDER   # CIFAR-10 as train/<class>/*, test/<class>/*

The same command resumes where it stopped; with everything done it only writes the tables. All rules begin with the same
samples and the same weights for a seed, so the first column is one number, and differences are taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evidence import Cell, accuracies, paired, put, run_cells, table_parser, with_interval

from usb_active.report.tables import table

RULES: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "entropy": {"name": "entropy"},
    "margin": {"name": "margin"},
    "coreset": {"name": "coreset"},
    "badge": {"name": "badge"},
    "assl": {"name": "assl"},
    "assl, averages only (c = 0)": {"name": "assl", "c_u": 0.0, "c_i": 0.0},
    "assl, uncertainty only": {"name": "assl", "use": "uncertainty"},
    "assl, inconsistency only": {"name": "assl", "use": "inconsistency"},
    "assl_div": {"name": "assl_div"},
    "pseudo_el2n": {"name": "pseudo_el2n"},
}
STARTS = {"RandInit": False, "ConInit": True}
DIGITS = {"num_train_iter": 300, "num_eval_iter": 300, "num_log_iter": 300, "uratio": 2}


def cifar(data: Path) -> dict[str, Any]:
    """A setting that a CPU can pay: a small network on the images as they lie in the folder."""
    return {
        "dataset": "image_folder", "data_dir": str(data), "net": {"name": "small_cnn", "width": 32}, "img_size": 32,
        "num_train_iter": 500, "num_eval_iter": 500, "num_log_iter": 500, "uratio": 2,
        "active.initial": {"name": "random", "size": 100}, "active.budget": 100, "active.cycles": 3,
    }  # fmt: skip


def cells(rules: Sequence[str], starts: Sequence[str], seeds: int, setting: Mapping[str, Any]) -> list[Cell]:
    """All runs, seeds outermost: what is there when it is stopped early is a smaller table, not a part of one."""
    return [
        Cell((rule, start), "assl/digits", {**setting, "active.acquisition": RULES[rule], "active.warm_start": STARTS[start]}, seed)
        for seed in range(seeds)
        for rule in rules
        for start in starts
    ]


def tables(found: Sequence[Cell], root: Path, rules: Sequence[str], starts: Sequence[str]) -> str:
    """The Markdown tables of what was run."""
    parts = []
    for start in starts:
        curves = {rule: {cell.seed: accuracies(cell, root) for cell in found if cell.place == (rule, start)} for rule in rules}
        counts = sorted({count for seeds in curves.values() for curve in seeds.values() for count in curve})
        # Table 2 averages over the rounds; here without the first, which no rule has had a part in.
        means = {
            rule: {seed: sum(curve[count] for count in counts[1:]) / len(counts[1:]) for seed, curve in seeds.items()}
            for rule, seeds in curves.items()
        }
        rows = [
            [
                rule,
                *(with_interval(curve[count] for curve in curves[rule].values()) for count in counts),
                with_interval(means[rule].values()),
                with_interval(paired(means[rule], means.get("random", {})), sign=True) if rule != "random" else "",
            ]
            for rule in rules
        ]
        header = [start, *(f"{count} labels" for count in counts), f"mean of {counts[1]}–{counts[-1]}", "minus random"]
        parts.append(table(header, rows))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = table_parser(__doc__)
    parser.add_argument("--data", type=Path, help="a folder with train/<class> and test/<class>; by default digits")
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--starts", nargs="+", choices=list(STARTS), default=list(STARTS))
    args = parser.parse_args()
    found = cells(args.rules, args.starts, args.seeds, cifar(args.data.resolve()) if args.data else DIGITS)
    run_cells(found, args.root, args.workers)
    put(tables(found, args.root, args.rules, args.starts), args.out)


if __name__ == "__main__":
    main()
