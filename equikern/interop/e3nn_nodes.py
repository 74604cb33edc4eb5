"""What e3nn's models do at nodes: `Linear` and `Gate`, of any version. Objects are recognised as in `interop.e3nn`."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from equikern.errors import ProgramError
from equikern.interop.e3nn import arguments
from equikern.interop.swap import Swap, close, runs
from equikern.o3._linear import bias_columns, bias_layout
from equikern.ops import linear
from equikern.ops.engine import autocasts
from equikern.ops.gate import ACTIVATIONS, Part, gate, gate_spec
from equikern.program import Irreps, Program
from equikern.program import linear as linear_program

_LINEAR = (
    "irreps_in", "irreps_out", "instructions", "weight_numel", "bias_numel",
    "shared_weights", "internal_weights", "weight_view_for_instruction",
)  # fmt: skip
_GATE = ("sc", "act_scalars", "act_gates", "mul", "irreps_gated")


def is_linear(module: nn.Module) -> bool:
    """Whether a module has the structure of e3nn's `Linear`."""
    return all(hasattr(module, name) for name in _LINEAR)


class LinearSwap(Swap):
    """z = W x, plus a bias of scalars, for e3nn's calls: any leading dimensions, weights internal or given."""

    program: Program

    def __init__(self, module: Any, program: Program) -> None:
        super().__init__(module, program)
        self.bias_layout = bias_layout(module.irreps_out, module.instructions)

    def __call__(self, features: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        module: Any = self.module
        given = weight is not None or bias is not None
        w = module.weight if weight is None else weight
        if (
            (given and not module.shared_weights)
            or w.numel() != self.program.dims[1]
            or features.shape[-1] != self.program.dims[0]
            or not runs(self.program, features, w)
            or autocasts(features)
        ):
            return self.own(features, weight, bias)  # type: ignore[no-any-return]
        x = features if features.ndim == 2 else features.reshape(-1, features.shape[-1])
        z = linear(self.program, x, w if w.ndim == 1 else w.reshape(-1))
        if module.bias_numel:
            z = z + bias_columns(module.bias if bias is None else bias, self.bias_layout)
        return z if features.ndim == 2 else z.reshape(*features.shape[:-1], z.shape[-1])

    def agrees(self) -> bool:
        """See Swap."""
        module: Any = self.module
        like = next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.empty(0))
        generator = torch.Generator().manual_seed(0)
        sizes = [self.program.dims[:1]]
        if not module.internal_weights:
            sizes += [(module.weight_numel,), (module.bias_numel,)]
        inputs = [
            torch.randn(*((3,) if n == 0 else ()), *size, generator=generator, dtype=torch.float64).to(like)
            for n, size in enumerate(sizes)
        ]
        return close(lambda: self.own(*inputs), lambda: self(*inputs))


def linear_swap(module: Any) -> Swap | str:
    """The stand-in for a module with `is_linear`, or the reason why it stays."""
    if arguments(module) != ["features", "weight", "bias"]:
        return f"its forward takes ({', '.join(arguments(module))}), not (features, weight, bias)"
    paths = [ins for ins in module.instructions if ins.i_in != -1]
    if not module.shared_weights:
        return "its rows have weights of their own"
    if module.weight_numel != sum(prod(ins.path_shape) for ins in paths) or module.weight.ndim > 1:
        return "its weights are a matrix of maps (f_in, f_out)"
    if not module.weight_numel:
        return "it has no paths"
    x, z = ([(mul, (ir.l, ir.p)) for mul, ir in irreps] for irreps in (module.irreps_in, module.irreps_out))
    try:
        program = linear_program(Irreps(x), Irreps(z), [(i.i_in, i.i_out, float(i.path_weight)) for i in paths])
    except ProgramError as error:
        return f"it is no program: {error}"
    return LinearSwap(module, program)


# --- gates


def is_gate(module: nn.Module) -> bool:
    """Whether a module has the structure of e3nn's `Gate`."""
    return all(hasattr(module, name) for name in _GATE)


