"""Every predicate holds for a right model and fails for a wrong one; the others do not mind that fault."""

import math

import pytest
import torch

from equikern.errors import EquikernError
from equikern.models import PaiNN, PaiNNConfig
from equikern.testing import naive
from equikern.testing.symmetry import PREDICATES, Subject, assert_symmetric, examine, systems

ELEMENTS, CUTOFF, LAYERS, CHANNELS = (1, 6, 8), 4.0, 2, 8
IDS = [f"P{n}" for n in range(21)]
SMALL = [s for s in systems(ELEMENTS, cutoff=CUTOFF) if s.name in ("cluster", "chiral", "crystal")]


class Full(naive.Naive):
    """PaiNN with all that predicates ask for: its features, a dipole and a pseudoscalar made of its atomic energies."""

    def of_edges(self, numbers, positions, cell, edge_index, offsets):
        found = super().of_edges(numbers, positions, cell, edge_index, offsets)
        if cell is not None:
            return found
        charge = found["energies"] - found["energies"].mean()
        moments = torch.stack([(charge**k - (charge**k).mean()) @ positions for k in (1, 2, 3)])
        return found | {"dipole": moments[0], "pseudoscalar": torch.linalg.det(moments)}

    def batch(self, given):
        """One after the other, which is right."""
        return [self.predict(*one) for one in given]

    def features(self, numbers, positions):
        """q and mu of every layer."""
        blocks = []
        hooks = [
            layer.register_forward_hook(lambda _, __, out: blocks.append(torch.cat([out[0], self.flat(out[1])], 1)))
            for layer in self.model.layers
        ]
        self.predict(numbers, positions)
        for hook in hooks:
            hook.remove()
        return [(f"{CHANNELS}x0e+{CHANNELS}x1o", h) for h in blocks]

    def flat(self, mu):
        """mu (N, 3, C) in the layout mul_ir."""
        return mu.mT.flatten(1)


def painn(cutoff=CUTOFF, dtype=torch.float64):
    torch.manual_seed(0)
    return PaiNN(PaiNNConfig(LAYERS, CHANNELS, 4, "bessel", 8, 3, cutoff)).to(dtype)


