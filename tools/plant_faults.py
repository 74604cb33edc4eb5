"""Plant faults one at a time in a scratch copy of the repository and see that the tests turn red.

    python tools/plant_faults.py [word ...]      # all faults, or those whose name contains one of the words

Each fault of faults.toml replaces a snippet that occurs exactly once in its file; C++ is rebuilt. Exit status 1 if a
fault survives, if a snippet is not found, or if the tests are red without any fault.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# The editable install points at the repository, not at the copy: its finder is taken out, in what tests start too.
SITE = "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'Redirecting' not in type(f).__name__]\n"


class Fault(NamedTuple):
    """A name, the file, the snippet and what replaces it, and the tests that must turn red."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def faults() -> list[Fault]:
    """The table, faults.toml."""
    table = tomllib.loads((ROOT / "tools" / "faults.toml").read_text())
    return [Fault(**{**entry, "tests": tuple(entry["tests"])}) for entry in table["fault"]]


def copy(to: Path) -> None:
    """The files git knows or does not ignore, and the built extension."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    (to / "sitecustomize.py").write_text(SITE)


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
    command, environment = [sys.executable, "-B", "-m", "pytest", *options], os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    # A fault may break collection, or kill the process, which is red too; anything else is a mistake in the table.
    if done.returncode > 1 and "error" not in done.stdout.lower():
        raise SystemExit(f"pytest could not run {tests}:\n{done.stdout}{done.stderr}")
    return done.returncode != 0


def plant(root: Path, fault: Fault) -> bool:
    """Plant one fault, run its tests, take it back; True if they turned red."""
    path = root / fault.file
    sound = path.read_text()
    if sound.count(fault.old) != 1:
        print(
            f"{'NOT FOUND':10s} {fault.name}: the snippet occurs {sound.count(fault.old)} times in {fault.file}",
            flush=True,
        )
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
    chosen = [fault for fault in faults() if not words or any(word in fault.name for word in words)]
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
