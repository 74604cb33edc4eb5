"""Other libraries' models on equikern's kernels: `accelerate`, `restore`, `report`, and `explain`."""

from equikern.interop.accelerate import Entry, Report, accelerate, report, restore
from equikern.interop.explain import Explanation, explain

__all__ = ["Entry", "Explanation", "Report", "accelerate", "explain", "report", "restore"]
