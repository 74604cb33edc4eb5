"""Plant faults one at a time in a scratch copy of the repository and see that the tests turn red.

    python tools/plant_faults.py [word ...]      # all faults, or those whose name contains one of the words

Each fault replaces one snippet that must occur exactly once in its file. C++ faults are rebuilt. The exit status is 1 if
a fault survives, if a snippet is not found, or if the tests are red without any fault.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# The editable install points at the repository, not at the copy: its finder is taken out.
RUN = (
    "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Redirecting' not in type(f).__name__];"
    "sys.path.insert(0, '.'); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
)


class Fault(NamedTuple):
    """A name, the file, the snippet and what replaces it, and the tests that must turn red."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


VALUES = ("tests/conformance/test_contract.py",)
DERIVATIVES = ("tests/conformance/test_autograd.py",)
GOLDEN = ("tests/golden",)
GRAPH = ("tests/graph", "tests/nn/test_convolution.py")

FAULTS = [
    Fault("a path's sign", "equikern/program/program.py", '"ijk", path.scale * wigner', '"ijk", (-1) ** n * path.scale * wigner', GOLDEN),
    Fault("a path's sign on the cpu", "equikern/backends/cpu.py", "c = path.scale * wigner_3j", "c = (-1) ** path.in1 * path.scale * wigner_3j", VALUES),
    Fault("missing scale", "equikern/program/build.py", "sqrt(a * var3", "sqrt(var3", GOLDEN),
    Fault("scale of one path only", "equikern/program/build.py", 'sum(map(elements, into))', "elements(path)", GOLDEN),
    Fault("weights of the first path for all", "equikern/backends/cpu.py", "columns.start if path.weighted", "0 if path.weighted", VALUES),
    Fault("a sign of e3nn 0.4", "equikern/program/wigner.py", "(1, n, n) for n in range(2, 12)", "(1, n, n) for n in range(3, 12)", GOLDEN),
    Fault("swapped sender and receiver", "equikern/graph/graph.py", "self.sender, self.receiver = edges[0], edges[1]", "self.receiver, self.sender = edges[0], edges[1]", GRAPH),
    Fault("a stale graph accepted", "equikern/nn/_convolution.py", "or graph.num_edges != edge_index.shape[-1]", "", GRAPH),
    Fault("a stale plan accepted", "equikern/backends/cpu.py", "if len(ptr) != z_rows + 1 or len(order) != len(z_index):", "if False:", VALUES),
    Fault("the last edge dropped from the reference", "equikern/backends/reference.py", "index_add_(0, where[kind], local)", "index_add_(0, where[kind][:-1], local[:-1])", DERIVATIVES + GRAPH + ("tests/nn", "tests/property", "tests/conformance/test_contract.py")),
    Fault("a term of the double backward dropped", "equikern/program/program.py", "for n, slot in enumerate(group)\n                for m in maps", "for n, slot in enumerate(group[:2])\n                for m in maps", DERIVATIVES),
    Fault("gradients that nobody wants", "equikern/ops/engine.py", "if needed[n] and _executes(ctx.next_functions[n][0])", "if needed[n]", DERIVATIVES),
    Fault("a wanted leaf skipped", "equikern/ops/engine.py", "        return True", "        return False", DERIVATIVES),
    Fault("unweighted paths differentiated by weights", "equikern/backends/cpu.py", "fixed = 1.0 if slots[W] == W else 0.0", "fixed = 1.0", DERIVATIVES),
    Fault("text forgets that a path is fixed", "equikern/program/text.py", '("" if path.weighted else " fixed")', '""', ("tests/program",)),
    Fault("sizes frozen while tracing", "equikern/ops/contract.py", "rows = [(operands[s] if operands[s].ndim == 2 else ctx.saved_tensors[s]).shape[0] for s in slots]", "rows = [len(operands[s] if operands[s].ndim == 2 else ctx.saved_tensors[s]) for s in slots]", ("tests/conformance/test_tracing.py",)),
    Fault("no gradient for a graph without edges", "equikern/backends/cpu.py", "if edges == 0:", "if False:", VALUES),
    Fault("bounds check off by one", "csrc/cpu/plan.cpp", "index[e] >= rows", "index[e] > rows", GRAPH),
    Fault("edges in reverse", "csrc/cpu/plan.cpp", "order[ptr[receiver[e]]++] = e;", "order[ptr[receiver[e]]++] = edges - 1 - e;", GRAPH),
    Fault("the order of the plan ignored", "csrc/cpu/contract.inl", "return a.z_order ? a.z_order[position] : position;", "return position;", VALUES),
    Fault("the last edge dropped", "csrc/cpu/contract.inl", "at < end; at += EDGES", "at < end - 1; at += EDGES", VALUES),
    Fault("a tangent of the weights dropped", "csrc/cpu/contract_blocks.inl", "q = w * hx + hw * x;", "q = w * hx;", VALUES),
    Fault("a term of the weights' double gradient dropped", "csrc/cpu/contract_blocks.inl", "dw += hx * t + x * s;", "dw += hx * t;", VALUES),
    Fault("the last block of shared gradients lost", "csrc/cpu/contract.inl", "for (int64_t g = 0; g < last - first; ++g) add(dw.data()", "for (int64_t g = 0; g < last - first - 1; ++g) add(dw.data()", VALUES),
    Fault("channels and components swapped", "csrc/cpu/contract_rows.inl", "to[u * D + i] = from[i * padded + u];", "to[i * mul + u] = from[i * padded + u];", VALUES),
]  # fmt: skip


