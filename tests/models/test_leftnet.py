"""LEFTNet is the paper's formulas, edge by edge; what its centroid costs; what it refuses."""

from math import sqrt

import pytest
import torch

from equikern.errors import EquikernError, ShapeError
from equikern.models import LEFTNet, LEFTNetConfig
from equikern.models.leftnet import edge_frames
from equikern.ops import radial

CUTOFF = 3.0
CONFIG = LEFTNetConfig(CUTOFF, 5, layers=2, channels=5, num_basis=6)


def molecule(atoms=5):
    """Species, positions, all pairs."""
    positions = 2 * torch.rand(atoms, 3, dtype=torch.float64)
    return torch.arange(atoms) % 5, positions, (~torch.eye(atoms, dtype=torch.bool)).nonzero().T


def call(model, species, positions, edges, **keywords):
    return model(species, positions[edges[0]] - positions[edges[1]], edges, positions=positions, **keywords)


def by_edges(model, species, positions, edges):
    """Atomic energies by loops over edges and atoms, from the formulas."""
    c, eps, atoms = CONFIG.channels, CONFIG.epsilon, len(species)
    x = positions - positions.mean(0)
    pairs = [(int(j), int(i)) for j, i in edges.T]
    zeros = lambda *shape: torch.zeros(*shape, dtype=torch.float64)  # noqa: E731
    u, frames, basis, hidden, envelope = {}, {}, {}, {}, {}
    for e in pairs:
        vec = x[e[0]] - x[e[1]]
        u[e] = vec / vec.norm()
        normal = torch.linalg.cross(x[e[0]], x[e[1]])
        normal = normal / (normal.dot(normal) + eps).sqrt()
        frames[e] = (u[e], normal, torch.linalg.cross(u[e], normal))
        basis[e] = radial.exp_normal(vec.norm(), CONFIG.num_basis, CUTOFF)
        envelope[e] = 0.5 * (1 + (torch.pi * vec.norm() / CUTOFF).cos()) if vec.norm() < CUTOFF else 0.0
        hidden[e] = model.radial(basis[e]) * envelope[e]
    s, structures = model.embedding(species), zeros(atoms, 3, c)
    s = torch.stack(
        [
            s[i] + sum(hidden[e] * model.neighbour_embedding(species[e[0]]) for e in pairs if e[1] == i)
            for i in range(atoms)
        ]
    )
    for e in pairs:
        structures[e[1]] += u[e][:, None] * hidden[e] * model.structure.senders(s[e[0]])
    edge_features = {}
    for e in pairs:
        ends = []
        for atom in (e[1], e[0]):
            p = torch.stack([axis @ structures[atom] for axis in frames[e]])  # (3, C)
            p[1] = (p[1] ** 2 + eps).sqrt() - sqrt(eps)
            ends.append(model.structure.read(p.T)[:, 0] + p[0])
        edge_features[e] = torch.cat([torch.cat(ends) * envelope[e], hidden[e], basis[e]])
    vec = zeros(atoms, 3, c)
    for message, update in zip(model.messages, model.updates, strict=True):
        ds, dvec = zeros(atoms, c), zeros(atoms, 3, c)
        for e in pairs:
            m = message.phi(s[e[0]]) * message.filter(basis[e]) * message.structure(edge_features[e])
            m1, m3, m2 = m.split(c)
            ds[e[1]] += m1
            dvec[e[1]] += (m3 * u[e][:, None] + m2 * vec[e[0]] / sqrt(3)) / sqrt(c)
        s, vec = s + ds, vec + dvec
        v1, v2 = update.mix(vec).split(c, 2)
        x1, x2, x3 = update.net(torch.cat([s, ((v1**2).sum(1) + eps).sqrt()], 1)).split(c, 1)
        s, vec = s + (x1 + x2 + (v1 * v2).sum(1) / sqrt(c)) / sqrt(2), vec + x3[:, None] * v2
    return model.readout(s)[:, 0]


def test_energies_are_the_papers_edge_by_edge():
    model, given = LEFTNet(CONFIG).double(), molecule()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    torch.testing.assert_close(call(model, *given), by_edges(model, *given), rtol=1e-12, atol=1e-12)


def test_frames_are_right_handed_and_orthogonal_where_the_centroid_is_not_in_line():
    sender, receiver = torch.randn(2, 20, 3, dtype=torch.float64)
    direction = torch.nn.functional.normalize(sender - receiver, dim=1)
    frames = edge_frames(direction, sender, receiver, 1e-20)
    torch.testing.assert_close(frames @ frames.mT, torch.eye(3).double().expand(20, 3, 3), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones(20).double(), rtol=1e-9, atol=1e-9)


def test_frames_of_edges_in_line_with_the_centroid_keep_only_the_direction():
    sender = torch.tensor([[1.0, 2.0, 3.0]])
    direction = torch.nn.functional.normalize(sender, dim=1)
    assert torch.equal(edge_frames(direction, sender, -sender, 1e-2)[0, 1:], torch.zeros(2, 3))


def test_far_atoms_change_the_energy_through_the_centroid():
    model, (species, positions, edges) = LEFTNet(CONFIG).double(), molecule()
    far = torch.cat([positions, torch.full((1, 3), 50.0, dtype=torch.float64)])
    alone = call(model, species, positions, edges)
    assert (call(model, torch.cat([species, species[:1]]), far, edges)[:5] - alone).abs().max() > 1e-8


def test_periodic_edges_and_missing_positions_are_refused():
    model, (species, positions, edges) = LEFTNet(CONFIG).double(), molecule()
    vec = positions[edges[0]] - positions[edges[1]]
    vec[3, 0] += 8.0
    with pytest.raises(EquikernError, match="periodic systems have no centroid"):
        model(species, vec, edges, positions=positions)
    with pytest.raises(ShapeError, match=r"needs? positions \(N, 3\)"):
        model(species, vec, edges)
    with pytest.raises(ShapeError, match="batch"):
        call(model, species, positions, edges, batch=torch.zeros(3, dtype=torch.int64))
