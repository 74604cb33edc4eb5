"""The benches' report: what a run did not time stays, rows that are atoms, and rows without counts or rivals."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the report draws plots")
BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("report")
    for name in ("report", "plots"):
        sys.modules.pop(name, None)


def bench(suite, seconds, **info):
    machine = {"threads": 1, "target": "avx2", "torch": "2.13.0", "dtype": "float32", "peak": 1e11, "bandwidth": 2e10}
    return {
        "name": "x", "fullname": f"bench/test_{suite}.py::x", "extra_info": machine | {"rivals": {}} | info,
        "stats": {"min": seconds, "median": 2 * seconds},
    }  # fmt: skip


def run(report, tmp_path, *benches):
    source = tmp_path / "bench.json"
    source.write_text(json.dumps({"benchmarks": list(benches), "machine_info": {"cpu": {"brand_raw": "a CPU"}}}))
    report.main(source, tmp_path / "RESULTS.md", tmp_path / "plots")
    return (tmp_path / "RESULTS.md").read_text()


def test_shares_and_ratios_are_those_of_the_best_times(report, tmp_path):
    row = bench(
        "product", 1e-3, case="a", edges=1000, step="f", flops=5e7, bytes=1e7, rivals={"e3nn": [4e-3, 6e-3, 5e-3]}
    )
    text = run(report, tmp_path, row)
    assert "| a | 1000 | f | 1 (2) | 50 % | 50 % | 4 (5) = **4×** |" in text and "a CPU, target avx2" in text


def test_a_later_run_replaces_the_rows_it_timed_and_no_others(report, tmp_path):
    first = bench("product", 1e-3, case="a", edges=1000, step="f")
    run(report, tmp_path, first, bench("product", 3e-3, case="b", edges=1000, step="f"), bench("other", 1e-3, case="c"))
    text = run(report, tmp_path, bench("product", 2e-3, case="a", edges=1000, step="f"))
    assert "| a | 1000 | f | 2 (4) |" in text and "| b | 1000 | f | 3 (6) |" in text and "## other-avx2\n" in text
    assert "| a | 1000 | f | 1 (2) |" not in text


def test_each_instruction_set_has_a_section(report, tmp_path):
    run(report, tmp_path, bench("product", 1e-3, case="a", edges=1000, step="f"))
    text = run(report, tmp_path, bench("product", 5e-4, case="a", edges=1000, step="f", target="avx512"))
    assert "| a | 1000 | f | 1 (2) |" in text and "## product-avx512\n" in text and "target avx512" in text


def test_sections_of_suites_that_were_never_run_here_stay(report, tmp_path):
    (tmp_path / "RESULTS.md").write_text(report.TITLE + "\n## elsewhere\n\nkept word for word\n")
    text = run(report, tmp_path, bench("product", 1e-3, case="a"))
    assert "## elsewhere\n\nkept word for word\n" in text and text.count("# Results") == 1


def test_rows_may_be_atoms_and_have_no_counts(report, tmp_path):
    text = run(
        report, tmp_path, bench("models", 1e-3, case="m", edges=10, step="md", unit="atom", skipped={"x": "absent"})
    )
    assert "µs an atom" in text and "| m | 10 | md | 100 (200) | – | – |" in text and "x was not timed: absent." in text


def test_memory_is_a_table_of_its_own(report, tmp_path):
    sizes = {"equikern": 2e6, "e3nn": 1e8}
    text = run(report, tmp_path, bench("memory", 1.0, case="m", edges=10, step="f", memory=sizes))
    assert "| m | 10 | f | 2 | 100 | 2 % |" in text and (tmp_path / "plots" / "memory-avx2-memory.svg").exists()
