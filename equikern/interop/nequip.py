"""NequIP's interaction block: gather, tensor product and sum at receivers in one op (`nequip/nn/interaction_block.py`).

Recognised by structure. NequIP's `edge_index` has receivers in row 0 and senders in row 1. Edges and radial basis are
float64 whatever the model's dtype; features, harmonics and weights have the model's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equikern.interop import e3nn
from equikern.interop.convolution import ConvolutionSwap
from equikern.interop.remembered import graph_of, remembered
from equikern.interop.swap import Swap, close, installed, runs
from equikern.nn import RadialTable
from equikern.nn._species_linear import present_species
from equikern.ops import evaluate
from equikern.ops.engine import autocasts
from equikern.program import CONVOLUTION

_STRUCTURE = (
    "linear_1",
    "linear_2",
    "sc",
    "edge_mlp",
    "tp_scatter",
    "avg_num_neighbors_norm",
    "ghost_exchange",
    "is_first_layer",
)
FEATURES, ATTRS, NODES, EDGES = "node_features", "edge_attrs", "node_attrs", "edge_index"
EMBEDDING, LENGTH, NORMED, VECTORS = "edge_embedding", "edge_lengths", "normed_edge_lengths", "edge_vectors"
POSITIONS, TYPES, LAMMPS = "pos", "atom_types", "lmp_mliap_data"


def is_interaction(module: nn.Module) -> bool:
    """Whether a module has the structure of NequIP's `InteractionBlock`."""
    return all(hasattr(module, name) for name in _STRUCTURE)


class Radial(nn.Module):
    """Lengths (E,) to weights (E, W): Bessel functions, cutoff, factor and radial network, as NequIP applies them."""

    def __init__(self, normalizer: Any, encoding: Any, factor: float, network: nn.Module) -> None:
        super().__init__()
        self.normalizer, self.encoding, self.factor, self.network = normalizer, encoding, factor, network

    def forward(self, r: Tensor) -> Tensor:
        x, frequencies = r.unsqueeze(-1) * self.normalizer._rmax_recip, self.encoding.bessel_weights
        basis = torch.sinc(x * frequencies) * frequencies
        return self.network(self.factor * (basis * self.encoding.cutoff(x)))  # type: ignore[no-any-return]


def radial_table(model: nn.Module, interaction: Any) -> RadialTable | None:
    """The table of an interaction's weights, if they depend on the edge length alone, in the one way known here."""
    modules: list[Any] = list(model.modules())
    normalizers = [m for m in modules if hasattr(m, "_rmax_recip") and hasattr(m, "_per_edge_type")]
    encodings = [m for m in modules if hasattr(m, "bessel_weights") and hasattr(m, "cutoff")]
    factors = [m for m in modules if hasattr(m, "factor") and getattr(m, "out_field", "") == EMBEDDING]
    if len(normalizers) != 1 or len(encodings) != 1 or len(factors) > 1:
        return None
    normalizer, encoding = normalizers[0], encodings[0]
    # Trained frequencies are parameters of another module: a table would not pass gradients to them.
    if normalizer._per_edge_type or isinstance(encoding.bessel_weights, nn.Parameter):
        return None
    radial = Radial(normalizer, encoding, factors[0].factor if factors else 1.0, interaction.edge_mlp)
    like = next(interaction.edge_mlp.parameters())
    r_max = 1 / float(normalizer._rmax_recip)
    lengths = torch.linspace(0.1, 1.1, 16, dtype=torch.float64, device=like.device) * r_max

    def own() -> Tensor:
        data = {VECTORS: lengths.new_zeros(16, 3), LENGTH: lengths.unsqueeze(1)}
        for module in (normalizer, encoding, *factors):
            data = module(data)
        return interaction.edge_mlp(data[EMBEDDING])  # type: ignore[no-any-return]

    double = {name: t.double() for name, t in (*radial.named_parameters(), *radial.named_buffers())}
    agrees = close(own, lambda: torch.func.functional_call(radial, double, lengths).to(like.dtype))
    return RadialTable(radial, r_max) if agrees else None


def embedding_of_species(model: nn.Module) -> nn.Embedding | None:
    """The embedding that the model's node attributes are, if they are nothing else."""
    found: list[Any] = [m for m in model.modules() if hasattr(m, "embed_module") and hasattr(m, "set_features")]
    if len(found) != 1 or found[0].do_categorical_graph_field_embed or type(found[0].embed_module) is not nn.Embedding:
        return None
    return found[0].embed_module  # type: ignore[no-any-return]


