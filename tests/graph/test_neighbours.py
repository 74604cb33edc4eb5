"""Neighbour lists against a loop over all images; lists with a skin; what is refused."""

import itertools
import sys

import pytest
import torch

from equikern.errors import EquikernError, ShapeError
from equikern.graph import VerletList, neighbours

CUTOFF = 3.0
CELLS = {
    "wide": [[9.0, 0, 0], [0, 8, 0], [0, 0, 10]],
    "thinner than the cutoff": [[1.4, 0, 0], [0, 6, 0], [0, 0, 2.1]],
    "triclinic": [[4.0, 0, 0], [2.5, 3.1, 0], [-1.7, 1.2, 3.6]],
    "left-handed": [[0, 5.0, 0], [4, 0, 0], [0.5, 0, 5]],
    "skewed": [[3.1, 0, 0], [8.7, 3.2, 0], [0, 0, 4]],
}


def draw(atoms, scale, seed=0):
    return torch.randn(atoms, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def by_loop(positions, cell, pbc, reach=40):
    """(sender, receiver, shift) of all edges: every image whose height above the planes of the cell allows it."""
    inverse = torch.linalg.inv(cell)
    widest = (positions @ inverse).max(0).values - (positions @ inverse).min(0).values
    counts = [int(n) + 1 if p else 0 for n, p in zip(widest + CUTOFF * inverse.norm(dim=0), pbc, strict=True)]
    assert max(counts) < reach
    found = set()
    for shift in itertools.product(*(range(-n, n + 1) for n in counts)):
        offset = torch.tensor(shift, dtype=torch.float64) @ cell
        near = (positions[None] + offset - positions[:, None]).norm(dim=2) < CUTOFF
        found |= {(j, i, *shift) for i, j in near.nonzero().tolist() if i != j or any(shift)}
    return found


def as_set(found):
    edges = torch.cat([found.edge_index, found.shifts.T]).T.tolist()
    assert len({tuple(edge) for edge in edges}) == len(edges)
    return {tuple(edge) for edge in edges}


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
@pytest.mark.parametrize("scale", [1.5, 9.0], ids=["near", "unwrapped"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_the_edges_are_those_of_a_loop_over_images(cell, scale, pbc):
    positions, cell = draw(4, scale), torch.tensor(cell, dtype=torch.float64)
    found = neighbours(positions, CUTOFF, cell, pbc)
    assert as_set(found) == by_loop(positions, cell, pbc)
    lengths = found.vectors(positions, cell).norm(dim=1)
    assert (lengths < CUTOFF).all()


def test_rows_of_the_cell_that_are_not_periodic_say_nothing():
    positions, cell = draw(4, 1.5), torch.tensor(CELLS["thinner than the cutoff"], dtype=torch.float64)
    expected = by_loop(positions, cell, (True, False, True))
    for row in (torch.zeros(3), cell[0].clone(), torch.tensor([0.1, 30.0, 0.2])):
        cell[1] = row
        assert as_set(neighbours(positions, CUTOFF, cell, (True, False, True))) == expected


def test_one_atom_is_its_own_neighbour_in_a_small_cell():
    found = neighbours(torch.zeros(1, 3), 1.1, torch.eye(3))
    assert as_set(found) == {(0, 0, *s) for s in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, s)) == 1}


def test_vectors_point_from_receiver_to_sender():
    positions = torch.tensor([[0.0, 0, 0], [0, 0, 2.5]])
    found = neighbours(positions, 1.0, 3 * torch.eye(3))
    sender, receiver = found.edge_index
    at_0 = receiver == 0
    assert sender[at_0].tolist() == [1]
    torch.testing.assert_close(found.vectors(positions, 3 * torch.eye(3))[at_0], torch.tensor([[0, 0, -0.5]]))


def test_crystals_and_molecules_mix_in_a_batch():
    crystal, molecule = draw(3, 2.0), draw(4, 1.0, seed=1)
    cell = torch.stack([torch.tensor(CELLS["triclinic"]), torch.zeros(3, 3)]).double()
    order = torch.tensor([3, 0, 4, 1, 5, 2, 6])
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1])[order]
    positions = torch.cat([crystal, molecule])[order]
    found = neighbours(positions, CUTOFF, cell, batch=batch)
    alone = by_loop(crystal, cell[0], [True] * 3)
    alone |= {(j + 3, i + 3, *s) for j, i, *s in by_loop(molecule, torch.eye(3).double(), [False] * 3)}
    place = torch.argsort(order).tolist()
    assert as_set(found) == {(place[j], place[i], *s) for j, i, *s in alone}
    assert (found.vectors(positions, cell, batch).norm(dim=1) < CUTOFF).all()


@pytest.mark.parametrize("atoms", [0, 1])
def test_few_atoms_have_no_edges(atoms):
    found = neighbours(torch.zeros(atoms, 3), CUTOFF)
    assert found.edge_index.shape == (2, 0) and found.shifts.shape == (0, 3)


