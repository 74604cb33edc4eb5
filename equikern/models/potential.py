"""`Potential`: energies, forces and stress of atoms by any model of atomic energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from equikern.errors import EquikernError, ShapeError
from equikern.graph import Graph, Neighbours, check_structures, search, volume
from equikern.ops.values import on_host

# Two atoms nearer than this, in the unit of the cutoff, are one atom twice.
OVERLAP = 1e-6


@runtime_checkable
class NativeGradients(Protocol):
    """A model that computes its energies' derivatives itself, faster than autograd does."""

    def energies_and_gradients(
        self, species: Tensor, edge_vec: Tensor, edge_index: Tensor, graph: Graph | None = None
    ) -> tuple[Tensor, Tensor]:
        """Atomic energies (N,) and d(their sum)/d(edge_vec), (E, 3), both differentiable once."""


class Potential(nn.Module):
    """Energies, forces and stress by a model of atomic energies, `model(species, edge_vec, edge_index, graph)`.

    The energy of a structure is sum over its atoms of (scale * model's output + shift + reference energy of the
    element), summed in float64. elements: the atomic numbers whose species are 0, 1, ... reference_energies: one
    for each of them, in their order or by atomic number. Lengths are in the unit of the model's cutoff.

    The dtype of the network is that of its parameters; differences of positions are taken in the dtype of the
    positions: give float64 ones to a float32 network too.

    >>> from equikern.models import PaiNN, PaiNNConfig
    >>> water = Potential(PaiNN(PaiNNConfig(channels=8, hidden=4, num_species=2)), elements=[1, 8])
    >>> found = water.predict([8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    >>> found["forces"].shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        elements: Sequence[int],
        *,
        reference_energies: Sequence[float] | Mapping[int, float] | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        config: Any = getattr(model, "config", None)
        if not hasattr(config, "cutoff") or not hasattr(config, "num_species"):
            raise EquikernError(f"Potential: {type(model).__name__} has no `config` that names cutoff and num_species.")
        self.model, self.cutoff = model, float(config.cutoff)
        self.elements = _elements(elements, config.num_species)
        self.reference_energies = _energies(reference_energies, self.elements)
        self.scale, self.shift = float(scale), float(shift)
        table = torch.full((max(self.elements) + 1,), -1)
        table[list(self.elements)] = torch.arange(len(self.elements))
        self.species_of: Tensor
        self.register_buffer("species_of", table, persistent=False)

    def predict(self, numbers: Any, positions: Any, cell: Any = None) -> dict[str, Tensor]:
        """'energy' (), 'forces' (N, 3) and, with a cell, 'stress' (3, 3) of one structure, without derivatives.

        Without a cell 'dipole' (3,) too, where the model has it.
        numbers (N,) atomic numbers, positions (N, 3), cell (3, 3) whose rows are lattice vectors of a crystal; tensors,
        arrays or lists. Raises as `forward`.
        """
        given = [torch.as_tensor(numbers), _floating(positions)]
        with torch.no_grad():
            found = self(*given) if cell is None else self(*given, _floating(cell), pbc=True)
        return {"forces": found["forces"]} | {n: found[n][0] for n in ("energy", "stress", "dipole") if n in found}

    def forward(
        self,
        numbers: Tensor,
        positions: Tensor,
        cell: Tensor | None = None,
        *,
        pbc: Tensor | Sequence[bool] | bool | None = None,
        batch: Tensor | None = None,
        edges: Neighbours | None = None,
    ) -> dict[str, Tensor]:
        """Properties of B structures, differentiable unless under `torch.no_grad`:

        'energy' (B,) and its terms 'energies' (N,), float64; 'forces' (N, 3) = -dE/d(positions); 'virial' (B, 3, 3)
        = -dE/d(strain), the strain symmetric; with a cell 'stress' (B, 3, 3) = -virial / volume, tension above 0 as
        in ASE, zero for structures that are not periodic in all directions. Without a cell, 'dipole' (B, 3) of neutral
        molecules, charge times length, by models that have it (`PaiNN(config, dipole=True)`).

        numbers (N,), positions (N, 3); cell, pbc and batch as in `graph.neighbours`: molecules and crystals mix, where
        a molecule's cell is zero. edges: a neighbour list at hand, as `graph.VerletList` gives; edges beyond the cutoff
        change nothing. All derivatives exist where the positions require gradients; else those that training needs, by
        the native gradients of models that have them.
        Raises ShapeError for shapes that do not fit, EquikernError for elements that the potential does not know,
        positions that are not finite, atoms nearer than 1e-6 to each other, and cells without volume.

        On a device, with the edges and the tensors numbers, cell, pbc and batch of a step before, nothing waits for it
        (unless the model does). Elements and cells were looked at then; a structure whose positions are not finite or
        whose atoms overlap is NaN in all its properties, instead of an error.
        """
        if edges is not None and positions.shape[:1] != (edges.num_nodes,):
            raise ShapeError(f"the edges are those of {edges.num_nodes} atoms; positions {tuple(positions.shape)}.")
        graph = None if edges is None else edges.graph
        lattice, periodic, batch = check_structures(positions, cell, pbc, batch, graph)
        species = self._species(numbers, positions, graph)
        unseen = edges is not None and not on_host(positions)
        if edges is None:
            edges = search(positions, self.cutoff, lattice, periodic, batch)
        vec, structures = edges.vectors(positions, lattice, batch), len(lattice)
        if not unseen:
            _check_overlap(vec, edges)
        outputs, g, direct = self._derivatives(species, vec, positions, batch, edges)
        energies = self.scale * outputs.double() + (self.shift + self._reference(edges.graph))[species]
        energy = energies.new_zeros(structures).index_add(0, batch, energies)
        sender, receiver = edges.edge_index
        # F_i += g_e at the receiver, F_j -= g_e at the sender; strain turns each vector v into v (1 + strain).
        forces = torch.zeros_like(positions).index_add(0, receiver, g).index_add(0, sender, g, alpha=-1)
        strained = vec.new_zeros(structures, 3, 3).index_add(0, batch[receiver], vec.unsqueeze(2) * g.unsqueeze(1))
        if direct is not None:
            forces = forces - direct
            strained = strained.index_add(0, batch, positions.unsqueeze(2) * direct.unsqueeze(1))
        strained = 0.5 * (strained + strained.mT)
        found = {"energy": energy, "energies": energies, "forces": forces, "virial": -strained}
        if cell is not None:
            volumes = torch.where(periodic.all(1), volume(lattice), torch.inf)  # (B,)
            found["stress"] = strained / volumes.reshape(-1, 1, 1)
        elif getattr(self.model, "dipole_head", None) is not None:
            found["dipole"] = self._dipole(species, vec, positions, batch, edges, structures)
        return _doubted(found, _sound(vec, positions, batch, edges, structures), batch) if unseen else found

    def _dipole(
        self, species: Tensor, vec: Tensor, positions: Tensor, batch: Tensor, edges: Neighbours, structures: int
    ) -> Tensor:
        """Sums of atomic dipoles and of charge times position, (B, 3), the charges moved alike to sum to zero."""
        given = (species, vec.to(next(self.model.parameters()).dtype), edges.edge_index, edges.graph)
        charges, dipoles = (t.to(vec.dtype) for t in self.model.charges_and_dipoles(*given))  # type: ignore[operator]
        atoms = vec.new_zeros(structures).index_add(0, batch, torch.ones_like(charges))
        mean = vec.new_zeros(structures).index_add(0, batch, charges) / atoms
        terms = dipoles + (charges - mean[batch]).unsqueeze(1) * positions
        return vec.new_zeros(structures, 3).index_add(0, batch, terms)

    def _derivatives(
        self, species: Tensor, vec: Tensor, positions: Tensor, batch: Tensor, edges: Neighbours
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs (N,), scale * d(their sum)/d(vec) and, where the model reads positions, / d(positions)."""
        model, dtype, records = self.model, next(self.model.parameters()).dtype, torch.is_grad_enabled()
        if isinstance(model, NativeGradients) and not vec.requires_grad:
            outputs, g = model.energies_and_gradients(species, vec.to(dtype), edges.edge_index, edges.graph)
            return outputs, self.scale * g.to(vec.dtype), None
        with torch.enable_grad():
            inputs = [vec if vec.requires_grad else vec.detach().requires_grad_()]
            extra = {}
            if getattr(model, "uses_positions", False):
                # A copy, so that this derivative is taken at fixed edge vectors.
                inputs.append(positions.clone() if positions.requires_grad else positions.detach().requires_grad_())
                extra = {"positions": inputs[1].to(dtype), "batch": batch}
            outputs = model(species, inputs[0].to(dtype), edges.edge_index, edges.graph, **extra)
            total = self.scale * outputs.double().sum()
        g, *rest = torch.autograd.grad(total, inputs, create_graph=records, allow_unused=True, materialize_grads=True)
        return outputs, g, rest[0] if rest else None

    def _species(self, numbers: Tensor, positions: Tensor, graph: Graph | None) -> Tensor:
        """Species (N,) of atomic numbers, which a graph knows again."""
        if numbers.shape != positions.shape[:1] or numbers.is_floating_point() or numbers.dtype is torch.bool:
            raise ShapeError(
                f"numbers are {tuple(numbers.shape)} {numbers.dtype}; the positions {tuple(positions.shape)} need "
                f"{tuple(positions.shape[:1])} integers, the atomic numbers."
            )

        def look() -> Tensor:
            z = numbers.long()
            known = (z >= 0) & (z < self.species_of.shape[0])
            species = torch.where(known, self.species_of[z * known], -1)
            if bool((species < 0).any()):
                unknown = sorted(set(z[species < 0].tolist()))
                raise EquikernError(
                    f"this potential does not know atomic numbers {unknown}; its elements are {list(self.elements)}."
                )
            return species

        return look() if graph is None else graph.once(f"species of {self.elements}", look, numbers)

    def _reference(self, graph: Graph) -> Tensor:
        """The reference energies (S,) on the device of a graph, float64: `.to(dtype)` must not round them."""
        values, home = self.reference_energies, graph.receiver.device
        look = lambda: torch.tensor(values, dtype=torch.float64, device=home)  # noqa: E731
        return graph.once(f"reference energies {values}", look)  # type: ignore[no-any-return]

    def get_extra_state(self) -> dict[str, Any]:
        """What `state_dict` holds beside the model's weights."""
        energies = {"reference_energies": self.reference_energies, "scale": self.scale, "shift": self.shift}
        return {"elements": self.elements} | energies

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the energies of a `state_dict`; raises EquikernError if it is that of other elements."""
        if state["elements"] != self.elements:
            raise EquikernError(
                f"the state is that of a potential for elements {list(state['elements'])}; this one has "
                f"{list(self.elements)}. Make a Potential with those elements, then load."
            )
        self.reference_energies, self.scale, self.shift = (
            state[name] for name in ("reference_energies", "scale", "shift")
        )


def _floating(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return torch.as_tensor(values, dtype=torch.float64)


def _elements(elements: Sequence[int], species: int) -> tuple[int, ...]:
    found = tuple(map(int, elements))
    if not found or len(set(found)) < len(found) or not all(0 <= z <= 118 for z in found):
        raise EquikernError(f"Potential: elements are different atomic numbers, at least one; got {list(found)}.")
    if len(found) > species:
        raise EquikernError(f"Potential: {len(found)} elements are given; the model has num_species={species}.")
    return found


def _energies(given: Sequence[float] | Mapping[int, float] | None, elements: tuple[int, ...]) -> tuple[float, ...]:
    if given is None:
        return (0.0,) * len(elements)
    if isinstance(given, Mapping):
        missing = [z for z in elements if z not in given]
        if missing:
            raise EquikernError(f"Potential: reference_energies lack atomic numbers {missing}.")
        given = [given[z] for z in elements]
    found = tuple(map(float, given))
    if len(found) != len(elements) or not all(map(isfinite, found)):
        raise EquikernError(f"Potential: {len(elements)} elements need as many finite reference energies; got {found}.")
    return found


def _check_overlap(vec: Tensor, edges: Neighbours) -> None:
    length = vec.detach().norm(dim=1)
    if len(length) and bool(length.min() < OVERLAP):
        e = int(length.argmin())
        sender, receiver = edges.edge_index[:, e].tolist()
        raise EquikernError(
            f"atoms {receiver} and {sender} (shifted by {edges.shifts[e].tolist()} cells) overlap: their distance is "
            f"{length[e].item():.1e}; remove one of them."
        )


def _sound(vec: Tensor, positions: Tensor, batch: Tensor, edges: Neighbours, structures: int) -> Tensor:
    """(B,): 1, and NaN for a structure with atoms that overlap or positions that are not finite."""
    overlap = torch.where(vec.detach().norm(dim=1) < OVERLAP, torch.nan, 0.0)  # (E,)
    infinite = (0 * positions.detach()).sum(1)  # (N,)
    ones = positions.new_ones(structures, dtype=torch.float64)
    ones = ones.index_add(0, batch[edges.edge_index[1]], overlap.double())
    return ones.index_add(0, batch, infinite.double())


def _doubted(found: dict[str, Tensor], sound: Tensor, batch: Tensor) -> dict[str, Tensor]:
    """Properties of atoms and structures, times 1 or NaN of their structure (B,), and so their derivatives."""
    of_atoms = sound[batch]
    factors = {name: of_atoms if name in ("energies", "forces") else sound for name in found}
    return {name: t * factors[name].to(t.dtype).reshape(-1, *[1] * (t.ndim - 1)) for name, t in found.items()}
