"""Other libraries' models on equikern's kernels: `accelerate`, `restore`, `report`, `explain`, and loaders."""

from equikern.interop.accelerate import Entry, Report, accelerate, report, restore
from equikern.interop.explain import Explanation, explain
from equikern.interop.mace_model import from_mace
from equikern.interop.nequip_model import from_nequip

__all__ = [
    "Entry", "Explanation", "Report", "accelerate", "explain", "from_mace", "from_nequip", "report", "restore",
]  # fmt: skip
