"""The CUDA backend without a GPU: numbers from the same sources on the host, registers and spills from the compiler."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from equikern import backends
from equikern.backends import cuda
from equikern.backends.cuda import driver, nvrtc
from equikern.backends.cuda import harmonics as cuda_harmonics
from equikern.backends.cuda import launch as cuda_launch
from equikern.backends.cuda.launch import maker
from equikern.backends.cuda.layout import Tuning, tuned
from equikern.backends.gpu import launch
from equikern.errors import BackendError
from equikern.ops import evaluate, plan
from equikern.program import painn_message, schnet_message
from equikern.testing import SWEEPS, assert_close, derivatives, get, inputs, reference, run, tolerance

_spec = importlib.util.spec_from_file_location("host_cuda", Path(__file__).with_name("host_cuda.py"))
host_cuda = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(host_cuda)

PROGRAMS = {
    "mace": get("mace-conv").program,
    "nequip": get("nequip-conv").program,
    "sevennet": get("sevennet-conv").program,
    "painn": painn_message(128),
}
on_host, needs_compiler = host_cuda.on_host, host_cuda.needs_compiler
needs_cuda_compiler = host_cuda.needs_cuda_compiler
needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not found")


def check(case, dtype, order):
    got = derivatives(case.program, inputs(case, dtype), "cuda", order)
    assert {g.dtype for g in got.values()} == {dtype}
    assert_close(got, reference(case, dtype, order), tolerance(case.program, dtype, order, case.longest_sum), str(case))


@needs_compiler
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("id", SWEEPS)
def test_orders_are_those_of_the_reference(on_host, id, order):
    check(get(id), torch.float64, order)


@needs_compiler
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("id", ["mul-33", "schnet-64", "uuu-33", "uuu-shared"])
def test_single_precision_is_that_of_the_reference(on_host, id, order):
    check(get(id), torch.float32, order)


@needs_compiler
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("id", ["schnet-64", "shared-mixed", "uuu-shared"])
def test_narrow_types_accumulate_in_float32(on_host, id, dtype, order):
    case = get(id)
    got = derivatives(case.program, inputs(case, dtype), "cuda", order)
    allowed = tolerance(case.program, dtype, order, case.longest_sum) * 4**order  # rounded between the orders
    assert_close(got, reference(case, dtype, order), allowed, str(case))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_narrow_results_are_rounded_to_nearest(on_host, dtype):
    program = schnet_message(64)
    exact = [2.0**k * (1 + n / 2**11) for k in (-3, 0, 9) for n in range(-40, 41)] + [0.0, -0.0, 1e5, float("nan")]
    x = torch.tensor(exact + [1.0] * (256 - len(exact)), dtype=torch.float32).to(dtype).view(4, 64)
    factor = torch.tensor(1 + 5 / 2**7).to(dtype)
    ones = torch.ones(4, 1, dtype=dtype)
    index = [torch.arange(4), torch.arange(4)]
    given = [x, ones, factor.expand(4, 64).contiguous(), torch.empty(0)]
    (z,) = cuda.contract(program, given, index, [4], [3])
    assert torch.equal(z.nan_to_num(7), (x.float() * factor.float()).to(dtype).nan_to_num(7))


@needs_compiler
@pytest.mark.parametrize("warps", [1, 4])
@pytest.mark.parametrize("id", ["mul-33", "painn-128", "table-mul-5", "shared-mixed", "rows-edge", "uuu-ir-mul"])
def test_what_is_read_ahead_may_wait_in_the_memory_of_a_block(on_host, monkeypatch, id, warps):
    monkeypatch.setattr(cuda_launch, "tuned", lambda *given: tuned(*given)._replace(stages=3, warps=warps))
    launch.kernels.cache_clear()
    for order in (0, 1, 2):
        check(get(id), torch.float64, order)
    launch.kernels.cache_clear()


def operands(program, edges, nodes):
    """Every slot of a program drawn, and the index tensors with both plans."""
    rows = {"edge": edges, "sender": nodes, "receiver": nodes}
    drawn = [torch.randn(rows[slot.row], slot.dim, dtype=torch.float64) for slot in program.slots]
    sender, receiver = torch.randint(nodes, (2, edges))
    plans = [*plan(sender, receiver, nodes, nodes), *plan(receiver, sender, nodes, nodes)]
    return drawn, [sender, receiver, *plans], rows


def check_opening(program, open, edges=20, nodes=4):
    given, index, rows = operands(program, edges, nodes)
    counts = [rows[program.slots[s].row] for s in open]
    got = cuda.contract(program, given, index, counts, open)
    expected = backends.reference.contract(program, given, index[:2], counts, open)
    assert_close(got, expected, 1e-13)


@needs_compiler
@pytest.mark.parametrize("open", [[0], [1], [2], [0, 1, 2], [1, 3], [0, 1, 2, 3]], ids=str)
def test_slots_are_opened_together(on_host, open):
    check_opening(painn_message(64), open)


@needs_compiler
def test_the_double_backward_opens_all_slots(on_host):
    check_opening(painn_message(64).along([0, 1, 2]), [0, 1, 2, 3])


@needs_compiler
@pytest.mark.parametrize("id", ["mixed-weights", "uuu-receivers-z"])
def test_higher_orders_are_sums_of_sweeps(on_host, id):
    for open in ([0, 1, 2], [4, 5], [3]):
        check_opening(get(id).program.along([0, 1, 2]).along([0, 2, 5]), open)


@needs_compiler
def test_first_and_second_derivatives_are_those_of_finite_differences(on_host):
    program = painn_message(2)
    given, index, rows = operands(program, edges=3, nodes=2)
    x, y, w = (a.requires_grad_() for a in given[:3])

    def f(*leaves):
        with backends.backend("cuda"):
            return evaluate(program, leaves, index, rows["receiver"])

    assert torch.autograd.gradcheck(f, (x, y, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x, y, w), fast_mode=True)


@needs_compiler
@pytest.mark.parametrize("open", [(3,), (0, 1, 2), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("given", [Tuning(0, 255, 1, 0), Tuning(255, 255, 3, 1), Tuning(150, 128, 2, 2)], ids=str)
def test_rows_of_many_edges_are_summed_under_every_tuning(on_host, given, open):
    second = len(open) == 4
    base = painn_message(192)
    program = base.along([0, 1, 2]) if second else base
    tensors, index, rows = operands(program, edges=70, nodes=2)
    opened = {s: rows[program.slots[s].row] for s in open}
    got = launch.sweep(maker(torch.float64, given), base, tensors, index, opened, second=second)
    expected = backends.reference.contract(program, tensors, index[:2], list(opened.values()), list(open))
    assert_close(got, expected, 1e-13)


@needs_compiler
def test_a_view_that_begins_anywhere_gives_the_same(on_host):
    case = get("schnet-64")
    given = inputs(case, torch.float32)
    expected = run(case.program, given, "cuda")
    x, y, w = given.operands
    shifted = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    assert torch.equal(run(case.program, type(given)((shifted, y, w), given.index, given.rows), "cuda"), expected)


@needs_compiler
def test_a_row_of_x_that_is_not_there_gives_nan_and_no_fault(on_host):
    case = get("rows-sender-to-edge")
    given = inputs(case, torch.float32)
    given.index[0][1] = 10**9
    (z,) = cuda.contract(case.program, [*given.operands, torch.empty(0)], list(given.index), [case.edges], [3])
    assert z[1].isnan().all() and z[0].isfinite().all()


@needs_compiler
@pytest.mark.parametrize("spec", ["sh 0,1,2,3 component normalize", "sh 2,1,1 norm raw", "sh 5 integral normalize"])
def test_harmonics_and_their_derivatives_are_those_of_the_reference(on_host, spec):
    ours, theirs = cuda_harmonics, backends.harmonics["reference"]
    vec, h = torch.randn(2, 130, 3, dtype=torch.float64)
    vec[:2] = torch.tensor([[0.0] * 3, [1e-200, 2e-200, 0.0]])
    z = torch.randn_like(theirs.harmonics(spec, vec))
    assert_close(ours.harmonics(spec, vec), theirs.harmonics(spec, vec), 1e-14)
    assert_close(ours.harmonics_backward(spec, vec, z)[2:], theirs.harmonics_backward(spec, vec, z)[2:], 1e-14)
    got, expected = (b.harmonics_double_backward(spec, vec, z, h) for b in (ours, theirs))
    assert_close([a[2:] for a in got], [a[2:] for a in expected], 2e-14)
    assert not any(a[0].any() for a in got) or "raw" in spec


@pytest.fixture
def on_host_driver(monkeypatch):
    """The driver's calls are those of csrc/host/driver.cpp; what torch knows of its device is made up."""
    monkeypatch.setattr(driver, "_cuda", host_cuda.driver)
    monkeypatch.setattr(driver, "cubin", lambda source, arch: bytes(host_cuda.library(source)) + b"\0")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0x123456789ABC))
    driver._function.cache_clear()
    yield
    driver._function.cache_clear()


