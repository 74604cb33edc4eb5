"""`RadialTable`: a spline through a function of the edge length, built in float64, measured, rebuilt on change.

A radial network gives the weights of a convolution from one number, the length of an edge; a spline through it is exact
to less than the network's own rounding in float32, and a kernel reads eight rows of it instead of running the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from equikern import backends
from equikern.backends.bits import same
from equikern.errors import EquikernError
from equikern.nn._radial_fit import HOST, INTERVALS, Fit, fit, gradient_at_sites, holds, near, sites_of, table_of
from equikern.ops.engine import plain
from equikern.ops.spline import spline
from equikern.ops.values import on_host

# What a table may differ from its function, of the largest weight: value, slope (per unit of length). Slopes of 1e-5
# would do for weights, but not for forces that are to be as exact as the network in float32 gives them.
TOLERANCE = (1e-7, 3e-6)
LARGEST = 256 << 20  # bytes
TRAINED = 8  # edges an interval, from which on a step of training gains by a table that it makes anew
DTYPES = {torch.float32, torch.float64}


class RadialTable:
    """The table of `radial`, a module that maps lengths (E,) to weights (E, W).

    It covers lengths from its first knot `r_min` (r_max / 10 by default) on; beyond `r_max` the value at `r_max` holds.
    Kinks, where a derivative jumps, are found and become breaks.
    With `species`, radial maps lengths and the species of both ends, integers (E,), and each pair (a, b) has rows of
    its own, those of pair a * species + b.

    The module is evaluated in float64, with its parameters as they are now: the table is made again when one of them,
    or a buffer, has other values than when it was made. After small changes, as in training, the knots stay and errors
    are measured in a sample of the intervals, or the reason stays why there is no table: `why_not()`.

    On a CUDA device, values are looked at, which waits for it, where the host sees that they may have changed: another
    tensor, one changed in place, `train`, `eval` or `requires_grad_`. What it cannot see is checked on the device and
    gives NaN, nothing wrong in silence: edges shorter than `r_min`, and all edges once a parameter was written to
    through `.data`, until `why_not()` is called. While a CUDA graph is captured the table stays as it is.
    """

    def __init__(self, radial: torch.nn.Module, r_max: float, *, r_min: float | None = None, species: int = 0) -> None:
        if not 0 < r_max < float("inf"):
            raise EquikernError(f"a radial table reaches to a finite length r_max above 0; got {r_max!r}.")
        if r_min is not None and not 0 <= r_min < r_max:
            raise EquikernError(f"a radial table starts at r_min, 0 <= r_min < r_max = {r_max}; got {r_min!r}.")
        if species < 0:
            raise EquikernError(f"the number of species cannot be negative; got {species!r}.")
        self.radial, self.r_max, self.species = radial, float(r_max), int(species)
        self.pairs = self.species**2 or 1
        self.r_min = self.r_max / 10 if r_min is None else float(r_min)
        self._made_of: list[Tensor] = []
        self._measured_of: list[Tensor] = []  # when all intervals were looked at last
        self._seen: list[tuple[int, ...]] = []  # what the host saw when they were looked at last, on a device
        self._looked_at: list[Tensor] = []  # kept, so that no other tensor has their id
        self._numbers: Tensor | None = None  # all of them, on a device
        self._tuned = False  # whether, since it was made, parameters got gradients in evaluation
        self._fit: Fit | None = None
        self._rows: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._reason = ""

    def __call__(
        self, r: Tensor, dtype: torch.dtype, pair: Tensor | None = None, *, asked: bool = False
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """What a `tabled` program reads for lengths r (E,): rows (n, W), factors b (E, 8), first rows knot (E,).

        rows is on the graph of the module's parameters, b on that of r. None where the module itself must be used:
        there is no table, or somebody traces or transforms (torch.func) and values cannot be looked at; in half types;
        on the CPU, where an edge is shorter than the first knot, or not a number; with fewer edges than any table has
        intervals; where it trains with fewer than `TRAINED` times the table's intervals (each step makes a table, and
        derivatives by parameters take the module at its sites). It trains in training mode, or where parameters have
        changed after gradients in evaluation, until a call without them, or `why_not()`, makes the table again. Unless
        it was `asked` for by name, None too on a device, where short edges give NaN, and on the reference backend: what
        others are held to is the module itself.
        """
        hidden = _get_current_dispatch_mode() is not None or torch._C._functorch.peek_interpreter_stack() is not None
        if torch.compiler.is_compiling() or hidden or r.shape[0] < INTERVALS[0]:
            return None
        if not {r.dtype, dtype} <= DTYPES:
            return None
        now = self._state()
        parameters = [t for t in now if t.requires_grad]
        attached = torch.is_grad_enabled() and bool(parameters)
        seen = on_host(r)
        if not asked and (not seen or backends.setting() == backends.reference.name):
            return None
        trains = attached and (self._training or (self._tuned and not self._current(now)))
        if trains and self._few(r):  # by the intervals it had: none is made for nothing
            return None
        self._refresh(now)
        if self._fit is None or (trains and self._few(r)) or (seen and not r.detach().amin().item() >= self.r_min):
            return None
        if not seen:
            r = r + self._doubt(r.detach(), now)
        b, knot = spline(r, self._fit.breaks, self._fit.intervals)
        rows = _Rows.apply(self, dtype, r.device, *parameters) if attached else self._cast(dtype, r.device)
        return rows, b.to(dtype), knot if pair is None else knot + pair * self._fit.rows

    def why_not(self) -> str | None:
        """None if there is a table of the module as it is now, by the values of its parameters, else the reason."""
        self._seen = []
        self._refresh(self._state())
        return self._reason or None

    def __len__(self) -> int:
        """Intervals between knots, of all pairs; 0 if there is no table."""
        self._refresh(self._state())
        return self._intervals

    @property
    def errors(self) -> tuple[float, float]:
        """Largest error of value and slope that was measured, over the largest weight."""
        return (float("nan"),) * 2 if self._fit is None else self._fit.errors  # type: ignore[return-value]

    def seen(self) -> list[tuple[int, ...]]:
        """What the host sees of the module's parameters and buffers: where it differs, their values may too."""
        return self._see(self._state())

    def _see(self, now: list[Tensor]) -> list[tuple[int, ...]]:
        versions = [-1 if t.is_inference() else t._version for t in now]
        about = [(id(t), t.data_ptr(), v, t.requires_grad) for t, v in zip(now, versions, strict=True)]
        return [*about, (self.radial.training,)]

    # --- how it is made

    @property
    def _intervals(self) -> int:
        return 0 if self._fit is None else sum(self._fit.intervals) * self.pairs

    @property
    def _training(self) -> bool:
        return all(m.training for m in self.radial.modules())

    def _few(self, r: Tensor) -> bool:
        """Whether training is quicker by the module itself."""
        return r.shape[0] < TRAINED * max(self._intervals, INTERVALS[0])

    def _state(self) -> list[Tensor]:
        """Parameters and buffers, each once: in one walk, as each call takes it."""
        found: dict[Tensor | None, None] = {}
        modules: list[Any] = [self.radial]
        for m in modules:  # not `modules()`, which takes five times as long
            found.update(dict.fromkeys([*m._parameters.values(), *m._buffers.values()]))
            modules += [child for child in m._modules.values() if child is not None]
        return [t for t in found if t is not None]

    @property
    def _device(self) -> torch.device:
        return next((t.device for t in self._state()), HOST)

    def _refresh(self, now: list[Tensor]) -> None:
        """Make the table of the module as it is, `now` its parameters and buffers, unless it is made already."""
        if not self._current(now):
            with _plainly():
                self._make(now)

    def _current(self, now: list[Tensor]) -> bool:
        """Whether the table, or the reason why there is none, is that of the module as it is."""
        known, unseen = bool(self._fit or self._reason), bool(now) and not on_host(now[0])
        if unseen and (_capturing() or (known and self._see(now) == self._seen)):
            return True
        # By value: in-place writes through `.data`, as of averaged parameters, leave no other trace.
        equal = same if plain(now) else _equal
        if not known or len(now) != len(self._made_of) or not all(map(equal, now, self._made_of)):
            return False
        if unseen:
            self._seen, self._looked_at = self._see(now), now
        return True

    def _make(self, now: list[Tensor]) -> None:
        self._made_of, self._tuned, self._numbers = [t.detach().clone() for t in now], False, None
        if now and not on_host(now[0]):
            self._seen, self._looked_at, self._numbers = self._see(now), now, _numbers(self._made_of)
        if self._reason and near(now, self._measured_of):
            return
        self._rows, self._reason, before, self._fit = {}, "", self._fit, None
        values = self._values(torch.float64, HOST)
        if before is not None and near(now, self._measured_of):
            table = table_of(before, values)
            if holds(values, before, TOLERANCE, table):
                self._fit = before
                self._rows = {(torch.float64, self._device): self._by_pair(table).to(self._device)}
                return
        self._measured_of = self._made_of
        result = fit(values, self.r_min, self.r_max, TOLERANCE, like=before)
        if isinstance(result, str):
            self._reason = result
        elif (size := 4 * result.rows * values(torch.tensor([self.r_max]).double()).shape[1]) > LARGEST:
            self._reason = f"it would take {size >> 20} MiB, more than {LARGEST >> 20}"
        else:
            self._fit = result

    def _doubt(self, r: Tensor, now: list[Tensor]) -> Tensor:
        """0 for each length (E,), NaN where the table says nothing: below its first knot, or made of other numbers."""
        known = r >= self.r_min
        if self._numbers is not None and (numbers := _numbers(now)) is not None:
            known = known & (numbers == self._numbers).all()
        return torch.where(known, 0.0, float("nan")).to(r.dtype)

    def _values(self, dtype: torch.dtype, results: torch.device) -> Callable[[Tensor], Tensor]:
        """The module in a dtype: lengths (n,) -> (n, pairs * W), on the device of results."""
        state: dict[str, Any] = dict(self.radial.named_parameters()) | dict(self.radial.named_buffers())
        cast = {name: t.to(dtype) for name, t in state.items() if t.is_floating_point() and t.dtype != dtype}

        def values(r: Tensor) -> Tensor:
            r = r.to(self._device, dtype)
            ends = [torch.full_like(r, n, dtype=torch.int64) for n in range(self.species)]
            arguments: list[tuple[Tensor, ...]] = [(r, a, b) for a in ends for b in ends]
            arguments = arguments or [(r,)]
            parts = [torch.func.functional_call(self.radial, cast, a) for a in arguments]
            return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).to(results)

        return values

    def _at_sites(self, dtype: torch.dtype, grad: Tensor) -> tuple[Tensor, Tensor]:
        """The module at the table's sites, in a dtype, and the gradient by that of one by the table (rows, W)."""
        assert self._fit is not None
        values = self._values(dtype, self._device)(sites_of(self._fit, self._device))
        by_row = grad.unflatten(0, (self.pairs, -1)).transpose(0, 1).flatten(1)  # (rows, pairs * W)
        return values, gradient_at_sites(self._fit, by_row)

    def _by_pair(self, table: Tensor) -> Tensor:
        """(pairs * rows, W) of a table (rows, pairs * W)."""
        return table.unflatten(1, (self.pairs, -1)).transpose(0, 1).flatten(0, 1)

    def _cast(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        if (dtype, device) not in self._rows:
            exact = torch.float64, self._device
            with _plainly():
                if exact not in self._rows:
                    assert self._fit is not None
                    table = table_of(self._fit, self._values(torch.float64, self._device), self._device)
                    self._rows[exact] = self._by_pair(table)
                self._rows[dtype, device] = self._rows[exact].to(device, dtype)
            if exact != (dtype, device):
                del self._rows[exact]  # its size, twice over
        return self._rows[dtype, device]

    def __getstate__(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"_made_of": [], "_measured_of": [], "_seen": [], "_looked_at": []}
        return self.__dict__ | empty | {"_numbers": None, "_tuned": False, "_fit": None, "_rows": {}, "_reason": ""}


@contextmanager
def _plainly() -> Iterator[None]:
    """Without recording, and not in inference mode: what is kept of one call serves others, which may record."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _numbers(tensors: list[Tensor]) -> Tensor | None:
    """All floating-point numbers of some tensors, in one."""
    parts = [t.detach().flatten() for t in tensors if t.is_floating_point()]
    return torch.cat(parts) if parts else None


class _Rows(torch.autograd.Function):
    """The cached rows; their derivative runs the module at the sites of the spline, where a parameter wants it."""

    @staticmethod
    def forward(ctx: Any, table: RadialTable, dtype: torch.dtype, device: torch.device, *parameters: Tensor) -> Tensor:
        ctx.table, ctx.dtype = table, dtype
        ctx.save_for_backward(*parameters)
        return table._cast(dtype, device).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.table._tuned |= not ctx.table._training
        parameters = ctx.saved_tensors  # refuses parameters that were changed in place since
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # Values must be exact for slopes to be; for derivatives of parameters their own precision will do.
            values, along = ctx.table._at_sites(ctx.dtype, grad)
            found = torch.autograd.grad(values, parameters, along, create_graph=create_graph, allow_unused=True)
        return None, None, None, *found
