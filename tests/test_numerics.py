"""One table of numerics, tested row by row; docs/numerics.md holds it, `python tests/test_numerics.py` prints it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from equikern import nn, o3
from equikern.backends import backend
from equikern.graph import Graph
from equikern.models import PaiNN, PaiNNConfig
from equikern.ops import radial, spherical_harmonics
from equikern.ops.radial_embedding import radial_embedding
from equikern.ops.segment import softmax
from equikern.testing import assert_close

N, E = 5, 12
IRREPS, PATHS = ("4x0e+4x1o", "0e+1o", "4x0e+4x1o"), [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True)]
HALF = (torch.bfloat16, torch.float16)
SINGLE = 8 * torch.finfo(torch.float32).eps * sqrt(100) * 4**2  # as `testing.tolerance`: sums of 100, second order


RADIAL = (
    radial.cosine_cutoff,
    radial.polynomial_cutoff,
    lambda r, r_max: radial.deepmd_switch(r, 1.0, r_max),
    *(partial(f, n=4) for f in (radial.bessel, radial.gaussian, radial.exp_normal)),
    lambda r, r_max: radial.spherical_bessel(r, 2, 2, r_max),
)


class Structure:
    """A graph and species on a device."""

    def __init__(self, device: str) -> None:
        self.edges = torch.randint(N, (2, E), generator=torch.Generator().manual_seed(0)).to(device)
        self.graph, self.species = Graph(self.edges, N), torch.tensor([0, 1, 1, 0, 1], device=device)


class Kind(NamedTuple):
    """What a kind of op does: the columns of the table, each of which a test holds it to."""

    half: str  # how float16 and bfloat16 are computed
    autocast: str  # the dtype of results of float32 operands under autocast, and of half ones
    tf32: str  # what torch.set_float32_matmul_precision changes


OURS = Kind("in float32, rounded once", "float32", "nothing")
PRODUCTS = Kind("in float32, rounded once", "float32", "matrix products on a GPU")
TWICE = PRODUCTS._replace(half="in float32, rounded after each of two products")
NETWORK = Kind("its network as torch does, else in float32", "float32", "its network")
TORCH = Kind("as torch does", "half", "matrix products")


class Row(NamedTuple):
    """An op: its kind, and a call of (module, structure, tensors) with the shapes of the tensors."""

    kind: Kind
    module: Callable[[], torch.nn.Module]
    call: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    orders: int = 2  # of derivative that are looked at
    results: Callable[[Any], list[torch.Tensor]] = lambda found: [found]


def network():
    return torch.nn.Sequential(torch.nn.Unflatten(0, (-1, 1)), nn.MLP((1, 4, 8), gain=1.0))


def painn():
    return PaiNN(PaiNNConfig(layers=2, channels=8, hidden=4, num_species=2))


ROWS = {
    "`nn.Convolution`": Row(
        OURS,
        lambda: nn.Convolution(*IRREPS, PATHS),
        lambda m, s, x, y, w: m(x, y, w, s.edges, s.graph),
        ((N, 16), (E, 4), (E, 8)),
    ),
    "`nn.RadialConvolution`, without a table": Row(
        NETWORK,
        lambda: nn.RadialConvolution(*IRREPS, PATHS, radial=network(), r_max=5.0, table=False),
        lambda m, s, x, v: m(x, v, s.edges, graph=s.graph),
        ((N, 16), (E, 3)),
    ),
    "`nn.SchNetMessage`": Row(
        OURS, lambda: nn.SchNetMessage(8), lambda m, s, h, f: m(h, f, s.edges, s.graph), ((N, 8), (E, 8))
    ),
    "`ops.spherical_harmonics`": Row(
        OURS, torch.nn.Identity, lambda m, s, v: spherical_harmonics([0, 1, 2], v, True, "component"), ((E, 3),)
    ),
    "`ops.radial`: bases, cutoffs": Row(
        OURS,
        torch.nn.Identity,
        lambda m, s, r: [f(r, r_max=5.0) for f in RADIAL],
        ((E,),),
        results=list,
    ),
    "`ops.radial_embedding`": Row(OURS, torch.nn.Identity, lambda m, s, r: radial_embedding(r, 4, 5.0), ((E,),)),
    "`nn.SymmetricContraction`": Row(
        PRODUCTS,
        lambda: nn.SymmetricContraction("4x0e+4x1o", "4x0e", correlation=2, num_species=2),
        lambda m, s, x: m(x, s.species),
        ((N, 16),),
    ),
    "`nn.Gate`": Row(
        OURS, lambda: nn.Gate("4x0e", [torch.tanh], "4x0e", [torch.sigmoid], "4x1o"), lambda m, s, x: m(x), ((N, 20),)
    ),
    "`ops.segment.softmax`": Row(OURS, torch.nn.Identity, lambda m, s, a: softmax(a, s.edges[1], N), ((E, 2),)),
    "PaiNN as one op (`energies_and_gradients`)": Row(
        PRODUCTS, painn, lambda m, s, v: m.energies_and_gradients(s.species, v, s.edges, s.graph), ((E, 3),), 1, list
    ),
    "`o3.Linear`": Row(PRODUCTS, lambda: o3.Linear("4x0e+4x1o", "3x0e+2x1o"), lambda m, s, x: m(x), ((N, 16),)),
    "`nn.SpeciesLinear`": Row(
        PRODUCTS, lambda: nn.SpeciesLinear("4x0e+4x1o", "3x0e+2x1o", 2), lambda m, s, x: m(x, s.species), ((N, 16),)
    ),
    "`o3.FullyConnectedTensorProduct`": Row(
        PRODUCTS,
        lambda: o3.FullyConnectedTensorProduct(*IRREPS),
        lambda m, s, x, y: m(x, y),
        ((E, 16), (E, 4)),
    ),
    "`nn.MixedConvolution`": Row(
        TWICE,
        lambda: nn.MixedConvolution(*IRREPS, 3),
        lambda m, s, x, y, h, w: m(x, y, h, w, s.edges, s.graph),
        ((N, 16), (E, 4), (E, 3), (3, nn.MixedConvolution(*IRREPS, 3).weight_numel)),
    ),
    "`nn.MLP`, radial networks": Row(TORCH, lambda: nn.MLP((4, 8, 4), gain=1.0), lambda m, s, x: m(x), ((N, 4),)),
}
# Programs that have matrix products for every device.
MATMUL = [
    "`nn.Convolution`",
    "`o3.Linear`",
    "`nn.SpeciesLinear`",
    "`o3.FullyConnectedTensorProduct`",
    "`nn.MixedConvolution`",
]
OUR_ROWS = [name for name, row in ROWS.items() if row.kind not in (NETWORK, TORCH)]


EVERYWHERE = [
    *((chosen, name) for chosen in ("auto", "reference") for name in ROWS),
    *(("matmul", name) for name in MATMUL),
]


def table() -> str:
    """What the tests below hold the ops to, as markdown."""
    lines = [
        "| op | float64 | float32 | float16, bfloat16 | under autocast | TF32 changes | the same bits twice |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {name} | float64 | float32 | {' | '.join(row.kind)} | yes |" for name, row in ROWS.items()]
    return "\n".join(lines) + "\n"


structure = cache(Structure)


def run(
    name: str,
    dtype: torch.dtype,
    *,
    like: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
    device: str = "cpu",
):
    """Results, then gradients and gradients of gradients by the operands, of values that `like` can hold."""
    row = ROWS[name]
    torch.manual_seed(0)
    made = row.module().to(like or dtype).to(device, dtype)
    drawn = [torch.randn(shape).abs().to(like or dtype) for shape in row.shapes]
    tensors = [t.to(device, dtype).requires_grad_() for t in drawn]
    with torch.autocast(device, autocast or torch.bfloat16, enabled=autocast is not None):
        results = row.results(row.call(made, structure(device), *tensors))
        value = sum(z.float().sin().sum() for z in results)
        first = torch.autograd.grad(value, tensors, create_graph=row.orders > 1)
        if row.orders > 1:
            second = torch.autograd.grad(sum(g.float().sin().sum() for g in first), tensors)
    return results, [*first, *(second if row.orders > 1 else ())]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF], ids=str)
def test_results_and_gradients_have_the_dtype_of_the_operands(name, dtype):
    with backend("reference"):
        results, gradients = run(name, dtype)
    assert {t.dtype for t in (*results, *gradients)} == {dtype}


@pytest.mark.parametrize(("chosen", "name"), EVERYWHERE)
def test_single_precision_is_double_precision_rounded(name, chosen):
    with backend(chosen):
        got, expected = run(name, torch.float32), run(name, torch.float64, like=torch.float32)
    a, b = (torch.cat([t.flatten().double() for t in (*found[0], *found[1])]) for found in (got, expected))
    assert_close(a, b, SINGLE)


@pytest.mark.parametrize("name", [name for name in OUR_ROWS if ROWS[name].kind.half == OURS.half])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_types_are_computed_in_single_precision_and_rounded_once(name, dtype):
    for chosen in ["reference"] + ["matmul"] * (name in MATMUL):
        with backend(chosen):
            got, expected = run(name, dtype)[0], run(name, torch.float32, like=dtype)[0]
        assert same(got, [z.to(dtype) for z in expected]), chosen


@pytest.mark.parametrize(("chosen", "name"), [pair for pair in EVERYWHERE if pair[1] in OUR_ROWS])
def test_autocast_changes_nothing(name, chosen):
    with backend(chosen):
        got, expected = run(name, torch.float32, autocast=torch.bfloat16), run(name, torch.float32)
    assert same(got[0], expected[0]) and {t.dtype for t in (*got[0], *got[1])} == {torch.float32}
    # Without a kernel PaiNN is torch's linear layers, whose backward pass is under autocast too.
    assert same(got[1], expected[1]) or (chosen == "reference" and name.startswith("PaiNN"))


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.kind is not TORCH])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_under_autocast_half_operands_give_single_precision_and_gradients_of_their_own_dtype(name, dtype):
    results, gradients = run(name, dtype, autocast=dtype)
    assert {z.dtype for z in results} == {torch.float32} and {g.dtype for g in gradients} == {dtype}


def test_under_autocast_what_networks_give_in_half_meets_single_precision():
    row, s = ROWS["`nn.Convolution`"], structure("cpu")
    convolution, (x, y, w) = row.module(), (torch.randn(shape) for shape in row.shapes)
    with torch.autocast("cpu", torch.bfloat16):
        z = row.call(convolution, s, x, y.bfloat16(), w.half())
    assert z.dtype == torch.float32
    assert torch.equal(z, row.call(convolution, s, x, y.bfloat16().float(), w.half().float()))


def test_networks_follow_torch_under_autocast():
    results, gradients = run("`nn.MLP`, radial networks", torch.float32, autocast=torch.bfloat16)
    assert results[0].dtype == torch.bfloat16 and {g.dtype for g in gradients} == {torch.float32}


@pytest.mark.parametrize("name", [name for name in OUR_ROWS if ROWS[name].kind is OURS])
def test_matmul_precision_changes_nothing(name):
    expected = run(name, torch.float32)
    torch.set_float32_matmul_precision("medium")
    try:
        got = run(name, torch.float32)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert same(got[0], expected[0]) and same(got[1], expected[1])


@pytest.mark.parametrize(("chosen", "name"), EVERYWHERE)
def test_a_call_gives_the_same_bits_twice(name, chosen):
    with backend(chosen):
        one, two = run(name, torch.float32), run(name, torch.float32)
    assert same(one[0], two[0]) and same(one[1], two[1])


def test_the_docs_hold_this_table():
    assert table() in (Path(__file__).resolve().parents[1] / "docs" / "numerics.md").read_text()


if __name__ == "__main__":
    print(table(), end="")
