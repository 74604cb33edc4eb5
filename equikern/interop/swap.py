"""`Swap`: the callable that stands in for a module's `forward` while the module itself stays as it is.

It is an instance attribute, `module.forward = swap`, so class, parameters, buffers, state dict and hooks are untouched;
`del module.forward` undoes it. It is pickled and deep-copied with its module. What it does not cover (a device or dtype
without a kernel, mixed dtypes under autocast) goes to the module's own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equikern import backends
from equikern.backends.constant import constant
from equikern.program import Program, parse

REFERENCE = "reference"


class Swap:
    """A stand-in for `module.forward` that runs `program`."""

    tables = "evaluation"

    def __init__(self, module: nn.Module, program: Program | None = None) -> None:
        self.module = module
        self.program = program

    def why_not(self, device: str, dtype: torch.dtype) -> str | None:
        """None if a kernel does the work here, else why there is none."""
        return None if self.program is None else why_not_native(self.program, device, dtype)

    def own(self, *args: Any, **named: Any) -> Any:
        """What the module's class computes."""
        return type(self.module).forward(self.module, *args, **named)  # type: ignore[attr-defined]

    def covers(self) -> list[nn.Module]:
        """The modules whose work the stand-in does; what else is inside them may have stand-ins of its own."""
        return list(self.module.modules())

    def rebuild(self) -> Swap | str:
        """The stand-in for the module as it is now, or the reason why there is none (after new buffers were loaded)."""
        return self

    def agrees(self) -> bool:
        """Whether the module's own forward gives the numbers of its stand-in on a small random input."""
        raise NotImplementedError

    def constants(self) -> nn.Module | None:
        """The module whose loaded buffers `program` depends on."""
        return None

    def __getattr__(self, name: str) -> Any:
        # What torch.jit.script asks of a forward first.
        if name == "__globals__":
            raise AttributeError(
                "TorchScript cannot read a module that runs on equikern: "
                "call equikern.restore(model) before torch.jit.script."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"program": None if self.program is None else self.program.text}

    def __setstate__(self, state: dict[str, Any]) -> None:
        text = state["program"]
        self.__dict__.update(state | {"program": None if text is None else parse(text)})


class Reload:
    """A post hook of `load_state_dict`: coefficients may have changed, so the stand-in of `owner` is made again."""

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner

    def __call__(self, module: nn.Module, incompatible_keys: Any) -> None:
        swap = installed(self.owner)
        if swap is None:
            return
        made = swap.rebuild()
        if isinstance(made, Swap) and made.agrees():
            self.owner.forward = made  # type: ignore[assignment]
        else:
            del self.owner.forward


def installed(module: nn.Module) -> Swap | None:
    """The stand-in that a module has, if it has one."""
    swap = module.__dict__.get("forward")
    return swap if isinstance(swap, Swap) else None


def install(swap: Swap) -> None:
    """Put a stand-in in place."""
    swap.module.forward = swap  # type: ignore[assignment]
    source = swap.constants()
    if source is not None:
        source.register_load_state_dict_post_hook(Reload(swap.module))


def remove(module: nn.Module) -> None:
    """Take the stand-in and the hooks off a module, if it has any."""
    if installed(module) is not None:
        del module.forward
    hooks = module._load_state_dict_post_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, Reload)]:
        del hooks[key]


def why_not_native(program: Program, device: str, dtype: torch.dtype) -> str | None:
    """None if a kernel runs the program here, or the reference was asked for by name; else the reasons."""
    return backends.why_not(program.text, device, dtype)


def runs(program: Program, *tensors: Tensor) -> bool:
    """Whether these tensors have one dtype and device, with a kernel for the program there."""
    dtype, device = tensors[0].dtype, tensors[0].device
    for t in tensors:
        if (t.dtype != dtype or t.device != device) and t.numel():
            return False
    return why_not_native(program, device.type, dtype) is None


def why_no_harmonics(device: str, dtype: torch.dtype) -> str | None:
    """The same for spherical harmonics."""
    return _why_no_harmonics(backends.setting(), device, dtype)


def why_no_contraction(device: str, dtype: torch.dtype) -> str | None:
    """The same for symmetric contractions."""
    return _why_no_contraction(backends.setting(), device, dtype)


@constant
def _why_no_contraction(setting: str, device: str, dtype: torch.dtype) -> str | None:
    return backends.judge(setting, backends.symmetric_reasons(device, dtype))


@constant
def _why_no_harmonics(setting: str, device: str, dtype: torch.dtype) -> str | None:
    return backends.judge(setting, {name: b.supports(device, dtype) for name, b in backends.harmonics.items()})


def close(own: Callable[[], Tensor], ours: Callable[[], Tensor]) -> bool:
    """Whether two computations agree: to 1e-4 of the largest value, in float64 1e-6 (e3nn's symbols may be rounded)."""
    try:
        with torch.no_grad():
            expected, got = own(), ours()
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        IndexError,
        AssertionError,
        NotImplementedError,
    ):
        return False
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return False
    tolerance = 1e-6 if expected.dtype == torch.float64 else 1e-4
    return not expected.numel() or bool((expected - got).abs().max() <= tolerance * expected.abs().max())


def device_and_dtype(module: nn.Module, root: nn.Module) -> tuple[str, torch.dtype]:
    """Where a module computes: as its first floating parameter or buffer, else the model's, else torch's default."""
    for source in (module, root):
        for tensor in (*source.parameters(), *source.buffers()):
            if tensor.is_floating_point() and tensor.numel():
                return tensor.device.type, tensor.dtype
    return "cpu", torch.get_default_dtype()