class InteractionSwap(ConvolutionSwap):
    """linear, normalisation, sum over edges (j -> i) of w (x_j tensor y), linear, plus the self-connection."""

    embedding: nn.Embedding | None = None

    def __call__(self, data: Any) -> Any:
        module: Any = self.module
        x, y, edge_index = data[FEATURES], data[ATTRS], data[EDGES]
        if LAMMPS in data or self._watched() or not runs(self.program, x, y, data[EMBEDDING]) or autocasts(x):
            return self.own(data)
        sc = None if module.sc is None else self._self_connection(x, data)
        data[FEATURES] = module.linear_1(x)
        data = module.avg_num_neighbors_norm(data)
        if not module.is_first_layer:
            data = module.ghost_exchange(data, ghost_included=False)
        x = data[FEATURES]
        graph = graph_of(edge_index, x.shape[0], receivers_first=True)
        r = data[LENGTH].view(-1) if LENGTH in data else None
        x = module.linear_2(self.convolve(x, y, graph, r, lambda: module.edge_mlp(data[EMBEDDING])))
        data[FEATURES] = x if sc is None else x + sc
        return data

    def _self_connection(self, x: Tensor, data: Any) -> Tensor:
        """The self-connection, a linear map for each species where the node attributes are rows of the embedding."""
        connection: Any = self.module.sc
        swap, attributes, species = installed(connection), data[NODES], data[TYPES].view(-1)
        if isinstance(swap, e3nn.ProductSwap) and not e3nn.watched(connection) and self._embeds(attributes, species):
            program = e3nn.species_map(swap.program.text)
            if program is not None and runs(program, x, attributes, connection.weight):
                assert self.embedding is not None
                # Of the species that there are: their weights are few.
                present, rows = present_species(species, self.embedding.num_embeddings)
                y = self.embedding.weight.index_select(0, present)
                weights = e3nn.weights_of_species(swap.program.text, y, connection.weight)
                return evaluate(program, (x, weights), [rows])
        return connection(x, attributes)  # type: ignore[no-any-return]

    def _embeds(self, attributes: Tensor, species: Tensor) -> bool:
        """Whether attributes are rows of the embedding, in value and, where they have one, in gradient."""
        if self.embedding is None or e3nn.values_hidden() or species.shape != attributes.shape[:1]:
            return False
        weight, node = self.embedding.weight, attributes.grad_fn
        if attributes.requires_grad:
            if node is None or "EmbeddingBackward" not in node.name():
                return False
            leaf = node.next_functions[0][0]
            if getattr(leaf, "variable", None) is not weight:
                return False
        if weight.dtype != attributes.dtype:
            return False
        same = lambda: torch.equal(nn.functional.embedding(species, weight), attributes)  # noqa: E731
        return remembered("rows of the embedding", attributes, same)

    def _watched(self) -> bool:
        """Whether somebody's hooks want to see the product or the radial network by themselves."""
        module: Any = self.module
        return any(map(e3nn.watched, (module.tp_scatter, module.tp_scatter.tp, module.edge_mlp)))

    def covers(self) -> list[nn.Module]:
        """See Swap. Linear maps and self-connection have stand-ins of their own."""
        module: Any = self.module
        return [module, *module.tp_scatter.modules(), *module.edge_mlp.modules()]

    def agrees(self) -> bool:
        """See Swap. The graph has three nodes and four edges."""
        module: Any = self.module
        like = next(module.edge_mlp.parameters())
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)

        data = {
            FEATURES: draw(3, module.tp_scatter.tp.irreps_in1.dim),
            ATTRS: draw(4, module.tp_scatter.tp.irreps_in2.dim),
            EMBEDDING: draw(4, module.edge_mlp.dims[0]),
            EDGES: torch.tensor([[0, 0, 2, 1], [1, 2, 0, 1]], device=like.device),
            POSITIONS: draw(3, 3),
            TYPES: torch.zeros(3, dtype=torch.int64, device=like.device),
        }
        if module.sc is not None:
            data[NODES] = draw(3, module.sc.irreps_in2.dim)
        return close(lambda: self.own(dict(data))[FEATURES], lambda: self(dict(data))[FEATURES])

    def rebuild(self) -> Swap | str:
        """See Swap."""
        made = interaction_swap(self.module, None)
        if isinstance(made, InteractionSwap):
            made.table, made.tables, made.embedding = self.table, self.tables, self.embedding
        return made

    def constants(self) -> nn.Module:
        """See Swap."""
        return self.module.tp_scatter.tp  # type: ignore[return-value,union-attr]


def interaction_swap(module: Any, model: nn.Module | None) -> Swap | str:
    """The stand-in for a module with `is_interaction` in a model, or the reason why it stays."""
    product = getattr(module.tp_scatter, "tp", None)
    if product is None or not e3nn.is_product(product):
        return f"its product is a {type(product).__name__}, not e3nn's TensorProduct"
    if len(e3nn.arguments(module)) != 1 or e3nn.arguments(product) != ["x", "y", "weight"]:
        return f"its forward takes ({', '.join(e3nn.arguments(module))}), not (data)"
    if product.shared_weights or not product.weight_numel:
        return "its product has no weights of its own for each edge"
    program = e3nn.product_program(product, CONVOLUTION)
    if isinstance(program, str):
        return program
    swap = InteractionSwap(module, program)
    if model is not None:
        swap.table, swap.embedding = radial_table(model, module), embedding_of_species(model)
    return swap