def copy(to: Path) -> None:
    """The files git knows or does not ignore, and the built extension."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def build(root: Path) -> None:
    """Build the extension of a copy; later calls compile what changed."""
    import cmake
    import pybind11

    program = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
    folder = root / "build" / "faults"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    if not folder.exists():
        options = [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}"]
        subprocess.run([program, "-S", str(root), "-B", str(folder), *options], **quiet)
    subprocess.run([program, "--build", str(folder), f"-j{os.cpu_count() or 1}"], **quiet)
    name = "_C" + sysconfig.get_config_var("EXT_SUFFIX")
    shutil.copy2(next(folder.rglob(name)), root / "equikern" / name)


def red(root: Path, tests: tuple[str, ...]) -> bool:
    """Whether the tests fail in a copy."""
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    done = subprocess.run([sys.executable, "-B", "-c", RUN, *options], cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        # A fault may break collection, which is red too; anything else is a mistake in the table.
        if "error" not in done.stdout.lower():
            raise SystemExit(f"pytest could not run {tests}:\n{done.stdout}{done.stderr}")
    return done.returncode != 0


def plant(root: Path, fault: Fault) -> bool:
    """Plant one fault, run its tests, take it back; True if they turned red."""
    path = root / fault.file
    sound = path.read_text()
    if sound.count(fault.old) != 1:
        print(f"{'NOT FOUND':10s} {fault.name}: the snippet occurs {sound.count(fault.old)} times in {fault.file}", flush=True)
        return False
    native = not fault.file.endswith(".py")
    start = time.monotonic()
    path.write_text(sound.replace(fault.old, fault.new))
    try:
        if native:
            build(root)
        caught = red(root, fault.tests)
    finally:
        path.write_text(sound)
        if native:
            build(root)
    print(f"{'red' if caught else 'SURVIVED':10s} {fault.name}  ({time.monotonic() - start:.0f} s)", flush=True)
    return caught


def main() -> None:
    words = sys.argv[1:]
    chosen = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="equikern-faults-") as scratch:
        root = Path(scratch)
        copy(root)
        build(root)
        tests = tuple(dict.fromkeys(test for fault in chosen for test in fault.tests))
        if red(root, tests):
            raise SystemExit("the tests are red without any fault")
        caught = [plant(root, fault) for fault in chosen]
    print(f"{sum(caught)} of {len(chosen)} faults turned the tests red")
    raise SystemExit(0 if all(caught) and chosen else 1)


if __name__ == "__main__":
    main()
