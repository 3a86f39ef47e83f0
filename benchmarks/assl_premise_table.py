"""The table of ASSL's premise (Fig. 3b): how well the order of uncertainty at one moment of a training is kept at a later one.

    usb-active sweep assl_premise --jobs 2 --set data_dir=FOLDER
    python benchmarks/assl_premise_table.py --set data_dir=FOLDER

Spearman's correlation of the pseudo-EL2N of all unlabelled samples, by the EMA model on the plain view, between consecutive
observations and between the first and the last. The paper sees almost none 5,000 steps apart, in which its trainer visits a sample
45 times: what counts is the visits between two observations, not the steps. The first training of a seed, before any rule has
chosen, is the same under all rules, and has one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean

from evidence import Cell, by_place, finished_cells, put, rule_name, table_parser
from usb_active.plugins.assl.observations import Cycle, read_cycles

from usb_active.contracts.analysis import analysis_folder
from usb_active.report.tables import table
from usb_active.storage.run_dir import RunDir


def observed(cell: Cell) -> list[Cycle]:
    """What the analysis of a cell saw of each training."""
    analyses = [choice for choice in cell.config.active.analyses.values() if choice.name == "temporal_instability"]
    if len(analyses) != 1:
        raise SystemExit(f"expected `active.analysis` to be temporal_instability in {cell.name}; the table is for another study")
    return read_cycles(analysis_folder(cell.run_path), analyses[0].config.interval)


def with_range(values: Iterable[float | None], digits: int = 2) -> str:
    """`0.52 (0.48 to 0.55)`: the mean, and the least and the largest, over the seeds; – where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    least, largest = min(known), max(known)
    around = f" ({least:.{digits}f} to {largest:.{digits}f})" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{around}"


def premise_table(cells: Iterable[Cell]) -> str:
    """A row for each training and rule: the correlations, how often a sample was visited between two observations, and the accuracy.

    Raises:
        SystemExit: the cells were not observed after the same steps.
    """
    found = by_place(cells, lambda cell: rule_name(cell.place["active.acquisition"], {}))
    seen = {rule: {seed: observed(cell) for seed, cell in seeds.items()} for rule, seeds in found.items()}
    steps = {cycle.steps for seeds in seen.values() for cycles in seeds.values() for cycle in cycles}
    if len(steps) != 1 or len(next(iter(steps))) < 2:
        raise SystemExit(f"expected the same two or more observed steps in all trainings, got {sorted(steps)}")
    (steps,) = steps
    metrics = {rule: {seed: RunDir.read(cell.run_path).metrics() for seed, cell in seeds.items()} for rule, seeds in found.items()}
    trainings = range(min(len(cycles) for seeds in seen.values() for cycles in seeds.values()))
    shown = [(number, rule) for number in trainings for rule in (seen if number else list(seen)[:1])]
    (length,) = {cell.config.usb["num_train_iter"] for seeds in found.values() for cell in seeds.values()}
    rows = [_row(rule, number, seen[rule], metrics[rule], steps[0] / length) for number, rule in shown]
    pairs = [f"{before} and {after}" for before, after in zip(steps, steps[1:], strict=False)]
    return table(["labels, rule", *pairs, f"{steps[0]} and {steps[-1]}", "visits between two", "accuracy (%)"], rows) + "\n"


def _row(rule: str, number: int, seen: Mapping[int, list[Cycle]], metrics: Mapping[int, list[dict]], share: float) -> list[str]:
    """Of one training under a rule; `share`: of the training that lies between two observations."""
    cycles = [of_seed[number] for of_seed in seen.values()]
    lines = [of_seed[number] for of_seed in metrics.values()]
    visits = [cycle.watched["visits"].mean() * share for cycle in cycles if "visits" in cycle.watched]
    return [
        f"{lines[0]['num_labels']} labels" + (f", {rule}" if number else ""),
        *(with_range(cycle.correlations[place] for cycle in cycles) for place in range(len(cycles[0].correlations))),
        with_range(cycle.overall for cycle in cycles),
        f"{mean(visits):.1f}" if visits else "–",
        with_range((100 * line["accuracy"] for line in lines), 1),
    ]


def main() -> None:
    args = table_parser(__doc__, "assl_premise").parse_args()
    put(premise_table(finished_cells(args.study, args.overrides)), args.out)


if __name__ == "__main__":
    main()
