"""What can a model tell apart? Pairs of geometric graphs, which models separate them, and a test of a model.

`pairs()` makes ours by formula; `load` reads files of the same form. The columns of `separated_by` are classes of
models: `schnet_any_depth` (distances), `deeppot_se_3body_centre` (pairs of neighbours of one atom), `centre_4body_O3`
and on (more of them; SO3: with their handedness), `dimenet_any_depth` and `spherenet_smp_any_depth` (messages between
edges, with angles, and torsions), `painn_N_layers`; `smallest_l` is the least degree of features that does, by messages
between the atoms of a star. True: some model of the class separates; False: none does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """A graph in space: species (N,), positions (N, 3) in float64, edge_index (2, E) of senders and receivers."""

    species: Tensor
    positions: Tensor
    edge_index: Tensor

    @classmethod
    def of(cls, species: Sequence[int], positions: Any, edges: Sequence[Sequence[int]]) -> Shape:
        """From lists; edges are [sender, receiver]."""
        return cls(torch.tensor(species), torch.as_tensor(positions, dtype=torch.float64), torch.tensor(edges).T)

    def moved(self, generator: torch.Generator) -> Shape:
        """Turned at random, and with its atoms in another order: the same graph to every model."""
        q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        q = q * r.diagonal().sign()
        order = torch.randperm(len(self.species), generator=generator)
        positions = self.positions @ (q * torch.linalg.det(q)).T
        return Shape(self.species[order], positions[order], torch.argsort(order)[self.edge_index])

    def energies(self, model: Callable[..., Tensor]) -> Tensor:
        """Atomic energies (N,) of a model with the interface of `equikern.models`."""
        sender, receiver = self.edge_index
        absolute = {"positions": self.positions, "batch": None} if getattr(model, "uses_positions", False) else {}
        with torch.no_grad():
            vec = self.positions[sender] - self.positions[receiver]
            return model(self.species, vec, self.edge_index, **absolute)


@dataclass(frozen=True)
class Pair:
    """Two graphs, and which classes of models separate them."""

    id: str
    a: Shape
    b: Shape
    separated_by: Mapping[str, Any]

    def scaled(self, length: float) -> Pair:
        """The same pair with species 0, 1, ..., in a unit in which edges of the first graph are `length` on average."""
        sender, receiver = self.a.edge_index
        factor = length / (self.a.positions[sender] - self.a.positions[receiver]).norm(dim=1).mean()
        kinds = torch.cat([self.a.species, self.b.species]).unique()
        a, b = (
            Shape(torch.searchsorted(kinds, s.species), factor * s.positions, s.edge_index) for s in (self.a, self.b)
        )
        return replace(self, a=a, b=b)


@dataclass(frozen=True)
class Separation:
    """The largest difference of two graphs' energies, and what rounding gives; both relative to sum |e_i|."""

    difference: float
    floor: float

    @property
    def separated(self) -> bool:
        """Whether some model told them apart."""
        return self.difference > self.floor


def separation(
    model: Callable[[int], Callable[..., Tensor]], pair: Pair, seeds: Iterable[int] = range(4)
) -> Separation:
    """Of the first of these seeds whose model, in float64, separates the pair; of the last if none does.

    The floor is 100 times the largest difference between either graph and copies of it that are turned and renumbered.
    """
    found = Separation(0.0, float("inf"))
    for seed in seeds:
        of, generator = model(seed), torch.Generator().manual_seed(seed)
        a, b = (shape.energies(of) for shape in (pair.a, pair.b))
        copies = [(a, pair.a), (a, pair.a), (b, pair.b)]
        noise = max(abs(float(e.sum() - s.moved(generator).energies(of).sum())) for e, s in copies)
        scale = float(a.abs().sum())
        found = Separation(
            abs(float(a.sum() - b.sum())) / scale, 100 * max(noise / scale, torch.finfo(torch.float64).eps)
        )
        if found.separated:
            break
    return found


def load(path: Path) -> list[Pair]:
    """Pairs of a file of the form of `to_json`."""
    found = []
    for entry in json.loads(path.read_text())["pairs"]:
        shapes = {n: Shape.of(g["types"], g["pos"], g["edges"]) for n, g in entry["graphs"].items()}
        for one in entry["comparisons"]:
            a, b = one["a"], one["b"]
            found.append(Pair(f"{entry['id']} {a}-{b}", shapes[a], shapes[b], one["separated_by"]))
    return found


def to_json(given: Sequence[Pair]) -> str:
    """Pairs as text that `load` reads."""
    entries = [
        {
            "id": pair.id,
            "graphs": {
                name: {"types": s.species.tolist(), "pos": s.positions.tolist(), "edges": s.edge_index.T.tolist()}
                for name, s in (("a", pair.a), ("b", pair.b))
            },
            "comparisons": [{"a": "a", "b": "b", "separated_by": dict(pair.separated_by)}],
        }
        for pair in given
    ]
    return json.dumps({"format_version": 1, "pairs": entries}, indent=1)