def subject(made=Full, dtype=torch.float64, model=None, layers=LAYERS):
    full = made(model or painn(dtype=dtype), ELEMENTS, CUTOFF)
    return Subject(
        full.predict, ELEMENTS, dtype, cutoff=CUTOFF, layers=layers,
        features=full.features, batch=full.batch, shuffled=full.shuffled,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_twenty_hold_for_painn(dtype):
    results = assert_symmetric(subject(dtype=dtype))
    assert [r.id for r in results] == IDS
    assert [r.id for r in results if r.holds is None] == ([] if dtype == torch.float64 else ["P13", "P15"])


def with_energy(term):
    """PaiNN plus an energy of positions and numbers, its forces and stress included."""

    class Added(Full):
        def of_edges(self, numbers, positions, cell, edge_index, offsets):
            found = super().of_edges(numbers, positions, cell, edge_index, offsets)
            x = positions.clone().requires_grad_()
            extra = term(x, numbers.to(x))
            (slope,) = torch.autograd.grad(extra, x)
            added = {"energy": found["energy"] + extra.detach(), "forces": found["forces"] - slope}
            if cell is not None:
                strained = (x.detach().T @ slope + slope.T @ x.detach()) / 2
                added["stress"] = found["stress"] + strained / torch.linalg.det(cell).abs()
            return found | added

    return Added


def with_changed(key, change):
    """PaiNN with one quantity of its predictions changed, where it is there."""

    class Changed(Full):
        def of_edges(self, numbers, positions, cell, edge_index, offsets):
            found = super().of_edges(numbers, positions, cell, edge_index, offsets)
            return found | {key: change(found, positions, edge_index)} if key in found else found

    return Changed


def with_edges(rule):
    """PaiNN on those edges that a rule (positions, cell, edge_index, offsets) -> mask or indices keeps."""

    class Kept(Full):
        def of_edges(self, numbers, positions, cell, edge_index, offsets):
            keep = rule(positions, cell, edge_index, offsets)
            return super().of_edges(numbers, positions, cell, edge_index[:, keep], offsets[keep])

    return Kept


def handed(x, numbers):
    """An energy that tells left from right, of three vectors: a dropped parity."""
    r = (x - x.mean(0)).norm(dim=1)
    return 1e-3 * torch.linalg.det(torch.stack([(numbers * r**k) @ (x - x.mean(0)) for k in (1, 2, 3)]))


def in_cells(cell, offsets):
    """Offsets (E, 3) as counts of lattice vectors, without sign."""
    return (offsets @ torch.linalg.inv(cell)).abs().round()


def images_near_the_cell(positions, cell, edge_index, offsets):
    """As if all atoms were in one cell."""
    return ... if cell is None else in_cells(cell, offsets).amax(1) <= 1


def images_by_sides(positions, cell, edge_index, offsets):
    """The number of images taken from the lengths of a cell's sides, not from its heights."""
    most = None if cell is None else (CUTOFF / cell.norm(dim=1)).ceil()
    return ... if cell is None else (in_cells(cell, offsets) <= most).all(1)


def nearest_image(positions, cell, edge_index, offsets):
    """The nearest image of each neighbour, two of them where they are as near."""
    length = (positions[edge_index[0]] - positions[edge_index[1]] + offsets).norm(dim=1)
    pair = edge_index[0] * len(positions) + edge_index[1]
    nearest = torch.full((len(positions) ** 2,), CUTOFF).to(length).scatter_reduce(0, pair, length, "amin")
    return length < nearest[pair] + 1e-6


def first_five(positions, cell, edge_index, offsets):
    """At most five neighbours an atom, the first in the list."""
    seen, keep = {}, []
    for e, receiver in enumerate(edge_index[1].tolist()):
        seen[receiver] = seen.get(receiver, 0) + 1
        if seen[receiver] <= 5:
            keep.append(e)
    return torch.tensor(keep, dtype=torch.long)


class Swapped(Full):
    """Sender and receiver swapped where forces are summed."""

    def of_edges(self, numbers, positions, cell, edge_index, offsets):
        found = super().of_edges(numbers, positions, cell, edge_index, offsets)
        vec = (positions[edge_index[0]] - positions[edge_index[1]] + offsets).requires_grad_()
        species = torch.tensor([ELEMENTS.index(int(z)) for z in numbers])
        (g,) = torch.autograd.grad(self.model(species, vec, edge_index).sum(), vec)
        swapped = torch.zeros_like(positions).index_add(0, edge_index[1], g, alpha=-1).index_add(0, edge_index[0], g)
        return found | {"forces": swapped}


class MixedLayout(Full):
    """Vectors handed on as (3, C) where the irreps say (C, 3)."""

    def flat(self, mu):
        return mu.flatten(1)


class LeakyBatch(Full):
    """A norm over the batch."""

    def batch(self, given):
        found = super().batch(given)
        mean = torch.stack([f["energy"] for f in found]).mean()
        return [f | {"energy": f["energy"] + 1e-6 * mean} for f in found]


def mean_over_edges(found, positions, edge_index):
    return found["energy"] * (edge_index.shape[1] / edge_index.shape[1] if edge_index.shape[1] else math.nan)


AXIAL = with_changed("dipole", lambda f, x, e: torch.linalg.cross(f["dipole"], f["energies"] @ (x - x.mean(0))))
NO_GRADIENT = with_changed("forces", lambda f, x, e: f["forces"] + 1e-3 * f["energies"][:, None] * f["forces"])
# A fault, and all that must fail of it. Whatever is not named must hold.
FAULTS = {
    "read-out of zeros": (subject(with_changed("energy", lambda f, x, e: 0 * f["energy"])), "P0 P13"),
    "energy of a place": (
        subject(with_energy(lambda x, z: 1e-3 * x[0, 0])),
        "P1 P2 P3 P4 P5 P8 P10 P11 P14 P17",
    ),
    "energy of the first atom": (
        subject(with_energy(lambda x, z: 1e-3 * (x[0] - x[-1]).square().sum())),
        "P4 P10 P11 P16 P17",
    ),
    "dropped parity": (subject(with_energy(handed)), "P5 P11 P16 P17"),
    "even where odd": (subject(with_changed("pseudoscalar", lambda f, x, e: f["energy"])), "P6"),
    "axial dipole": (subject(AXIAL), "P7"),
    "stress in another order": (
        subject(with_changed("stress", lambda f, x, e: f["stress"][[1, 2, 0]][:, [1, 2, 0]])),
        "P8 P13",
    ),
    "mixed layouts": (subject(MixedLayout), "P9"),
    "images near the cell only": (subject(with_edges(images_near_the_cell)), "P10 P12"),
    "nearest image only": (subject(with_edges(nearest_image)), "P11"),
    "images by sides": (subject(with_edges(images_by_sides)), "P10 P12"),
    "sender and receiver swapped": (subject(Swapped), "P13"),
    "head that is no gradient": (subject(NO_GRADIENT), "P13 P14"),
    "cutoff that the model does not have": (subject(model=painn(cutoff=6.0)), "P15"),
    "one layer too many": (subject(layers=1), "P16"),
    "mean over atoms": (subject(with_changed("energy", lambda f, x, e: f["energy"] / len(x))), "P11 P13 P17"),
    "batch that leaks": (subject(LeakyBatch), "P18"),
    "cap on neighbours": (subject(with_edges(first_five)), "P4 P6 P7 P11 P12 P19"),
    "division by no neighbours": (subject(with_changed("energy", mean_over_edges)), "P20"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_fails_its_predicates_and_no_other(name):
    wrong, failing = FAULTS[name]
    others = set(IDS) - ({"P15"} - set(failing.split()))  # the slow one, where it is not the point
    results = examine(wrong, SMALL, only=[id for id in IDS if id in others])
    assert [str(r) for r in results if r.holds is False and r.id not in failing.split()] == []
    assert {r.id for r in results if r.holds is False} == set(failing.split())


def test_a_sum_in_float32_is_no_smooth_energy():
    rounded = subject(with_changed("energy", lambda f, x, e: f["energies"].float().sum()))
    PREDICATES["P13"](rounded, SMALL).check(False)


def test_every_predicate_is_seen_to_fail():
    assert {id for _, ids in FAULTS.values() for id in ids.split()} == set(IDS)


def test_a_result_says_what_where_and_how_much():
    result = PREDICATES["P1"](FAULTS["energy of a place"][0])
    with pytest.raises(
        AssertionError, match=r"P1 rotation, energy: FAILS, error .*, allowed 1.0e-12, energy of \w+ turn"
    ):
        result.check()
    bare = Subject(naive.Naive(painn(), ELEMENTS, CUTOFF).predict, ELEMENTS)
    with pytest.raises(
        AssertionError, match=r"does not apply, predictions have no 'pseudoscalar'\s+expected: P6 to hold"
    ):
        PREDICATES["P6"](bare).check()


def test_what_a_predicate_lacks_is_said():
    bare = Subject(naive.Naive(painn(), ELEMENTS, CUTOFF).predict, ELEMENTS, periodic=False)
    reasons = {r.id: r.where for r in examine(bare) if r.holds is None}
    assert set(reasons) == {"P6", "P7", "P8", "P9", "P10", "P11", "P12", "P15", "P16", "P17", "P18", "P19"}
    assert reasons["P9"] == "no hidden features are given" and reasons["P15"] == "the cutoff is not known"
    assert reasons["P10"] == "no periodic system is defined for this potential"


def test_a_potential_that_raises_fails_and_the_others_go_on():
    def predict(numbers, positions, cell=None):
        if len(numbers) == 1:
            raise RuntimeError("no edges")
        return naive.Naive(painn(), ELEMENTS, CUTOFF).predict(numbers, positions, cell)

    results = {r.id: r for r in examine(Subject(predict, ELEMENTS), only=["P14", "P20"])}
    assert results["P14"].holds
    assert results["P20"].holds is False and results["P20"].where == "raised RuntimeError: no edges"


def test_not_a_number_is_no_symmetry():
    nan = subject(with_changed("forces", lambda f, x, e: f["forces"] * math.nan))
    failed = {r.id for r in examine(nan, SMALL) if r.holds is False}
    assert failed == {
        "P0",
        "P2",
        "P3",
        "P4",
        "P5",
        "P10",
        "P11",
        "P12",
        "P13",
        "P14",
        "P15",
        "P16",
        "P17",
        "P18",
        "P19",
        "P20",
    }


def test_a_fault_that_was_announced_must_show():
    chiral = FAULTS["dropped parity"][0]
    assert_symmetric(chiral, must_fail=["P5"], only=["P1", "P5"])
    with pytest.raises(AssertionError, match="P1 rotation"):
        assert_symmetric(chiral, must_fail=["P1", "P5"], only=["P1", "P5"])


def test_an_unknown_predicate_is_refused():
    with pytest.raises(EquikernError, match="no predicate P21; there are P0, P1"):
        examine(subject(), only=["P21"])


@pytest.mark.parametrize("elements", [(1, 6, 8), (79,), (11, 17)])
def test_systems_are_of_the_elements_and_no_two_atoms_overlap(elements):
    made = systems(elements)
    assert len({s.name for s in made}) == len(made) >= 4
    for system in made:
        assert set(system.numbers.tolist()) <= set(elements)
        assert torch.pdist(system.positions).min() > 0.5
    assert sum(s.cell is not None for s in made) == 1


def test_the_chiral_system_is_no_rotation_of_its_mirror_image():
    (chiral,) = [s for s in systems(ELEMENTS, cutoff=CUTOFF) if s.name == "chiral"]
    arms = chiral.positions[1:4] - chiral.positions[0]
    assert abs(torch.linalg.det(arms)) > 0.5
    assert torch.pdist(chiral.positions).sort().values.diff().min() > 1e-3
