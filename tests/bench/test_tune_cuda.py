"""What bench/tune_cuda.py does before it needs a device: its sweeps are those of the reference."""

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
from equikern.program import SHARED, Rows, product, tabled
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
    elementwise = dict(zip(script.gpu.ELEMENTWISE, map(equal_channels, (False, True)), strict=True))
    monkeypatch.setattr(script.gpu, "program_of", lambda name: elementwise.get(name, program))
    return script


def equal_channels(weighted):
    """A small product by element, its weights shared."""
    x, y, z, paths = uvu_paths("128x0e+128x1o", "128x0e+128x1o", 1, mode="uuu")
    return product(x, y, z, [(*path[:4], weighted) for path in paths], rows=Rows(w=SHARED))


@pytest.fixture
def given(monkeypatch):
    """What the last sweep was given: operands, rows of what it opens, and its options; kernels run on the host."""
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
    return given


@pytest.mark.parametrize("form", FORMS)
def test_a_sweep_with_a_table_is_that_of_the_reference(tune, given, form):
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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["elementwise-128", "allegro-64"])
def test_a_sweep_of_equal_channels_is_that_of_the_reference(tune, given, case, form):
    job, load = tune.Job(case, form), tune.gpu.Workload(case, 60, "cpu")
    got = job.call(load, maker(torch.float32))()
    program = load.program.along((0, 1, 2)) if job.second else load.program
    operands = [a.double() for a in given["operands"]]
    operands += [torch.empty(0)] * (len(program.slots) - len(operands))  # of weights that are not there
    expected = reference.contract(program, operands, [], list(given["rows"].values()), list(given["rows"]))
    assert_close(got, expected, tolerance(load.program, torch.float32, 2, 60))


@pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not found")
@pytest.mark.parametrize("form", FORMS)
def test_every_layout_with_a_table_compiles(tune, monkeypatch, tmp_path, form):
    monkeypatch.setenv("EQUIKERN_CACHE_DIR", str(tmp_path))
    job = tune.Job("mace-table", form)
    made = tune.Candidates(job, few=False)
    assert len(made.makes) > len(job.tunings) / 2  # they differ
    assert [said for make in made.makes.values() for s in job.sources(make) if (said := tune.compile(s, 90))] == []


def test_each_kind_of_kernel_has_a_ranking_of_its_own(tune):
    rows = [
        {"case": case, "form": "forward", "layout": layout, "ms": ms}
        for case, times in (("mace", (1.0, 2.0)), ("mace-table", (6.0, 3.0)), ("allegro-64", (4.0, 2.0)))
        for layout, ms in zip(("a", "b"), times, strict=True)
    ]
    same = {(case, "forward"): {"a": "a", "b": "b"} for case in ("mace", "mace-table", "allegro-64")}
    found = tune.ranking(rows, same)
    assert found.pop("forward") == [(1.0, "a"), (2.0, "b")]
    assert found == {form: [(1.0, "b"), (2.0, "a")] for form in ("forward, table", "forward, element-wise")}
