"""Other libraries' models on equikern's kernels: `accelerate`, `restore` and the `report` of what they do."""

from equikern.interop.accelerate import Entry, Report, accelerate, report, restore

__all__ = ["Entry", "Report", "accelerate", "report", "restore"]