@needs_compiler
def test_the_driver_starts_kernels_also_on_a_thread_without_a_context(on_host_driver, monkeypatch):
    monkeypatch.setattr(cuda, "unavailable", lambda device, dtype: None)
    vec, spec = torch.randn(200, 3), "sh 0,1 norm raw"
    with ThreadPoolExecutor(1) as threads:
        found = [cuda_harmonics.harmonics(spec, vec), threads.submit(cuda_harmonics.harmonics, spec, vec).result()]
    assert torch.equal(*found)
    assert_close(found[0], backends.harmonics["reference"].harmonics(spec, vec), 1e-6)


@needs_compiler
def test_what_the_driver_refuses_is_said_in_its_words(on_host_driver):
    source = cuda_harmonics.source("sh 0,1 norm raw", 0, "float")
    with pytest.raises(BackendError, match="could not find abacus: named symbol not found"):
        driver.start(source, "abacus", (1, 1), 128, [0])
    with pytest.raises(BackendError, match="could not start harmonics_kernel: invalid argument"):
        driver.start(source, "harmonics_kernel", (0, 1), 128, [0] * 7)


def test_tensors_on_the_cpu_are_refused_by_name():
    case = get("mul-5")
    with pytest.raises(BackendError, match="operands are on cpu"):
        run(case.program, inputs(case), "cuda")


