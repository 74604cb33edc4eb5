"""Examine the symmetries of a model: twenty predicates, a report with a table, a plot and JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equikern.errors import EquikernError

if TYPE_CHECKING:
    from equikern.testing.symmetry import Result, Subject

NEEDED = ("ase", "matplotlib")
INSTALL = "pip install 'equikern[demo]'"
HEADER = ("", "predicate", "verdict", "error", "allowed", "worst case, or why not")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "model",
        help="package.module:object, where the object is a Potential, an ASE calculator, predict(numbers, positions, "
        "cell=None), or what returns one of these; or a model of ours by name, small, with random weights",
    )
    parser.add_argument("--elements", nargs="+", default=["H", "C", "O"], help="of the systems it is shown (H C O)")
    parser.add_argument("--cutoff", type=float, help="radius of the interaction in angstrom, where it is not ours")
    parser.add_argument("--layers", type=int, help="layers of messages, where they are not known")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="precision that tolerances are for (its own)")
    parser.add_argument("--only", nargs="+", metavar="P", help="these predicates (all)")
    parser.add_argument("--must-fail", nargs="+", metavar="P", default=[], help="predicates that are to fail")
    parser.add_argument("--seed", type=int, default=0, help="of systems, rotations and the rest (0)")
    parser.add_argument("--output", type=Path, default=Path("certificate"), help="files .md, .png, .json (certificate)")


def run(arguments: argparse.Namespace) -> int:
    """0: as the symmetry says; 1: not so; 2: the model or a library is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"certify needs {', '.join(missing)}: {INSTALL}", file=sys.stderr)
        return 2
    from equikern.cli import clients, zoo
    from equikern.testing.symmetry import PREDICATES, examine

    try:
        unknown = sorted({*arguments.must_fail, *(arguments.only or ())} - set(PREDICATES))
        if unknown:
            raise EquikernError(f"There is no predicate {', '.join(unknown)}; there are {', '.join(PREDICATES)}.")
        subject = clients.find(arguments.model, _numbers(arguments.elements))
        subject = clients.adjusted(subject, arguments.cutoff, arguments.layers, arguments.dtype)
        print(f"{arguments.model}, {_dtype(subject)}\n")
        results = examine(subject, seed=arguments.seed, only=arguments.only, tick=lambda r: print(r, flush=True))
    except EquikernError as error:
        print(error, file=sys.stderr)
        return 2
    must_fail = dict.fromkeys(arguments.must_fail, "as announced")
    if arguments.model in zoo.ZOO:
        must_fail |= zoo.ZOO[arguments.model].must_fail
    wrong = [r.id for r in results if r.holds is (r.id in must_fail)]
    verdict = f"Not as the symmetry says: {', '.join(wrong)}." if wrong else "As the symmetry says."
    write(arguments.output, f"{arguments.model}, {_dtype(subject)}", verdict, results, must_fail)
    record = {
        "model": arguments.model, "dtype": _dtype(subject), "elements": list(subject.elements),
        "cutoff": subject.cutoff, "layers": subject.layers, "seed": arguments.seed, "must_fail": must_fail,
        "passed": not wrong, "results": [_finite(asdict(r)) for r in results],
    }  # fmt: skip
    Path(f"{arguments.output}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"\n{verdict}\nreport: {arguments.output}.md, .png, .json")
    return 1 if wrong else 0


def write(stem: Path, title: str, verdict: str, results: Sequence[Result], must_fail: Mapping[str, str]) -> None:
    """The report for readers: a table in stem.md and a plot in stem.png."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    rows = [row(r, must_fail) for r in results]
    Path(f"{stem}.md").write_text(f"# {title}\n\n{verdict}\n\n{markdown(rows)}\n")
    plot(results, title, Path(f"{stem}.png"))


def _numbers(symbols: Sequence[str]) -> list[int]:
    from ase.data import atomic_numbers

    unknown = [s for s in symbols if s not in atomic_numbers]
    if unknown:
        raise EquikernError(f"--elements: there is no element {', '.join(unknown)}; give symbols, as H C O.")
    return [atomic_numbers[s] for s in symbols]


def _dtype(subject: Subject) -> str:
    return str(subject.dtype).removeprefix("torch.")


def row(result: Result, must_fail: Mapping[str, str]) -> tuple[str, ...]:
    """A result under `HEADER`."""
    announced = result.id in must_fail
    verdict = {None: "does not apply", True: "holds", False: "**fails**"}[result.holds]
    if announced and result.holds is not None:
        verdict = "**holds, and must fail**" if result.holds else "fails, as it must"
    numbers = ("", "") if result.holds is None else (f"{result.error:.1e}", f"{result.tolerance:.1e}")
    where = f"{result.where} ({must_fail[result.id]})" if announced else result.where
    return (result.id, result.name, verdict, *numbers, where)


def markdown(rows: list[tuple[str, ...]], header: tuple[str, ...] = HEADER) -> str:
    """A table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: None in its place."""
    return {key: None if value == float("inf") else value for key, value in record.items()}


def plot(results: Sequence[Result], title: str, path: Path) -> None:
    """Error over tolerance, a bar for each predicate that applies; beyond the line at 1 it fails."""
    from matplotlib.figure import Figure

    shown = [r for r in results if r.holds is not None][::-1]
    figure = Figure(figsize=(7, 1 + 0.28 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    ratios = [min(max(r.error / r.tolerance if r.tolerance else 1e6, 1e-6), 1e6) for r in shown]
    names = [f"{r.name}  {r.id}" for r in shown]
    axes.barh(names, ratios, left=1e-7, color=["tab:blue" if r.holds else "tab:red" for r in shown])
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlim=(1e-7, 1e7), xlabel="error / tolerance", title=title)
    figure.savefig(path, dpi=150)
