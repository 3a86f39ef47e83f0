"""A table of SEMI's two forms and two weightings (docs/jlp.md), from the finished cells of the study `jlp_mnist`.

    usb-active sweep jlp_mnist --set data_dir=FOLDER
    python benchmarks/jlp_forms_table.py --set data_dir=FOLDER

A row for each form and weighting, with the accuracy at each number of labels, and two differences, taken seed by seed, of the mean over the
trainings after the first: from labels that count alike in the same form, and from the printed form with the same weighting. All rows have
the same labels. The last rows are cheap classifiers on them. The second table needs no training: label propagation alone over the graph of
the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evidence import CHEAP, Cell, above, accuracies, by_place, cheap, finished_cells, pool_of, put, table_parser, with_interval
from jlp_table import SHARES, propagation_table

from usb_active.report.tables import table

# By the graph, which the forms differ in; and by what counts alike.
FORMS = {"mutual": "as printed", "sum": "as the authors' code"}
ALIKE = {"label": "labels alike", "class": "classes alike"}
Place = tuple[str, str]


def place_of(cell: Cell) -> Place:
    """Form and weighting of a cell, as the page calls them.

    Raises:
        SystemExit: the cell is of another study.
    """
    if "lp_weighted_loss" not in cell.place:
        raise SystemExit(f"expected a form (lp_graph, lp_weighted_loss, …) in {cell.name}; the table is for another study")
    return FORMS[cell.place["lp_graph"]], ALIKE[cell.place["lp_weighting"]]


def forms_table(places: Mapping[Place, Mapping[int, Cell]]) -> str:
    """A row for each form and weighting, then the cheap classifiers on the labels of the first."""
    curves = {place: {seed: accuracies(cell) for seed, cell in seeds.items()} for place, seeds in places.items()}
    counts = list(next(iter(next(iter(curves.values())).values())))
    rows = []
    for place, seeds in curves.items():
        others = ((place[0], ALIKE["label"]), (FORMS["mutual"], place[1]))
        gains = [above(seeds, curves[other], counts[1:]) if other != place and other in curves else "" for other in others]
        shown = [with_interval(curve[count] for curve in seeds.values()) for count in counts]
        rows.append([", ".join(place), *shown, *gains, str(len(seeds))])
    simple = [cheap(cell) for cell in next(iter(places.values())).values()]
    for name, called in CHEAP.items():
        rows.append([called, *(with_interval(found[name][count] for found in simple) for count in counts), "", "", str(len(simple))])
    return table(["SEMI", *(f"{count} labels" for count in counts), "minus labels alike", "minus as printed", "seeds"], rows)


def tables(cells: Sequence[Cell]) -> str:
    """The Markdown of both."""
    pool = pool_of(cells[0])
    alone = [propagation_table(*pool, (*SHARES, (200, True))), propagation_table(*pool, ((200, False),), each=10)]
    # One table: the second without its header.
    propagated = "\n".join([alone[0], *alone[1].splitlines()[2:]])
    return f"{forms_table(by_place(cells, place_of))}\n\n{propagated}\n"


if __name__ == "__main__":
    arguments = table_parser(__doc__, "jlp_mnist").parse_args()
    put(tables(finished_cells(arguments.study, arguments.overrides)), arguments.out)
