"""Peak memory of a convolution's step beyond inputs and returned tensors, ours and e3nn's, each in fresh processes.

With the radial network inside, it is all memory beyond the inputs.
"""

from __future__ import annotations

import sys
from typing import Any

import memory
import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from Linux's /proc")
@pytest.mark.parametrize("step", [*memory.STEPS, *memory.RADIAL])
@pytest.mark.parametrize("name", ["mace", "nequip", "sevennet"])
def test_memory(benchmark: Any, name: str, edges: int, step: str) -> None:
    found = {rival: memory.measure(rival, name, edges, step) for rival in ("equikern", "e3nn")}
    benchmark.extra_info.update(case=f"{name}-conv", edges=edges, step=step, rivals={}, memory=found)
    benchmark.pedantic(lambda: None, rounds=1)
