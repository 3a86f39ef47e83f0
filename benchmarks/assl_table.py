"""The tables of docs/assl.md, from the finished cells of the study `assl` (or `assl_cifar`).

    usb-active sweep assl --jobs 2
    python benchmarks/assl_table.py

`usb-active report` of the study's folder has means and areas; here are the mean over the rounds that a rule had a part in, and its
difference from random's, seed by seed. All rules begin with the same samples and the same weights for a seed, so the first column is
one number.
"""

from __future__ import annotations

from collections.abc import Iterable

from evidence import Cell, accuracies, by_place, finished_cells, paired, put, rule_name, table_parser, with_interval

from usb_active.report.tables import table

STARTS = {False: "RandInit", True: "ConInit"}
# What of `assl` a value of `active.acquisition` leaves on.
PARTS = {"averages only (c = 0)": {"c_u": 0.0, "c_i": 0.0}} | {f"{part} only": {"use": part} for part in ("uncertainty", "inconsistency")}
# Rule → seed → number of labels → accuracy.
Curves = dict[str, dict[int, dict[int, float]]]


def place_name(cell: Cell) -> tuple[str, str]:
    """How the page calls a cell's start and rule."""
    return STARTS[cell.place["active.warm_start"]], rule_name(cell.place["active.acquisition"], PARTS)


def tables(cells: Iterable[Cell]) -> str:
    """The Markdown tables: one for each start."""
    found: dict[str, Curves] = {}
    for (start, rule), seeds in by_place(cells, place_name).items():
        found.setdefault(start, {})[rule] = {seed: accuracies(cell) for seed, cell in seeds.items()}
    order = [start for start in STARTS.values() if start in found]
    return "\n\n".join(start_table(start, found[start]) for start in order) + "\n"


def start_table(start: str, curves: Curves) -> str:
    """A row for each rule, a column for each number of labels."""
    counts = sorted({count for seeds in curves.values() for curve in seeds.values() for count in curve})
    # Table 2 averages over the rounds; here without the first, which no rule has had a part in.
    means = {
        rule: {seed: sum(curve[count] for count in counts[1:]) / len(counts[1:]) for seed, curve in seeds.items()}
        for rule, seeds in curves.items()
    }
    rows = [
        [
            rule,
            *(with_interval(curve[count] for curve in seeds.values()) for count in counts),
            with_interval(means[rule].values()),
            with_interval(paired(means[rule], means.get("random", {})), sign=True) if rule != "random" else "",
        ]
        for rule, seeds in curves.items()
    ]
    header = [start, *(f"{count} labels" for count in counts), f"mean of {counts[1]}–{counts[-1]}", "minus random"]
    return table(header, rows)


def main() -> None:
    args = table_parser(__doc__, "assl").parse_args()
    put(tables(finished_cells(args.study, args.overrides)), args.out)


if __name__ == "__main__":
    main()
