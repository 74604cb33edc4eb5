"""Symmetric contractions in CUDA C++ without a GPU: numbers from the same sources on the host, registers and spills."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from equikern import backends
from equikern.backends.cuda import symmetric as kernels
from equikern.backends.cuda import symmetric_source
from equikern.backends.cuda.launch import reals
from equikern.ops.symmetric_contraction import symmetric_contraction
from equikern.program.symmetric import symmetric
from equikern.testing import SYMMETRIC, assert_close, symmetric_derivatives, symmetric_inputs, tolerance

_spec = importlib.util.spec_from_file_location("host_cuda", Path(__file__).with_name("host_cuda.py"))
host_cuda = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(host_cuda)

on_host, needs_compiler = host_cuda.on_host, host_cuda.needs_compiler
needs_cuda_compiler = host_cuda.needs_cuda_compiler
W, Z, X = range(3)
FLOAT = reals(torch.float32)


def check(id, dtype, order):
    got = symmetric_derivatives(id, dtype, "cuda", order, dtype)
    expected = symmetric_derivatives(id, torch.float64, "reference", order, dtype)
    assert {g.dtype for g in got} == {dtype}
    assert_close(got, expected, tolerance(SYMMETRIC[id][0], dtype, order, max(SYMMETRIC[id][1], 1)))


@needs_compiler
@pytest.mark.parametrize("id", SYMMETRIC)
def test_orders_are_those_of_the_reference(on_host, id):
    check(id, torch.float64, 0 if id == "mace-128" else 2)


@needs_compiler
@pytest.mark.parametrize(("id", "order"), [("ir-mul", 1), ("odd", 2), ("many-nodes", 2), ("one-node", 3)])
def test_single_precision_is_that_of_the_reference(on_host, id, order):
    check(id, torch.float32, order)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize(("id", "order"), [("ir-mul", 1), ("to-channels", 2)])
def test_narrow_types_accumulate_in_float32(on_host, id, dtype, order):
    check(id, dtype, order)


@needs_compiler
def test_real_components_are_read_four_at_once(on_host):
    program = symmetric("2x0e+2x1o", "2x0e+2x1o", 2, layout_x="channels")
    assert "X_PACK = 4" in symmetric_source.node_source(program.text, (Z,), FLOAT)
    x, weight, species = torch.randn(9, 8), torch.randn(2, len(program.terms), 2), torch.arange(9) % 2
    shifted = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    with backends.backend("reference"):
        expected = symmetric_contraction(program, x, weight, species)
    with backends.backend("cuda"):
        assert_close(symmetric_contraction(program, x, weight, species), expected, 1e-6)
        assert_close(symmetric_contraction(program, shifted, weight, species), expected, 1e-6)


@needs_compiler
@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_a_species_out_of_range_gives_nan_and_no_fault(on_host, wrong):
    program, nodes = SYMMETRIC["many-nodes"]
    x, weight, species = symmetric_inputs("many-nodes", torch.float32)
    there = torch.arange(nodes) % 7 != 3
    species[~there] = wrong

    def run(x, species):
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        z = symmetric_contraction(program, *leaves, species)
        return z.detach(), *torch.autograd.grad(z.sum(), leaves)

    with backends.backend("cuda"):
        (z, dx, dw), expected = run(x, species), run(x[there], species[there])
    assert z[~there].isnan().all() and dx[~there].isnan().all()
    assert_close([z[there], dx[there], dw], list(expected), 1e-5)


@needs_compiler
def test_without_species_all_rows_are_nan(on_host):
    program = symmetric("2x0e", "2x0e", 2)
    with backends.backend("cuda"):
        z = symmetric_contraction(program, torch.randn(3, 2), torch.randn(0, 2, 2), torch.zeros(3, dtype=torch.int64))
    assert z.isnan().all()


def mace(entries):
    x = "128x0e+128x1o+128x2e+128x3o"
    return symmetric(x, "+".join(f"128x{entry}" for entry in entries), 3, layout_x="channels")


@needs_cuda_compiler
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("entries", [("0e",), ("0e", "1o")], ids=str)
def test_kernels_of_mace_compile_for_the_device_and_spill_nothing(entries, arch):
    for label, source in symmetric_source.sources(mace(entries).text, FLOAT).items():
        found = host_cuda.resources_of(source, arch)
        assert found.spilled == 0 and found.registers <= 144, f"{label} sm_{arch}: {found}"


@pytest.mark.parametrize(("device", "dtype"), [("cuda", torch.complex64), ("cpu", torch.float32)])
def test_what_it_has_no_kernel_for_is_named(device, dtype):
    assert kernels.supports(device, dtype) is not None


@needs_compiler
def test_tensors_on_a_device_go_to_the_kernels(on_host):
    assert backends.select_symmetric("cuda", torch.float32) == "cuda"
