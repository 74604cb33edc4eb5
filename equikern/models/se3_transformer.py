"""SE(3)-Transformer: equivariant attention over neighbours.

Source: F. B. Fuchs, D. E. Worrall, V. Fischer, M. Welling, "SE(3)-Transformers", NeurIPS 2020 (arXiv:2006.10503).
Different here, for smooth energies: a cutoff weighs the neighbours in the softmax and multiplies keys and values, SiLU
stands for ReLU, without layer norms; keys and values share the hidden layers of their radial network.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError
from equikern.graph import Graph
from equikern.models._checks import check_sizes
from equikern.models._parts import (
    RadialNetwork,
    check_parity,
    features,
    fully_connected,
    harmonics,
    inputs,
    norms,
    reachable,
    scaled,
)
from equikern.o3 import Linear
from equikern.ops import evaluate, radial, spherical_harmonics
from equikern.ops.segment import softmax
from equikern.program import Irreps, Rows, product


@dataclass(frozen=True)
class SE3TransformerConfig:
    """Sizes of an SE(3)-Transformer.

    cutoff in the unit of the edge vectors; lmax, the highest degree of features and of harmonics; channels of each
    irrep, of which keys and values have channels / div, split among `heads`; parity: "natural" keeps 0e, 1o, 2e, ...,
    "full" both parities of each degree, "none" ignores inversion as the paper does, and so tells mirror images apart;
    num_basis and hidden, the radial network's widths; epsilon smooths norms at zero, where h / |h| turns over.
    """

    cutoff: float = 5.0
    num_species: int = 100
    layers: int = 3
    channels: int = 16
    heads: int = 4
    div: int = 2
    lmax: int = 2
    parity: str = "natural"
    num_basis: int = 8
    hidden: int = 32
    epsilon: float = 1e-2

    def __post_init__(self) -> None:
        sizes = ("num_species", "layers", "channels", "heads", "div", "num_basis", "hidden")
        check_sizes(self, sizes, ("cutoff", "epsilon"))
        check_parity(self)
        if self.channels % (self.div * self.heads):
            raise EquikernError(
                f"SE3TransformerConfig: channels / div are split among the heads; {self.channels} channels are no "
                f"multiple of {self.div} * {self.heads}."
            )


class Attention(nn.Module):
    """out_i = mix(sum over j of softmax_j(<q_i, k_ij> / sqrt(n)) v_ij, h_i), n the components of a key, all heads'."""

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, config: SE3TransformerConfig) -> None:
        super().__init__()
        irreps_y = harmonics(config.lmax, config.parity)
        few = Irreps([(config.channels // config.div, ir) for _, ir in irreps_out])
        self.value = reachable(irreps_in, irreps_y, few)
        self.key = Irreps([entry for entry in self.value if entry.ir in irreps_in])
        both = self.key + self.value
        instructions = fully_connected(irreps_in, irreps_y, both)
        # W(r_ij) h_j, edge by edge: a weight for every path and pair of channels.
        self.program = product(irreps_in, irreps_y, both, instructions, rows=Rows(x="sender"))
        self.radial = RadialNetwork(config.num_basis, config.hidden, self.program.dims[2], config.cutoff)
        self.query = Linear(irreps_in, self.key)
        self.irreps_out = Irreps([(mul, ir) for mul, ir in irreps_out if ir in self.value or ir in irreps_in])
        self.mix = Linear(self.value + irreps_in, self.irreps_out)
        self.heads = config.heads

    def forward(self, h: Tensor, r: Tensor, y: Tensor, envelope: Tensor, graph: Graph) -> Tensor:
        """h (N, irreps_in.dim), lengths r (E,), harmonics y (E, Y), envelope (E,) -> (N, irreps_out.dim)."""
        both = evaluate(self.program, (h, y, self.radial(r)), [graph.sender], graph.num_edges)
        k, v = both.split([self.key.dim, self.value.dim], 1)
        q = split_heads(self.key, self.query(h), self.heads)[graph.receiver]
        logits = (q * split_heads(self.key, k, self.heads)).sum(2) / sqrt(self.key.dim)  # (E, H)
        alpha = softmax(logits, graph.receiver, graph.num_nodes, envelope)
        messages = alpha.unsqueeze(2) * split_heads(self.value, v, self.heads)
        out = h.new_zeros(graph.num_nodes, *messages.shape[1:]).index_add(0, graph.receiver, messages)
        return self.mix(torch.cat([join_heads(self.value, out), h], 1))  # type: ignore[no-any-return]


class NormNonLinearity(nn.Module):
    """MLP(|h|) h / |h|: the network reads the norms of all channels and gives each a new one."""

    def __init__(self, irreps: Irreps, epsilon: float) -> None:
        super().__init__()
        self.irreps, self.epsilon, c = irreps, epsilon, irreps.num_irreps
        self.net = nn.Sequential(nn.Linear(c, c), nn.SiLU(), nn.Linear(c, c))

    def forward(self, h: Tensor) -> Tensor:
        """h (N, irreps.dim) -> (N, irreps.dim)."""
        n = norms(self.irreps, h, self.epsilon)
        return scaled(self.irreps, h, self.net(n) / n)


class SE3Transformer(nn.Module):
    """Atomic energies of an SE(3)-Transformer, invariant under O(3) (SO(3) with parity "none").

    Twice differentiable in edge_vec, at the cutoff too; a vector of length zero has no direction (harmonics of degree
    l > 0 vanish). An atom without neighbours attends to nothing and has the energy of its species.

    >>> model = SE3Transformer(SE3TransformerConfig(layers=2, channels=8))
    >>> edges = torch.tensor([[0, 1], [1, 0]])
    >>> vec = torch.tensor([[0.0, 0.0, 1.1], [0.0, 0.0, -1.1]])
    >>> model(torch.tensor([6, 8]), vec, edges).shape
    torch.Size([2])
    """

    def __init__(self, config: SE3TransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SE3TransformerConfig()
        c = config.channels
        self.embedding = nn.Embedding(config.num_species, c)
        irreps = scalars = Irreps(f"{c}x0e")
        attentions, activations = [], []
        for n in range(config.layers):
            # Only scalars are read after the last layer.
            wanted = scalars if n == config.layers - 1 else features(c, config.lmax, config.parity)
            attentions.append(Attention(irreps, wanted, config))
            irreps = attentions[-1].irreps_out
            activations.append(NormNonLinearity(irreps, config.epsilon))
        self.attentions, self.activations = nn.ModuleList(attentions), nn.ModuleList(activations)
        self.readout = nn.Sequential(nn.Linear(c, c), nn.SiLU(), nn.Linear(c, 1))

    def forward(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """Atomic energies (N,): species (N,) in [0, num_species), edge_vec (E, 3), edge_index (2, E).

        edge_vec is position[sender] + shifts @ cell - position[receiver]; edge_index holds senders, receivers.
        """
        config = self.config
        graph = inputs(species, edge_vec, edge_index, graph, config.num_species)
        r = radial.length(edge_vec)
        y = spherical_harmonics(range(config.lmax + 1), edge_vec, True, "component")
        envelope = radial.polynomial_cutoff(r, config.cutoff)
        h = self.embedding(species)
        for attention, activation in zip(self.attentions, self.activations, strict=True):
            h = activation(attention(h, r, y, envelope, graph))
        return self.readout(h).squeeze(1)  # type: ignore[no-any-return]


def split_heads(irreps: Irreps, x: Tensor, heads: int) -> Tensor:
    """(rows, irreps.dim) -> (rows, heads, irreps.dim / heads): a head has its share of each entry's channels."""
    return torch.cat([x[:, columns].unflatten(1, (heads, -1)) for columns in irreps.slices()], 2)


def join_heads(irreps: Irreps, x: Tensor) -> Tensor:
    """The inverse of `split_heads`."""
    parts = x.split([mul * ir.dim // x.shape[1] for mul, ir in irreps], 2)
    return torch.cat([part.flatten(1) for part in parts], 1)
