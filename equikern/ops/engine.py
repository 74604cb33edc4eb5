"""What every op shares: the library object, what the autograd engine really asks for, the way past the dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map

# Kept alive for the life of the process: the registrations die with it.
LIBRARY = torch.library.Library("equikern", "FRAGMENT")


class Function(torch.autograd.Function):
    """A Function that records a call of an op, under torch.func at the level of transforms that the op is called at."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """The results, recorded."""
        if not torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        with enable_single_level_autograd_function():
            return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


@contextmanager
def below_autograd() -> Iterator[None]:
    """Where an op is called below autograd: nothing records at its level, but the levels of torch.func below it do."""
    with torch._C._AutoDispatchBelowAutograd():
        # In the forward of a Function torch has switched both off, at all levels.
        if torch._C._are_functorch_transforms_active() and not torch._C._is_fwd_grad_enabled():
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                yield
        else:
            yield


def batch(op: Any) -> None:
    """Let torch.func.vmap take an op: one call for each of the batch."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        size = info.batch_size

        def at(n: int) -> Any:
            def one(a: Any, dim: int | None) -> Any:
                # Of an empty batch, zeros: they give the shapes.
                return a if dim is None else a.select(dim, n) if size else a.sum(dim)

            return tree_map(one, args, in_dims)

        calls = [op(*at(n)) for n in range(max(size, 1))]
        stacked = tree_map(lambda *results: torch.stack(results)[:size], *calls)
        return stacked, tree_map(lambda _: 0, stacked)

    torch.library.register_vmap(op, rule, lib=LIBRARY)


def wanted(ctx: Any, first: int, count: int) -> list[int]:
    """Which of the tensor inputs `first ... first+count-1` of a Function need a gradient in this very backward pass.

    `ctx.needs_input_grad` is true for parameters even in `torch.autograd.grad(energy, positions)`: the engine knows.
    The Function's tensor inputs must be its last arguments, so that `next_functions` starts at `first`.
    """
    needed = ctx.needs_input_grad[first : first + count]
    return [n for n in range(count) if needed[n] and _executes(ctx.next_functions[n][0])]


def _executes(node: Any) -> bool:
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        # The engine refuses to answer for a leaf whose gradient is captured: it was asked for.
        return True


def _keys(*keys: DispatchKey) -> int:
    found = DispatchKeySet(keys[0])
    for key in keys[1:]:
        found = found.add(key)
    return found.raw_repr()  # type: ignore[no-any-return]


# Of tensors on the CPU or on CUDA devices that are nothing else (no wrapper, no lazy negation), and of threads where
# nothing intercepts calls (no tracing, no transform, no dispatch mode); each in and out of inference mode.
_PLAIN_TENSOR = {
    _keys(*keys, *recording)
    for keys, autograd in (
        ((DispatchKey.CPU, DispatchKey.AutocastCPU), DispatchKey.AutogradCPU),
        ((DispatchKey.CUDA, DispatchKey.AutocastCUDA), DispatchKey.AutogradCUDA),
    )
    for recording in ((), (DispatchKey.ADInplaceOrView, autograd))
}
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_PLAIN_THREAD = {_keys(DispatchKey.BackendSelect), _keys(DispatchKey.BackendSelect, DispatchKey.ADInplaceOrView)}


def direct(*tensors: Tensor) -> bool:
    """Whether an op of these tensors may run past torch's dispatcher, which costs 9 us a call.

    True where nothing would see the difference: plain tensors, no recording, no derivative, no mode, no profiler.
    """
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return False
    return plain(tensors)


def plain(tensors: Sequence[Tensor], integers: Sequence[Tensor] = ()) -> bool:
    """As `direct`, but recording may be on: what an autograd Function may call, and be called, past the dispatcher."""
    if (
        torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_function_stack() != 0
        or torch.autograd._profiler_enabled()
        or torch._C._is_any_autocast_enabled()
        or torch._C._dispatch_tls_local_include_set().raw_repr() not in _PLAIN_THREAD
    ):
        return False
    for tensor in integers:
        # Only a subclass or a transform, which the thread would show, hides anything in them.
        if type(tensor) not in _PLAIN_TYPES:
            return False
    for tensor in tensors:
        if type(tensor) not in _PLAIN_TYPES or torch._C._dispatch_keys(tensor).raw_repr() not in _PLAIN_TENSOR:
            return False
    return True