@pytest.mark.parametrize(
    ("id", "dtype", "reason"),
    [
        ("mul-5", torch.float8_e4m3fn, "float32 and float64"),
        ("mode-uvw", torch.float32, "mix or pair channels"),
        ("linear", torch.float32, "family"),
        ("rows-shared-y", torch.float32, "rows of y"),
        ("modes-mixed", torch.float32, "several kinds"),
        ("y-33", torch.float32, "too many"),
    ],
)
def test_what_it_has_no_kernel_for_is_named(monkeypatch, id, dtype, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "library", lambda: object())
    assert reason in cuda.supports(get(id).program, "cuda", dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_half_types_are_for_sweeps_alone(monkeypatch, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "library", lambda: object())
    assert cuda.supports(get("mul-5").program, "cuda", dtype) is None
    assert "float32 and float64" in cuda_harmonics.supports("cuda", dtype)


@needs_compiler
def test_cuda_tensors_go_to_it_first(on_host):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert backends.select(get("mul-5").program.text, "cuda", dtype) == "cuda"
    assert backends.select(get("mode-uvw").program.text, "cuda", torch.float32) == "matmul"


def test_where_cuda_or_its_compiler_is_missing_the_reason_is_said(monkeypatch):
    program = get("mul-5").program
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in cuda.supports(program, "cuda", torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "library", lambda: None)
    assert "NVRTC is not found" in cuda.supports(program, "cuda", torch.float32)


@needs_cuda_compiler
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_compile_for_the_device_and_spill_nothing(name, arch):
    for label, made in launch.steps(maker(torch.float32), PROGRAMS[name].text).items():
        found = host_cuda.resources_of(made.source, arch)
        assert found.spilled == 0, f"{name} {label} sm_{arch}: {found}"


@needs_cuda_compiler
def test_the_sum_and_the_harmonics_compile_for_the_device():
    backward = launch.steps(maker(torch.float64), PROGRAMS["mace"].text)["backward"]
    sources = [backward.sum_source] + [
        cuda_harmonics.source("sh 0,1,2,3 component normalize", n, "float") for n in range(3)
    ]
    assert all(host_cuda.resources_of(source, 90).spilled == 0 for source in sources)


@needs_nvrtc
def test_a_kernel_is_compiled_once_for_all_processes(tmp_path, monkeypatch):
    source = cuda_harmonics.source("sh 0,1 norm raw", 0, "float")
    monkeypatch.setenv("EQUIKERN_CACHE_DIR", str(tmp_path))
    made = nvrtc.cubin(source, 90)
    assert [file.suffix for file in tmp_path.iterdir()] == [".cubin"]
    monkeypatch.setattr(nvrtc, "compiled", lambda *a: pytest.fail("compiled again"))
    assert nvrtc.cubin(source, 90) == made and made.startswith(b"\x7fELF")


def test_the_source_says_what_it_is_made_of():
    source = launch.steps(maker(torch.float32), PROGRAMS["painn"].text)["forward"].source
    assert source.startswith(f"// {PROGRAMS['painn'].text}\n// opens z\n")
    assert "struct Path1 {  // 1 x 3 to 3" in source and "at(0, 2, C{3, T(1.0)});" in source
