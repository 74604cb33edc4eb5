"""The table of programs that tests and benches share: real layers, every connection mode, and awkward sizes.

A line here is run by every backend in every dtype through value, gradient, double gradient and the rest of
`tests/conformance`. Tags: `real` (a layer somebody runs), `channelwise` (the CPU backend must support it), `mode`,
`elementwise` (`uuu` alone), `awkward`, `small` (cheap enough for numerical derivatives).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equikern.ops import plan
from equikern.program import CONVOLUTION, EDGE, SHARED, Irreps, Program, Rows, by_species, linear, product, tabled

SPECIES = 3
KNOTS = 15  # rows of a table
EDGE_ROWS = Rows()
Spec = tuple[Irreps, Irreps, Irreps, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Case:
    """A program and the graph it runs on: `nodes` nodes, `degree` edges a node on average.

    `graph` is random (any order), isolated (the last half of the nodes receives nothing), self (every edge a loop) or
    hub (every edge ends at node 0).
    """

    id: str
    program: Program
    nodes: int = 5
    degree: int = 3
    tags: frozenset[str] = frozenset()
    graph: str = "random"

    @property
    def edges(self) -> int:
        """E."""
        return self.nodes * self.degree

    @property
    def longest_sum(self) -> int:
        """Edges that one element of an output or a gradient can sum over, for `tolerance`."""
        shared = any(slot.row not in (EDGE, "sender", "receiver") for slot in self.program.operands)
        return max(1, self.edges if shared or self.graph == "hub" else min(self.edges, 4 * self.degree))

    def sized(self, edges: int, degree: int = 30) -> Case:
        """The same program with about `edges` edges on nodes of a given degree."""
        return replace(self, nodes=max(edges // degree, 1), degree=degree)

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True)
class Inputs:
    """What `ops.evaluate(program, operands, index, rows)` takes; absent weights are None."""

    operands: tuple[Tensor | None, ...]
    index: tuple[Tensor, ...]
    rows: int

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same values in another dtype, detached."""
        return replace(self, operands=tuple(None if a is None else a.detach().to(dtype) for a in self.operands))

    def on(self, device: torch.device | str) -> Inputs:
        """The same values on another device, detached."""
        operands = tuple(None if a is None else a.detach().to(device) for a in self.operands)
        return replace(self, operands=operands, index=tuple(a.to(device) for a in self.index))