def pairs() -> list[Pair]:
    """Chains, trees, folds, rings, mirror images, torsions, and sets with equal distances, angles or tetrahedra."""
    made = [chain(k) for k in (2, 3, 4, 5)] + [rings(k) for k in (1, 2, 3, 4)]
    return [*made, tree(), fold(), hand(), *torsions(), homometric(), two_triangles(), propeller()]


def _both_ways(edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    return [list(e) for i, j in edges for e in ((i, j), (j, i))]


def _star(n: int) -> list[list[int]]:
    """Edges both ways between atom 0 and n others."""
    return _both_ways((0, j) for j in range(1, n + 1))


def _cone(azimuths: Sequence[float], polar: float = pi / 2, radius: float = 1.0) -> Tensor:
    """Points (n, 3) at a polar angle from z."""
    phi, theta = torch.tensor(azimuths, dtype=torch.float64), torch.tensor(polar, dtype=torch.float64)
    xy = theta.sin() * torch.stack([phi.cos(), phi.sin()], 1)
    return radius * torch.cat([xy, theta.cos().expand(len(phi), 1)], 1)


def _about_origin(*points: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, 3, dtype=torch.float64), *points])


def _classes(true: str = "", false: str = "", **more: Any) -> dict[str, Any]:
    """`separated_by` of columns that are true and false; those of bodies go on to more, or to fewer."""
    return dict.fromkeys(true.split(), True) | dict.fromkeys(false.split(), False) | more


_DISTANCES = "schnet_any_depth"
_THREE, _FOUR, _FIVE = "deeppot_se_3body_centre", "centre_4body_O3", "centre_5body_O3"
_HANDED_FOUR, _HANDED_FIVE = "centre_4body_SO3", "centre_5body_SO3"
_ANGLES, _TORSIONS = "dimenet_any_depth", "spherenet_smp_any_depth"
_DEEPER = "painn_2_layers painn_3_layers"
_PAINN = f"painn_1_layers {_DEEPER}"
_SAME = "congruent_O3 congruent_SO3"


def chain(k: int) -> Pair:
    """k atoms on a line with an end atom each side, in cis and in trans; PaiNN's Fig. 1 for k = 2.

    What one end is must come to the other's: floor(k / 2) + 1 layers of vectors.
    """
    n = k + 2
    line = torch.stack([torch.arange(k), torch.zeros(k), torch.zeros(k)], 1).double()
    ends = [torch.tensor([[x, y, 0.0]], dtype=torch.float64) for x, y in ((-0.5, 0.75**0.5), (k - 0.5, 0.75**0.5))]
    other = ends[1] * torch.tensor([1.0, -1.0, 1.0])
    edges = _both_ways((i, i + 1) for i in range(n - 1))
    cis, trans = (Shape.of([1] * n, torch.cat([ends[0], line, end]), edges) for end in (ends[1], other))
    layers = {f"painn_{m}_layers": m >= k // 2 + 1 for m in range(1, 5)}
    blind = f"{_SAME} {_DISTANCES} {_THREE} {_FOUR} {_FIVE} {_HANDED_FOUR} {_HANDED_FIVE} {_ANGLES} {_TORSIONS}"
    return Pair(f"chain of {k}, cis and trans", cis, trans, _classes(false=blind) | layers)


def rings(k: int) -> Pair:
    """Rings of k atoms above and below a centre, eclipsed and staggered. Sums over a ring are round below degree k."""
    above, below = ([2 * pi * n / k for n in range(k)], [2 * pi * (n + 0.5) / k for n in range(k)])
    edges, species = _star(2 * k), [1] + [2] * k + [3] * k
    points = [_about_origin(_cone(above, 1.0), _cone(turned, pi - 1.0)) for turned in (above, below)]
    eclipsed, staggered = (Shape.of(species, p, edges) for p in points)
    layers = dict.fromkeys(_PAINN.split(), k == 1)
    sees = f"{_THREE} {_FOUR} {_HANDED_FOUR} {_ANGLES} {_TORSIONS}"
    classes = _classes(sees, f"{_SAME} {_DISTANCES}", smallest_l=k)
    return Pair(f"rings of {k}, eclipsed and staggered", eclipsed, staggered, classes | layers)


def tree() -> Pair:
    """Two neighbours at 90 and at 120 degrees, out of each other's sight: LEFTNet's Fig. 1, trees."""
    a, b = (Shape.of([1] * 3, _about_origin(_cone([0.0, angle])), _star(2)) for angle in (pi / 2, 2 * pi / 3))
    sees = f"{_THREE} {_FOUR} {_HANDED_FOUR} {_ANGLES} {_TORSIONS} {_PAINN}"
    return Pair("tree, 90 and 120 degrees", a, b, _classes(sees, f"{_SAME} {_DISTANCES}"))


def fold() -> Pair:
    """Two triangles on one hinge, folded by 90 and by 150 degrees: LEFTNet's Fig. 1, triangles."""
    hinge = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    edges = _both_ways([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)])
    a, b = (
        Shape.of([1] * 4, _about_origin(hinge, _cone([0.0, angle], pi / 3)), edges) for angle in (pi / 2, 5 * pi / 6)
    )
    sees = f"{_THREE} {_FOUR} {_HANDED_FOUR} {_ANGLES} {_TORSIONS} {_PAINN}"
    return Pair("fold, 90 and 150 degrees", a, b, _classes(sees, f"{_SAME} {_DISTANCES}"))


