"""LEFTNet: local substructures in frames of edges, and messages between them.

Source: W. Du, Y. Du, L. Wang, D. Feng, G. Wang, S. Ji, C. Gomes, Z.-M. Ma, "A new perspective on building efficient
and expressive 3D equivariant graph neural networks", NeurIPS 2023 (arXiv:2304.04757). Different from the public code:
forces are the gradient of the energy alone, without its direct head; frames and |.| fade smoothly, by `epsilon`, where
an edge is in line with the centroid or a vector lies in the frame's plane, where the public code has jumps or NaN; the
filters of messages have no bias, so that they vanish at the cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError, ShapeError
from equikern.graph import Graph
from equikern.models._checks import check_sizes
from equikern.models._parts import inputs
from equikern.nn import Convolution, PaiNNMessage, SchNetMessage
from equikern.ops import radial, spherical_harmonics


@dataclass(frozen=True)
class LEFTNetConfig:
    """Sizes of a LEFTNet.

    cutoff in angstrom (the exponential-normal basis has a scale of its own); channels of scalars and of vectors;
    epsilon smooths directions and absolute values at zero: angstrom^4 for the frames' normals.
    """

    cutoff: float = 5.0
    num_species: int = 100
    layers: int = 4
    channels: int = 128
    num_basis: int = 32
    epsilon: float = 1e-2

    def __post_init__(self) -> None:
        check_sizes(self, ("num_species", "layers", "channels", "num_basis"), ("cutoff", "epsilon"))


class Structure(nn.Module):
    """Local structures S_i = sum over j of u_ij f(r_ij) silu(W s_j), of both ends of an edge, read in its frame."""

    def __init__(self, config: LEFTNetConfig) -> None:
        super().__init__()
        c, self.epsilon = config.channels, config.epsilon
        self.senders = nn.Sequential(nn.Linear(c, c), nn.SiLU())
        self.sum = Convolution(f"{c}x0e", "1o", f"{c}x1o", [(0, 0, 0, "uvu", True)], layout="ir_mul")
        hidden = max(1, c // 4)
        self.read = nn.Sequential(nn.Linear(3, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(
        self, s: Tensor, hidden: Tensor, direction: Tensor, centred: Tensor, graph: Graph, edge_index: Tensor
    ) -> Tensor:
        """s (N, C), hidden (E, C), direction (E, 3), positions about the centroid (N, 3) -> (E, 2C)."""
        frames = edge_frames(direction, centred[graph.sender], centred[graph.receiver], self.epsilon)
        vectors = self.sum(self.senders(s), direction, hidden, edge_index, graph).unflatten(1, (3, -1))  # (N, 3, C)
        ends = [self._scalars(frames, vectors[rows]) for rows in (graph.receiver, graph.sender)]
        return torch.cat(ends, 1)

    def _scalars(self, frames: Tensor, vectors: Tensor) -> Tensor:
        p = torch.einsum("eki,eic->eck", frames, vectors)  # (E, C, 3): components along the frame
        # The normal changes sign in a mirror.
        normal = (p[..., 1].square() + self.epsilon).sqrt() - sqrt(self.epsilon)
        p = torch.stack([p[..., 0], normal, p[..., 2]], 2)
        return self.read(p).squeeze(2) + p[..., 0]  # type: ignore[no-any-return]


class Message(nn.Module):
    """ds_i, dV_i = sums over j of m1, (m3 u_ij + m2 V_j / sqrt 3) / sqrt C, with m = phi(s_j) * filter_ij in thirds.

    The thirds are in PaiNN's order, m1, m3, m2. The filter is linear in the radial basis and multiplied by a network
    of the edge's local structure.
    """

    def __init__(self, config: LEFTNetConfig) -> None:
        super().__init__()
        c = config.channels
        width = 3 * c + config.num_basis
        self.phi = nn.Sequential(nn.Linear(c, c), nn.SiLU(), nn.Linear(c, 3 * c))
        self.filter = nn.Linear(config.num_basis, 3 * c, bias=False)
        self.structure = nn.Sequential(nn.Linear(width, 3 * c), nn.SiLU(), nn.Linear(3 * c, 3 * c))
        self.message = PaiNNMessage(c)
        self.channels = c

    def forward(
        self,
        s: Tensor,
        vec: Tensor,
        basis: Tensor,
        structure: Tensor,
        direction: Tensor,
        graph: Graph,
        edge_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """s (N, C), vec (N, 3, C), basis (E, K), structure (E, 3C + K), direction (E, 3) -> ds, dvec."""
        filters = self.filter(basis) * self.structure(structure)
        ds, dvec = self.message(self.phi(s), vec / sqrt(3), filters, direction, edge_index, graph)
        return ds, dvec / sqrt(self.channels)


class Update(nn.Module):
    """Exchange between the scalars and the vectors of an atom (the paper's FTE; as its code has it, by |v1| alone)."""

    def __init__(self, config: LEFTNetConfig) -> None:
        super().__init__()
        c = config.channels
        self.mix = nn.Linear(c, 2 * c, bias=False)
        self.net = nn.Sequential(nn.Linear(2 * c, c), nn.SiLU(), nn.Linear(c, 3 * c))
        self.epsilon, self.channels = config.epsilon, c

    def forward(self, s: Tensor, vec: Tensor) -> tuple[Tensor, Tensor]:
        """s (N, C), vec (N, 3, C) -> ds, dvec."""
        v1, v2 = self.mix(vec).chunk(2, 2)
        length = (v1.square().sum(1) + self.epsilon).sqrt()
        x1, x2, x3 = self.net(torch.cat([s, length], 1)).chunk(3, 1)
        dot = (v1 * v2).sum(1) / sqrt(self.channels)
        return (x1 + x2 + dot) / sqrt(2), x3.unsqueeze(1) * v2


class LEFTNet(nn.Module):
    """Atomic energies of a LEFTNet, invariant under O(3), of open systems.

    Frames lie about the centroid of all atoms of a graph: the energy is not the sum of those of parts far apart, a
    periodic system has no energy, and the model reads `positions`. The cosine cutoff leaves forces continuous, with
    kinks at the cutoff. A vector of length zero has no direction: it adds to scalars only.

    >>> model = LEFTNet(LEFTNetConfig(layers=2, channels=8))
    >>> positions, edges = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]]), torch.tensor([[0, 1], [1, 0]])
    >>> vec = positions[edges[0]] - positions[edges[1]]
    >>> model(torch.tensor([6, 8]), vec, edges, positions=positions).shape
    torch.Size([2])
    """

    uses_positions = True

    def __init__(self, config: LEFTNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LEFTNetConfig()
        c = config.channels
        self.embedding = nn.Embedding(config.num_species, c)
        self.neighbour_embedding = nn.Embedding(config.num_species, c)
        self.radial = nn.Sequential(nn.Linear(config.num_basis, c), nn.SiLU(), nn.Linear(c, c))
        self.neighbours = SchNetMessage(c)
        self.structure = Structure(config)
        self.messages = nn.ModuleList([Message(config) for _ in range(config.layers)])
        self.updates = nn.ModuleList([Update(config) for _ in range(config.layers)])
        self.readout = nn.Linear(c, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        species: Tensor,
        edge_vec: Tensor,
        edge_index: Tensor,
        graph: Graph | None = None,
        *,
        positions: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> Tensor:
        """Atomic energies (N,): species (N,) in [0, num_species), edge_vec (E, 3), edge_index (2, E).

        edge_vec is position[sender] - position[receiver]; edge_index holds senders, receivers; positions (N, 3); batch
        (N,) the graph of each atom, by default one. The energy depends on edge_vec and on positions: forces are minus
        its gradient with both. Raises EquikernError for edges that go to a periodic image.
        """
        config = self.config
        graph = inputs(species, edge_vec, edge_index, graph, config.num_species)
        centred = about_centroid(self._open(species, edge_vec, graph, positions), batch, graph)
        r = radial.length(edge_vec)
        direction = spherical_harmonics([1], edge_vec, True, "norm")  # (E, 3)
        basis = radial.exp_normal(r, config.num_basis, config.cutoff)  # (E, K)
        envelope = radial.cosine_cutoff(r, config.cutoff).unsqueeze(1)
        hidden = self.radial(basis) * envelope  # (E, C)
        s = self.embedding(species)
        s = s + self.neighbours(self.neighbour_embedding(species), hidden, edge_index, graph)
        structure = self.structure(s, hidden, direction, centred, graph, edge_index) * envelope
        structure = torch.cat([structure, hidden, basis], 1)  # (E, 3C + K)
        vec = s.new_zeros(s.shape[0], 3, s.shape[1])
        for message, update in zip(self.messages, self.updates, strict=True):
            ds, dvec = message(s, vec, basis, structure, direction, graph, edge_index)
            s, vec = s + ds, vec + dvec
            ds, dvec = update(s, vec)
            s, vec = s + ds, vec + dvec
        return self.readout(s).squeeze(1)  # type: ignore[no-any-return]

    def _open(self, species: Tensor, edge_vec: Tensor, graph: Graph, positions: Tensor | None) -> Tensor:
        """The positions, of an open system."""
        if positions is None or positions.shape != (species.shape[0], 3):
            got = "none" if positions is None else str(tuple(positions.shape))
            raise ShapeError(f"LEFTNet: its frames need positions (N, 3) of {species.shape[0]} atoms; got {got}.")
        if torch.compiler.is_compiling() or not graph.num_edges:
            return positions
        # Once a graph: whether edges go to an image does not change with the positions.
        if graph.once("apart", lambda: _apart(positions, edge_vec, graph)) > 0.01 * self.config.cutoff:
            raise EquikernError(
                "LEFTNet: edge_vec is not position[sender] - position[receiver]: periodic systems have no centroid "
                "and are not defined. Use an open system, or a model that reads edge vectors only."
            )
        return positions


@torch.no_grad()
def _apart(positions: Tensor, edge_vec: Tensor, graph: Graph) -> float:
    """How far edge_vec is from position[sender] - position[receiver] at most; there is an edge."""
    return float((positions[graph.sender] - positions[graph.receiver] - edge_vec).abs().max())


def about_centroid(positions: Tensor, batch: Tensor | None, graph: Graph) -> Tensor:
    """positions (N, 3) minus the centroid of their graph; batch (N,) integers, or None for one graph."""
    if batch is None:
        return positions - positions.mean(0)
    if batch.shape != positions.shape[:1]:
        raise ShapeError(f"LEFTNet: batch has shape {tuple(batch.shape)}; {positions.shape[0]} atoms need (N,).")
    rows = graph.once("batch", lambda: int(batch.max()) + 1 if batch.numel() else 0, batch)
    count = positions.new_zeros(rows).index_add(0, batch, positions.new_ones(positions.shape[0]))
    mean = positions.new_zeros(rows, 3).index_add(0, batch, positions) / count.clamp(min=1).unsqueeze(1)
    return positions - mean[batch]


def edge_frames(direction: Tensor, sender: Tensor, receiver: Tensor, epsilon: float) -> Tensor:
    """(E, 3, 3), rows a, b, c: the edge's direction, the normal of its plane with the centroid, a x b.

    direction (E, 3); sender and receiver (E, 3), positions about the centroid. Where the three are in line b and c
    fade to zero.
    """
    b = torch.linalg.cross(sender, receiver)
    b = b / (b.square().sum(1, keepdim=True) + epsilon).sqrt()
    return torch.stack([direction, b, torch.linalg.cross(direction, b)], 1)
