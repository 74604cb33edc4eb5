"""SphereNet is the published network, edge by edge; periodic cells; the sense of its torsions."""

import pytest
import torch
from torch.nn.functional import silu

from equikern.models import SphereNet, SphereNetConfig
from equikern.ops import radial

CUTOFF, F64 = 3.0, torch.float64
CONFIG = SphereNetConfig(
    CUTOFF, 5, layers=2, channels=6, inner=5, narrow=3, output=7, output_layers=2, num_basis=3, degrees=3
)
# Neighbours in general position, so that the published torsions are meant.
POSITIONS = torch.tensor([[0.0, 0.1, 0.0], [1.2, 0.3, -0.2], [-0.4, 1.3, 0.5], [-0.6, -0.8, 1.1]], dtype=F64)
EDGES = (~torch.eye(4, dtype=torch.bool)).nonzero().T


def build(config=CONFIG):
    model = SphereNet(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def turn(axis, q, other):
    """The angle, right-handed about the axis, from q to the other, in (0, 2 pi]."""
    axis = axis / axis.norm()
    a, b = torch.linalg.cross(axis, q), torch.linalg.cross(axis, other)
    angle = torch.atan2(axis.dot(torch.linalg.cross(a, b)), a.dot(b))
    return angle if angle > 0 else angle + 2 * torch.pi


def by_edges(model, species, positions):
    """Energies by loops over edges and their pairs; the harmonics of order m from cos and sin of m phi."""
    special = pytest.importorskip("scipy.special", reason="scipy is not installed")
    pairs = [(int(s), int(r)) for s, r in EDGES.T]
    apart = {(s, r): positions[s] - positions[r] for s, r in pairs}
    envelope = {e: radial.polynomial_cutoff(v.norm(), CUTOFF) for e, v in apart.items()}
    bases, messages = {}, {}
    for (s, r), v in apart.items():
        t = v.norm() / CUTOFF
        bases[s, r] = envelope[s, r] * (t * model.basis.frequency).sin() / t
        x = model.initial.embedding.weight
        parts = [x[species[r]], x[species[s]], silu(model.initial.basis(bases[s, r]))]
        messages[s, r] = silu(model.initial.mix(torch.cat(parts)))

    def angular(q, s, r):
        axis = positions[r] - positions[s]
        to_q = positions[q] - positions[s]
        theta = torch.atan2(torch.linalg.cross(axis, to_q).norm(), axis.dot(to_q))
        others = [turn(axis, to_q, positions[o] - positions[s]) for o in range(4) if o not in (q, s, r)]
        phi = min(others)
        bessel = envelope[q, s] * radial.spherical_bessel(apart[q, s].norm(), CONFIG.degrees, CONFIG.num_basis, CUTOFF)
        angles, torsions = [], []
        for l in range(CONFIG.degrees):  # noqa: E741
            for m in range(-l, l + 1):
                y = special.sph_harm_y(l, abs(m), float(theta), float(phi)) * (-1) ** m * 2 ** (0.5 * (m != 0))
                torsions.append(bessel[l] * float(y.imag if m < 0 else y.real))
                if m == 0:
                    angles.append(torsions[-1])
        return torch.cat(angles), torch.cat(torsions)

    energy = torch.zeros(4, dtype=F64)

    def read(output):
        for i in range(4):
            v = sum(output.radial(bases[e]) * messages[e] for e in pairs if e[1] == i)
            energy[i] += output.net(v)[0]

    read(model.outputs[0])
    for layer, output in zip(model.layers, model.outputs[1:], strict=True):
        new = {}
        for s, r in pairs:
            total = torch.zeros(CONFIG.inner, dtype=F64)
            for q in set(range(4)) - {s, r}:
                angles, torsions = angular(q, s, r)
                x = silu(layer.down(silu(layer.neighbour(messages[q, s])) * layer.radial(bases[q, s])))
                total += x * layer.angle(angles) * layer.torsion(torsions)
            m = silu(layer.own(messages[s, r])) + silu(layer.up(total))
            new[s, r] = layer.after(silu(layer.skip(layer.before(m))) + messages[s, r])
        messages.update(new)
        read(output)
    return energy


def test_energies_are_the_published_ones_edge_by_edge():
    model, species = build(), torch.tensor([0, 3, 1, 2])
    got = model(species, POSITIONS[EDGES[0]] - POSITIONS[EDGES[1]], EDGES)
    torch.testing.assert_close(got, by_edges(model, species, POSITIONS), rtol=1e-11, atol=1e-11)
    assert got.abs().max() > 1e-2


def images(positions, cell):
    """Edges within the cutoff between atoms and periodic images: (edge_index, edge_vec)."""
    edges, vectors = [], []
    for shift in torch.cartesian_prod(*[torch.arange(-2, 3, dtype=F64)] * 3):
        vec = positions[:, None] + shift @ cell - positions[None]  # [sender, receiver]
        length = vec.norm(dim=2)
        found = ((length < CUTOFF) & (length > 1e-9)).nonzero()
        edges.append(found)
        vectors.append(vec[found[:, 0], found[:, 1]])
    return torch.cat(edges).T, torch.cat(vectors)


def test_a_supercell_has_twice_the_energy_also_where_atoms_see_their_own_images():
    model, species = build(), torch.tensor([0, 1])
    cell = torch.tensor([[2.1, 0.1, 0], [0.2, 2.4, 0.1], [0, 0.3, 2.7]], dtype=F64)
    positions = torch.tensor([[0.0, 0, 0], [1.0, 1.1, 0.9]], dtype=F64)
    edges, vec = images(positions, cell)
    assert (edges[0] == edges[1]).any()
    double = torch.cat([positions, positions + cell[0]])
    double_edges, double_vec = images(double, cell * torch.tensor([[2.0], [1], [1]], dtype=F64))
    energy = model(species, vec, edges)
    got = model(species.repeat(2), double_vec, double_edges)
    torch.testing.assert_close(got, energy.repeat(2), rtol=1e-11, atol=1e-11)


def test_the_sense_of_torsions_is_right_handed():
    # Seen along s -> r, z: q at 0, another at 90 degrees. Right-handed, its turn is a quarter; mirrored, three.
    axis, q = torch.tensor([0, 0, 1.0]), torch.tensor([1.0, 0, 0.2])
    assert turn(axis, q, torch.tensor([0, 1.0, 0.1])) == pytest.approx(torch.pi / 2)
