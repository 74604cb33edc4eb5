"""The matmul backend beyond conformance: it never waits for the device, sums half types in float32, refuses misfits."""

from __future__ import annotations

import pytest
import torch

from equikern import backends
from equikern.backends import by_edge, matmul, parts, segments, species_rows
from equikern.backends._channelwise import channelwise
from equikern.errors import ShapeError
from equikern.program import by_species, linear
from equikern.testing import CASES, NoWaits, assert_close, derivatives, get, inputs, reference, tolerance

PRODUCTS = [case for case in CASES if case.program.family == "product" and case.program.paths]
MIXED = [case for case in PRODUCTS if not channelwise(case.program.text)] + [c for c in CASES if "linear" in c.id]


def calls(case, device):
    """Arguments of `contract` of three orders, all of their slots opened."""
    given, program = inputs(case, torch.float32).on(device), case.program
    x = [torch.empty(0, device=device) if a is None else a for a in given.operands]
    index, inside = list(given.index), [n for n, a in enumerate(x) if a.ndim == 2]
    g = torch.randn(given.rows, program.dims[program.output], device=device)
    rows = [len(x[n]) for n in inside]
    tangents = [torch.randn_like(a) for a in x]
    second = program.along(range(program.output))
    return [
        (program, [*x, torch.empty(0, device=device)], index, [given.rows], [program.output]),
        (program, [*x, g], index, rows, inside),
        (second, [*x, g, *tangents], index, [*rows, given.rows], [*inside, program.output]),
    ]


@pytest.fixture(params=[0, 1000], ids=["tiles", "each"])
def device_alone(request, monkeypatch):
    """No kernels of the CPU's, and none of Triton's, which need a device; rows of species in tiles, and one by one."""
    monkeypatch.setattr(backends.cpu, "supports", lambda *_: "none")
    monkeypatch.setattr(species_rows, "FEW", request.param)


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_nothing_waits_for_the_device(case, device_alone):
    for arguments in calls(case, "cpu"):
        matmul.contract(*arguments)  # puts the symbols of its paths on the device
        with NoWaits():
            matmul.contract(*arguments)


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_results_off_the_cpu_are_new_rows_of_their_slots(case, device_alone):
    for program, operands, index, rows, open in calls(case, "meta"):
        found = matmul.contract(program, operands, index, rows, open)
        assert [a.shape for a in found] == [(n, program.dims[s]) for n, s in zip(rows, open, strict=True)]
        assert all(a.is_contiguous() and a.device.type == "meta" and a._base is None for a in found)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("id", ["linear-wide", "linear-species", "species-pseudo", "se3-8", "mode-uuw", "modes-ir-mul"])
def test_half_types_are_computed_in_float32_and_rounded_once(id, dtype, order):
    case = get(id)
    given = inputs(case, dtype)
    got = derivatives(case.program, given, "matmul", order)
    wide = derivatives(case.program, given.to(torch.float32), "matmul", order, draw=dtype)
    assert all(torch.equal(got[name], a.to(dtype)) for name, a in wide.items())


@pytest.mark.parametrize("id", ["uvw-awkward", "se3-8", "nodes-ir-mul"])
def test_both_stages_by_matrix_products_give_what_the_sweep_gives(id, monkeypatch):
    case = get(id)
    monkeypatch.setattr(backends.cpu, "supports", lambda *_: "none")
    got = derivatives(case.program, inputs(case), "matmul", 2)
    assert_close(got, reference(case, torch.float64, 2), tolerance(case.program, torch.float64, 2, case.longest_sum))


def test_what_has_a_kernel_in_a_product_of_several_kinds_is_swept():
    """Of too many channels of y, some at a time."""
    swept = {
        id: [sorted({program.paths[n].mode for n in part.numbers}) for part in parts.parts(program.text) if part.swept]
        for id, program in ((id, get(id).program) for id in ("modes-33", "y-33", "modes-mixed-rows", "uvw-awkward"))
    }
    kept, pairs = [["uvu"], ["uvv"], ["uuu"]], [["uuu"], ["uvu<v"], ["uvu<v"]]
    assert swept == {"modes-33": pairs, "y-33": [["uvu"]] * 3, "modes-mixed-rows": 2 * kept, "uvw-awkward": []}


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("turn", [False, True])
def test_a_segment_is_turned_alike_by_torch_and_by_the_kernel(turn, split, add):
    source, to = torch.randn(7, 20)[:, 2:17], torch.randn(7, 15)
    both = [to.clone(), to.clone()]
    for run, into in zip((segments.turn_segment, segments.turn_copy), both, strict=True):
        run((5, 3), source, into, turn=turn, split=split, add=add)
    assert torch.equal(*both) and not torch.equal(both[0], to)


@pytest.mark.parametrize("few", [0, 1000], ids=["tiles", "each"])
@pytest.mark.parametrize(
    "id",
    ["linear-species", "linear-species-16", "species", "species-ir-mul", "species-no-edges", "linear-species-no-rows"],
)
def test_maps_by_species_agree_with_the_reference_for_many_rows_and_few(id, few, monkeypatch):
    case = get(id)
    monkeypatch.setattr(species_rows, "FEW", few)
    got = derivatives(case.program, inputs(case), "matmul", 2)
    assert_close(got, reference(case, torch.float64, 2), tolerance(case.program, torch.float64, 2, case.longest_sum))


@pytest.mark.parametrize("counts", [[0, 70, 1], [33, 0, 0], [32, 32, 32], [1, 1, 1]])
def test_rows_in_tiles_are_of_one_species_and_come_back(counts):
    species = torch.arange(3).repeat_interleave(torch.tensor(counts))
    species = species[torch.randperm(len(species))]
    tiles = species_rows.Tiles(species, 3)
    rows = torch.stack([species + 1.0, torch.randn(len(species))], 1)
    gathered = tiles.gathered(rows).unflatten(0, (tiles.tiles, -1))
    there = gathered[:, :, 0] > 0
    assert torch.equal((tiles.species[:, None] + 1.0).expand_as(there)[there], gathered[:, :, 0][there])
    assert torch.equal(tiles.restored(gathered.flatten(0, 1)), rows)


def test_rows_are_summed_in_order_into_those_of_an_index():
    a, index = torch.randn(40, 3), torch.randint(5, (40,)) * 2
    expected = torch.zeros(11, 3).index_add_(0, index, a)
    assert torch.equal(by_edge.sum_in_order(a, index, 11), expected) and not expected[10].any()


def test_an_index_that_is_no_int64_vector_is_refused():
    program = by_species(linear("4x0e", "4x0e", [(0, 0, 1.0)]))
    operands = [torch.randn(5, 4), torch.randn(2, 16), torch.empty(0)]
    with pytest.raises(ShapeError, match="int64"):
        matmul.contract(program, operands, [torch.zeros(5, dtype=torch.int32)], [5], [2])
    case = get("uvw-awkward")
    given = inputs(case, torch.float32)
    with pytest.raises(ShapeError, match="length"):
        index = [given.index[0][:-1], given.index[1]]
        matmul.contract(case.program, [*given.operands, torch.empty(0)], index, [given.rows], [3])