class Op:
    """An op of the library by its schema, called past torch's dispatcher where nothing would see the difference.

    `kernel` computes, `fake` gives shapes, `autograd` records a call of the op, or calls `below`.
    """

    def __init__(
        self,
        schema: str,
        kernel: Callable[..., Any],
        fake: Callable[..., Any],
        autograd: Callable[..., Any],
    ) -> None:
        name = LIBRARY.define(schema)
        self._op, self._kernel, self._autograd = getattr(torch.ops.equikern, name).default, kernel, autograd
        LIBRARY.impl(name, out_of_autocast(kernel), "CompositeExplicitAutograd")
        torch.library.register_fake(f"equikern::{name}", fake, lib=LIBRARY)
        LIBRARY.impl(name, autograd, "Autograd")
        batch(self._op)

    def __call__(self, *args: Any) -> Any:
        """The op's results, recorded where a tensor asks for it."""
        tensors = _tensors(args)
        if not plain(tensors):
            return self._op(*args)
        records = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        return (self._autograd if records else self._kernel)(*args)

    def below(self, *args: Any) -> Any:
        """The op's results below autograd, which has seen to derivatives."""
        if plain(_tensors(args)):
            return self._kernel(*args)
        with below_autograd():
            return self._op(*args)


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    """The tensors among an op's arguments, and in lists among them."""
    found: list[Tensor] = []
    for a in args:
        if isinstance(a, Tensor):
            found.append(a)
        elif isinstance(a, list):
            found += [t for t in a if isinstance(t, Tensor)]
    return found


def stored(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie at its `data_ptr`: no wrapper, no lazy negation, no tracing, no transform."""
    return (
        type(tensor) in _PLAIN_TYPES
        and not torch.compiler.is_compiling()
        and torch._C._dispatch_tls_local_include_set().raw_repr() in _PLAIN_THREAD
        and torch._C._dispatch_keys(tensor).raw_repr() in _PLAIN_TENSOR
    )


# --- precision: the rule of docs/numerics.md

P = ParamSpec("P")
R = TypeVar("R")
HALF = (torch.float16, torch.bfloat16)
_AUTOCAST = DispatchKeySet(DispatchKey.AutocastCPU).add(DispatchKey.AutocastCUDA)


def out_of_autocast(kernel: Callable[P, R]) -> Callable[P, R]:
    """An op's kernel, of whose torch ops autocast does not see any: they compute in the dtypes of their operands."""

    @wraps(kernel)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch._C._is_any_autocast_enabled():
            return kernel(*args, **kwargs)
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return kernel(*args, **kwargs)

    return run


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on where the tensor is."""
    if not torch._C._is_any_autocast_enabled():
        return False
    device = tensor.device.type
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def wide(value: Any) -> Any:
    """A tensor of a half type, also in a list, as float32; anything else as it is."""
    if type(value) in (list, tuple):
        return type(value)(map(wide, value))
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """A function of torch ops that computes half types in float32 and rounds its results once.

    Under autocast, which does not reach inside, they stay float32. The first floating tensor has the dtype.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (*args, *kwargs.values())
        like = next((a for a in given if isinstance(a, Tensor) and a.is_floating_point()), None)
        if like is None or not (like.dtype in HALF or autocasts(like)):
            return function(*args, **kwargs)
        args, kwargs = wide(args), {name: wide(a) for name, a in kwargs.items()}  # type: ignore[assignment]
        if not autocasts(like):
            return _rounded(function(*args, **kwargs), like.dtype)  # type: ignore[no-any-return]
        with torch.autocast(like.device.type, enabled=False):
            return function(*args, **kwargs)

    return run


matmul = in_float32(torch.matmul)  # of weights


def _rounded(found: Any, dtype: torch.dtype) -> Any:
    if isinstance(found, tuple):
        return tuple(_rounded(t, dtype) for t in found)
    return found.to(dtype) if found.is_floating_point() else found