@pytest.mark.parametrize("cell", [None, *CELLS.values()], ids=["none", *CELLS])
def test_a_list_with_a_skin_gives_the_edges_of_a_new_list(cell):
    positions = draw(6, 1.2)
    cell = None if cell is None else torch.tensor(cell, dtype=torch.float64)
    listed = VerletList(CUTOFF, skin=0.6)
    for step in range(30):
        positions = positions + 0.05 * draw(6, 1.0, seed=step)
        assert as_set(listed(positions, cell)) == as_set(neighbours(positions, CUTOFF, cell))
    assert 1 < listed.searches < 20


def test_a_list_with_a_skin_is_searched_when_it_must_be():
    positions, cell = draw(5, 1.0), 6 * torch.eye(3, dtype=torch.float64)
    listed = VerletList(CUTOFF, skin=0.5)
    first = listed(positions, cell)
    assert listed(positions + 0.2499 / 3**0.5, cell) is first  # the same edges are inside: the same plan
    assert listed.searches == 1
    for changed in (
        (positions + torch.tensor([0.2501, 0, 0]), cell),
        (positions + torch.tensor([0.2501, 0, 0]), cell * 1.001),
        (positions[:4], cell * 1.001),
        (positions[:4], cell * 1.001, (True, True, False)),
        (positions[:4], None),
    ):
        before = listed.searches
        listed(*changed)
        assert listed.searches == before + 1


def test_a_list_without_edges_is_a_list():
    listed = VerletList(CUTOFF, skin=0.5)
    assert as_set(listed(torch.zeros(1, 3))) == set()
    pair = torch.tensor([[0.0, 0, 0], [0, 0, 1]])
    assert len(as_set(listed(pair))) == 2
    assert as_set(listed(pair * 9)) == set()
    assert len(as_set(listed(pair.double()))) == 2


def test_a_list_serves_batches():
    positions, batch = draw(8, 1.0), torch.arange(8) % 2
    listed = VerletList(CUTOFF, skin=0.5)
    for step in range(4):
        positions = positions + 0.03 * draw(8, 1.0, seed=step)
        assert as_set(listed(positions, batch=batch)) == as_set(neighbours(positions, CUTOFF, batch=batch))
    assert listed.searches == 1
    assert as_set(listed(positions, batch=1 - batch)) == as_set(neighbours(positions, CUTOFF, batch=batch))
    assert listed.searches == 2


def test_a_list_is_not_fooled_by_positions_changed_in_place():
    positions = draw(5, 1.0)
    listed = VerletList(CUTOFF, skin=0.5)
    listed(positions)
    positions[0] += 2.0
    assert as_set(listed(positions)) == as_set(neighbours(positions, CUTOFF))


def test_without_vesin_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vesin", None)
    with pytest.raises(EquikernError, match="pip install vesin"):
        neighbours(torch.zeros(1, 3), CUTOFF)


REFUSED = {
    "positions": (dict(positions=torch.zeros(3)), ShapeError, "expected \\(N, 3\\)"),
    "integer positions": (dict(positions=torch.zeros(3, 3, dtype=torch.int64)), ShapeError, "floating point"),
    "nan": (dict(positions=torch.tensor([[0, 0, 0], [0, torch.nan, 0]])), EquikernError, "atom 1 is .*nan"),
    "flat cell": (dict(cell=torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])), EquikernError, "no volume"),
    "zero cell": (dict(cell=torch.zeros(3, 3), pbc=True), EquikernError, "no volume"),
    "no cell": (dict(pbc=True), EquikernError, "no volume"),
    "nan cell": (dict(cell=torch.full((3, 3), torch.nan)), EquikernError, "no volume"),
    "cell shape": (dict(cell=torch.ones(3)), ShapeError, "\\(B, 3, 3\\)"),
    "pbc shape": (dict(cell=torch.eye(3), pbc=(True, False)), ShapeError, "one bool"),
    "batch shape": (dict(batch=torch.zeros(3, dtype=torch.int64)), ShapeError, "one for each atom"),
    "batch range": (dict(cell=torch.eye(3).expand(2, 3, 3), batch=torch.tensor([0, 2])), ShapeError, "2 structures"),
    "cutoff": (dict(cutoff=0.0), EquikernError, "above 0"),
}


@pytest.mark.parametrize(("given", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_searched_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        neighbours(**({"positions": torch.eye(3)[:2], "cutoff": 1.0} | given))


@pytest.mark.parametrize(("given", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_a_list_in_use_refuses_what_cannot_be_searched(given, error, words):
    if "cutoff" in given:
        pytest.skip("the cutoff is the list's")
    listed, positions = VerletList(1.0), torch.eye(3)[:2]
    listed(positions, torch.eye(3))
    with pytest.raises(error, match=words):
        listed(**({"positions": positions} | given))