def edge_index(case: Case, seed: int = 0) -> Tensor:
    """(2, E): senders and receivers of a case's graph, unsorted."""
    generator = torch.Generator().manual_seed(seed)
    senders = torch.randint(max(case.nodes, 1), (case.edges,), generator=generator)
    last = {"isolated": (case.nodes + 1) // 2, "hub": 1}.get(case.graph, case.nodes)
    receivers = torch.randint(max(last, 1), (case.edges,), generator=generator)
    return torch.stack([senders, senders if case.graph == "self" else receivers])


def inputs(case: Case, dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
    """Normally distributed operands and the index tensors of a case; the plan of z is included where z is indexed."""
    generator = torch.Generator().manual_seed(seed + 1)
    program = case.program
    count = {EDGE: case.edges, SHARED: 1, "sender": case.nodes, "receiver": case.nodes, "knot": KNOTS}
    operands = []
    for slot in program.operands[: program.output]:
        rows = count.get(slot.row, SPECIES)
        a = torch.randn(rows, slot.dim, generator=generator, dtype=dtype)
        operands.append(None if slot.name == "w" and slot.dim == 0 else a)
    edges = edge_index(case, seed)
    index = {"sender": edges[0].contiguous(), "receiver": edges[1].contiguous()}
    reach = {slot.row: slot.offsets[-1] for slot in program.operands}
    for kind in program.index_kinds:
        if kind not in index:
            index[kind] = torch.randint(count.get(kind, SPECIES) - reach[kind], (case.edges,), generator=generator)
    tensors = [index[kind] for kind in program.index_kinds]
    output, rows = program.operands[-1].row, count.get(program.operands[-1].row, SPECIES)
    if output in index:
        tensors += plan(index[output], index[output], rows, rows)
    return Inputs(tuple(operands), tuple(tensors), rows)


def uvu_paths(irreps_x: Any, irreps_y: Any, lmax: int, parity: str = "all", mode: str = "uvu") -> Spec:
    """(irreps of x, y, output, instructions) with every path up to `lmax`, each into its own output.

    parity "natural" keeps outputs of parity (-1)^l, "all" keeps every one.
    """
    x, y = Irreps(irreps_x), Irreps(irreps_y)
    out: list[Any] = []
    instructions: list[tuple[Any, ...]] = []
    for a, (mul, ir1) in enumerate(x):
        for b, (_, ir2) in enumerate(y):
            for ir in ir1 * ir2:
                if ir.l <= lmax and (parity == "all" or ir.p == (-1) ** ir.l):
                    instructions.append((a, b, len(out), mode, True))
                    out.append((mul, ir))
    return x, y, Irreps(out), instructions


def fully_connected(irreps_x: Any, irreps_y: Any, irreps_z: Any) -> Spec:
    """Every `uvw` path between the entries."""
    x, y, z = Irreps(irreps_x), Irreps(irreps_y), Irreps(irreps_z)
    entries = ((i, j, k) for i in range(len(x)) for j in range(len(y)) for k in range(len(z)))
    return x, y, z, [(i, j, k, "uvw", True) for i, j, k in entries if z[k].ir in x[i].ir * y[j].ir]


LAYERS: dict[str, Spec] = {
    "mace-conv": uvu_paths("128x0e+128x1o", "0e+1o+2e+3o", 3, "natural"),
    "mace-first": uvu_paths("128x0e", "0e+1o+2e+3o", 3, "natural"),
    "nequip-conv": uvu_paths("64x0e+64x1o+64x2e", "0e+1o+2e", 2, "natural"),
    "sevennet-conv": uvu_paths("128x0e+64x1e+32x2e", "0e+1e+2e", 2),
    "painn-128": (
        Irreps("128x0e+128x1o"),
        Irreps("0e+1o"),
        Irreps("128x0e+128x1o+128x1o"),
        [(0, 0, 0, "uvu", True), (0, 1, 1, "uvu", True), (1, 0, 2, "uvu", True)],
    ),
    "schnet-64": uvu_paths("64x0e", "0e", 0),
    "se3-8": (
        Irreps("8x0e+8x1o"),
        Irreps("0e+1o+2e"),
        Irreps("8x0e+8x1o"),
        [
            (0, 0, 0, "uvw", True),
            (0, 1, 1, "uvw", True),
            (1, 1, 0, "uvw", True),
            (1, 0, 1, "uvw", True),
            (1, 2, 1, "uvw", True),
        ],
    ),
    "diffdock": fully_connected("48x0e+10x1o+10x1e+48x0o", "0e+1o+2e", "48x0e+10x1o+10x1e+48x0o"),
}


def _case(id: str, spec: Spec, rows: Rows = CONVOLUTION, tags: Iterable[str] = (), **options: Any) -> Case:
    size = {key: options.pop(key) for key in ("nodes", "degree", "graph") if key in options}
    return Case(id, product(*spec, rows=rows, **options), tags=frozenset(tags), **size)


def _real() -> list[Case]:
    tags = {
        name: {"real"} if any(i[3] != "uvu" for i in spec[3]) else {"real", "channelwise"}
        for name, spec in LAYERS.items()
    }
    return [_case(name, spec, tags=tags[name], nodes=4, degree=3) for name, spec in LAYERS.items()]


# multiplicities m1, m2, m3 of each mode; an unweighted uuw sums into one channel
_MODE_MULS = {
    "uvw": (2, 3, 4),
    "uvu": (3, 2, 3),
    "uvv": (2, 3, 3),
    "uuw": (3, 3, 2),
    "uuu": (3, 3, 3),
    "uvuv": (2, 3, 6),
    "uvu<v": (3, 3, 3),
    "u<vw": (3, 3, 2),
}


def mode_spec(mode: str, weighted: bool) -> Spec:
    """A small product that uses one connection mode: two paths into one output and one into another."""
    m1, m2, m3 = _MODE_MULS[mode]
    m3 = 1 if mode == "uuw" and not weighted else m3
    x, y, z = (
        Irreps([(m1, (0, 1)), (m1, (1, -1))]),
        Irreps([(m2, (0, 1)), (m2, (1, -1))]),
        Irreps([(m3, (1, -1)), (m3, (1, 1))]),
    )
    return x, y, z, [(0, 1, 0, mode, weighted), (1, 0, 0, mode, weighted), (1, 1, 1, mode, weighted)]


def _modes() -> list[Case]:
    cases = []
    for mode in _MODE_MULS:
        for weighted in (True, False) if mode not in ("uvw", "u<vw") else (True,):
            id = f"mode-{mode}".replace("<", "lt") + ("" if weighted else "-unweighted")
            cases.append(_case(id, mode_spec(mode, weighted), tags={"mode", "small"}, nodes=3))
    return cases + _mixed_modes()


def _mixed_modes() -> list[Case]:
    """All modes in one product, awkward multiplicities, other row kinds."""
    five = [("uvw", True), ("uvu", True), ("uvv", True), ("uuw", True), ("uuu", True), ("u<vw", True)]
    five += [("uvu", False), ("uvv", False), ("uuu", False)]
    places = [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]
    paths = [(*places[n % 4], mode, weighted) for n, (mode, weighted) in enumerate(five)]
    spec = (Irreps("5x0e+5x1o"), Irreps("5x0e+5x1o"), Irreps("5x0e+5x1o"), paths)
    wide = Irreps("33x0e+33x1o"), Irreps("33x0e+33x1o"), Irreps("33x1o+528x1o+33x1e")
    pairs = [(0, 1, 0, "uuu", True), (0, 1, 1, "uvu<v", True), (1, 0, 1, "uvu<v", False), (1, 1, 2, "u<vw", True)]
    one = (Irreps("0e+1o"), Irreps("0e+1o"), Irreps("0e+1o"), [i for i in paths if "<" not in i[3]])
    empty = (*one[:3], [*one[3], (0, 0, 0, "u<vw", True)])
    tags = {"awkward", "modes"}
    shared = CONVOLUTION._replace(w=SHARED)
    species = Rows(y="species", w=SHARED)
    return [
        _case("modes-mixed", spec, tags=tags),
        _case("modes-mixed-shared", spec, shared, tags),
        _case("modes-mixed-rows", spec, EDGE_ROWS._replace(w=SHARED), tags),
        _case("modes-ir-mul", spec, shared, tags, layout="ir_mul"),
        _case("modes-species", spec, Rows(x="sender", y=SHARED, w="species", z="receiver"), tags),
        _case("modes-to-shared", spec, Rows(x=SHARED, y="receiver", z=SHARED), tags),
        _case("modes-one-channel", empty, tags=tags | {"small"}),
        _case("modes-no-edges", spec, shared, tags, degree=0),
        _case("modes-33", (*wide, pairs), EDGE_ROWS, tags, nodes=2, degree=2),
        _case("uvw-awkward", fully_connected("33x0e+5x1o+2x2e", "2x0e+1o", "7x0e+33x1o"), shared, tags),
        _case("uvw-awkward-by-row", fully_connected("33x0e+5x1o+2x2e", "2x0e+1o+4x1e", "7x0e+33x1o+2x2o"), tags=tags),
        _case("uvw-many-rows", fully_connected("8x0e+8x1o", "0e+1o", "8x0e+8x1o"), shared, tags, nodes=90, degree=20),
        _case("nodes-scalars", fully_connected("7x0e+3x1o+2x2e", "19x0e", "5x0e+4x1o+1x0e+3x2e"), shared, tags),
        _case("nodes-hub", fully_connected("7x0e+3x1o", "5x0e", "5x0e+4x1o"), shared, tags, graph="hub"),
        _case("nodes-edges", fully_connected("6x0e+3x1o", "17x0e", "6x0e+4x1o"), shared._replace(x=EDGE), tags),
        _case("nodes-ir-mul", fully_connected("6x0e+3x1o", "4x0e+2x1o", "6x0e+4x1o"), shared, tags, layout="ir_mul"),
        _case("nodes-scalars-ir-mul", fully_connected("6x0e+3x1o", "9x0e", "3x1o"), shared, tags, layout="ir_mul"),
        _case("species", fully_connected("7x0e+3x1o+2x2e+4x0e", "19x0e", "5x0e+4x1o+1x0e+3x2e"), species, tags),
        _case("species-16", fully_connected("16x0e+16x1o", "3x0e", "16x0e+32x1o"), species, tags, nodes=7),
        _case("species-pseudo", fully_connected("5x0o+3x1o", "2x0e+3x0o", "4x0e+2x1e+3x1o"), species, tags | {"small"}),
        _case("species-ir-mul", fully_connected("6x0e+3x1o", "4x0e", "6x0e+4x1o"), species, tags, layout="ir_mul"),
        _case("species-no-edges", fully_connected("6x0e+3x1o", "4x0e", "6x0e+4x1o"), species, tags, degree=0),
        _case("uvw-none", fully_connected("0x1o+3x0e+2x1o", "0e+1o", "2x1o+0x0e"), shared, tags),
        *_elementwise(shared, tags),
        _case("y-33", uvu_paths("3x0e+2x1o", "33x0e+9x1o", 2), shared, tags),
    ]


def _elementwise(shared: Rows, tags: set[str]) -> list[Case]:
    """Equal channels of x, y and z (`uuu`): e3nn's product, a layer of Allegro's, many paths, rows and layouts."""
    whole, features = Irreps("128x0e+128x1o+64x2e"), Irreps("64x0e+64x1o+64x2e")
    squares = [(n, mul, ir) for n, (mul, ir_x) in enumerate(whole) for ir in ir_x * ir_x]
    paths = [(n, n, k, "uuu", False) for k, (n, *_) in enumerate(squares)]
    allegro = [(*path[:3], "uuu", True) for path in fully_connected(features, features, features)[3]]
    real = {"real", "elementwise"}
    # Each channel of x with all of y: kept (uvuv), or summed over those of x (uvv).
    each = [(0, 0, 0, "uvuv", True), (1, 1, 1, "uvuv", False), (1, 0, 2, "uvuv", True), (0, 1, 3, "uvv", True)]
    outer = (Irreps("2x0e+3x1o"), Irreps("4x0e+33x1o"), Irreps("8x0e+99x1e+12x1o+33x1o"), each)
    sums = [(0, 0, 0, "uvv", True), (1, 1, 0, "uvv", False), (0, 1, 1, "uvv", True)]
    summed = (Irreps("0e+1o"), Irreps("5x0e+5x1o"), Irreps("5x0e+5x1o"), sums)
    many = uvu_paths("33x0e+33x1o+33x2e", "33x0e+33x1o+33x2e", 2, mode="uuu")
    few = (Irreps("5x0e+3x1o+1x1o"), Irreps("5x1o+3x1o+1x0e+2x2e"), Irreps("5x1o+3x0e+3x1e+1x1o"))
    pieces = [(0, 0, 0, "uuu", False), (1, 1, 1, "uuu", False), (1, 1, 2, "uuu", False), (2, 2, 3, "uuu", False)]
    some = (*few[:3], [(*path[:4], n % 2 == 0) for n, path in enumerate(pieces)])
    return [
        _case("elementwise-128", (whole, whole, Irreps([s[1:] for s in squares]), paths), EDGE_ROWS, real, nodes=2),
        _case("allegro-64", (*[features] * 3, allegro), EDGE_ROWS._replace(w=SHARED), real, nodes=2),  # type: ignore[arg-type]
        _case("uuu-33", many, tags=tags, nodes=3),
        _case("uuu-pieces", (*few, pieces), EDGE_ROWS, tags | {"small"}),
        _case("uuu-shared", some, shared, tags | {"small"}),
        _case("uuu-shared-rows", some, EDGE_ROWS._replace(w=SHARED), tags | {"small"}),
        _case("uuu-ir-mul", some, tags=tags, layout="ir_mul"),
        _case("uuu-senders-y", some, Rows(y="sender", w=SHARED), tags | {"small"}),
        _case("uuu-receivers-z", mode_spec("uuu", True), Rows(y="sender", z="receiver"), tags | {"small"}),
        _case("uvuv-rows", outer, EDGE_ROWS, tags | {"small"}),
        _case("uvuv-receivers", outer, Rows(y="sender", w=SHARED, z="receiver"), tags),
        _case("uvv-ir-mul", summed, EDGE_ROWS, tags, layout="ir_mul"),
    ]


def _widths() -> list[Case]:
    """Multiplicities, layouts and irreps that no vector width divides."""
    tags = {"awkward", "channelwise"}
    cases = [
        _case(
            f"mul-{mul}",
            uvu_paths(f"{mul}x0e+{mul}x1o", "0e+1o+2e", 2, "natural"),
            tags=tags | ({"small"} if mul < 6 else set()),
        )
        for mul in (1, 5, 33)
    ]
    cases += [
        _case("mul-mixed", uvu_paths("17x0e+3x1o+9x2e", "0e+1o", 2), tags=tags),
        _case("ir-mul", uvu_paths("33x0e+5x1o+2x2e", "0e+1o+2e", 2), tags=tags, layout="ir_mul"),
        _case("odd-parity", uvu_paths("4x0o+4x1e+4x1o", "0e+0o+1o+1e", 2), tags=tags | {"small"}),
        _case("mul-33-l3", uvu_paths("33x3o+16x2e", "0e+3o", 3, "natural"), tags=tags),
        _case("l6", uvu_paths("3x6e+2x3o", "2e+6e", 6), tags=tags, nodes=3),
        _case("l4-out-of-8", uvu_paths("9x4e", "4e", 8), tags=tags, nodes=3),
        _case("scalar-y", uvu_paths("17x1o+5x2e+3x3o+9x4e+2x6e", "0e+0e", 6), tags=tags, nodes=3),
        _case("zero-multiplicity", uvu_paths("0x0e+4x1o", "0e+1o", 2), tags=tags),
        _case(
            "unread-segments",
            (Irreps("4x1o+2x0e+3x2e"), Irreps("0e+1o+2e"), Irreps("2x0e+4x1o+5x0o"), [(0, 0, 1, "uvu", True)]),
            tags=tags,
        ),
        _case("no-paths", (Irreps("4x0e"), Irreps("0e"), Irreps("3x1o"), []), tags={"awkward"}),
        _case("empty-irreps", (Irreps(""), Irreps("0e"), Irreps(""), []), tags={"awkward"}),
        _case("repeated-irreps", uvu_paths("2x0e+3x0e+2x1o+2x1o", "0e+1o+1o", 1), tags=tags),
    ]
    return cases


def _paths() -> list[Case]:
    """Weighted and unweighted paths, paths that meet in one output, other normalisations."""
    tags = {"awkward", "channelwise", "small"}
    x, y, z = Irreps("5x0e+5x1o"), Irreps("0e+1o"), Irreps("5x0e+5x1o")
    meeting = [
        (0, 0, 0, "uvu", True),
        (1, 1, 0, "uvu", True),
        (0, 1, 1, "uvu", True),
        (1, 0, 1, "uvu", True, 0.25),
        (1, 0, 1, "uvu", True),
    ]
    mixed = [(*i[:4], n % 2 == 0, *i[5:]) for n, i in enumerate(meeting)]
    plain = [(*i[:4], False, *i[5:]) for i in meeting]
    modes = zip(meeting, ("uvw", "uvv", "uuw", "uuu", "uvu"), strict=True)
    single = (Irreps("0e+1o"), y, Irreps("0e+1o"), [(*i[:3], mode, *i[4:]) for i, mode in modes])
    unread = (x, Irreps("3x0e+1o+2x0e"), z, [(0, 1, 1, "uvu", True), (1, 1, 0, "uvu", False)])
    several = uvu_paths("5x0e+3x1o", "2x0e+3x1o", 1)
    several = (*several[:3], [(*i[:4], n % 2 == 0) for n, i in enumerate(several[3])])
    return [
        _case("paths-meet", (x, y, z, meeting), tags=tags),
        _case("mixed-weights", (x, y, z, mixed), tags=tags),
        _case("unweighted", (x, y, z, plain), tags=tags),
        _case("shared-weights", (x, y, z, meeting), CONVOLUTION._replace(w=SHARED), tags=tags),
        _case("shared-mixed", (x, y, z, mixed), CONVOLUTION._replace(w=SHARED), tags=tags, nodes=7),
        _case("norm-path", (x, y, z, meeting), tags=tags, irrep_normalization="norm", path_normalization="path"),
        _case("unnormalised", (x, y, z, meeting), tags=tags, irrep_normalization="none", path_normalization="none"),
        _case("zero-path-weight", (x, y, z, [*meeting[:4], (1, 0, 1, "uvu", True, 0.0)]), tags=tags),
        _case("y-multiplicity", (x, Irreps("3x0e+2x1o"), z, meeting), tags={"awkward", "small"}),
        _case("y-unread", unread, tags=tags),
        _case("y-ir-mul", several, CONVOLUTION._replace(w=SHARED), tags={"awkward"}, layout="ir_mul"),
        _case("uvuv-1", (x, y, z, [(*i[:3], "uvuv", *i[4:]) for i in meeting]), tags=tags),
        _case("single-channels", single, tags=tags),
    ]


def _tables() -> list[Case]:
    """Weights from rows of a table."""
    tags = {"awkward", "channelwise"}
    cases = []
    for name, offsets, options in (
        ("table-mace", (0, 2, 4, 6, 7, 8, 10, 12), {"tags": {"real", "channelwise"}}),
        ("table-mul-5", (0, 1, 2, 4), {"tags": tags | {"small"}}),
        ("table-mul-33", range(6), {}),
        ("table-mixed", (0, 3), {"tags": tags | {"small"}}),
        ("table-edges", (0,), {"tags": tags | {"small"}, "rows": Rows()}),
        ("table-l6", range(8), {"nodes": 3}),
        ("table-hub", range(4), {"nodes": 4, "degree": 1500, "graph": "hub"}),
        ("table-many", (0, 1, 2, 4), {"nodes": 400, "degree": 6}),
        ("table-no-edges", range(4), {"degree": 0}),
    ):
        spec = {
            "table-mace": uvu_paths("128x0e+128x1o", "0e+1o+2e+3o", 3, "natural"),
            "table-mul-33": uvu_paths("33x0e+33x1o", "0e+1o+2e", 2, "natural"),
            "table-l6": uvu_paths("3x6e+2x3o", "2e+6e", 6),
        }.get(name, uvu_paths("5x0e+5x1o", "0e+1o", 1))
        if name == "table-mixed":
            spec = (*spec[:3], [(*i[:4], n % 2 == 0) for n, i in enumerate(spec[3])])
        made = _case(name, spec, **({"tags": tags} | options))
        cases.append(replace(made, program=tabled(made.program, offsets)))
    return cases


def _rows() -> list[Case]:
    """Row kinds and graphs."""
    tags = {"awkward", "channelwise", "small"}
    spec = uvu_paths("3x0e+3x1o", "0e+1o", 1)
    sender_only = Rows(x="sender")
    return [
        _case("rows-edge", spec, EDGE_ROWS, tags),
        _case("rows-edge-shared", spec, EDGE_ROWS._replace(w=SHARED), tags),
        _case("rows-sender-to-edge", spec, sender_only, tags),
        _case("rows-edge-to-receiver", spec, Rows(z="receiver"), tags),
        _case("rows-species-x", spec, Rows(x="species", z="receiver"), tags),
        _case("rows-species-z", spec, Rows(x="receiver", z="species"), tags),
        _case("rows-species-weights", spec, CONVOLUTION._replace(w="species"), {"awkward", "small"}),
        _case("rows-shared-y", spec, CONVOLUTION._replace(y=SHARED), {"awkward", "small"}),
        _case("rows-receiver-y", spec, CONVOLUTION._replace(y="receiver"), {"awkward", "small"}),
        _case("no-edges", spec, tags=tags - {"small"}, degree=0),
        _case("no-edges-shared", spec, CONVOLUTION._replace(w=SHARED), tags=tags - {"small"}, degree=0),
        _case("no-nodes", spec, tags=tags - {"small"}, nodes=0),
        _case("one-atom", spec, tags=tags, nodes=1, degree=2),
        _case("isolated-nodes", spec, tags=tags, nodes=8, degree=1, graph="isolated"),
        _case("self-edges", spec, tags=tags, graph="self"),
        _case("many-receivers", spec, tags=tags - {"small"}, nodes=700, degree=6),
        _case(
            "hub-5000", spec, CONVOLUTION._replace(w=SHARED), tags=tags - {"small"}, nodes=50, degree=100, graph="hub"
        ),
        _case("hub-1000", spec, tags={"awkward", "channelwise"}, nodes=4, degree=250, graph="hub"),
        Case(
            "linear",
            linear("3x0e+2x1o+4x0e", "2x0e+3x1o", [(0, 0, 0.5), (1, 1, 2.0), (2, 0, 1.0)]),
            3,
            tags=frozenset({"small"}),
        ),
        Case(
            "linear-edge-weights",
            linear("3x0e+2x1o", "2x0e+3x1o", [(0, 0, 0.5), (1, 1, 2.0)], shared=False),
            3,
            tags=frozenset({"small"}),
        ),
        Case(
            "linear-wide",
            linear("33x0e+16x1o+7x2e+2x0e", "32x0e+5x1o+3x1e", [(0, 0, 0.5), (1, 1, 2.0), (3, 0, 1.0), (1, 1, 0.3)]),
            9,
        ),
        Case("linear-species", by_species(linear("33x0e+5x1o", "7x0e+16x1o", [(0, 0, 0.5), (1, 1, 2.0)])), 9),
        Case(
            "linear-species-16",
            by_species(linear("4x0e+3x1o", "16x0e+2x1o", [(0, 0, 0.5), (1, 1, 2.0)], layout="ir_mul")),
            5,
            tags=frozenset({"small"}),
        ),
        Case("linear-no-rows", linear("3x1o+2x0e", "2x1o+2x0e", [(0, 0, 0.5), (1, 1, 1.0)]), 3, degree=0),
        Case("linear-species-no-rows", by_species(linear("3x1o", "2x1o", [(0, 0, 0.5)])), 3, degree=0),
        Case("linear-ir-mul", linear("3x1o", "2x1o", [(0, 0, 0.5)], layout="ir_mul"), 3, tags=frozenset({"small"})),
    ]


CASES: tuple[Case, ...] = (*_real(), *_modes(), *_widths(), *_paths(), *_tables(), *_rows())
# Few and small, they take every way through the sweeps of the GPU backends: for interpreters, which are slow.
SWEEPS = (
    "mul-1", "mul-33", "ir-mul", "paths-meet", "mixed-weights", "unweighted", "shared-mixed", "rows-edge",
    "rows-edge-shared", "rows-sender-to-edge", "rows-edge-to-receiver", "unread-segments", "isolated-nodes", "no-edges",
    "mode-uuu", "uuu-33", "uuu-pieces", "uuu-shared", "uuu-shared-rows", "uuu-ir-mul", "uuu-senders-y",
    "uuu-receivers-z", "uvuv-rows", "uvuv-receivers", "uvv-ir-mul", "y-multiplicity", "y-unread", "y-ir-mul",
)  # fmt: skip


def tagged(*tags: str, without: str = "") -> list[Case]:
    """The cases that carry all of the tags and not the one in `without`."""
    return [case for case in CASES if set(tags) <= case.tags and without not in case.tags]


def get(id: str) -> Case:
    """The case of an id."""
    return next(case for case in CASES if case.id == id)
