"""Pairs of geometric graphs: what is said of them is true, counted here by other means, and what a separation is."""

from collections import Counter
from itertools import combinations, permutations

import pytest
import torch

from equikern.ops import spherical_harmonics
from equikern.testing.expressivity import Pair, Shape, load, pairs, separation, to_json

# Column, neighbours of one atom that are seen at once, and whether their handedness is.
BODIES = {
    "deeppot_se_3body_centre": (2, False),
    "centre_4body_O3": (3, False),
    "centre_4body_SO3": (3, True),
    "centre_5body_O3": (4, False),
    "centre_5body_SO3": (4, True),
}
OURS = pairs()


def close(x):
    """Rounded, for equality."""
    return tuple((torch.as_tensor(x) + 1e-9).mul(1e6).round().long().flatten().tolist())


def environments(shape, count, handed):
    """Of each atom, the multiset of its neighbours taken `count` at a time: species, inner products, handedness."""
    sender, receiver = shape.edge_index
    found = Counter()
    for centre in range(len(shape.species)):
        around = sender[receiver == centre].tolist()
        sets = Counter(
            canonical(shape, centre, chosen, handed) for chosen in combinations(around, min(count, len(around)))
        )
        found[int(shape.species[centre]), frozenset(sets.items())] += 1
    return found


def canonical(shape, centre, chosen, handed):
    """The same for every order of the chosen neighbours and every rotation."""
    v = shape.positions[list(chosen)] - shape.positions[centre]
    gram, species = v @ v.T, shape.species[list(chosen)]
    forms = []
    for order in map(list, permutations(range(len(chosen)))):
        sign = (
            [close(torch.linalg.det(v[order][list(t)])) for t in combinations(range(len(chosen)), 3)] if handed else []
        )
        forms.append((tuple(species[order].tolist()), close(gram[order][:, order]), tuple(sign)))
    return min(forms)


def colours(shape):
    """What distances alone tell at any depth: colours of atoms, refined by the distances to coloured neighbours."""
    sender, receiver = shape.edge_index
    length = [close(d) for d in (shape.positions[sender] - shape.positions[receiver]).norm(dim=1)]
    colour = [hash(int(z)) for z in shape.species]
    for _ in range(len(colour)):
        around = [Counter() for _ in colour]
        for s, r, d in zip(sender.tolist(), receiver.tolist(), length, strict=True):
            around[r][colour[s], d] += 1
        colour = [hash((c, frozenset(n.items()))) for c, n in zip(colour, around, strict=True)]
    return Counter(colour)


def check(pair):
    """Every column of bodies and distances, counted."""
    said = {c: v for c, v in pair.separated_by.items() if c in BODIES}
    counted = {c: environments(pair.a, *BODIES[c]) != environments(pair.b, *BODIES[c]) for c in said}
    assert counted == said
    assert (colours(pair.a) != colours(pair.b)) is pair.separated_by.get("schnet_any_depth", False)


@pytest.mark.parametrize("pair", OURS, ids=lambda p: p.id)
def test_what_is_said_of_our_pairs_is_so_by_counting(pair):
    check(pair)


def test_what_is_said_of_the_data_is_so_by_counting(data_dir):
    for pair in load(data_dir / "expressivity" / "pairs.json"):
        check(pair)


@pytest.mark.parametrize("pair", [p for p in OURS if p.separated_by["congruent_O3"]], ids=lambda p: p.id)
def test_congruent_pairs_have_the_same_distances(pair):
    assert torch.allclose(torch.pdist(pair.a.positions).sort().values, torch.pdist(pair.b.positions).sort().values)


def test_pairs_are_written_and_read(tmp_path):
    (tmp_path / "pairs.json").write_text(to_json(OURS))
    for got, pair in zip(load(tmp_path / "pairs.json"), OURS, strict=True):
        assert got.id == f"{pair.id} a-b" and got.separated_by == pair.separated_by
        for a, b in ((got.a, pair.a), (got.b, pair.b)):
            assert torch.equal(a.positions, b.positions) and torch.equal(a.edge_index, b.edge_index)


def test_a_scaled_pair_keeps_its_shape():
    pair = OURS[0].scaled(3.0)
    sender, receiver = pair.a.edge_index
    assert torch.allclose(
        (pair.a.positions[sender] - pair.a.positions[receiver]).norm(dim=1), torch.tensor(3.0).double()
    )
    assert torch.allclose(pair.b.positions, 3 * OURS[0].b.positions)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_sum_over_a_ring_is_round_below_its_order(k):
    def summed(turn, degree):
        phi = 2 * torch.pi * (torch.arange(k, dtype=torch.float64) + turn) / k
        ring = torch.stack([phi.cos(), phi.sin(), 0 * phi], 1)
        return spherical_harmonics([degree], ring, True, "component").sum(0)

    seen = [degree for degree in range(k + 1) if (summed(0.4, degree) - summed(0.0, degree)).norm() > 1e-10]
    assert seen == [k]


def lengths(_):
    """A model of bond lengths, of every seed."""

    def model(species, edge_vec, edge_index):
        return torch.zeros(len(species), dtype=torch.float64).index_add(
            0, edge_index[1], edge_vec.norm(dim=1) * species[edge_index[0]]
        )

    return model


def test_a_difference_counts_above_rounding_only():
    a = OURS[0].a
    longer = Pair("longer", a, Shape(a.species, a.positions * (1 + 1e-10), a.edge_index), {})
    same = Pair("same", a, a.moved(torch.Generator().manual_seed(1)), {})
    assert separation(lengths, longer).separated
    assert not separation(lengths, same).separated


def test_a_model_that_is_not_symmetric_separates_nothing():
    def place(seed):
        def model(species, edge_vec, edge_index):
            return lengths(seed)(species, edge_vec, edge_index).index_add(0, edge_index[1], edge_vec[:, 1].exp())

        return model

    found = separation(place, next(p for p in OURS if p.id.startswith("tree")))
    assert found.difference > 1e-6 and not found.separated
