"""Every model against every predicate, pinned: + holds, - must fail, . does not apply. To add a model is a line."""

import pytest
import torch
from torch import nn

from equikern.cli import clients, zoo
from equikern.testing.symmetry import examine, systems

#     P0 to P20              0         1         2
EVERY = {torch.float64: "++++++..+++++++++++++", torch.float32: "++++++..+++++.+.+++++"}
TABLE = {
    "schnet": EVERY,
    "deeppot-se": {torch.float64: "++++++..+.+++++++++++", torch.float32: "++++++..+.+++.+.+++++"},
    "painn": {torch.float64: "++++++.++++++++++++++", torch.float32: "++++++.++++++.+.+++++"},
    "spherenet": {torch.float64: "+++++-..+-+++-+++++++", torch.float32: "+++++-..+-+++.+.+++++"},
    "leftnet": {torch.float64: "++++++...+...+++--+++", torch.float32: "++++++...+....+.--+++"},
    "tfn": EVERY,
    "tfn-se3": {torch.float64: "+++++-..+-+++++++++++", torch.float32: "+++++-..+-+++.+.+++++"},
    "se3-transformer": EVERY,
    "nequip": EVERY,
    "mace": EVERY,
}
# Why a predicate does not apply. Why one fails is in `zoo`.
REASONS = {
    "predictions have no 'pseudoscalar'": ["P6"],
    "predictions have no 'dipole'": ["P7"],
    "no hidden features are given": ["P9"],  # DeepPot-SE has one descriptor, which is invariant
    "no periodic system is defined for this potential": ["P8", "P10", "P11", "P12"],  # LEFTNet: frames need a centroid
    "finite differences need float64": ["P13", "P15"],
}
SMALL = [s for s in systems(zoo.ELEMENTS, cutoff=zoo.CUTOFF) if s.name in ("C2OH6", "chiral", "crystal")]


@pytest.mark.parametrize("dtype", EVERY, ids=str)
@pytest.mark.parametrize("name", TABLE)
def test_the_symmetries_of_a_model_are_as_pinned(name, dtype):
    entry = zoo.ZOO[name]
    subject = clients.of_potential(entry.potential(dtype), entry.layers, entry.periodic)
    results = examine(subject, SMALL)
    pinned = dict(zip([r.id for r in results], TABLE[name][dtype], strict=True))
    wrong = [str(r) for r in results if {True: "+", False: "-", None: "."}[r.holds] != pinned[r.id]]
    assert wrong == []
    assert {r.id for r in results if r.holds is False} == {r.id for r in results if r.holds is not None} & set(
        entry.must_fail
    )
    assert all(r.id in REASONS[r.where] for r in results if r.holds is None)


def test_every_model_has_its_line():
    assert set(TABLE) == set(zoo.ZOO)


class Faulty(nn.Module):
    """A model with a term of the neighbours added to its atomic energies."""

    def __init__(self, model, term):
        super().__init__()
        self.model, self.term, self.config = model, term, model.config
        self.uses_positions = getattr(model, "uses_positions", False)

    def forward(self, species, edge_vec, edge_index, graph=None, **absolute):
        r = edge_vec.norm(dim=1, keepdim=True)
        fading = torch.cat([edge_vec * (1 - r / zoo.CUTOFF) ** 3 * r**k for k in range(3)], 1)
        sums = edge_vec.new_zeros(len(species), 9).index_add(0, edge_index[1], fading).unflatten(1, (3, 3))
        return self.model(species, edge_vec, edge_index, graph, **absolute) + 1e-2 * self.term(sums)


# Sums over neighbours (N, 3, 3), three vectors an atom, to energies; what must fail, what must hold.
FAULTS = {
    "one direction": (lambda v: v[:, 0, 0] ** 2, {"P1", "P2", "P5", "P8", "P14"}),
    "one hand": (torch.linalg.det, {"P5"}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", TABLE)
def test_a_fault_planted_in_a_model_is_caught(name, fault):
    entry, (term, failing) = zoo.ZOO[name], FAULTS[fault]
    potential = entry.potential()
    potential.model = Faulty(potential.model, term)
    subject = clients.of_potential(potential, entry.layers, entry.periodic)
    results = examine(subject, SMALL[1:], only=["P1", "P2", "P3", "P4", "P5", "P8", "P14"])
    applies = {r.id for r in results if r.holds is not None}
    assert {r.id for r in results if r.holds is False} == failing & applies
