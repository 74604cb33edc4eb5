"""`explain`: which backend runs a program here, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from equikern import backends
from equikern.errors import EquikernError
from equikern.interop.swap import installed
from equikern.program import Program
from equikern.program.symmetric import Symmetric


@dataclass(frozen=True, repr=False)
class Explanation:
    """For each program (where, text): every backend with None, or the reason why it cannot."""

    device: str
    dtype: torch.dtype
    programs: tuple[tuple[str, str, dict[str, str | None]], ...]

    def __repr__(self) -> str:
        lines = []
        for path, text, answers in self.programs:
            lines.append(f"{path or 'program'} on {self.device}, {str(self.dtype).removeprefix('torch.')}")
            lines.append(f"  {text}")
            lines.extend(f"  {name:10}  {why or 'runs it'}" for name, why in answers.items())
        return "\n".join(lines)


def explain(
    what: nn.Module | Program | Symmetric | str, *, device: str | None = None, dtype: torch.dtype | None = None
) -> Explanation:
    """Which backends run the programs of a module (or one program), and why the others do not; print it.

    `device` and `dtype` default to those of the module's first floating parameter or buffer, then to the CPU and
    torch's default dtype. Raises EquikernError for a module without programs.

    >>> explain("eqk1 product mul_ir: x[edge] 2x0e | y[edge] 0e | w[edge] 2 | z[edge] 2x0e : 0 0 0 uvu 1.0")
    program on cpu, float32
      eqk1 product mul_ir: x[edge] 2x0e | y[edge] 0e | w[edge] 2 | z[edge] 2x0e : 0 0 0 uvu 1.0
      cpu         runs it
      cuda        operands are on cpu; the kernels run on cuda
      triton      operands are on cpu; the kernels run on cuda (on the CPU only interpreted, TRITON_INTERPRET=1)
      matmul      runs it
      reference   runs it
    """
    found = _programs(what)
    if not found:
        raise EquikernError(
            f"{type(what).__name__} holds no program of equikern; "
            "if it is an e3nn or SevenNet model, equikern.accelerate it first."
        )
    like = _first_float(what) if isinstance(what, nn.Module) else None
    on = device or ("cpu" if like is None else like.device.type)
    kind = dtype or (torch.get_default_dtype() if like is None else like.dtype)
    return Explanation(on, kind, tuple((path, str(of), _reasons(of, on, kind)) for path, of in found))


def _reasons(of: Program | Symmetric | str, device: str, dtype: torch.dtype) -> dict[str, str | None]:
    if isinstance(of, Symmetric):
        return backends.symmetric_reasons(device, dtype)
    return backends.reasons(str(of), device, dtype)


def _programs(what: nn.Module | Program | Symmetric | str) -> list[tuple[str, Program | Symmetric | str]]:
    if not isinstance(what, nn.Module):
        return [("", what)]
    found: list[tuple[str, Program | Symmetric | str]] = []
    for path, module in what.named_modules():
        # A layer of equikern holds its program; an accelerated module's forward does.
        for holder in (module, installed(module)):
            held = (getattr(holder, name, None) for name in ("program", "polynomials"))
            found += [(path, program) for program in held if isinstance(program, (Program, Symmetric))]
    return found


def _first_float(module: nn.Module) -> torch.Tensor | None:
    tensors = (*module.parameters(), *module.buffers())
    return next((t for t in tensors if t.is_floating_point() and t.numel()), None)