class GateSwap(Swap):
    """Activated scalars, and irreps times activated gates."""

    def __init__(self, module: nn.Module, spec: str) -> None:
        super().__init__(module)
        self.spec = spec

    def __call__(self, features: Tensor) -> Tensor:
        if not features.is_floating_point() or autocasts(features):
            return self.own(features)  # type: ignore[no-any-return]
        return gate(self.spec, features)

    def agrees(self) -> bool:
        """See Swap."""
        module: Any = self.module
        like = next((t for t in module.buffers() if t.is_floating_point()), torch.empty(0))
        generator = torch.Generator().manual_seed(0)
        x = 2 * torch.randn(16, module.irreps_in.dim, generator=generator, dtype=torch.float64).to(like)
        return close(lambda: self.own(x), lambda: self(x))


def gate_swap(module: Any) -> Swap | str:
    """The stand-in for a module with `is_gate`, or the reason why it stays."""
    if arguments(module) != ["features"]:
        return f"its forward takes ({', '.join(arguments(module))}), not (features)"
    activations = (module.act_scalars, module.act_gates)
    if any(isinstance(part, torch.jit.ScriptModule) for part in (module.sc, *activations)):
        return "its parts are scripted"
    if not all(hasattr(part, name) for part in activations for name in ("irreps_in", "acts")):
        return "its activations are not e3nn's"
    parts = _parts(module)
    if isinstance(parts, str):
        return parts
    try:
        return GateSwap(module, gate_spec(module.irreps_in.dim, parts))
    except ProgramError as error:
        return str(error)


def _parts(module: Any) -> tuple[Part, ...] | str:
    """The columns of scalars, gates and gated irreps, as the module takes them apart, and their activations."""
    where = torch.arange(module.irreps_in.dim, dtype=torch.float64).unsqueeze(0)
    scalars, gates, gated = ([int(n) for n in a.flatten()] for a in module.sc(where))
    parts: list[Part] = []
    for columns, activation in ((scalars, module.act_scalars), (gates, module.act_gates)):
        first = 0
        for (mul, ir), act in zip(activation.irreps_in, activation.acts, strict=True):
            name, scale = _activation(act)
            run = columns[first : first + mul]
            if ir.l or name not in ACTIVATIONS or run != list(range(run[0], run[0] + mul)):
                return f"its activation {act} or its columns are not known"
            parts.append(Part(run[0], mul, name, scale))
            first += mul
    count = len(module.act_scalars.acts)
    return _with_gated(parts[:count], parts[count:], gated, module.irreps_gated)


def _with_gated(scalars: list[Part], gates: list[Part], gated: list[int], irreps: Any) -> tuple[Part, ...] | str:
    """Each gate with the irreps that it multiplies, cut where either ends."""
    found, first, rest = list(scalars), 0, list(gates)
    for mul, ir in irreps:
        while mul:
            gate = rest.pop(0)
            n = min(mul, gate.mul)
            run = gated[first : first + n * ir.dim]
            if run != list(range(run[0], run[0] + len(run))):
                return "the columns of its gated irreps are apart"
            found.append(gate._replace(mul=n, gated=run[0], dim=ir.dim))
            if gate.mul > n:
                rest.insert(0, gate._replace(start=gate.start + n, mul=gate.mul - n))
            first, mul = first + n * ir.dim, mul - n
    return tuple(found)


_FUNCTIONS: dict[Any, str] = {
    torch.nn.functional.silu: "silu",
    torch.tanh: "tanh",
    torch.nn.functional.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    torch.nn.functional.sigmoid: "sigmoid",
    torch.abs: "abs",
}
_MODULES = {"SiLU": "silu", "Tanh": "tanh", "Sigmoid": "sigmoid", "ShiftedSoftPlus": "ssp", "ShiftedSoftplus": "ssp"}


def _activation(act: Any) -> tuple[str, float]:
    """The name and the factor of an activation of e3nn's, which `agrees` checks by its numbers."""
    if act is None:
        return "identity", 1.0
    f, scale = getattr(act, "f", act), 1.0 if getattr(act, "_is_id", True) else float(act.cst)
    name = _FUNCTIONS.get(f) or _MODULES.get(type(f).__name__)
    if name is None and "softplus" in getattr(f, "__name__", "").lower():
        name = "ssp"
    return name or "", scale
