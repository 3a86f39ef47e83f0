"""The tables of docs/faster.md on accuracy, from the finished cells of the studies `faster` and `faster_cifar`.

    usb-active sweep faster
    python benchmarks/faster_table.py
    usb-active sweep faster_cifar --set data_dir=FOLDER
    python benchmarks/faster_table.py faster_cifar --set data_dir=FOLDER

A row for each set of keys, with the accuracy at each number of labels, and two differences from the exact trainings, taken seed by seed: of
the last training, and of the mean over all. All rows have the same labels. The last rows are cheap classifiers on them.
"""

from __future__ import annotations

from collections.abc import Mapping

from evidence import CHEAP, Cell, above, accuracies, by_place, cheap, finished_cells, put, table_parser, with_interval

from usb_active.report.tables import table

EXACT = "exact"
# Keys of a study, and how the page calls them where they are not as by default.
KEYS = {
    "active.fast": "fast", "active.weak_no_grad": "weak_no_grad", "active.compile": "compile", "amp": "amp", "active.views": "vectorized",
}  # fmt: skip


def place_name(cell: Cell) -> str:
    """How the page calls a cell: by the keys that are not as by default."""
    return " and ".join(name for key, name in KEYS.items() if cell.place.get(key, False) not in (False, EXACT)) or EXACT


def option_table(places: Mapping[str, Mapping[int, Cell]]) -> str:
    """A row for each set of keys, then the cheap classifiers on the labels of the exact trainings."""
    curves = {name: {seed: accuracies(cell) for seed, cell in seeds.items()} for name, seeds in places.items()}
    exact = curves.get(EXACT, {})
    counts = list(next(iter(next(iter(curves.values())).values())))
    rows = []
    for name, seeds in curves.items():
        gains = ["" if name == EXACT else above(seeds, exact, which, digits=2) for which in (counts[-1:], counts)]
        rows.append([name, *(with_interval(curve[count] for curve in seeds.values()) for count in counts), *gains, str(len(seeds))])
    simple = [cheap(cell) for cell in places.get(EXACT, {}).values()]
    for name, called in CHEAP.items() if simple else ():
        rows.append([called, *(with_interval(found[name][count] for found in simple) for count in counts), "", "", str(len(simple))])
    about = [f"minus exact, {counts[-1]} labels", "minus exact, mean of all", "seeds"]
    return table(["keys", *(f"{count} labels" for count in counts), *about], rows)


if __name__ == "__main__":
    arguments = table_parser(__doc__, "faster").parse_args()
    put(option_table(by_place(finished_cells(arguments.study, arguments.overrides), place_name)), arguments.out)
