"""What bench/tune_cuda.py does before it needs a device: its sweeps with a table are those of the reference."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch

from equikern.backends import reference
from equikern.backends.cuda import driver, nvrtc
from equikern.backends.cuda.launch import maker
from equikern.backends.gpu import launch
from equikern.backends.gpu.sweep import HB, HW, HX, HY, B
from equikern.nn import Convolution
from equikern.program import tabled
from equikern.program.program import W, X, Y, Z
from equikern.testing import assert_close, tolerance, uvu_paths

ROOT = Path(__file__).resolve().parents[2]
FORMS = ("forward", "backward", "double backward")


def host_cuda():
    spec = importlib.util.spec_from_file_location("host_cuda", ROOT / "tests" / "backends" / "host_cuda.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tune(monkeypatch):
    """The script, with a small layer for every case."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    script = importlib.import_module("tune_cuda")
    program = Convolution(*uvu_paths("64x0e+64x1o", "0e+1o", 1)).program
    monkeypatch.setattr(script.gpu, "program_of", lambda name: program)
    return script


@pytest.mark.parametrize("form", FORMS)
def test_a_sweep_with_a_table_is_that_of_the_reference(tune, monkeypatch, form):
    host = host_cuda()
    if host.COMPILER is None:
        pytest.skip("there is no C++ compiler; set CXX")
    given = {}
    run = launch.sweep

    def kept(make, base, operands, index, rows, **more):
        given.update(more, operands=operands, rows=rows)
        return run(make, base, operands, index, rows, **more)

    monkeypatch.setattr(driver, "start", host.start)
    monkeypatch.setattr(launch, "sweep", kept)
    job, load = tune.Job("mace-table", form), tune.gpu.Workload("mace", 60, "cpu")
    got = job.call(load, maker(torch.float32))()
    program, table = tabled(load.program, given["table"].offsets), given["table"]
    slots = [X, Y, W, B, Z, *((HX, HY, HW, HB) if job.second else ())]  # in the order of the table's program
    operands = [given["operands"][slot].double() for slot in slots]
    open = [slots.index(slot) for slot in given["rows"]]
    kinds = dict(zip(load.program.index_kinds, load.graph.index, strict=False)) | {"knot": table.knot}
    index = [kinds[kind] for kind in program.index_kinds]
    form = program.along((0, 1, 2, 3)) if job.second else program
    expected = reference.contract(form, operands, index, list(given["rows"].values()), open)
    assert_close(got, expected, tolerance(program, torch.float32, 2, tune.gpu.DEGREE))


@pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not found")
@pytest.mark.parametrize("form", FORMS)
def test_every_layout_with_a_table_compiles(tune, monkeypatch, tmp_path, form):
    monkeypatch.setenv("EQUIKERN_CACHE_DIR", str(tmp_path))
    job = tune.Job("mace-table", form)
    made = tune.Candidates(job, few=False)
    assert len(made.makes) > len(job.tunings) / 2  # they differ
    assert [said for make in made.makes.values() for s in job.sources(make) if (said := tune.compile(s, 90))] == []


def test_tables_have_a_ranking_of_their_own(tune):
    rows = [
        {"case": case, "form": "forward", "layout": layout, "ms": ms}
        for case, times in (("mace", (1.0, 2.0)), ("mace-table", (6.0, 3.0)))
        for layout, ms in zip(("a", "b"), times, strict=True)
    ]
    same = {(case, "forward"): {"a": "a", "b": "b"} for case in ("mace", "mace-table")}
    expected = {"forward": [(1.0, "a"), (2.0, "b")], "forward, table": [(1.0, "b"), (2.0, "a")]}
    assert tune.ranking(rows, same) == expected
