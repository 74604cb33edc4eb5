"""Programs: what is refused and in which words, what they cost, what they read."""

from __future__ import annotations

import pytest

from equikern.errors import EquikernError, ProgramError
from equikern.program import CONVOLUTION, Irreps, Operand, Path, Program, Rows, linear, parse, product, product_of_paths
from equikern.testing import CASES, LAYERS, get

XYZ = ("2x0e+2x1o", "0e+1o", "2x0e+2x1o")
GOOD = (0, 1, 1, "uvu", True)


def refuse(message, *instructions, irreps=XYZ, **options):
    with pytest.raises(ProgramError, match=message):
        product(*irreps, instructions, **options)


def test_every_error_is_one_of_ours_and_a_value_error():
    assert issubclass(ProgramError, EquikernError) and issubclass(EquikernError, ValueError)


@pytest.mark.parametrize("mode", ["uvx", "", "UVU", "vuu"])
def test_unknown_mode_is_refused(mode):
    refuse("unknown mode", (0, 0, 0, mode, True))


@pytest.mark.parametrize(
    "instruction", [(0, 2, 0, "uvu", True), (2, 0, 0, "uvu", True), (0, 0, 2, "uvu", True), (-1, 0, 0, "uvu", True)]
)
def test_a_segment_out_of_range_is_refused(instruction):
    refuse("segment", instruction)


@pytest.mark.parametrize("instruction", [(0, 0, 1, "uvu", True), (1, 1, 1, "uvu", True), (0, 1, 0, "uvu", True)])
def test_a_path_that_breaks_parity_or_triangle_is_refused(instruction):
    refuse("is not in", instruction)


def test_parity_is_checked_apart_from_degree():
    refuse("1e is not in 0e x 1o", (0, 0, 0, "uvu", True), irreps=("0e", "1o", "1e"))


@pytest.mark.parametrize("mode, out", [("uvu", 3), ("uvv", 2), ("uuu", 3), ("uvuv", 5), ("uvu<v", 2)])
def test_a_wrong_multiplicity_of_the_output_is_refused(mode, out):
    m2 = 2 if mode in ("uuu", "uvu<v") else 3
    refuse("gives multiplicity", (0, 0, 0, mode, True), irreps=("2x0e", f"{m2}x0e", f"{out}x0e"))


@pytest.mark.parametrize("mode", ["uuw", "uuu", "uvu<v", "u<vw"])
def test_modes_that_pair_channels_need_equal_multiplicities(mode):
    refuse("needs equal multiplicities", (0, 0, 0, mode, True), irreps=("2x0e", "3x0e", "2x0e"))


@pytest.mark.parametrize("mode", ["uvw", "u<vw"])
def test_modes_that_mix_channels_need_weights(mode):
    refuse("needs has_weight=True", (0, 0, 0, mode, False), irreps=("2x0e", "2x0e", "2x0e"))


@pytest.mark.parametrize("instruction", [(0, 0, 0, "uvu"), (0, 0, 0, "uvu", True, 1.0, 2.0)])
def test_an_instruction_has_five_or_six_entries(instruction):
    refuse("it needs", instruction)


def test_a_negative_path_weight_is_refused():
    refuse("cannot be negative", (*GOOD, -1.0))


@pytest.mark.parametrize("option, value", [("irrep_normalization", "norms"), ("path_normalization", None)])
def test_unknown_normalisation_is_refused(option, value):
    refuse(option, GOOD, **{option: value})


@pytest.mark.parametrize("option", ["in1_var", "in2_var", "out_var"])
def test_a_variance_list_of_the_wrong_length_is_refused(option):
    refuse(f"{option} has 1 entries", GOOD, **{option: [1.0]})


def test_unknown_layout_is_refused():
    refuse("unknown layout", GOOD, layout="ir")


def test_a_row_kind_is_a_name():
    refuse("a row kind is a name", GOOD, rows=Rows(x="the sender"))


def test_a_linear_path_keeps_the_irrep():
    with pytest.raises(ProgramError, match="must be the same irrep"):
        linear("2x0e", "2x1o", [(0, 0, 1.0)])


def operands(**changes):
    base = {"x": Irreps("2x0e"), "y": Irreps("0e"), "w": 2, "z": Irreps("2x0e")} | changes
    return tuple(Operand(name, "edge", irreps) for name, irreps in base.items())


PATH = (Path(0, 0, 0, "uvu", 1.0),)


@pytest.mark.parametrize("width", [1, 3])
def test_a_wrong_width_of_the_weights_is_refused(width):
    with pytest.raises(ProgramError, match="the paths read 2 weights"):
        Program("product", "mul_ir", operands(w=width), PATH)


def test_unknown_family_is_refused():
    with pytest.raises(ProgramError, match="unknown family"):
        Program("produkt", "mul_ir", operands(), PATH)


def test_operands_of_another_family_are_refused():
    with pytest.raises(ProgramError, match="has operands"):
        Program("linear", "mul_ir", operands(), PATH)


def test_weights_have_a_width_and_features_have_irreps():
    with pytest.raises(ProgramError, match="flat width"):
        Program("product", "mul_ir", operands(y=1), PATH)


