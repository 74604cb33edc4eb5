"""Native threads: after a fork, from several Python threads, and with a CPU target that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from equikern.nn import Convolution

FORKED = """
import os, sys, torch
from equikern.nn import Convolution
torch.set_num_threads(2)
conv = Convolution("8x0e+8x1o", "0e+1o", "8x0e", [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True)])
given = torch.randn(9, 32), torch.randn(500, 4), torch.randn(500, 16), torch.randint(9, (2, 500))
expected = conv(*given)
child = os.fork()
if child == 0:
    os._exit(0 if bool((conv(*given) == expected).all()) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_the_same_and_does_not_hang():
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=60).returncode == 0


def test_several_python_threads_compute_the_same():
    conv = Convolution("8x0e+8x1o", "0e+1o", "8x0e", [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True)])
    given = torch.randn(9, 32), torch.randn(500, 4), torch.randn(500, 16), torch.randint(9, (2, 500))
    expected = conv(*given)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: conv(*given), range(16)))
    assert all(torch.equal(result, expected) for result in results)


def test_an_unknown_cpu_target_fails_at_import_with_the_known_ones():
    environment = os.environ | {"EQUIKERN_CPU_TARGET": "mmx"}
    command = [sys.executable, "-c", "import equikern.nn"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "BackendError: EQUIKERN_CPU_TARGET=mmx is unknown" in done.stderr and "base" in done.stderr
