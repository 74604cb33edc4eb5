"""What the suite is made of, for users too: a table of cases, computed tolerances, comparison with readable messages.

`strategies` (hypothesis, optional) is imported by name: `from equikern.testing import strategies`.
"""

from equikern.testing.cases import (
    CASES,
    LAYERS,
    SWEEPS,
    Case,
    Inputs,
    edge_index,
    get,
    inputs,
    mode_spec,
    tagged,
    uvu_paths,
)  # fmt: skip
from equikern.testing.compare import assert_close, derivatives, reference, run
from equikern.testing.radial import RadialNetwork
from equikern.testing.symmetric import SYMMETRIC, symmetric_derivatives, symmetric_inputs
from equikern.testing.tolerance import tolerance
from equikern.testing.trace import Calls, force_graph, strip_detach
from equikern.testing.waits import NoWaits, as_on_a_device

__all__ = [
    "CASES", "Calls", "Case", "Inputs", "LAYERS", "NoWaits", "RadialNetwork", "SWEEPS", "SYMMETRIC", "as_on_a_device",
    "assert_close", "derivatives", "edge_index", "force_graph", "get", "inputs", "mode_spec", "reference", "run",
    "strip_detach", "symmetric_derivatives", "symmetric_inputs", "tagged", "tolerance", "uvu_paths",
]  # fmt: skip