def test_paths_with_a_final_scale_are_checked_too():
    with pytest.raises(ProgramError, match="unknown mode"):
        product_of_paths(*XYZ, [Path(0, 0, 0, "uvx", 1.0)])


@pytest.mark.parametrize("slots", [(), (4,), (-1,)])
def test_along_takes_slots_of_the_program(slots):
    with pytest.raises(ProgramError, match="along takes slots"):
        product(*XYZ, [GOOD]).along(slots)


TEXT = str(product(*XYZ, [GOOD]))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is no program"),
        ("x", "is no program"),
        (TEXT.replace("eqk1", "eqk2"), "version"),
        (TEXT.replace("product", "prod"), "unknown family"),
        (TEXT.replace("x[edge]", "x(edge)"), "cannot read the operand"),
        (TEXT.replace("2x0e", "2y0e"), "cannot read"),
        (TEXT.replace("uvu", "uvu uvu"), "cannot read the path"),
        (TEXT.replace("0 1 1", "0 1"), "cannot read the path"),
        (TEXT + " free", "cannot read the path"),
        (TEXT.replace("w[edge] 2", "w[edge] 3"), "the paths read 2 weights"),
    ],
)
def test_text_that_is_no_program_is_refused(text, message):
    with pytest.raises(ProgramError, match=message):
        parse(text)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_text_reads_back_as_the_program(case):
    assert parse(str(case.program)) == case.program


def test_text_is_that_of_the_documentation():
    program = product("8x0e", "0e+1o", "8x0e", [(0, 0, 0, "uvu", True)], rows=CONVOLUTION)
    assert (
        str(program)
        == "eqk1 product mul_ir: x[sender] 8x0e | y[edge] 1x0e+1x1o | w[edge] 8 | z[receiver] 8x0e : 0 0 0 uvu 1.0"
    )


def test_weights_lie_in_the_order_of_the_paths_and_unweighted_ones_take_none():
    assert [s.stop - s.start for s in get("mixed-weights").program.weight_slices] == [5, 0, 5, 0, 5]


# --- what it costs


def test_mace_conv_is_what_the_baselines_define():
    program = get("mace-conv").program
    assert (len(program.paths), program.dims[2], program.dims[3]) == (10, 1280, 5120)


def test_mace_conv_takes_102_fused_multiply_adds_a_channel_forward():
    # 110 with the zeros off the diagonal of 1o x 0e -> 1o
    assert get("mace-conv").program.flops(1) == 2 * 128 * (110 - 12 + 4)


def test_mace_conv_takes_224_fused_multiply_adds_a_channel_backward():
    assert get("mace-conv").program.flops(1, open=[0, 1, 2]) == 2 * 128 * (242 - 27 + 9)


def test_a_scalar_path_costs_as_much_by_either_count():
    program = product("8x0e", "0e", "8x0e", [(0, 0, 0, "uvu", True)], rows=CONVOLUTION)
    assert (program.flops(1), program.flops(1, open=[0, 1, 2])) == (2 * 8 * 2, 2 * 8 * 5)


def test_flops_grow_with_the_edges():
    program = get("nequip-conv").program
    assert program.flops(100) == 100 * program.flops(1)


def test_a_gradient_nobody_asked_for_costs_nothing():
    program = get("mace-conv").program
    costs = [program.flops(1, open=slots) for slots in ([0], [0, 2], [0, 1, 2])]
    assert costs == sorted(costs) and len(set(costs)) == 3


def test_bytes_count_each_row_once():
    program = product("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)], rows=CONVOLUTION)
    rows = {"edge": 10, "sender": 3, "receiver": 5}
    assert program.bytes(rows, 4) == 4 * (3 * 4 + 10 * 1 + 10 * 4 + 5 * 4)


def test_bytes_of_a_slot_that_is_read_and_opened_count_both():
    program = product("4x0e", "0e", "4x0e", [(0, 0, 0, "uvu", True)], rows=CONVOLUTION)
    rows = {"edge": 10, "sender": 3, "receiver": 5}
    assert program.bytes(rows, 4, [0, 2]) == 4 * (2 * 3 * 4 + 10 * 1 + 2 * 10 * 4 + 5 * 4)


@pytest.mark.parametrize("name", LAYERS)
def test_depth_grows_with_the_degree(name):
    program = get(name).program
    assert program.depth(30) == 30 * program.depth() > 0


# --- what it reads


def test_opening_the_output_reads_all_inputs():
    assert get("mace-conv").program.reads([3]) == {0, 1, 2}


def test_opening_the_harmonics_does_not_read_them():
    assert get("mace-conv").program.reads([1]) == {0, 2, 3}


def test_unweighted_programs_do_not_read_weights():
    assert get("unweighted").program.reads([3]) == {0, 1}


def test_every_term_reads_each_slot_once_where_all_paths_are_weighted():
    assert get("paths-meet").program.linear_slots == {0, 1, 2, 3}
    assert get("mixed-weights").program.linear_slots == {0, 1, 3}


def test_tangents_get_names_of_their_own():
    program = get("paths-meet").program.along([0, 1]).along([0])
    assert [slot.name for slot in program.slots] == ["x", "y", "w", "z", "dx", "dy", "dx'"]
