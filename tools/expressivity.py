"""What every model separates, as the table of `docs/expressivity.md`: `--write` puts it there, `--check` compares.

`--data pairs.json` adds pairs of a file of the same form.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from equikern.cli.certify import markdown
from equikern.cli.sight import SIGHT
from equikern.testing.expressivity import load, pairs

PAGE = Path(__file__).parents[1] / "docs" / "expressivity.md"
BEGIN, END = "<!-- table: python tools/expressivity.py --write -->\n", "<!-- end of table -->\n"


def table(data: Path | None, seeds: int) -> str:
    """A row a pair, a column a model, numbered."""
    shown = pairs() + ([] if data is None else load(data))
    columns = []
    for name, sight in SIGHT.items():
        print(name, file=sys.stderr)
        columns.append(["yes" if sight.separates(pair, seeds).separated else "." for pair in shown])
    key = "\n".join(f"{n}. {name}" for n, name in enumerate(SIGHT, 1))
    rows = [(pair.id.replace("_", " "), *seen) for pair, *seen in zip(shown, *columns, strict=True)]
    return f"{key}\n\n{markdown(rows, ('pair', *(str(n + 1) for n in range(len(columns)))))}\n"


def main() -> int:
    """0, or 1 where the page is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a file of further pairs")
    parser.add_argument("--seeds", type=int, default=4, help="random models tried before a pair counts as one (4)")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    parser.add_argument("--check", action="store_true", help="exit 1 if the page has another table")
    arguments = parser.parse_args()
    made, text = table(arguments.data, arguments.seeds), PAGE.read_text()
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    if arguments.write:
        PAGE.write_text(f"{text[:before]}\n{made}\n{text[after:]}")
    elif arguments.check:
        return int(text[before:after].strip() != made.strip())
    else:
        print(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
