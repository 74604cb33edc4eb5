"""`Gate`: activated scalars, and irreps times activated gates, with e3nn's arguments, normalisation and columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from equikern.errors import ProgramError
from equikern.ops.gate import Part, gate, gate_spec
from equikern.program import Irreps
from equikern.program.irreps import sort_irreps

# What makes E[f(z)^2] = 1 for a normal z: e3nn's `normalize2mom` to its last digit, which it finds from a million
# samples. Trained weights count on these numbers.
GAINS = {"silu": 1.6791767923989418, "tanh": 1.5937334472592695, "sigmoid": 1.8467055342154763, "identity": 1.0}
_NAMES: dict[Any, str] = {
    torch.nn.functional.silu: "silu",
    torch.tanh: "tanh",
    torch.nn.functional.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    torch.nn.functional.sigmoid: "sigmoid",
    None: "identity",
}
Activation = Callable[[Tensor], Tensor] | None


class Gate(torch.nn.Module):
    """Scalars f(s), then gated irreps f(g) * t with one gate a channel: (..., irreps_in.dim) to (..., irreps_out.dim).

    Arguments: irreps of the scalars with one activation an entry (silu, tanh, sigmoid or None), of the gates, scalars
    likewise, and of what they multiply, as many channels as gates. Each activation has its second moment normalised.
    `irreps_in` is all three sorted, `irreps_out` scalars and gated irreps in the order given.
    An odd scalar needs an odd activation (tanh, None); an odd gate turns the parity of what it multiplies, which is
    refused. Raises ProgramError for what cannot be.

    >>> gate = Gate("4x0e", [torch.nn.functional.silu], "2x0e", [torch.sigmoid], "2x1o")
    >>> gate.irreps_in, gate.irreps_out
    (6x0e+2x1o, 4x0e+2x1o)
    >>> gate(torch.zeros(5, 12)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        irreps_scalars: Any,
        act_scalars: Sequence[Activation],
        irreps_gates: Any,
        act_gates: Sequence[Activation],
        irreps_gated: Any,
    ) -> None:
        super().__init__()
        scalars, gates, gated = Irreps(irreps_scalars), Irreps(irreps_gates), Irreps(irreps_gated)
        acts = [*_names(scalars, act_scalars), *_names(gates, act_gates)]
        _check(scalars, gates, gated, acts)
        every = scalars + gates + gated
        order = sort_irreps(every)
        slices = order.irreps.slices()
        start = [slices[place].start for place in order.p]  # the first column of each entry
        parts = [
            Part(first, mul, act, GAINS[act])
            for first, (mul, _), act in zip(start, scalars, acts[: len(scalars)], strict=False)
        ]
        parts += [
            Part(first, mul, act, GAINS[act], gated=of, dim=ir.dim)
            for first, (mul, ir), act, of in zip(
                start[len(scalars) :], gated, acts[len(scalars) :], start[len(scalars) + len(gates) :], strict=False
            )
        ]
        self.irreps_in, self.irreps_out = order.irreps.simplify(), (scalars + gated).simplify()
        self.spec = gate_spec(every.dim, tuple(parts))

    def forward(self, features: Tensor) -> Tensor:
        """features (..., irreps_in.dim) -> (..., irreps_out.dim)."""
        return gate(self.spec, features)

    def extra_repr(self) -> str:
        return f"{self.irreps_in} -> {self.irreps_out}"


def _names(irreps: Irreps, acts: Sequence[Activation]) -> list[str]:
    if len(acts) != len(irreps):
        raise ProgramError(f"a gate takes one activation for each entry of {irreps}; got {len(acts)}.")
    for act in acts:
        if act not in _NAMES:
            raise ProgramError(f"unknown activation {act!r}; a gate knows silu, tanh, sigmoid and None.")
    return [_NAMES[act] for act in acts]


def _check(scalars: Irreps, gates: Irreps, gated: Irreps, acts: list[str]) -> None:
    for (_, ir), act in zip(scalars + gates, acts, strict=True):
        if ir.l != 0:
            raise ProgramError(f"an activation acts on scalars; got {ir} among {scalars} and {gates}.")
        if ir.p < 0 and act not in ("tanh", "identity"):
            raise ProgramError(f"{act} of an odd scalar has no parity; use tanh or None for the {ir} of {scalars}.")
    if any(ir.p < 0 for _, ir in gates):
        raise ProgramError(f"gates are even scalars, 0e; got {gates}.")
    if [mul for mul, _ in gates] != [mul for mul, _ in gated]:
        raise ProgramError(f"each entry of the gated irreps has as many gates as channels; got {gates} for {gated}.")
