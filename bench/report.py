"""Tables and plots of a benchmark run: python bench/report.py bench/out/bench.json bench/RESULTS.md bench/plots

A suite is a file of benches on one instruction set. Its rows are kept in bench/out/<suite>.json, where a later run
replaces those it timed anew; its section of RESULTS.md and its plots are made of them. Sections of suites that were
never run here stay.
The keys that a bench sets are in timing.py.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
IDENTITY = ("case", "edges", "step", "dtype", "threads")
TITLE = (
    "# Results\n\nMade by `make bench`, a section for each suite and instruction set, as old as its last run; "
    "[HACKING.md](../HACKING.md) says how to run one suite.\n"
)


def median(values: Iterable[float]) -> float:
    """Middle of some numbers."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def suite_of(bench: dict[str, Any]) -> str:
    """harmonics-avx2, for bench/test_harmonics.py on AVX2."""
    name = Path(bench["fullname"].split("::")[0]).stem.removeprefix("test_")
    return f"{name}-{bench['extra_info']['target']}"


def row_of(bench: dict[str, Any], machine: dict[str, Any]) -> Row:
    """What the report needs of one entry of pytest-benchmark's file."""
    info = {"case": bench["name"], "edges": 1, "step": "", "unit": "edge", "dtype": "float32", "rivals": {}}
    info |= bench["extra_info"]
    info["times"] = bench["stats"]["min"], bench["stats"]["median"]
    info["rivals"] = {name: (min(times), median(times)) for name, times in info["rivals"].items() if times}
    info["cpu"] = machine.get("cpu", {}).get("brand_raw", "unknown CPU")
    return info


def kept(path: Path, rows: list[Row]) -> list[Row]:
    """The rows of a suite's file with those of this run in place of their elders; written back."""
    before = json.loads(path.read_text()) if path.exists() else []
    merged = {tuple(row[key] for key in IDENTITY): row for row in [*before, *rows]}
    ordered = list(merged.values())
    path.write_text(json.dumps(ordered, indent=1))
    return ordered


def floor(row: Row) -> float | None:
    """Seconds that the arithmetic or the memory traffic takes at the measured rates, whichever is longer."""
    parts = [row[count] / row[rate] for count, rate in (("flops", "peak"), ("bytes", "bandwidth")) if row.get(count)]
    return max(parts) if parts else None


def percent(part: float | None, whole: float) -> str:
    """A share, an en dash where there is none."""
    return "–" if part is None else f"{100 * part / whole:.0f} %"


def digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def each(unit: str) -> str:
    """With its article."""
    return f"{'an' if unit[0] in 'aeiou' else 'a'} {unit}"


def table(rows: list[Row]) -> str:
    """Times a row, shares of what the machine can do, and the rivals' times."""
    units = {row["unit"] for row in rows}
    unit = units.pop() if len(units) == 1 else "row"
    small = max(row["times"][0] / row["edges"] for row in rows) < 1e-6
    scale, time_unit = (1e9, "ns") if small else (1e6, "µs")
    rivals = list(dict.fromkeys(name for row in rows for name in row["rivals"]))
    extras = list(dict.fromkeys(name for row in rows for name in row.get("extra", {})))
    varied = [key for key in ("dtype", "threads") if len({row[key] for row in rows}) > 1]
    head = [
        "case",
        f"{unit}s",
        "step",
        *varied,
        f"equikern, {time_unit} {each(unit)}: best (median)",
        "FMA peak",
        "roofline",
    ]
    head += [f"{name}: best (median) = ratio" for name in rivals] + extras
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        best, middle = row["times"]

        def cell(times: tuple[float, float], row: Row = row) -> str:
            return f"{digits(times[0] * scale / row['edges'])} ({digits(times[1] * scale / row['edges'])})"

        cells = [row["case"], str(row["edges"]), row["step"], *(str(row[key]) for key in varied), cell((best, middle))]
        cells += [percent(row["flops"] / row["peak"] if row.get("flops") else None, best), percent(floor(row), best)]
        for name in rivals:
            times = row["rivals"].get(name)
            cells.append(f"{cell(times)} = **{digits(times[0] / best)}×**" if times else "–")
        cells += [digits(row["extra"][name]) if name in row.get("extra", {}) else "–" for name in extras]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def memory_table(rows: list[Row]) -> str:
    """Peak memory of a step, ours as a share of each rival's."""
    names = list(dict.fromkeys(name for row in rows for name in row["memory"]))
    lines = ["| case | edges | step | " + " | ".join(f"{name}, MB" for name in names) + " | share |"]
    lines.append("|" + "---|" * (len(names) + 4))
    for row in rows:
        found = row["memory"]
        share = percent(found["equikern"], found["e3nn"]) if "e3nn" in found else "–"
        cells = [
            row["case"],
            str(row["edges"]),
            row["step"],
            *(digits(found[n] / 1e6) if n in found else "–" for n in names),
        ]
        lines.append("| " + " | ".join([*cells, share]) + " |")
    return "\n".join(lines) + "\n"


def section(suite: str, rows: list[Row], plots: list[str]) -> str:
    """A suite's part of RESULTS.md."""
    info = rows[-1]
    threads = "/".join(str(n) for n in sorted({row["threads"] for row in rows}))
    dtypes = ", ".join(sorted({row["dtype"] for row in rows}))
    peaks = [row["peak"] / row["threads"] / 1e9 for row in rows if row["dtype"] == info["dtype"]]
    rates = [row["bandwidth"] / 1e9 for row in rows if row.get("bandwidth") and row["threads"] == info["threads"]]
    machine = [info["cpu"], f"target {info['target']}", f"{threads} thread(s)", dtypes, f"torch {info['torch']}"]
    machine += [f"FMA peak of a core {min(peaks):.0f}–{max(peaks):.0f} GFLOP/s ({info['dtype']})"]
    if rates:
        machine += [f"memory {min(rates):.0f}–{max(rates):.0f} GB/s on {info['threads']} thread(s)"]
    text = (
        f"## {suite}\n\n{', '.join(machine)}. Best (median) of 7 or more runs that alternate; ratios are of the best.\n"
    )
    skipped = {f"{name} was not timed: {why}" for row in rows for name, why in row.get("skipped", {}).items()}
    text += "".join(f"\n{line}.\n" for line in sorted(skipped))
    timed, sized = [row for row in rows if "memory" not in row], [row for row in rows if "memory" in row]
    if timed:
        text += "\n" + table(timed)
    if sized:
        text += "\nPeak memory of a step beyond its inputs and the tensors it returns:\n\n" + memory_table(sized)
    return text + "".join(f"\n![{suite}: {Path(p).stem}](plots/{p})\n" for p in plots)


def sections(text: str) -> dict[str, str]:
    """The sections of a report, by suite."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0].removeprefix("## ").strip(): part.rstrip("\n") + "\n" for part in parts}


def main(source: Path, results: Path, plots: Path) -> None:
    """Merge a run into the kept rows, and write the sections and plots of its suites."""
    from plots import draw

    data = json.loads(source.read_text())
    if not data["benchmarks"]:
        raise SystemExit(f"{source} holds no benchmark")
    runs: dict[str, list[Row]] = {}
    for bench in data["benchmarks"]:
        runs.setdefault(suite_of(bench), []).append(row_of(bench, data["machine_info"]))
    found = sections(results.read_text()) if results.exists() else {}
    for suite, rows in runs.items():
        rows = kept(source.with_name(f"{suite}.json"), rows)
        found[suite] = section(suite, rows, draw(suite, rows, plots))
        print(found[suite])
    results.write_text(TITLE + "".join("\n" + found[suite] for suite in sorted(found)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
