"""PaiNN: polarizable atom interaction neural network.

Source: K. T. Schütt, O. T. Unke, M. Gastegger, "Equivariant message passing for the prediction of tensorial properties
and molecular spectra", ICML 2021. Initialisation as there: Xavier uniform, zero bias, standard normal embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from equikern.errors import EquikernError, ShapeError
from equikern.graph import Graph
from equikern.models._parts import xavier
from equikern.nn import PaiNNMessage
from equikern.ops import PaiNNConfig, painn, painn_forces, radial, radial_embedding, spherical_harmonics
from equikern.ops.engine import HALF, autocasts, in_float32
from equikern.ops.values import on_host


class Interaction(nn.Module):
    """One message and one update of q (N, C) and mu (N, 3, C)."""

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__()
        c = config.channels
        self.phi = nn.Sequential(nn.Linear(c, c), nn.SiLU(), nn.Linear(c, 3 * c))
        self.filter = nn.Linear(config.num_basis, 3 * c)
        self.mix = nn.Linear(c, 2 * c, bias=False)
        self.update = nn.Sequential(nn.Linear(2 * c, c), nn.SiLU(), nn.Linear(c, 3 * c))
        self.message = PaiNNMessage(c)
        self.epsilon = config.epsilon

    def forward(
        self, q: Tensor, mu: Tensor, basis: Tensor, envelope: Tensor, direction: Tensor, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        """basis (E, K), envelope (E, 1), direction (E, 3) -> the new q and mu."""
        filters = self.filter(basis) * envelope  # (E, 3C)
        dq, dmu = self.message(self.phi(q), mu, filters, direction, graph.edge_index, graph)
        q, mu = q + dq, mu + dmu
        v, u = self.mix(mu).chunk(2, 2)  # (N, 3, C) each
        norm = (v.square().sum(1) + self.epsilon).sqrt()
        a_q, a_mu, a_dot = self.update(torch.cat([q, norm], 1)).chunk(3, 1)
        return q + a_q + a_dot * (u * v).sum(1), mu + a_mu.unsqueeze(1) * u


class GatedEquivariant(nn.Module):
    """The paper's gated equivariant block: a_q, a_mu = MLP([q, |mu V|]); the scalars a_q and the vectors a_mu mu U."""

    def __init__(self, channels: int, out: int, epsilon: float) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels + out, bias=False)
        self.gate = nn.Sequential(nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, 2 * out))
        self.sizes, self.epsilon = [channels, out], epsilon

    def forward(self, q: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """q (N, C), mu (N, 3, C) -> (N, D), (N, 3, D)."""
        v, u = self.mix(mu).split(self.sizes, 2)
        norm = (v.square().sum(1) + self.epsilon).sqrt()
        a_q, a_mu = self.gate(torch.cat([q, norm], 1)).chunk(2, 1)
        return a_q, a_mu.unsqueeze(1) * u


class DipoleHead(nn.Module):
    """Charges (N,) and atomic dipoles (N, 3), by two gated equivariant blocks."""

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__()
        self.first = GatedEquivariant(config.channels, config.hidden, config.epsilon)
        self.last = GatedEquivariant(config.hidden, 1, config.epsilon)

    def forward(self, q: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """q (N, C), mu (N, 3, C) -> (N,), (N, 3)."""
        q, mu = self.first(q, mu)
        charges, dipoles = self.last(nn.functional.silu(q), mu)
        return charges.squeeze(1), dipoles.squeeze(2)


class PaiNN(nn.Module):
    """Atomic energies of PaiNN, and the forces; with `dipole`, charges and atomic dipoles too.

    `forward` is the paper's text, layer by layer, and has derivatives of any order. `energy_and_forces` is the same
    function as one native op, with one derivative more for training; `nn.force_graph` is that op for dynamics.
    Lengths are in the unit of `config.cutoff`; the energy is in whatever unit the model was trained in.

    >>> model = PaiNN(PaiNNConfig(layers=2, channels=8, hidden=4))
    >>> edges = torch.tensor([[0, 1], [1, 0]])
    >>> positions = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]])
    >>> energy, forces = model.energy_and_forces(torch.tensor([6, 8]), positions, edges)
    >>> energy.shape, forces.shape
    (torch.Size([1]), torch.Size([2, 3]))
    """

    def __init__(self, config: PaiNNConfig | None = None, *, dipole: bool = False) -> None:
        super().__init__()
        self.config = config = config or PaiNNConfig()
        c = config.channels
        if config.basis == "gaussian":
            self.centres: Tensor
            self.register_buffer("centres", torch.linspace(0, config.cutoff, config.num_basis))
        self.embedding = nn.Embedding(config.num_species, c)
        self.layers = nn.ModuleList([Interaction(config) for _ in range(config.layers)])
        self.readout = nn.Sequential(nn.Linear(c, config.hidden), nn.SiLU(), nn.Linear(config.hidden, 1))
        self.dipole_head = DipoleHead(config) if dipole else None
        xavier(self)

    def forward(self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None) -> Tensor:
        """Atomic energies (N,): species (N,) indexes the embedding, edge_vec (E, 3), edge_index (2, E).

        edge_vec is position[sender] + shifts @ cell - position[receiver]; edge_index holds senders, receivers.
        """
        return self.readout(self._features(species, edge_vec, edge_index, graph)[0]).squeeze(1)  # type: ignore[no-any-return]

    def charges_and_dipoles(
        self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None
    ) -> tuple[Tensor, Tensor]:
        """Charges (N,) and atomic dipoles (N, 3), of a model with `dipole`; the arguments of `forward`."""
        if self.dipole_head is None:
            raise EquikernError("this PaiNN has no dipoles; make it by PaiNN(config, dipole=True).")
        return self.dipole_head(*self._features(species, edge_vec, edge_index, graph))  # type: ignore[no-any-return]

    def _features(
        self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None
    ) -> tuple[Tensor, Tensor]:
        """q (N, C) and mu (N, 3, C) after the last layer."""
        config, graph = self.config, Graph.of(edge_index, species.shape[0], graph)
        d = edge_vec.norm(dim=1)  # (E,)
        direction = spherical_harmonics([1], edge_vec, True, "norm")  # (E, 3), zero for a vector of zero
        if config.basis == "bessel":
            basis = radial_embedding(d, config.num_basis, config.cutoff, prefactor="schnetpack", cutoff="none")
        else:
            basis = torch.exp(-0.5 * ((d.unsqueeze(1) - self.centres) / config.gaussian_width) ** 2)
        envelope = radial.cosine_cutoff(d, config.cutoff).unsqueeze(1)
        q = self.embedding(species)  # (N, C)
        mu = q.new_zeros(q.shape[0], 3, q.shape[1])  # (N, 3, C)
        for layer in self.layers:
            q, mu = layer(q, mu, basis, envelope, direction, graph)
        return q, mu

    def whole(self) -> tuple[PaiNNConfig, list[Tensor]]:
        """What `ops.painn` takes: the model as one op."""
        # Not self.parameters(), which walks over all modules: 0.1 ms, as much as 9 atoms need in the kernels.
        weights: list[Tensor] = [self.embedding.weight]
        for layer in self.layers._modules.values():
            m = layer._modules  # type: ignore[union-attr]
            phi, update = m["phi"]._modules, m["update"]._modules  # type: ignore[union-attr]
            for linear in (phi["0"], phi["2"], m["filter"], m["mix"], update["0"], update["2"]):
                weights += [w for w in linear._parameters.values() if w is not None]  # type: ignore[union-attr]
        weights += [w for linear in self.readout for w in linear._parameters.values() if w is not None]
        if self.config.basis == "gaussian":
            weights.append(self.centres)
        return self.config, weights

    def energies_and_gradients(
        self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None
    ) -> tuple[Tensor, Tensor]:
        """Atomic energies (N,) and d(their sum)/d(edge_vec), (E, 3); both differentiable once.

        One native op on the CPU, where a derivative of second order raises BackendError; layer by layer on a device,
        whose kernels are the messages. The arguments of `forward`.
        """
        graph = Graph.of(edge_index, species.shape[0], graph)
        if not on_host(edge_vec):
            return self._by_layers(species, edge_vec, graph)
        config, weights = self.whole()
        return painn(config, edge_vec, _arrays(species, graph), weights)

    def _by_layers(self, species: Tensor, edge_vec: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """What the op gives, in its precision: half types and autocast are computed in float32."""

        def derived(vec: Tensor, call: Callable[..., Tensor] = self, tensors: Sequence[Tensor] = ()) -> Any:
            records = torch.is_grad_enabled() and any(t.requires_grad for t in (vec, *self.parameters()))
            with torch.enable_grad():
                inner = vec.view_as(vec) if vec.requires_grad else vec.detach().requires_grad_()
                energies = call(*tensors, species, inner, graph.edge_index, graph)
                (g,) = torch.autograd.grad(energies.sum(), inner, create_graph=records)
            return (energies, g) if records else (energies.detach(), g)

        if edge_vec.dtype not in HALF and not autocasts(edge_vec):
            return derived(edge_vec)  # type: ignore[no-any-return]
        own = dict(self.named_parameters()) | dict(self.named_buffers())

        def widened(*given: Any) -> Tensor:
            return functional_call(self, dict(zip(own, given, strict=False)), given[len(own) :])  # type: ignore[no-any-return]

        return in_float32(derived)(edge_vec, widened, list(own.values()))  # type: ignore[no-any-return]

    def energy_and_forces(
        self,
        species: Tensor,
        positions: Tensor,
        edge_index: Tensor,
        *,
        offsets: Tensor | None = None,
        batch: Tensor | None = None,
        num_graphs: int = 1,
        graph: Graph | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Energies (B,) and forces (N, 3), differentiable once: loss.backward() trains on both.

        positions (N, 3); offsets (E, 3) = shifts @ cell of periodic edges; batch (N,) the graph of each atom. The
        forces are -dE/d(positions), at the same cost whether or not the weights require gradients.
        Raises ShapeError for tensors that do not fit, BackendError for a derivative of second order.
        """
        if positions.shape != (species.shape[0], 3):
            raise ShapeError(f"positions are {tuple(positions.shape)}; {species.shape[0]} species need (N, 3).")
        graph = Graph.of(edge_index, species.shape[0], graph)
        edge_vec = positions[graph.sender] - positions[graph.receiver]
        if offsets is not None:
            edge_vec = edge_vec + offsets
        if on_host(edge_vec):
            config, weights = self.whole()
            energies, forces = painn_forces(config, edge_vec, _arrays(species, graph), weights)
        else:
            energies, g = self._by_layers(species, edge_vec, graph)
            forces = torch.zeros_like(positions).index_add(0, graph.receiver, g)
            forces = forces.index_add(0, graph.sender, g, alpha=-1)
        if batch is None:
            return energies.sum(0, keepdim=True), forces
        return energies.new_zeros(num_graphs).index_add(0, batch, energies), forces


def _arrays(species: Tensor, graph: Graph) -> list[Tensor]:
    return [species, *graph.index[:4], *graph.by_sender]
