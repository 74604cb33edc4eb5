"""The faults that `tools/plant_faults.py` plants: each can still be planted, in tests that are there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAULTS = tomllib.loads((ROOT / "tools/faults.toml").read_text())["fault"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["name"])
def test_its_snippet_and_its_tests_are_there(fault):
    assert fault["old"] in (ROOT / fault["file"]).read_text() and fault["old"] != fault["new"]
    for test in fault["tests"]:
        file, _, name = test.partition("::")
        assert not name or f"def {name.split('[')[0]}(" in (ROOT / file).read_text(), test
