"""The table of a benchmark run: python bench/report.py bench/out/bench.json [RESULTS.md]"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = """| case | edges | step | equikern, µs an edge: best (median) | share of FMA peak | {rivals} |
|---|---|---|---|---|{rules}|
"""


def median(values: list[float]) -> float:
    """Middle of a list."""
    return sorted(values)[len(values) // 2]


def row(bench: dict[str, Any], rivals: list[str]) -> str:
    """One line of the table."""
    info, stats = bench["extra_info"], bench["stats"]
    scale = 1e6 / info["edges"]
    share = info["flops"] / stats["min"] / info["peak"]
    cells = [info["case"], str(info["edges"]), info["step"]]
    cells += [f"{stats['min'] * scale:.2f} ({stats['median'] * scale:.2f})", f"{100 * share:.0f} %"]
    for name in rivals:
        times = info["rivals"].get(name)
        cells.append(
            "–"
            if not times
            else f"{min(times) * scale:.1f} ({median(times) * scale:.1f}) = **{min(times) / stats['min']:.1f}×**"
        )
    return "| " + " | ".join(cells) + " |"


def report(path: Path) -> str:
    """The table of a JSON file of pytest-benchmark, as markdown."""
    data = json.loads(path.read_text())
    benches = data["benchmarks"]
    if not benches:
        raise SystemExit(f"{path} holds no benchmark")
    rivals = list(dict.fromkeys(name for b in benches for name in b["extra_info"]["rivals"]))
    info, cpu = benches[0]["extra_info"], data["machine_info"].get("cpu", {})
    peaks = [b["extra_info"]["peak"] / 1e9 for b in benches]
    machine = [cpu.get("brand_raw", "unknown CPU"), f"target {info['target']}", f"{info['threads']} thread(s)"]
    machine += [info["dtype"], f"torch {info['torch']}", f"measured FMA peak {min(peaks):.0f}–{max(peaks):.0f} GFLOP/s"]
    lines = [
        ", ".join(machine) + ". Best (median) of 7 alternating runs; the ratio is of the best times.\n\n",
        HEAD.format(
            rivals=" | ".join(f"{name}: best (median) = ratio" for name in rivals),
            rules="---|" * (len(rivals) - 1) + "---",
        ),
        "\n".join(row(bench, rivals) for bench in benches) + "\n",
    ]
    return "".join(lines)


if __name__ == "__main__":
    table = report(Path(sys.argv[1]))
    print(table)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text("# Results\n\nMade by `make bench`.\n\n" + table)
