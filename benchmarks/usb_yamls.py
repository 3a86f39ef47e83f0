"""What becomes of all YAMLs of USB's repository when an `active:` block is added to them: how many are accepted,
and why the others are not.

Run by hand: `python benchmarks/usb_yamls.py PATH/OF/A/CLONE/OF/USB`. Prints a Markdown table; what the files hold is counted and not
kept. Values and what varies with them are left out of a reason (`…`), so that files which are refused alike are counted together.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from usb_active.config.settings import config_from_dict
from usb_active.errors import UsageError
from usb_active.storage.yaml_input import read_yaml

# The number of initial labels is the file's own `num_labels`.
BLOCK = {"initial": {"name": "random"}, "acquisition": {"name": "margin"}, "cycles": 1, "budget": 10}
VARYING = (
    (re.compile(r"'[^']*'"), "'…'"),
    (re.compile(r" \([^()]*\)"), " (…)"),
    (re.compile(r", nor (is|are) [^;]+"), ", nor …"),
    (re.compile(r"; (did you mean|known:).*"), "; …"),
)


def outcome(path: Path) -> tuple[int, str]:
    """How many lines a file is refused with (0: it is accepted), and these lines without values; or what is dropped of it."""
    source = str(path)
    try:
        config = config_from_dict({**read_yaml(path), "active": BLOCK}, base=path.parent, source=source)
    except UsageError as error:
        lines = [reason(line, source) for line in str(error).splitlines()]
        return len(lines), "<br>".join(dict.fromkeys(lines))
    dropped = sorted({line.removeprefix(f"{source}: ").partition(":")[0] for line in config.warnings})
    return 0, f"accepted; dropped: {', '.join(dropped)}" if dropped else "accepted"


def reason(line: str, source: str) -> str:
    """A line of an error without the file's name and without values."""
    # A syntax error has the place instead of a key.
    text = re.sub(r"^, line .*?: ", "not valid YAML: ", line.removeprefix(source)).removeprefix(": ")
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return text


def main(argv: Sequence[str] | None = None) -> None:
    """The table on the standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="a clone of USB's repository; its folder `config` is read")
    files = sorted((parser.parse_args(argv).clone / "config").rglob("*.yaml"))
    if not files:
        sys.exit("no YAML below config/: is this a clone of USB's repository?")
    counts = Counter(outcome(path) for path in files)
    print("| files | lines | what is said |\n| ---: | ---: | :--- |")
    for (lines, what), count in sorted(counts.items(), key=lambda item: (item[0][0] > 0, -item[1], item[0])):
        cell = what.replace("|", r"\|").replace("_", r"\_").replace("*", r"\*")
        print(f"| {count:,} | {lines} | {cell} |")
    accepted = sum(count for (lines, _), count in counts.items() if not lines)
    many = sum(count for (lines, _), count in counts.items() if lines > 1)
    refused = len(files) - accepted
    print(f"\n{len(files):,} files: {accepted:,} are accepted, {refused:,} refused, {many:,} of these with more than one line.")


if __name__ == "__main__":
    main()