def _mirrored(shape: Shape) -> Shape:
    return Shape(shape.species, shape.positions * torch.tensor([1.0, 1.0, -1.0]), shape.edge_index)


def hand() -> Pair:
    """Four different neighbours of one atom, every pair joined, and the mirror image: LEFTNet's Fig. 1, subgraphs."""
    arms = torch.tensor([[1, 1, 1.1], [-1, -0.9, 1], [-1, 1.2, -1], [1, -1, -1.3]], dtype=torch.float64)
    edges = _both_ways((i, j) for j in range(5) for i in range(j))
    left = Shape.of([1, 2, 3, 4, 5], _about_origin(arms), edges)
    blind = f"congruent_SO3 {_DISTANCES} {_THREE} {_FOUR} {_FIVE} {_ANGLES} {_PAINN}"
    classes = _classes(f"congruent_O3 {_TORSIONS} {_HANDED_FOUR} {_HANDED_FIVE}", blind)
    return Pair("hand and mirror image", left, _mirrored(left), classes)


def torsions() -> list[Pair]:
    """Four neighbours q about an axis s -> r, as the Fig. 3 of spherical message passing.

    b and c have the same gaps from each q to the next, in another order; a is the mirror image of b.
    """
    gaps, radii, polar = (0.9, 2.2, 1.3), (1.0, 1.1, 1.2, 1.3), (1.2, 1.6, 1.8, 2.1)

    def shape(azimuths: Sequence[float]) -> Shape:
        q = [_cone([a], p, r) for a, p, r in zip(azimuths, polar, radii, strict=True)]
        r = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
        return Shape.of([1, 1, 2, 3, 4, 5], _about_origin(r, *q), [[2, 0], [3, 0], [4, 0], [5, 0], [0, 1]])

    x, y, z = gaps
    b = shape((0.0, x, x + y, x + y + z))
    # Around as q1, q3, q2, q4; the gap that follows each q is as in b.
    c = shape((0.0, x + z, x, x + y + z))
    mirror = Shape(b.species, b.positions * torch.tensor([1.0, -1.0, 1.0]), b.edge_index)
    congruent = _classes(
        f"congruent_O3 {_TORSIONS} {_HANDED_FOUR}", f"congruent_SO3 {_DISTANCES} {_THREE} {_FOUR} {_ANGLES} {_PAINN}"
    )
    sees, blind = f"{_THREE} {_FOUR} {_HANDED_FOUR} {_PAINN}", f"{_SAME} {_DISTANCES} {_ANGLES}"
    return [
        Pair("torsions, a and b", mirror, b, congruent),
        Pair("torsions, b and c", b, c, _classes(sees, f"{blind} {_TORSIONS}")),
        Pair("torsions, a and c", mirror, c, _classes(f"{sees} {_TORSIONS}", blind)),
    ]


def homometric() -> Pair:
    """Four of eight directions in a plane, 0 1 3 4 and 0 1 2 5: every angle the same number of times."""
    a, b = (
        Shape.of([1] * 5, _about_origin(_cone([pi / 4 * n for n in turns])), _star(4))
        for turns in ((0, 1, 3, 4), (0, 1, 2, 5))
    )
    classes = _classes(
        f"{_FOUR} {_HANDED_FOUR} {_FIVE} {_TORSIONS} {_DEEPER}", f"{_SAME} {_DISTANCES} {_THREE} painn_1_layers"
    )
    return Pair("homometric angles", a, b, classes)


def two_triangles() -> Pair:
    """One triangle above and one below, twisted, with an apex above or below: every tetrahedron the same number."""
    triangle, twist = (0.0, 1.4, 3.5), 0.5
    above, below = _cone(triangle, 1.1), _cone([a + twist for a in triangle], pi - 1.1)
    apex = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    a, b = (Shape.of([1] * 8, _about_origin(above, below, sign * apex), _star(7)) for sign in (1, -1))
    classes = _classes(
        f"{_FIVE} {_HANDED_FIVE} {_TORSIONS} {_DEEPER}",
        f"{_SAME} {_DISTANCES} {_THREE} {_FOUR} {_HANDED_FOUR} painn_1_layers",
    )
    return Pair("two triangles and an apex", a, b, classes)


def propeller() -> Pair:
    """Three directions in a plane and an apex on either side: mirror images, of which no oriented tetrahedron tells."""
    blades = _cone((0.0, 1.4, 3.5))
    apex = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    a, b = (Shape.of([1] * 5, _about_origin(blades, sign * apex), _star(4)) for sign in (1, -1))
    blind = f"congruent_SO3 {_DISTANCES} {_THREE} {_FOUR} {_HANDED_FOUR} {_FIVE} {_ANGLES} {_PAINN}"
    return Pair("propeller and mirror image", a, b, _classes(f"congruent_O3 {_TORSIONS} {_HANDED_FIVE}", blind))
